"""The local link: processes of this machine. Every wait is for an event, never for a time."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from deepen.devices.links.local import LocalLink
from deepen.devices.protocols import Link
from deepen.errors import ConfigError, LinkError, StorageError


def gone(pid: int, patience_s: float = 60.0) -> bool:
    """Whether a process ends within a while (a zombie counts as ended)."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def pid_in(path: Path, patience_s: float = 60.0) -> int:
    """The number a process has written into a file."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if path.exists() and path.read_text().endswith("\n"):
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError(f"nothing wrote {path}")


def test_it_is_a_link() -> None:
    assert isinstance(LocalLink(), Link)
    assert LocalLink().alive()


def test_streams_are_apart_and_binary_and_the_status_is_told() -> None:
    code = "import sys,os; os.write(1,bytes(range(256))); os.write(2,b'\\x00err'); sys.exit(7)"
    done = LocalLink().run([sys.executable, "-c", code], timeout_s=60)
    assert (done.status, done.stdout, done.stderr) == (7, bytes(range(256)), b"\x00err")


def test_a_signal_is_a_negative_status() -> None:
    assert LocalLink().run(["sh", "-c", "kill -TERM $$"], timeout_s=60).status == -15


def test_more_output_than_a_pipe_holds() -> None:
    done = LocalLink().run(["head", "-c", "3000000", "/dev/zero"], timeout_s=60)
    assert len(done.stdout) == 3_000_000


def test_arguments_and_environment_arrive_unchanged() -> None:
    value = "a b\n'\"$(touch /nowhere)`;*"
    code = "import os,sys; sys.stdout.write(sys.argv[1] + os.environ['DEEPEN_VALUE'])"
    done = LocalLink().run([sys.executable, "-c", code, value], env={"DEEPEN_VALUE": value}, timeout_s=60)
    assert done.stdout.decode() == value + value


def test_there_is_no_input() -> None:
    assert LocalLink().run(["cat"], timeout_s=60).stdout == b""


def test_a_missing_program_and_one_that_may_not_run(tmp_path: Path) -> None:
    assert LocalLink().run(["/nonexistent/program"], timeout_s=60).status == 127
    file = tmp_path / "plain"
    file.write_text("text")
    assert LocalLink().run([str(file)], timeout_s=60).status == 126


@pytest.mark.parametrize("argv", [[], ["a\0b"], "ls"])
def test_what_is_no_command_is_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError):
        LocalLink().run(argv, timeout_s=3)
    with pytest.raises(ConfigError):
        LocalLink().spawn(argv, {})


def test_a_deadline_ends_the_whole_group(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    script = f"sleep 1000 & echo $! >{file}; wait"
    with pytest.raises(LinkError, match=r"did not end within 3 s and was killed") as caught:
        LocalLink().run(["sh", "-c", script], timeout_s=3)
    assert caught.value.retryable
    assert gone(pid_in(file))


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    done = LocalLink().run(["sh", "-c", f"sleep 1000 & echo $! >{file}; echo done"], timeout_s=60)
    assert done.stdout == b"done\n"
    assert gone(pid_in(file))


def test_killing_a_channel_ends_its_group_even_when_the_process_has_ended(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    channel = LocalLink().spawn(["sh", "-c", f"sleep 1000 & echo $! >{file}; echo on; exit 5"], {})
    assert channel.receive(60) == b"on"
    child = pid_in(file)
    end = time.monotonic() + 60
    while channel.exit_status() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert channel.exit_status() == 5
    assert channel.exit_status() == 5  # told as often as asked
    os.kill(child, 0)  # still there
    channel.kill()
    assert channel.exit_status() == 5
    assert gone(child)
    channel.kill()  # harmless


def test_a_killed_channel_says_so() -> None:
    channel = LocalLink().spawn(["sh", "-c", "echo words >&2; echo on; exec sleep 1000"], {})
    assert channel.receive(60) == b"on"
    channel.kill()
    assert channel.exit_status() == -9
    assert channel.last_words() == "words"
    with pytest.raises(LinkError):
        channel.send(b"x")


def test_push_leaves_the_file_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "model $(x).onnx"
    file.write_bytes(b"x")
    assert LocalLink().push(file, name="other") == str(file.resolve())
    with pytest.raises(ConfigError, match="no such file"):
        LocalLink().push(tmp_path / "absent")


def test_pull_copies_whole_files_only(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    LocalLink().pull(str(source), target)
    assert target.read_bytes() == b"new"
    LocalLink().pull(str(source), source)  # onto itself: nothing to do
    assert source.read_bytes() == b"new"
    with pytest.raises(ConfigError, match="no such file"):
        LocalLink().pull(str(tmp_path / "absent"), target)
    with pytest.raises(ConfigError, match="no folder"):
        LocalLink().pull(str(source), tmp_path / "none" / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_disk_that_refuses_leaves_the_old_content(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"x" * 100)
    target = tmp_path / ("n" * 300)  # longer than any file system takes
    with pytest.raises(StorageError, match="cannot write"):
        LocalLink().pull(str(source), target)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
