"""Bodies of If, Loop and Scan: the number of their executions, and the types of the tensors passed in and out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import GraphError
from deepen.graph.onnx_reader import proto_values
from deepen.graph.onnx_reader.body_passes import BodyPasses, get_tensor_type
from deepen.graph.onnx_reader.graph_scope import GraphScope, GraphUnderConstruction
from deepen.graph.onnx_reader.loop_rounds import RoundCount, count_rounds
from deepen.graph.onnx_reader.proto_values import TensorType
from deepen.graph.types import Node, TensorInfo, UnknownPart

if TYPE_CHECKING:
    import onnx

__all__ = ["flatten_bodies"]

_MAX_TRIPS = 10**9  # exporters write a while-loop as a Loop of 2**63 - 1 rounds
_MAX_BOUND = 10**5  # a larger bound on what data decides says nothing

TensorTypes = dict[str, TensorType | None]
ConstantValues = dict[str, NDArray[Any]]
BodyOutputs = tuple[TensorTypes, ConstantValues]


def flatten_bodies(
    flattener: GraphUnderConstruction, scope: GraphScope, node: onnx.NodeProto, flat_node: Node
) -> BodyOutputs:
    """Flatten the bodies of a node.

    Args:
        flattener: The pass in progress; nodes and tensors of the bodies are added to it.
        scope: Graph the node lies in.
        node: The node.
        flat_node: The same node as it was added to the flattener.

    Returns:
        Types of its outputs by name, as far as they are known from the bodies, and the values of constant ones.
    """
    if not node.domain:
        if node.op_type == "If":
            return _flatten_if(flattener, scope, node, flat_node)
        if node.op_type == "Loop":
            return _flatten_loop(flattener, scope, node, flat_node)
        if node.op_type == "Scan" and flattener.opsets.get("", 1) >= 9:
            return _flatten_scan(flattener, scope, node, flat_node)
    for name, body in proto_values.list_subgraphs(node):
        inner = flattener.open_scope(f"{node.name}.{name}", body, scope)
        flattener.define_inputs(inner, {})
        flattener.flatten_nodes(inner, flat_node.multiplicity)
    flattener.warn(f"how often the bodies of '{node.name}' ({node.op_type}) run is not known; counted once")
    flattener.unknowns.append(
        UnknownPart(
            node.name,
            f"{node.domain}.{node.op_type}".lstrip("."),
            "rounds",
            f"how often the bodies of '{node.name}' run is decided inside the runtime",
        )
    )
    return {}, {}


def _get_scalar(flattener: GraphUnderConstruction, name: str) -> float | None:
    value = flattener.values.get(name)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 and value.dtype != object else None


def _flatten_if(
    flattener: GraphUnderConstruction, scope: GraphScope, node: onnx.NodeProto, flat_node: Node
) -> BodyOutputs:
    """Flatten If(condition) and its two branches, which read tensors of the scopes around them.

    1. Both branches are flattened; contradictions are tolerated in one that may not run.
    2. The branch counted is the one that the condition selects; if that is not known, the one that can take the input
       shapes, or the costlier one if both can.
    3. Warnings and unknown parts of the other branch are dropped, and its nodes get multiplicity 0.
    4. The outputs have the types of the counted branch; their values are known only if the condition is.

    Source: https://onnx.ai/onnx/operators/onnx__If.html.
    """
    condition = _find_condition(flattener, flat_node)
    bodies = dict(proto_values.list_subgraphs(node))
    branches: list[str] = [name for name in ("then_branch", "else_branch") if name in bodies]
    if not branches:
        return {}, {}
    chosen = "then_branch" if condition else "else_branch"
    scopes: dict[str, GraphScope] = {}
    spans: dict[str, slice] = {}
    impossible: dict[str, bool] = {}
    branch_warnings: dict[str, list[str]] = {}
    branch_unknowns: dict[str, list[UnknownPart]] = {}
    first_warning, first_unknown = len(flattener.warnings), len(flattener.unknowns)
    for name in branches:  # 1
        inner = scopes[name] = flattener.open_scope(f"{node.name}.{name}", bodies[name], scope)
        first = len(flattener.nodes)
        may_not_run = condition is None or name != chosen
        flattener.tolerance_depth += may_not_run
        flattener.define_inputs(inner, {})
        before = flattener.contradictions
        flattener.flatten_nodes(inner, flat_node.multiplicity)
        flattener.tolerance_depth -= may_not_run
        impossible[name] = flattener.contradictions > before
        if condition is not None and name != chosen:
            flattener.contradictions = before
        spans[name] = slice(first, len(flattener.nodes))
        branch_warnings[name] = flattener.warnings[first_warning:]
        del flattener.warnings[first_warning:]
        branch_unknowns[name] = flattener.unknowns[first_unknown:]
        del flattener.unknowns[first_unknown:]
    if condition is None:  # 2
        costs = {name: _estimate_branch_work(flattener.nodes[spans[name]], flattener.tensors) for name in branches}
        possible = [name for name in branches if not impossible[name]] or branches
        chosen = max(possible, key=costs.__getitem__)
        why = "its costlier branch" if len(possible) == len(branches) else "the only branch that takes these shapes"
        flattener.warn(
            f"the condition of '{node.name}' is not known; {why} ({chosen}) is counted; "
            f"choose with --branch {_find_decider(flattener, flat_node)}={str(chosen != 'then_branch').lower()}"
        )
    for text in branch_warnings.get(chosen, ()):  # 3
        flattener.warn(text)
    flattener.unknowns += branch_unknowns.get(chosen, [])
    for name in branches:
        if name != chosen:
            span = spans[name]
            flattener.nodes[span] = [replace(inside, multiplicity=0.0) for inside in flattener.nodes[span]]
    types: TensorTypes = {}
    values: ConstantValues = {}
    # 4
    if chosen in bodies:
        for output, value in zip(node.output, bodies[chosen].output, strict=False):
            types[output] = get_tensor_type(flattener, scopes[chosen], value.name)
            full = scopes[chosen].resolve(value.name)
            if condition is not None and full in flattener.values:
                values[output] = flattener.values[full]
    return types, values


def _find_condition(flattener: GraphUnderConstruction, flat_node: Node) -> float | None:
    """Find the condition of an If: what the user says of the node, else the value computed; ``None`` if not known."""
    if not flat_node.inputs:
        return None
    if flat_node.name in flattener.options.branches:
        flattener.values[flat_node.inputs[0]] = np.array(flattener.options.branches[flat_node.name])
    return _get_scalar(flattener, flat_node.inputs[0])


def _find_decider(flattener: GraphUnderConstruction, flat_node: Node) -> str:
    """Name for ``--branch``: the input that is the condition, else the If itself."""
    inputs = {value.name for value in flattener.model.graph.input}
    return next((name for name in flat_node.inputs[:1] if name in inputs), flat_node.name)


def _estimate_branch_work(nodes: Sequence[Node], tensors: dict[str, TensorInfo]) -> float:
    """Estimate the cost of a branch, to compare two: multiply-accumulates, or elements written by other operators."""
    total = 0.0
    for node in nodes:
        outputs = sum(tensors[name].elements for name in node.outputs if name in tensors)
        shapes = [tensors[name].shape for name in node.inputs if name in tensors]
        per_element = 1.0
        if len(shapes) > 1 and shapes[0] and shapes[1]:
            if node.op_type.startswith(("Conv", "QLinearConv", "FusedConv")):
                per_element = max(1.0, prod(shapes[1]) / shapes[1][0])
            elif node.op_type in {"MatMul", "Gemm", "MatMulInteger", "FusedMatMul"}:
                per_element = max(1.0, shapes[0][0 if node.attributes.get("transA") else -1])
        total += node.multiplicity * max(1.0, outputs * per_element)
    return total


def _flatten_loop(
    flattener: GraphUnderConstruction, scope: GraphScope, node: onnx.NodeProto, flat_node: Node
) -> BodyOutputs:
    """Flatten Loop(M, cond, states...) with body(iteration, cond, states...) -> (cond, states..., scans...).

    1. The body's inputs get the types of the Loop's; its condition is taken as true if the Loop starts at all.
    2. The body is flattened, and the multiplicity of its nodes multiplied by the number of rounds: what the user says,
       what is counted, or 1 if that is not known.
    3. A state's type is that of the body's output if its shape is the same after every iteration; without iterations,
       it is that of the Loop's input; one that grows by the same amount every round has grown by then. Its value
       is known if it is one that decides about the rounds.
    4. A scan output gets a leading axis of the number of rounds.

    Source: https://onnx.ai/onnx/operators/onnx__Loop.html.
    """
    body = dict(proto_values.list_subgraphs(node)).get("body")
    if body is None:
        return {}, {}
    path = f"{node.name}.body"
    inputs = (*flat_node.inputs, "", "")[: max(2, len(flat_node.inputs))]
    states = inputs[2:]
    # 1
    wanted = _get_scalar(flattener, inputs[0]) if inputs[0] else None
    start = _get_scalar(flattener, inputs[1]) if inputs[1] else 1.0
    formal = [value.name for value in body.input]
    assume = {formal[1]: np.array(True)} if start and len(formal) > 1 else {}
    bound = {} if len(formal) < 1 else {formal[0]: TensorType(7, ())}
    if len(formal) > 1:
        bound[formal[1]] = TensorType(9, ())
    bound |= _map_input_types(flattener, formal[2:], states)
    # 2
    first = len(flattener.nodes)
    passes = BodyPasses(flattener, scope, body, path, assume, flat_node.multiplicity)
    inner, steady, growth = passes.flatten_steadily(bound, formal[2:], body.output[1:])
    count = _count_loop_rounds(flattener, inner, body, wanted, start, states)
    if node.name in flattener.options.rounds:
        count = RoundCount(flattener.options.rounds[node.name])
    trips = count.rounds
    if growth and trips != 0:
        inner = passes.flatten_grown(bound, growth, trips or 1)
        grown = ", ".join(f"'{name}' at {'x'.join(map(str, g.average_dims(trips or 1)))}" for name, g in growth.items())
        flattener.warn(f"states of '{node.name}' grow every round and are counted at their average size: {grown}")
    if trips is None:
        _report_unknown_rounds(flattener, flat_node)
    elif not count.exact:
        flattener.warn(
            f"'{node.name}' runs at most {trips} rounds, which is what is counted; its data decides how many: "
            f"--rounds {node.name}=N"
        )
    _multiply_executions(flattener, first, 1.0 if trips is None else float(trips))
    values: ConstantValues = {
        output: value for output, value in zip(node.output, count.states, strict=False) if value is not None and output
    }
    found: TensorTypes = {}
    for index, output in enumerate(node.output):
        if index + 1 >= len(body.output):
            break
        tensor_type = get_tensor_type(flattener, inner, body.output[index + 1].name)
        if index < len(states):  # 3
            if trips == 0:
                found[output] = flattener.types.get(states[index])
            elif index < len(steady) and steady[index]:
                found[output] = tensor_type
            elif trips is not None and formal[index + 2] in growth:
                found[output] = TensorType(tensor_type.elem_type, growth[formal[index + 2]].compute_dims(trips))
        elif trips is not None:  # 4
            found[output] = _stack_tensor_type(tensor_type, trips, 0)
    return found, values


def _count_loop_rounds(
    flattener: GraphUnderConstruction,
    inner: GraphScope,
    body: onnx.GraphProto,
    wanted: float | None,
    start: float | None,
    states: Sequence[str],
) -> RoundCount:
    """Count the rounds of a Loop.

    1. There are none if the maximal number or the initial condition is 0.
    2. Else they are counted by :func:`~deepen.graph.onnx_reader.loop_rounds.count_rounds`; an initial condition that is
       not known makes the result an upper bound.
    3. A bound is no answer if it is implausible (exporters write a while-loop with a maximum of 2**63 - 1).
    """
    if (wanted is not None and wanted <= 0) or start == 0:  # 1
        return RoundCount(0)
    if not body.output:
        return RoundCount(None)
    # 2
    most = int(wanted) if wanted is not None else None
    values = flattener.values
    first = [values.get(name) for name in states]
    count = count_rounds(body, first, lambda name: values.get(inner.resolve(name)), most, flattener.opsets)
    exact = count.exact and start is not None
    # 3
    if count.rounds is None or count.rounds > (_MAX_TRIPS if exact else _MAX_BOUND):
        return RoundCount(None)
    return replace(count, exact=exact, states=count.states if exact else ())


def _report_unknown_rounds(flattener: GraphUnderConstruction, flat_node: Node) -> None:
    """Report a Loop or Scan whose body is counted once because its rounds are not known."""
    name, rounds = flat_node.name, f"the number of rounds of '{flat_node.name}' is not known"
    flattener.warn(f"{rounds}; its body is counted once; give it with --rounds {name}=N")
    flattener.unknowns.append(UnknownPart(name, flat_node.op_type, "rounds", rounds, f"--rounds {name}=N"))


def _flatten_scan(
    flattener: GraphUnderConstruction, scope: GraphScope, node: onnx.NodeProto, flat_node: Node
) -> BodyOutputs:
    """Flatten Scan(states..., scans...) with body(states..., slices...) -> (states..., slices...), from opset 9 on.

    1. The body's states get the types of the Scan's inputs, its slices those of the scanned inputs without the scan
       axis, whose size is the trip count.
    2. The body is flattened, and the multiplicity of its nodes multiplied by the trip count, or by 1 if that is not
       known.
    3. A state's type is that of the body's output if its shape is the same after every iteration.
    4. A scan output gets an axis of the trip count at its output axis.

    Source: https://onnx.ai/onnx/operators/onnx__Scan.html.
    """
    body = dict(proto_values.list_subgraphs(node)).get("body")
    if body is None:
        return {}, {}
    path = f"{node.name}.body"
    scans = flat_node.attributes.get("num_scan_inputs")
    if not isinstance(scans, int) or not 0 < scans <= len(flat_node.inputs):
        raise GraphError(f"node '{node.name}' (Scan) has the impossible num_scan_inputs {scans}")
    # 1
    count = len(flat_node.inputs) - scans
    axes = _read_scan_axes(flat_node, "scan_input_axes", scans)
    formal = [value.name for value in body.input]
    bound = _map_input_types(flattener, formal[:count], flat_node.inputs[:count])
    trips: int | None = None
    for name, full, axis in zip(formal[count:], flat_node.inputs[count:], axes, strict=False):
        tensor = flattener.tensors.get(full)
        if tensor is None or tensor.shape is None or not -len(tensor.shape) <= axis < len(tensor.shape):
            continue
        dims = list(tensor.shape)
        trips = dims.pop(axis)
        bound[name] = TensorType(flattener.types[full].elem_type, tuple(dims))
    # 2
    outputs = list(body.output)
    first = len(flattener.nodes)
    passes = BodyPasses(flattener, scope, body, path, {}, flat_node.multiplicity)
    inner, steady, _ = passes.flatten_steadily(bound, formal[:count], outputs)
    trips = flattener.options.rounds.get(node.name, trips)
    if trips is None:
        _report_unknown_rounds(flattener, flat_node)
    _multiply_executions(flattener, first, 1.0 if trips is None else float(trips))
    out_axes = _read_scan_axes(flat_node, "scan_output_axes", max(0, len(outputs) - count))
    found: TensorTypes = {}
    for index, output in enumerate(node.output[: len(outputs)]):
        tensor_type = get_tensor_type(flattener, inner, outputs[index].name)
        if index < count:  # 3
            found[output] = tensor_type if index < len(steady) and steady[index] else None
        elif trips is not None and index - count < len(out_axes):  # 4
            found[output] = _stack_tensor_type(tensor_type, trips, out_axes[index - count])
    return found, {}


def _read_scan_axes(flat_node: Node, name: str, count: int) -> tuple[int, ...]:
    axes = flat_node.attributes.get(name) or (0,) * count
    if not isinstance(axes, tuple) or not all(isinstance(axis, int) for axis in axes):
        raise GraphError(f"node '{flat_node.name}' ({flat_node.op_type}) has malformed {name}")
    return axes


def _map_input_types(
    flattener: GraphUnderConstruction, names: Sequence[str], full: Sequence[str]
) -> dict[str, TensorType]:
    """Map the body's names of the tensors passed in to their types."""
    return {
        name: flattener.types[source] for name, source in zip(names, full, strict=False) if source in flattener.types
    }


def _multiply_executions(flattener: GraphUnderConstruction, first: int, trips: float) -> None:
    """Multiply the multiplicity of every node from ``first`` on: those of a body and of the bodies inside it."""
    for index in range(first, len(flattener.nodes)):
        node = flattener.nodes[index]
        flattener.nodes[index] = replace(node, multiplicity=node.multiplicity * trips)


def _stack_tensor_type(tensor_type: TensorType, rounds: int, axis: int) -> TensorType | None:
    dims = tensor_type.dims
    if dims is None or not -len(dims) - 1 <= axis <= len(dims):
        return None
    at = axis if axis >= 0 else axis + len(dims) + 1
    return TensorType(tensor_type.elem_type, (*dims[:at], rounds, *dims[at:]))
