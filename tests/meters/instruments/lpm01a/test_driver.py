from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deepen.errors import ConfigError, MeterError
from deepen.meters.instruments.lpm01a.driver import DRIVER, Lpm01aInstrument
from deepen.meters.stream.types import Instrument
from deepen.meters.types import MeterContext, MeterSpec
from deepen.records import PowerTrace
from deepen.testing.instruments.faults import FAULT_MAKERS, ClockPause, LoseBytes, LoseFrames, Unplug
from deepen.testing.instruments.lpm01a import Lpm01aBoard
from deepen.testing.instruments.pty import serve_emulator
from deepen.testing.instruments.signal import BlockSignal, StepSignal, SwitchedSignal

IDLE_W, ACTIVE_W = 0.004, 0.060
WINDOWS = [(1004.0, 1004.4), (1006.0, 1007.5)]
Connect = Callable[..., Any]


def board(**options: Any) -> Lpm01aBoard:
    return Lpm01aBoard(BlockSignal(IDLE_W, ACTIVE_W, WINDOWS), **options)


def record(rig: Any, until_s: float = 1010.0) -> PowerTrace:
    rig.meter.start()
    rig.meter.run_until(until_s)
    trace: PowerTrace = rig.meter.stop()
    rig.meter.close()
    return trace


def energy_j(trace: PowerTrace, start_s: float, end_s: float) -> float:
    """Of a trace of means: each sample stands for the period that ends at its time."""
    edges = np.concatenate([[trace.t_s[0] - 1 / trace.rate_hz], trace.t_s])
    inside = np.clip(edges[1:], start_s, end_s) - np.clip(edges[:-1], start_s, end_s)
    return float(trace.power_w @ inside)


def test_it_is_an_instrument(connect: Connect):
    rig = connect(Lpm01aInstrument, board())
    assert isinstance(rig.instrument, Instrument)
    assert rig.instrument.serial == "004B003A3137510533333639"
    assert "3.292 V" in rig.instrument.calibration_id


@pytest.mark.parametrize(
    "options",
    [
        {"rate_hz": "1000"},
        {"rate_hz": "5000"},
        {"rate_hz": "10000"},
        {"output": "current", "rate_hz": "1000", "format": "bin_hexa"},
        {"output": "current", "rate_hz": "100000"},
    ],
)
def test_energy_of_windows_is_right_in_every_format(connect: Connect, options: dict[str, str]):
    emulator = board(ppm=50.0)
    trace = record(connect(Lpm01aInstrument, emulator, **options))
    assert trace.dropped == 0
    assert not trace.gaps
    told = [w.split(":")[0] for w in trace.warnings]
    assert told == (["voltage"] if options.get("output") == "current" else [])  # which is not measured then
    assert trace.source == "simulated"
    assert trace.sampling == ("point" if options.get("output") == "current" else "mean")
    for start, end in WINDOWS:
        assert energy_j(trace, start - 0.1, end + 0.1) == pytest.approx(
            emulator.energy_j(start - 0.1, end + 0.1), rel=2e-3
        )


def test_the_conversation_takes_control_and_sets_the_voltage_with_the_target_off(connect: Connect):
    emulator = board()
    rig = connect(Lpm01aInstrument, emulator, voltage_v="1.8", rate_hz="500")
    said = emulator.commands
    assert said[:2] == ["stop", "htc"]
    assert said.index("pwr off") < said.index("volt 1800m") < said.index("pwr on nostatus")
    for command in ("acqtime inf", "trigdelay 0", "trigsrc sw", "eventsrc d7 fal", "output energy", "freq 500"):
        assert command in said
    assert rig.instrument.voltage_v == pytest.approx(1.792)
    assert emulator.supply.volts == pytest.approx(1.792)


def test_a_target_that_has_its_voltage_is_not_switched_off(connect: Connect):
    emulator = board(setting_v=3.0)
    connect(Lpm01aInstrument, emulator, voltage_v="3.0")
    assert "pwr off" not in emulator.commands


def test_without_a_voltage_the_setting_stays_and_is_read(connect: Connect):
    emulator = board(setting_v=2.5)
    rig = connect(Lpm01aInstrument, emulator)
    assert rig.instrument.voltage_v == pytest.approx(2.492)
    assert not [c for c in emulator.commands if c.startswith("volt") and c != "volt get"]


def test_a_voltage_that_does_not_come_leaves_the_target_off(connect: Connect):
    emulator = board(error_v=-0.2)
    with pytest.raises(MeterError, match=r"reads back 2\.800 V"):
        connect(Lpm01aInstrument, emulator, voltage_v="3.0")
    assert emulator.supply.volts == 0.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"voltage_v": "3.4"}, "1.8 to 3.3"),
        ({"voltage_v": "nan"}, "1.8 to 3.3"),
        ({"rate_hz": "1234"}, "rate_hz is one of"),
        ({"rate_hz": "20000"}, "10000"),
        ({"rate_hz": "10000", "format": "ascii_dec"}, "bin_hexa"),
        ({"output": "power"}, "energy, current"),
        ({"mode": "fast"}, "dyn, stat"),
    ],
)
def test_options_outside_what_the_board_can_do_are_refused_before_anything_is_sent(
    connect: Connect, options: dict[str, str], words: str
):
    emulator = board()
    with pytest.raises(ConfigError, match=words):
        connect(Lpm01aInstrument, emulator, **options)
    assert emulator.commands == []


def test_a_board_that_refuses_a_command_is_told_with_its_reason(connect: Connect):
    with pytest.raises(MeterError, match=r"refuses 'freq 1k' \(too fast\)"):
        connect(Lpm01aInstrument, board(refused="freq", detail="too fast"))


def test_a_failed_calibration_is_told(connect: Connect):
    with pytest.raises(MeterError, match="calibration failed"):
        connect(Lpm01aInstrument, board(), [FAULT_MAKERS["missing calibration"](0.0)])


def test_something_else_at_the_port_is_named(connect: Connect):
    class Mute(Lpm01aBoard):
        def receive(self, data: bytes, t_s: float) -> bytes:
            return b""

    with pytest.raises(MeterError, match=r"no PowerShield answers at virtual:lpm01a.*name another port"):
        connect(Lpm01aInstrument, Mute(StepSignal([], [0.01])))


def test_a_stream_left_behind_by_another_host_is_stopped_first(connect: Connect):
    emulator = board()
    emulator.controlled = True
    emulator.receive(b"pwr on\r\nstart\r\n", 1000.0)
    trace = record(connect(Lpm01aInstrument, emulator))
    assert trace.dropped == 0


def test_closing_gives_control_back_and_leaves_the_target_on(connect: Connect):
    emulator = board()
    record(connect(Lpm01aInstrument, emulator))
    assert emulator.commands[-2:] == ["stop", "hrc"]
    assert not emulator.controlled
    assert emulator.supply.volts > 0


def test_events_on_d7_mark_the_trace(connect: Connect):
    emulator = board()
    for start, end in WINDOWS:
        emulator.logic.pulse(start - 0.01, start, 7)
        emulator.logic.pulse(end - 0.01, end, 7)
    trace = record(connect(Lpm01aInstrument, emulator))
    assert trace.logic is not None
    edges = np.flatnonzero(np.diff(trace.logic.astype(int)) != 0)
    assert trace.t_s[edges + 1] == pytest.approx([t for window in WINDOWS for t in window], abs=3e-3)


@pytest.mark.parametrize("rate", ["1000", "20000"])
def test_overcurrent_spoils_the_rest(connect: Connect, rate: str):
    emulator = Lpm01aBoard(StepSignal([1005.0], [0.01, 0.3]))
    options = {"rate_hz": rate, "output": "current"}
    trace = record(connect(Lpm01aInstrument, emulator, max_loss=1.0, **options))
    assert any("overcurrent" in w for w in trace.warnings)
    assert trace.gaps[-1][0] < 1005.01
    assert trace.gaps[-1][1] == pytest.approx(trace.t_s[-1])


def test_currents_above_the_range_are_clipped(connect: Connect):
    emulator = Lpm01aBoard(StepSignal([1004.0, 1004.1], [0.01, 0.055 * 3.292, 0.01]))
    trace = record(connect(Lpm01aInstrument, emulator))
    assert any(re.match("clipped: (99|100) samples", w) for w in trace.warnings)
    assert trace.gaps == (pytest.approx((1004.0, 1004.1), abs=5e-3),)


def test_a_board_that_warms_up_asks_for_a_new_calibration(connect: Connect):
    emulator = board()
    rig = connect(Lpm01aInstrument, emulator)
    emulator.celsius += 6.0
    assert any("calibrate it again" in w for w in record(rig).warnings)


def test_calibration_is_done_when_asked_for(connect: Connect):
    emulator = board()
    connect(Lpm01aInstrument, emulator, calibrate="yes")
    assert "calib" in emulator.commands


def test_swallowed_samples_are_counted_by_the_stamps(connect: Connect):
    fault = LoseFrames(5.3, 40)
    trace = record(connect(Lpm01aInstrument, board(), [fault], max_loss=0.05))
    assert fault.lost == 40
    assert trace.dropped == 40
    with pytest.raises(MeterError, match="40 of"):
        record(connect(Lpm01aInstrument, board(), [LoseFrames(5.3, 40)]))


@pytest.mark.parametrize("rate", ["1000", "10000"])
def test_the_second_in_which_samples_were_swallowed_is_a_gap(connect: Connect, rate: str):
    trace = record(
        connect(
            Lpm01aInstrument, board(), [LoseFrames(5.3, 40)], max_loss=0.05 if rate == "1000" else 1.0, rate_hz=rate
        )
    )
    assert len(trace.gaps) == 1
    start_s, end_s = trace.gaps[0]
    assert start_s < trace.t_s[0] + 5.3 < end_s < start_s + 1.1  # nobody knows where in it


def test_a_damaged_line_tells_where_its_samples_are_missing(connect: Connect):
    trace = record(
        connect(Lpm01aInstrument, board(), [LoseBytes(5.3, 1, skip=8)], max_loss=0.05)
    )  # two lines become one
    assert trace.dropped == 2
    assert trace.gaps[0][1] - trace.gaps[0][0] < 0.01


def test_a_pause_of_the_clock_between_two_stamps_is_seen_in_held_back_samples(connect: Connect):
    trace = record(connect(Lpm01aInstrument, board(), [ClockPause(5.3, 0.05)], max_loss=0.05, rate_hz="10000"))
    assert trace.dropped == pytest.approx(500, abs=20)
    start_s, end_s = trace.gaps[-1]
    assert trace.t_s[0] + 5.2 < start_s < trace.t_s[0] + 5.302 < end_s < trace.t_s[0] + 5.5


def test_unplugging_ends_in_an_error(connect: Connect):
    with pytest.raises(MeterError, match="plug it in"):
        record(connect(Lpm01aInstrument, board(), [Unplug(3.0)]))


SILENT = {"bad checksums", "split reads", "voltage droop"}  # nothing to check; harmless; means are energies


@pytest.mark.parametrize("name", sorted(set(FAULT_MAKERS) - {"missing calibration"}))
@pytest.mark.parametrize("rate", ["1000", "10000"])
def test_no_fault_yields_a_wrong_energy_without_a_word(connect: Connect, name: str, rate: str):
    emulator = board()
    try:
        trace = record(connect(Lpm01aInstrument, emulator, [FAULT_MAKERS[name](4.2)], max_loss=1.0, rate_hz=rate))
    except MeterError:
        return
    wrong = any(
        abs(energy_j(trace, a - 0.1, b + 0.1) / emulator.energy_j(a - 0.1, b + 0.1) - 1) > 5e-3 for a, b in WINDOWS
    )
    if name in SILENT:
        assert not wrong
        assert trace.dropped == 0
    if wrong:
        assert trace.dropped or trace.gaps or trace.warnings, name


@pytest.mark.serial
def test_over_a_terminal_with_a_load_that_switches():
    with serve_emulator(Lpm01aBoard(SwitchedSignal(0.005)), buffer_bytes=1 << 28) as served:
        meter = DRIVER.open(MeterSpec("lpm01a", served.path, {"rate_hz": "5000"}), MeterContext())
        try:
            meter.start()
            time.sleep(0.1)
            start = served.switch(0.1)
            time.sleep(0.2)
            end = served.switch(0.005)
            time.sleep(0.1)
            trace = meter.stop()
        finally:
            meter.close()
        assert trace.source == "simulated"
        assert trace.dropped == served.lost() == 0
        assert trace.power_w.max() == pytest.approx(0.1, rel=1e-3)
        window = (start - 0.08, end + 0.08)
        assert energy_j(trace, *window) == pytest.approx(served.energy_j(*window), rel=0.02)


def test_a_wrong_option_is_refused_by_the_driver():
    with pytest.raises(ConfigError, match="no option 'volts'"):
        DRIVER.open(MeterSpec("lpm01a", "/dev/null", {"volts": "3"}), MeterContext())
