"""Small faults of model files, of which a runtime forgives some: each changes a valid model in place, or cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["FAULTS", "asks_runtime"]

Fault = Callable[[onnx.ModelProto, np.random.Generator], bool]
"""Makes the fault at a place drawn at random; returns whether the model has such a place."""


def asks_runtime(model: onnx.ModelProto) -> str:
    """Verdict of ONNX Runtime on a model: empty if it takes it, else its reason."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # its exceptions share no base class
        return str(error) or type(error).__name__
    return ""


def _pick(rng: np.random.Generator, items: Iterator[object] | list[object]) -> object:
    listed = list(items)
    return listed[int(rng.integers(len(listed)))] if listed else None


def _node(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.NodeProto:
    return model.graph.node[int(rng.integers(len(model.graph.node)))]


def repeat_initialiser(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    if not model.graph.initializer:
        return False
    index = int(rng.integers(len(model.graph.initializer)))
    model.graph.initializer.add().CopyFrom(model.graph.initializer[index])
    return True


def repeat_node(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    copy = onnx.NodeProto.FromString(_node(model, rng).SerializeToString())
    model.graph.node.append(copy)
    return True


def repeat_input(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.graph.input.add().CopyFrom(model.graph.input[0])
    return True


def repeat_output(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.graph.output.add().CopyFrom(model.graph.output[0])
    return True


def share_node_name(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    for node in model.graph.node:
        node.name = "same"
    return True


def drop_node_names(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    for node in model.graph.node:
        node.name = ""
    return True


def reverse_nodes(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    return True


def raise_ir_version(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.ir_version = int(rng.integers(50, 200))
    return True


def lower_ir_version(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.ir_version = 4
    return True


def raise_opset(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.opset_import[0].version = int(rng.integers(60, 200))
    return True


def lower_opset(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.opset_import[0].version = int(rng.integers(1, 6))
    return True


def drop_imports(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    if len(model.opset_import) < 2:
        return False
    del model.opset_import[1:]
    return True


def import_unknown_domain(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.opset_import.add(domain="somebody.else", version=int(rng.integers(1, 9)))
    return True


def misspell_operator(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    _node(model, rng).op_type += "s"
    return True


def move_to_unknown_domain(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    _node(model, rng).domain = "somebody.else"
    model.opset_import.add(domain="somebody.else", version=1)
    return True


def read_undefined(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    _node(model, rng).input[0] = "nowhere"
    return True


def read_own_output(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    node = _node(model, rng)
    node.input[0] = node.output[0]
    return True


def drop_input(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    node = _node(model, rng)
    del node.input[-1]
    return True


def add_input(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    node = _node(model, rng)
    node.input.append(node.input[0])
    return True


def add_outputs(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    _node(model, rng).output.extend(["more", "still more", "even more"])
    return True


def add_attribute(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    _node(model, rng).attribute.append(helper.make_attribute("surprise", 1))
    return True


def retype_attribute(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    node = _pick(rng, [n for n in model.graph.node if n.attribute])
    if not isinstance(node, onnx.NodeProto):
        return False
    name = node.attribute[0].name
    node.attribute[0].CopyFrom(helper.make_attribute(name, "text"))
    return True


def drop_attribute(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    node = _pick(rng, [n for n in model.graph.node if n.attribute])
    if not isinstance(node, onnx.NodeProto):
        return False
    del node.attribute[0]
    return True


def retype_model_input(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.graph.input[0].type.tensor_type.elem_type = int(
        rng.choice([TensorProto.INT32, TensorProto.STRING, TensorProto.FLOAT16, TensorProto.BOOL])
    )
    return True


def make_model_double(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return True


def retype_model_output(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    return True


def declare_wrong_output_shape(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    output = model.graph.output[0]
    output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, (3, 5, 7)))
    return True


def declare_wrong_inner_shape(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    name = _node(model, rng).output[0]
    model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (3, 5, 7)))
    return True


def declare_wrong_inner_type(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    name = _node(model, rng).output[0]
    model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.INT32, None))
    return True


def rename_output(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.graph.output[0].name = "nobody writes it"
    return True


def drop_outputs(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    del model.graph.output[:]
    return True


def add_unused_input(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.graph.input.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, (1,)))
    return True


def add_unused_initialiser(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unused"))
    return True


def add_unused_node(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.graph.node.append(helper.make_node("Relu", [model.graph.input[0].name], ["unused"], "unused"))
    return True


def add_functionless_domain(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.graph.node.append(
        helper.make_node("Nothing", [model.graph.node[0].output[0]], ["unused"], "unused", domain="no.imports")
    )
    return True


def cut_weight(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    tensor = _pick(rng, [t for t in model.graph.initializer if t.dims and t.dims[-1] > 1])
    if not isinstance(tensor, onnx.TensorProto):
        return False
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[..., :-1].copy(), tensor.name))
    return True


def name_input_like_output(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    model.graph.node[-1].output[0] = model.graph.input[0].name
    return True


def list_initialisers_as_inputs(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tuple(tensor.dims)))
    return bool(model.graph.initializer)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        repeat_initialiser, repeat_node, repeat_input, repeat_output, share_node_name, drop_node_names, reverse_nodes,
        raise_ir_version, lower_ir_version, raise_opset, lower_opset, drop_imports, import_unknown_domain,
        misspell_operator, move_to_unknown_domain, read_undefined, read_own_output, drop_input, add_input, add_outputs,
        add_attribute, retype_attribute, drop_attribute, retype_model_input, make_model_double, retype_model_output,
        declare_wrong_output_shape, declare_wrong_inner_shape, declare_wrong_inner_type, rename_output, drop_outputs,
        add_unused_input, add_unused_initialiser, add_unused_node, add_functionless_domain, cut_weight,
        name_input_like_output, list_initialisers_as_inputs,
    )
}  # fmt: skip
"""Every fault by name."""
