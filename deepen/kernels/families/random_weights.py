"""A file of random weights that all models of a folder share, so that no model file contains weights.

A kernel is measured with random weights. Writing, reading and hashing them takes longer than measuring it; a model file
that refers to a section of an existing file costs nothing, and the runtime maps that section into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepen.graph.onnx_reader.without_weights import SMALL_ELEMENTS, WEIGHTLESS

if TYPE_CHECKING:
    import onnx

__all__ = ["DRAWN", "WeightPool", "draw_weights", "make_placeholder"]

_PAGE = 1 << 16
"""Sections begin at multiples of this: the largest common page size, because files are mapped in pages."""

DRAWN = 1_000_003
"""Number of distinct values; beyond it they repeat (a prime, so that repeats do not line up with rows)."""

SPAN = 0.05
"""Weights lie in [0.25, 1] x this, either sign: far from the denormal range, whose arithmetic is many times slower."""


def draw_weights(random: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Draw float32 weights, shape (count,): either sign, between a quarter of :data:`SPAN` and all of it."""
    spread = random.uniform(-1.0, 1.0, count)
    return ((np.copysign(0.25, spread) + 0.75 * spread) * SPAN).astype(np.float32)


class WeightPool:
    """A growing file of float32 weights beside the models that refer to it.

    Args:
        folder: Folder of the file and the models; must exist.
        seed: Seed of the values.
    """

    FILE = "weights.bin"

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.path = folder / self.FILE
        self._seed = seed
        self._block = b""

    def externalise_weights(self, model: onnx.ModelProto) -> None:
        """Let every large float32 initialiser of a model refer to a section of the file of its own.

        Initialisers may be placeholders (see ``build_kernel_model(..., weights=False)``); data they hold is dropped.

        Args:
            model: Changed in place; to be saved in the pool's folder.

        Raises:
            OSError: If the file cannot be extended.
        """
        end = 0
        for tensor in _iter_large_initialisers(model):
            offset, size = -(-end // _PAGE) * _PAGE, _count_tensor_bytes(tensor)
            end = offset + size
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            del tensor.external_data[:]
            tensor.data_location = tensor.EXTERNAL
            for key, value in (("location", self.FILE), ("offset", str(offset)), ("length", str(size))):
                tensor.external_data.add(key=key, value=value)
        self._extend(end)

    @staticmethod
    def size(model: onnx.ModelProto) -> int:
        """Bytes of the initialisers that :meth:`externalise_weights` would let refer to the file."""
        return sum(_count_tensor_bytes(tensor) for tensor in _iter_large_initialisers(model))

    def _extend(self, size: int) -> None:
        present = self.path.stat().st_size if self.path.exists() else 0
        if present >= size:
            return
        if not self._block:
            self._block = draw_weights(np.random.default_rng(self._seed), DRAWN).tobytes()
        with self.path.open("r+b" if present else "wb") as file:
            file.seek(present - present % len(self._block))
            while file.tell() < size:
                file.write(self._block)


def _count_tensor_bytes(tensor: onnx.TensorProto) -> int:
    return 4 * int(np.prod(tensor.dims, dtype=np.int64))


def _iter_large_initialisers(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for tensor in model.graph.initializer:
        if tensor.data_type == tensor.FLOAT and _count_tensor_bytes(tensor) > 4 * SMALL_ELEMENTS:
            yield tensor


def make_placeholder(name: str, dims: tuple[int, ...]) -> onnx.TensorProto:
    """Make a float32 initialiser without data, for :meth:`WeightPool.externalise_weights` to fill."""
    import onnx

    tensor = onnx.TensorProto(name=name, dims=dims, data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=WEIGHTLESS)
    return tensor
