"""Makes a kernel from a family and its parameters, for data that holds configurations instead of models.

The result equals that of :func:`deepen.kernels.describe.describe_kernel` on the model that
:func:`deepen.kernels.building.single_kernel_model.build_kernel_model` builds; the model is not built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepen.graph.types import TensorInfo
from deepen.kernels.families.catalog import check_params
from deepen.kernels.families.kernel_layout import TensorSpec
from deepen.kernels.families.kernel_work import compute_kernel_work
from deepen.kernels.families.registry import get_family_definition
from deepen.kernels.types import Kernel, hash_params

__all__ = ["make_kernel_from_params"]


def make_kernel_from_params(family: str, params: Mapping[str, Any], name: str = "") -> Kernel:
    """Make the kernel of a configuration.

    Args:
        family: Family name.
        params: Its parameters; those with a default may be left out.
        name: Name of the kernel; family and key where empty.

    Raises:
        ConfigError: If the family is unknown or cannot be built, or a parameter is missing, unknown, of the wrong kind,
            or does not fit the others; the message names the parameter.
    """
    given = check_params(family, params)
    item = get_family_definition(family)
    item.check(given)
    layout = item.layout(given)

    def tensors(specs: tuple[TensorSpec, ...], constant: bool = False) -> tuple[TensorInfo, ...]:
        return tuple(TensorInfo(spec.name, spec.shape, spec.dtype, constant) for spec in specs)

    name = name or f"{family}-{hash_params(family, given)}"
    return Kernel(
        name=name,
        family=family,
        op_types=(),
        params=given,
        inputs=tensors(layout.inputs),
        weights=tensors(layout.weights, constant=True),
        outputs=tensors(layout.outputs),
        node_names=(),
        macs=compute_kernel_work(family, given).macs,
        ops=int(item.ops(given)),
        bytes_read=sum(spec.nbytes for spec in (*layout.inputs, *layout.weights)),
        bytes_written=sum(spec.nbytes for spec in layout.outputs),
    )
