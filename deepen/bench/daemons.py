"""Real daemons of a bench: sshd on loopback, adbd in its own network namespace, and cuttable connections to them.

adbd listens on every interface, so it only ever runs in a namespace whose only interface is loopback; where none can be
made, or adbd is not built, starting it is an error that names the cure. Both daemons run under
``daemon_supervisor.py``, which kills them and their descendants as soon as the bench ends, and both are reached through
a :class:`LoopbackCable`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from deepen.bench.daemon_supervisor import copy_bytes
from deepen.clock.host_clock import Deadline
from deepen.errors import ConfigError, LinkError

__all__ = [
    "BenchDaemon",
    "LoopbackCable",
    "find_adbd",
    "find_sshd",
    "make_namespace_command",
    "start_adbd",
    "start_sshd",
]

_START_S = 30.0
_ADBD_PORT = 5555  # inside its own namespace
_SUPERVISOR = Path(__file__).with_name("daemon_supervisor.py")


class LoopbackCable:
    """A port on loopback whose connections go to a daemon, and can be cut.

    Attributes:
        port: The port on 127.0.0.1.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        """Listen; :meth:`close` ends it."""
        self._connect = connect
        self._out_until: float = 0.0
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, name="bench-cable", daemon=True).start()

    def cut(self, out_s: float = 0.0) -> None:
        """Cut every connection, and refuse new ones for a while (``inf``: until :meth:`mend`)."""
        with self._lock:
            self._out_until = time.monotonic() + out_s
            for end in self._ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Accept connections again."""
        with self._lock:
            self._out_until = 0.0

    def close(self) -> None:
        """Cut every connection for good."""
        self.cut(float("inf"))
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), name="bench-cable", daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client:
            if time.monotonic() < self._out_until:
                return
            try:
                daemon = self._connect()
            except OSError:
                return
            with daemon:
                with self._lock:
                    if time.monotonic() < self._out_until:
                        return
                    self._ends |= {client, daemon}
                for end in (client, daemon):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) if end.family == socket.AF_INET else None
                back = threading.Thread(target=copy_bytes, args=(daemon, client), name="bench-cable", daemon=True)
                back.start()
                copy_bytes(client, daemon)
                back.join()
                with self._lock:
                    self._ends -= {client, daemon}


class BenchDaemon:
    """A daemon with its supervisor and its cable.

    Attributes:
        cable: The port through which it is reached.
    """

    def __init__(self, name: str, command: list[str], env: dict[str, str], log: Path, cable: LoopbackCable) -> None:
        """Start it; :meth:`close` ends it."""
        self.name = name
        self.cable = cable
        self._log = log
        self._command, self._env = command, env
        self._connect: Callable[[], socket.socket] | None = None
        self._supervisor = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as file:
            return subprocess.Popen(
                self._command,
                env={**os.environ, **self._env},
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def await_ready(self, connect: Callable[[], socket.socket]) -> None:
        """Wait until it accepts connections.

        Raises:
            LinkError: If it does not.
        """
        self._connect = connect
        deadline = Deadline(_START_S)
        while self._supervisor.poll() is None and not deadline.expired:
            with contextlib.suppress(OSError), connect() as probe:
                probe.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    if probe.recv(1) == b"":  # the supervisor accepted, its daemon did not
                        raise OSError
                return
            time.sleep(0.05)
        output = " ".join(self._log.read_text("utf-8", "replace").split())[-300:]
        self.close()
        raise LinkError(f"the bench's {self.name} does not start: {output or 'it says nothing'}")

    def restart(self, down_s: float = 0.0) -> None:
        """Kill it and its descendants, as a restart of the device does, and start it again after ``down_s`` seconds.

        Raises:
            LinkError: If it does not come back.
        """
        self._stop()
        time.sleep(down_s)
        self._supervisor = self._start()
        if self._connect is not None:
            self.await_ready(self._connect)

    def close(self) -> None:
        """Kill it and its descendants."""
        self.cable.close()
        self._stop()

    def _stop(self) -> None:
        if self._supervisor.stdin is not None:
            self._supervisor.stdin.close()
        try:
            self._supervisor.wait(_START_S)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()


def find_sshd() -> tuple[str, str]:
    """Return the paths of ``sshd`` and ``ssh-keygen``.

    Raises:
        ConfigError: If there is none.
    """
    found = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    keygen = shutil.which("ssh-keygen")
    if found is None or keygen is None:
        raise ConfigError("the bench needs sshd and ssh-keygen for this: sudo apt-get install openssh-server")
    return found, keygen


def find_adbd() -> str:
    """Return the path of the ADB daemon built by ``tools/build-adbd``; ``$DEEPEN_ADBD`` names another.

    Raises:
        ConfigError: If there is none.
    """
    named = os.environ.get("DEEPEN_ADBD", "")
    if not named:
        cache = Path(os.environ.get("DEEPEN_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "deepen")
        built = sorted(cache.expanduser().glob("adbd-*/adbd"), key=lambda p: p.stat().st_mtime)
        named = str(built[-1]) if built else ""
    if not named or not os.access(named, os.X_OK):
        raise ConfigError("adbd is not built; run tools/build-adbd (two minutes, Debian), or use --link ssh")
    return named


def make_namespace_command() -> list[str]:
    """Return the start of a command that runs the words after it in a new network namespace with loopback alone.

    Raises:
        ConfigError: If none can be made here.
    """
    for options in (["-n"], ["-r", "-n"]):
        prefix = ["unshare", *options, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        with contextlib.suppress(OSError):
            if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
                return prefix
    raise ConfigError(
        "adbd listens on every network interface, so it only runs in a network namespace of its own, and none can be "
        "made here ('unshare -r -n' and 'ip' must work); use --link ssh"
    )


def start_sshd(folder: Path, path: str) -> tuple[BenchDaemon, Path, Path]:
    """Start sshd on a port of loopback.

    Args:
        folder: Folder for its files.
        path: ``PATH`` of the commands it runs.

    Returns:
        The daemon, the private key that may log in, and the file of its host key.

    Raises:
        ConfigError: If there is no sshd.
        LinkError: If it does not start.
    """
    sshd, keygen = find_sshd()
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd run by root requires its privilege-separation folder
    host, key = folder / "ssh_host", folder / "ssh_key"
    for file in (host, key):
        subprocess.run(
            [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "deepen bench", "-f", str(file)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {key}.pub\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\nSetEnv HOME={folder} PATH={path}\n"
    )

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port))

    cable = LoopbackCable(connect)
    command = [sys.executable, str(_SUPERVISOR), sshd, "-D", "-f", str(config), "-E", str(folder / "sshd.log")]
    daemon = BenchDaemon("sshd", command, {}, folder / "sshd-supervisor.log", cable)
    daemon.await_ready(connect)
    known = folder / "known_hosts"
    public = " ".join(host.with_suffix(".pub").read_text().split()[:2])
    known.write_text(f"[127.0.0.1]:{cable.port} {public}\n")
    return daemon, key, known


def start_adbd(folder: Path, path: str, known_keys: list[Path]) -> BenchDaemon:
    """Start adbd in a network namespace of its own.

    Args:
        folder: Folder for its files, and the home of the commands it runs.
        path: ``PATH`` of the commands it runs.
        known_keys: Public keys that may connect.

    Raises:
        ConfigError: If it is not built or no namespace can be made.
        LinkError: If it does not start.
    """
    adbd = find_adbd()
    prefix = make_namespace_command()
    keys, door = folder / "adb_keys", folder / "adbd.sock"
    keys.write_text("".join(k.read_text().rstrip("\n") + "\n" for k in known_keys))

    def connect() -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(str(door))
        except OSError:
            made.close()
            raise
        return made

    cable = LoopbackCable(connect)
    command = [*prefix, sys.executable, str(_SUPERVISOR), "--relay", str(door), str(_ADBD_PORT), adbd]
    env = {
        "ADBD_PORT": str(_ADBD_PORT),
        "ADBD_KEYS": str(keys),
        "ADBD_PROPS": "ro.adb.secure=1",
        "HOME": str(folder),
        "PATH": path,
    }
    daemon = BenchDaemon("adbd", command, env, folder / "adbd.log", cable)
    daemon.await_ready(connect)
    return daemon
