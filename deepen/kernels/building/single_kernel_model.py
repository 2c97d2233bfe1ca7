"""Builds a runnable single-kernel ONNX model from a family and its parameters.

The model holds original ONNX operators where those exist, so that splitting it gives the kernel back. Activations are
graph inputs ``x``, ``z``, ...; weights are random initialisers. Tensors of indices are initialisers with valid values,
so a runner may feed anything to the inputs; for integer inputs (quantised data) zeros are always valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepen.kernels.families.catalog import check_params
from deepen.kernels.families.onnx_writer import KernelModelWriter
from deepen.kernels.families.registry import get_family_definition
from deepen.kernels.types import hash_params

if TYPE_CHECKING:
    import onnx

__all__ = ["build_kernel_model"]


def build_kernel_model(
    family: str, params: Mapping[str, Any], *, seed: int = 0, weights: bool = True
) -> onnx.ModelProto:
    """Build a model that is exactly one kernel.

    Args:
        family: Family name.
        params: Its parameters; those with a default may be left out.
        seed: Seed of the random weights.
        weights: Whether large float32 weights get values. If not, they are placeholders, and the model does not run
            until a :class:`deepen.kernels.families.random_weights.WeightPool` has filled them.

    Returns:
        A checked model; input, weight and output shapes are static.

    Raises:
        ConfigError: If the family is unknown or cannot be built, or a parameter is missing, unknown, of the wrong kind,
            or does not fit the others; the message names the parameter.
    """
    given = check_params(family, params)
    item = get_family_definition(family)
    item.check(given)
    writer = KernelModelWriter(item.layout(given), seed, weights)
    item.write(given, writer)
    return writer.finish(f"{family}-{hash_params(family, given)}", item.opset(given))
