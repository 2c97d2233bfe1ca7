"""NAS-Bench-101: from a cell's graph to the whole network as an ONNX model.

The space and the network around the cell are those of Ying et al., "NAS-Bench-101: Towards Reproducible Neural
Architecture Search" (ICML 2019), section 2 and appendix: a cell is a directed acyclic graph of at most 7 vertices and 9
edges; the first vertex is the input, the last the output, each other one of three operations. The network is a 3x3
convolution to 128 channels, three stacks of three cells with a 2x2 max pooling that halves the image between stacks
(the next stack has twice the channels), global average pooling and a fully connected layer. Vertices that feed the
output share its channels and are concatenated; what comes from the cell's input passes a 1x1 convolution.

EC-NAS (arXiv 2210.06015) uses the same cells with at most 4, 5 or 7 vertices.

A cell is written ``111.01.1:conv3x3-bn-relu,maxpool3x3``: the upper triangle of the adjacency matrix row by row, then
the operations of the inner vertices.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
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
    "MAX_EDGES",
    "OPERATIONS",
    "NasBench101Cell",
    "build_graph",
    "build_model",
    "parse_cell",
]

OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
"""Operations of inner vertices."""

MAX_EDGES = 9

CHANNELS = 128
"""Channels of the first stack."""

CELLS = 3
"""Cells per stack."""

STACKS = 3

_TEXT = re.compile(r"([01.]+):([a-z0-9,-]*)")
_MOST = 32


@dataclass(frozen=True, slots=True)
class NasBench101Cell:
    """A cell in which every vertex is on a path from input to output.

    Attributes:
        matrix: Adjacency, upper triangular, ``matrix[source][target]`` 0 or 1.
        operations: Of the inner vertices, in order.
    """

    matrix: tuple[tuple[int, ...], ...]
    operations: tuple[str, ...]

    @classmethod
    def make(cls, matrix: Sequence[Sequence[int]], operations: Sequence[str]) -> NasBench101Cell:
        """Make a cell from a matrix that may have useless vertices; they are left out.

        Args:
            matrix: Square, upper triangular, of 0 and 1.
            operations: Of the inner vertices; or of all vertices, the first ``input`` and the last ``output``.

        Raises:
            ConfigError: If the matrix is malformed, an operation is unknown, or no way leads from input to output.
        """
        rows = [[int(v) for v in row] for row in matrix]
        size = len(rows)
        if not 2 <= size <= _MOST or any(len(row) != size for row in rows):
            raise ConfigError(f"a NAS-Bench-101 cell has a square matrix of 2 to {_MOST} vertices, not {size} rows")
        if any(v not in (0, 1) or (v and j <= i) for i, row in enumerate(rows) for j, v in enumerate(row)):
            raise ConfigError("the matrix of a NAS-Bench-101 cell holds 0 and 1 above the diagonal and 0 elsewhere")
        inner = list(operations)
        if len(inner) == size and inner[0] == "input" and inner[-1] == "output":
            inner = inner[1:-1]
        if len(inner) != size - 2:
            raise ConfigError(f"a NAS-Bench-101 cell of {size} vertices has {size - 2} operations, not {len(inner)}")
        for name in inner:
            if name not in OPERATIONS:
                raise make_unknown_name_error("NAS-Bench-101 operation", name, OPERATIONS)
        kept = sorted(_find_reachable(rows, 0, True) & _find_reachable(rows, size - 1, False))
        if not kept:
            raise ConfigError("no way leads from the input to the output of this NAS-Bench-101 cell; add an edge")
        return cls(
            tuple(tuple(rows[i][j] for j in kept) for i in kept),
            tuple(inner[i - 1] for i in kept[1:-1]),
        )

    @property
    def edges(self) -> int:
        """Number of edges."""
        return sum(map(sum, self.matrix))

    def __str__(self) -> str:
        rows = ".".join("".join(map(str, row[i + 1 :])) for i, row in enumerate(self.matrix[:-1]))
        return f"{rows}:{','.join(self.operations)}"

    @property
    def hash(self) -> str:
        """The benchmark's own hash, equal for isomorphic cells; the key of EC-NAS and NAS-Bench-101 files.

        Iterated MD5 over neighbours (the same source, section 2.3). MD5 is an identifier here, not a protection.
        """
        return _hash_cell(self)


@lru_cache(maxsize=65536)
def _hash_cell(cell: NasBench101Cell) -> str:
    matrix = cell.matrix
    size = len(matrix)
    labels = (-1, *(OPERATIONS.index(name) for name in cell.operations), -2)
    degrees = [(sum(matrix[v]), sum(row[v] for row in matrix)) for v in range(size)]
    names = [_hash_text(str((*degree, label))) for degree, label in zip(degrees, labels, strict=True)]
    for _ in range(size):
        names = [
            _hash_text(
                "".join(sorted(names[w] for w in range(size) if matrix[w][v]))
                + "|"
                + "".join(sorted(names[w] for w in range(size) if matrix[v][w]))
                + "|"
                + names[v]
            )
            for v in range(size)
        ]
    return _hash_text(str(sorted(names)))


def _hash_text(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _find_reachable(rows: Sequence[Sequence[int]], start: int, forward: bool) -> set[int]:
    """Find the vertices reachable from one; empty if the other end is not among them."""
    size = len(rows)
    seen, todo = {start}, [start]
    while todo:
        v = todo.pop()
        for w in range(size):
            if w not in seen and (rows[v][w] if forward else rows[w][v]):
                seen.add(w)
                todo.append(w)
    return seen if (size - 1 if forward else 0) in seen else set()


def parse_cell(text: str) -> NasBench101Cell:
    """Read a cell as :class:`NasBench101Cell` writes it.

    Raises:
        ConfigError: If it is none.
    """
    found = _TEXT.fullmatch(str(text).strip())
    if found is None:
        raise ConfigError(f"'{text}' is no NAS-Bench-101 cell; write 11.1:conv3x3-bn-relu (upper triangle: operations)")
    rows = found[1].split(".")
    size = len(rows) + 1
    if any(len(row) != size - 1 - i for i, row in enumerate(rows)):
        raise ConfigError(f"'{text}': rows of the upper triangle have {size - 1}, {size - 2}, ..., 1 digits")
    matrix = [[0] * (i + 1) + [int(v) for v in row] for i, row in enumerate(rows)] + [[0] * size]
    return NasBench101Cell.make(matrix, found[2].split(",") if found[2] else ())


def _compute_vertex_channels(cell: NasBench101Cell, before: int, after: int) -> list[int]:
    """Compute the channels of every vertex of a cell (section 2.2 and appendix A of the source).

    Vertices that feed the output share its channels; the first ones get one more each if the division has a remainder.
    Any other vertex has as many channels as the largest one it feeds.
    """
    matrix, size = cell.matrix, len(cell.matrix)
    channels = [before, *[0] * (size - 2), after]
    feeding = [v for v in range(1, size - 1) if matrix[v][-1]]
    for k, v in enumerate(feeding):
        channels[v] = after // len(feeding) + (k < after % len(feeding))
    for v in reversed(range(1, size - 1)):
        if not matrix[v][-1]:
            channels[v] = max(channels[w] for w in range(v + 1, size - 1) if matrix[v][w])
    return channels


def build_graph(cell: NasBench101Cell, classes: int = 10, resolution: int = 32) -> Graph:
    """Build a cell's network as a graph, without weights; arguments as for :func:`build_model`."""
    return load_graph_from_proto(build_model(cell, classes, resolution, weights=False))


def build_model(
    cell: NasBench101Cell, classes: int = 10, resolution: int = 32, *, weights: bool = True, seed: int = 0
) -> onnx.ModelProto:
    """Build a cell's network as an ONNX model.

    Args:
        cell: The cell.
        classes: Classes of the fully connected layer.
        resolution: Height and width of the image.
        weights: Whether large weights get (random) values; without, the model does not run.
        seed: Seed of the weights.

    Raises:
        ConfigError: If a number is too small.
    """
    check_network_sizes("NAS-Bench-101", classes=(classes, 1), resolution=(resolution, 4))
    net = NetworkWriter(weights, seed)
    x = net.conv_bn_relu("image", 3, CHANNELS, 3)
    before = CHANNELS
    for stack in range(STACKS):
        if stack:
            x = net.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4)
        for _ in range(CELLS):
            x = _add_cell(net, x, cell, before, CHANNELS << stack)
            before = CHANNELS << stack
    return net.finish(f"nasbench101-{cell.hash}", resolution, x, before, classes)


def _add_cell(net: NetworkWriter, x: str, cell: NasBench101Cell, before: int, after: int) -> str:
    matrix, size = cell.matrix, len(cell.matrix)
    channels = _compute_vertex_channels(cell, before, after)
    tensors = {0: x}
    for v in range(1, size - 1):
        given = [_take_first_channels(net, tensors[w], channels[w], channels[v]) for w in range(1, v) if matrix[w][v]]
        if matrix[0][v]:
            given.append(net.conv_bn_relu(x, before, channels[v], 1))
        summed = given[0]
        for other in given[1:]:
            summed = net.node("Add", [summed, other])
        name = cell.operations[v - 1]
        if name == "maxpool3x3":
            tensors[v] = net.node("MaxPool", [summed], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
        else:
            tensors[v] = net.conv_bn_relu(summed, channels[v], channels[v], 3 if name.startswith("conv3x3") else 1)
    joined = [tensors[v] for v in range(1, size - 1) if matrix[v][-1]]
    if not joined:
        return net.conv_bn_relu(x, before, after, 1)
    y = joined[0] if len(joined) == 1 else net.node("Concat", joined, axis=1)
    return net.node("Add", [y, net.conv_bn_relu(x, before, after, 1)]) if matrix[0][-1] else y


def _take_first_channels(net: NetworkWriter, x: str, have: int, wanted: int) -> str:
    """Take the first channels of a tensor: a vertex may feed one with a channel less."""
    return x if have == wanted else net.node("Slice", [x, net.integers(0), net.integers(wanted), net.integers(1)])
