"""Candidates: models for the same task, with the energy they need once and the energy of each inference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, DatasetError, make_unknown_name_error
from deepen.records import FigureLabel, RecordLabel, SourceLabel, find_weakest_label

__all__ = ["PARTS", "LifecycleCandidates"]

PARTS = ("training", "search", "retraining")
"""Parts of the energy spent once in a life cycle: base training, compression or architecture search, retraining."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LifecycleCandidates:
    """Models to choose from, as arrays, so that there may be a hundred thousand.

    Attributes:
        names: Name of each, all different.
        accuracy: Accuracy, above 0 and at most 1; float64, shape (n,).
        parts_j: Energy spent once, joules, in the order of :data:`PARTS`; float64, shape (n, 3).
        inference_j: Energy per inference, joules; float64, shape (n,).
        accuracy_u: Standard uncertainty of the accuracy; shape (n,), zeros where not given.
        parts_u_j: Standard uncertainties of ``parts_j``; shape (n, 3).
        inference_u_j: Standard uncertainty of ``inference_j``; shape (n,).
        pue_included: PUE that ``parts_j`` contains already (1 if it is the energy of the machine); shape (n,).
        sources: Label of each; a single one if all have the same.
        notes: Warnings for the user of the result.
        learnt_from: Weakest label of the data behind the predicted ones; empty if none is predicted.
    """

    names: tuple[str, ...]
    accuracy: _Floats
    parts_j: _Floats
    inference_j: _Floats
    accuracy_u: _Floats = field(default_factory=lambda: np.zeros(0))
    parts_u_j: _Floats = field(default_factory=lambda: np.zeros(0))
    inference_u_j: _Floats = field(default_factory=lambda: np.zeros(0))
    pue_included: _Floats = field(default_factory=lambda: np.zeros(0))
    sources: tuple[FigureLabel, ...] = ("measured",)
    notes: tuple[str, ...] = ()
    learnt_from: RecordLabel | Literal[""] = ""

    def __post_init__(self) -> None:
        n = len(self.names)
        if n == 0:
            raise DatasetError("there are no candidates; give at least one")
        shapes = {"accuracy_u": (n,), "parts_u_j": (n, 3), "inference_u_j": (n,), "pue_included": (n,)}
        for name, shape in shapes.items():
            if getattr(self, name).size == 0:
                filled = np.ones(shape) if name == "pue_included" else np.zeros(shape)
                object.__setattr__(self, name, filled)
        for name, shape in {**shapes, "accuracy": (n,), "parts_j": (n, 3), "inference_j": (n,)}.items():
            if getattr(self, name).shape != shape:
                raise DatasetError(f"{name} has the shape {getattr(self, name).shape}, not {shape}")
        self._check_names()
        self._refuse(~(self.accuracy > 0) | ~(self.accuracy <= 1), self.accuracy, "accuracy", "above 0 and at most 1")
        for part in ("parts_j", "inference_j", "accuracy_u", "parts_u_j", "inference_u_j"):
            values = getattr(self, part)
            wrong = ~((values >= 0) & (values < np.inf))
            if values.ndim == 2:
                wrong = wrong.any(axis=1)
            self._refuse(wrong, values, part, "a number from 0 up")
        self._refuse(~((self.pue_included >= 1) & (self.pue_included < np.inf)), self.pue_included, "PUE", "1 or more")
        nothing = (self.parts_j.sum(axis=1) == 0) & (self.inference_j == 0)
        self._refuse(nothing, self.inference_j, "training and inference energy", "above zero in at least one of them")
        # A beta distribution with this mean has a smaller spread than that of a coin with the same mean.
        wide = self.accuracy_u**2 >= np.maximum(self.accuracy * (1 - self.accuracy), 1e-300)
        self._refuse(wide & (self.accuracy_u > 0), self.accuracy_u, "uncertainty of the accuracy", "possible beside it")

    def _check_names(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = next(name for name, count in Counter(self.names).items() if count > 1)
            raise DatasetError(f"candidate '{twice}' appears twice; give each its own name")
        if not all(self.names):
            raise DatasetError("a candidate has no name; give each its own name")

    def _refuse(self, wrong: NDArray[np.bool_], values: _Floats, what: str, rule: str) -> None:
        if wrong.any():
            at = int(np.argmax(wrong))
            shown = ", ".join(f"{v:g}" for v in np.atleast_1d(values[at]))
            raise DatasetError(f"candidate '{self.names[at]}': {what} {shown} is not {rule}; correct it")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def training_j(self) -> _Floats:
        """Energy spent once, all parts, joules; float64, shape (n,)."""
        return np.asarray(self.parts_j.sum(axis=1), dtype=np.float64)

    @property
    def uncertain(self) -> bool:
        """True if any uncertainty is given."""
        return bool(self.accuracy_u.any() or self.parts_u_j.any() or self.inference_u_j.any())

    @property
    def label(self) -> SourceLabel:
        """The weakest label among them."""
        return find_weakest_label(
            SourceLabel(s, self.learnt_from if s == "predicted" else "") for s in set(self.sources)
        )

    def index(self, name: str) -> int:
        """Position of a candidate.

        Raises:
            ConfigError: If there is none of that name, with the nearest names.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise make_unknown_name_error("candidate", name, self.names[:1000]) from None

    def take(self, which: Sequence[int] | NDArray[np.intp]) -> LifecycleCandidates:
        """Take some of the candidates, in the order given.

        Raises:
            ConfigError: If none are chosen.
        """
        chosen = np.asarray(which, dtype=np.intp)
        if chosen.size == 0:
            raise ConfigError("no candidates are chosen; name at least one")
        sources = self.sources if len(self.sources) < len(self.names) else tuple(self.sources[i] for i in chosen)
        return LifecycleCandidates(
            tuple(self.names[i] for i in chosen),
            self.accuracy[chosen],
            self.parts_j[chosen],
            self.inference_j[chosen],
            self.accuracy_u[chosen],
            self.parts_u_j[chosen],
            self.inference_u_j[chosen],
            self.pue_included[chosen],
            sources,
            self.notes,
            self.learnt_from,
        )

    def filter_by_accuracy(self, accuracy: float) -> LifecycleCandidates:
        """Take the candidates of at least this accuracy.

        Raises:
            ConfigError: If there are none.
        """
        chosen = np.flatnonzero(self.accuracy >= accuracy)
        if chosen.size == 0:
            raise ConfigError(f"no candidate reaches an accuracy of {accuracy:g}; the best has {self.accuracy.max():g}")
        return self.take(chosen)
