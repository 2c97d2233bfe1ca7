from __future__ import annotations

import numpy as np
import pytest

from deepen.meters.stream.outliers import OutlierCounter
from deepen.meters.stream.types import StreamCounts


def count(values: np.ndarray, groups: np.ndarray | None = None, step: float = 0.0, batch: int = 0) -> int:
    outliers = OutlierCounter()
    groups = np.zeros(values.size, np.uint8) if groups is None else groups
    size = batch or values.size
    for k in range(0, values.size, size):
        outliers.feed(values[k : k + size], step, groups[k : k + size])
    return outliers.count


def noise(n: int = 5000, seed: int = 0) -> np.ndarray:
    return 1 + 0.01 * np.random.default_rng(seed).standard_normal(n)


@pytest.mark.parametrize("seed", range(5))
def test_noise_has_none(seed: int) -> None:
    assert count(noise(seed=seed)) == 0


@pytest.mark.parametrize("batch", [0, 1, 2, 7, 1000])
def test_single_samples_are_found_however_they_are_batched(batch: int) -> None:
    values = noise()
    values[[100, 1999, 2000 + 1000, 4000]] += [0.5, -0.5, 3.0, 0.3]
    assert count(values, batch=batch) == 4


def test_steps_and_pulses_of_two_samples_are_none() -> None:
    values = noise()
    values[1000:] += 5
    values[2000:2002] += 5
    assert count(values) == 0


def test_a_load_that_alternates_is_soon_taken_as_usual() -> None:
    values = noise()
    values[1000:] += 2 * (np.arange(4000) % 2)
    assert count(values) < 10


def test_a_change_of_range_is_none_but_one_sample_in_another_range_is() -> None:
    values, groups = noise(), np.zeros(5000, np.uint8)
    values[1000], groups[1000:] = 4.0, 1  # a spike as the range changes
    assert count(values, groups) == 0
    values[2000], groups[2000] = 100.0, 3
    assert count(values, groups) == 1


def test_steps_of_the_converter_are_none() -> None:
    values = np.ones(1000)
    values[500] += 0.02
    assert count(values, step=0.01) == 0
    assert count(values) == 1


def test_the_note_is_one_line_that_stays_up_to_date() -> None:
    outliers, tally = OutlierCounter(), StreamCounts()
    values = noise()
    values[[100, 3000]] += 1
    for half in (values[:2500], values[2500:]):
        outliers.feed(half, 0.0, np.zeros(2500, np.uint8))
        outliers.report(tally)
    assert len(tally.notes) == 1
    assert tally.notes[0].startswith("outliers: 2 samples")
