"""A small synthetic dataset and predictor: kernels are real, energies are computed.

They serve where *some* predictor is needed (installation tests, benchmarks of the program itself). Everything is
labelled ``simulated``, and the label stays on every prediction.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepen.records import EnergyRecord

if TYPE_CHECKING:
    from deepen.kernels.types import Kernel

__all__ = ["COMMON_FAMILIES", "simulate_kernel_records", "train_synthetic_predictor"]

COMMON_FAMILIES = ("add", "conv-bn-relu", "dwconv-bn-relu", "fc", "global-avgpool", "maxpool")
"""Kernel families of which most image networks consist."""

JOULES_PER_MAC, JOULES_PER_BYTE, JOULES_PER_CALL = 5e-11, 2e-10, 2e-6
"""Parameters of the invented machine: of the order of a desktop core, but not a model of one."""

SPREAD = 0.05
"""Standard deviation of log energy around the formula."""

POWER_W = 10.0


def simulate_kernel_energy(kernel: Kernel, rng: np.random.Generator) -> float:
    """Compute the energy of one execution on the invented machine, with seeded noise, joules."""
    moved = kernel.bytes_read + kernel.bytes_written
    exact = JOULES_PER_MAC * kernel.macs + JOULES_PER_BYTE * moved + JOULES_PER_CALL
    return float(exact * np.exp(SPREAD * rng.standard_normal()))


def simulate_kernel_records(families: Sequence[str], count: int, seed: int = 0) -> Iterator[EnergyRecord]:
    """Sample kernels, build and split each one as a campaign does, and assign each a simulated energy.

    Args:
        families: Families to sample.
        count: Number of configurations to sample; those that do not run as one kernel are skipped.
        seed: Seed of the sampling and of the noise.
    """
    from deepen import graph
    from deepen.kernels.building.single_kernel_model import build_kernel_model
    from deepen.kernels.features import FEATURES_VERSION, compute_features
    from deepen.kernels.sampling.sampler import sample_kernels
    from deepen.kernels.splitting.split import split_graph

    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        for drawn in sample_kernels(families, count, seed, exclude=()):
            file = Path(folder) / f"{drawn.key}.onnx"
            file.write_bytes(build_kernel_model(drawn.family, drawn.params).SerializeToString())
            kernels = split_graph(graph.load_graph(file)).kernels
            file.unlink()
            if len(kernels) != 1:  # this runtime does not run the configuration as one kernel
                continue
            kernel = kernels[0]
            joules = simulate_kernel_energy(kernel, rng)
            yield EnergyRecord(
                id=drawn.key,
                kind="kernel",
                name=f"{drawn.family}-{drawn.key}",
                energy_j=joules,
                uncertainty_j=SPREAD * joules,
                gross_energy_j=joules,
                latency_s=joules / POWER_W,
                idle_power_before_w=0.0,
                idle_power_after_w=0.0,
                threads=1,
                runtime="onnxruntime",
                runtime_build="simulated",
                device="simulated",
                meter="simulated",
                source="simulated",
                runs=1,
                trials=(joules,),
                recorded_at="2026-01-01T00:00:00Z",
                family=kernel.family,
                params=kernel.params,
                features=compute_features(kernel),
                features_version=FEATURES_VERSION,
            )


def train_synthetic_predictor(
    path: str | Path,
    families: Sequence[str] = COMMON_FAMILIES,
    count: int = 240,
    seed: int = 0,
    recipe: str = "auto",
) -> Path:
    """Train a predictor on simulated kernels and write it.

    Args:
        path: File to write; ``.deepen`` is appended if the name lacks it.
        families: Kernel families to cover.
        count: Total number of kernels.
        seed: Seed of sampling, noise and training.
        recipe: Name of the training recipe.

    Returns:
        The path written.
    """
    from deepen import predictors
    from deepen.datasets import Dataset

    with tempfile.TemporaryDirectory() as folder, Dataset.open(Path(folder) / "kernels", create=True) as dataset:
        for record in simulate_kernel_records(families, count, seed):
            dataset.append(record)
        return predictors.train_predictor(dataset, recipe, seed).save(path)
