"""Both Monsoon protocols, driver against emulator: what is recorded is what went through, or it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deepen.errors import ConfigError, MeterError
from deepen.testing.instruments.faults import (
    BadChecksum,
    ClockPause,
    CorruptBytes,
    CounterJump,
    DuplicateBytes,
    Fault,
    LoseBytes,
    LoseFrames,
    NoCalibration,
    SplitReads,
    Stall,
    Unplug,
    VoltageDroop,
)

KINDS = ["lvpm", "hvpm", "hvpm-lvpm"]
ROUTINE = ("range switches", "paused")
"""Warnings of a recording in which nothing went wrong."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ppm", [-50.0, 50.0])
def test_energy_of_windows_is_right_in_spite_of_drift_and_jitter(bench: Any, kind: str, ppm: float) -> None:
    b = bench(kind, ppm=ppm, jitter_s=5e-3, noise_a=1e-3)
    trace = b.record(6.0)
    for start_s, end_s in ((1002.9, 1003.5), (1003.05, 1003.35), (1002.5, 1005.0)):
        assert abs(b.error(trace, start_s, end_s)) < 5e-3
    assert trace.dropped == 0
    assert all(w.startswith(ROUTINE) for w in trace.warnings)


@pytest.mark.parametrize("kind", KINDS)
def test_small_currents_are_measured_in_the_fine_range(bench: Any, kind: str) -> None:
    from deepen.testing.instruments.signal import StepSignal

    b = bench(kind, signal=StepSignal([], [1e-3]))
    trace = b.record(1.0)
    assert np.median(trace.power_w) == pytest.approx(1e-3, rel=2e-2)


FAULTS: dict[str, Callable[[], Fault]] = {
    "split reads": SplitReads,
    "lost byte": lambda: LoseBytes(1.8),
    "lost bytes": lambda: LoseBytes(1.8, count=700),
    "doubled bytes": lambda: DuplicateBytes(1.8, count=130),
    "corrupt byte": lambda: CorruptBytes(1.8),
    "corrupt bytes": lambda: CorruptBytes(1.8, count=40),
    "lost frame": lambda: LoseFrames(1.8),
    "lost frames": lambda: LoseFrames(1.8, frames=9),
    "more lost frames than the counter tells": lambda: LoseFrames(1.8, frames=64),
    "bad checksum": lambda: BadChecksum(1.8),
    "counter jump": lambda: CounterJump(1.8),
    "lossy stall": lambda: Stall(1.8, 0.1),
    "stall": lambda: Stall(1.8, 0.1, lossy=False),
    "long stall": lambda: Stall(1.8, 4.0),
    "unplugged": lambda: Unplug(1.8),
    "clock pause": lambda: ClockPause(1.8, 0.05),
    "droop": lambda: VoltageDroop(1.8, 0.3, 1.0),
    "no calibration": NoCalibration,
}


@pytest.mark.parametrize("kind", ["lvpm", "hvpm"])
@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_yields_a_wrong_number_without_a_flag(bench: Any, kind: str, fault: str) -> None:
    b = bench(kind, faults=[FAULTS[fault]()])
    try:
        trace = b.record(6.0, max_loss=1.0)
    except MeterError as error:
        assert fault in ("long stall", "unplugged", "no calibration"), error
        return
    flagged = trace.dropped or any(not w.startswith(ROUTINE) for w in trace.warnings)
    errors = [abs(b.error(trace, 1002.9, 1003.5)), abs(b.error(trace, 1002.5, 1005.0))]
    assert flagged or max(errors) < 5e-3
    if fault in ("split reads", "stall"):
        assert trace.dropped == 0
        assert max(errors) < 5e-3
    if fault in ("lost byte", "corrupt byte", "lost frame", "lost frames", "bad checksum"):
        assert trace.dropped == b.port.line.lost + b.port.line.faults[0].damaged


@pytest.mark.parametrize("kind", ["lvpm", "hvpm"])
def test_more_loss_than_allowed_is_refused(bench: Any, kind: str) -> None:
    with pytest.raises(MeterError, match="max_loss"):
        bench(kind, faults=[LoseFrames(1.8, frames=9)]).record(3.0)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_calibration_says_so(bench: Any, kind: str) -> None:
    with pytest.raises(MeterError, match="calibration"):
        bench(kind, faults=[NoCalibration()]).record(4.0)


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("lvpm", "2", "4.56"), ("hvpm", "0.7", "13.6"), ("hvpm-lvpm", "2", "5")]
)
def test_a_voltage_outside_the_limits_is_never_set(bench: Any, kind: str, low: str, high: str) -> None:
    for volts in (low, high, "-1", "nan", "much"):
        b = bench(kind, volts=3.7)
        with pytest.raises(ConfigError, match="voltage_v"):
            b.open(f"voltage_v={volts}")
        assert b.emulator.supply.history[1:] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_voltage_is_ramped_and_left_on(bench: Any, kind: str) -> None:
    b = bench(kind)
    b.record(0.5, "voltage_v=3.85")
    set_v = [v for _, v in b.emulator.supply.history[1:]]
    times = [t for t, _ in b.emulator.supply.history[1:]]
    assert set_v[0] == pytest.approx(3.0)
    assert max(np.diff(set_v)) < 0.1001
    assert min(np.diff(times)) > 0.099
    assert set_v[-1] == pytest.approx(3.85, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_voltage_that_is_set_already_is_not_set_again(bench: Any, kind: str) -> None:
    b = bench(kind, volts=3.85, **({"status": {"voltage_setting": 185}} if kind == "lvpm" else {}))
    b.open("voltage_v=3.85").close()
    b.open("").close()
    assert b.emulator.supply.history[1:] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_voltage_is_brought_down_in_steps(bench: Any, kind: str) -> None:
    b = bench(kind, volts=4.4, **({"status": {"voltage_setting": 240}} if kind == "lvpm" else {}))
    b.open("voltage_v=4.1").close()
    assert [v for _, v in b.emulator.supply.history[1:]] == pytest.approx([4.3, 4.2, 4.1], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_that_is_off_needs_a_voltage(bench: Any, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"output.* is off.*voltage_v=3\.85"):
        bench(kind).open("")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leave", ["on", "off"])
def test_what_is_left_behind(bench: Any, kind: str, leave: str) -> None:
    b = bench(kind)
    instrument = b.open(f"voltage_v=3.7&leave={leave}&usb=off")
    assert b.emulator.supply.volts == pytest.approx(3.7, abs=1e-5)
    safe = instrument.safe_bytes
    instrument.close()
    b.port.close()
    assert b.port.written[-1][1] == safe
    assert b.emulator.supply.volts == (0.0 if leave == "off" else pytest.approx(3.7, abs=1e-5))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_guard_writes_stops_the_stream(bench: Any, kind: str) -> None:
    b = bench(kind)
    instrument = b.open("voltage_v=3.7&leave=off&usb=off")
    instrument.begin()
    b.port.read(0.1)
    assert b.emulator.clock.running
    b.emulator.receive(instrument.safe_bytes, b.clock.now())
    assert not b.emulator.clock.running
    assert b.emulator.supply.volts == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_usb_passthrough_that_stays_on_is_told(bench: Any, kind: str) -> None:
    assert any("USB passthrough is on" in w for w in bench(kind).record(0.5, "voltage_v=3.85&usb=on").warnings)
    assert not any("passthrough" in w for w in bench(kind).record(0.5, "voltage_v=3.85&usb=auto").warnings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["usb=maybe", "leave=perhaps", "current_limit_a=20", "power_up_limit_a=-1"])
def test_wrong_options_are_refused(bench: Any, kind: str, option: str) -> None:
    with pytest.raises(ConfigError, match=option.partition("=")[0]):
        bench(kind).open(f"voltage_v=3.7&{option}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_left_behind_by_another_program_is_stopped_first(bench: Any, kind: str) -> None:
    b = bench(kind, volts=3.85, **({"status": {"voltage_setting": 185}} if kind == "lvpm" else {}))
    b.open("").begin()
    b.clock.sleep(0.5)
    assert b.record(1.0, "").dropped == 0


@pytest.mark.parametrize("mine", ["lvpm", "hvpm"])
def test_another_instrument_is_recognised(bench: Any, mine: str) -> None:
    other = bench("hvpm" if mine == "lvpm" else "lvpm", volts=3.85)
    other.make = bench(mine).make
    with pytest.raises(MeterError, match="hvpm" if mine == "lvpm" else "lvpm"):
        other.open()
