"""Application rows of others, and rows made with known effects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepen.scoring import AppRow, AppTable, read_app_rows


@pytest.fixture(scope="session")
def site(shared_dir: Path) -> Path:
    """Folder of the figures published on the DeepEn2023 site."""
    return shared_dir / "data" / "deepen2023"


@pytest.fixture(scope="session")
def phones(site: Path) -> AppTable:
    """12 networks, several delegates, 8 phones."""
    return read_app_rows(site / "app_measurements.csv")


@pytest.fixture
def made() -> list[AppRow]:
    """Rows of 6 devices and 40 workloads in 10 groups: device k takes 1.3^k times the energy, 10 % scatter."""
    generator = np.random.default_rng(5)
    work = np.exp(generator.normal(0, 1.5, 40))
    return [
        AppRow(f"d{k}", f"w{i}", 2.0, float(work[i] * 1.3**k * np.exp(generator.normal(0, 0.1))), f"g{i % 10}")
        for k in range(6)
        for i in range(40)
    ]
