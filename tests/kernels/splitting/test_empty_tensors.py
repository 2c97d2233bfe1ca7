"""Tensors without elements (the cache of a first step, an empty batch) in front of every family.

ONNX Runtime decides which axes of a kernel's inputs may be 0: where it takes the model, it is split.
"""

from __future__ import annotations

import math
from typing import Any

import onnxruntime
import pytest

from deepen.errors import GraphError
from deepen.graph import load_graph_from_proto
from deepen.kernels.building.single_kernel_model import build_kernel_model
from deepen.kernels.features import compute_features
from deepen.kernels.splitting.split import split_graph


@pytest.fixture(scope="module")
def configurations(pytestconfig: pytest.Config) -> list[tuple[str, dict[str, Any], bool]]:
    """Configurations of every family."""
    space: dict[str, Any] = {}
    path = pytestconfig.rootpath / "tests" / "kernels" / "families" / "configs.py"
    exec(compile(path.read_text(), "configs.py", "exec"), space)
    return space["CONFIGS"]  # type: ignore[no-any-return]


def set_axis_to_zero(model: Any, axis: int) -> dict[str, tuple[int, ...]] | None:
    """Shapes of the inputs with this axis of 0 wherever it is as large as that of the first input."""
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
        if value.name not in {tensor.name for tensor in model.graph.initializer}
    }
    first = next(iter(shapes.values()))
    if axis >= len(first):
        return None
    size = first[axis]
    for shape in shapes.values():
        if axis < len(shape) and shape[axis] == size:
            shape[axis] = 0
    return {name: tuple(shape) for name, shape in shapes.items()}


def does_the_runtime_take(model: Any, shapes: dict[str, tuple[int, ...]]) -> bool:
    copy = type(model)()
    copy.CopyFrom(model)
    for value in (*copy.graph.input, *copy.graph.output):
        if value.name in shapes:
            for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
                dim.dim_value = size
        elif value.name not in {tensor.name for tensor in copy.graph.initializer}:
            value.type.tensor_type.ClearField("shape")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(copy.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception:  # the runtime raises exceptions of many classes; each means that it does not take the model
        return False
    return True


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_the_runtime_takes_without_elements_is_split(configurations: Any, axis: int) -> None:
    tried: set[str] = set()
    for family, params, _ in configurations:
        model = build_kernel_model(family, params)
        shapes = set_axis_to_zero(model, axis)
        if shapes is None or not does_the_runtime_take(model, shapes):
            continue
        try:
            graph = load_graph_from_proto(model, shapes)
        except GraphError as error:
            assert "node '" in error.cause, error  # a window, channel or Reshape that cannot be empty
            continue
        for runtime in ("onnxruntime", "tflite-cpu"):
            for kernel in split_graph(graph, runtime).kernels:
                features = compute_features(kernel)
                assert all(math.isfinite(value) for value in features.values()), (family, params, features)
                assert kernel.macs >= 0
        tried.add(family)
    assert len(tried) >= 15, sorted(tried)
