"""The true block always lies within what is stated, whatever lines did on their way."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deepen.devices.runtimes.locate_in_trace import BlockTimes, locate_block_between_lines, locate_block_of_known_length
from deepen.errors import LinkError

SHARE = st.floats(0, 1)
HALF = math.sqrt(3) * (1 + 1e-9)  # half the width of a uniform distribution over its standard deviation


def holds(found: BlockTimes, start: float, end: float) -> bool:
    allowed = HALF * found.uncertainty_s + 1e-9
    return abs(found.start_s - start) <= allowed and abs(found.end_s - end) <= allowed


@given(st.floats(0, 5), st.floats(1e-3, 10), SHARE, SHARE, SHARE, st.floats(1e-5, 0.02), st.booleans(), st.floats(0, 1))
def test_a_block_between_two_lines(
    load_s: float, runs_s: float, overhead: float, late1: float, late2: float, delay_s: float, held: bool, rest_s: float
) -> None:
    begun = 1000.0
    start = begun + load_s
    end = start + runs_s * (1 + 0.1 * overhead)
    first = start + late1 * delay_s
    last = end + late2 * delay_s
    if held:  # the tool's buffer is written when it ends
        first = last = end + rest_s + late2 * delay_s
        assume(runs_s > 2 * delay_s)
    found = locate_block_between_lines(begun, first, last, runs_s, delay_s)
    assert holds(found, start, end)
    assert found.end_s - found.start_s >= runs_s - 1e-9
    if not held:
        assert found.uncertainty_s <= delay_s / math.sqrt(12) + 1e-9


def test_lines_held_back_widen_the_uncertainty() -> None:
    prompt = locate_block_between_lines(0.0, 1.0, 3.001, 2.0, 0.002)
    held = locate_block_between_lines(0.0, 4.0, 4.0, 2.0, 0.002)
    assert prompt.uncertainty_s < 0.001
    assert held.uncertainty_s == pytest.approx(2.0 / math.sqrt(12))
    assert (held.start_s, held.end_s) == (1.0, 3.0)


@given(st.floats(0, 5), st.floats(1e-3, 10), st.floats(0, 3), SHARE, st.floats(1e-5, 0.02))
def test_a_block_of_known_length(before_s: float, wall_s: float, after_s: float, late: float, delay_s: float) -> None:
    start = 1000.0 + before_s
    found = locate_block_of_known_length(1000.0, start + wall_s + after_s + late * delay_s, wall_s, delay_s)
    assert holds(found, start, start + wall_s)
    assert found.end_s - found.start_s == pytest.approx(wall_s)


def test_counts_that_contradict_the_hosts_clock_are_refused() -> None:
    with pytest.raises(LinkError, match="does not fit into the 3 s"):
        locate_block_between_lines(0.0, 1.0, 3.0, 3.5, 0.01)
    with pytest.raises(LinkError, match="does not fit into the 3 s"):
        locate_block_of_known_length(0.0, 3.0, 3.5, 0.01)
