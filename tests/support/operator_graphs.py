"""Random graphs over the standard operators: what ONNX Runtime finds of them, and what deepen says.

Types, attributes and shapes are drawn from an operator's schema; a graph counts only if ONNX Runtime runs it. A product
stands behind the drawn operators, so that a lost shape shows.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from deepen.errors import GraphError
from deepen.graph.load import load_graph_from_proto
from deepen.kernels.splitting.split import split_graph

Array = NDArray[Any]
OPSET = 21
NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(bool)": "bool",
}
WITH_PRODUCTS = {
    *("MatMul", "Gemm", "Conv", "ConvTranspose", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
    *("Einsum", "RNN", "GRU", "LSTM", "DeformConv", "DFT", "STFT", "Attention"),
}
"""Operators with multiply-accumulates of their own: of their graphs the count is only held from below."""

Outcome = Literal["agree", "named", "error", "violation"]


@dataclass(frozen=True)
class GraphCheck:
    """Result of one graph that ONNX Runtime runs.

    Attributes:
        operators: Drawn operators.
        outcome: ``agree``: all shapes and the products as in the runtime; ``named``: something is said to be unknown;
            ``error``: refused by a :class:`~deepen.errors.GraphError`; ``violation``: anything else.
        detail: The difference, if any.
    """

    operators: tuple[str, ...]
    outcome: Outcome
    detail: str = ""


def list_operators() -> list[str]:
    """Standard operators with a CPU kernel in ONNX Runtime, without those that hold graphs."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    run = {k.op_name for k in get_all_opkernel_def() if k.domain == "" and k.provider == "CPUExecutionProvider"}
    names = []
    for name in sorted(run):
        if onnx.defs.has(name, OPSET, ""):
            schema = onnx.defs.get_schema(name, OPSET, "")
            graphs = any(a.type == onnx.defs.OpSchema.AttrType.GRAPH for a in schema.attributes.values())
            if not schema.deprecated and not graphs:
                names.append(name)
    return names


def _draw_shape(rng: random.Random) -> list[int]:
    return [rng.choice((1, 2, 3, 3, 4)) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4)))]


def _draw_array(rng: random.Random, dtype: str, like: list[int]) -> Array:
    shape = like if rng.random() < 0.5 else _draw_shape(rng)
    values = np.random.default_rng(rng.randrange(2**32)).integers(0, 4, shape)
    return np.asarray(values, dtype)


def _draw_attributes(rng: random.Random, schema: onnx.defs.OpSchema) -> dict[str, Any]:
    kinds, drawn = onnx.defs.OpSchema.AttrType, {}
    for name, attribute in schema.attributes.items():
        if not attribute.required and rng.random() < 0.7:
            continue
        if attribute.type == kinds.INT:
            drawn[name] = 1 if name == "to" else rng.choice((-1, 0, 1, 1, 2))
        elif attribute.type == kinds.INTS:
            drawn[name] = [rng.choice((0, 1, 2)) for _ in range(rng.choice((1, 2, 2, 3)))]
        elif attribute.type == kinds.FLOAT:
            drawn[name] = rng.choice((0.1, 0.5, 1.0))
    return drawn


def draw_graph(seed: str, operators: Sequence[str], rows: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Draw operators in a row, and behind them a product with a weight of ``rows`` rows; it need not be legal.

    Returns:
        The model, and what it is fed with.
    """
    rng = random.Random(seed)
    nodes, feeds, constants = [], dict[str, Array](), dict[str, Array]()
    last, like = "", _draw_shape(rng)
    for i, name in enumerate(operators):
        schema = onnx.defs.get_schema(name, OPSET, "")
        chosen = {t.type_param_str: rng.choice(_list_types(t.allowed_type_strs)) for t in schema.type_constraints}
        inputs = []
        for j, formal in enumerate(schema.inputs):
            if formal.option == onnx.defs.OpSchema.FormalParameterOption.Optional and rng.random() < 0.5:
                break
            if j == 0 and last:
                inputs.append(last)
                continue
            kind = chosen.get(formal.type_str, formal.type_str)
            array, tensor = _draw_array(rng, NUMPY_TYPES.get(kind, "float32"), like), f"t{i}_{j}"
            (constants if j and rng.random() < 0.5 else feeds)[tensor] = array
            inputs.append(tensor)
        last = f"y{i}"
        outputs = [last, *(f"y{i}_{j}" for j in range(1, schema.min_output))]
        nodes.append(helper.make_node(name, inputs, outputs, f"n{i}", **_draw_attributes(rng, schema)))
    constants["weight"] = np.ones((rows, 5), np.float32)
    nodes += [helper.make_node("Cast", [last], ["cast"], "cast", to=1)]
    nodes += [helper.make_node("MatMul", ["cast", "weight"], ["product"], "product")]
    graph = helper.make_graph(
        nodes,
        "drawn",
        [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()],
        [helper.make_empty_tensor_value_info("product")],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return model, feeds


def _list_types(allowed: Any) -> list[str]:
    return [t for t in sorted(allowed) if t in NUMPY_TYPES] or ["tensor(float)"]


def _run_model(model: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array] | None:
    """Every tensor of a model as ONNX Runtime computes it; ``None`` if it does not, or if one is no tensor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    outputs = [o for node in model.graph.node for o in node.output]
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(o) for o in outputs)
    try:
        session = onnxruntime.InferenceSession(shown.SerializeToString(), options, ["CPUExecutionProvider"])
        found = dict(zip(outputs, session.run(None, feeds), strict=True))
    except Exception:
        return None
    return found if all(isinstance(v, np.ndarray) for v in found.values()) else None


def _is_product_run(model: onnx.ModelProto) -> bool:
    """A product of a shape alone is a constant: ONNX Runtime computes it when it reads the model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        optimised = onnx.load(options.optimized_model_filepath)
    return any("product" in node.output for node in optimised.graph.node)


def check_seed(seed: str, operators: Sequence[str]) -> GraphCheck | None:
    """Draw a graph, run it in ONNX Runtime, and compare; ``None`` if the runtime does not take it.

    ONNX Runtime may abort the process: call it in one that may be lost.
    """
    names = tuple(operators)
    model, feeds = draw_graph(seed, names, 1)
    del model.graph.node[-1]
    found = _run_model(model, feeds)
    if found is None or not found["cast"].ndim:
        return None
    model, feeds = draw_graph(seed, names, found["cast"].shape[-1])
    found = _run_model(model, feeds)
    if found is None:
        return None
    try:
        graph = load_graph_from_proto(model)
        split = split_graph(graph)
    except GraphError as e:
        return GraphCheck(names, "error", str(e))
    except Exception as e:
        return GraphCheck(names, "violation", f"{type(e).__name__}: {e}")
    named = bool(graph.unknowns or split.unknowns or graph.warnings)
    for tensor, value in found.items():
        said = graph.tensors[tensor].shape if tensor in graph.tensors else None
        if said is not None and tuple(said) != value.shape:
            return GraphCheck(names, "violation", f"{tensor}: {said} for {value.shape}")
        if said is None and tensor in graph.tensors and not named:
            return GraphCheck(names, "violation", f"{tensor}: no shape, and nothing says so")
    if named:
        return GraphCheck(names, "named")
    work = math.prod(found["product"].shape) * found["cast"].shape[-1] if _is_product_run(model) else 0
    macs = sum(k.macs for k in split.kernels)
    if macs < work or (macs > work and not set(names) & WITH_PRODUCTS):
        return GraphCheck(names, "violation", f"{macs} multiply-accumulates for {work}")
    return GraphCheck(names, "agree")
