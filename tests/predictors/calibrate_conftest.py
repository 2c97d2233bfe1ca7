"""Networks of few kernels on a device whose energies are known: one factor per family on a base's, and noise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.features import FEATURES_VERSION, compute_features
from deepen.records import EnergyRecord

POWER_W = 1.5


@dataclass
class PowerLawDevice:
    """Makes records. ``factor`` is joules per unit of work and family; time is energy over a nearly constant power."""

    seed: int = 0
    noise: float = 0.03
    bend: float = 0.0
    factor: dict[str, float] = field(
        default_factory=lambda: {"conv-bn-relu": 80e-12, "relu": 400e-12, "avgpool": 150e-12, "add": 300e-12}
    )

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        conv = {"dilation": [1, 1], "bias": True, "activation": "none", "stride": [1, 1]}
        self.kernels = []
        for c, h in ((16, 32), (32, 16), (64, 8)):
            shape = [1, c, h, h]
            self.kernels += [
                make_kernel_from_params(
                    "conv-bn-relu",
                    {**conv, "c_in": c, "c_out": c, "spatial": [h, h], "kernel": [k, k], "pads": [k // 2] * 4},
                )
                for k in (1, 3)
            ]
            self.kernels += [
                make_kernel_from_params("relu", {"shape": shape}),
                make_kernel_from_params("add", {"in_shapes": [shape, shape], "sources": [0, 1]}),
            ]
        self.described = [compute_features(k) for k in self.kernels]

    def kernel_j(self) -> np.ndarray:
        """The truth for each kernel."""
        work = np.array([max(k.macs, k.ops) + 2.0 * (k.bytes_read + k.bytes_written) for k in self.kernels])
        return work * np.array([self.factor[k.family] for k in self.kernels])

    def truth(self, counts: np.ndarray) -> np.ndarray:
        """Energies of networks without noise."""
        total = 40e-6 + counts @ self.kernel_j()
        return total * (total / 2e-3) ** self.bend

    def draw(self, n: int) -> np.ndarray:
        """Counts of n networks."""
        stage = self.rng.integers(0, 12, (n, 4))
        return np.tile(stage, (1, 3)).astype(float) + 1.0

    def models(self, n: int, times: bool = True) -> tuple[list[EnergyRecord], np.ndarray]:
        """n measured networks and their counts."""
        counts = self.draw(n)
        found = []
        for i, (row, energy) in enumerate(zip(counts, self.truth(counts), strict=True)):
            parts = tuple(
                {"family": k.family, "params": dict(k.params), "features": f, "multiplicity": float(c)}
                for k, f, c in zip(self.kernels, self.described, row, strict=True)
            )
            measured = float(energy * np.exp(self.noise * self.rng.standard_normal()))
            latency = float(energy / POWER_W * np.exp(0.003 * self.rng.standard_normal())) if times else float("nan")
            found.append(self.record("model", f"net-{i}", measured, latency, kernels=parts))
        return found, counts

    def alone(self) -> list[EnergyRecord]:
        """Every kernel measured alone."""
        return [
            self.record("kernel", k.name, float(j), float(j / POWER_W), family=k.family, params=k.params, features=f)
            for k, f, j in zip(self.kernels, self.described, self.kernel_j(), strict=True)
        ]

    def record(self, kind: str, name: str, energy_j: float, latency_s: float, **more) -> EnergyRecord:
        made = EnergyRecord(
            id=name, kind=kind, name=name, energy_j=energy_j, uncertainty_j=float("nan"), gross_energy_j=energy_j,
            latency_s=1.0, idle_power_before_w=0.0, idle_power_after_w=0.0, threads=1, runtime="tflite-cpu",
            runtime_build="tflite 2", device="board", meter="fake", source="measured", runs=1, trials=(energy_j,),
            recorded_at="2026-01-01T00:00:00Z", features_version=FEATURES_VERSION, **more,
        )  # fmt: skip
        return replace(made, latency_s=latency_s) if np.isfinite(latency_s) else replace(made, latency_s=0.0)

    def errors(self, predictor, n: int = 200) -> np.ndarray:
        """log(predicted / true) of n new networks."""
        counts = self.draw(n)
        raw = predictor.matrix(self.described)
        found = predictor.predict_counts([k.family for k in self.kernels], raw, counts)
        return np.log(found.energy_j / self.truth(counts))


@pytest.fixture
def device_of():
    """Factory of devices: ``device_of(seed=..., noise=...)``."""
    return PowerLawDevice
