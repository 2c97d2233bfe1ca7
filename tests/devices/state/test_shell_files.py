"""Reading and writing files of a device with its real shell, here the host's, on hostile names and contents."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.devices import Link
from deepen.devices.links.local import LocalLink
from deepen.devices.state.shell_files import FileContents, Shell, format_one_line
from deepen.devices.types import CompletedCommand
from deepen.errors import ConfigError
from deepen.testing.device import FakeLink
from deepen.testing.fake_boards import make_fake_phone
from deepen.testing.links import make_shell_link

HOSTILE = ["a b", "$(touch pwned)", "`id`", "'; rm -rf x; '", 'say "hi"', "-n", "a\nb", "*", "ä€", "\\n%s"]


SHELLS = {"dash": ["dash"], "mksh": ["mksh"], "busybox": ["busybox", "sh"], "bash": ["bash", "--posix"], "ksh": ["ksh"]}


class OtherShell(LocalLink):
    """This machine with another shell in the place of ``sh``."""

    def __init__(self, shell: Sequence[str]) -> None:
        """Name the shell."""
        self._shell = list(shell)

    def run(self, argv: Sequence[str], **options: Any) -> CompletedCommand:
        """Run a command, the shell's with the other shell."""
        return super().run([*self._shell, *argv[1:]] if argv[0] == "sh" else argv, **options)


@pytest.fixture(params=[*SHELLS, "remote"])
def link(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    """This machine through each shell there is (Android has mksh, small boards busybox), and through a remote link."""
    if request.param == "remote":
        remote = make_shell_link(str(tmp_path_factory.mktemp("home")))
        yield remote
        remote.close()
        return
    shell = SHELLS[request.param]
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed here")
    yield OtherShell(shell)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder like /sys: zones with a type and a temperature."""
    for i, (name, value) in enumerate([("cpu:0-x", "42000"), ("skin", "31000"), ("", "")]):
        zone = tmp_path / f"zone{i}"
        zone.mkdir()
        (zone / "type").write_text(f"{name}\n" if name else "")
        (zone / "temp").write_text(f"{value}\n" if value else "")
    return tmp_path


def test_files_that_match_a_pattern_are_read_in_one_command(tree: Path, link: Link) -> None:
    found = Shell(link).read(f"{tree}/zone*/type", f"{tree}/zone*/temp", f"{tree}/absent*")
    assert found.text(f"{tree}/zone0/type") == "cpu:0-x"
    assert found.matching(f"{tree}/zone*/temp") == {f"{tree}/zone0/temp": "42000", f"{tree}/zone1/temp": "31000"}
    assert found.refused == {f"{tree}/absent*": "No such file or directory"}
    assert found.text(f"{tree}/zone2/type") == ""


@pytest.mark.parametrize("content", HOSTILE)
def test_contents_come_back_as_they_are_and_run_nothing(content: str, tmp_path: Path, link: Link) -> None:
    (tmp_path / "type").write_text(content + "\n")
    found = Shell(link).read(f"{tmp_path}/type")
    assert found.content[f"{tmp_path}/type"] == content
    assert [p.name for p in tmp_path.iterdir()] == ["type"]


def test_a_file_cannot_pass_its_content_off_as_another_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(f"x\n{tmp_path}/b:999\n")
    (tmp_path / "b").write_text("1\n")
    found = Shell(LocalLink()).read(f"{tmp_path}/a", f"{tmp_path}/b")
    assert found.text(f"{tmp_path}/b") == "1"


def test_a_name_made_by_the_device_is_taken_whole(tmp_path: Path, link: Link) -> None:
    folder = tmp_path / "soc:thermal; x y"
    folder.mkdir()
    (folder / "temp").write_text("5\n")
    assert Shell(link).read(f"{tmp_path}/*/temp").content == {f"{folder}/temp": "5"}


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_is_written_as_it_is(value: str, tmp_path: Path, link: Link) -> None:
    file = tmp_path / "value"
    file.write_text("")
    assert Shell(link).write(str(file), value) == ""
    assert file.read_text() == value + "\n"
    assert [p.name for p in tmp_path.iterdir()] == ["value"]


def test_a_write_that_is_refused_says_why(tmp_path: Path) -> None:
    assert "irectory" in Shell(LocalLink()).write(f"{tmp_path}/absent/x", "1")


def test_closed_files_are_read_as_root_where_that_is_asked_for() -> None:
    path = "/sys/class/thermal/thermal_zone0/temp"
    phone = make_fake_phone(closed=(path,))
    assert Shell(phone).read(path) == FileContents({}, {path: "Permission denied"})
    assert Shell(phone).read(path, root=True) == FileContents({path: "36000"}, {})
    assert Shell(make_fake_phone(closed=(path,), way="")).read(path, root=True).refused == {path: "Permission denied"}


def test_a_device_without_grep_is_told() -> None:
    link = FakeLink(answer=lambda argv: CompletedCommand(127, b"", b"sh: exec: grep: not found\n"))
    with pytest.raises(ConfigError, match="has no grep"):
        Shell(link).read("/sys/x")


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(-5, 255))
def test_any_answer_of_a_device_is_taken_apart(out: bytes, err: bytes, status: int) -> None:
    link = FakeLink(answer=lambda argv: CompletedCommand(0 if status == 127 else status, out, err))
    found = Shell(link).read("/sys/class/x*/temp", "/sys/y")
    assert all(path == "/sys/y" or path.startswith("/sys/class/x") for path in found.content)
    assert "\n" not in format_one_line(err)
    assert len(format_one_line(err)) <= 200
