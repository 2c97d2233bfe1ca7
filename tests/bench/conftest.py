from __future__ import annotations

from pathlib import Path

import onnx
import pytest

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.fixture(scope="session")
def squeezenet() -> Path:
    """A real model, from the onnx wheel."""
    return LIGHT / "light_squeezenet.onnx"
