"""NAS-Bench-201: from a cell's string to the whole network as an ONNX model.

The space and the network around the cell are those of Dong and Yang, "NAS-Bench-201: Extending the Scope of
Reproducible Neural Architecture Search" (ICLR 2020), section 2: a cell has four nodes; each of its six edges carries
one of five operations and a node is the sum of its incoming edges. The network is a 3x3 convolution with batch
normalisation to 16 channels, three stages of five cells with 16, 32 and 64 channels, a basic residual block with
stride 2 between stages, then batch normalisation, ReLU, global average pooling and a fully connected layer.

A cell is written ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``. The authors' own numbering of the cells is random and comes
with their files; here a cell's number is its position in the order of :data:`OPERATIONS` with the last edge fastest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from deepen.errors import ConfigError, make_unknown_name_error
from deepen.graph.load import load_graph_from_proto
from deepen.graph.types import Graph
from deepen.spaces.network_writer import NetworkWriter, check_network_sizes

if TYPE_CHECKING:
    import onnx

__all__ = [
    "CELLS",
    "CHANNELS",
    "EDGES",
    "OPERATIONS",
    "SIZE",
    "build_graph",
    "build_model",
    "format_cell",
    "get_cell_at_index",
    "get_cell_index",
    "iter_cells",
    "parse_cell",
]

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""Operations of an edge: zeros, identity, ReLU-convolution-batch normalisation twice, average pooling."""

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""(from, to) of a cell's edges, in the order of its string."""

SIZE = len(OPERATIONS) ** len(EDGES)
"""Number of cells: 15,625."""

CHANNELS = (16, 32, 64)
"""Channels of the three stages."""

CELLS = 5
"""Cells per stage."""

RESOLUTION = 32
"""Height and width of the input; 16 for ImageNet16-120."""

_EDGE = re.compile(r"([a-z0-9_]+)~([0-9]+)")


def parse_cell(text: str) -> tuple[str, ...]:
    """Read a cell's string.

    Args:
        text: Such as ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|``.

    Returns:
        Operation of each edge, in the order of :data:`EDGES`.

    Raises:
        ConfigError: If it is no cell of the space.
    """
    return _parse_operations(str(text))


@cache
def _parse_operations(text: str) -> tuple[str, ...]:
    found: list[str] = []
    nodes = text.strip().split("+")
    for target, part in enumerate(nodes, start=1):
        edges = part[1:-1].split("|") if part.startswith("|") and part.endswith("|") and len(part) > 1 else []
        if len(edges) != target:
            raise _make_cell_error(text)
        for source, edge in enumerate(edges):
            match = _EDGE.fullmatch(edge)
            if match is None or int(match[2]) != source:
                raise _make_cell_error(text)
            if match[1] not in OPERATIONS:
                raise make_unknown_name_error("NAS-Bench-201 operation", match[1], OPERATIONS)
            found.append(match[1])
    if len(found) != len(EDGES):
        raise _make_cell_error(text)
    return tuple(found)


def _make_cell_error(text: str) -> ConfigError:
    return ConfigError(f"'{text}' is no NAS-Bench-201 cell; write |op~0|+|op~0|op~1|+|op~0|op~1|op~2|")


def format_cell(operations: Sequence[str]) -> str:
    """Write a cell's string, given the operation of each edge in the order of :data:`EDGES`.

    Raises:
        ConfigError: If there are not six, or one is unknown.
    """
    if len(operations) != len(EDGES):
        raise ConfigError(f"a NAS-Bench-201 cell has {len(EDGES)} operations, not {len(operations)}")
    for name in operations:
        if name not in OPERATIONS:
            raise make_unknown_name_error("NAS-Bench-201 operation", name, OPERATIONS)
    parts: dict[int, str] = {}
    for (source, target), name in zip(EDGES, operations, strict=True):
        parts[target] = parts.get(target, "|") + f"{name}~{source}|"
    return "+".join(parts[target] for target in sorted(parts))


def get_cell_at_index(number: int) -> str:
    """Return the cell with a number, 0 to :data:`SIZE` - 1; the inverse of :func:`get_cell_index`.

    Raises:
        ConfigError: If there is no such number.
    """
    if not 0 <= number < SIZE:
        raise ConfigError(f"NAS-Bench-201 has cells 0 to {SIZE - 1}, not {number}")
    digits = []
    for _ in EDGES:
        number, digit = divmod(number, len(OPERATIONS))
        digits.append(OPERATIONS[digit])
    return format_cell(digits[::-1])


def get_cell_index(cell: str) -> int:
    """Return the number of a cell.

    Raises:
        ConfigError: If it is not a cell of the space.
    """
    number = 0
    for name in parse_cell(cell):
        number = number * len(OPERATIONS) + OPERATIONS.index(name)
    return number


def iter_cells() -> Iterator[str]:
    """Iterate over all 15,625 cells, by number."""
    return map(get_cell_at_index, range(SIZE))


def build_graph(cell: str, classes: int = 10, resolution: int = RESOLUTION, cells: int = CELLS) -> Graph:
    """Build a cell's network as a graph, without weights; arguments as for :func:`build_model`."""
    return load_graph_from_proto(build_model(cell, classes, resolution, cells, weights=False))


def build_model(
    cell: str,
    classes: int = 10,
    resolution: int = RESOLUTION,
    cells: int = CELLS,
    *,
    weights: bool = True,
    seed: int = 0,
) -> onnx.ModelProto:
    """Build a cell's network as an ONNX model, written as an exporter writes the authors' PyTorch modules.

    A ``none`` edge is a multiplication by zero, which the runtime may or may not execute. A ``skip_connect`` edge has
    no node. Convolutions have a batch normalisation behind them instead of a bias.

    Args:
        cell: The cell's string.
        classes: 10 (CIFAR-10), 100 (CIFAR-100) or 120 (ImageNet16-120), or any other number.
        resolution: Height and width of the image.
        cells: Cells per stage.
        weights: Whether large weights get (random) values; without, the model does not run.
        seed: Seed of the weights.

    Raises:
        ConfigError: If the cell is malformed or a number is not positive.
    """
    operations = parse_cell(cell)
    check_network_sizes("NAS-Bench-201", classes=(classes, 1), resolution=(resolution, 4), cells=(cells, 1))
    net = NetworkWriter(weights, seed)
    x = net.batch_norm(net.conv("image", 3, CHANNELS[0], 3, 1), CHANNELS[0])
    for stage, width in enumerate(CHANNELS):
        if stage:
            x = _add_reduction_block(net, x, CHANNELS[stage - 1], width)
        for _ in range(cells):
            x = _add_cell(net, x, operations, width)
    x = net.node("Relu", [net.batch_norm(x, CHANNELS[-1])])
    return net.finish(f"nasbench201-{get_cell_index(cell)}", resolution, x, CHANNELS[-1], classes)


def _add_cell(net: NetworkWriter, x: str, operations: Sequence[str], width: int) -> str:
    nodes = {0: x}
    for (source, target), name in zip(EDGES, operations, strict=True):
        y = _add_edge(net, nodes[source], name, width)
        nodes[target] = net.node("Add", [nodes[target], y]) if target in nodes else y
    return nodes[len(nodes) - 1]


def _add_edge(net: NetworkWriter, x: str, name: str, width: int) -> str:
    if name == "none":
        return net.node("Mul", [x, net.zero()])
    if name == "skip_connect":
        return x
    if name == "avg_pool_3x3":
        return net.node(
            "AveragePool", [x], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=0
        )  # fmt: skip
    return net.relu_conv_bn(x, width, width, 3 if name == "nor_conv_3x3" else 1)


def _add_reduction_block(net: NetworkWriter, x: str, before: int, width: int) -> str:
    """Add a basic residual block with stride 2; its shortcut is an average pooling and a 1x1 convolution."""
    y = net.relu_conv_bn(net.relu_conv_bn(x, before, width, 3, 2), width, width, 3)
    shortcut = net.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4)
    return net.node("Add", [net.conv(shortcut, before, width, 1, 1), y])
