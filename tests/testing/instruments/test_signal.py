"""Signals tell their mean over any stretch exactly, and the energies of parts add up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.testing.instruments.signal import (
    Blocks,
    Droop,
    Events,
    Live,
    Logic,
    Ramp,
    Ripple,
    Signal,
    Steps,
    Sum,
)
from deepen.testing.power import Timeline


def timeline() -> Timeline:
    line = Timeline(1.0)
    for start, end, power in [(1.0, 2.0, 3.0), (1.5, 1.75, 2.0), (2.0, 2.25, 0.5), (4.0, 4.0, 9.0)]:
        line.add(start, end, power)
    return line


def live() -> Live:
    signal = Live(1.0)
    for moment, power in [(1.0, 2.0), (1.5, 0.0), (1.5, 4.0), (3.0, 1.0)]:
        signal.switch(moment, power)
    return signal


SIGNALS: dict[str, Signal] = {
    "constant": Steps([], [2.5]),
    "steps": Steps([1.0, 1.25, 3.0], [0.0, 4.0, -1.0, 2.0]),
    "blocks": Blocks(0.5, 5.0, [(1.0, 1.5), (2.0, 3.0)]),
    "ramp": Ramp([1.0, 2.0, 2.5], [1.0, 5.0, 0.0]),
    "level": Ramp([1.0], [3.0]),
    "droop": Droop(1.0, 3.0, 1.0, 0.7),
    "ripple": Ripple(2.0, 3.0, 0.5),
    "sum": Sum(Steps([1.0], [0.0, 1.0]), Ramp([0.0, 4.0], [0.0, 4.0]), Ripple(0.1, 7.0)),
    "events": Events(timeline()),
    "live": live(),
}


def power(signal: Signal, t_s: np.ndarray) -> np.ndarray:
    return signal.mean_w(t_s, t_s)


@pytest.mark.parametrize("name", SIGNALS)
def test_the_mean_is_that_of_the_power_at_many_moments(name: str) -> None:
    signal = SIGNALS[name]
    assert isinstance(signal, Signal)
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
    signal = Steps([3600.0], [1e-6, 10.0])
    start = 3599.0 + np.arange(90_000) * 1e-5
    assert (signal.mean_w(start, start + 1e-5) == 1e-6).all()


def test_events_added_later_count() -> None:
    line = Timeline(1.0)
    signal = Events(line)
    before = signal.mean_w(np.array([0.0]), np.array([1.0]))
    line.add(0.25, 0.5, 4.0)
    assert before == pytest.approx(1.0)
    assert signal.mean_w(np.array([0.0]), np.array([1.0])) == pytest.approx(2.0)


def test_what_is_no_signal_is_refused() -> None:
    with pytest.raises(ValueError, match="one level more"):
        Steps([1.0], [1.0])
    with pytest.raises(ValueError, match="increasing"):
        Steps([1.0, 1.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="increasing"):
        Blocks(0.0, 1.0, [(1.0, 2.0), (2.0, 3.0)])
    with pytest.raises(ValueError, match="points"):
        Ramp([], [])
    with pytest.raises(ValueError, match="order of time"):
        live().switch(0.5, 1.0)


def test_logic_inputs_hold_their_level() -> None:
    logic = Logic()
    logic.pulse(1.0, 2.0, 0)
    logic.set(3.0, 7, True)
    assert logic.at(np.array([0.5, 1.0, 1.999, 2.0, 3.0])).tolist() == [0, 1, 1, 0, 128]
    for bit, moment in [(8, 4.0), (-1, 4.0), (0, 2.5)]:
        with pytest.raises(ValueError, match="inputs 0 to 7"):
            logic.set(moment, bit, True)
