"""What a device says of itself reaches neither the terminal's controls nor a path nor a shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import deepen.devices
from deepen.cli import cli
from deepen.cli.output import emit_result, escape_control_characters, format_table, print_progress
from deepen.devices.remote import RemoteDevice
from deepen.testing.fake_boards import make_fake_phone
from deepen.testing.shell import FakeShell

EVIL = "\x1b[31mPixel\x07 6\n\x9b2J\u202e../../$(touch was-here)'\"`touch was-here`"


@pytest.fixture
def phone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeShell:
    found = make_fake_phone()
    names = ("ro.product.model", "ro.serialno", "ro.product.device", "ro.build.fingerprint")
    found.properties.update(dict.fromkeys(names, EVIL))
    found.files["/sys/class/thermal/thermal_zone0/type"] = EVIL.replace("\n", "")
    monkeypatch.setattr(deepen.devices, "open_device", lambda spec: RemoteDevice(found))
    monkeypatch.setenv("DEEPEN_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")  # nobody listens there
    monkeypatch.chdir(tmp_path)
    return found


def run(*argv: str) -> Result:
    return CliRunner().invoke(cli, argv, color=True)


def harmless(text: str) -> bool:
    return not set(text) & set("\x1b\x07\x9b\u202e")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_properties_are_shown_and_nothing_else(phone: FakeShell, tmp_path: Path, form: list[str]) -> None:
    for argv in (["probe", "x"], ["prepare", "x"], ["prepare", "x", "--set", "brightness=0"], ["list"]):
        done = run("device", *argv, *form)
        assert done.exit_code == 0, done.output
        assert harmless(done.output)
        if form:
            json.loads(done.stdout)
    (journal,) = (tmp_path / "state" / "devices").iterdir()
    assert set(journal.stem) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
    assert run("device", "prepare", "x", "--restore", *form).exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state"]


def test_the_profile_of_an_unknown_device_has_a_plain_name(phone: FakeShell) -> None:
    device = deepen.devices.open_device("x")
    assert device.profile.id == "31mpixel-6-2j-touch-was-here-touch-was-here"


def test_a_cure_names_the_device_as_it_was_given(phone: FakeShell) -> None:
    name = "adb:A B$(id)"
    found = json.loads(run("device", "prepare", name, "--json").stdout)
    cures = [s["cure"] for s in found["settings"] if "prepare" in s["cure"]]
    assert all("'adb:A B$(id)'" in cure for cure in cures)


def test_what_is_shown_has_no_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert escape_control_characters("a\tb\nc é → ✓") == "a\tb\nc é → ✓"
    assert escape_control_characters("\x1b[2J\r\x00\ud800") == "\ufffd[2J\ufffd\ufffd\ufffd"
    print_progress("\x1b]0;title\x07")
    emit_result({"a": "\x9b\u202e"}, True, str)
    emit_result({}, False, lambda: "\x1b[1m")
    told: Any = capsys.readouterr()
    assert told.err == "\ufffd]0;title\ufffd\n"
    assert told.out == '{\n  "a": "\\u009b\\u202e"\n}\n\ufffd[1m\n'


def test_a_cell_stays_in_its_row() -> None:
    assert format_table(["a", "b"], [("x\ny", 1)]).splitlines()[2:] == ["x y  1"]
