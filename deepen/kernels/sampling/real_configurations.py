"""Configurations of real kernels, collected from architectures (``kernels/priors``), and their costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

from deepen import catalog
from deepen.errors import ConfigError
from deepen.kernels.families.catalog import check_params, complete_params
from deepen.kernels.families.definition import Params
from deepen.kernels.families.kernel_layout import KernelLayout
from deepen.kernels.families.multiply_accumulates import count_attention_macs
from deepen.kernels.families.registry import get_family_definition

__all__ = [
    "KernelWork",
    "RealConfiguration",
    "canonicalise_params",
    "compute_kernel_work",
    "list_families_with_configurations",
    "load_real_configurations",
]


@dataclass(frozen=True, slots=True)
class RealConfiguration:
    """One configuration seen in real architectures.

    Attributes:
        params: The family's parameters.
        sources: Up to three architectures it occurs in.
        count: Kernels with exactly these parameters, over all architectures.
    """

    params: Mapping[str, Any]
    sources: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True)
class KernelWork:
    """Cost of a configuration.

    Attributes:
        macs: Multiply-accumulates.
        bytes: Activations, weights and outputs, each once.
    """

    macs: int
    bytes: int


def list_families_with_configurations() -> list[str]:
    """List the families that have real configurations."""
    return catalog.list_names("kernels", "priors", ".jsonl")


@cache
def load_real_configurations(family: str) -> tuple[RealConfiguration, ...]:
    """Read the real configurations of a family; empty if none were collected.

    Raises:
        ConfigError: If a row is not in the format of tools/collect_priors.
    """
    file = catalog.find_path("kernels", "priors", f"{family}.jsonl")
    if not file.is_file():
        return ()
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            params = complete_params(family, row["params"])  # defaults are not written
            rows.append(RealConfiguration(params, tuple(row["sources"]), int(row["count"])))
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise ConfigError(f"{file}:{number}: not a prior ({error}); run tools/collect_priors again") from error
    return tuple(rows)


def canonicalise_params(family: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Bring parameters into canonical form (file order, defaults filled in); ``None`` if they do not fit together."""
    try:
        done = check_params(family, params)
        get_family_definition(family).check(done)
    except ConfigError:
        return None
    return done


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
