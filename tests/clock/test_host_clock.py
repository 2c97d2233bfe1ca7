from __future__ import annotations

import numpy as np
import pytest

from deepen.clock.host_clock import ClockMap, fit_pings
from deepen.errors import MeasureError

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
