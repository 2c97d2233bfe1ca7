"""NAS-Bench-201 as a search space: six edges, five operations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from deepen.spaces import nasbench201_networks
from deepen.spaces.space import SearchSpace

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from deepen.graph.types import Graph
    from deepen.kernels.types import Kernel

__all__ = ["NasBench201Space"]


class NasBench201Space(SearchSpace):
    """All 15,625 cells of NAS-Bench-201; see :mod:`deepen.spaces.nasbench201_networks`.

    Cells that compute the same (behind ``none`` edges) are different architectures here, as in the benchmark: their
    cost depends on the runtime.
    """

    settings = ("classes", "resolution")

    def __init__(self, classes: int = 10, resolution: int = nasbench201_networks.RESOLUTION) -> None:
        self.classes = classes
        self.resolution = resolution
        self.name = f"nasbench201?classes={classes}&resolution={resolution}"
        self.levels = (len(nasbench201_networks.OPERATIONS),) * len(nasbench201_networks.EDGES)

    def canonical(self, arch: str) -> str:
        """See :class:`SearchSpace`."""
        return nasbench201_networks.format_cell(nasbench201_networks.parse_cell(arch))

    def encode(self, arch: str) -> tuple[int, ...]:
        """See :class:`SearchSpace`."""
        return tuple(nasbench201_networks.OPERATIONS.index(name) for name in nasbench201_networks.parse_cell(arch))

    def decode(self, codes: Sequence[int]) -> str:
        """See :class:`SearchSpace`."""
        return nasbench201_networks.format_cell([nasbench201_networks.OPERATIONS[int(c)] for c in codes])

    def key(self, arch: str) -> str:
        """See :class:`SearchSpace`."""
        return hashlib.sha256(f"nasbench201 {self.canonical(arch)}".encode()).hexdigest()[:32]

    def model(self, arch: str) -> onnx.ModelProto:
        """See :class:`SearchSpace`."""
        return nasbench201_networks.build_model(arch, self.classes, self.resolution)

    def members(self) -> Sequence[str]:
        """See :class:`SearchSpace`."""
        return list(nasbench201_networks.iter_cells())

    def graphs(self, archs: Iterable[str]) -> Iterator[Graph]:
        """See :class:`SearchSpace`."""
        return (nasbench201_networks.build_graph(arch, self.classes, self.resolution) for arch in archs)

    def kernel_counts(self, archs: Sequence[str], runtime: str) -> tuple[tuple[Kernel, ...], NDArray[Any]]:
        """See :class:`SearchSpace`; counted, not split one by one."""
        from deepen.spaces.nasbench201_kernels import count_kernels

        return count_kernels(archs, runtime, self.classes, self.resolution)
