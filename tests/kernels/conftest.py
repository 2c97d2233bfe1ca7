"""Fixtures: the nine networks inside the onnx wheel, which no prior may come from."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from deepen.graph import load_graph
from deepen.kernels.splitting.split import split_graph
from deepen.kernels.types import Kernel

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.fixture(scope="session")
def unseen() -> dict[str, Kernel]:
    """Distinct kernels of the nine networks, by key."""
    models = sorted(LIGHT.glob("light_*.onnx"))
    assert len(models) == 9
    return {kernel.key: kernel for path in models for kernel in split_graph(load_graph(path)).kernels}
