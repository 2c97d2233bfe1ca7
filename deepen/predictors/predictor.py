"""A trained predictor: kernels in, joules out. Needs numpy only; models are read and split by the layers below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from deepen.errors import DeepenError, PredictorError
from deepen.kernels.splitting.runtime_names import resolve_engine
from deepen.kernels.types import Kernel, ModelSplit
from deepen.predictors import predictor_file
from deepen.predictors.described import ModelKernels, describe_file, describe_files, describe_split
from deepen.predictors.inference.calibration_factors import CalibrationFactors
from deepen.predictors.inference.conformal import make_interval
from deepen.predictors.inference.family_regressors import KernelEnergies, PredictorParameters
from deepen.predictors.inference.model_overheads import ModelOverheads, compute_in_model_energy
from deepen.predictors.inference.zero_operands import apply_zero_operand_factor
from deepen.predictors.kernel_counts import ModelEnergies, predict_counts
from deepen.records import KernelPrediction, Prediction, Source

__all__ = ["Predictor", "compute_moved_bytes", "find_distinct_kernels"]

_MANY_OUTSIDE = 0.25


LAST_LEVEL_CACHE_BYTES = 32 * 2**20
"""What a kernel that repeats alone keeps in the last cache: that of today's desktop and server processors."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """Predicts the net energy of kernels and whole models.

    Attributes:
        card: What it was trained on and how well it does (plain JSON values).
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
        """Which predictor: device, runtime and a hash of data and recipe."""
        return str(self.card["id"])

    @property
    def source(self) -> Source:
        """Label of the data it was trained on."""
        return cast(Source, self.card["source"])

    @classmethod
    def read(cls, path: Path) -> Predictor:
        """Read a predictor file.

        Raises:
            PredictorError: If the file is not a predictor, is damaged, or was trained on another version of the
            features.
        """
        card, parameters = predictor_file.read_predictor_file(path)
        if not isinstance(card.get("id"), str) or card.get("source") not in get_args(Source):
            raise PredictorError(f"{path}: the card lacks an id or a known source")
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
        self, path: str | Path, shapes: Mapping[str, tuple[int, ...]] | None = None, runtime: str | None = None
    ) -> Prediction:
        """Predict the energy of one inference of a model file.

        Args:
            path: The model file.
            shapes: Shapes of symbolic inputs, by input name.
            runtime: Runtime to split for; default: the one the predictor was trained on.

        Raises:
            GraphError: If the file cannot be taken as a graph.
            PredictorError: If a kernel cannot be described.
        """
        described = describe_file(str(path), shapes, self._runtime(runtime))
        return self._predict([described], runtime)[0]

    def predict_many(
        self,
        models: Iterable[str | Path | ModelSplit],
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        runtime: str | None = None,
        workers: int = 1,
        failures: dict[str, DeepenError] | None = None,
    ) -> list[Prediction]:
        """Predict many models at once: a kernel that several of them have is predicted once.

        Models that are counts of kernels from a common list (a search space) are quicker by :meth:`predict_counts`.

        Args:
            models: Model files, or models already split (named ``model_0``, ``model_1``, ...).
            shapes: Shapes of symbolic inputs, by input name, for every file.
            runtime: Runtime to split files for; default: the one the predictor was trained on.
            workers: Processes that read files. More than one starts fresh interpreters: the program that calls this
                needs the usual ``if __name__ == "__main__":``.
            failures: Where to put the errors of files that fail, by file; without it the first ends everything.

        Returns:
            Predictions in the order of the models, without those that failed.

        Raises:
            DeepenError: The first failure, if ``failures`` is not given.
        """
        listed = list(models)
        wanted = self._runtime(runtime)
        read = describe_files([str(m) for m in listed if not isinstance(m, ModelSplit)], shapes, wanted, workers)
        found: list[ModelKernels] = []
        for number, model in enumerate(listed):
            if isinstance(model, ModelSplit):
                found.append(describe_split(model, f"model_{number}"))
                continue
            one = next(read)
            if isinstance(one, ModelKernels):
                found.append(one)
            elif failures is None:
                raise one
            else:
                failures[str(model)] = one
        return self._predict(found, runtime)

    def predict_counts(self, families: Sequence[str], raw: NDArray[np.float64], counts: NDArray[Any]) -> ModelEnergies:
        """Predict many models given how often each runs each of a common list of kernels.

        Args:
            families: Family of each distinct kernel.
            raw: Their features in this predictor's order (:meth:`matrix`), float64, shape (kernels, features).
            counts: Executions per inference, shape (models, kernels).

        Raises:
            PredictorError: If shapes do not fit or a count is negative.
        """
        return predict_counts(self, families, raw, counts)

    def predict_kernel_counts(self, kernels: Sequence[Kernel], counts: NDArray[Any]) -> ModelEnergies:
        """Predict many models given how often each runs each of a list of kernels, as a search space counts them.

        Args:
            kernels: The distinct kernels, for example of ``deepen.spaces.nasbench201_kernels.count_kernels``.
            counts: Executions per inference, shape (models, kernels).

        Raises:
            PredictorError: If shapes do not fit or a count is negative.
        """
        from deepen.kernels.features import compute_features

        raw = self.matrix([compute_features(kernel) for kernel in kernels])
        return predict_counts(self, [kernel.family for kernel in kernels], raw, counts)

    def predict_split(self, split: ModelSplit, model: str, warnings: Sequence[str] = ()) -> Prediction:
        """Predict a model that is already split into kernels."""
        return self._predict([describe_split(split, model, warnings)])[0]

    def predict_described(
        self,
        names: Sequence[str],
        families: Sequence[str],
        features: Sequence[Mapping[str, float]],
        multiplicity: Sequence[float],
        model: str,
        warnings: Sequence[str] = (),
    ) -> Prediction:
        """Predict a model from its kernels' features.

        Args:
            names: Kernel names, in execution order.
            families: Their families.
            features: Their features, by name.
            multiplicity: Executions per inference.
            model: Name of the model in the result.
            warnings: Handed on.
        """
        times = np.asarray(multiplicity, dtype=np.float64)
        one = ModelKernels(model, tuple(names), tuple(families), self.matrix(features), times, tuple(warnings))
        return self._predict([one])[0]

    def _runtime(self, runtime: str | None) -> str:
        return runtime or str(self.card.get("runtime") or "onnxruntime")

    def _predict(self, models: Sequence[ModelKernels], runtime: str | None = None) -> list[Prediction]:
        """Predict the distinct kernels of all models together, then put each model together."""
        trained_on = self._runtime(None)
        foreign: tuple[str, ...] = ()
        if runtime and resolve_engine(runtime) != resolve_engine(trained_on):
            foreign = (f"the predictor was trained on {trained_on}, kernels are split for {runtime}",)
        families = [f for m in models for f in m.families]
        raw = np.concatenate([m.raw for m in models]) if models else self.matrix([])
        first, group = find_distinct_kernels(families, raw)
        alone = self.energies([families[i] for i in first], raw[first])
        done = []
        end = 0
        for model in models:
            start, end = end, end + len(model.families)
            done.append(self._assemble(model, alone, group[start:end], foreign))
        return done

    def _assemble(
        self, model: ModelKernels, alone: KernelEnergies, group: NDArray[np.int64], foreign: tuple[str, ...]
    ) -> Prediction:
        """Put a model together from kernels predicted alone; ``group`` says which of them each of its kernels is."""
        weights, activations = compute_moved_bytes(self.parameters.feature_names, model.raw)
        energy = compute_in_model_energy(
            self.context, model.families, alone.energy_j[group], model.multiplicity, weights, activations
        )
        overhead = self.context.overhead_j
        if self.calibration is not None:
            bend = float(self.calibration.bend.factor(np.array([energy.sum() + overhead]))[0])
            energy, overhead = bend * energy, bend * overhead
        total = float(energy.sum()) + overhead
        own, index = np.unique(group, return_inverse=True)
        totals = np.bincount(index, weights=energy, minlength=own.size).astype(np.float64)
        family = dict(zip(group.tolist(), model.families, strict=True))
        spread = self.context.half_width(totals[None, :], alone.half_width[own], [family[g] for g in own.tolist()])
        factor = np.exp(np.minimum(alone.half_width[group], 20.0))
        kernels = tuple(
            KernelPrediction(name, kind, e, (low, high), "regressor" if covered else "roofline", outside)
            for name, kind, e, low, high, covered, outside in zip(
                model.names,
                model.families,
                energy.tolist(),
                (energy / factor).tolist(),
                (energy * factor).tolist(),
                alone.regressor[group].tolist(),
                alone.extrapolated[group].tolist(),
                strict=True,
            )
        )
        uncovered = tuple(k.name for k in kernels if k.method == "roofline")
        outside = sum(k.extrapolated for k in kernels)
        return Prediction(
            model=model.model,
            energy_j=total,
            interval_j=make_interval(total, float(spread[0])),
            overhead_j=overhead,
            kernels=kernels,
            coverage=1.0 - len(uncovered) / len(kernels) if kernels else 1.0,
            uncovered=uncovered,
            extrapolated=outside,
            predictor_id=self.id,
            source=self.source,
            warnings=tuple(dict.fromkeys((*model.warnings, *foreign, *_list_remarks(kernels, total, outside)))),
        )

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

    def matrix(self, features: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
        """Features of kernels as a matrix in this predictor's order, float64, shape (n, features)."""
        from deepen.kernels.features import build_feature_matrix

        if not features:
            return np.zeros((0, len(self.parameters.feature_names)))
        return np.asarray(build_feature_matrix(list(features)), dtype=np.float64)

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


def compute_moved_bytes(
    feature_names: Sequence[str], raw: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bytes a kernel may find colder in a model than alone: weights, and activations read and written.

    Weights beyond :data:`LAST_LEVEL_CACHE_BYTES` count as none: they are read from memory however often the kernel
    repeats.
    """
    index = {name: i for i, name in enumerate(feature_names)}
    weights = raw[:, index["bytes_weights"]]
    moved = raw[:, index["bytes_in"]] + raw[:, index["bytes_written"]]
    return np.where(weights <= LAST_LEVEL_CACHE_BYTES, weights, 0.0), moved


def find_distinct_kernels(families: Sequence[str], raw: NDArray[np.float64]) -> tuple[list[int], NDArray[np.int64]]:
    """First row of each distinct configuration, and which of them each row is."""
    seen: dict[tuple[str, bytes], int] = {}
    first: list[int] = []
    group = np.zeros(len(families), dtype=np.int64)
    for i, family in enumerate(families):
        key = (family, raw[i].tobytes())
        if key not in seen:
            seen[key] = len(first)
            first.append(i)
        group[i] = seen[key]
    return first, group


def _list_remarks(kernels: Sequence[KernelPrediction], total_j: float, outside: int) -> list[str]:
    remarks = []
    roofline = sum(k.energy_j for k in kernels if k.method == "roofline")
    if roofline > 0:
        families = sorted({k.family for k in kernels if k.method == "roofline"})
        remarks.append(
            f"{100 * roofline / total_j:.1f} % of the energy is from the analytic roofline: no regressor for "
            + ", ".join(families)
        )
    if kernels and outside > _MANY_OUTSIDE * len(kernels):
        remarks.append(f"{outside} of {len(kernels)} kernels lie outside what the predictor was trained on")
    return remarks
