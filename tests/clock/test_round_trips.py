"""A device's clock on the host's: the stated error holds, and sleep is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deepen.clock.round_trips import KEEP_S, MOST, DeviceClock, RoundTrip
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
