"""What loops inside kernels cost: counts from features, checked by walking the loops."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.features import FEATURE_NAMES, build_feature_matrix, compute_features
from deepen.predictors.fitting import folds
from deepen.predictors.fitting.fit_roofline import fit_roofline
from deepen.predictors.fitting.folds import FamilyData, RooflineTerms, plan_family
from deepen.predictors.fitting.recipes import load_recipe
from deepen.predictors.inference.columns import WORK_TERMS, compute_work_terms, make_columns, select_base_roofline_terms
from deepen.predictors.inference.loop_costs import LOOP_TERMS, compute_loop_terms

INDEX = {name: i for i, name in enumerate(FEATURE_NAMES)}


def counts(family: str, **params: object) -> dict[str, float]:
    kernel = make_kernel_from_params(family, params)
    found = compute_loop_terms(np.asarray(build_feature_matrix([compute_features(kernel)]), dtype=np.float64), INDEX)
    return dict(zip(LOOP_TERMS, found[0].tolist(), strict=True))


def conv(family: str = "conv-bn-relu", **changes: object) -> dict[str, float]:
    params: dict[str, object] = {
        "c_in": 8, "c_out": 8, "spatial": [12, 20], "kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1],
        "pads": [1, 1, 1, 1],
    }  # fmt: skip
    return counts(family, **(params | changes))


@pytest.mark.parametrize(
    ("spatial", "kernel", "stride", "dilation", "pad"),
    [
        ((2, 96), (5, 5), (1, 1), (1, 1), 2),
        ((12, 9), (3, 3), (2, 1), (1, 1), 1),
        ((7, 7), (3, 5), (2, 2), (1, 1), 2),
        ((9, 8), (3, 3), (1, 1), (2, 2), 2),
        ((14, 14), (7, 7), (4, 4), (1, 1), 0),
    ],
)
def test_taps_inside_the_map_are_those_found_by_walking_them(spatial, kernel, stride, dilation, pad):
    shape = {"spatial": spatial, "kernel": kernel, "stride": stride, "dilation": dilation, "pads": [pad] * 4}
    found = conv(**{name: list(value) for name, value in shape.items()})
    inside = taps = 0
    sizes = zip(spatial, kernel, stride, dilation, strict=True)
    out = [(s + 2 * pad - d * (k - 1) - 1) // t + 1 for s, k, t, d in sizes]
    for y, x, i, j in product(*map(range, (*out, *kernel))):
        at = y * stride[0] - pad + i * dilation[0], x * stride[1] - pad + j * dilation[1]
        inside += 0 <= at[0] < spatial[0] and 0 <= at[1] < spatial[1]
        taps += 1
    assert found["unrolled_inside"] == pytest.approx(4 * 8 * inside)
    assert found["runs"] == pytest.approx(8 * taps / out[1])


def test_only_a_stride_along_rows_gathers():
    assert conv(stride=[2, 1])["gathered"] == 0
    wide = conv(stride=[1, 2])
    assert wide["gathered"] == wide["unrolled_inside"] > 0


@pytest.mark.parametrize("stride", [1, 2])
def test_a_sequence_is_one_run_of_memory_whichever_of_its_sides_has_size_1(stride):
    lying = {"spatial": [1, 64], "kernel": [1, 5], "stride": [1, stride], "pads": [0, 2, 0, 2]}
    standing = {"spatial": [64, 1], "kernel": [5, 1], "stride": [stride, 1], "pads": [2, 0, 2, 0]}
    for family, groups in (("conv-bn-relu", 1), ("dwconv-bn-relu", 8)):
        assert conv(family, groups=groups, **lying) == pytest.approx(conv(family, groups=groups, **standing))


def test_every_image_and_group_is_a_product_with_lanes_of_its_own():
    one = conv(spatial=[2, 2], pads=[1, 1, 1, 1])
    assert one["products"] == 1
    assert one["lanes_idle"] == pytest.approx(8 * 8 * 9 * 12)  # 4 positions on 16 lanes
    four = conv(spatial=[2, 2], batch=4)
    assert four["products"] == 4 and four["lanes_idle"] == pytest.approx(4 * one["lanes_idle"])
    assert conv("dwconv-bn-relu", groups=8)["products"] == 8
    assert conv(spatial=[1, 1])["lanes_idle"] == 0  # a matrix times a vector
    assert conv(spatial=[4, 8])["lanes_idle"] == 0


def test_a_value_per_channel_is_spread_map_by_map_and_one_per_column_row_by_row():
    assert counts("add", in_shapes=[[1, 512, 7, 7], [512, 1, 1]], sources=[0, -1])["runs"] == 512
    assert counts("binary", op="Mul", in_shapes=[[2, 64, 7, 7], [2, 64, 1, 1]], sources=[0, 1])["runs"] == 128
    assert counts("add", in_shapes=[[1, 197, 768], [768]], sources=[0, -1])["runs"] == 197
    assert counts("add", in_shapes=[[1, 64, 9, 9], [1, 64, 9, 9]], sources=[0, 1])["runs"] == 0


def test_rows_to_normalise_and_channels_are_runs():
    assert counts("layernorm", shape=[1, 49, 96], axis=2)["runs"] == 49
    assert counts("bn", shape=[1, 832, 7, 7])["runs"] == 832


def test_bytes_beyond_the_cache():
    assert counts("relu", shape=[1, 64, 56, 56])["bytes_beyond_cache"] == 0
    assert counts("relu", shape=[1, 64, 256, 256])["bytes_beyond_cache"] == 2 * 64 * 256 * 256 * 4 - 16 * 2**20


def test_features_that_are_missing_count_as_nothing():
    assert not compute_loop_terms(np.ones((2, 1)), {"macs": 0}).any()
    terms = compute_work_terms(np.ones((1, len(FEATURE_NAMES))), FEATURE_NAMES)
    assert select_base_roofline_terms().sum() == terms.shape[1] - len(LOOP_TERMS) and select_base_roofline_terms()[-1]


def _rows(family: str, sizes: np.ndarray) -> FamilyData:
    kernels = [
        compute_features(make_kernel_from_params(family, {"shape": [1, int(c), int(s), int(s)]})) for c, s in sizes
    ]
    raw = np.asarray(build_feature_matrix(kernels), dtype=np.float64)
    terms = compute_work_terms(raw, FEATURE_NAMES)
    keys = tuple(str(i) for i in range(len(sizes)))
    count = len(sizes)
    return FamilyData(family, terms, make_columns(raw, FEATURE_NAMES), np.ones(count), np.ones(count), keys)


def _plan(data: FamilyData, energy: np.ndarray) -> np.ndarray:
    shown = FamilyData(data.name, data.terms, data.columns, energy, data.weight, data.keys)
    every = np.ones(data.terms.shape[1], dtype=bool)
    forms = [
        RooflineTerms(used, fit_roofline(data.terms * used, energy, data.weight))
        for used in (select_base_roofline_terms(), every)
    ]
    return plan_family(shown, load_recipe("auto"), forms, FEATURE_NAMES, 0).base.work


def test_loops_enter_the_roofline_only_where_rows_held_out_show_them():
    rng = np.random.default_rng(0)
    data = _rows("bn", np.stack([rng.integers(8, 900, 60), rng.integers(1, 9, 60)], axis=1))
    runs = WORK_TERMS.index("runs")
    moved = 2e-6 + 1e-10 * data.terms[:, WORK_TERMS.index("bytes_written")]
    scatter = np.exp(0.05 * rng.standard_normal(60))
    assert _plan(data, moved * scatter)[len(WORK_TERMS) - len(LOOP_TERMS) : -1].max() == 0
    channels = _plan(data, (moved + 2e-8 * data.terms[:, runs] + 2e-11 * data.terms[:, runs] ** 1.5) * scatter)
    assert channels[runs] > 0
    few = _rows("bn", np.stack([rng.integers(8, 900, 12), rng.integers(1, 9, 12)], axis=1))
    assert _plan(few, 1e-6 + 2e-8 * few.terms[:, runs])[runs] == 0


def test_the_choice_of_a_roofline_costs_little_with_many_rows(monkeypatch):
    """A process is fitted to no more rows than a recipe lets processes have."""
    seen = []
    fit = folds.fit_gaussian_at_prior
    monkeypatch.setattr(folds, "fit_gaussian_at_prior", lambda x, y, w: seen.append(len(x)) or fit(x, y, w))
    rng = np.random.default_rng(1)
    data = _rows("bn", np.stack([rng.integers(8, 900, 90), rng.integers(1, 9, 90)], axis=1))
    recipe = replace(load_recipe("auto"), gaussian_max_rows=30)
    forms = [
        RooflineTerms(
            select_base_roofline_terms(),
            fit_roofline(data.terms * select_base_roofline_terms(), data.energy_j, data.weight),
        )
    ]
    folds.plan_family(data, recipe, forms, FEATURE_NAMES, 0)
    assert seen and 15 <= min(seen) <= max(seen) <= 30
