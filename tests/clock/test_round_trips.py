"""A device's clock on the host's: the stated error holds, and sleep is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deepen.clock.host_clock import ClockMap
from deepen.clock.round_trips import KEEP_S, MOST, DeviceClock, RoundTrip, fit_pings
from deepen.errors import LinkError, MeasureError

PPM = 40e-6
HALF = 3**0.5


def device(host_s: float) -> float:
    """A clock that began 500 s before the host's and runs 40 ppm fast."""
    return 500.0 + host_s * (1 + PPM)


class RoundTripBench:
    """Asks a device over a link whose ways take 0.2 to 2 ms each, unequally."""

    def __init__(self, seed: int, boot: bool = True) -> None:
        self.rng = np.random.default_rng(seed)
        self.now = 100.0
        self.slept = 7.0
        self.boot = boot
        self.least = self.rng.uniform(2e-4, 8e-4, 2)

    def delay(self, way: int) -> float:
        return float(self.least[way] + self.rng.exponential(5e-4))

    def ask(self, block_s: float = 0.0) -> tuple[RoundTrip, float, float]:
        sent = self.now
        start = sent + self.delay(0)
        end = start + block_s
        self.now = end + self.delay(1)
        reply: dict[str, Any] = {"start_ns": round(device(start) * 1e9), "end_ns": round(device(end) * 1e9)}
        if self.boot:
            reply |= {f"{k}_boot_ns": reply[f"{k}_ns"] + round(self.slept * 1e9) for k in ("start", "end")}
        return RoundTrip.of(sent, reply, self.now), start, end


@pytest.mark.parametrize("boot", [True, False])
def test_blocks_lie_within_the_stated_error(boot: bool) -> None:
    for seed in range(20):
        bench, clock = RoundTripBench(seed, boot), DeviceClock()
        for _ in range(12):
            clock.add(bench.ask()[0])
        for _ in range(20):
            bench.now += 0.1
            trip, start, end = bench.ask(block_s=float(bench.rng.uniform(0.01, 0.5)))
            clock.add(trip)
            start_s, end_s, error_s = clock.locate(trip)
            assert abs(start_s - start) <= HALF * error_s + 1e-9
            assert abs(end_s - end) <= HALF * error_s + 1e-9
            assert error_s < 1e-3


def test_a_block_alone_is_a_round_trip_however_long_it_is() -> None:
    bench, clock = RoundTripBench(1), DeviceClock()
    trip, start, end = bench.ask(block_s=30.0)
    clock.add(trip)
    start_s, end_s, error_s = clock.locate(trip)
    assert abs(start_s - start) <= HALF * error_s + 1e-9
    assert abs(end_s - end) <= HALF * error_s + 1e-9
    assert trip.slack_s == pytest.approx(error_s * 12**0.5, rel=0.9)
    assert error_s < 0.01  # the drift believable over 30 s is 9 ms


def test_old_round_trips_are_forgotten_and_their_number_is_bounded() -> None:
    bench, clock = RoundTripBench(2), DeviceClock()
    for _ in range(3 * MOST):
        clock.add(bench.ask()[0])
    assert len(clock._trips) == MOST
    assert clock.least_slack_s == min(t.slack_s for t in clock._trips) > bench.least.sum()
    bench.now += KEEP_S + 1
    clock.add(bench.ask()[0])
    assert len(clock._trips) == 1
    assert DeviceClock().least_slack_s == 0.0


def test_sleep_between_blocks_starts_the_map_anew() -> None:
    bench, clock = RoundTripBench(3), DeviceClock()
    for _ in range(5):
        clock.add(bench.ask()[0])
    bench.slept += 2.0  # meanwhile the monotonic clock stood still: the device's is 2 s behind the line from now on
    trip, start, _ = bench.ask(0.01)
    trip = RoundTrip(trip.send_s, trip.receive_s, trip.start_s - 2.0, trip.end_s - 2.0, trip.slept_s)
    clock.add(trip)
    start_s, _, error_s = clock.locate(trip)
    assert abs(start_s - start) <= HALF * error_s + 1e-9


def test_a_clock_that_jumps_without_telling_is_noticed_by_its_contradiction() -> None:
    bench, clock = RoundTripBench(4, boot=False), DeviceClock()
    for _ in range(5):
        clock.add(bench.ask()[0])
    trip, start, _ = bench.ask(0.01)
    trip = RoundTrip(trip.send_s, trip.receive_s, trip.start_s - 2.0, trip.end_s - 2.0, None)
    clock.add(trip)
    with pytest.raises(MeasureError, match="contradict"):
        clock.map()
    start_s, _, error_s = clock.locate(trip)
    assert abs(start_s - start) <= HALF * error_s + 1e-9
    assert len(clock._trips) == 1


def test_a_block_longer_than_its_round_trip_is_refused() -> None:
    with pytest.raises(LinkError, match=r"the device says that 2 s passed .* the host 1.9 s"):
        RoundTrip.of(10.0, {"start_ns": 0, "end_ns": 2 * 10**9}, 11.9)
    assert RoundTrip.of(10.0, {"start_ns": 0, "end_ns": 2 * 10**9}, 11.9999).slack_s < 0  # clocks differ that much


TRUE = ClockMap(500.0, 20_000.0, 1 + 40e-6, 0.0, "given")  # the device's clock, told on the host's


def pings(rng: np.random.Generator, n: int, span_s: float, least_s: np.ndarray, spread_s: np.ndarray):
    """Round trips with exponential delays above a floor on the ways out and back; answers carry the device's time."""
    delay = least_s[:, None] + spread_s[:, None] * rng.exponential(1.0, (2, n))
    asked = 20_000.0 + np.sort(rng.uniform(0, span_s, n))
    answered = asked + delay[0]
    return asked, TRUE.to_device(answered), answered + delay[1]


@pytest.mark.parametrize("asymmetric", [False, True])
def test_the_error_stated_for_round_trips_holds_also_where_the_ways_differ(asymmetric: bool) -> None:
    within = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        least = rng.uniform(0.0, 1e-3, 2) if asymmetric else np.array([4e-4, 4e-4])
        found = fit_pings(*pings(rng, 30, 60.0, least, np.array([2e-3, 1e-3])))
        at = TRUE.to_device(np.linspace(20_000.0, 20_060.0, 7))
        worst = float(np.abs(found.to_host(at) - TRUE.to_host(at)).max())
        within += worst <= 2 * found.error_s
        assert found.method == "ping"
        assert found.error_s < 3e-3
    assert within >= 95


def test_many_quick_round_trips_find_offset_and_drift() -> None:
    rng = np.random.default_rng(0)
    found = fit_pings(*pings(rng, 500, 100.0, np.array([1e-5, 1e-5]), np.array([1e-3, 1e-3])))
    assert found.rate == pytest.approx(TRUE.rate, abs=2e-6)
    assert found.error_s < 1e-4


def test_one_round_trip_gives_its_middle() -> None:
    found = fit_pings(np.array([10.0]), np.array([3.0]), np.array([10.004]))
    assert found.to_host(3.0) == pytest.approx(10.002)
    assert (found.rate, found.error_s) == (1.0, pytest.approx(0.004 / 12**0.5))


def test_a_clock_that_wanders_widens_the_error_and_one_that_was_set_is_refused() -> None:
    sent = np.linspace(0.0, 10.0, 50)
    wander = 3e-4 * np.sin(sent)
    found = fit_pings(sent, sent + wander + 2e-4, sent + 4e-4)
    assert found.error_s > 5e-5
    stepped = sent + 2e-4 + np.where(sent > 5, 0.05, 0.0)
    with pytest.raises(MeasureError, match=r"contradict each other .*\(0\.400 ms\).*measure again"):
        fit_pings(sent, stepped, sent + 4e-4)


def test_wrong_round_trips_are_refused() -> None:
    with pytest.raises(MeasureError, match=r"as many of each"):
        fit_pings(np.array([1.0]), np.array([]), np.array([1.0]))
    with pytest.raises(MeasureError, match=r"before it was sent"):
        fit_pings(np.array([1.0]), np.array([1.0]), np.array([0.9]))
