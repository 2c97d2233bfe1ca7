"""NAS-Bench-101 as a search space, with EC-NAS' limits on vertices."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepen.errors import ConfigError
from deepen.spaces import nasbench101_networks
from deepen.spaces.nasbench101_networks import NasBench101Cell
from deepen.spaces.space import SearchSpace

if TYPE_CHECKING:
    import onnx

    from deepen.graph.types import Graph

__all__ = ["NasBench101Space"]

_LISTED = 5
"""Largest number of vertices for which all cells are listed: 2,532 cells for five; six would take minutes."""

_MUTATIONS = 10_000
_EDGE_FLIPS = 2.0
_RELABELS = 0.5


class NasBench101Space(SearchSpace):
    """Cells of NAS-Bench-101 with at most ``vertices`` vertices (EC-NAS: 4, 5 and 7) and at most 9 edges."""

    settings = ("vertices", "classes", "resolution")

    def __init__(self, vertices: int = 7, classes: int = 10, resolution: int = 32) -> None:
        if not 3 <= vertices <= 7:
            raise ConfigError(f"cells of NAS-Bench-101 have at most 3 to 7 vertices, not {vertices}")
        self.vertices = vertices
        self.classes = classes
        self.resolution = resolution
        self.name = f"nasbench101?vertices={vertices}&classes={classes}&resolution={resolution}"
        self._pairs = list(itertools.combinations(range(vertices), 2))
        self.levels = (2,) * len(self._pairs) + (len(nasbench101_networks.OPERATIONS),) * (vertices - 2)

    def canonical(self, arch: str) -> str:
        """See :class:`SearchSpace`."""
        return str(self._checked(nasbench101_networks.parse_cell(arch)))

    def _checked(self, cell: NasBench101Cell) -> NasBench101Cell:
        if len(cell.matrix) > self.vertices or cell.edges > nasbench101_networks.MAX_EDGES:
            raise ConfigError(
                f"'{cell}' has {len(cell.matrix)} vertices and {cell.edges} edges; the space {self.name} has at most "
                f"{self.vertices} and {nasbench101_networks.MAX_EDGES}"
            )
        return cell

    def encode(self, arch: str) -> tuple[int, ...]:
        """See :class:`SearchSpace`; a smaller cell is filled up with vertices without edges before its output."""
        return self._codes(self._checked(nasbench101_networks.parse_cell(arch)), None)

    def _codes(self, cell: NasBench101Cell, rng: np.random.Generator | None) -> tuple[int, ...]:
        size, wanted = len(cell.matrix), self.vertices
        inner = list(range(1, size - 1))
        # Positions of the cell's own vertices among those of the space; a mutation may insert the others anywhere.
        places = range(1, wanted - 1)
        own = sorted(rng.permutation(places)[: len(inner)].tolist()) if rng is not None else list(places)[: len(inner)]
        at = dict(zip([0, *inner, size - 1], [0, *own, wanted - 1], strict=True))
        edges = {(at[i], at[j]) for i in range(size) for j in range(size) if cell.matrix[i][j]}
        labels = (
            [0] * (wanted - 2)
            if rng is None
            else rng.integers(0, len(nasbench101_networks.OPERATIONS), wanted - 2).tolist()
        )
        for v, name in zip(own, cell.operations, strict=True):
            labels[v - 1] = nasbench101_networks.OPERATIONS.index(name)
        return (*(int(pair in edges) for pair in self._pairs), *labels)

    def decode(self, codes: Sequence[int]) -> str | None:
        """See :class:`SearchSpace`."""
        cell = self._cell(codes)
        return None if cell is None else str(cell)

    def _cell(self, codes: Sequence[int]) -> NasBench101Cell | None:
        matrix = [[0] * self.vertices for _ in range(self.vertices)]
        for (i, j), bit in zip(self._pairs, codes, strict=False):
            matrix[i][j] = int(bit)
        try:
            cell = NasBench101Cell.make(
                matrix, [nasbench101_networks.OPERATIONS[int(c)] for c in codes[len(self._pairs) :]]
            )
        except ConfigError:  # no way from input to output
            return None
        return cell if cell.edges <= nasbench101_networks.MAX_EDGES else None

    def key(self, arch: str) -> str:
        """See :class:`SearchSpace`: the hash of the benchmark."""
        return nasbench101_networks.parse_cell(arch).hash

    def model(self, arch: str) -> onnx.ModelProto:
        """See :class:`SearchSpace`."""
        return nasbench101_networks.build_model(nasbench101_networks.parse_cell(arch), self.classes, self.resolution)

    def graphs(self, archs: Iterable[str]) -> Iterator[Graph]:
        """See :class:`SearchSpace`."""
        return (
            nasbench101_networks.build_graph(nasbench101_networks.parse_cell(arch), self.classes, self.resolution)
            for arch in archs
        )

    def mutate(self, arch: str, rng: np.random.Generator) -> str:
        """Flip edges (two on average) and relabel vertices (half a vertex on average) until the network is another one.

        As in EC-NAS (arXiv 2210.06015, section 4).
        """
        start = nasbench101_networks.parse_cell(arch)
        flips, relabels = min(_EDGE_FLIPS / len(self._pairs), 1.0), _RELABELS / (self.vertices - 2)
        for _ in range(_MUTATIONS):
            codes = np.array(self._codes(start, rng))
            edges, labels = codes[: len(self._pairs)], codes[len(self._pairs) :]
            edges ^= rng.random(len(edges)) < flips
            moved = rng.random(len(labels)) < relabels
            labels[moved] = (
                labels[moved] + rng.integers(1, len(nasbench101_networks.OPERATIONS), int(moved.sum()))
            ) % len(nasbench101_networks.OPERATIONS)
            cell = self._cell(codes.tolist())
            if cell is not None and cell.hash != start.hash:
                return str(cell)
        raise ConfigError(f"no neighbour of '{arch}' was found in the space {self.name}")

    def members(self) -> Sequence[str] | None:
        """See :class:`SearchSpace`: up to five vertices."""
        if self.vertices > _LISTED:
            return None
        found: dict[str, str] = {}
        for size in range(2, self.vertices + 1):
            pairs = list(itertools.combinations(range(size), 2))
            for bits in itertools.product((0, 1), repeat=len(pairs)):
                if not size - 1 <= sum(bits) <= nasbench101_networks.MAX_EDGES:
                    continue
                matrix = [[0] * size for _ in range(size)]
                for (i, j), bit in zip(pairs, bits, strict=True):
                    matrix[i][j] = bit
                for operations in itertools.product(nasbench101_networks.OPERATIONS, repeat=size - 2):
                    try:
                        cell = NasBench101Cell.make(matrix, operations)
                    except ConfigError:
                        break
                    if len(cell.matrix) < size:  # useless vertices: among the smaller ones already
                        break
                    found.setdefault(cell.hash, str(cell))
        return list(found.values())
