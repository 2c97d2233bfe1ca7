"""Links to real daemons: sshd, adbd, and an adb server between. Run by ``test_real_daemons.py``, never by themselves.

adbd listens on every interface there is, so all of this runs in a network namespace whose only interface is loopback.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deepen.devices.links.adb import open_adb_link
from deepen.devices.links.adb_server import AdbServer, AdbServerTransport
from deepen.devices.links.adb_shell import AdbSession, connect_tcp, load_signers
from deepen.devices.links.local import LocalLink
from deepen.devices.links.ssh import SshAddress, SshTransport, open_ssh_link
from deepen.devices.protocols import Link
from deepen.errors import ConfigError, LinkError

ADB_PORT, SSH_PORT, SERVER_PORT = 6555, 2222, 5037  # a server takes 5555 to 5585 for emulators
KINDS = ("local", "ssh", "adb", "adb-server")
REMOTE = KINDS[1:]


def until(condition: Callable[[], bool], what: str, patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def number_in(path: Path) -> int:
    until(lambda: path.exists() and path.read_text().endswith("\n"), f"nothing wrote {path}")
    return int(path.read_text())


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


class Daemons:
    """A home with keys, and the daemons that know them."""

    def __init__(self, home: Path, adbd: str) -> None:
        self.home = home
        self.adbd = adbd
        self.ssh, self.android = home / ".ssh", home / ".android"
        self.work = home / "work '$(id)"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ssh.mkdir(parents=True)
        self.android.mkdir()

    def start(self, name: str) -> None:
        getattr(self, f"_start_{name}")()

    def _launch(self, name: str, argv: list[str], port: int, **env: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                argv,
                env={**os.environ, "HOME": str(self.home), **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(lambda: answers(port), f"{name} does not listen; see {self.home / name}.log")

    def _start_sshd(self) -> None:
        sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if sshd is None:
            pytest.skip("no sshd here; tools/test installs it where it may (apt-get install openssh-server)")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        for name in ("host", "id_ed25519", "other"):
            if not (self.ssh / name).exists():
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.ssh / name)], check=True)
        public = " ".join((self.ssh / "host.pub").read_text().split()[:2])
        (self.ssh / "known_hosts").write_text(f"[127.0.0.1]:{SSH_PORT} {public}\n")
        config = self.home / "sshd_config"
        config.write_text(
            f"Port {SSH_PORT}\nListenAddress 127.0.0.1\nHostKey {self.ssh}/host\nPidFile none\n"
            "UsePAM no\nStrictModes no\n"
            f"AuthorizedKeysFile {self.ssh}/id_ed25519.pub\nPasswordAuthentication no\nAllowTcpForwarding yes\n"
            "KbdInteractiveAuthentication no\n"
        )
        self._launch("sshd", [sshd, "-D", "-f", str(config), "-E", str(self.home / "sshd.txt")], SSH_PORT)

    def _start_adbd(self) -> None:
        if os.environ.get("DEEPEN_NAMESPACE") != "1":
            pytest.skip("adbd may only run in a network namespace of its own, and none can be made here")
        if not self.adbd:
            pytest.skip("adbd is not built; run tools/build-adbd (tools/test does)")
        key = self.android / "adbkey"
        if not key.exists():
            from adb_shell.auth.keygen import keygen

            keygen(str(key))
            keygen(str(self.home / "stranger"))
            shutil.copy(f"{key}.pub", self.home / "known_keys")
        self._launch(
            "adbd", [self.adbd], ADB_PORT,
            ADBD_PORT=str(ADB_PORT), ADBD_KEYS=str(self.home / "known_keys"), ADBD_PROPS="ro.adb.secure=1",
        )  # fmt: skip

    def _start_server(self) -> None:
        adb = shutil.which("adb")
        if adb is None:
            pytest.skip("no adb here; tools/test installs it where it may (apt-get install adb)")
        self._launch("server", [adb, "-P", str(SERVER_PORT), "nodaemon", "server"], SERVER_PORT)

    def connect_server(self) -> None:
        adb = shutil.which("adb")
        assert adb is not None
        home = {**os.environ, "HOME": str(self.home)}

        def connected() -> bool:
            if any(d.state == "device" for d in AdbServer(SERVER_PORT).devices()):
                return True
            for verb in ("disconnect", "connect"):  # one it has lost is not looked for again
                argv = [adb, "-P", str(SERVER_PORT), verb, f"127.0.0.1:{ADB_PORT}"]
                subprocess.run(argv, env=home, capture_output=True, timeout=60, check=False)
            return False

        until(connected, "the adb server does not reach adbd")

    def stop(self, name: str) -> None:
        process = self.running.pop(name, None)
        if process is not None:
            process.kill()
            process.wait(60)

    def need(self, kind: str) -> None:
        """Start what a kind of link needs, unless it runs."""
        for name in {"local": (), "ssh": ("sshd",), "adb": ("adbd",), "adb-server": ("adbd", "server")}[kind]:
            if name not in self.running:
                self.start(name)
        if kind == "adb-server":
            self.connect_server()

    def cut(self, kind: str) -> None:
        """End the connection from the other side."""
        if kind == "ssh":
            main = self.running["sshd"].pid
            children = subprocess.run(["pgrep", "-P", str(main)], capture_output=True, text=True, check=True)
            for pid in children.stdout.split():
                os.kill(int(pid), signal.SIGKILL)
        else:
            self.stop("server" if kind == "adb-server" else "adbd")

    def mend(self, kind: str) -> None:
        if kind in ("adb", "adb-server"):
            self.start("server" if kind == "adb-server" else "adbd")
        self.need(kind)

    def link(self, kind: str) -> Link:
        import getpass
        from urllib.parse import quote

        work = quote(str(self.work), safe="")
        if kind == "local":
            return LocalLink()
        if kind == "ssh":
            login = f"key={self.ssh}/id_ed25519&known_hosts={self.ssh}/known_hosts"
            return open_ssh_link(f"{getpass.getuser()}@127.0.0.1:{SSH_PORT}?{login}&work={work}")
        via = "server" if kind == "adb-server" else "direct"
        return open_adb_link(f"127.0.0.1:{ADB_PORT}?via={via}&work={work}")


ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    built = subprocess.run([str(ROOT / "tools/build-adbd"), "--print"], capture_output=True, text=True, check=False)
    found = Daemons(tmp_path_factory.mktemp("home"), built.stdout.strip())
    os.environ["HOME"] = str(found.home)  # keys and known hosts of these tests, not of who runs them
    os.environ.pop("ADB_VENDOR_KEYS", None)
    os.environ.pop("SSH_AUTH_SOCK", None)
    yield found
    for name in list(found.running):
        found.stop(name)


@pytest.fixture
def link(request: pytest.FixtureRequest, daemons: Daemons) -> Iterator[Link]:
    daemons.need(request.param)
    opened = daemons.link(request.param)
    yield opened
    opened.close()
    jobs = daemons.work / "jobs"
    if jobs.is_dir():
        until(lambda: not any(jobs.iterdir()), f"left behind: {list(jobs.iterdir())}")


everywhere = pytest.mark.parametrize("link", KINDS, indirect=True)
remote = pytest.mark.parametrize("kind", REMOTE)


def leaver(file: Path) -> list[str]:
    """A command that starts a process outside its own group and session, then waits."""
    return ["sh", "-c", 'setsid sh -c \'echo $$ >"$1"; exec sleep 1000\' x "$1" & exec sleep 1000', "x", str(file)]


@everywhere
def test_status_and_streams(link: Link) -> None:
    assert isinstance(link, Link)
    code = "import os,sys; os.write(1,bytes(range(256))); os.write(2,b'\\x00err\\n'); sys.exit(7)"
    done = link.run([sys.executable, "-c", code], timeout_s=60)
    assert (done.status, done.stdout, done.stderr) == (7, bytes(range(256)), b"\0err\n")
    assert link.run(["sh", "-c", "kill -SEGV $$"], timeout_s=60).status == -11
    assert link.run(["deepen-has-no-such-program"], timeout_s=60).status == 127
    assert link.run(["cat"], timeout_s=60).stdout == b""
    assert link.alive()


@everywhere
def test_hostile_arguments(link: Link) -> None:
    values = [
        "",
        "a b",
        "\n",
        "'",
        '"',
        "$(touch /tmp/deepen-was-here)",
        "`id`",
        "$HOME",
        "\\",
        "*",
        "-n",
        "é\t!",
        "A=B",
    ]
    assert link.run(["printf", "%s\\0", *values], timeout_s=60).stdout.decode().split("\0")[:-1] == values
    for value in values:
        done = link.run(["printenv", "DEEPEN_VALUE"], env={"DEEPEN_VALUE": value}, timeout_s=60)
        assert done.stdout == f"{value}\n".encode()
    long = "x" * 40_000
    assert link.run(["printf", "%s", long], timeout_s=60).stdout == long.encode()


@everywhere
def test_much_output(link: Link) -> None:
    done = link.run(["sh", "-c", "head -c 5000000 /dev/zero; head -c 300000 /dev/zero >&2"], timeout_s=120)
    assert (len(done.stdout), len(done.stderr)) == (5_000_000, 300_000)


@everywhere
def test_a_deadline_ends_the_group(link: Link, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with pytest.raises(LinkError, match=r"did not end within 2 s and was killed"):
        link.run(["sh", "-c", 'sleep 1000 & echo $! >"$1"; wait', "x", str(file)], timeout_s=2)
    pid = number_in(file)
    until(lambda: gone(pid), "the group survived")


@everywhere
def test_push_and_pull(link: Link, tmp_path: Path) -> None:
    file = tmp_path / "model '$(id)`\n\"x.onnx"
    file.write_bytes(os.urandom(20_000_003))
    there = link.push(file)
    assert Path(there).read_bytes() == file.read_bytes()
    before = Path(there).stat().st_mtime_ns
    assert link.push(file) == there
    assert Path(there).stat().st_mtime_ns == before
    link.pull(there, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    with pytest.raises(ConfigError, match="no such file"):
        link.pull(str(tmp_path / "absent"), tmp_path / "back")


@everywhere
def test_lines_and_kill(link: Link, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    script = 'sleep 1000 & echo $! >"$1"; while read -r line; do echo "$TAG $line"; done; exit 5'
    channel = link.spawn(["sh", "-c", script, "x", str(file)], {"TAG": "got"})
    for n in range(50):
        channel.send(b"%d $(id)" % n)
        assert channel.receive(60) == b"got %d $(id)" % n
    assert channel.receive(0.01) is None
    assert channel.exit_status() is None
    pid, child = channel.pid, number_in(file)
    assert pid is not None
    assert not gone(child)
    channel.kill()
    until(lambda: gone(pid) and gone(child), "the group survived")
    assert channel.exit_status() == -9
    with pytest.raises(LinkError):
        channel.send(b"x")


@everywhere
def test_a_process_that_ends(link: Link) -> None:
    channel = link.spawn(["sh", "-c", "read -r line; echo last; echo words >&2; exit 5"], {})
    channel.send(b"go")
    assert channel.receive(60) == b"last"
    with pytest.raises(LinkError):
        channel.receive(60)
    assert channel.exit_status() == 5
    assert channel.last_words() == "words"
    channel.kill()
    with pytest.raises(LinkError, match="cannot start"):
        link.spawn(["deepen-has-no-such-program"], {})


@everywhere
def test_several_threads(link: Link) -> None:
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda n: link.run(["echo", str(n)], timeout_s=120).stdout, range(20)))
    assert found == [f"{n}\n".encode() for n in range(20)]


@everywhere
def test_close_ends_what_runs(link: Link, daemons: Daemons, tmp_path: Path) -> None:
    channel = link.spawn(["sh", "-c", "echo on; exec sleep 1000"], {})
    assert channel.receive(60) == b"on"
    pid = channel.pid
    assert pid is not None
    if isinstance(link, LocalLink):
        channel.kill()  # a local link owns no channels: whoever opened one ends it
    link.close()
    until(lambda: gone(pid), "the process survived")


@remote
def test_a_cut_mid_run(kind: str, daemons: Daemons, tmp_path: Path) -> None:
    daemons.need(kind)
    link, file = daemons.link(kind), tmp_path / "pid"
    errors: list[LinkError] = []

    def run() -> None:
        try:
            link.run(leaver(file), timeout_s=300)
        except LinkError as error:
            errors.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    child = number_in(file)
    assert not gone(child)
    daemons.cut(kind)
    until(lambda: gone(child), "the command survived the cut")  # the link is not asked to do anything
    runner.join(120)
    assert len(errors) == 1
    assert errors[0].retryable
    daemons.mend(kind)
    assert link.run(["echo", "again"], timeout_s=60).stdout == b"again\n"
    link.close()


@remote
def test_a_cut_while_a_process_is_asked(kind: str, daemons: Daemons) -> None:
    daemons.need(kind)
    link = daemons.link(kind)
    channel = link.spawn(["sh", "-c", "while read -r line; do echo $line; done; exec sleep 1000"], {})
    channel.send(b"1")
    assert channel.receive(60) == b"1"
    pid = channel.pid
    assert pid is not None
    daemons.cut(kind)
    with pytest.raises(LinkError):
        channel.receive(60)
    channel.kill()
    until(lambda: gone(pid), "the process survived the cut")
    daemons.mend(kind)
    again = link.spawn(["cat"], {})
    again.send(b"2")
    assert again.receive(60) == b"2"
    link.close()


@remote
def test_a_cut_mid_push_goes_on_from_there(kind: str, daemons: Daemons, tmp_path: Path) -> None:
    daemons.need(kind)
    link, file = daemons.link(kind), tmp_path / "large"
    file.write_bytes(os.urandom(60_000_000))
    errors: list[LinkError] = []

    def push() -> None:
        try:
            link.push(file)
        except LinkError as error:
            errors.append(error)

    files = daemons.work / "files"
    pusher = threading.Thread(target=push)
    pusher.start()
    until(lambda: files.is_dir() and any(p.stat().st_size > 1_000_000 for p in files.glob("*.part")), "nothing arrives")
    daemons.cut(kind)
    pusher.join(120)
    assert len(errors) == 1
    assert errors[0].retryable
    (part,) = files.glob("*.part")
    assert 1_000_000 < part.stat().st_size < 60_000_000
    inode = part.stat().st_ino
    daemons.mend(kind)
    there = Path(link.push(file))
    assert there.read_bytes() == file.read_bytes()
    assert there.stat().st_ino == inode  # the same file went on growing
    link.close()


def test_an_unknown_adb_key_is_told_with_its_cure(daemons: Daemons) -> None:
    daemons.need("adb")
    from adb_shell.transport.tcp_transport import TcpTransport

    stranger = load_signers([daemons.home / "stranger"])
    with pytest.raises(LinkError, match=r"does not know this computer's ADB key .* allow USB debugging"):
        AdbSession(TcpTransport("127.0.0.1", ADB_PORT), "test", "test", stranger, 20.0, 1.0)
    both = load_signers([daemons.home / "stranger", daemons.android / "adbkey"])
    session = AdbSession(TcpTransport("127.0.0.1", ADB_PORT), "test", "test", both, 20.0, 1.0)
    assert session.connected
    session.close()


def test_a_missing_adb_key_is_told_with_its_cure(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemons.need("adb")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"asks for an ADB key and there is none.*adb keygen"):
        connect_tcp("127.0.0.1", ADB_PORT, 20.0)
    (tmp_path / "broken").write_text("no key")
    (tmp_path / "broken.pub").write_text("no key")
    monkeypatch.setenv("ADB_VENDOR_KEYS", str(tmp_path / "broken"))
    with pytest.raises(ConfigError, match=r"cannot read the ADB key .*broken"):
        connect_tcp("127.0.0.1", ADB_PORT, 20.0)


def test_an_adb_server_whose_device_is_absent(daemons: Daemons) -> None:
    daemons.need("adb-server")
    with pytest.raises(LinkError, match="does not see it"):
        AdbServerTransport(AdbServer(SERVER_PORT), "ABSENT", 20.0)


def test_the_way_is_chosen_and_told(daemons: Daemons) -> None:
    daemons.need("adb-server")
    work = f"work={daemons.home}/other"
    only = open_adb_link(f"?{work}")  # the only device there is
    assert only.alive()
    assert only.description == "adb through the adb server on port 5037"
    only.close()
    auto = open_adb_link(f"127.0.0.1:{ADB_PORT}?{work}")
    assert auto.alive()
    assert auto.description == f"adb 127.0.0.1:{ADB_PORT} through the adb server on port 5037"
    auto.close()
    direct = open_adb_link(f"127.0.0.1:{ADB_PORT}?via=direct&{work}")
    assert direct.alive()
    assert direct.description == f"adb 127.0.0.1:{ADB_PORT} over TCP, without an adb server"
    direct.close()


def address(daemons: Daemons, **changes: object) -> SshAddress:
    import getpass

    known = {"keys": (daemons.ssh / "id_ed25519",), "known_hosts": daemons.ssh / "known_hosts"}
    return SshAddress("127.0.0.1", getpass.getuser(), SSH_PORT, **{**known, **changes})  # type: ignore[arg-type]


def test_a_wrong_ssh_host_key_is_refused(daemons: Daemons, tmp_path: Path) -> None:
    daemons.need("ssh")
    wrong = " ".join((daemons.ssh / "other.pub").read_text().split()[:2])
    file = tmp_path / "known_hosts"
    for content in (f"[127.0.0.1]:{SSH_PORT} {wrong}\n", ""):  # changed; never seen
        file.write_text(content)
        with pytest.raises(ConfigError, match=r"host key of .* is not the one in"):
            SshTransport(address(daemons, known_hosts=file), 30.0)


def test_without_known_hosts_nobody_is_trusted(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemons.need("ssh")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="host key of"):
        SshTransport(address(daemons, known_hosts=None), 30.0)


def test_a_refused_ssh_login_is_told_with_its_cure(daemons: Daemons) -> None:
    daemons.need("ssh")
    with pytest.raises(ConfigError, match=r"refused the login.*ssh-copy-id"):
        SshTransport(address(daemons, keys=(daemons.ssh / "other",)), 30.0)


def test_keys_and_hosts_are_found_where_ssh_has_them(daemons: Daemons) -> None:
    daemons.need("ssh")
    transport = SshTransport(address(daemons, keys=(), known_hosts=None), 30.0)  # ~/.ssh/id_ed25519, ~/.ssh/known_hosts
    assert transport.connected
    transport.close()
    assert not transport.connected
    transport.close()


def test_an_agent_holds_the_key(daemons: Daemons, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    daemons.need("ssh")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL)
    try:
        until((tmp_path / "agent").exists, "no agent")
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        subprocess.run(["ssh-add", "-q", str(daemons.ssh / "id_ed25519")], check=True, timeout=60)
        monkeypatch.setenv("HOME", str(tmp_path))  # no key file there
        transport = SshTransport(address(daemons, keys=()), 30.0)
        assert transport.connected
        transport.close()
    finally:
        agent.kill()
        agent.wait(60)


def test_a_jump_host(daemons: Daemons) -> None:
    daemons.need("ssh")
    transport = SshTransport(address(daemons, jump=address(daemons)), 60.0)
    assert "through" in transport.description
    stream = transport.open("echo there", 30.0)
    assert stream.read(30.0) == b"there\n"
    stream.close()
    transport.close()


@pytest.mark.parametrize("said", [b"", b"SSH-1.0-x\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 4096])
def test_whoever_else_listens_there(daemons: Daemons, said: bytes) -> None:
    """A port on which something else answers, or nothing: an error within the deadline, never a hang."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            held.append(connection)
            connection.sendall(said)

    server = threading.Thread(target=serve)
    server.start()
    try:
        with pytest.raises(LinkError):
            connect_tcp("127.0.0.1", port, 2.0)
        with pytest.raises(LinkError):
            AdbServer(port).devices(2.0)
        with pytest.raises(LinkError):
            SshTransport(SshAddress("127.0.0.1", "nobody", port), 2.0)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        server.join(60)
        for connection in held:
            connection.close()


def test_nobody_listens_there(daemons: Daemons) -> None:
    with pytest.raises(LinkError, match=r"cannot connect to 127\.0\.0\.1:9 .*is the device on"):
        connect_tcp("127.0.0.1", 9, 5.0)
    with pytest.raises(LinkError, match="no adb server on port 9"):
        AdbServer(9).devices(5.0)
    assert not AdbServer(9).running()
    with pytest.raises(LinkError, match="cannot connect"):
        SshTransport(SshAddress("127.0.0.1", "nobody", 9), 5.0)
