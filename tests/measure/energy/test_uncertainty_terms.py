"""Stated uncertainties hold: known energy measured through noise, drift, jitter, and errors of gain and offset."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepen.clock.host_clock import ClockMap
from deepen.errors import MeasureError
from deepen.measure import integrate_power
from deepen.measure.energy.idle_power import IdlePower, IdlePowerLine
from deepen.measure.energy.uncertainty_budget import UncertaintyBudget, warn_missing_accuracy
from deepen.records import Accuracy, Interval, PowerTrace
from tests.support.interval_coverage import CoverageConditions, measure_known_energy

RUNS = 60
LEAST = 54  # of 60 runs, each covered with a chance of 0.95: fewer come by chance once in 50


@pytest.mark.parametrize("sampling", ["point", "mean"])
@pytest.mark.parametrize(("rate_hz", "window_s"), [(5e3, 1e-3), (5e3, 0.1), (20e3, 1e-2), (20e3, 1.0), (100e3, 0.03)])
def test_the_true_net_energy_lies_within_the_stated_uncertainty(rate_hz, window_s, sampling) -> None:
    """50 ppm drift, 5 ms jitter above a floor of up to 1 ms, 0.2 % gain, 1 mW offset, idle power that drifts."""
    outcomes = [
        measure_known_energy(window_s, CoverageConditions(rate_hz, sampling=sampling, idle_s=0.5), s)
        for s in range(RUNS)
    ]
    errors = np.array([abs(o.error_j) for o in outcomes])
    stated = np.array([o.window.uncertainty_j for o in outcomes])
    assert sum(o.covered for o in outcomes) >= LEAST
    assert np.median(stated) <= 5 * np.median(errors)  # and it is not said to be worse than it is
    gross = [abs(o.window.gross_j - o.true_gross_j) <= o.window.gross_budget.expanded_j for o in outcomes]
    assert sum(gross) >= LEAST


@pytest.mark.parametrize("rate_hz", [5e3, 20e3])
def test_a_tenth_of_a_second_is_known_to_half_a_per_cent(rate_hz: float) -> None:
    """With drift and jitter, an instrument that is itself exact, and a transport whose round trip is known."""
    exact = CoverageConditions(rate_hz, gain=0.0, offset_w=0.0, floor_s=0.4e-3, round_trip=True, idle_s=1.0)
    for window_s in (0.1, 0.5):
        worst = max(
            abs(o.error_j / o.true_net_j) for o in (measure_known_energy(window_s, exact, s) for s in range(30))
        )
        assert worst < 5e-3


def test_the_same_instrument_without_jitter_states_less() -> None:
    calm = CoverageConditions(20e3, jitter_s=0.0, floor_s=0.0, gain=0.0, offset_w=0.0, idle_s=0.5)
    rough = replace(calm, noise_w=0.5)
    a, b = (measure_known_energy(0.01, c, 1).window for c in (calm, rough))
    assert b.budget.noise > 10 * a.budget.noise
    assert b.budget.noise == pytest.approx(0.5 / 20e3 * np.sqrt(0.01 * 20e3), rel=0.25)


def flat(n: int = 1000, rate_hz: float = 1000.0, **options) -> PowerTrace:
    return PowerTrace(np.arange(n) / rate_hz, np.full(n, 2.0), rate_hz, "m", "c", "measured", **options)


def step(n: int = 1000) -> PowerTrace:
    """1 W, and 3 W from 0.4 s to 0.6 s."""
    t = np.arange(n) / 1000.0
    return PowerTrace(t, np.where((t >= 0.4) & (t < 0.6), 3.0, 1.0), 1000.0, "m", "c", "measured")


def test_gain_and_offset_come_from_the_instrument() -> None:
    trace = flat(accuracy=Accuracy(0.01, 0.1, "data sheet"))
    (gross,) = integrate_power(trace, [Interval(0.1, 0.6, "w")])
    assert gross.budget == UncertaintyBudget(gain=0.01, offset=0.05)
    (net,) = integrate_power(trace, [Interval(0.1, 0.6, "w")], IdlePowerLine((IdlePower(0.0, 0.5, 0.02),)))
    assert net.budget.gain == pytest.approx(0.01 * 0.75)
    assert net.budget.offset == 0.0  # the same meter measured idle power, so its offset cancels
    assert net.budget.idle == pytest.approx(0.02 * 0.5)
    assert net.gross_budget == gross.budget
    (given,) = integrate_power(trace, [Interval(0.1, 0.6, "w")], 0.5)
    assert (given.budget.gain, given.budget.offset, given.budget.idle) == pytest.approx((0.01, 0.05, 0.0))


def test_a_clock_error_costs_its_time_the_jump_of_power() -> None:
    trace = replace(step(), clock=ClockMap(0.0, 0.0, 1.0, 0.005, "arrival"))
    inside, burst, beside = integrate_power(
        trace, [Interval(0.45, 0.55, "inside"), Interval(0.3995, 0.5995, "burst"), Interval(0.1, 0.2, "beside")]
    )
    assert inside.budget.alignment == pytest.approx(0.0, abs=1e-12)
    assert beside.budget.alignment == pytest.approx(0.0, abs=1e-12)
    assert burst.budget.alignment == pytest.approx(0.005 * 2.0, rel=0.15)
    own = integrate_power(step(), [Interval(0.3995, 0.5995, "burst", uncertainty_s=0.005)], 1.0)[0]
    assert own.gross_budget.alignment == pytest.approx(0.005 * 3.0 * 2**0.5, rel=0.15)  # each edge for itself
    assert own.budget.alignment == pytest.approx(0.005 * 2.0 * 2**0.5, rel=0.15)  # what is gained is above idle


def test_an_idle_moment_beside_the_window_counts_however_short_it_is() -> None:
    """Back-to-back blocks: a shift of any size takes the pause between them into the window."""
    t = np.arange(10_000) / 1e5
    busy = np.where((t >= 0.03) & (t < 0.03 + 2e-4), 0.0, 2.0)
    trace = PowerTrace(t, busy, 1e5, "m", "c", "measured", clock=ClockMap(0.0, 0.0, 1.0, 3e-3, "arrival"))
    (found,) = integrate_power(trace, [Interval(0.0302, 0.05, "block")])
    assert 2e-4 * 2.0 / 2 <= found.budget.alignment <= 1.6 * 2e-4 * 2.0 / 2


def test_a_step_between_samples_costs_what_a_uniform_place_costs() -> None:
    (found,) = integrate_power(step(), [Interval(0.2, 0.8, "w")])
    assert found.budget.sampling == pytest.approx(2.0 * 1e-3 * (2 / 12) ** 0.5, rel=1e-6)
    (still,) = integrate_power(flat(), [Interval(0.2, 0.8, "w")])
    assert still.budget.standard_j == 0.0


def test_what_lies_in_a_gap_is_uncertain_by_the_spread_of_power_around_it() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        levels = rng.uniform(0.5, 4.0, 100)
        p = np.repeat(levels, 10)
        t = np.arange(1000) / 1000.0
        at = rng.integers(200, 780)
        lost = rng.integers(2, 40)
        trace = PowerTrace(t, p, 1000.0, "m", "c", "measured", gaps=((t[at], t[at + lost]),))
        hole = replace(trace, power_w=np.where((t > t[at]) & (t < t[at + lost]), 1e9, p))
        (found,) = integrate_power(hole, [Interval(0.1, 0.9, "w")], max_loss=0.1)
        (true,) = integrate_power(replace(trace, gaps=()), [Interval(0.1, 0.9, "w")])
        covered += abs(found.gross_j - true.gross_j) <= found.uncertainty_j
    assert covered >= 185


def test_repeats_and_terms_combine_as_the_root_of_squares() -> None:
    budget = UncertaintyBudget(gain=3.0, repeats=4.0)
    assert (budget.standard_j, budget.expanded_j) == (5.0, 10.0)
    assert budget.per_run(10).terms()["gain"] == pytest.approx(0.3)
    assert list(budget.terms()) == ["gain", "offset", "alignment", "sampling", "noise", "idle", "gaps", "repeats"]


def test_an_instrument_that_states_nothing_is_said_so() -> None:
    assert warn_missing_accuracy(Accuracy(), "measured", "m")[0].code == "accuracy"
    assert warn_missing_accuracy(Accuracy(0.01, 0.0, "data sheet"), "measured", "m") == ()
    assert warn_missing_accuracy(Accuracy(), "simulated", "m") == ()


def test_idle_power_runs_linearly_between_its_measurements() -> None:
    line = IdlePowerLine.through([IdlePower(10.0, 2.0, 0.1), IdlePower(0.0, 1.0, 0.2)])
    start, end = np.array([0.0, -2.0, 9.0, 4.0]), np.array([10.0, 0.0, 12.0, 6.0])
    assert line.energy_j(start, end) == pytest.approx([15.0, 2.0, 1.95 + 4.0, 3.0])
    assert line.power_w(np.array([-1.0, 5.0, 20.0])) == pytest.approx([1.0, 1.5, 2.0])
    assert line.standard_w(np.array([4.0]), np.array([6.0]))[0] == pytest.approx(np.hypot(0.5, np.hypot(0.05, 0.1)))
    assert line.standard_w(np.array([-5.0]), np.array([-3.0]))[0] == pytest.approx(0.2)
    assert line.change_w(np.array([1.0, -5.0]), np.array([2.0, -3.0])) == pytest.approx([1.0, 0.0])
    with pytest.raises(MeasureError, match="at least one measurement"):
        IdlePowerLine(())
