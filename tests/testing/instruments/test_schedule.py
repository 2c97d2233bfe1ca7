from __future__ import annotations

import pickle

import numpy as np
import pytest

from deepen.testing.instruments.schedule import KEEP_S, PowerSchedule
from deepen.testing.instruments.signal import PowerSignal


def test_a_plan_holds_until_the_next() -> None:
    signal = PowerSchedule(1.0)
    assert isinstance(signal, PowerSignal)
    signal.plan(10.0, [1.0, 2.0], [3.0, 5.0, 2.0])
    assert signal.energy_j(9.0, 14.0) == pytest.approx(1 + 3 + 10 + 2)
    signal.plan(12.0, [0.5], [7.0, 0.0])  # replaces what was to come
    assert signal.energy_j(9.0, 14.0) == pytest.approx(1 + 3 + 5 + 3.5)
    mean = signal.mean_w(np.array([9.0, 10.5, 12.5]), np.array([10.0, 11.5, 100.0]))
    assert mean == pytest.approx([1.0, 4.0, 0.0])
    assert signal.mean_w(np.zeros(0), np.zeros(0)).size == 0


def test_pieces_too_short_for_the_clock_vanish() -> None:
    signal = PowerSchedule()
    signal.plan(1e8, [0.0, 1.0, 1e-12], [9.0, 2.0, 9.0, 4.0])
    assert signal.energy_j(1e8, 1e8 + 2) == pytest.approx(6.0)


@pytest.mark.parametrize(("durations", "levels"), [([1.0], [1.0]), ([-1.0], [1.0, 2.0])])
def test_plans_that_are_none(durations: list[float], levels: list[float]) -> None:
    with pytest.raises(ValueError, match="one level more"):
        PowerSchedule().plan(0.0, durations, levels)


def test_what_is_long_past_is_forgotten_and_the_rest_is_sent_on() -> None:
    signal = PowerSchedule()
    for start in range(2000):
        signal.plan(float(start), [0.5], [2.0, 0.0])
    assert len(signal._times) <= 2 * KEEP_S + 4
    copy = pickle.loads(pickle.dumps(signal))  # as a process is handed it
    assert copy.energy_j(1990.0, 2000.0) == pytest.approx(10.0)
