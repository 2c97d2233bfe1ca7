"""The clock of a trace from moments known on both clocks."""

from __future__ import annotations

import numpy as np
import pytest

from deepen.clock.matched_events import ClockMatch, fit_matches
from deepen.errors import MeasureError


def test_matches_that_scatter_more_than_stated_widen_the_error() -> None:
    rng = np.random.default_rng(3)
    t = np.linspace(0, 100, 40)
    exact = [ClockMatch(float(x), float(x * (1 + 20e-6) + 7.0), 1e-6) for x in t]
    found = fit_matches(exact, "marks")
    assert found.to_host(50.0) == pytest.approx(50.0 * (1 + 20e-6) + 7.0, abs=1e-7)
    assert found.rate == pytest.approx(1 + 20e-6, abs=1e-9)
    loose = [ClockMatch(m.trace_s, m.host_s + rng.normal(0, 1e-4), 1e-6) for m in exact]
    assert fit_matches(loose, "marks").error_s == pytest.approx(1e-4 * 2 / 40**0.5, rel=0.5)
    assert found.error_s < 1e-6


def test_one_match_keeps_the_rate_and_an_impossible_drift_is_refused() -> None:
    found = fit_matches([ClockMatch(1.0, 5.0, 1e-3)], "pulses")
    assert (found.rate, found.to_host(2.0), found.error_s) == (1.0, pytest.approx(6.0), pytest.approx(1e-3))
    with pytest.raises(MeasureError, match=r"drift apart by 10000 ppm.*samples were lost"):
        fit_matches([ClockMatch(0.0, 0.0, 1e-4), ClockMatch(1.0, 1.01, 1e-4)], "pulses")
    with pytest.raises(MeasureError, match=r"no moment"):
        fit_matches([], "marks")
