"""``deepen meter --device``: the sensors of a device across its link."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import deepen.devices
from deepen.cli import cli
from deepen.testing.clock import VirtualClock
from deepen.testing.device import FakeDevice, FakeRuntime
from deepen.testing.links import make_shell_link
from deepen.testing.power import PowerTimeline


def test_what_is_listed_is_the_devices_and_the_device_is_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = FakeDevice(FakeRuntime(VirtualClock(), PowerTimeline()))
    link = make_shell_link(str(tmp_path))
    device.link = link  # type: ignore[assignment]  # a device behind a shell, here
    asked: list[str] = []

    def open_device(spec: str = "local") -> FakeDevice:
        asked.append(spec)
        return device

    monkeypatch.setattr(deepen.devices, "open_device", open_device)
    result = CliRunner().invoke(cli, ["meter", "list", "--device", "adb:PHONE", "--json"])
    link.close()
    assert result.exit_code == 0, result.output
    assert asked == ["adb:PHONE"]
    assert device.closed
    meters = {m["name"]: m for m in json.loads(result.stdout)["meters"]}
    assert not meters["cpu-model"]["available"]
    assert "across a link" in meters["cpu-model"]["cause"]


def test_an_address_that_is_none_is_refused_before_anything_is_opened() -> None:
    for verb in ("list", "record", "check"):
        result = CliRunner().invoke(cli, ["meter", verb, "--device", "adb:a b"])
        assert result.exit_code != 0
        assert "neither a serial number nor HOST:PORT" in result.stderr + str(result.exception)
