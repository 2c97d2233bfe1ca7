"""What every remote link does, on this machine's own shells, with faults no daemon would make on request."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepen.devices.links.remote import RemoteLink
from deepen.devices.protocols import Link
from deepen.errors import ConfigError, LinkError
from deepen.testing.links import ShellLinkFaults, ShellTransport, make_shell_link

SHELLS = [name for name in ("dash", "bash", "busybox sh", "mksh") if shutil.which(name.split()[0])] or ["sh"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home $(touch nowhere) 'of' \"it\""
    folder.mkdir()
    return folder


@pytest.fixture(params=SHELLS)
def link(request: pytest.FixtureRequest, home: Path) -> Iterator[RemoteLink]:
    opened = make_shell_link(str(home), shell=request.param)
    yield opened
    opened.close()
    assert list((home / ".cache" / "deepen" / "jobs").iterdir()) == []


def cut(link: RemoteLink) -> None:
    """Pull the plug."""
    transport = link._transport
    assert isinstance(transport, ShellTransport)
    transport.cut()


def gone(pid: int, patience_s: float = 60.0) -> bool:
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def number_in(path: Path, patience_s: float = 60.0) -> int:
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if path.exists() and path.read_text().endswith("\n"):
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError(f"nothing wrote {path}")


def leaver(file: Path) -> list[str]:
    """A command that starts a process outside its own group and session, then waits."""
    return ["sh", "-c", 'setsid sh -c \'echo $$ >"$1"; exec sleep 1000\' x "$1" & exec sleep 1000', "x", str(file)]


def test_it_is_a_link(link: RemoteLink) -> None:
    assert isinstance(link, Link)
    assert link.alive()
    assert link.description == "shell through a shell"


def test_status_and_streams(link: RemoteLink) -> None:
    done = link.run(["sh", "-c", "printf 'a\\000b'; printf 'c\\n\\n' >&2; exit 7"], timeout_s=60)
    assert (done.status, done.stdout, done.stderr) == (7, b"a\0b", b"c\n\n")
    assert link.run(["true"], timeout_s=60).status == 0
    assert link.run(["sh", "-c", "kill -SEGV $$"], timeout_s=60).status == -signal.SIGSEGV
    assert link.run(["sh", "-c", "exit 200"], timeout_s=60).status == 200


def test_a_missing_program_and_one_that_may_not_run(link: RemoteLink, tmp_path: Path) -> None:
    done = link.run(["/nonexistent/program"], timeout_s=60)
    assert done.status == 127
    assert b"not found" in done.stderr or b"No such file" in done.stderr
    assert link.run(["deepen-has-no-such-program"], timeout_s=60).status == 127
    file = tmp_path / "plain"
    file.write_text("text")
    assert link.run([str(file)], timeout_s=60).status == 126


def test_arguments_and_environment_arrive_unchanged(link: RemoteLink) -> None:
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
        assert (
            link.run(["printenv", "DEEPEN_VALUE"], env={"DEEPEN_VALUE": value}, timeout_s=60).stdout
            == f"{value}\n".encode()
        )


def test_there_is_no_input(link: RemoteLink) -> None:
    assert link.run(["cat"], timeout_s=60).stdout == b""


def test_output_that_speaks_of_marks(link: RemoteLink) -> None:
    """A command that prints every command line and every environment there is still ends where it ends."""
    script = "cat /proc/[0-9]*/cmdline /proc/self/environ /proc/$PPID/environ 2>/dev/null; echo; echo over"
    assert link.run(["sh", "-c", script], timeout_s=60).stdout.endswith(b"\nover\n")


def test_more_output_than_pipes_hold(link: RemoteLink) -> None:
    done = link.run(["sh", "-c", "head -c 3000000 /dev/zero; head -c 300000 /dev/zero >&2"], timeout_s=120)
    assert (len(done.stdout), len(done.stderr)) == (3_000_000, 300_000)


def test_a_deadline_ends_everything_the_command_started(link: RemoteLink, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with pytest.raises(LinkError, match=r"did not end within 5 s and was killed") as caught:
        link.run(leaver(file), timeout_s=5)
    assert caught.value.retryable
    assert gone(number_in(file))


def test_what_a_command_leaves_in_its_group_ends_with_it(link: RemoteLink, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    done = link.run(["sh", "-c", 'sleep 1000 & echo $! >"$1"; echo done', "x", str(file)], timeout_s=60)
    assert done.stdout == b"done\n"
    assert gone(number_in(file))


def test_lines_go_both_ways(link: RemoteLink) -> None:
    script = 'while read -r line; do echo "$TAG $line"; done; echo words >&2; exit 5'
    channel = link.spawn(["sh", "-c", script], {"TAG": "got $(x)"})
    assert channel.pid is not None
    os.kill(channel.pid, 0)
    for line in (b"one", b"", b"{'\"$(id)}", "é".encode()):
        channel.send(line)
        assert channel.receive(60) == b"got $(x) " + line
    assert channel.receive(0.01) is None
    assert channel.exit_status() is None
    channel.kill()
    assert channel.exit_status() == -9
    assert gone(channel.pid)
    with pytest.raises(LinkError, match="stopped"):
        channel.send(b"x")
    channel.kill()  # harmless


def test_a_process_that_ends_says_how(link: RemoteLink) -> None:
    channel = link.spawn(["sh", "-c", "read -r line; echo last; echo words >&2; exit 5"], {})
    assert channel.last_words() == ""
    channel.send(b"go")
    assert channel.receive(60) == b"last"
    with pytest.raises(LinkError, match="has ended"):
        channel.receive(60)
    assert channel.exit_status() == 5
    assert channel.last_words() == "words"
    channel.kill()
    assert channel.exit_status() == 5


def test_last_words_of_a_running_process(link: RemoteLink) -> None:
    channel = link.spawn(["sh", "-c", "echo so far >&2; echo on; exec sleep 1000"], {})
    assert channel.receive(60) == b"on"
    assert channel.last_words() == "so far"
    channel.kill()
    assert channel.last_words() == "so far"


def test_a_program_that_is_not_there_cannot_be_spawned(link: RemoteLink) -> None:
    with pytest.raises(LinkError, match="cannot start deepen-has-no-such-program"):
        link.spawn(["deepen-has-no-such-program"], {})


def test_killing_a_channel_ends_what_left_its_group(link: RemoteLink, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    channel = link.spawn(leaver(file), {})
    child = number_in(file)
    os.kill(child, 0)
    channel.kill()
    assert gone(child)


def test_closing_the_link_ends_its_processes(home: Path, tmp_path: Path) -> None:
    link = make_shell_link(str(home))
    file = tmp_path / "pid"
    channel = link.spawn(leaver(file), {})
    child = number_in(file)
    link.close()
    link.close()
    assert gone(child)
    assert channel.exit_status() == -9
    assert not link.alive()
    with pytest.raises(LinkError, match="closed"):
        link.run(["true"], timeout_s=5)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_cut_link_ends_what_runs_without_help_from_the_host(home: Path, tmp_path: Path, shell: str) -> None:
    link = make_shell_link(str(home), shell=shell)
    file = tmp_path / "pid"
    channel = link.spawn(leaver(file), {})
    child = number_in(file)
    transport = link._transport
    assert isinstance(transport, ShellTransport)
    transport.cut()
    assert gone(child)  # nothing was called on the link: its watchdog did it
    with pytest.raises(LinkError, match="cut"):
        channel.receive(1)
    assert channel.exit_status() == -9
    assert channel.cut  # type: ignore[attr-defined]  # which tells it from one that was killed
    transport.close()
    link.close()


def test_a_cut_mid_run_is_told_and_the_next_call_connects_again(home: Path, tmp_path: Path) -> None:
    faults = ShellLinkFaults(read_bytes=100_000)
    link = make_shell_link(str(home), faults)
    file = tmp_path / "pid"
    script = 'echo $$ >"$1"; head -c 200000 /dev/zero; exec sleep 1000'
    with pytest.raises(LinkError, match="cut") as caught:
        link.run(["sh", "-c", script, "x", str(file)], timeout_s=60)
    assert caught.value.retryable
    assert gone(number_in(file))
    assert faults.connections == 1
    assert link.run(["echo", "again"], timeout_s=60).stdout == b"again\n"
    assert faults.connections == 2
    link.close()


def test_a_device_that_comes_back_late(home: Path) -> None:
    faults = ShellLinkFaults()
    link = make_shell_link(str(home), faults)
    channel = link.spawn(["sleep", "1000"], {})
    assert channel.pid is not None
    cut(link)
    faults.refuse = 2
    channel.kill()  # cannot reach it, does not raise
    assert not link.alive()
    assert faults.refuse == 0
    assert link.alive()
    assert gone(channel.pid)
    link.close()


def test_a_killed_watchdog_is_made_up_for_on_reconnection(home: Path, tmp_path: Path) -> None:
    """The host ends the group by itself where nothing on the device could."""
    link = make_shell_link(str(home))
    file = tmp_path / "pid"
    link.spawn(leaver(file), {})
    child = number_in(file)
    transport = link._transport
    assert isinstance(transport, ShellTransport)
    os.killpg(next(iter(transport.streams))._process.pid, signal.SIGKILL)  # the wrapper, its watchdog, all but the job
    os.kill(child, 0)
    link.close()
    assert gone(child)


def test_a_silent_device_is_left_for_another_connection(home: Path) -> None:
    faults = ShellLinkFaults()
    link = make_shell_link(str(home), faults, call_s=1.0)
    assert link.alive()
    faults.mute = True
    with pytest.raises(LinkError, match="did not answer within 1 s"):
        link.push(Path(__file__))
    faults.mute = False
    assert link.alive()
    assert faults.connections == 2
    link.close()


def test_a_device_that_refuses_the_key_meanwhile_does_not_spoil_the_cleaning_up(home: Path) -> None:
    transports: list[ShellTransport] = []

    def connect(timeout_s: float) -> ShellTransport:
        if transports:
            raise ConfigError("the host key is not the one known")
        transports.append(ShellTransport(env={"HOME": str(home)}))
        return transports[0]

    link = RemoteLink(connect, "device")
    channel = link.spawn(["sleep", "1000"], {})
    cut(link)
    channel.kill()
    assert not link.alive()
    with pytest.raises(ConfigError, match="host key"):
        link.run(["true"], timeout_s=5)
    link.close()
    transports[0].close()
    assert channel.pid is not None
    assert gone(channel.pid)


def test_push_arrives_whole_and_only_once(link: RemoteLink, tmp_path: Path) -> None:
    file = tmp_path / "model '$(id)`\n\"x.onnx"
    file.write_bytes(os.urandom(300_000))
    there = Path(link.push(file))
    assert there.name == file.name
    assert there.read_bytes() == file.read_bytes()
    assert hashlib.sha256(file.read_bytes()).hexdigest() in str(there)
    before = there.stat()
    assert link.push(file) == str(there)
    assert there.stat().st_mtime_ns == before.st_mtime_ns
    assert Path(link.push(file, name="other name")).read_bytes() == file.read_bytes()
    assert not list(there.parent.parent.glob("*.part"))


@pytest.mark.parametrize("size", [0, 1, 65536, 65537])
def test_push_of_awkward_sizes(link: RemoteLink, tmp_path: Path, size: int) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"\n" * size)
    assert Path(link.push(file)).read_bytes() == b"\n" * size


def test_a_program_stays_one(link: RemoteLink, tmp_path: Path) -> None:
    file = tmp_path / "tool"
    file.write_text("#!/bin/sh\necho ran\n")
    file.chmod(0o755)
    assert link.run([link.push(file)], timeout_s=60).stdout == b"ran\n"


def test_a_damaged_copy_is_replaced(link: RemoteLink, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"right")
    there = Path(link.push(file))
    there.write_bytes(b"too long")
    assert link.push(file) == str(there)
    assert there.read_bytes() == b"right"
    there.write_bytes(b"wrong")  # of the same length: a link hashes a file once, the next one hashes it again
    again = make_shell_link(str(home))
    assert again.push(file) == str(there)
    again.close()
    assert there.read_bytes() == b"right"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 256])
def test_what_is_no_name_is_refused(home: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x")
    link = make_shell_link(str(home))
    with pytest.raises(ConfigError, match="not the name of a file"):
        link.push(file, name=name)
    with pytest.raises(ConfigError, match="no such file"):
        link.push(tmp_path / "absent")
    link.close()


def test_a_push_that_is_cut_goes_on_where_it_ended(home: Path, tmp_path: Path) -> None:
    faults = ShellLinkFaults()
    link = make_shell_link(str(home), faults)
    assert link.alive()
    file = tmp_path / "large"
    content = os.urandom(400_000)
    file.write_bytes(content)
    faults.write_bytes = 150_000
    with pytest.raises(LinkError, match="cut"):
        link.push(file)
    part = home / ".cache/deepen/files" / f"{hashlib.sha256(content).hexdigest()}.part"
    end = time.monotonic() + 60
    while part.stat().st_size < 150_000 and time.monotonic() < end:  # what was under way arrives
        time.sleep(0.01)
    assert part.read_bytes() == content[:150_000]
    faults.write_bytes = 250_000  # enough for the rest alone, not for all
    assert Path(link.push(file)).read_bytes() == content
    assert not part.exists()
    link.close()


def test_a_push_whose_beginning_was_spoilt_begins_anew(home: Path, tmp_path: Path) -> None:
    link = make_shell_link(str(home))
    assert link.alive()
    file = tmp_path / "f"
    file.write_bytes(b"a" * 1000)
    part = home / ".cache/deepen/files" / f"{hashlib.sha256(file.read_bytes()).hexdigest()}.part"
    for spoilt in (b"b" * 10, b"b" * 1000, b"a" * 1001):
        (part.parent / part.stem / "f").unlink(missing_ok=True)
        part.write_bytes(spoilt)
        assert Path(link.push(file)).read_bytes() == b"a" * 1000
    link.close()


def test_a_disk_that_takes_no_more_is_told_at_once(home: Path, tmp_path: Path) -> None:
    shell = tmp_path / "limited"
    shell.write_text('#!/bin/sh\nulimit -f 100\nexec sh "$@"\n')
    shell.chmod(0o755)
    link = make_shell_link(str(home), shell=str(shell))
    file = tmp_path / "f"
    file.write_bytes(os.urandom(3_000_000))  # much more than pipes hold: sending has to stop
    with pytest.raises(LinkError, match=r"f could not be stored: .*; free some space there"):
        link.push(file)
    link.close()


def test_pull_fetches_whole_files_only(link: RemoteLink, tmp_path: Path) -> None:
    source, target = tmp_path / "-n '$(id)`\n\"", tmp_path / "target"
    content = os.urandom(200_000) + b"\n"
    source.write_bytes(content)
    link.pull(str(source), target)
    assert target.read_bytes() == content
    source.write_bytes(b"")
    link.pull(str(source), target)
    assert target.read_bytes() == b""
    with pytest.raises(ConfigError, match="no such file"):
        link.pull(str(tmp_path / "absent"), target)
    with pytest.raises(ConfigError, match="no such file"):
        link.pull(str(tmp_path), target)
    assert target.read_bytes() == b""


def test_a_pull_that_is_cut_leaves_what_was_there(home: Path, tmp_path: Path) -> None:
    faults = ShellLinkFaults()
    link = make_shell_link(str(home), faults)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(500_000))
    target.write_bytes(b"old")
    assert link.alive()
    faults.read_bytes = 200_000
    with pytest.raises(LinkError, match="cut"):
        link.pull(str(source), target)
    assert target.read_bytes() == b"old"
    faults.read_bytes = None
    link.pull(str(source), target)
    assert target.read_bytes() == source.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["source", "target"]
    link.close()


def test_a_device_without_the_programs_needed_says_which(home: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "cat", "mkdir", "chmod", "grep", "head", "mv", "rm", "sleep", "tail", "wc", "id", "sha256sum"):
        (tools / name).symlink_to(str(shutil.which(name)))
    link = RemoteLink(
        lambda timeout_s: ShellTransport(shell=str(tools / "sh"), env={"HOME": str(home), "PATH": str(tools)}), "bare"
    )
    with pytest.raises(LinkError, match="the program setsid is missing there"):
        link.run(["true"], timeout_s=5)
    link.close()


def test_a_work_folder_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    link = RemoteLink(lambda timeout_s: ShellTransport(), "device", work=f"{file}/deepen")
    with pytest.raises(LinkError, match="cannot write the folder"):
        link.run(["true"], timeout_s=5)
    link.close()
    with pytest.raises(ConfigError, match="no absolute path"):
        RemoteLink(lambda timeout_s: ShellTransport(), "device", work="relative")


def test_several_threads_share_a_link(home: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    link = make_shell_link(str(home))
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda n: link.run(["echo", str(n)], timeout_s=120).stdout, range(24)))
    assert found == [f"{n}\n".encode() for n in range(24)]
    link.close()


def test_folders_of_jobs_that_a_restart_ended_go_with_the_next_connection(link: RemoteLink, home: Path) -> None:
    channel = link.spawn(["sleep", "1000"], {})
    jobs = home / ".cache" / "deepen" / "jobs"
    (living,) = jobs.iterdir()
    dead = jobs / "0123456789abcdef0123456789abcdef"
    dead.mkdir()
    (dead / "pid").write_text("1 1\n")
    other = make_shell_link(str(home))
    try:
        assert other.alive()
        assert list(jobs.iterdir()) == [living]
    finally:
        other.close()
    channel.kill()
