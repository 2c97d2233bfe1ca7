"""The invariant: a built kernel is described as what it was built from, runs, and is one kernel on the runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from deepen.graph import load_graph_from_proto
from deepen.kernels import (
    FEATURE_NAMES,
    build_kernel_model,
    compute_features,
    count_node_macs,
    describe_kernel,
    hash_params,
    load_families,
)
from deepen.kernels.families.catalog import check_params
from deepen.kernels.families.registry import get_family_definition
from deepen.kernels.splitting.split import split_graph


def test_build_then_describe_gives_the_same_kernel(family, params, one_kernel):
    model = build_kernel_model(family, params)
    onnx.checker.check_model(model, full_check=True)
    graph = load_graph_from_proto(model)
    kernel = describe_kernel(graph.nodes, graph)
    full = check_params(family, params)
    assert kernel.family == family
    assert kernel.params == full
    assert kernel.key == hash_params(family, full)
    assert kernel.macs == sum(count_node_macs(n, graph) for n in graph.nodes)


def test_built_kernel_runs_and_gives_the_promised_tensors(family, params, one_kernel, run_model):
    full = check_params(family, params)
    layout = get_family_definition(family).layout(full)
    outputs = run_model(build_kernel_model(family, params))
    assert [tuple(o.shape) for o in outputs] == [s.shape for s in layout.outputs]
    for array, spec in zip(outputs, layout.outputs, strict=True):
        assert str(array.dtype) == spec.dtype


def test_features_are_complete_finite_and_not_negative(family, params, one_kernel):
    graph = load_graph_from_proto(build_kernel_model(family, params))
    found = compute_features(describe_kernel(graph.nodes, graph))
    assert tuple(found) == FEATURE_NAMES
    assert all(isinstance(v, float) and np.isfinite(v) and v >= 0 for v in found.values())
    assert found["bytes_read"] == found["bytes_in"] + found["bytes_weights"]
    assert found["bytes_written"] == found["bytes_out"] > 0
    assert all(0 <= found[name] < 1 for name in FEATURE_NAMES if name.startswith("waste_"))


def test_runtime_runs_it_as_one_kernel_of_the_same_key(family, params, one_kernel):
    kernels = split_graph(load_graph_from_proto(build_kernel_model(family, params))).kernels
    key = hash_params(family, check_params(family, params))
    assert (len(kernels) == 1 and kernels[0].key == key) is one_kernel


def test_every_family_is_tried(pytestconfig):
    space: dict = {}
    path = pytestconfig.rootpath / "tests" / "kernels" / "families" / "configs.py"
    exec(compile(path.read_text(), "configs.py", "exec"), space)
    tried = {family for family, _, _ in space["CONFIGS"]}
    assert tried == set(load_families())


def test_building_twice_gives_the_same_bytes_and_another_seed_other_weights():
    params = {"m": 3, "k": 20, "n": 30}
    first, again, other = (build_kernel_model("fc", params, seed=s).SerializeToString() for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_weights_are_small_and_never_denormal():
    model = build_kernel_model("fc", {"m": 1, "k": 1200, "n": 1000, "bias": True})
    for tensor in model.graph.initializer:
        size = np.abs(onnx.numpy_helper.to_array(tensor))
        assert size.min() >= 0.01
        assert size.max() <= 0.06


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_float_types_reach_the_file(dtype, run_model):
    model = build_kernel_model("fc", {"dtype": dtype, "m": 3, "k": 8, "n": 5, "bias": True, "activation": "relu"})
    kinds = {t.data_type for t in model.graph.initializer}
    assert {str(helper.tensor_dtype_to_np_dtype(k)) for k in kinds} == {dtype}
    assert str(run_model(model)[0].dtype) == dtype
    graph = load_graph_from_proto(model)
    assert describe_kernel(graph.nodes, graph).params["dtype"] == dtype


def test_gather_indices_are_valid_and_spread(run_model):
    model = build_kernel_model("gather", {"shape": [50, 4], "indices_shape": [40], "axis": 0})
    indices = onnx.numpy_helper.to_array(model.graph.initializer[0])
    assert indices.min() >= 0
    assert indices.max() < 50
    assert len(set(indices.tolist())) == 40
    table = np.arange(200, dtype=np.float32).reshape(50, 4)
    np.testing.assert_array_equal(run_model(model, {"x": table})[0], table[indices])
