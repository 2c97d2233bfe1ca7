"""What every test may use: places in the checkout, and fixtures for data that is not part of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Transcripts, traces and models that tests read."""
    return ROOT / "tests" / "data"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of public data sets that are not part of the project: ``$DEEPEN_SHARED``, else ``../shared``."""
    folder = Path(os.environ.get("DEEPEN_SHARED") or ROOT.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data at {folder}; set DEEPEN_SHARED to its folder")
    return folder


@pytest.fixture(scope="session")
def zoo_dir() -> Path:
    """Folder of model files written by ``tools/export_zoo``: ``$DEEPEN_ZOO``, else ``.cache/zoo``."""
    folder = Path(os.environ.get("DEEPEN_ZOO") or ROOT / ".cache" / "zoo")
    if not folder.is_dir() or not any(folder.glob("*.onnx")):
        pytest.skip(f"no exported models at {folder}; run tools/export_zoo (needs torch, timm, torchvision)")
    return folder
