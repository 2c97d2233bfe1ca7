from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deepen.errors import MeterError
from deepen.meters import Context, open_meter
from deepen.meters.battery import DRIVER, amperes, batteries, volts

Write = Callable[[dict[str, str]], Path]
BASE = "sys/class/power_supply"


def battery(name: str = "BAT0", **files: object) -> dict[str, str]:
    fields = {"type": "Battery", "status": "Discharging", **files}
    return {f"{BASE}/{name}/{key}": f"{value}\n" for key, value in fields.items()}


@pytest.mark.parametrize(
    ("files", "power_w"),
    [
        ({"power_now": 7_500_000}, 7.5),
        ({"current_now": 650_000, "voltage_now": 11_550_000}, 0.65 * 11.55),
        ({"current_now": -650_000, "voltage_now": 11_550_000}, 0.65 * 11.55),  # the other sign
        ({"current_now": -650, "voltage_now": 3850}, 0.65 * 3.85),  # milliamperes, millivolts
        ({"current_now": 1200, "voltage_now": 3_850_000}, 1.2 * 3.85),
        ({"power_now": 0, "current_now": 500_000, "voltage_now": 4_000_000}, 2.0),  # an unused file reads 0
    ],
)
def test_unit_and_sign_are_found_not_assumed(files: dict[str, int], power_w: float, sysfs: Write) -> None:
    meter = open_meter("battery", root=sysfs(battery(**files)))
    meter.start()
    trace = meter.stop()
    assert trace.power_w.tolist() == pytest.approx([power_w] * trace.power_w.size)
    assert trace.power_w.size >= 2
    assert (trace.source, trace.meter_id) == ("measured", "battery")


@pytest.mark.parametrize(("raw", "expected"), [(20_000, 0.02), (-3_000_000, 3.0), (19_999, 19.999), (-150, 0.15)])
def test_amperes(raw: int, expected: float) -> None:
    assert amperes(raw) == pytest.approx(expected)


@pytest.mark.parametrize(("raw", "expected"), [(12, 12.0), (3850, 3.85), (19_200, 19.2), (3_850_000, 3.85)])
def test_volts(raw: int, expected: float) -> None:
    assert volts(raw) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        ({"status": "Charging", "power_now": 1}, "is 'Charging', not discharging"),
        ({"status": "Full", "power_now": 1}, "is 'Full'"),
        ({}, "neither power nor current"),
        ({"current_now": "garbage", "voltage_now": 4_000_000}, "neither power nor current"),
    ],
)
def test_a_battery_that_cannot_tell(files: dict[str, object], cause: str, sysfs: Write) -> None:
    root = sysfs(battery(**files))
    found = DRIVER.probe(Context(root=root))
    assert not found.available
    assert cause in found.cause
    assert found.cure
    with pytest.raises(MeterError, match=cause):
        open_meter("battery", root=root)


def test_plugging_in_while_recording_is_an_error(sysfs: Write) -> None:
    root = sysfs(battery(power_now=5_000_000))
    meter = open_meter("battery", root=root)
    meter.start()
    sysfs(battery(power_now=5_000_000, status="Charging"))
    with pytest.raises(MeterError, match="not discharging"):
        meter.stop()
    meter.close()


def test_mice_and_chargers_are_no_batteries(sysfs: Write) -> None:
    root = sysfs({**battery("hidpp_battery_0", scope="Device"), f"{BASE}/AC/type": "Mains\n"})
    assert batteries(root) == []
    with pytest.raises(MeterError, match="there is none"):
        open_meter("battery", root=root)
    root = sysfs(battery("BAT1", power_now=2_000_000))
    with pytest.raises(MeterError, match="no 'BAT7' here; found: BAT1"):
        open_meter("battery:BAT7", root=root)
    assert open_meter("battery:BAT1", root=root).calibration_id == "power_supply BAT1"
