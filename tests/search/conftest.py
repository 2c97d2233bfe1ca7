"""A small table whose truth is known, and the tables of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepen.search import BenchmarkTable, import_table
from deepen.search.table.build import assemble_table
from deepen.search.table.types import TableColumn, TableManifest
from deepen.spaces import NasBench201Space

WEIGHTS = np.array([0.1, 0.2, 1.0, 4.0, 0.5])
"""Made-up energy of each operation of an edge, mJ."""


def synthetic(count: int = 600, seed: int = 0) -> BenchmarkTable:
    """Networks of NAS-Bench-201 with energies and accuracies by a stated formula."""
    space = NasBench201Space()
    rng = np.random.default_rng(seed)
    members = space.members()
    chosen = [members[i] for i in rng.permutation(15625)[:count]]
    codes = np.array([space.encode(a) for a in chosen])
    energy = 1e-3 * (1.0 + WEIGHTS[codes].sum(axis=1))
    worth = np.array([0.0, 0.04, 0.08, 0.12, 0.02])[codes] * np.array([1.0, 0.6, 0.9, 0.7, 0.8, 1.1])
    accuracy = 0.1 + worth.sum(axis=1) + 0.01 * rng.random(count)
    columns = (TableColumn.named("energy_j", "simulated"), TableColumn.named("accuracy", "simulated"))
    data = {"energy_j": energy, "accuracy": accuracy}
    return assemble_table(TableManifest(space.name, "simulated", columns, "made up"), space, chosen, data)


@pytest.fixture(scope="session")
def made() -> BenchmarkTable:
    """A table of 600 networks."""
    return synthetic()


@pytest.fixture(scope="session")
def pi5(shared_dir: Path) -> BenchmarkTable:
    """NAS-Bench-201 on a Raspberry Pi 5."""
    return import_table(shared_dir / "data/pi5_nasbench201", "pi5-nasbench201", runtime="litert")


@pytest.fixture(scope="session")
def ecnas(shared_dir: Path) -> BenchmarkTable:
    """EC-NAS, 4V."""
    return import_table(shared_dir / "data/ec_nas/train_results_4V.tar.gz", "ec-nas")
