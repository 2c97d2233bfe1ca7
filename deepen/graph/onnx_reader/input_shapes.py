"""Input shapes: parses the ``--shape`` option, and fixes symbolic dimensions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

from deepen.errors import ConfigError, GraphError
from deepen.graph.onnx_reader.dimension_symbols import UNNAMED, list_type_symbols, solve_symbols
from deepen.graph.onnx_reader.without_weights import MAX_ELEMENTS

if TYPE_CHECKING:
    import onnx

__all__ = ["OpenShapesError", "describe_empty_inputs", "fix_input_shapes", "list_model_inputs", "parse_shape"]


class OpenShapesError(GraphError):
    """An input has a dimension that neither the file nor the user gives a size."""


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Parse the value of ``--shape``, for example ``input=1x3x224x224``.

    Args:
        text: Input name, ``=``, dimensions joined by ``x`` or ``,``. The name may itself hold ``=``; a dimension may be
            0 (the cache of a decoder's first step).

    Raises:
        ConfigError: If the text has another form.
    """
    name, equals, dims = text.rpartition("=")
    pieces = re.split(r"[x,×]", dims.strip().lower())  # noqa: RUF001 - people do type the real multiplication sign
    if not equals or not name.strip() or not all(re.fullmatch(r"[0-9]{1,12}", piece.strip()) for piece in pieces):
        raise ConfigError(f"cannot read the shape '{text}'; write it as NAME=1x3x224x224")
    return name.strip(), tuple(int(piece) for piece in pieces)


def list_model_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """List the inputs that are not initialisers (files of IR version 3 list both)."""
    weights = {tensor.name for tensor in graph.initializer}
    weights |= {sparse.values.name for sparse in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in weights]


def fix_input_shapes(
    graph: onnx.GraphProto,
    shapes: Mapping[str, tuple[int, ...]] | None,
    dims: Mapping[str, int] | None = None,
) -> bool:
    """Give every tensor input a static shape.

    1. Requested shapes fit their inputs in rank.
    2. A symbol fixed by one requested shape has the same size in all of them, and in every other input that uses it.
    3. Sizes requested by symbol, and expressions over symbols, are computed.
    4. A requested shape may replace static dimensions (another batch or image size); shape inference finds out whether
       the model can take them.
    5. After that, every dimension of every tensor input must be static.

    Args:
        graph: Changed in place.
        shapes: Shapes by input name.
        dims: Sizes by symbol.

    Returns:
        Whether a static dimension was replaced.

    Raises:
        GraphError: If a name is unknown or a shape does not fit its input.
        OpenShapesError: If a dimension is still open; everything that was asked for has been fixed then.
    """
    inputs = {value.name: value for value in list_model_inputs(graph)}
    asked = {name: tuple(int(dim) for dim in shape) for name, shape in (shapes or {}).items()}
    for name, shape in asked.items():  # 1
        _check_requested_shape(name, shape, inputs)
    # 2
    symbols = {symbol: (size, "--dim") for symbol, size in (dims or {}).items()}
    for name, shape in asked.items():
        for dim, size in zip(inputs[name].type.tensor_type.shape.dim, shape, strict=False):
            if dim.dim_param not in UNNAMED:
                known = symbols.setdefault(dim.dim_param, (size, f"input '{name}'"))
                if known[0] != size:
                    raise GraphError(
                        f"dimension '{dim.dim_param}' is {known[0]} in {known[1]} but {size} in input '{name}'",
                        cure="give both the same size",
                    )
    # 3
    everywhere = [symbol for value in inputs.values() for symbol in list_type_symbols(value.type)]
    sizes = solve_symbols(everywhere, {symbol: size for symbol, (size, _) in symbols.items()})
    # 4
    replaced = False
    for name, shape in asked.items():
        replaced = _set_static_shape(inputs[name], shape) or replaced
    for value in inputs.values():  # 3
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    _check_static_shapes(inputs)  # 5
    return replaced


def describe_empty_inputs(graph: onnx.GraphProto) -> dict[str, str]:
    """Describe the inputs that the file itself declares to be empty (a cache before the first step), by name.

    Args:
        graph: As the file declares it.
    """
    return {
        value.name: f"input '{value.name}' is empty by the file ({_format_declared_shape(value)}); "
        "--shape gives another size"
        for value in list_model_inputs(graph)
        if any(dim.HasField("dim_value") and dim.dim_value == 0 for dim in value.type.tensor_type.shape.dim)
    }


def _check_requested_shape(name: str, shape: tuple[int, ...], inputs: Mapping[str, onnx.ValueInfoProto]) -> None:
    if name not in inputs:
        close = difflib.get_close_matches(name, inputs, n=3, cutoff=0.4) or list(inputs)[:5]
        hint = f"its inputs: {', '.join(close)}" if close else "it has no inputs"
        raise GraphError(f"the model has no input '{name}'; {hint}")
    text = "x".join(map(str, shape)) or "scalar"
    if any(dim < 0 for dim in shape):
        raise GraphError(f"shape {text} for input '{name}' has a negative dimension", cure="a size is 0 or more")
    if prod(shape) > MAX_ELEMENTS:
        raise GraphError(f"shape {text} for input '{name}' is absurdly large")
    value = inputs[name]
    if not value.type.HasField("tensor_type"):
        raise GraphError(f"input '{name}' is not a tensor, so it takes no shape")
    if value.type.tensor_type.HasField("shape") and len(value.type.tensor_type.shape.dim) != len(shape):
        raise GraphError(
            f"shape {text} for input '{name}' has {len(shape)} dimensions but the model declares "
            f"{len(value.type.tensor_type.shape.dim)} ({_format_declared_shape(value)})"
        )


def _set_static_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> bool:
    tensor = value.type.tensor_type
    before = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in tensor.shape.dim]
    tensor.ClearField("shape")
    tensor.shape.SetInParent()
    for size in shape:
        tensor.shape.dim.add().dim_value = size
    return any(old not in {None, new} for old, new in zip(before, shape, strict=False))


def _check_static_shapes(inputs: Mapping[str, onnx.ValueInfoProto]) -> None:
    open_inputs = [value for value in inputs.values() if _find_dynamic_axis(value) is not None]
    if not open_inputs:
        for name, value in inputs.items():
            elements = prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            if elements > MAX_ELEMENTS:
                raise GraphError(f"input '{name}' would have {elements:,} elements; the file is damaged")
        return
    first, others = open_inputs[0], len(open_inputs) - 1
    more = "" if not others else f"; {others} other input{'s are' if others > 1 else ' is'} open too"
    axis = _find_dynamic_axis(first)
    shown = ", ".join(f"{value.name} ({_format_declared_shape(value)})" for value in open_inputs[:4])
    cure = f"give sizes with --shape NAME=DIMS for {shown}"
    if axis == -1:
        raise OpenShapesError(f"input '{first.name}' has no shape{more}", cure=cure)
    dim = first.type.tensor_type.shape.dim[axis or 0]
    what = f"a symbolic dimension '{dim.dim_param}'" if dim.dim_param else "an open dimension"
    raise OpenShapesError(f"input '{first.name}' has {what} (axis {axis}){more}", cure=cure)


def _find_dynamic_axis(value: onnx.ValueInfoProto) -> int | None:
    """Find the first axis that is not static; -1 if even the rank is open; ``None`` if all are static."""
    if not value.type.HasField("tensor_type"):
        return None
    if not value.type.tensor_type.HasField("shape"):
        return -1
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if not dim.HasField("dim_value") or dim.dim_value < 0:
            return axis
    return None


def _format_declared_shape(value: onnx.ValueInfoProto) -> str:
    if not value.type.tensor_type.HasField("shape"):
        return "any shape"
    dims = value.type.tensor_type.shape.dim
    return (
        "x".join(dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?") for dim in dims)
        or "scalar"
    )
