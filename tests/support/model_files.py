"""Model files of a few nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def write_model_file(
    folder: Path,
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str], dict[str, Any]]],
    inputs: dict[str, Sequence[int]],
    outputs: Sequence[str],
    constants: dict[str, Any] | None = None,
    *,
    names: bool = True,
    opset: int = 17,
    ir_version: int = 8,
    inputs_list_constants: bool = False,
    dtype: int = onnx.TensorProto.FLOAT,
    file: str = "model.onnx",
) -> Path:
    """Write a model from node tuples ``(op, inputs, outputs, attributes)``, input shapes and constants."""
    protos = []
    for index, (op, ins, outs, attrs) in enumerate(nodes):
        rest = {key: value for key, value in attrs.items() if key != "domain"}
        name = f"n{index}" if names else ""
        protos.append(helper.make_node(op, ins, outs, name=name, domain=attrs.get("domain", ""), **rest))
    values = {key: np.asarray(value) for key, value in (constants or {}).items()}
    declared = [helper.make_tensor_value_info(n, dtype, list(s)) for n, s in inputs.items()]
    if inputs_list_constants:
        declared += [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape))
            for n, v in values.items()
        ]
    graph = helper.make_graph(
        protos,
        "g",
        declared,
        [helper.make_value_info(o, onnx.TypeProto()) for o in outputs],
        [numpy_helper.from_array(v, n) for n, v in values.items()],
    )
    for value in graph.output:
        value.type.tensor_type.elem_type = dtype
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=ir_version,
    )
    path = folder / file
    onnx.save(model, path)
    return path
