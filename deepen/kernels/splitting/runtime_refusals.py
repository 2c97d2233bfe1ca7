"""Says in our words why ONNX Runtime refuses a model, and what to do about it.

The runtime's own messages are parts of C++ signatures, or name no cure. The reason is found by asking it again about
smaller questions, never by the words of a message.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deepen.errors import GraphError
from deepen.graph.onnx_reader.proto_values import iter_graphs, list_subgraphs, make_type_proto
from deepen.graph.onnx_reader.runtime_session import RuntimeRefusal, map_runtime_operators, open_session
from deepen.graph.onnx_reader.runtime_types import RuntimeTypes
from deepen.graph.onnx_reader.shape_inference import shorten_text
from deepen.graph.types import Graph, Node

if TYPE_CHECKING:
    import onnx

__all__ = ["explain_refusal", "is_custom_operator", "list_hidden_tensors"]

_OTHER_RUNTIME = "split it for another runtime with --runtime"
_NAMED = 4  # outputs in a cure
_OLDEST_OPSET = 7
"""Oldest operator set that ONNX Runtime implements: https://onnxruntime.ai/docs/reference/compatibility.html."""


def explain_refusal(graph: Graph, refusal: RuntimeRefusal) -> GraphError:
    """Explain why the runtime refuses a model.

    1. Its IR version, or the version of an operator set, is too new.
    2. An operator is not known, or not in that version of its domain.
    3. A node alone is refused: for lack of an implementation, or as invalid.
    4. Otherwise the runtime's words are all there is.
    """
    assert graph.model is not None
    model = graph.model
    subject, name = str(graph.source_path), _name_runtime()
    too_new = _find_new_version(model)
    if too_new is not None:  # 1
        return GraphError(too_new[0], subject=subject, cure=f"upgrade onnxruntime, or {too_new[1]}")
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    functions = {(function.domain, function.name) for function in model.functions}
    hidden = list_hidden_tensors(graph)
    for body in iter_graphs(model.graph):  # 2
        for proto in body.node:
            if (proto.domain, proto.op_type) in functions:
                continue
            problem = _find_operator_problem(proto, opsets, [name for name in proto.output if name in hidden])
            if problem is not None:
                return GraphError(problem[0], subject=subject, cure=problem[1])
    refused = _find_refused_node(graph, opsets)
    if refused is not None:  # 3
        node, alone = refused
        types = list(dict.fromkeys(t.dtype for n in node.inputs if (t := graph.tensors.get(n)) and t.dtype))
        version = opsets.get(node.domain, 1)
        what = f"{node.op_type} of operator set {version} for {', '.join(types) or 'these types'} (node '{node.name}')"
        if alone.lacks_kernel:
            cure = f"convert the model to float32, or {_OTHER_RUNTIME}"
            if not node.domain and version < _OLDEST_OPSET:
                cure = f"convert the model to operator set {_OLDEST_OPSET} or later with onnx.version_converter"
            return GraphError(f"{name} does not implement {what}", subject=subject, cure=cure)
        reason = _shorten_reason(alone.reason)
        cure = f"export the model again, or {_OTHER_RUNTIME}"
        return GraphError(f"{name} refuses {what}: {reason}", subject=subject, cure=cure)
    cure = f"export the model again, or {_OTHER_RUNTIME}"  # 4
    return GraphError(f"{name} refuses the model: {_shorten_reason(refusal.reason)}", subject=subject, cure=cure)


def _name_runtime() -> str:
    import onnxruntime

    return f"ONNX Runtime {onnxruntime.__version__}"


def is_custom_operator(proto: onnx.NodeProto) -> bool:
    """Return whether the runtime itself has no operator of this name."""
    return (proto.domain, proto.op_type) not in map_runtime_operators()


def list_hidden_tensors(graph: Graph) -> set[str]:
    """List the tensors that are read and whose shape is not known."""
    read = {name for node in graph.nodes for name in node.inputs if name} | {tensor.name for tensor in graph.outputs}
    return {name for name in read if name not in graph.tensors or graph.tensors[name].shape is None}


def _find_operator_problem(
    proto: onnx.NodeProto, opsets: Mapping[str, int], hidden: Sequence[str]
) -> tuple[str, str] | None:
    """Find out whether the runtime knows the operator of a node.

    Args:
        proto: The node.
        opsets: Version by domain.
        hidden: Outputs whose shapes would be needed to do without the operator.

    Returns:
        Cause and cure if it is not known in the version of its domain that is imported, else ``None``.
    """
    versions = map_runtime_operators().get((proto.domain, proto.op_type))
    domain = proto.domain or "ai.onnx"
    if versions is None:
        cause = f"{_name_runtime()} does not know the operator {domain}.{proto.op_type} of node '{proto.name}'"
        own = any(proto.domain == known for known, _ in map_runtime_operators())
        cure = "correct its name or its domain in the file, or upgrade onnxruntime"
        if not own:
            cure = "name the library that has it with --custom-ops FILE"
            shapes = " ".join(f"--shape {name}=DIMS" for name in hidden[:_NAMED])
            cure += f", or give what it writes with {shapes}" if hidden else ""
        return cause, cure
    imported = opsets.get(proto.domain, 1)
    past = [version for version in versions if abs(version) <= imported]
    if past and past[-1] > 0:
        return None
    cause = f"the file imports operator set {imported} of {domain}, which has no {proto.op_type} (node '{proto.name}')"
    if past:
        return cause, "convert the model with onnx.version_converter, or import an older operator set"
    return cause, f"it came with {min(map(abs, versions))}: convert the model with onnx.version_converter"


def _find_new_version(model: onnx.ModelProto) -> tuple[str, str] | None:
    """Find the IR version or operator set that is too new; cause and the second half of the cure."""
    newest = _find_newest(model.ir_version, lambda version: _takes_versions(version, {}))
    if newest is not None:
        cause = f"IR version {model.ir_version}, but {_name_runtime()} takes up to {newest}"
        return cause, "save the model with an older IR version"
    known = {domain for domain, _ in map_runtime_operators()}
    for opset in model.opset_import:
        if opset.domain not in known:
            continue
        newest = _find_newest(opset.version, partial(_takes_opset, opset.domain))
        if newest is not None:
            domain = opset.domain or "ai.onnx"
            cause = f"operator set {opset.version} of {domain}, but {_name_runtime()} takes up to {newest}"
            return cause, f"export the model for operator set {newest} or older"
    return None


def _find_newest(version: int, takes: Callable[[int], bool]) -> int | None:
    """Find the newest version taken, by bisection; ``None`` if ``version`` itself is taken, or none is."""
    if takes(version) or not takes(1 + (low := 3)):
        return None
    high = version
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(middle) else (low, middle)
    return low


def _takes_opset(domain: str, version: int) -> bool:
    return _takes_versions(4, {domain: version})


def _takes_versions(ir_version: int, opsets: Mapping[str, int]) -> bool:
    """Return whether the runtime takes a model of one Identity with these versions."""
    from onnx import helper

    node = helper.make_node("Identity", ["x"], ["y"])
    value = helper.make_tensor_value_info
    graph = helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])])
    imports = [helper.make_opsetid(domain, version) for domain, version in {"": 11, **opsets}.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    try:
        open_session(model.SerializeToString(), Path(tempfile.gettempdir()))
    except RuntimeRefusal:
        return False
    return True


def _find_refused_node(graph: Graph, opsets: Mapping[str, int]) -> tuple[Node, RuntimeRefusal] | None:
    """Find the first node without bodies that the runtime refuses alone."""
    from onnx import TensorProto, numpy_helper

    from deepen.kernels.splitting.skeleton_model import map_dtype_to_number

    assert graph.model is not None
    numbers = map_dtype_to_number()
    protos = {proto.name: proto for body in iter_graphs(graph.model.graph) for proto in body.node}
    with RuntimeTypes(opsets, graph.custom_ops) as runtime:
        for node in graph.nodes:
            proto = protos.get(node.name)
            if proto is None or list_subgraphs(proto):
                continue
            types, values = [], []
            for name in node.inputs:
                tensor = graph.tensors.get(name)
                number = numbers.get(tensor.dtype, TensorProto.UNDEFINED) if tensor else TensorProto.UNDEFINED
                types.append(make_type_proto(number, tensor.shape if tensor else None) if name else None)
                value = graph.values.get(name)
                values.append(None if value is None or value.dtype == object else numpy_helper.from_array(value))
            constant = [bool(name) and name in graph.tensors and graph.tensors[name].constant for name in node.inputs]
            refusal = runtime.find_refusal(proto, types, values, constant)
            if refusal is not None:
                return node, refusal
    return None


def _shorten_reason(reason: str) -> str:
    """Shorten the runtime's words: without its error number, source file and C++ signature."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", reason)
    text = re.sub(r"^(Load model from .*? failed:|Exception during \w+: )", "", text)
    text = re.sub(r"^\S+\.(cc|h):\d+ .*? (was false\. )", "", text)
    text = re.sub(r"^This is an invalid model\. ", "", text)
    text = re.sub(r"^(In Node, .*? , Error |Node \(.*?\) Op \(\w+\) )", "", text)
    return shorten_text(text, 140)
