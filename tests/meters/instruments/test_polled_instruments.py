from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest

from deepen.errors import MeterError
from deepen.meters.polled_meter import PolledMeter
from deepen.meters.types import Meter
from deepen.records import Accuracy
from deepen.testing.clock import VirtualClock


def polled(
    clock: VirtualClock,
    read_w: Callable[[], float],
    *,
    update_s: float = 0.0,
    poll_s: float = 1000.0,
    **options: object,
) -> PolledMeter:
    return PolledMeter(
        "probe", "probe 1", read_w, update_s=update_s, resolution_j=0.0, poll_s=poll_s, now=clock.now, **options
    )


def slow(clock: VirtualClock, readings: Iterator[float], trip_s: float) -> Callable[[], float]:
    def read() -> float:
        clock.sleep(trip_s)
        return next(readings)

    return read


def test_a_reading_lies_in_the_middle_of_its_query_with_half_the_round_trip_as_error():
    clock = VirtualClock(start_s=0.0)
    meter = polled(clock, slow(clock, iter([1.0, 2.0, 3.0]), 0.02))
    meter.start()
    clock.sleep(1.0)
    meter.mark()
    clock.sleep(1.0)
    trace = meter.stop()
    assert trace.t_s.tolist() == pytest.approx([0.01, 1.03, 2.05])
    assert trace.power_w.tolist() == [1.0, 2.0, 3.0]
    assert trace.clock is not None
    assert trace.clock.error_s == pytest.approx(0.01 / math.sqrt(3))
    assert trace.clock.to_host(5.0) == 5.0


def test_a_sensor_that_updates_slowly_widens_the_error_and_sets_the_rate():
    clock = VirtualClock()
    meter = polled(clock, slow(clock, iter([1.0, 1.0]), 0.0), update_s=0.25, poll_s=0.1)
    meter.start()
    clock.sleep(0.5)
    trace = meter.stop()
    assert meter.update_s == 0.25
    assert trace.rate_hz == 4.0
    assert trace.clock is not None
    assert trace.clock.error_s == pytest.approx(0.25 / math.sqrt(3))


def test_readings_that_are_no_number_are_lost_and_leave_a_gap():
    clock = VirtualClock(start_s=0.0)
    meter = polled(clock, slow(clock, iter([1.0, math.nan, math.inf, 4.0]), 0.0))
    meter.start()
    for _ in range(2):
        clock.sleep(1.0)
        meter.mark()
    clock.sleep(1.0)
    trace = meter.stop()
    assert trace.power_w.tolist() == [1.0, 4.0]
    assert trace.dropped == 2
    assert trace.gaps == ((0.0, 3.0),)
    assert any("no number" in w for w in trace.warnings)


def test_a_long_silence_is_a_gap_and_says_so():
    clock = VirtualClock(start_s=0.0)
    meter = polled(clock, slow(clock, iter([1.0, 1.0, 1.0]), 0.0), poll_s=0.1)
    meter.start()
    meter._sampler.stop()  # the thread runs on real time
    clock.sleep(0.1)
    meter.mark()
    clock.sleep(2.0)
    trace = meter.stop()
    assert trace.gaps == ((0.1, 2.1),)
    assert any("late readings" in w for w in trace.warnings)


def test_all_readings_without_a_number_end_in_an_error():
    clock = VirtualClock()
    meter = polled(clock, slow(clock, iter([math.nan] * 2), 0.01))
    meter.start()
    with pytest.raises(MeterError, match="2 of 2 readings were no number"):
        meter.stop()


def test_two_readings_in_one_tick_count_once():
    clock = VirtualClock()
    meter = polled(clock, lambda: 2.0)
    meter.start()
    meter.mark()
    clock.sleep(1.0)
    assert meter.stop().t_s.size == 2


def test_a_new_start_forgets_the_old_trace():
    clock = VirtualClock()
    meter = polled(clock, slow(clock, iter([9.0, 9.0, 1.0, 1.0]), 0.01))
    for _ in range(2):
        meter.start()
        trace = meter.stop()
    assert trace.power_w.tolist() == [1.0, 1.0]


def test_a_failure_while_polling_is_reported_by_stop_and_close_still_releases():
    closed: list[bool] = []
    answers = iter([1.0])

    def read() -> float:
        for answer in answers:
            return answer
        raise MeterError("probe: gone; plug it in")

    meter = PolledMeter(
        "probe", "", read, update_s=0.0, resolution_j=0.0, poll_s=1e-3, on_close=lambda: closed.append(True)
    )
    meter.start()
    assert meter._sampler._thread is not None
    meter._sampler._thread.join(timeout=30)
    with pytest.raises(MeterError, match="plug it in"):
        meter.stop()
    meter.close()
    meter.close()
    assert closed == [True]


def test_it_is_a_meter_that_carries_its_accuracy_and_label():
    clock = VirtualClock()
    accuracy = Accuracy(0.001, 0.01, "data sheet")
    meter = polled(clock, slow(clock, iter([1.0, 1.0]), 0.01), accuracy=accuracy, source="simulated")
    assert isinstance(meter, Meter)
    meter.start()
    trace = meter.stop()
    assert trace.accuracy is accuracy
    assert trace.source == "simulated"


def test_a_period_of_zero_is_refused():
    with pytest.raises(ValueError, match="above zero"):
        PolledMeter("p", "", lambda: 1.0, update_s=0.0, resolution_j=0.0, poll_s=0.0)
