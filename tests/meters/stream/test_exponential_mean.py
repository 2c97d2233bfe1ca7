"""Exponential averages: the formula, the split into batches, and the same sums with and without SciPy."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepen.meters.stream.exponential_mean import compute_exponential_mean

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50).map(np.array)


def without_scipy(values, share, start):
    real = builtins.__import__

    def importing(name, *rest):
        if name.startswith("scipy"):
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "__import__", importing)
        return compute_exponential_mean(values, share, start)


@settings(deadline=None)  # SciPy is imported in the first example
@given(VALUES, st.floats(0.001, 1.0), st.floats(-10, 10), st.integers(0, 50))
def test_batches_and_scipy_change_nothing(values, share, start, cut):
    whole = compute_exponential_mean(values, share, start)
    assert whole.shape == values.shape
    assert whole[-1] == pytest.approx(without_scipy(values, share, start)[-1], rel=1e-12, abs=1e-9)
    for compute in (compute_exponential_mean, without_scipy):
        whole = compute(values, share, start)
        first, rest = values[: cut % values.size], values[cut % values.size :]
        if first.size:
            first = compute(first, share, start)
        middle = float(first[-1]) if first.size else start
        assert np.array_equal(np.concatenate([first, compute(rest, share, middle)]), whole)


@given(st.floats(0.001, 1.0), st.floats(-10, 10), st.integers(1, 40))
def test_a_constant_is_approached_geometrically(share, start, n):
    found = compute_exponential_mean(np.full(n, 5.0), share, start)
    assert found == pytest.approx(5.0 + (start - 5.0) * (1 - share) ** np.arange(1, n + 1), rel=1e-9, abs=1e-9)
