from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.errors import ConfigError, MeterError
from deepen.meters import MeterContext, open_meter
from deepen.meters.onboard.battery import (
    DRIVER,
    BatteryGauge,
    BatteryMeter,
    convert_to_volts,
    find_batteries,
    infer_reading_unit,
)
from deepen.meters.sensor_files import CommandFiles, LocalFiles

Write = Callable[[dict[str, str]], Path]
BASE = "sys/class/power_supply"


def battery(name: str = "BAT0", **files: object) -> dict[str, str]:
    fields = {"type": "Battery", "status": "Discharging", **files}
    return {f"{BASE}/{name}/{key}": f"{value}\n" for key, value in fields.items()}


def mean_w(root: Path, spec: str = "battery") -> float:
    meter = open_meter(spec, root=root)
    meter.start()
    trace = meter.stop()
    assert trace.power_w.size >= 2
    assert (trace.source, trace.meter_id) == ("measured", "battery")
    assert trace.power_w.tolist() == pytest.approx([trace.power_w[0]] * trace.power_w.size)
    return float(trace.power_w[0])


@pytest.mark.parametrize(
    ("files", "power_w"),
    [
        ({"power_now": 7_500_000}, 7.5),  # a laptop
        ({"power_now": 62_000_000, "voltage_now": 15_400_000}, 62.0),  # a fast one
        ({"power_now": 62_000_000}, 62.0),
        ({"current_now": 650_000, "voltage_now": 11_550_000}, 0.65 * 11.55),
        ({"current_now": -650_000, "voltage_now": 11_550_000}, 0.65 * 11.55),  # the kernel's sign
        ({"current_now": -650, "voltage_now": 3850}, 0.65 * 3.85),  # milliamperes, millivolts
        ({"current_now": 1200, "voltage_now": 3_850_000}, 1.2 * 3.85),  # milliamperes over microvolts (Samsung)
        ({"current_now": 55_000, "voltage_now": 3_900_000}, 0.055 * 3.9),  # a phone with its screen off
        ({"current_now": 95, "voltage_now": 3_900_000}, 0.095 * 3.9),
        ({"current_now": -2600, "voltage_now": 4_100_000}, 2.6 * 4.1),  # a phone that plays games
        ({"power_now": 0, "current_now": 500_000, "voltage_now": 4_000_000}, 2.0),  # an unused file reads 0
        ({"power_now": -4_000_000, "current_now": -1_000_000, "voltage_now": 4_000_000}, 4.0),
    ],
)
def test_unit_and_sign_are_found_not_assumed(files: dict[str, int], power_w: float, sysfs: Write) -> None:
    assert mean_w(sysfs(battery(**files))) == pytest.approx(power_w)


@given(st.floats(0.051, 24.9), st.integers(1, 4), st.sampled_from([1e-6, 1e-3]), st.sampled_from([1, -1]))
def test_every_possible_draw_is_read_right_whatever_the_unit(
    per_cell_w: float, cells: int, unit: float, sign: int
) -> None:
    volt = 3.85 * cells
    raw = sign * per_cell_w * cells / volt / unit
    found = BatteryGauge("BAT0")
    assert found.power_w(math.nan, raw, volt * 1e6) == pytest.approx(per_cell_w * cells)
    assert (found.unit, found.sign, found.file) == (unit, sign, "current_now")
    assert found.evidence


@pytest.mark.parametrize(
    ("micro_w", "cells", "unit"),
    [(0.05, 1, 1e-6), (0.049, 1, None), (0.026, 1, None), (0.025, 1, 1e-3), (0.05, 2, 1e-3), (0.09, 2, None)],
)
def test_between_the_units_nothing_is_guessed(micro_w: float, cells: int, unit: float | None) -> None:
    assert infer_reading_unit(micro_w, cells) == unit


def test_an_ambiguous_reading_asks_for_the_unit(sysfs: Write) -> None:
    root = sysfs(battery(current_now=9_000, voltage_now=3_850_000))  # 35 mW or 35 W
    with pytest.raises(MeterError, match=r"could be 34.6 mW or as many W; name the unit: .*current_unit=uA"):
        open_meter("battery", root=root)
    assert mean_w(root, "battery?current_unit=uA") == pytest.approx(0.009 * 3.85)
    with pytest.raises(ConfigError, match="current_unit is uA or mA, not 'A'"):
        open_meter("battery?current_unit=A", root=root)
    with pytest.raises(ConfigError, match="no option 'unit'"):
        open_meter("battery?unit=uA", root=root)


def test_a_wrong_guess_is_found_out_by_the_load(sysfs: Write) -> None:
    root = sysfs(battery(current_now=4_000, voltage_now=3_850_000))  # asleep: taken as 4 A, which it is not
    meter = open_meter("battery", root=root)
    meter.start()
    sysfs(battery(current_now=600_000, voltage_now=3_850_000))
    with pytest.raises(MeterError, match=r"would be 2.31e\+03 W.*name the unit: .*current_unit=uA"):
        meter.mark()
    meter.close()


@pytest.mark.parametrize(
    ("current", "left", "full", "wrong"),
    [
        (500_000, (3_000_000, 2_991_667), 4_500_000, False),  # 0.5 A over 60 s are 8.3 mAh
        (500, (3_000_000, 2_992_000), 4_500_000, False),  # mixed units, as Samsung's
        (4_000, (3_000_000, 3_000_000), 4_500_000, True),  # 4 A over 60 s would be 67 mAh
        (4_000, (3_000, 3_000), 4_500, True),
        (200_000, (3_000_000, 2_900_000), 4_500_000, True),  # the counter fell by 100 mAh, for 3.3 mAh drawn
        (500_000, (3_000_000, 3_000_000), 4_500_000, False),  # the counter is coarse
    ],
)
def test_the_charge_counter_has_the_last_word(
    current: int, left: tuple[int, int], full: int, wrong: bool, sysfs: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    root = sysfs(battery(current_now=current, voltage_now=3_850_000, charge_counter=left[0], charge_full=full))
    meter = open_meter("battery", root=root)
    assert isinstance(meter, BatteryMeter)
    monkeypatch.setattr(meter, "_now", lambda: now[0])
    meter.start()
    for _ in range(60):
        now[0] += 1.0
        meter.mark()
    sysfs(battery(current_now=current, voltage_now=3_850_000, charge_counter=left[1], charge_full=full))
    if wrong:
        with pytest.raises(MeterError, match=r"by its charge counter .* mAh, so the unit is wrong"):
            meter.stop()
    else:
        assert meter.stop().t_s[-1] == pytest.approx(1060.0)
    meter.close()


@pytest.mark.parametrize(("raw", "expected"), [(12, 12.0), (3850, 3.85), (19_200, 19.2), (3_850_000, 3.85)])
def test_volts(raw: int, expected: float) -> None:
    assert convert_to_volts(raw) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        ({"status": "Charging", "power_now": 1}, "is 'Charging', not discharging"),
        ({"status": "Full", "power_now": 1}, "is 'Full'"),
        ({"status": "Not charging", "current_now": 0, "voltage_now": 4_000_000}, "is 'Not charging'"),
        ({}, "neither power nor current"),
        ({"current_now": "garbage", "voltage_now": 4_000_000}, "neither power nor current"),
        ({"current_now": 500_000}, "neither power nor current"),
        ({"current_now": 0, "voltage_now": 4_000_000}, "tells no current"),
    ],
)
def test_a_battery_that_cannot_tell(files: dict[str, object], cause: str, sysfs: Write) -> None:
    root = sysfs(battery(**files))
    found = DRIVER.probe(MeterContext(root=root))
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


@pytest.mark.parametrize("sign", [1, -1])
def test_current_that_turns_around_is_an_error_even_if_the_status_lags(sign: int, sysfs: Write) -> None:
    root = sysfs(battery(current_now=sign * 500_000, voltage_now=3_850_000))
    meter = open_meter("battery", root=root)
    meter.start()
    sysfs(battery(current_now=-sign * 900_000, voltage_now=3_850_000))
    with pytest.raises(MeterError, match="flows into BAT0; unplug the charger"):
        meter.mark()
    meter.close()


@pytest.mark.parametrize("kind", ["USB", "USB_PD", "Mains", "Wireless"])
def test_a_battery_helped_by_a_charger_tells_only_a_part(kind: str, sysfs: Write) -> None:
    phone = battery("battery", current_now=-500_000, voltage_now=3_850_000)
    root = sysfs({**phone, f"{BASE}/usb/type": f"{kind}\n", f"{BASE}/usb/online": "1\n"})
    with pytest.raises(MeterError, match=r"charger usb gives power too.*unplug it"):
        open_meter("battery", root=root)
    sysfs({f"{BASE}/usb/online": "0\n"})
    meter = open_meter("battery", root=root)
    meter.start()
    sysfs({f"{BASE}/usb/online": "1\n"})
    with pytest.raises(MeterError, match="charger usb gives power too"):
        meter.stop()
    meter.close()


def test_a_gauge_that_falls_silent_counts_as_lost(sysfs: Write) -> None:
    root = sysfs(battery(current_now=500_000, voltage_now=4_000_000))
    meter = open_meter("battery", root=root)
    meter.start()
    meter.mark()
    sysfs(battery(current_now=0, voltage_now=4_000_000))
    meter.mark()
    sysfs(battery(current_now=500_000, voltage_now=4_000_000))
    trace = meter.stop()
    assert trace.dropped == 1
    assert trace.gaps
    assert trace.power_w.tolist() == pytest.approx([2.0] * trace.power_w.size)


def test_mice_and_chargers_are_no_batteries(sysfs: Write) -> None:
    root = sysfs({**battery("hidpp_battery_0", scope="Device"), f"{BASE}/AC/type": "Mains\n"})
    assert find_batteries(LocalFiles(root)) == []
    with pytest.raises(MeterError, match="there is none"):
        open_meter("battery", root=root)
    root = sysfs(battery("BAT1", power_now=2_000_000))
    with pytest.raises(MeterError, match="no 'BAT7' here; found: BAT1"):
        open_meter("battery:BAT7", root=root)
    assert open_meter("battery:BAT1", root=root).calibration_id.startswith("power_supply BAT1")


def test_two_packs_of_a_laptop_add_up_and_one_may_rest(sysfs: Write) -> None:
    root = sysfs({**battery("BAT0", power_now=0, status="Unknown"), **battery("BAT1", power_now=6_000_000)})
    assert mean_w(root) == pytest.approx(6.0)
    sysfs(battery("BAT0", power_now=1_500_000))
    assert mean_w(root) == pytest.approx(7.5)
    assert mean_w(root, "battery:BAT1") == pytest.approx(6.0)
    sysfs(battery("BAT0", power_now=1_500_000, status="Charging"))
    with pytest.raises(MeterError, match="BAT0 is 'Charging'"):
        open_meter("battery", root=root)


def test_views_of_one_phone_battery_are_never_added_up(sysfs: Write) -> None:
    gauge = {"current_now": -400_000, "voltage_now": 3_900_000}
    root = sysfs({**battery("ds2784-fuelgauge", **gauge), **battery("smb347-battery", **gauge)})
    with pytest.raises(MeterError, match="may all show one battery; name one: --meter battery:ds2784-fuelgauge"):
        open_meter("battery", root=root)
    assert not DRIVER.probe(MeterContext(root=root)).available
    root = sysfs(battery("Battery", **gauge))  # Android's main node, however it is spelt
    assert mean_w(root) == pytest.approx(0.4 * 3.9)


def test_it_reads_a_phone_across_a_link(sysfs: Write, across: Callable[..., CommandFiles]) -> None:
    sysfs(battery("battery", current_now=-305, voltage_now=4_012_000))
    meter = open_meter("battery", link=across())
    meter.start()
    trace = meter.stop()
    assert trace.power_w.tolist() == pytest.approx([0.305 * 4.012] * trace.power_w.size)
    assert "0.001 per count, current_now -305 over 1 cell is 1.22 W" in trace.calibration_id
