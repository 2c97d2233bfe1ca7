"""Windows of the search for losses, against the definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deepen.clock.lost_samples import _compute_side_minima


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60), st.integers(1, 20))
def test_side_minima_are_the_least_of_each_window(values, n):
    level = np.array(values)
    before, after = _compute_side_minima(level, n)
    for k in range(level.size):
        assert before[k] == level[max(0, k - n + 1) : k + 1].min()
        following = level[k + 1 : k + 1 + n]
        assert after[k] == (following.min() if following.size else before[k])
