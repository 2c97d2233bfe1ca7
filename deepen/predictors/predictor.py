"""A trained predictor: kernels in, joules out. Needs numpy only; models are read and split by the layers below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from deepen.errors import DeepenError, PredictorError
from deepen.graph.read_options import ShapesOrOptions
from deepen.kernels.layer_labels import KernelLabel
from deepen.kernels.splitting.runtime_names import resolve_engine
from deepen.kernels.types import ModelSplit
from deepen.predictors import predictor_file
from deepen.predictors.inference.calibration_factors import CalibrationFactors, LengthCorrection
from deepen.predictors.inference.conformal import make_interval
from deepen.predictors.inference.dominant_terms import find_dominant_terms
from deepen.predictors.inference.family_regressors import KernelEnergies, PredictorParameters
from deepen.predictors.inference.model_energies import ModelEnergies, assemble_models
from deepen.predictors.inference.model_overheads import ModelOverheads
from deepen.predictors.inference.zero_operands import apply_zero_operand_factor
from deepen.predictors.kernel_counts import KernelCounts
from deepen.predictors.prediction import KernelPrediction, Prediction
from deepen.records import RecordLabel

__all__ = ["Predictor"]

_LEAST_SHARE = 0.01
"""Share of a model's energy from which on a note says something."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """Predicts the net energy of kernels and whole models.

    Attributes:
        card: Its data, conditions and held-out errors (plain JSON values).
        parameters: Arrays of the kernel regressors.
        context: Model-level terms.
        calibration: Factors on the kernels' energies; ``None`` where it was trained for what it predicts.
    """

    card: Mapping[str, Any]
    parameters: PredictorParameters = field(repr=False)
    context: ModelOverheads = field(repr=False)
    calibration: CalibrationFactors | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """Name of the predictor: device, runtime and a hash of data and recipe."""
        return str(self.card["id"])

    @property
    def learnt_from(self) -> RecordLabel:
        """Weakest label of the data it was trained on."""
        return cast(RecordLabel, self.card["learnt_from"])

    @classmethod
    def read(cls, path: Path) -> Predictor:
        """Read a predictor file.

        Raises:
            PredictorError: If the file is not a predictor, is damaged, or was trained on another version of the
            features.
        """
        card, parameters = predictor_file.read_predictor_file(path)
        card.setdefault("learnt_from", card.pop("source", None))  # the name in files of the first days
        if not isinstance(card.get("id"), str) or card["learnt_from"] not in get_args(RecordLabel):
            raise PredictorError(f"{path}: the card lacks an id or a known label of what it was learnt from")
        layer = card.get("calibration")
        calibration = None if layer is None else CalibrationFactors.from_json(layer)
        predictor = cls(card, parameters, ModelOverheads.from_json(card.get("context") or {}), calibration)
        predictor._check_features(path)
        return predictor

    def save(self, path: str | Path) -> Path:
        """Write the predictor file; it appears whole or not at all.

        Args:
            path: Where to; ``.deepen`` is appended if the name lacks it.

        Returns:
            The path written.

        Raises:
            PredictorError: If it would be too large.
            StorageError: If the disk refuses.
        """
        target = Path(path)
        if target.suffix != ".deepen":
            target = target.with_name(target.name + ".deepen")
        predictor_file.write_predictor_file(target, self.card, self.parameters)
        return target

    def predict(
        self,
        model: str | Path | ModelSplit,
        shapes: ShapesOrOptions = None,
        runtime: str | None = None,
        name: str = "model",
        warnings: Sequence[str] = (),
    ) -> Prediction:
        """Predict the energy of one inference of a model.

        Args:
            model: A model file, or a model already split into kernels.
            shapes: Shapes of symbolic inputs of a file, by input name.
            runtime: Runtime to split a file for; default: the one the predictor was trained on.
            name: Name of a split model in the result.
            warnings: Notes on a split model, handed on.

        Raises:
            GraphError: If the file cannot be taken as a graph.
            PredictorError: If a kernel cannot be described.
        """
        if isinstance(model, ModelSplit):
            return self._explain(KernelCounts.from_splits([model], [name], warnings))[0]
        return self.predict_many([model], shapes, runtime)[0]

    def predict_many(
        self,
        models: KernelCounts | Iterable[str | Path | ModelSplit],
        shapes: ShapesOrOptions = None,
        runtime: str | None = None,
        workers: int = 1,
        failures: dict[str, DeepenError] | None = None,
    ) -> list[Prediction]:
        """Predict many models, kernel by kernel; a kernel that several of them have is predicted once.

        Args:
            models: Model files, or models already split (named ``model_0``, ``model_1``, ...), or counts of kernels.
            shapes: Shapes of symbolic inputs, by input name, for every file.
            runtime: Runtime to split files for; default: the one the predictor was trained on.
            workers: Processes that read files. More than one starts fresh interpreters: the program that calls this
                needs the usual ``if __name__ == "__main__":``.
            failures: Takes the errors of files that fail, by file; without it the first ends everything.

        Returns:
            Predictions in the order of the models, without those that failed.

        Raises:
            DeepenError: The first failure, if ``failures`` is not given.
        """
        trained_on = self._get_runtime()
        foreign: tuple[str, ...] = ()
        if runtime and resolve_engine(runtime) != resolve_engine(trained_on):
            foreign = (f"the predictor was trained on {trained_on}, kernels are split for {runtime}",)
        if not isinstance(models, KernelCounts):
            models = KernelCounts.from_files(models, shapes, runtime or trained_on, workers, failures)
        return self._explain(models, foreign)

    def predict_counts(self, models: KernelCounts) -> ModelEnergies:
        """Predict many models as arrays: a search space, the models of a dataset.

        The figures are those of :meth:`predict_many`, which lists every kernel as well.

        Args:
            models: The models as counts of distinct kernels.
        """
        bend = LengthCorrection() if self.calibration is None else self.calibration.bend
        alone = self.energies(models.families, models.features)
        return assemble_models(models, alone, self.context, bend)

    def _get_runtime(self) -> str:
        return str(self.card.get("runtime") or "onnxruntime")

    def _explain(self, models: KernelCounts, foreign: tuple[str, ...] = ()) -> list[Prediction]:
        """Predict models and list the kernels of each."""
        found = self.predict_counts(models)
        alone = found.alone
        # 1. Every entry: its energy inside its model, and its interval from that of its kernel.
        energy = found.bend[models.model] * (models.times * found.entry_j)
        low, high = make_interval(energy, alone.half_width[models.kernel])
        labels = models.labels or tuple(KernelLabel(models.families[k]) for k in models.kernel.tolist())
        bounds = find_dominant_terms(self.parameters, models.families, models.features)
        kernels = [
            KernelPrediction(
                name=label.name,
                family=models.families[k],
                energy_j=e,
                interval_j=(a, b),
                method="regressor" if covered else "roofline",
                extrapolated=outside,
                label=label,
                times=times,
                macs=macs,
                bound=bounds[k],
            )
            for label, k, e, a, b, covered, outside, times, macs in zip(
                labels,
                models.kernel.tolist(),
                energy.tolist(),
                low.tolist(),
                high.tolist(),
                alone.regressor[models.kernel].tolist(),
                alone.extrapolated[models.kernel].tolist(),
                models.times.tolist(),
                (models.times * models.column("macs")[models.kernel]).tolist(),
                strict=True,
            )
        ]
        # 2. Every model: its figures, its part of the entries, and what a reader should know.
        executed = models.sums(np.ones(alone.energy_j.size))
        edges = np.searchsorted(models.model, np.arange(len(models) + 1)).tolist()
        done = []
        for i, name in enumerate(models.names):
            own = tuple(kernels[edges[i] : edges[i + 1]])
            total, outside = float(found.energy_j[i]), int(found.extrapolated[i])
            notes = (*(models.warnings[i] if models.warnings else ()), *foreign)
            done.append(
                Prediction(
                    model=name,
                    energy_j=total,
                    interval_j=(float(found.low_j[i]), float(found.high_j[i])),
                    overhead_j=float(found.bend[i]) * self.context.overhead_j,
                    kernels=own,
                    coverage=float(found.coverage[i]),
                    uncovered=tuple(k.name for k in own if k.method == "roofline"),
                    extrapolated=outside,
                    predictor_id=self.id,
                    learnt_from=self.learnt_from,
                    device=str(self.card.get("device") or ""),
                    runtime=self._get_runtime(),
                    threads=int(self.card.get("threads") or 0),
                    unknowns=models.unknowns[i] if models.unknowns else (),
                    warnings=tuple(dict.fromkeys((*notes, *_list_remarks(own, total, outside, float(executed[i]))))),
                )
            )
        return done

    def energies(self, families: Sequence[str], raw: NDArray[np.float64]) -> KernelEnergies:
        """Predict a batch of kernels, each executed once alone; the batch may span many models.

        Args:
            families: Family of each kernel.
            raw: Features, float64, shape (n, features).
        """
        found = apply_zero_operand_factor(self.parameters.predict(families, raw), raw, self.parameters.feature_names)
        if self.calibration is None:
            return found
        return self.calibration.apply(found, families, raw, self.parameters.feature_names)

    def _check_features(self, path: Path) -> None:
        from deepen.kernels.features import FEATURE_NAMES, FEATURES_VERSION

        version = self.card.get("features_version")
        if version != FEATURES_VERSION:
            raise PredictorError(
                f"{path}: trained on features version {version}, this deepen has {FEATURES_VERSION}; "
                "train it again with 'deepen predictor train', or install the deepen version named on its card"
            )
        if self.parameters.feature_names != tuple(FEATURE_NAMES):
            raise PredictorError(f"{path}: its features are not those of features version {version}; train it again")


def _list_remarks(kernels: Sequence[KernelPrediction], total_j: float, outside: int, executed: float) -> list[str]:
    """Notes on kernels that regressors do not answer for, or not within their range; most joules first.

    A note on less than a hundredth of the energy is left out: the kernels say it of themselves.
    """
    by_family: dict[str, float] = {}
    for kernel in kernels:
        if kernel.method == "roofline":
            by_family[kernel.family] = by_family.get(kernel.family, 0.0) + kernel.energy_j
    roofline, beyond = sum(by_family.values()), sum(k.energy_j for k in kernels if k.extrapolated)
    told = [f for f, e in sorted(by_family.items(), key=lambda item: -item[1]) if e >= _LEAST_SHARE * total_j]
    remarks = [
        (
            roofline,
            f"{100 * roofline / max(total_j, 1e-300):.1f} % of the energy is from the analytic roofline: no regressor "
            f"for {', '.join(told) or f'{len(by_family)} families, each below 1 %'}",
        ),
        (
            beyond,
            f"{outside} of {executed:g} kernels lie outside what the predictor was trained on: "
            f"{100 * beyond / max(total_j, 1e-300):.1f} % of the energy",
        ),
    ]
    return [text for joules, text in sorted(remarks, reverse=True) if joules > _LEAST_SHARE * total_j]
