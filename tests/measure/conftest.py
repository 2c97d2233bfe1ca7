from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file a simulated runtime accepts."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights" * 100)
    return path
