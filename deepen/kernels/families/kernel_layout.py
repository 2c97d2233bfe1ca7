"""Tensors of a kernel, as its parameters define them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from deepen.graph.types import DTYPE_BYTES

__all__ = ["KernelLayout", "TensorSpec"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of a kernel as its parameters define it.

    Attributes:
        name: Name in the built model.
        shape: Static shape.
        dtype: Name from :data:`deepen.graph.types.DTYPE_BYTES`.
        touched: Elements really read or written; ``None`` for all (a gather touches only some rows of its table).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    touched: int | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes moved."""
        count = self.elements if self.touched is None else self.touched
        return int(count * DTYPE_BYTES.get(self.dtype, 0))


@dataclass(frozen=True, slots=True)
class KernelLayout:
    """The tensors of a kernel: activations read, weights read, tensors written. Each appears once."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[TensorSpec, ...] = ()
