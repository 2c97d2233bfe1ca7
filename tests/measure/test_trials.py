from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from deepen.measure.energy.uncertainty_budget import UncertaintyBudget
from deepen.measure.trials import Trial, combine_trials, compute_relative_error, estimate_trend, select_trials
from deepen.records import Interval


def trial(net_j: float, *, cpu: float = 1.0, latency_s: float = 1e-3, runs: int = 20, at: float = 0.0) -> Trial:
    wall = latency_s * runs
    return Trial(Interval(at, at + wall, "run", runs=runs, cpu_s=cpu * wall), net_j + latency_s, net_j)


def verdict(trials: list[Trial], threads: int = 1, excuse: bool = False, limit: float = 0.5):
    return select_trials(trials, threads, excuse_preemption=excuse, max_rejected=limit)


def test_an_outlier_is_rejected_with_its_distance() -> None:
    found = verdict([trial(e) for e in (1.00, 1.01, 0.99, 1.00, 1.02, 1.50)])
    assert [t.net_j for t in found.accepted] == [1.00, 1.01, 0.99, 1.00, 1.02]
    assert found.rejected == ({"reason": "outlier: +49.3 % from the median", "energy_j": 1.50},)
    assert found.rejected_share == pytest.approx(1 / 6)


def test_a_very_quiet_series_keeps_its_small_steps() -> None:
    assert verdict([trial(e) for e in (1.0, 1.0, 1.0, 1.0, 1.0, 1.015)]).rejected == ()
    assert len(verdict([trial(e) for e in (1.0, 1.0, 1.0, 1.0, 1.0, 1.025)]).rejected) == 1


def test_four_blocks_are_too_few_to_call_one_an_outlier() -> None:
    assert verdict([trial(e) for e in (1.0, 1.0, 1.0, 9.0)]).rejected == ()


def test_gaussian_series_lose_next_to_nothing() -> None:
    rng = np.random.default_rng(5)
    rejected = sum(len(verdict([trial(e) for e in rng.normal(1.0, 0.05, 20)]).rejected) for _ in range(200))
    assert rejected / 4000 < 0.005


def test_interrupted_blocks_are_rejected_for_one_thread_only() -> None:
    trials = [trial(1.0), trial(1.0, cpu=0.6), trial(1.0), trial(1.0), trial(1.0), trial(1.0)]
    found = verdict(trials)
    assert [r["reason"] for r in found.rejected] == ["preempted: 60 % of a core"]
    assert found.preempted == 1
    assert verdict(trials, threads=2).rejected == ()  # idle threads are no sign of anything


def test_unknown_cpu_time_rejects_nothing() -> None:
    assert verdict([trial(1.0, cpu=math.nan) for _ in range(6)]).rejected == ()


def test_a_busy_machine_is_excused_only_where_the_meter_counts_the_worker_alone() -> None:
    trials = [trial(1.0 + 0.001 * i, cpu=0.5 if i % 3 else 1.0) for i in range(9)]
    strict = verdict(trials)
    assert len(strict.rejected) == 6
    assert strict.warnings == ()
    lenient = verdict(trials, excuse=True)
    assert lenient.rejected == ()
    assert lenient.preempted == 6
    assert [w.code for w in lenient.warnings] == ["preempted"]
    assert "6 of 9 blocks were interrupted" in lenient.warnings[0].text
    few = verdict(trials[:4], excuse=True)  # two of four are not more than half: rejected as usual
    assert len(few.rejected) == 2


def test_relative_error() -> None:
    assert compute_relative_error([1.0, 3.0]) == pytest.approx(math.sqrt(2) / math.sqrt(2) / 2)
    assert compute_relative_error([2.0] * 10) == 0.0
    assert math.isinf(compute_relative_error([1.0]))
    assert math.isinf(compute_relative_error([1.0, -1.0]))


def test_trend_is_reported_only_when_it_stands_out_of_the_noise() -> None:
    rng = np.random.default_rng(3)
    assert estimate_trend([1.0 + 0.01 * i for i in range(11)]) == pytest.approx(0.1 / 1.05)
    noise = rng.normal(1.0, 0.05, 12)
    assert estimate_trend(noise.tolist()) == 0.0
    assert estimate_trend([1.0, 2.0, 3.0]) == 0.0  # too few
    assert estimate_trend([1.0] * 10) == 0.0


def test_what_is_wrong_alike_stays_and_what_differs_between_blocks_shrinks() -> None:
    each = UncertaintyBudget(gain=0.1, alignment=0.2, gaps=0.3, noise=0.4, sampling=0.5, offset=0.6)
    trials = [replace(trial(e), budget=each) for e in (1.0, 1.1, 0.9, 1.0)]
    found = combine_trials(trials, resolution_j=0.02, update_s=0.0, idle_std_w=0.5)
    assert (found.gain, found.alignment, found.gaps, found.offset) == pytest.approx((0.1, 0.2, 0.3, 0.6))
    assert (found.noise, found.sampling) == pytest.approx((0.2, 0.5))
    assert found.repeats == pytest.approx(np.std([1.0, 1.1, 0.9, 1.0], ddof=1) / 2)
    assert found.idle == pytest.approx(0.5e-3)
    assert found.standard_j == pytest.approx(math.sqrt(sum(v**2 for v in found.terms().values())))
    assert found.expanded_j == 2 * found.standard_j


def test_a_counters_step_and_update_interval_are_a_floor_of_the_sampling_term() -> None:
    trials = [trial(e) for e in (1.0, 1.1, 0.9, 1.0)]
    found = combine_trials(trials, resolution_j=0.02, update_s=1e-5, idle_std_w=0.0)
    assert found.sampling == pytest.approx(math.hypot(0.02, 1000.0 * 1e-5) / math.sqrt(6) / 20 / 2)
    one = combine_trials(trials[:1], resolution_j=0.0, update_s=0.0, idle_std_w=0.0)
    assert one.standard_j == 0.0


def test_edge_uncertainty_matches_a_simulated_counter() -> None:
    """A counter stale by up to an update at both edges: the formula gives the spread that results."""
    rng = np.random.default_rng(11)
    power_w, update_s = 1000.0, 1e-5
    errors = power_w * (rng.uniform(0, update_s, 20_000) - rng.uniform(0, update_s, 20_000))
    found = combine_trials([trial(1.0, runs=1)], resolution_j=0.0, update_s=update_s, idle_std_w=0.0)
    assert found.sampling == pytest.approx(float(np.std(errors)), rel=0.03)
