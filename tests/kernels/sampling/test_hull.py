"""A whole network nobody has measured must lie inside what is sampled, with neighbours near."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import log
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepen.kernels.families.kernel_work import compute_kernel_work
from deepen.kernels.families.registry import get_family_definition
from deepen.kernels.sampling.sampler import sample_kernels

DIMENSIONS = ("c_in", "c_out", "h_out", "w_out", "k_h", "k")
COUNT = 600


def point(family: str, params: Mapping[str, Any]) -> NDArray[np.float64]:
    """Logarithms of work, bytes and the sizes that matter (a reshape copies at most: its bytes are all)."""
    cost, sizes = compute_kernel_work(family, params), get_family_definition(family).dims(params)
    values = [max(cost.macs, 1), cost.bytes]
    if family != "reshape":
        values += [max(sizes.get(name, 1), 1) for name in DIMENSIONS]
    return np.log(np.array(values, dtype=float))


@pytest.fixture(scope="module")
def sampled(unseen) -> dict[str, NDArray[np.float64]]:
    points = defaultdict(list)
    for kernel in sample_kernels(None, COUNT, seed=0, exclude=unseen):
        points[kernel.family].append(point(kernel.family, kernel.params))
    return {family: np.array(rows) for family, rows in points.items()}


@pytest.fixture(scope="module")
def nearest(unseen, sampled) -> dict[str, list[float]]:
    """Per family: of each unseen kernel, the largest log ratio of any size to that of its nearest sampled kernel."""
    found = defaultdict(list)
    for kernel in unseen.values():
        here = point(kernel.family, kernel.params)
        found[kernel.family].append(float(np.abs(sampled[kernel.family] - here).max(axis=1).min()))
    return found


def test_every_family_of_the_unseen_networks_is_sampled(unseen, sampled):
    assert {kernel.family for kernel in unseen.values()} <= set(sampled)


def test_no_unseen_kernel_is_sampled(unseen):
    assert not set(unseen) & {k.key for k in sample_kernels(None, 3000, seed=0, exclude=unseen)}


def test_half_have_a_neighbour_within_a_factor_of_1_8_in_every_size_and_nearly_all_within_3_5(nearest):
    distances = np.concatenate(list(nearest.values()))
    assert len(distances) > 600
    assert np.median(distances) < log(1.8)
    assert np.quantile(distances, 0.95) < log(3.5)


@pytest.mark.parametrize("family", ["conv-bn-relu", "dwconv-bn-relu", "groupconv", "fc"])
def test_kernels_that_multiply_matrices_have_neighbours_within_a_factor_of_5(nearest, family):
    assert max(nearest[family]) < log(5)
    assert np.median(nearest[family]) < log(2.5)


def test_no_size_of_a_matrix_kernel_lies_beyond_twice_the_sampled_range(unseen, sampled):
    for kernel in unseen.values():
        if kernel.macs:
            here, rows = point(kernel.family, kernel.params), sampled[kernel.family]
            beyond = np.maximum(rows.min(axis=0) - here, here - rows.max(axis=0)).max()
            assert beyond < log(2.2), kernel.params


def test_memory_bound_kernels_lie_inside_the_sampled_bytes(unseen, sampled):
    outside = [
        kernel
        for kernel in unseen.values()
        if kernel.family in ("add", "binary", "bn", "concat", "relu", "maxpool", "lrn")
        and not sampled[kernel.family][:, 1].min() - log(2)
        <= point(kernel.family, kernel.params)[1]
        <= sampled[kernel.family][:, 1].max() + log(2)
    ]
    assert not outside
