"""The search-space protocol: named networks, and the moves from one network to another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from deepen.errors import ConfigError

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from deepen.graph.types import Graph
    from deepen.kernels.types import Kernel

__all__ = ["SearchSpace", "draw_random_genome"]

_TRIES = 10_000


class SearchSpace(ABC):
    """A search space. An architecture is a string; two with the same key are the same network.

    Attributes:
        name: Name that :func:`deepen.spaces.open_space` opens it by.
        levels: Number of choices at each position of a genome. A genome is an architecture encoded as integers.
        settings: Settings, integers, that may follow the name: ``nasbench101?vertices=4``.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    name: str
    levels: tuple[int, ...]

    @abstractmethod
    def canonical(self, arch: str) -> str:
        """Return the canonical form of an architecture.

        Raises:
            ConfigError: If it is not an architecture of the space.
        """

    @abstractmethod
    def encode(self, arch: str) -> tuple[int, ...]:
        """Encode an architecture as a genome."""

    @abstractmethod
    def decode(self, codes: Sequence[int]) -> str | None:
        """Decode a genome to an architecture; ``None`` if it is not one."""

    @abstractmethod
    def key(self, arch: str) -> str:
        """Identity (a hash, hexadecimal) of an architecture."""

    @abstractmethod
    def model(self, arch: str) -> onnx.ModelProto:
        """Build the network as an ONNX model, with weights."""

    def members(self) -> Sequence[str] | None:
        """List every architecture, each network once; ``None`` if there are too many."""
        return None

    def mutate(self, arch: str, rng: np.random.Generator) -> str:
        """Change some positions of an architecture: at least one, two on average.

        Two on average is the rate of EC-NAS for edges (arXiv 2210.06015, section 4).
        """
        codes = np.array(self.encode(arch))
        levels = np.array(self.levels)
        free = levels > 1
        share = min(2.0 / max(int(free.sum()), 1), 1.0)
        for _ in range(_TRIES):
            flip = (rng.random(len(codes)) < share) & free
            changed = np.where(flip, (codes + rng.integers(1, np.maximum(levels, 2))) % levels, codes)
            found = self.decode(changed.tolist())
            if found is not None and self.key(found) != self.key(arch):
                return found
        raise ConfigError(f"no neighbour of '{arch}' was found in the space {self.name}; it has one network only?")

    def graphs(self, archs: Iterable[str]) -> Iterator[Graph]:
        """Yield the graphs of architectures, for splitting."""
        from deepen.graph import load_graph_from_proto

        for arch in archs:
            yield load_graph_from_proto(self.model(arch))

    def kernel_counts(self, archs: Sequence[str], runtime: str) -> tuple[tuple[Kernel, ...], NDArray[Any]]:
        """Count the distinct kernels of architectures as a runtime runs them.

        Args:
            archs: The architectures.
            runtime: As for :func:`deepen.kernels.splitting.split.split_graph`.

        Returns:
            Kernels (k of them), and their executions per network, shape (len(archs), k).

        Raises:
            GraphError: If a network cannot be read as a graph.
        """
        from deepen.kernels.splitting.split import split_graph

        place: dict[str, int] = {}
        kernels: list[Kernel] = []
        lines: list[dict[int, float]] = []
        for graph in self.graphs(archs):
            line: dict[int, float] = {}
            for kernel in split_graph(graph, runtime).kernels:
                if kernel.key not in place:
                    place[kernel.key] = len(kernels)
                    kernels.append(kernel)
                at = place[kernel.key]
                line[at] = line.get(at, 0.0) + kernel.multiplicity
            lines.append(line)
        counts = np.zeros((len(lines), len(kernels)))
        for row, line in enumerate(lines):
            counts[row, list(line)] = list(line.values())
        return tuple(kernels), counts


def draw_random_genome(levels: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Draw a random genome."""
    return [int(v) for v in rng.integers(0, np.asarray(levels))]
