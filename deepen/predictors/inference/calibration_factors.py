"""The factor that calibration puts on every kernel's energy; near 1 for kernels of which nothing is known.

It is kept on the predictor's card (plain JSON, like the model-level terms), so that a calibrated predictor is a file
like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError
from deepen.predictors.inference.conformal import Z
from deepen.predictors.inference.factor_covariance import FactorPrior, compute_factor_covariance, compute_log_positions
from deepen.predictors.inference.family_regressors import KernelEnergies

__all__ = ["MAX_KERNELS", "CalibrationFactors", "FactorTerm", "LengthCorrection"]

Floats = NDArray[np.float64]

MAX_KERNELS = 1500
"""Distinct kernels a calibration may rest on; the card stays below 2 MB."""
_KNOWN_SHARE = 0.5
"""A kernel counts as covered where measurements take away this share of its prior variance."""


@dataclass(frozen=True, slots=True)
class FactorTerm:
    """One log factor: ``shift + sum over measured kernels of weight * covariance``.

    Attributes:
        shift: Log factor of kernels nothing is known about.
        belief: The covariance.
        weight: One per measured kernel, shape (k,).
        sd: Posterior standard deviation of each measured kernel's log factor, shape (k,).
    """

    shift: float
    belief: FactorPrior
    weight: Floats
    sd: Floats


@dataclass(frozen=True, slots=True)
class LengthCorrection:
    """Departure of a whole model's energy from the sum ``s`` as models get longer: ``s * (s / s0) ** exponent``.

    Attributes:
        exponent: Near zero; zero: not at all.
        reference: log s0.
        low: Below this log energy the factor stays as it is there.
        high: Above this log energy likewise.
    """

    exponent: float = 0.0
    reference: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def factor(self, energy_j: Floats) -> Floats:
        """Factor on models whose kernels and overhead sum to these energies."""
        if not self.exponent:
            return np.ones_like(energy_j)
        length = np.clip(np.log(np.maximum(energy_j, 1e-30)), self.low, self.high)
        return np.asarray(np.exp(self.exponent * (length - self.reference)))


@dataclass(frozen=True, slots=True)
class CalibrationFactors:
    """Log factors of kernels, as sums of terms.

    Attributes:
        families: Families of the measured kernels (k of them).
        position: Their positions, shape (k, p).
        terms: The terms that add up to the log factor.
        bend: The correction of the sums of long models.
    """

    families: tuple[str, ...]
    position: Floats
    terms: tuple[FactorTerm, ...]
    bend: LengthCorrection = field(default_factory=LengthCorrection)

    def apply(
        self, found: KernelEnergies, families: Sequence[str], raw: Floats, feature_names: Sequence[str]
    ) -> KernelEnergies:
        """Calibrate predictions of the base.

        Args:
            found: The base's predictions of n kernels.
            families: Their families.
            raw: Their features, shape (n, len(feature_names)).
            feature_names: Names of the features.
        """
        log_factor, variance, known = self.factors(families, compute_log_positions(raw, feature_names))
        # The base's own error counts as far as measurements leave it standing.
        base = (found.half_width / Z) ** 2 * (1.0 - known)
        return KernelEnergies(
            found.energy_j * np.exp(log_factor),
            Z * np.sqrt(np.maximum(variance, base)),
            found.regressor | (known >= _KNOWN_SHARE),
            found.extrapolated & (known < _KNOWN_SHARE),
        )

    def half_width(self, families: Sequence[str], position: Floats) -> Floats:
        """Half-widths of the nominal 90 % intervals of kernels in log energy, as far as factors are uncertain."""
        return np.asarray(Z * np.sqrt(self.factors(families, position)[1]))

    def factors(self, families: Sequence[str], position: Floats) -> tuple[Floats, Floats, Floats]:
        """Log factors of kernels, their variances, and the share of the last term's prior variance that is gone."""
        log_factor, variance = np.zeros(len(families)), np.zeros(len(families))
        known = np.zeros(len(families))
        for term in self.terms:
            gram = compute_factor_covariance(term.belief, families, position, self.families, self.position)
            log_factor += term.shift + gram @ term.weight
            # Of the measured kernels the most alike one says most: an upper bound of the exact variance.
            alike = np.minimum(gram / term.belief.variance, 1.0) ** 2
            left = 1.0 - alike * (1.0 - np.minimum(term.sd**2 / term.belief.variance, 1.0))
            least = left.min(axis=1) if left.shape[1] else np.ones(len(families))
            variance += term.belief.variance * least
            known = np.maximum(known, 1.0 - least)
        return log_factor, variance, known

    def to_json(self) -> dict[str, Any]:
        """Plain values for the card."""
        return {
            "families": list(self.families),
            "position": self.position.tolist(),
            "bend": asdict(self.bend),
            "terms": [
                {
                    "shift": t.shift,
                    "belief": asdict(t.belief),
                    "weight": t.weight.tolist(),
                    "sd": t.sd.tolist(),
                }
                for t in self.terms
            ],
        }

    @staticmethod
    def from_json(table: Mapping[str, Any]) -> CalibrationFactors:
        """Read back what :meth:`to_json` wrote.

        Raises:
            PredictorError: If something is missing, not a number, out of range, or of another size than the rest.
        """
        try:
            families = tuple(str(f) for f in table["families"])
            position = np.array(table["position"], dtype=np.float64).reshape(len(families), -1)
            names = {f.name for f in fields(FactorPrior)}
            terms = tuple(
                FactorTerm(
                    float(t["shift"]),
                    FactorPrior(**{k: float(v) for k, v in t["belief"].items() if k in names}),
                    np.array(t["weight"], dtype=np.float64).reshape(len(families)),
                    np.array(t["sd"], dtype=np.float64).reshape(len(families)),
                )
                for t in table["terms"]
            )
            bend = LengthCorrection(**{str(k): float(v) for k, v in table["bend"].items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PredictorError(f"the card's calibration cannot be read ({error}); calibrate again") from error
        arrays = [position, *(t.weight for t in terms), *(t.sd for t in terms)]
        numbers = [v for t in terms for v in (t.shift, *asdict(t.belief).values())] + list(asdict(bend).values())
        if not all(np.isfinite(a).all() for a in arrays) or not np.isfinite(numbers).all():
            raise PredictorError("the card's calibration has values that are not finite; calibrate again")
        if len(families) > MAX_KERNELS or any(
            t.belief.length <= 0 or t.belief.variance <= 0 or (t.sd < 0).any() for t in terms
        ):
            raise PredictorError("the card's calibration is out of range; calibrate again")
        return CalibrationFactors(families, position, terms, bend)
