"""Signals tell their mean over any stretch exactly, and the energies of parts add up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.testing.instruments.signal import (
    BlockSignal,
    DecaySignal,
    EventSignal,
    LogicInputs,
    PowerSignal,
    RampSignal,
    SineSignal,
    StepSignal,
    SummedSignal,
    SwitchedSignal,
)
from deepen.testing.power import PowerTimeline


def timeline() -> PowerTimeline:
    line = PowerTimeline(1.0)
    for start, end, power in [(1.0, 2.0, 3.0), (1.5, 1.75, 2.0), (2.0, 2.25, 0.5), (4.0, 4.0, 9.0)]:
        line.add(start, end, power)
    return line


def live() -> SwitchedSignal:
    signal = SwitchedSignal(1.0)
    for moment, power in [(1.0, 2.0), (1.5, 0.0), (1.5, 4.0), (3.0, 1.0)]:
        signal.switch(moment, power)
    return signal


SIGNALS: dict[str, PowerSignal] = {
    "constant": StepSignal([], [2.5]),
    "steps": StepSignal([1.0, 1.25, 3.0], [0.0, 4.0, -1.0, 2.0]),
    "blocks": BlockSignal(0.5, 5.0, [(1.0, 1.5), (2.0, 3.0)]),
    "ramp": RampSignal([1.0, 2.0, 2.5], [1.0, 5.0, 0.0]),
    "level": RampSignal([1.0], [3.0]),
    "droop": DecaySignal(1.0, 3.0, 1.0, 0.7),
    "ripple": SineSignal(2.0, 3.0, 0.5),
    "sum": SummedSignal(StepSignal([1.0], [0.0, 1.0]), RampSignal([0.0, 4.0], [0.0, 4.0]), SineSignal(0.1, 7.0)),
    "events": EventSignal(timeline()),
    "live": live(),
}


def power(signal: PowerSignal, t_s: np.ndarray) -> np.ndarray:
    return signal.mean_w(t_s, t_s)


@pytest.mark.parametrize("name", SIGNALS)
def test_the_mean_is_that_of_the_power_at_many_moments(name: str) -> None:
    signal = SIGNALS[name]
    assert isinstance(signal, PowerSignal)
    fine = (np.arange(400_000) + 0.5) * 1e-5
    coarse = power(signal, fine).reshape(-1, 1000).mean(axis=1)
    edges = np.linspace(0.0, 4.0, 401)
    np.testing.assert_allclose(signal.mean_w(edges[:-1], edges[1:]), coarse, atol=2e-4, rtol=1e-6)


@pytest.mark.parametrize("name", SIGNALS)
@given(st.lists(st.floats(0.0, 4.0), min_size=2, max_size=9))
def test_energies_of_parts_add_up(name: str, moments: list[float]) -> None:
    signal, edges = SIGNALS[name], np.sort(np.array(moments))
    parts = [signal.energy_j(a, b) for a, b in pairwise(edges)]
    assert sum(parts) == pytest.approx(signal.energy_j(edges[0], edges[-1]), abs=1e-9)
    means = signal.mean_w(edges[:-1], edges[1:])
    np.testing.assert_allclose(means * np.diff(edges), parts, atol=1e-12)


@pytest.mark.parametrize("name", SIGNALS)
def test_nothing_in_nothing_out(name: str) -> None:
    assert SIGNALS[name].mean_w(np.empty(0), np.empty(0)).shape == (0,)


def test_known_energies() -> None:
    assert SIGNALS["blocks"].energy_j(0.0, 4.0) == pytest.approx(0.5 * 2.5 + 5.0 * 1.5)
    assert SIGNALS["ramp"].energy_j(0.0, 3.0) == pytest.approx(1.0 + 3.0 + 1.25 + 0.0)
    assert SIGNALS["droop"].energy_j(1.0, 1e3) == pytest.approx(999.0 + 2.0 * 0.7)
    assert SIGNALS["ripple"].energy_j(0.0, 1 / 3) == pytest.approx(0.0, abs=1e-12)
    assert SIGNALS["events"].energy_j(0.0, 4.0) == pytest.approx(4.0 + 3.0 + 0.5 + 0.125)
    assert SIGNALS["live"].energy_j(0.0, 4.0) == pytest.approx(1.0 + 1.0 + 6.0 + 1.0)


def test_a_level_between_edges_is_exact_an_hour_in() -> None:
    signal = StepSignal([3600.0], [1e-6, 10.0])
    start = 3599.0 + np.arange(90_000) * 1e-5
    assert (signal.mean_w(start, start + 1e-5) == 1e-6).all()


def test_events_added_later_count() -> None:
    line = PowerTimeline(1.0)
    signal = EventSignal(line)
    before = signal.mean_w(np.array([0.0]), np.array([1.0]))
    line.add(0.25, 0.5, 4.0)
    assert before == pytest.approx(1.0)
    assert signal.mean_w(np.array([0.0]), np.array([1.0])) == pytest.approx(2.0)


def test_what_is_no_signal_is_refused() -> None:
    with pytest.raises(ValueError, match="one level more"):
        StepSignal([1.0], [1.0])
    with pytest.raises(ValueError, match="increasing"):
        StepSignal([1.0, 1.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="increasing"):
        BlockSignal(0.0, 1.0, [(1.0, 2.0), (2.0, 3.0)])
    with pytest.raises(ValueError, match="points"):
        RampSignal([], [])
    with pytest.raises(ValueError, match="order of time"):
        live().switch(0.5, 1.0)


def test_logic_inputs_hold_their_level() -> None:
    logic = LogicInputs()
    logic.pulse(1.0, 2.0, 0)
    logic.set(3.0, 7, True)
    assert logic.at(np.array([0.5, 1.0, 1.999, 2.0, 3.0])).tolist() == [0, 1, 1, 0, 128]
    for bit, moment in [(8, 4.0), (-1, 4.0), (0, 2.5)]:
        with pytest.raises(ValueError, match="inputs 0 to 7"):
            logic.set(moment, bit, True)
