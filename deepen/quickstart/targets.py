"""Models that a quickstart predicts and measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepen.errors import ConfigError

if TYPE_CHECKING:
    from deepen.kernels import ModelSplit

__all__ = ["TargetModel", "list_reference_models", "load_target_model"]


@dataclass(frozen=True, slots=True)
class TargetModel:
    """A model to predict and measure.

    Attributes:
        name: Its name in the result.
        path: The file.
        shapes: Shapes of symbolic inputs, by name.
        split: Its kernels.
        weight_bytes: Bytes of all its weights.
        warnings: What loading it had to say.
    """

    name: str
    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    split: ModelSplit
    weight_bytes: int
    warnings: tuple[str, ...] = ()

    @property
    def keys(self) -> frozenset[str]:
        """Keys of its kernels."""
        return frozenset(kernel.key for kernel in self.split.kernels)


def list_reference_models() -> tuple[Path, ...]:
    """List the nine full architectures inside the ``onnx`` package, by file name.

    Raises:
        ConfigError: If the installed ``onnx`` has none.
    """
    import onnx

    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    found = tuple(sorted(folder.glob("light_*.onnx")))
    if not found:
        raise ConfigError(f"{folder} holds no light_*.onnx; install an onnx package that ships its test data")
    return found


def load_target_model(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> TargetModel:
    """Split a model file into kernels.

    Raises:
        GraphError: If the file cannot be read as a model.
    """
    from deepen.graph import load_graph
    from deepen.kernels.splitting.split import split_graph

    graph = load_graph(path, shapes or None)
    found = split_graph(graph)
    weights = {w.name: w.nbytes for kernel in found.kernels for w in kernel.weights}
    return TargetModel(path.stem.removeprefix("light_"), path, shapes, found, sum(weights.values()), graph.warnings)
