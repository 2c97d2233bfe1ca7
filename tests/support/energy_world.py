"""A small world with known physics: kernels and whole models whose energy follows stated formulas plus seeded noise."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.features import FEATURE_NAMES, FEATURES_VERSION, compute_features
from deepen.kernels.types import hash_params
from deepen.predictors.kernel_counts import KernelCounts
from deepen.records import EnergyRecord

CALL_J = 8e-6
POWER_W = 1.5
FAMILIES = ("conv-bn-relu", "dwconv-bn-relu", "fc", "relu", "add", "maxpool", "softmax", "elementwise")


@dataclass
class FakeDataset:
    """What training takes: something with ``records()``."""

    rows: list[EnergyRecord]

    def records(self) -> list[EnergyRecord]:
        return self.rows


@dataclass
class World:
    """Makes records. Energies: joules per operation, per byte and per call, with family-specific efficiencies."""

    seed: int = 0
    noise: float = 0.02
    source: str = "modelled"
    device: str = "bench"
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def features(self, family: str, size: float = 1.0) -> dict[str, float]:
        """Features of a random configuration; ``size`` scales channels and maps."""
        r = self.rng
        f = dict.fromkeys(FEATURE_NAMES, 0.0)
        c = max(int(r.choice([8, 12, 16, 24, 32, 48, 64, 96, 100, 128, 160, 256]) * size), 1)
        h = max(int(r.choice([7, 8, 14, 16, 28, 32, 56])), 1)
        f |= {"batch": 1, "c_in": c, "c_out": c, "h_in": h, "w_in": h, "h_out": h, "w_out": h, "rank": 4}
        f |= {"d_in": 1, "d_out": 1, "n_inputs": 1, "n_outputs": 1, "dtype_bytes": 4, "out_dtype_bytes": 4}
        elements = c * h * h
        if family in ("conv-bn-relu", "dwconv-bn-relu"):
            k, stride = int(r.choice([1, 3, 5])), int(r.choice([1, 2]))
            deep = family == "dwconv-bn-relu"
            out = c if deep else max(int(r.choice([8, 16, 30, 32, 64, 96, 128, 256]) * size), 1)
            ho = -(-h // stride)
            per_out = k * k * (1 if deep else c)
            f |= {"c_out": out, "h_out": ho, "w_out": ho, "k_h": k, "k_w": k, "stride_h": stride, "stride_w": stride}
            f |= {"groups": c if deep else 1, "is_1x1": float(k == 1), "activation_code": float(r.choice([0, 1]))}
            f |= {"m": out, "n": ho * ho, "k": per_out, "macs": out * ho * ho * per_out}
            f |= {"bytes_weights": 4 * out * per_out, "ops": out * ho * ho * f["activation_code"]}
            f["elements_out"] = out * ho * ho
        elif family == "fc":
            f |= dict.fromkeys(("h_in", "w_in", "h_out", "w_out"), 1.0)
            k, n = int(r.integers(16, 2048) * size), int(r.integers(10, 2048) * size)
            f |= {"m": 1, "k": k, "n": n, "macs": k * n, "bytes_weights": 4 * k * n, "rank": 2, "c_in": k, "c_out": n}
            elements, f["elements_out"] = k, n
        else:
            cost = {"relu": 1, "add": 1, "maxpool": 9, "softmax": 15}.get(family, 0)
            if family == "elementwise":
                code = int(r.choice([40, 45, 47, 50]))
                f["op_code"], cost = float(code), {40: 14, 45: 12, 47: 1, 50: 1}[code]
            if family == "add":
                f["n_inputs"] = 2
            f |= {"ops": elements * cost, "elements_out": elements}
        f["elements_in"] = elements * f["n_inputs"]
        f["bytes_in"] = 4 * f["elements_in"]
        f["bytes_written"] = f["bytes_out"] = 4 * f["elements_out"]
        f["bytes_read"] = f["bytes_in"] + f["bytes_weights"]
        f["intensity"] = (f["macs"] + f["ops"]) / (f["bytes_read"] + f["bytes_written"])
        return f

    def energy(self, family: str, f: Mapping[str, float]) -> float:
        """The truth: one execution alone, without noise."""
        pad = np.ceil(f["c_out"] / 8) * 8 / f["c_out"] if f["c_out"] else 1.0
        mac = {"conv-bn-relu": 25e-12, "dwconv-bn-relu": 110e-12, "fc": 20e-12}.get(family, 25e-12)
        mac *= 1.35 if f["stride_h"] == 2 else 1.0
        mac *= 0.8 if f["is_1x1"] else 1.0
        op = 60e-12 * (1.8 if f["op_code"] == 45 else 1.0)
        moved = 40e-12 * (f["bytes_in"] + f["bytes_written"]) + 55e-12 * f["bytes_weights"]
        return float(CALL_J + mac * pad * f["macs"] + op * f["ops"] + moved)

    def kernel(self, family: str, size: float = 1.0) -> EnergyRecord:
        f = self.features(family, size)
        energy = self.energy(family, f) * float(np.exp(self.noise * self.rng.standard_normal()))
        return self.record(
            "kernel", family, energy, family=family, features=f, params={k: v for k, v in f.items() if v}
        )

    def kernels(self, count: int, families: Sequence[str] = FAMILIES, size: float = 1.0) -> list[EnergyRecord]:
        """``count`` records of each family."""
        return [self.kernel(f, size) for f in families for _ in range(count)]

    def model(
        self, name: str, count: int, overhead_j: float, families: Sequence[str] = FAMILIES, cold: float = 0.0
    ) -> EnergyRecord:
        """A model: kernels without their own call cost, plus one overhead, plus joules per byte of cold weights."""
        parts = []
        total = overhead_j
        for _ in range(count):
            family = str(self.rng.choice(families))
            f = self.features(family)
            times = int(self.rng.choice([1, 1, 1, 3]))
            parts.append({"family": family, "params": {}, "features": f, "multiplicity": float(times)})
            total += times * (self.energy(family, f) - CALL_J + cold * f["bytes_weights"])
        total *= float(np.exp(0.01 * self.rng.standard_normal()))
        return self.record("model", name, total, kernels=tuple(parts))

    def record(self, kind: str, name: str, energy_j: float, **more: Any) -> EnergyRecord:
        return EnergyRecord(
            id=hash_params(name, more.get("params", {"n": name})),
            kind=kind,
            name=name,
            energy_j=energy_j,
            uncertainty_j=0.02 * abs(energy_j),
            gross_energy_j=2 * abs(energy_j),
            latency_s=abs(energy_j) / 10,
            idle_power_before_w=1.0,
            idle_power_after_w=1.0,
            threads=1,
            runtime="onnxruntime",
            runtime_build="onnxruntime 1.31.1 EXTENDED CPU",
            device=self.device,
            meter="fake",
            source=self.source,
            runs=10,
            trials=(energy_j,),
            recorded_at="2026-01-01T00:00:00Z",
            features_version=FEATURES_VERSION,
            **more,
        )


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
        found = predictor.predict_counts(KernelCounts.from_kernels(self.kernels, counts))
        return np.log(found.energy_j / self.truth(counts))


@functools.cache
def train_world_predictor() -> tuple[World, list[EnergyRecord], Any]:
    """A predictor trained on 40 rows of each family and 12 models, after the world and the records it came from."""
    from deepen import predictors

    world = World(seed=1)
    records = world.kernels(40) + [world.model(f"train-{i}", 30, 30e-6) for i in range(12)]
    return world, records, predictors.train_predictor(FakeDataset(records), seed=3)
