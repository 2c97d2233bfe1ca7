from __future__ import annotations

from math import prod

import numpy as np
import pytest

from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.families.catalog import load_families
from deepen.kernels.features import compute_features
from deepen.kernels.sampling.neighbours import perturb_params
from deepen.kernels.sampling.random_sizes import SizeSampler
from deepen.kernels.sampling.real_configurations import canonicalise_params, load_real_configurations


def moved(family: str, params: dict, seed: int = 0, spread: float = 0.4) -> dict:
    return perturb_params(
        family, params, SizeSampler(np.random.default_rng(seed), spread), load_real_configurations(family)
    )


@pytest.mark.parametrize("family", sorted(load_families()))
def test_no_spread_changes_nothing_and_the_original_stays_untouched(family):
    row = load_real_configurations(family)[0]
    before = repr(row.params)
    assert moved(family, row.params, spread=0.0) == row.params
    moved(family, row.params, spread=0.6)
    assert repr(row.params) == before


@pytest.mark.parametrize("family", sorted(load_families()))
def test_most_neighbours_fit_together_and_many_differ(family):
    rows = load_real_configurations(family)
    made = [(rows[i % len(rows)].params, moved(family, rows[i % len(rows)].params, i)) for i in range(120)]
    assert sum(canonicalise_params(family, params) is not None for _, params in made) > 0.75 * len(made)
    assert sum(old != new for old, new in made) > 0.4 * len(made)


@pytest.mark.parametrize("family", ["add", "binary", "slice", "reshape"])
def test_loops_over_short_stretches_and_single_elements_are_drawn(family):
    rows = load_real_configurations(family)
    spans = set()
    for number in range(600):
        params = canonicalise_params(family, moved(family, rows[number % len(rows)].params, number))
        if params is not None:
            found = compute_features(make_kernel_from_params(family, params))
            if found["inner_runs"] > 8:
                spans.add(found["elements_out"] / found["inner_runs"])
    assert len([span for span in spans if span <= 4]) >= 2
    assert len(spans) > 8


def test_reshapes_keep_the_number_of_elements():
    for number, row in enumerate(load_real_configurations("reshape")):
        if row.params["op"] == "Reshape":
            new = moved("reshape", row.params, number)
            if new["op"] == "Expand":  # now and then
                continue
            assert prod(new["shape"]) == prod(new["out_shape"])
            assert len(new["shape"]) == len(row.params["shape"])
            assert len(new["out_shape"]) == len(row.params["out_shape"])


def test_shared_sizes_stay_shared():
    for number, row in enumerate(load_real_configurations("matmul")):
        new = moved("matmul", row.params, number)
        assert canonicalise_params("matmul", new) is not None, (row.params, new)


def test_square_maps_and_windows_mostly_stay_square():
    square = [row.params for row in load_real_configurations("conv-bn-relu") if len(set(row.params["spatial"])) == 1]
    new = [moved("conv-bn-relu", params, i) for i, params in enumerate(square[:400])]
    assert sum(len(set(params["spatial"])) == 1 for params in new) > 0.9 * len(new)


@pytest.mark.parametrize("kernel", [[1, 7], [3, 1]])
def test_windows_that_are_not_square_are_left_alone(kernel):
    rows = [row.params for row in load_real_configurations("conv-bn-relu") if row.params["kernel"] == kernel]
    assert rows
    assert all(moved("conv-bn-relu", params, i)["kernel"] == kernel for i, params in enumerate(rows))


def test_sizes_move_log_normally_around_the_real_one():
    draw = SizeSampler(np.random.default_rng(5), 0.3)
    ratios = np.log([draw.width(256) / 256 for _ in range(2000)])
    assert abs(np.mean(ratios)) < 0.03
    assert 0.25 < np.std(ratios) < 0.35


def test_unknown_kind_in_a_family_file_is_an_error(monkeypatch):
    from dataclasses import replace

    from deepen.errors import ConfigError
    from deepen.kernels.families.catalog import get_family

    wrong = replace(get_family("lrn"), sampling={"kind": "convv"})
    monkeypatch.setattr("deepen.kernels.sampling.neighbours.get_family", lambda name: wrong)
    with pytest.raises(ConfigError, match="did you mean conv"):
        moved("lrn", load_real_configurations("lrn")[0].params)


def draws(family: str, count: int = 1500) -> list[dict]:
    rows = load_real_configurations(family)
    made = (canonicalise_params(family, moved(family, rows[i % len(rows)].params, i)) for i in range(count))
    return [params for params in made if params is not None]


@pytest.mark.parametrize("family", ["conv-bn-relu", "dwconv-bn-relu"])
def test_sequences_and_unequal_windows_and_strides_are_drawn(family):
    made = draws(family)
    flat = [p for p in made if len(p["spatial"]) == 2]
    one_sided = [p for p in flat if min(p["spatial"]) == 1 and max(p["spatial"]) > 8]
    assert {p["spatial"].index(1) for p in one_sided} == {0, 1}
    assert {max(p["kernel"]) > 1 for p in one_sided} == {True, False}
    assert any(len(p["spatial"]) == 1 for p in made)
    assert any(len(set(p["kernel"])) == 2 and min(p["spatial"]) > 1 for p in flat)
    assert any(len(set(p["stride"])) == 2 for p in flat)
    assert any(p["batch"] > 1 for p in made)


def test_families_of_many_operators_show_more_than_real_networks_do():
    for family, least in (("elementwise", 20), ("binary", 10), ("reduce", 9)):
        real = {row.params["op"] for row in load_real_configurations(family)}
        drawn = {p["op"] for p in draws(family)}
        assert len(drawn) >= max(least, len(real))


def test_a_softmax_runs_along_inner_axes_too():
    assert any(p["axis"] < len(p["shape"]) - 1 for p in draws("softmax", 300))
