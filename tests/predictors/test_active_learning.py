"""What to measure next."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from deepen import predictors
from deepen.errors import ConfigError
from deepen.predictors.active_learning import list_cell_candidates, propose_kernels, sample_kernel_candidates
from deepen.predictors.kernel_counts import KernelCounts


def _candidates(device, n):
    counts = device.draw(n)
    # Most candidates are alike; few have many additions.
    counts[: n - 5, 3::4] = 1.0
    return KernelCounts.from_kernels(device.kernels, counts, [f"net-{i}" for i in range(n)])


def test_any_first_part_of_the_plan_is_the_plan_for_that_many(device_of):
    candidates = _candidates(device_of(seed=2), 60)
    assert [p.index for p in propose_kernels(candidates, 4)] == [p.index for p in propose_kernels(candidates, 9)][:4]


def test_every_measurement_leaves_less_uncertainty_and_none_is_proposed_twice(device_of):
    found = propose_kernels(_candidates(device_of(seed=2), 60), 30)
    left = [p.left for p in found]
    assert all(b <= a + 1e-12 for a, b in pairwise(left))
    assert len({p.index for p in found}) == 30


def test_the_rare_kind_is_asked_for_early(device_of):
    found = propose_kernels(_candidates(device_of(seed=2), 60), 6)
    assert any(p.index >= 55 for p in found)


def test_a_copy_of_what_is_measured_is_not_asked_for_first(device_of):
    candidates = _candidates(device_of(seed=2), 40)
    first = propose_kernels(candidates, 1)[0].index
    copy = replace(candidates.take(np.array([first])), names=("copy",))
    twice = KernelCounts.join([candidates, copy])
    found = propose_kernels(twice, 10, measured=[first])
    assert first not in [p.index for p in found]
    assert found[0].name != "copy"


def test_more_than_there_are_gives_all(device_of):
    assert len(propose_kernels(_candidates(device_of(), 7), 50)) == 7


def test_a_base_may_be_given(device_of):
    device = device_of(seed=3)
    base = predictors.calibrate_predictor(None, device.models(20)[0])
    assert len(propose_kernels(_candidates(device, 20), 5, base)) == 5


def test_nothing_to_choose_is_refused(device_of):
    with pytest.raises(ConfigError, match="candidate"):
        propose_kernels(KernelCounts.join([]), 3)


def test_kernels_of_a_family_are_candidates_by_family_and_parameters():
    found = sample_kernel_candidates(["fc", "relu"], 12, seed=1)
    assert set(found.families) == {"fc", "relu"} and len(found) == len(found.families) == 12
    assert all(name.startswith(f"{family} {{") for name, family in zip(found.names, found.families, strict=True))
    assert len(set(found.names)) == 12 and (found.to_matrix() == np.eye(12)).all()


def test_networks_of_a_space_are_candidates_by_cell():
    found = list_cell_candidates("tflite-cpu")
    assert len(found) == 15_625 and len(found.families) < 100
    assert propose_kernels(found.take(np.arange(0, 15_625, 700)), 3)[0].name.startswith("|")
