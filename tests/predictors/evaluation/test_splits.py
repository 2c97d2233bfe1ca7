"""Divisions into training and held-out sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepen.errors import ConfigError, PredictorError
from deepen.predictors.evaluation.splits import SplitOptions, infer_architecture, make_folds
from deepen.predictors.measured_rows import select_usable_rows


@pytest.fixture
def rows(world_of):
    world = world_of(7)
    kernels = world.kernels(20, ("fc", "add", "relu"))
    kernels += [replace(r, energy_j=1.01 * r.energy_j) for r in kernels[:30]]  # measured twice
    models = [world.model(f"{name}{i}", 6, 0.0) for name in ("resnet", "vgg") for i in (18, 50)]
    return select_usable_rows([*kernels, *models])


@pytest.mark.parametrize("split", ["random", "leave-family-out", "leave-size-out"])
def test_no_row_is_on_both_sides_and_no_configuration_either(rows, split):
    for fold in make_folds(rows, split, SplitOptions()):
        assert not (fold.train_kernels & fold.test_kernels).any()
        assert not (fold.train_models & fold.test_models).any()
        train = {k for k, t in zip(rows.keys, fold.train_kernels, strict=True) if t}
        assert train.isdisjoint(k for k, t in zip(rows.keys, fold.test_kernels, strict=True) if t)


def test_random_splits_hold_out_a_share_of_every_family(rows):
    families = np.array([r.family for r in rows.kernels])
    folds = make_folds(rows, "random", SplitOptions(share=0.7, repeats=3))
    assert len(folds) == 3 and not np.array_equal(folds[0].test_kernels, folds[1].test_kernels)
    for fold in folds:
        for name in ("fc", "add", "relu"):
            of = families == name
            held = {k for k, t, o in zip(rows.keys, fold.test_kernels, of, strict=True) if t and o}
            everything = {k for k, o in zip(rows.keys, of, strict=True) if o}
            assert len(held) == len(everything) - round(0.7 * len(everything))
        assert fold.test_models.sum() == 1


def test_equal_seeds_divide_equally(rows):
    one, two, other = (make_folds(rows, "random", SplitOptions(seed=s))[0].test_kernels for s in (3, 3, 4))
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_each_family_is_left_out_once(rows):
    folds = [f for f in make_folds(rows, "leave-family-out", SplitOptions()) if f.test_kernels.any()]
    assert sum(f.test_kernels.astype(int) for f in folds).tolist() == [1] * len(rows.kernels)
    for fold in folds:
        assert len({r.family for r, t in zip(rows.kernels, fold.test_kernels, strict=True) if t}) == 1


def test_an_architecture_goes_with_its_kernels(world_of):
    """A configuration that occurs in a held-out model is not trained on."""
    world = world_of(8)
    kernels = world.kernels(6, ("fc", "add"))
    part = {"family": "fc", "params": kernels[0].params, "features": kernels[0].features, "multiplicity": 1.0}
    models = [world.record("model", n, 1e-3, kernels=(part,)) for n in ("resnet18", "resnet50")]
    models.append(world.model("vgg16", 4, 0.0, ("fc",)))
    rows = select_usable_rows([*kernels, *models])
    fold = next(f for f in make_folds(rows, "leave-family-out", SplitOptions()) if f.name == "models resnet")
    assert fold.test_models.tolist() == [True, True, False]
    assert fold.train_kernels.tolist() == [False] + [True] * 11


def test_the_largest_are_held_out(rows):
    (fold,) = make_folds(rows, "leave-size-out", SplitOptions(share=0.7))
    size = np.array([2 * r.features["macs"] + r.features["ops"] for r in rows.kernels])
    families = np.array([r.family for r in rows.kernels])
    for name in ("fc", "add", "relu"):
        of = families == name
        assert size[of & fold.test_kernels].min() > size[of & fold.train_kernels].max()


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("resnet50", "resnet"),
        ("ResNet-18", "resnet"),
        ("mobilenet_v2", "mobilenet"),
        ("mobilenetv3_large", "mobilenet"),
        ("vit_b_16", "vit"),
        ("v8", "v"),
        ("123", "123"),
    ],
)
def test_architectures_by_name(world_of, name, architecture):
    assert infer_architecture(world_of(1).model(name, 2, 0.0)) == architecture


def test_an_architecture_that_is_stated_wins(world_of):
    assert infer_architecture(replace(world_of(1).model("resnet50", 2, 0.0), family="backbone")) == "backbone"


def test_bad_options_are_told(rows):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        SplitOptions(share=1.0)
    with pytest.raises(ConfigError, match="at least 1"):
        SplitOptions(repeats=0)
    with pytest.raises(ConfigError, match="did you mean random"):
        make_folds(rows, "randon", SplitOptions())


def test_what_cannot_be_divided_is_told(world_of):
    with pytest.raises(PredictorError, match="nothing would be held out"):
        make_folds(select_usable_rows([world_of(2).kernel("fc")]), "random", SplitOptions())
    with pytest.raises(PredictorError, match="leave-family-out"):
        make_folds(select_usable_rows(world_of(2).kernels(5, ("fc",))), "leave-family-out", SplitOptions())
