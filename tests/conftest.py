"""Places in the checkout, fixtures for data that is not part of it, and one thread for all arithmetic."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.required_parts import (  # noqa: F401 (hooks)
    pytest_make_collect_report,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)

THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What BLAS libraries, OpenMP (LightGBM, scikit-learn) and numexpr read when they are loaded."""

# Matrices here are small: on a busy machine, threads that wait for each other cost ten times what they save. This file
# is read before numpy is imported, in every worker; processes that tests start inherit the environment.
os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))

# The same examples every time, and no judgement on their speed: a busy machine changes nothing.
settings.register_profile("deepen", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("deepen")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """Root of the checkout."""
    return ROOT


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
