"""Options, progress reports and results of a quickstart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepen.errors import ConfigError
from deepen.predictors.prediction import Prediction

__all__ = ["ModelResult", "QuickstartOptions", "QuickstartProgress", "QuickstartResult", "make_result_document"]


@dataclass(frozen=True, slots=True)
class QuickstartOptions:
    """Options of a quickstart.

    Attributes:
        out: Folder of all results.
        minutes: Time for the whole run.
        models: Further model files to predict and measure.
        device: Device to measure on.
        meter: Power source; ``None`` takes the best one of the device.
        threads: Intra-operator threads.
        seed: Seed of sampling, order and training.
        shapes: Shapes of symbolic inputs of the further models.
    """

    out: Path
    minutes: float = 5.5
    models: tuple[Path, ...] = ()
    device: str = "local"
    meter: str | None = None
    threads: int = 1
    seed: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.2 <= self.minutes <= 24 * 60:
            raise ConfigError(f"--minutes must lie between 0.2 and 1440, not {self.minutes:g}")


@dataclass(frozen=True, slots=True)
class QuickstartProgress:
    """Progress of a run: its stage and the steps done.

    Attributes:
        stage: Name of the current stage.
        detail: Item in work, for example the kernel's name.
        done: Finished parts of the stage.
        total: Parts of the stage; 0 if not known.
        eta_s: Expected seconds until the whole run ends.
    """

    stage: str
    detail: str = ""
    done: int = 0
    total: int = 0
    eta_s: float = math.nan


@dataclass(frozen=True, slots=True)
class ModelResult:
    """Prediction and measurement of one model; all energies net, per inference.

    Attributes:
        name: Readable name.
        prediction: The prediction, made before the model was measured.
        seen_share: Share of its kernels whose exact configuration was measured for training.
        measured_j: Median over the rounds; ``nan`` if not measured.
        measured_cv: Standard deviation over the rounds divided by the mean; ``nan`` with one round.
        latency_s: Wall time per inference; ``nan`` if not measured.
        measured_source: Label of the measured figure; empty if not measured.
        failure: Reason why it was not measured; empty if it was.
    """

    name: str
    prediction: Prediction
    seen_share: float
    measured_j: float = math.nan
    measured_cv: float = math.nan
    latency_s: float = math.nan
    measured_source: str = ""
    failure: str = ""

    @property
    def error(self) -> float:
        """Relative error of the prediction, signed; ``nan`` if not measured."""
        return self.prediction.energy_j / self.measured_j - 1


@dataclass(frozen=True, slots=True)
class QuickstartResult:
    """Results of a run and the files that hold them.

    Attributes:
        models: One entry per model, in the order measured.
        out: Folder of all results.
        device: Device profile id.
        meter: Power source.
        measured_source: Label of the energies measured here.
        learnt_from: Label of what the predictor was trained on.
        runtime_build: Runtime, version, level and provider.
        kernels_measured: Kernels in the dataset.
        networks_measured: Calibration networks in the dataset.
        drift: Relative change of the machine's speed over the run (largest minus smallest, over the mean).
        elapsed_s: Duration of this run.
        interrupted: Whether Ctrl-C cut it short.
        failed: (name, reason) of each item that could not be measured.
        warnings: Warnings for the user.
    """

    models: tuple[ModelResult, ...]
    out: Path
    device: str
    meter: str
    measured_source: str
    learnt_from: str
    runtime_build: str
    kernels_measured: int
    networks_measured: int
    drift: float
    elapsed_s: float
    interrupted: bool
    failed: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


def make_result_document(found: QuickstartResult) -> dict[str, Any]:
    """Make the JSON document of a result."""
    errors = [abs(m.error) for m in found.models if math.isfinite(m.error)]
    return {
        "models": [
            {
                "name": m.name,
                "predicted_j": m.prediction.energy_j,
                "interval_j": list(m.prediction.interval_j),
                "measured_j": m.measured_j,
                "measured_cv": m.measured_cv,
                "error": m.error,
                "latency_s": m.latency_s,
                "coverage": m.prediction.coverage,
                "uncovered": list(m.prediction.uncovered),
                "extrapolated": m.prediction.extrapolated,
                "seen_share": m.seen_share,
                "overhead_j": m.prediction.overhead_j,
                **m.prediction.label._asdict(),
                "measured_source": m.measured_source,
                "failure": m.failure,
                "warnings": list(m.prediction.warnings),
                "kernels": [
                    {"name": k.name, "family": k.family, "energy_j": k.energy_j, "interval_j": list(k.interval_j)}
                    for k in m.prediction.kernels
                ],
            }
            for m in found.models
        ],
        "median_error": statistics.median(errors) if errors else math.nan,
        "within_15_percent": sum(error <= 0.15 for error in errors),
        "measured": len(errors),
        "source": "predicted",
        "learnt_from": found.learnt_from,
        "measured_source": found.measured_source,
        "device": found.device,
        "meter": found.meter,
        "runtime_build": found.runtime_build,
        "kernels_measured": found.kernels_measured,
        "networks_measured": found.networks_measured,
        "drift": found.drift,
        "elapsed_s": found.elapsed_s,
        "interrupted": found.interrupted,
        "failed": [list(pair) for pair in found.failed],
        "warnings": list(found.warnings),
        "out": str(found.out),
        "dataset": str(found.out / "kernels"),
        "predictor": str(found.out / "quickstart.deepen"),
    }
