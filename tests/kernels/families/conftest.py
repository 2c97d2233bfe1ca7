"""Fixtures: small graphs from nodes, kernels from them, and runs in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deepen.graph import load_graph_from_proto
from deepen.graph.types import Graph
from deepen.kernels import Kernel, describe_kernel

FLOAT = onnx.TensorProto.FLOAT


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Any],
    outputs: Sequence[str] | Mapping[str, Any],
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    def info(name: str, spec: Any) -> onnx.ValueInfoProto:
        shape, dtype = spec if isinstance(spec, tuple) else (spec, FLOAT)
        return helper.make_tensor_value_info(name, dtype, shape)

    arrays = {
        k: np.asarray(v) if isinstance(v, np.ndarray | np.generic) else np.full(v, 0.5, np.float32)
        for k, v in (constants or {}).items()
    }
    outs = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs, (None, FLOAT))
    graph = helper.make_graph(
        list(nodes), "test", [info(k, v) for k, v in inputs.items()], [info(k, v) for k, v in outs.items()],
        [numpy_helper.from_array(v, k) for k, v in arrays.items()],
    )  # fmt: skip
    domains = {n.domain for n in nodes if n.domain}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in sorted(domains))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.fixture
def graph_of() -> Callable[..., Graph]:
    """Graph of a few nodes: ``graph_of(nodes, {"x": shape}, ["y"], {"w": shape or array}, opset=17)``."""

    def make(*args: Any, **kwargs: Any) -> Graph:
        return load_graph_from_proto(make_model(*args, **kwargs))

    return make


@pytest.fixture
def kernel_of(graph_of: Callable[..., Graph]) -> Callable[..., Kernel]:
    """Kernel of a few nodes taken as one group; see ``graph_of``."""

    def make(*args: Any, runtime_ops: Sequence[str] = (), **kwargs: Any) -> Kernel:
        graph = graph_of(*args, **kwargs)
        return describe_kernel(graph.nodes, graph, runtime_ops=runtime_ops)

    return make


@pytest.fixture
def run_model() -> Callable[..., list[np.ndarray]]:
    """Run a model in ONNX Runtime on its inputs (zeros where not given, as the campaign's runner feeds integers)."""
    import onnxruntime

    def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray] | None = None) -> list[np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        given = dict(feeds or {})
        for value in model.graph.input:
            tensor = value.type.tensor_type
            shape = [d.dim_value for d in tensor.shape.dim]
            given.setdefault(value.name, np.zeros(shape, helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
        return session.run(None, given)

    return run


@pytest.fixture
def build_model() -> Callable[..., onnx.ModelProto]:
    """Model of a few nodes; see ``graph_of``."""
    return make_model


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give ``family, params, one_kernel`` from configs.py to tests that ask for them."""
    if "one_kernel" not in metafunc.fixturenames:
        return
    space: dict[str, Any] = {}
    exec(compile((Path(__file__).parent / "configs.py").read_text(), "configs.py", "exec"), space)
    rows = space["CONFIGS"]
    seen: dict[str, int] = {}
    ids = []
    for family, _, _ in rows:
        seen[family] = seen.get(family, -1) + 1
        ids.append(f"{family}-{seen[family]}")
    metafunc.parametrize(("family", "params", "one_kernel"), rows, ids=ids)
