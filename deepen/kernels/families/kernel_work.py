"""Multiply-accumulates and bytes of a kernel from its parameters, without building it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from deepen.kernels.families.definition import Params
from deepen.kernels.families.kernel_layout import KernelLayout
from deepen.kernels.families.multiply_accumulates import count_attention_macs
from deepen.kernels.families.registry import get_family_definition

__all__ = ["KernelWork", "compute_kernel_work"]


@dataclass(frozen=True, slots=True)
class KernelWork:
    """Cost of a configuration.

    Attributes:
        macs: Multiply-accumulates.
        bytes: Activations, weights and outputs, each once.
    """

    macs: int
    bytes: int


def _count_attention_layer_macs(params: Params) -> int:
    heads, head, value = params["heads"], params["head_dim"], params["v_head_dim"]
    total = count_attention_macs(params["batch"], heads, params["q_len"], params["kv_len"], head, value)
    return int(total + params["batch"] * params["q_len"] * params["hidden_in"] * heads * (2 * head + value))


def _count_macs_from_params(family: str, params: Params, layout: KernelLayout) -> int:
    """Count multiply-accumulates from parameters; a test compares the count with that of the built model."""
    x, y = layout.inputs[0], layout.outputs[0]
    match family:
        case "conv-bn-relu" | "dwconv-bn-relu" | "groupconv" | "qconv":
            return int(y.elements * params["c_in"] // params["groups"] * prod(params["kernel"]))
        case "convtranspose":
            return int(x.elements * params["c_out"] // params["groups"] * prod(params["kernel"]))
        case "fc" | "qmatmul":
            return int(params.get("batch", 1) * params["m"] * params["k"] * params["n"])
        case "matmul":
            a = params["a_shape"]
            return y.elements * int(a[-2] if params["trans_a"] else a[-1])
        case "attention":
            return _count_attention_layer_macs(params)
        case "recurrent":
            gates = {"LSTM": 4, "GRU": 3}.get(params["op"], 1) * params["hidden"] * params["directions"]
            return int(params["seq"] * params["batch"] * gates * (params["input"] + params["hidden"]))
        case "se":
            return int(2 * params["batch"] * params["c"] * params["mid"])
        case _:
            return 0


def compute_kernel_work(family: str, params: Mapping[str, Any]) -> KernelWork:
    """Compute the cost of a configuration without building it.

    Args:
        family: Its family.
        params: Its parameters, in canonical form.
    """
    layout = get_family_definition(family).layout(params)
    tensors = (*layout.inputs, *layout.weights, *layout.outputs)
    return KernelWork(_count_macs_from_params(family, params, layout), sum(spec.nbytes for spec in tensors))
