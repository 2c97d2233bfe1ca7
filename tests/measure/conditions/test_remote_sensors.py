"""Meters read a device's sensors over its link."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepen.devices import open_device
from deepen.devices.links.remote import RemoteLink
from deepen.devices.types import CompletedCommand
from deepen.errors import LinkError
from deepen.measure.conditions.remote_sensors import access_device_files, access_link_files
from deepen.meters import MeterContext, open_meter
from deepen.meters.onboard.hwmon import DRIVER
from deepen.meters.sensor_files import SensorFiles
from deepen.testing.device import FakeLink
from deepen.testing.links import ShellLinkFaults, make_shell_link


@pytest.fixture
def link(tmp_path: Path) -> Iterator[RemoteLink]:
    home = tmp_path / "home"
    home.mkdir()
    opened = make_shell_link(str(home))
    yield opened
    opened.close()


def test_this_machine_is_read_directly() -> None:
    device = open_device("local")
    assert access_device_files(device) is None
    device.close()


def test_files_and_commands_over_a_link(link: RemoteLink, tmp_path: Path) -> None:
    files = access_link_files(link)
    assert isinstance(files, SensorFiles)
    folder = tmp_path / "sensor '$(id)` x"
    folder.mkdir()
    for n in (2, 10):
        (folder / f"in{n}").write_text(f"{n}\n")
    assert files.glob(f"{folder}/in*") == [f"{folder}/in2", f"{folder}/in10"]
    assert files.read_all([f"{folder}/in2", f"{folder}/in10"]) == ["2", "10"]
    with pytest.raises(FileNotFoundError):
        files.read(f"{folder}/absent")
    with pytest.raises(FileNotFoundError):
        files.run(["deepen-has-no-such-program"])
    done = files.run(["sh", "-c", "echo out; echo err >&2; exit 4"])
    assert (done.code, done.stdout, done.stderr) == (4, "out\n", "err\n")


def test_a_command_that_does_not_end_is_told_from_a_device_that_is_gone() -> None:
    link = FakeLink(answer=lambda argv: LinkError("no answer"))
    with pytest.raises(TimeoutError, match="gave no answer"):
        access_link_files(link).run(["tegrastats"], 1.0)
    link.closed = True
    with pytest.raises(LinkError):
        access_link_files(link).run(["tegrastats"], 1.0)


def test_words_of_the_c_locale_are_asked_for(link: RemoteLink) -> None:
    code = "import os; print(os.environ['LC_ALL'])"
    assert access_link_files(link).run([sys.executable, "-c", code], 60.0).stdout == "C\n"


def test_messages_of_a_device_without_answers_are_no_files() -> None:
    link = FakeLink(answer=lambda argv: CompletedCommand(127, b"", b"sh: not found\n"))
    with pytest.raises(FileNotFoundError):
        access_link_files(link).run(["cat", "/x"])


def test_a_meter_is_probed_across_a_link(link: RemoteLink) -> None:
    """The same driver says the same of this machine, read directly and read across a link."""
    here, there = DRIVER.probe(MeterContext()), DRIVER.probe(MeterContext(link=access_link_files(link)))
    assert (there.available, there.cause) == (here.available, here.cause)


def test_a_meter_whose_device_goes_says_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    faults = ShellLinkFaults(refuse=1000)
    link = make_shell_link(str(home), faults)
    with pytest.raises(LinkError):
        open_meter("hwmon", link=access_link_files(link))
    link.close()
