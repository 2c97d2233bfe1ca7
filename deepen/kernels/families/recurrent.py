"""Recurrent layers over a whole sequence: LSTM, GRU and plain RNN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, make_param_error
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.operator_costs import get_operator_code, get_operator_cost

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = ["FAMILY_DEFINITIONS"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}


def _read(group: NodeGroup) -> Params | None:
    node = group.find_single_node(tuple(_GATES))
    if node is None:
        return None
    x, recurrence = group.shape(node.inputs[0]), group.shape(node.inputs[2])
    batch_first = bool(node.attributes.get("layout", 0))
    given = [name for name in node.inputs[5:7] if name]
    wanted = [bool(name) and _is_output_read(group, name) for name in (*node.outputs, "", "", "")[:3]]
    return {
        "op": node.op_type, "dtype": group.dtype(node.inputs[0]), "seq": x[1] if batch_first else x[0],
        "batch": x[0] if batch_first else x[1], "input": x[2], "hidden": recurrence[2], "directions": recurrence[0],
        "bias": len(node.inputs) > 3 and bool(node.inputs[3]),
        "initial": sum(not group.is_const(name) for name in given), "state_outputs": sum(wanted[1:]),
        "sequence_output": wanted[0],
    }  # fmt: skip


def _is_output_read(group: NodeGroup, name: str) -> bool:
    return any(t.name == name for t in group.outputs) if group.outputs else True


def _layout(params: Params) -> KernelLayout:
    dtype, seq, batch, hidden = params["dtype"], params["seq"], params["batch"], params["hidden"]
    ways, wide = params["directions"], _GATES[params["op"]] * params["hidden"]
    state = (ways, batch, hidden)
    inputs = [TensorSpec("x", (seq, batch, params["input"]), dtype)]
    inputs += [TensorSpec(f"state{i}", state, dtype) for i in range(params["initial"])]
    outputs = [TensorSpec("y", (seq, ways, batch, hidden), dtype)] if params["sequence_output"] else []
    outputs += [TensorSpec(f"last{i}", state, dtype) for i in range(params["state_outputs"])]
    weights = [TensorSpec("w", (ways, wide, params["input"]), dtype), TensorSpec("r", (ways, wide, hidden), dtype)]
    if params["bias"]:
        weights.append(TensorSpec("b", (ways, 2 * wide), dtype))
    return KernelLayout(tuple(inputs), tuple(outputs), tuple(weights))


def _dims(params: Params) -> dict[str, float]:
    return {
        "batch": params["batch"], "c_in": params["input"], "c_out": params["hidden"], "axis_size": params["seq"],
        "m": params["batch"], "n": _GATES[params["op"]] * params["hidden"], "k": params["input"] + params["hidden"],
        "gemm_batch": params["seq"] * params["directions"], "op_code": get_operator_code(params["op"]),
    }  # fmt: skip


def _check(params: Params) -> None:
    states = _STATES[params["op"]]
    if params["directions"] > 2:
        raise make_param_error("recurrent", "directions", f"must be 1 or 2, not {params['directions']}")
    for name in ("initial", "state_outputs"):
        if params[name] > states:
            raise make_param_error("recurrent", name, f"of {params['op']} may be at most {states}")
    if not params["sequence_output"] and not params["state_outputs"]:
        raise make_param_error("recurrent", "state_outputs", "must be at least 1 where the sequence is no output")


def _write(params: Params, writer: KernelModelWriter) -> None:
    states = [f"state{i}" for i in range(params["initial"])]
    inputs = ["x", "w", "r", "b" if params["bias"] else "", "", *states]
    while not inputs[-1]:
        inputs.pop()
    outputs = ["y" if params["sequence_output"] else "", *(f"last{i}" for i in range(params["state_outputs"]))]
    writer.node(
        params["op"], inputs, outputs, hidden_size=params["hidden"],
        direction="bidirectional" if params["directions"] == 2 else "forward",
        linear_before_reset=1 if params["op"] == "GRU" else None,
    )  # fmt: skip


def _ops(params: Params) -> int:
    cells = params["seq"] * params["batch"] * params["hidden"] * params["directions"]
    return int(cells * get_operator_cost(params["op"]))


FAMILY_DEFINITIONS = (FamilyDefinition("recurrent", _read, _layout, _ops, _dims, _write, _check),)
