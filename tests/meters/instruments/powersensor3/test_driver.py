"""PowerSensor3's conversation, and its driver against the emulator that was written from the protocol on its own."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deepen.errors import ConfigError, MeterError
from deepen.meters.instruments.powersensor3.driver import DRIVER, PowerSensor3Instrument
from deepen.meters.stream.types import Instrument, Parser
from deepen.meters.types import MeterContext, MeterSpec
from deepen.testing.clock import VirtualClock
from deepen.testing.instruments.faults import FAULT_MAKERS, CounterJump, Fault, NoCalibration, SplitReads, Unplug
from deepen.testing.instruments.powersensor3 import PowerSensor3Emulator as Emulator
from deepen.testing.instruments.powersensor3 import SensorPair
from deepen.testing.instruments.pty import serve_emulator
from deepen.testing.instruments.signal import SineSignal, StepSignal, SummedSignal
from deepen.testing.instruments.virtual import VirtualPort

RAILS = (SensorPair("12V", 12.0, 0.7), SensorPair("USB-C", 5.0, 0.3, sensitivity=0.4, gain=0.5))


@pytest.fixture
def bench(virtual_bench) -> Callable[..., Any]:
    """Makes a bench; keyword arguments that are no option of it go to the emulator."""

    def make(
        signal: Any = None,
        *,
        faults: tuple[Fault, ...] = (),
        max_loss: float = 1.0,
        options: dict[str, str] | None = None,
        blind: bool = False,
        **unit: Any,
    ) -> Any:
        emulator = Emulator(signal or StepSignal([], [20.0]), **{"noise_a": 0.05, "noise_v": 0.03, **unit})
        if blind:  # the voltage sensor of the first pair is not plugged in
            emulator.config = emulator.config[:81] + b"\0" + emulator.config[82:]
        return virtual_bench(emulator, VirtualClock(), PowerSensor3Instrument, options or {}, faults, max_loss)

    return make


# ---- conversation ----------------------------------------------------------------------------------------------------


def test_it_is_an_instrument(bench) -> None:
    unit = bench()
    assert isinstance(unit.instrument, Instrument)
    assert isinstance(unit.instrument.begin(), Parser)
    assert (unit.instrument.rate_hz, unit.instrument.source, unit.instrument.safe_bytes) == (20_000, "simulated", b"T")
    assert "F411-1.6.1" in unit.instrument.calibration_id
    assert "MLX91221-10A 1.65 V 0.12" in unit.instrument.calibration_id


def test_only_harmless_commands_are_sent(bench) -> None:
    assert set(bench().sent()) == {b"T", b"R", b"\0", b"V", b"S"}


@pytest.mark.parametrize("rate_hz", [20_000.0, 10_000.0, 4_000.0, 17_500.0])
def test_the_rate_is_found_not_assumed(bench, rate_hz: float) -> None:
    unit = bench(rate_hz=rate_hz)
    assert unit.instrument.rate_hz == pytest.approx(rate_hz, rel=5e-5)
    trace = unit.record(0.3)
    assert trace.dropped == 0
    assert trace.power_w.mean() == pytest.approx(20.0, rel=5e-3)


def test_pairs_are_chosen_by_number_and_name(bench) -> None:
    for wanted, pairs, power_w in (
        ("", (0, 1), 20.0),
        ("1", (1,), 6.0),
        ("usb-c, 12V", (1, 0), 20.0),
        ("0,0", (0,), 14.0),
    ):
        unit = bench(pairs=RAILS, options={"pairs": wanted} if wanted else {})
        assert unit.instrument.pairs == pairs
        assert unit.record(0.1).power_w.mean() == pytest.approx(power_w, rel=5e-3)


@pytest.mark.parametrize(
    ("options", "unit", "named"),
    [
        ({"pairs": "2"}, {}, "pair '2'.*0 \\(12V\\)"),
        ({"pairs": "5V"}, {}, "5V"),
        ({"pairs": ","}, {}, "pair ''"),
        ({"voltage_v": "12"}, {}, "measures the voltage itself"),
        ({"voltage_v": "-1"}, {"blind": True}, "voltage_v=-1"),
        ({}, {"blind": True}, "no voltage sensor"),
    ],
)
def test_options_that_do_not_fit_the_sensors_are_refused(bench, options, unit, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        bench(options=options, **unit)


def test_a_pair_without_a_voltage_sensor_takes_the_voltage_told(bench) -> None:
    unit = bench(options={"voltage_v": "12"}, blind=True)
    assert unit.record(0.1).power_w.mean() == pytest.approx(20.0, rel=5e-3)
    assert "12 V" in unit.instrument.calibration_id


@pytest.mark.parametrize(
    ("answer", "heard"),
    [
        (lambda sent: b"", "does not answer"),
        (lambda sent: b"?\r\n" if sent == b"R" else b"", "not the configuration"),
        (lambda sent: b"\x01" * 41, "keeps|not the configuration|never configured"),
        (lambda sent: None, "keeps sending"),
    ],
)
def test_other_instruments_are_told(talk_port, answer: Callable[[bytes], bytes | None], heard: str) -> None:
    port = talk_port(answer)
    with pytest.raises(MeterError, match=heard):
        PowerSensor3Instrument(port, MeterSpec("powersensor3", "port"), "measured")
    assert set(port.sent) <= {b"T", b"R", b"\0"}
    assert port.waited_s < 10


def test_sensors_that_were_never_configured_are_told(bench) -> None:
    with pytest.raises(MeterError, match="psconfig"):
        bench(faults=(NoCalibration(),))


@pytest.mark.parametrize("sensitivity", [0.0, float("nan")])
def test_a_sensor_without_calibration_is_refused_unless_it_is_left_out(sensitivity: float) -> None:
    def broken(**options: str) -> Any:
        emulator = Emulator(StepSignal([], [20.0]), pairs=RAILS)
        bad = struct.pack("<f", sensitivity)
        emulator.config = emulator.config[: 82 + 36] + bad + emulator.config[82 + 40 :]
        clock = VirtualClock()
        return PowerSensor3Instrument(
            VirtualPort(emulator, clock), MeterSpec("powersensor3", "port", options), "simulated"
        )

    with pytest.raises(MeterError, match=r"sensor 2 .*pairs=0"):
        broken()
    assert broken(pairs="0").pairs == (0,)


def test_nothing_in_use_is_told(virtual_bench) -> None:
    emulator = Emulator(StepSignal([], [20.0]))
    emulator.config = struct.pack("<16s16sff?", b"", b"", 0.0, 1.0, False) * 8
    with pytest.raises(MeterError, match="no current sensor"):
        virtual_bench(emulator, VirtualClock(), PowerSensor3Instrument, {})


def test_closing_stops_the_stream_and_is_harmless_when_the_port_is_gone(bench) -> None:
    unit = bench()
    unit.meter.start()
    unit.meter.close()
    assert not unit.emulator.clock.running
    gone = bench(faults=(Unplug(0.3),))
    gone.meter.start()
    with pytest.raises(MeterError, match="gone"):
        gone.run(1)
    gone.instrument.close()


# ---- against the emulator --------------------------------------------------------------------------------------------


def test_known_energy_of_steps(bench) -> None:
    start_s = VirtualClock().now()
    unit = bench(StepSignal(start_s + 0.5 + 0.03 * np.arange(60), 5 + 30.0 * (np.arange(61) % 3)), pairs=RAILS)
    trace = unit.record(2.0)
    true_j = unit.emulator.energy_j(float(trace.t_s[0]) - 5e-5, float(trace.t_s[-1]))
    assert float(trace.power_w.sum()) * 5e-5 == pytest.approx(true_j, rel=3e-3)
    assert (trace.dropped, trace.gaps, trace.sampling) == (0, (), "mean")


def test_marks_are_told_where_they_came(bench) -> None:
    unit = bench()
    unit.meter.start()
    unit.run(0.2)
    unit.meter.mark()
    unit.run(0.2)
    trace = unit.meter.stop()
    marked = trace.t_s[trace.logic == 1]
    assert marked == pytest.approx(unit.emulator.marks, abs=2e-3)
    assert marked.size == 1


def test_drift_of_its_clock_is_found(bench) -> None:
    assert bench(ppm=-50).record(10.0).clock.rate == pytest.approx(1 + 50e-6, abs=20e-6)


HARMLESS = {"split reads", "bad checksums", "stall with burst", "voltage droop"}
"""Faults that change nothing here; a droop is measured."""


@pytest.mark.parametrize("name", FAULT_MAKERS)
def test_no_fault_gives_a_wrong_number_without_a_word(bench, energy_of, name: str) -> None:
    start_s = VirtualClock().now()
    signal = SummedSignal(StepSignal([start_s + 1.7], [30.0, 10.0]), SineSignal(2.0, 70.0))
    # A jump of 5 us, as for other instruments, is within the tolerance of stamps and moves nothing.
    special = {"split reads": SplitReads(most=61), "counter jump": CounterJump(0.5, by=300)}
    fault = special.get(name) or FAULT_MAKERS[name](0.5)
    expected = {w.split(":")[0] for w in bench(signal).record(1.5).warnings}
    try:
        unit = bench(signal, faults=(fault,))
        trace = unit.record(1.5)
    except MeterError as error:
        assert name in {"endless stall", "unplug", "missing calibration"}, error
        return
    told = {w.split(":")[0] for w in trace.warnings} - expected
    assert name in HARMLESS or told or trace.dropped or trace.gaps
    true_j = unit.emulator.energy_j(float(trace.t_s[0]), float(trace.t_s[-1]))
    assert energy_of(trace) == pytest.approx(true_j, rel=0.01)


# ---- on a pseudo-terminal --------------------------------------------------------------------------------------------


@pytest.mark.serial
def test_the_driver_on_a_pseudo_terminal() -> None:
    with serve_emulator(Emulator(StepSignal([], [20.0]), noise_a=0.05), buffer_bytes=1 << 28) as served:
        meter = DRIVER.open(MeterSpec("powersensor3", served.path), MeterContext())
        try:
            meter.start()
            meter.mark()
            time.sleep(0.3)
            trace = meter.stop()
        finally:
            meter.close()
        assert (trace.source, trace.meter_id) == ("simulated", "powersensor3")
        assert trace.power_w.mean() == pytest.approx(20.0, rel=1e-2)
        assert trace.dropped == served.lost() == 0
        assert np.count_nonzero(trace.logic) == 1
