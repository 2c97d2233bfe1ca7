"""The meter around a streaming instrument: in virtual time, and with its thread on a pseudo-terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deepen.errors import ConfigError, MeterError
from deepen.meters import MeterContext, MeterSpec
from deepen.meters.ports.discover import UsbId
from deepen.meters.ports.serial_port import open_port
from deepen.meters.stream import meter as stream_meter
from deepen.meters.stream.meter import StreamMeter, make_stream_driver, read_number_option
from deepen.meters.types import Meter
from deepen.records import Interval
from deepen.testing.clock import VirtualClock
from tests.support.terminals import read_bytes

Toy = Callable[..., tuple[Any, Any]]


def virtual(clock: VirtualClock, pair: tuple[Any, Any], **options: Any) -> StreamMeter:
    instrument, line = pair
    return StreamMeter(instrument, line, now=clock.now, threaded=False, **options)


def test_a_recording_covers_the_time_between_start_and_stop(clock: VirtualClock, toy: Toy) -> None:
    instrument, line = toy(ppm=40.0, power_w=lambda t: 2.0 if t < 1001.0 else 6.0)
    meter = virtual(clock, (instrument, line))
    assert isinstance(meter, Meter)
    meter.start()
    began = clock.now()
    meter.mark()
    meter.observe(Interval(began, began, "run"))
    meter.run_until(began + 2.0)
    stopped = clock.now()
    trace = meter.stop()
    assert trace.t_s[0] < began
    assert trace.t_s[-1] > stopped
    assert stopped - began == pytest.approx(2.0)
    assert trace.dropped == 0
    assert trace.gaps == ()
    true = np.array([line.time_of(k) for k in range(trace.t_s.size)])
    assert np.abs(trace.t_s - true).max() < 1.5e-3  # a millisecond of transport the host cannot see, and half a period
    step = int(np.flatnonzero(np.diff(trace.power_w))[0])
    assert trace.t_s[step] == pytest.approx(1001.0, abs=2.5e-3)
    assert (trace.meter_id, trace.calibration_id, trace.source) == ("toy", "toy T1", "simulated")
    assert trace.accuracy.reference == "toy sheet"
    assert (meter.update_s, meter.scope, meter.resolution_j) == (1e-3, "machine", 0.0)
    assert instrument.calls == ["begin", "mark", "end"]


def test_a_meter_records_again_and_leaves_the_instrument_safe_once(clock: VirtualClock, toy: Toy) -> None:
    instrument, line = toy()
    meter = virtual(clock, (instrument, line))
    for _ in range(2):
        meter.start()
        meter.run_until(clock.now() + 0.2)
        assert meter.stop().power_w.tolist() == [2.0] * meter.ending.samples
    meter.start()
    meter.close()
    assert line.closed
    assert instrument.calls == ["begin", "end", "begin", "end", "begin", "end", "close"]
    assert line.written.endswith(b"-!")


def test_starting_twice_and_stopping_first_are_errors(clock: VirtualClock, toy: Toy) -> None:
    meter = virtual(clock, toy())
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()
    with pytest.raises(MeterError, match="start it first"):
        meter.pump()
    meter.start()
    with pytest.raises(MeterError, match="stop it first"):
        meter.start()
    meter.close()


def test_more_loss_than_allowed_is_refused_unless_allowed(clock: VirtualClock, toy: Toy) -> None:
    lost = frozenset(range(500, 510))
    meter = virtual(clock, toy(missing=lost))
    meter.start()
    meter.run_until(clock.now() + 2.0)
    with pytest.raises(MeterError, match=r"10 of 20\d\d samples were lost \(0\.4\d+ %, 0\.1 % allowed\).*max_loss"):
        meter.stop()
    assert meter.ending is not None
    assert meter.ending.dropped == 10
    meter.close()
    instrument, line = toy(missing=lost)
    meter = virtual(clock, (instrument, line), max_loss=0.01)
    meter.start()
    meter.run_until(clock.now() + 2.0)
    trace = meter.stop()
    assert trace.dropped == 10
    assert len(trace.gaps) == 1
    true = [line.time_of(k) for k in (499, 510)]
    assert trace.gaps[0] == pytest.approx(tuple(true), abs=2e-3)


def test_losses_without_a_counter_are_found_and_refused(clock: VirtualClock, toy: Toy) -> None:
    meter = virtual(clock, toy(silent=frozenset(range(3000, 3256))))
    meter.start()
    meter.run_until(clock.now() + 8.0)
    with pytest.raises(MeterError, match="256 of"):
        meter.stop()


def test_samples_that_were_counted_twice_are_refused_like_losses(
    clock: VirtualClock, toy: Toy, toy_frames: Callable[..., bytes]
) -> None:
    instrument, line = toy()
    meter = virtual(clock, (instrument, line))
    meter.start()
    meter.run_until(clock.now() + 4.0)
    line._produce(clock.now())
    again = toy_frames(list(range(line._counter, line._counter + 256)), [2.0] * 256)
    line._due.append((line._last_due_s, again))  # the counter goes once around in an instant
    meter.run_until(clock.now() + 4.0)
    with pytest.raises(MeterError, match=r"0 of \d+ samples were lost and 256 counted twice"):
        meter.stop()


def test_a_stall_is_told_and_keeps_what_is_known(clock: VirtualClock, toy: Toy) -> None:
    instrument, line = toy(stop_s=clock.now() + 1.0)
    meter = virtual(clock, (instrument, line))
    meter.start()
    with pytest.raises(MeterError, match=r"toy has sent nothing for 2 s \(virtual\); check its cable"):
        meter.run_until(clock.now() + 10.0)
    with pytest.raises(MeterError, match="nothing for 2 s"):
        meter.stop()
    assert meter.ending is not None
    assert meter.ending.samples == 1000
    assert any(w.startswith("cut short: ") for w in meter.ending.warnings)
    meter.close()
    assert instrument.calls[-1] == "close"


def test_unplugging_is_told_and_the_port_is_released(clock: VirtualClock, toy: Toy) -> None:
    instrument, line = toy(unplug_s=clock.now() + 1.0)
    meter = virtual(clock, (instrument, line))
    meter.start()
    with pytest.raises(MeterError, match="plug it in"):
        meter.run_until(clock.now() + 2.0)
    with pytest.raises(MeterError, match="plug it in"):
        meter.stop()
    with pytest.raises(MeterError, match="plug it in"):
        meter.close()  # this toy does complain; the port is released all the same
    assert line.closed


def test_an_instrument_that_sends_nothing_at_the_start_is_told_and_stopped(clock: VirtualClock, toy: Toy) -> None:
    instrument, line = toy(stop_s=0.0)
    meter = virtual(clock, (instrument, line))
    with pytest.raises(MeterError, match="sent nothing"):
        meter.start()
    assert instrument.calls == ["begin", "end"]
    line.stop_s = float("inf")
    meter.start()  # it can be tried again
    meter.close()


def test_bytes_that_make_no_samples_are_told_at_the_start(clock: VirtualClock, toy: Toy) -> None:
    instrument, line = toy()
    line.read = lambda timeout_s: (clock.sleep(0.01), b"\0" * 7)[1]
    meter = virtual(clock, (instrument, line))
    with pytest.raises(MeterError, match=r"toy gave no samples \(resynchronised: \d+ bytes.*right instrument"):
        meter.start()


def test_a_stream_that_lags_for_ever_ends_with_a_warning(clock: VirtualClock, toy: Toy) -> None:
    instrument, line = toy()
    meter = virtual(clock, (instrument, line), max_loss=1.0)
    meter.start()
    line.ppm = -900_000.0  # from here on ten times too slow
    trace = meter.stop() if meter.run_until(clock.now() + 0.5) is None else None
    assert trace is not None
    assert trace.dropped > 0 or any(w.startswith("late: ") for w in trace.warnings)


def test_a_sink_gets_the_samples_and_memory_none(clock: VirtualClock, toy: Toy) -> None:
    got: list[np.ndarray] = []

    class RecordedSamples:
        def append(self, index: np.ndarray, power_w: np.ndarray, logic: Any = None) -> None:
            got.append(index)

    meter = virtual(clock, toy())
    meter.start(lambda inputs, start_s: RecordedSamples())
    meter.run_until(clock.now() + 0.5)
    ending = meter.stop_sink()
    assert np.concatenate(got).tolist() == list(range(ending.samples))
    assert ending.mean_w == pytest.approx(2.0)


@pytest.mark.serial
def test_the_thread_reads_a_terminal(
    terminal: tuple[int, str], streaming: Callable[..., Any], toy_instrument: Callable[..., Any]
) -> None:
    master, path = terminal
    with streaming(master):
        port = open_port(path)
        meter = StreamMeter(toy_instrument(port), port, max_loss=1.0)
        meter.start()
        moment = time.monotonic()
        time.sleep(0.1)
        meter.mark()
        trace = meter.stop()
        meter.close()
    assert trace.t_s[0] < moment
    assert set(trace.power_w.tolist()) == {2.0}
    assert trace.t_s.size > 50
    with pytest.raises(MeterError, match="gone"):
        port.write(b"x")


def test_an_error_of_the_thread_comes_out_of_the_next_call(
    terminal: tuple[int, str], streaming: Callable[..., Any], toy_instrument: Callable[..., Any]
) -> None:
    master, path = terminal
    with streaming(master):
        port = open_port(path)
        instrument = toy_instrument(port)
        meter = StreamMeter(instrument, port)
        meter.start()

        def fail(data: bytes, host_s: float) -> int:
            raise ZeroDivisionError("a parser's mistake")

        meter._capture.pump = fail  # type: ignore[method-assign,union-attr]
        meter._thread.join()  # type: ignore[union-attr]
        with pytest.raises(MeterError, match=r"reader failed \(ZeroDivisionError: a parser's mistake\)"):
            meter.mark()
        with pytest.raises(MeterError, match="reader failed"):
            meter.stop()
        meter.close()


# ---- drivers -----------------------------------------------------------------------------------------------------


def made(toy_instrument: Callable[..., Any], **options: Any) -> tuple[Any, list[Any]]:
    seen: list[Any] = []

    def make(port: Any, spec: MeterSpec, source: Any) -> Any:
        seen.append((port, spec, source))
        read_number_option(spec, "voltage_v", 1.8, 4.2, unit="V", default=3.7)
        return toy_instrument(port, source=source)

    return make_stream_driver("toy", "a toy", make, options=("voltage_v",), **options), seen


def test_a_driver_opens_what_is_named_and_labels_it(terminal: tuple[int, str], toy_instrument: Any) -> None:
    driver, seen = made(toy_instrument)
    with_default = driver.open(MeterSpec("toy", terminal[1]), MeterContext())
    assert with_default.source == "simulated"
    with_default.close()
    told = driver.open(MeterSpec("toy", terminal[1], {"source": "measured", "max_loss": "0.5"}), MeterContext())
    assert told.source == "measured"
    told.close()
    assert [source for _, _, source in seen] == ["simulated", "measured"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"volts": "3"}, "no option 'volts'; it takes: source, max_loss, voltage_v"),
        ({"max_loss": "2"}, "max_loss=2 is outside 0 to 1"),
        ({"source": "modelled"}, "source is 'measured' or 'simulated', not 'modelled'"),
        ({"voltage_v": "5"}, "voltage_v=5 is outside 1.8 to 4.2 V"),
        ({"voltage_v": "nan"}, "voltage_v=nan is outside"),
        ({"voltage_v": "high"}, "voltage_v=high is outside"),
    ],
)
def test_wrong_options_are_refused_and_release_the_port(
    options: dict[str, str], message: str, terminal: tuple[int, str], toy_instrument: Any
) -> None:
    driver, _ = made(toy_instrument)
    with pytest.raises(ConfigError, match=message):
        driver.open(MeterSpec("toy", terminal[1], options), MeterContext())
    driver.open(MeterSpec("toy", terminal[1]), MeterContext()).close()


def test_a_number_without_a_default_is_required() -> None:
    with pytest.raises(ConfigError, match=r"needs voltage_v \(it sets the supply\); write toy:PORT\?voltage_v=4.2"):
        read_number_option(MeterSpec("toy"), "voltage_v", 1.8, 4.2, why="it sets the supply")
    assert read_number_option(MeterSpec("toy", options={"voltage_v": "3.3"}), "voltage_v", 1.8, 4.2) == 3.3


def test_a_conversation_that_fails_leaves_the_instrument_safe(terminal: tuple[int, str]) -> None:
    def make(port: Any, spec: MeterSpec, source: Any) -> Any:
        port.write(b"on")
        raise MeterError("toy: something else answers")

    driver = make_stream_driver("toy", "a toy", make, safe_bytes=b"off")
    with pytest.raises(MeterError, match="something else"):
        driver.open(MeterSpec("toy", terminal[1]), MeterContext())
    assert read_bytes(terminal[0], 5) == b"onoff"


def test_loop_has_no_guard_and_works(toy_instrument: Any) -> None:
    driver, seen = made(toy_instrument)
    meter = driver.open(MeterSpec("toy", "loop://"), MeterContext())
    assert seen[0][2] == "simulated"
    meter.close()


def test_the_guard_takes_over_where_closing_fails(terminal: tuple[int, str], toy_instrument: Any) -> None:
    def make(port: Any, spec: MeterSpec, source: Any) -> Any:
        instrument = toy_instrument(port)
        instrument.close = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
        return instrument

    meter = make_stream_driver("toy", "a toy", make).open(MeterSpec("toy", terminal[1]), MeterContext())
    with pytest.raises(KeyboardInterrupt):
        meter.close()
    assert read_bytes(terminal[0], 2) == b"-!"


def test_the_probe_says_what_usb_says(monkeypatch: pytest.MonkeyPatch, toy_instrument: Any) -> None:
    driver, _ = made(toy_instrument, usb_ids=[UsbId(0x1234, 1)])
    found = driver.probe(MeterContext())
    assert (found.available, found.cause) == (False, "none is plugged in")
    assert stream_meter.COMMON_OPTIONS == ("source", "max_loss")
