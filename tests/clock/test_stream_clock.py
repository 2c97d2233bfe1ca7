"""Sample times and silent losses from arrival times, against streams whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from deepen.clock import ArrivalFit, ArrivalLog, SampleLoss, fit_arrivals, insert_losses
from deepen.clock.lost_samples import _compute_side_minima

START_S = 100.0


@dataclass
class Stream:
    """Arrivals of a stream, and when each position was really taken."""

    index: NDArray[np.int64]
    host_s: NDArray[np.float64]
    true_s: NDArray[np.float64]
    rate_hz: float

    def error_s(self, found: ArrivalFit) -> NDArray[np.float64]:
        return np.abs(found.times(self.index - 1) + 1 / self.rate_hz - self.true_s)


def stream(
    *,
    rate_hz: float = 100e3,
    duration_s: float = 10.0,
    ppm: float = 50.0,
    read_s: float = 0.01,
    latency_s: float = 0.0005,
    jitter_s: float = 0.005,
    losses: tuple[tuple[float, int], ...] = (),
    stall: tuple[float, float] | None = None,
    queue_s: float = 0.0,
    seed: int = 0,
) -> Stream:
    rng = np.random.default_rng(seed)
    at = np.arange(read_s, duration_s, read_s)
    taken = np.floor(at * rate_hz + 1e-6).astype(np.int64)
    true_s = START_S + taken / rate_hz * (1 + ppm * 1e-6)
    lost = np.zeros_like(taken)
    for moment, count in losses:
        lost[at >= moment] += count
    delay = latency_s + rng.uniform(0, jitter_s, at.size)
    if queue_s:
        delay = latency_s + np.minimum(rng.exponential(queue_s, at.size), 8 * queue_s)
    if stall is not None:
        during = (at >= stall[0]) & (at < sum(stall))
        delay[during] += sum(stall) - at[during]
    return Stream(np.maximum.accumulate(taken - lost), np.maximum.accumulate(true_s + delay), true_s, rate_hz)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ppm", [-80.0, 0.0, 50.0, 200.0])
@pytest.mark.parametrize("duration_s", [0.3, 1.0, 10.0, 60.0])
def test_times_are_true_within_the_stated_error(seed: int, ppm: float, duration_s: float) -> None:
    given = stream(ppm=ppm, duration_s=duration_s, seed=seed)
    found = fit_arrivals(given.index, given.host_s, given.rate_hz, round_trip_s=0.001, quantum=64)
    assert found.losses == ()
    assert found.unlocated_losses == 0
    assert np.quantile(given.error_s(found), 0.95) < 3 * found.clock.error_s
    assert found.clock.error_s < 1e-3


def test_a_long_stream_tells_the_clock_to_a_part_in_a_million() -> None:
    given = stream(duration_s=60.0)
    found = fit_arrivals(given.index, given.host_s, given.rate_hz, round_trip_s=0.001)
    assert found.clock.rate == pytest.approx(1 + 50e-6, abs=1e-6)
    assert found.rate_hz == pytest.approx(100e3 / (1 + 50e-6), rel=1e-6)
    assert found.clock.method == "arrival"
    assert found.delay_s == pytest.approx(0.0025, rel=0.3)


@pytest.mark.parametrize("seed", range(5))
def test_a_stall_that_catches_up_loses_nothing(seed: int) -> None:
    given = stream(stall=(2.0, 0.5), seed=seed)
    found = fit_arrivals(given.index, given.host_s, given.rate_hz, round_trip_s=0.001, quantum=64)
    assert found.losses == ()
    assert found.problems == ()


@pytest.mark.parametrize(
    ("losses", "rate_hz", "jitter_s"),
    [
        (((3.0, 64),), 100e3, 0.0005),
        (((3.0, 64), (3.5, 128), (7.0, 64)), 100e3, 0.0002),
        (((3.0, 6400),), 100e3, 0.005),
        (((4.0, 160),), 5e3, 0.005),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_losses_the_counter_cannot_see_are_found_by_the_clock(
    losses: tuple[tuple[float, int], ...], rate_hz: float, jitter_s: float, seed: int
) -> None:
    given = stream(losses=losses, rate_hz=rate_hz, jitter_s=jitter_s, seed=seed)
    quantum = 64 if rate_hz > 1e4 else 16
    found = fit_arrivals(given.index, given.host_s, rate_hz, round_trip_s=0.001, quantum=quantum)
    error = sum(loss.error_samples for loss in found.losses)
    assert sum(loss.samples for loss in found.losses) == pytest.approx(sum(count for _, count in losses), abs=error)
    assert len(found.problems) == len(found.losses) > 0
    for loss in found.losses:
        assert any(
            loss.after_index / rate_hz - 0.3 <= moment <= loss.before_index / rate_hz + 0.3 for moment, _ in losses
        )
    times = found.times(np.unique(given.index))
    assert np.all(np.diff(times) > 0)
    assert np.median(given.error_s(found)) < 3 * found.clock.error_s


def test_samples_counted_twice_are_taken_out_and_time_still_ascends() -> None:
    given = stream(losses=((3.0, -640),), jitter_s=0.0005)
    found = fit_arrivals(given.index, given.host_s, given.rate_hz, round_trip_s=0.001, quantum=64)
    assert sum(loss.samples for loss in found.losses) == -640
    assert "counted twice" in found.problems[0]
    every = np.arange(int(given.index[0]), int(given.index[-1]))
    assert np.all(np.diff(found.times(every)) > 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [-640, 640])
def test_steps_smaller_than_the_usual_delay_are_seen_against_its_floor(seed: int, count: int) -> None:
    """Queued transfers with 5 ms of delay on average: the step of 6.4 ms is not in any single arrival."""
    given = stream(duration_s=6.0, read_s=0.001, losses=((2.95, count),), queue_s=0.005, seed=seed)
    found = fit_arrivals(given.index, given.host_s, given.rate_hz, round_trip_s=0.001, quantum=64)
    told = sum(loss.samples for loss in found.losses)
    assert told == pytest.approx(count, abs=0.4 * abs(count))
    assert found.problems


@pytest.mark.parametrize("seed", range(6))
def test_queued_transfers_alone_lose_nothing(seed: int) -> None:
    given = stream(duration_s=20.0, read_s=0.001, queue_s=0.005, seed=seed)
    found = fit_arrivals(given.index, given.host_s, given.rate_hz, round_trip_s=0.001, quantum=64)
    assert found.losses == ()
    assert found.problems == ()


def test_a_stream_slower_than_any_clock_has_lost_samples_throughout() -> None:
    given = stream()
    kept = given.index * 32 // 100  # a third arrives, as users of one instrument report
    found = fit_arrivals(kept, given.host_s, given.rate_hz, round_trip_s=0.001, quantum=64)
    total = found.unlocated_losses + sum(loss.samples for loss in found.losses)
    assert total == pytest.approx(int(given.index[-1] - kept[-1]), rel=0.01)
    assert any("fewer samples" in problem for problem in found.problems)


def test_a_stream_faster_than_any_clock_is_a_problem() -> None:
    given = stream(ppm=-2000.0)
    found = fit_arrivals(given.index, given.host_s, given.rate_hz, round_trip_s=0.001)
    assert any("more samples" in problem for problem in found.problems)


def test_without_a_round_trip_the_transport_delay_is_part_of_the_error() -> None:
    given = stream(duration_s=60.0)
    known = fit_arrivals(given.index, given.host_s, given.rate_hz, round_trip_s=0.0001)
    unknown = fit_arrivals(given.index, given.host_s, given.rate_hz)
    assert unknown.clock.error_s > known.clock.error_s + 1e-4


def test_the_moment_the_stream_was_asked_for_bounds_the_transport_delay() -> None:
    given = stream(duration_s=60.0, latency_s=0.0001)
    found = fit_arrivals(given.index, given.host_s, given.rate_hz, begun=(0, START_S - 0.0001))
    assert np.median(given.error_s(found)) < 20e-6
    assert found.clock.error_s < 100e-6
    assert found.clock.error_s < fit_arrivals(given.index, given.host_s, given.rate_hz).clock.error_s / 2


def test_one_arrival_is_enough() -> None:
    found = fit_arrivals(np.array([100]), np.array([5.0]), 1000.0, round_trip_s=0.0)
    assert found.times(np.array([100]))[0] == pytest.approx(5.0)


def test_arrivals_of_different_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="as many"):
        fit_arrivals(np.array([1, 2]), np.array([1.0]), 1000.0)


def test_the_log_keeps_the_least_delayed_arrival_of_every_stretch() -> None:
    given = stream(duration_s=10.0, read_s=0.001)
    log = ArrivalLog(given.rate_hz)
    for index, host_s in zip(given.index.tolist(), given.host_s.tolist(), strict=True):
        log.add(index, host_s)
    index, host_s = log.arrays()
    assert index.size <= 1001
    all_of_it = fit_arrivals(given.index, given.host_s, given.rate_hz, round_trip_s=0.001)
    kept = fit_arrivals(index, host_s, given.rate_hz, round_trip_s=0.001)
    assert kept.clock.rate == pytest.approx(all_of_it.clock.rate, abs=2e-6)
    probe = np.array([0, int(given.index[-1])])
    assert kept.times(probe) == pytest.approx(all_of_it.times(probe), abs=50e-6)


def test_floors_are_the_least_of_each_side() -> None:
    level = np.random.default_rng(0).random(40)
    for n in (1, 2, 3, 8):
        before, after = _compute_side_minima(level, n)
        for k in range(39):
            assert before[k] == level[max(0, k - n + 1) : k + 1].min()
            assert after[k] == level[k + 1 : k + 1 + n].min()


@pytest.mark.parametrize("width", [1, 4, 5, 40, 400])
@pytest.mark.parametrize("samples", [-40, -5, -1, 1, 5, 40])
def test_what_lies_after_a_loss_or_a_double_count_is_at_its_true_place(samples: int, width: int) -> None:
    index = np.arange(1000, dtype=np.int64)
    moved = insert_losses(index, (SampleLoss(500, samples, 0.5, 500 + width),))
    assert moved[500 + width :].tolist() == (index[500 + width :] + samples).tolist()
    untouched = min(500, 500 + width + samples - 1)
    assert moved[:untouched].tolist() == index[:untouched].tolist()
    assert np.all(np.diff(moved) > 0)


def test_doubtful_stretches_that_overlap_are_one() -> None:
    index = np.arange(300, dtype=np.int64)
    losses = (SampleLoss(90, 7, 0.5, 120), SampleLoss(110, -30, 0.5, 125), SampleLoss(130, -3, 0.5, 131))
    moved = insert_losses(index, losses)
    assert np.all(np.diff(moved) > 0)
    assert moved[131:].tolist() == (index[131:] - 26).tolist()
    pieces = [insert_losses(index[a : a + 7], losses) for a in range(0, 300, 7)]
    assert np.concatenate(pieces).tolist() == moved.tolist()


@pytest.mark.parametrize("ppm", [-40.0, 40.0])
@pytest.mark.parametrize("seed", range(4))
def test_samples_in_step_with_the_transfers_are_not_taken_for_losses(ppm: float, seed: int) -> None:
    """At 1 kHz and a transfer each 2 ms, the last sample of a transfer slips into the next one now and then."""
    rng = np.random.default_rng(seed)
    host_s = np.arange(1, 20_000) * 2e-3
    index = np.floor(host_s * 1000.0 * (1 + ppm * 1e-6) + rng.uniform()).astype(np.int64)
    found = fit_arrivals(index, START_S + host_s + 1e-3 + rng.exponential(1e-3, host_s.size).clip(0, 8e-3), 1000.0)
    assert found.losses == ()


def test_a_large_step_is_taken_out_before_small_ones_are_judged() -> None:
    given = stream(rate_hz=1000.0, duration_s=4.0, read_s=0.01, jitter_s=0.001, losses=((1.3, -300),), ppm=0.0)
    found = fit_arrivals(given.index, given.host_s, 1000.0, round_trip_s=0.001)
    assert [loss.samples for loss in found.losses] == [-300]


@pytest.mark.parametrize("seed", range(4))
def test_samples_counted_twice_right_after_the_start_are_told_by_the_moment_it_was_asked_for(seed: int) -> None:
    given = stream(rate_hz=1000.0, duration_s=4.0, jitter_s=0.001, losses=((0.035, -25),), seed=seed)
    assert fit_arrivals(given.index, given.host_s, 1000.0).losses == ()  # three arrivals before: not enough to tell
    found = fit_arrivals(given.index, given.host_s, 1000.0, begun=(0, START_S - 0.0002))
    assert [loss.samples for loss in found.losses] == pytest.approx([-25], abs=1)
    assert "counted twice" in found.problems[0]
    assert found.losses[0].before_index < 100
    late = given.index > 100
    assert given.error_s(found)[late].max() < 3 * found.clock.error_s + 1e-3


def test_a_stream_that_ran_before_it_was_asked_for_tells_nothing_by_that() -> None:
    given = stream(rate_hz=1000.0, duration_s=4.0, jitter_s=0.001)
    found = fit_arrivals(given.index, given.host_s, 1000.0, begun=(0, START_S + 0.5))
    assert found.losses == ()
    assert found.clock == fit_arrivals(given.index, given.host_s, 1000.0).clock


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("moment_s", [3.5, 3.7])
def test_a_loss_shortly_before_the_end_is_found(moment_s: float, seed: int) -> None:
    given = stream(rate_hz=200.0, duration_s=4.0, jitter_s=0.002, losses=((moment_s, 20),), seed=seed)
    found = fit_arrivals(given.index, given.host_s, 200.0)
    assert [loss.samples for loss in found.losses] == [20]


def test_one_lost_sample_is_found_where_samples_come_alone() -> None:
    given = stream(rate_hz=200.0, duration_s=4.0, jitter_s=0.001, losses=((1.5, 1),))
    assert [loss.samples for loss in fit_arrivals(given.index, given.host_s, 200.0).losses] == [1]
