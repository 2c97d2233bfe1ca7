"""``deepen device`` on stand-ins of a phone and a board."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deepen import devices
from deepen.cli import cli
from deepen.devices.remote import RemoteDevice
from deepen.errors import LinkError
from deepen.testing.fake_boards import make_fake_phone
from deepen.testing.shell import FakeShell

GOVERNOR = "/sys/devices/system/cpu/cpufreq/policy0/scaling_governor"


@pytest.fixture
def phone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeShell:
    """The only device there is."""
    shell = make_fake_phone()
    monkeypatch.setenv("DEEPEN_STATE", str(tmp_path))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")  # nobody listens there
    monkeypatch.setattr(devices, "open_device", lambda spec: RemoteDevice(shell))
    return shell


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["device", *args])


def document(*args: str) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_probe_tells_state_identity_and_sourced_facts(phone: FakeShell) -> None:
    found = document("probe", "adb:1A2B3C")
    assert found["device"] == "pixel-6"
    assert found["identity"]["serial"] == "1A2B3C"
    assert [p["name"] for p in found["state"]["policies"]] == ["policy0", "policy4", "policy6"]
    assert found["state"]["thermal"]["status"] == 0
    assert all(fact["source"] for fact in found["profile"]["facts"])
    text = run("probe", "adb:1A2B3C").stdout
    assert "VIRTUAL-SKIN" in text
    assert "2 x Cortex-X1, 2.80 GHz [LineageOS wiki" in text
    assert "throttled" in text


def test_probe_says_unknown_where_nothing_can_be_read(phone: FakeShell) -> None:
    phone.files = {path: text for path, text in phone.files.items() if "cpufreq" not in path and "thermal" not in path}
    phone.programs.pop("dumpsys")
    text = run("probe", "adb:1A2B3C").stdout
    assert re.search(r"^frequency +unknown$", text, re.MULTILINE)
    assert re.search(r"^temperature +unknown$", text, re.MULTILINE)
    assert "nan" not in text.split()


def test_prepare_looks_and_changes_nothing(phone: FakeShell) -> None:
    files, settings = dict(phone.files), dict(phone.settings)
    found = document("prepare", "adb:1A2B3C")
    assert (phone.files, phone.settings) == (files, settings)
    assert not found["ready"]
    assert {"profile", "stay_awake", "brightness", "airplane", "temperature", "load"} <= {
        s["name"] for s in found["settings"]
    }


def test_prepare_apply_set_list_and_restore(phone: FakeShell) -> None:
    files, settings = dict(phone.files), dict(phone.settings)
    found = {
        s["name"]: s for s in document("prepare", "adb:1A2B3C", "--apply", "--set", "governor=performance")["settings"]
    }
    assert all(found[name]["ok"] for name in ("governor", "brightness", "airplane", "stay_awake", "fixed_performance"))
    assert phone.files[GOVERNOR] == "performance"
    (changed,) = document("list")["changed"]
    assert (changed["device"], changed["held"]) == ("Pixel 6 1A2B3C", True)
    assert "deepen device prepare DEVICE --restore" in run("list").stdout
    restored = document("prepare", "adb:1A2B3C", "--restore")
    assert restored["restored"]
    assert (phone.files, phone.settings) == (files, settings)
    assert document("list")["changed"] == []
    assert run("prepare", "adb:1A2B3C", "--restore").stdout == "nothing to give back\n"


def test_restore_that_does_not_succeed_exits_with_1_and_says_why(phone: FakeShell) -> None:
    run("prepare", "adb:1A2B3C", "--set", "governor=performance")
    phone.fixed = (GOVERNOR,)
    result = run("prepare", "adb:1A2B3C", "--restore")
    assert result.exit_code == 1
    assert "note  governor: performance (wanted: schedutil)" in result.stdout
    assert "took performance instead of schedutil" in result.stdout
    assert document("list")["changed"][0]["settings"] == 1


def test_prepare_waits_until_it_is_cool(phone: FakeShell) -> None:
    phone.programs.pop("dumpsys")
    result = run("prepare", "adb:1A2B3C", "--cool-down", "60", "--json")
    found = {s["name"]: s for s in json.loads(result.stdout)["settings"]}["cool_down"]
    assert found["ok"]
    assert found["wanted"] == "cpu 40 °C"
    assert "waiting until cpu 40 °C" in result.stderr


def test_a_device_that_goes_exits_with_3(phone: FakeShell) -> None:
    def lost(*args: Any, **options: Any) -> None:
        raise LinkError("the device is gone; connect it again")

    phone.run = lost  # type: ignore[method-assign, assignment]
    result = run("prepare", "adb:1A2B3C")
    assert result.exit_code == 3
    assert result.stderr == "error: the device is gone; connect it again\n"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--set", "governor"], 1, "--set takes NAME=VALUE"),
        (["--set", "govenor=x"], 1, "did you mean governor"),
        (["--set", "brightness=300"], 1, "0 to 255"),
        (["--restore", "--apply"], 2, "--restore goes alone"),
        (["--cool-down", "-1"], 2, "-1"),
    ],
)
def test_wrong_options(args: list[str], code: int, words: str, phone: FakeShell) -> None:
    before = dict(phone.settings)
    result = run("prepare", "adb:1A2B3C", *args)
    assert result.exit_code == code
    assert words in result.stderr
    assert phone.settings == before


def test_list_names_what_is_connected_or_why_nothing_can_be_told(phone: FakeShell) -> None:
    found = document("list")
    assert {"pixel-6", "raspberry-pi-5", "local"} <= {d["id"] for d in found["devices"]}
    assert found["connected"] == []
    assert "no adb server" in found["connected_note"]
