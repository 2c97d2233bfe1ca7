"""Published recipes and simple lines."""

from __future__ import annotations

import numpy as np
import pytest

from deepen.errors import ConfigError
from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.features import compute_features
from deepen.predictors.evaluation import published_recipes
from deepen.predictors.evaluation.baselines import BASELINES, get_baselines
from deepen.predictors.kernel_counts import KernelCounts

counted = KernelCounts.from_records


def conv(**changes):
    given = {"c_in": 32, "c_out": 64, "spatial": [28, 28], "kernel": [3, 3], "stride": [2, 2], "dilation": [1, 1]}
    return make_kernel_from_params(
        "conv-bn-relu", given | {"pads": [1, 1, 1, 1], "bias": True, "activation": "relu"} | changes
    )


def test_features_of_a_convolution_are_those_of_the_published_code():
    kernel = conv()
    found = published_recipes.compute_published_features(kernel.family, compute_features(kernel), kernel.params)
    weights = 64 * (9 * 32 + 1)
    assert found == pytest.approx([28, 32, 64, 3, 2, 2 * 14**2 * weights / 2e6, weights / 1e6])


def test_a_depthwise_convolution_counts_one_input_channel():
    f = compute_features(conv()) | {"c_in": 64.0, "c_out": 64.0}
    weights = 64 * (9 + 1)
    assert published_recipes.compute_published_features("dwconv-bn-relu", f, {})[-1] == pytest.approx(weights / 1e6)


def test_a_concatenation_lists_four_inputs_and_a_global_pooling_loses_its_size():
    f = compute_features(conv())
    params = {"in_shapes": [[1, 8, 28, 28], [1, 16, 28, 28]]}
    assert published_recipes.compute_published_features("concat", f, params) == [28, 8, 16, 0, 0]
    assert published_recipes.compute_published_features("global-avgpool", f, {}) == [28, 32]
    assert published_recipes.compute_published_features("global-avgpool", f, {}, small_pool=True) == [1, 32]


def test_forests_are_those_published():
    assert published_recipes.get_published_forest(
        "conv-bn-relu", gpu=False
    ) == published_recipes.PublishedForestSettings(320, 70, 6)
    assert published_recipes.get_published_forest(
        "conv-bn-relu", gpu=True
    ) == published_recipes.PublishedForestSettings(550, 80, 5)
    assert published_recipes.get_published_forest("softmax", gpu=False) == published_recipes.PublishedForestSettings(
        370, 50
    )
    assert published_recipes.get_published_forest(
        "convtranspose", gpu=False
    ) == published_recipes.PublishedForestSettings(370, 50)


@pytest.mark.parametrize("name", ["flops", "flops+bytes"])
def test_lines_find_the_line(world_of, name):
    records = world_of(1).kernels(15, ("fc", "relu"))
    kernels = counted(records)
    operations = kernels.sums(2 * kernels.column("macs") + kernels.column("ops"))
    joules = 3e-11 * operations + 2e-6
    predict = BASELINES[name].kernels(kernels, joules, False)
    np.testing.assert_allclose(predict(kernels), joules, rtol=1e-6)


def test_bytes_cost_what_operations_do_not_explain(world_of):
    kernels = counted(world_of(2).kernels(30, ("fc", "conv-bn-relu")))
    operations, moved = 2 * kernels.column("macs") + kernels.column("ops"), kernels.column("bytes_read")
    joules = kernels.sums(1e-11 * operations + 5e-10 * (moved + kernels.column("bytes_written")))
    errors = {}
    for name in ("flops", "flops+bytes"):
        errors[name] = np.abs(BASELINES[name].kernels(kernels, joules, False)(kernels) / joules - 1).max()
    assert errors["flops+bytes"] < 1e-6 < errors["flops"]


@pytest.mark.parametrize("name", ["flops", "flops+bytes", "deepen2023"])
def test_a_family_nobody_trained_on_is_answered_by_all_others(world_of, name):
    records = world_of(3).kernels(8, ("fc", "relu"))
    energy = np.array([r.energy_j for r in records])
    predict = BASELINES[name].kernels(counted(records), energy, False)
    assert np.isfinite(predict(counted(world_of(4).kernels(3, ("maxpool",))))).all()


def test_forests_repeat_what_they_were_shown_nearly(world_of):
    records = world_of(5, noise=0.0).kernels(40, ("relu",))
    energy = np.array([r.energy_j for r in records])
    predicted = BASELINES["deepen2023"].kernels(counted(records), energy, False)(counted(records))
    assert np.median(np.abs(predicted / energy - 1)) < 0.1


def test_nn_meter_leaves_out_what_exceeds_its_limit(world_of):
    """Rows of 200 units and more are not trained on, so that nothing of their size is ever predicted."""
    records = world_of(6).kernels(20, ("fc",))
    energy = np.linspace(0.05, 0.4, 20)
    below, above = (
        BASELINES[n].kernels(counted(records), energy, False)(counted(records)) for n in ("nn-meter", "deepen2023")
    )
    assert below.max() <= 0.2 < above.max()


@pytest.mark.parametrize("name", ["flops", "flops+bytes", "forest-on-nets"])
def test_whole_models(world_of, name):
    world = world_of(7)
    models = [world.model(f"m{i}", 10, 1e-5) for i in range(12)]
    energy = np.array([r.energy_j for r in models])
    predict = BASELINES[name].models(counted(models), energy, False)
    assert np.median(np.abs(predict(counted(models)) / energy - 1)) < 0.5


def test_unknown_baselines_are_told():
    with pytest.raises(ConfigError, match="did you mean nn-meter"):
        get_baselines(["nnmeter"])
