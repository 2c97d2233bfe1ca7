"""The sample clock, the supply and the wire of an emulated instrument."""

from __future__ import annotations

import numpy as np
import pytest

from deepen.testing.instruments.base import CHUNK, FrameFaultInjector, SampleClock
from deepen.testing.instruments.signal import StepSignal
from deepen.testing.instruments.supply import EmulatedSupply


def taken(clock: SampleClock, t_s: float, multiple: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts = list(clock.take(t_s, multiple))
    index = [first + np.arange(start.size) for first, start, _ in parts]
    starts, ends = [start for _, start, _ in parts], [end for _, _, end in parts]
    empty = [np.empty(0)]
    return np.concatenate(index or empty), np.concatenate(starts or empty), np.concatenate(ends or empty)


def test_samples_are_complete_at_the_end_of_their_period() -> None:
    clock = SampleClock(1000.0)
    clock.start(50.0)
    assert clock.due(50.0009) == 0
    index, start, end = taken(clock, 50.01)
    assert index.tolist() == list(range(10))
    np.testing.assert_allclose(start, 50.0 + np.arange(10) * 1e-3)
    np.testing.assert_allclose(end, 50.001 + np.arange(10) * 1e-3)
    assert taken(clock, 50.01)[0].size == 0
    assert taken(clock, 49.0)[0].size == 0


@pytest.mark.parametrize("ppm", [-200.0, 0.0, 50.0])
def test_a_fast_clock_takes_more_samples(ppm: float) -> None:
    clock = SampleClock(1e5, ppm)
    clock.start(1000.0)
    index, start, end = taken(clock, 1010.0)
    assert index.size == round(1e6 * (1 + 1e-6 * ppm))
    np.testing.assert_allclose(end[:-1], start[1:], rtol=0, atol=1e-9)
    assert end[-1] <= 1010.0 + 1e-9


def test_samples_do_not_depend_on_how_time_passes() -> None:
    whole, parts = SampleClock(1e5, 30.0), SampleClock(1e5, 30.0)
    whole.start(1000.0)
    parts.start(1000.0)
    assert CHUNK < 4e5
    at_once = taken(whole, 1004.0)
    moments = np.sort(np.random.default_rng(0).uniform(1000.0, 1004.0, 300)).tolist()
    pieces = [taken(parts, t) for t in [*moments, 1004.0]]
    for k in range(3):
        np.testing.assert_array_equal(at_once[k], np.concatenate([p[k] for p in pieces]))


def test_whole_packets_only_but_for_the_end_of_a_limited_number() -> None:
    clock = SampleClock(1000.0)
    clock.start(0.0, limit=17)
    assert taken(clock, 0.0135, 5)[0].size == 10
    assert taken(clock, 1.0, 5)[0].tolist() == list(range(10, 17))
    assert not clock.running
    assert clock.taken == 17


def test_a_pause_hides_in_the_numbers() -> None:
    clock = SampleClock(1000.0)
    clock.start(0.0)
    taken(clock, 0.005)
    clock.pause(0.0051, 0.02)  # sample 5 has begun
    clock.pause(0.1, 0.5)
    index, start, _ = taken(clock, 0.62)
    assert index.tolist() == list(range(5, 100))
    steps = np.diff(start)
    assert steps[0] == pytest.approx(0.021)
    assert steps[[74, 75]] == pytest.approx([0.501, 0.001])
    assert np.delete(steps, [0, 74]) == pytest.approx(0.001)
    with pytest.raises(ValueError, match="order of time"):
        clock.pause(0.0, 1.0)


def test_a_clock_told_to_stop_later_does() -> None:
    clock = SampleClock(1000.0)
    clock.start(0.0)
    taken(clock, 0.01)
    clock.stop(after=2)
    assert taken(clock, 1.0)[0].tolist() == [10, 11]
    assert not clock.running
    clock.start(2.0)
    assert taken(clock, 2.002)[0].tolist() == [0, 1]
    clock.stop()
    assert taken(clock, 3.0)[0].size == 0


def test_a_load_takes_power_only_when_there_is_voltage() -> None:
    supply = EmulatedSupply(StepSignal([2.0], [4.0, 8.0]))
    supply.set(1.0005, 2.0)
    supply.set(3.0, 0.0)
    edges = np.linspace(0.0, 4.0, 4001)
    power = supply.mean_w(edges[:-1], edges[1:])
    assert power[:1000].max() == 0
    assert power[1000] == pytest.approx(2.0)
    assert power[1001:2000] == pytest.approx(4.0)
    assert power[2000:3000] == pytest.approx(8.0)
    assert power[3000:].max() == 0
    assert supply.mean_v(edges[:-1], edges[1:])[[0, 1000, 1500, 3500]] == pytest.approx([0.0, 1.0, 2.0, 0.0])
    assert supply.mean_a(edges[:-1], edges[1:])[[0, 1000, 1500, 2500]] == pytest.approx([0.0, 2.0, 2.0, 4.0])
    assert supply.energy_j(0.0, 10.0) == pytest.approx(0.9995 * 4.0 + 8.0)
    assert supply.energy_j(0.0, 1.0) == 0
    assert supply.energy_j(3.5, 4.0) == 0
    assert power.sum() * 1e-3 == pytest.approx(supply.energy_j(0.0, 4.0))


def test_a_sag_takes_the_current_up() -> None:
    supply = EmulatedSupply(StepSignal([], [6.0]), 3.0)
    supply.sag(1.0, 2.0, 1.0)
    supply.sag(5.0, 6.0, 100.0)
    moments = np.array([0.5, 1.0, 1.5, 2.0, 5.5])
    assert supply.mean_v(moments, moments + 1e-3) == pytest.approx([3.0, 2.0, 2.0, 3.0, 0.03])
    assert supply.mean_a(moments, moments + 1e-3) == pytest.approx([2.0, 3.0, 3.0, 2.0, 200.0])
    assert supply.mean_v(np.array([0.5]), np.array([1.5])) == pytest.approx(2.5)
    assert supply.energy_j(0.0, 3.0) == pytest.approx(18.0)


def test_a_supply_refuses_what_cannot_be() -> None:
    supply = EmulatedSupply(StepSignal([], [1.0]))
    supply.set(1.0, 3.0)
    for moment, volts in [(0.5, 3.0), (2.0, -1.0)]:
        with pytest.raises(ValueError, match="voltages are set"):
            supply.set(moment, volts)
    assert supply.volts == 3.0


def test_a_wire_charges_each_loss_to_who_ordered_it() -> None:
    wire = FrameFaultInjector()
    assert wire.count_lost_frames([1] * 5) == 0
    first, second = wire.lose(3), wire.lose(2)
    assert wire.count_lost_frames([7, 7]) == 2
    assert (first.samples, second.samples) == (14, 0)
    assert wire.count_lost_frames([7, 0, 7, 7]) == 3
    assert (first.samples, second.samples) == (21, 7)
    assert wire.count_lost_frames([7]) == 0
    spoilt = wire.corrupt_checksums(1)
    assert wire.count_lost_frames([3]) == 0
    assert wire.count_corrupt_frames(np.array([3, 3])) == 1
    assert spoilt.samples == 3
