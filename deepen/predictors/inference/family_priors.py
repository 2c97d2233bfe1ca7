"""Knowledge of a kernel family before anything of it was measured: ``predictors/priors.toml``.

For each family, and for each operator of a family of several, the file says how measured energies compare with the
pooled roofline: the median of ``log(E / roofline)`` and its spread over configurations. It was learnt from this
project's own measurements (``tools/fit_family_priors``); the roofline itself is that of the predictor at hand, so that
joules per operation, byte and call are those of its device, and only the ratio between families is carried over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen import catalog
from deepen.errors import ConfigError
from deepen.kernels.families.operator_costs import get_operator_code
from deepen.predictors.inference.conformal import Z

__all__ = ["FamilyPrior", "compute_prior_half_width", "load_family_priors", "look_up_priors"]

Floats = NDArray[np.float64]

_NAME = "priors"
UNKNOWN_SPREAD = 1.0
"""Standard deviation of log(E / roofline) where nothing like it was measured: nine in ten within a factor of five."""
TRANSFER_SD = 0.3
"""Standard deviation of what one machine's ratio between families differs from another's, or from another set of
kernels' on the same: medians of 36 families against the rooflines of two quickstarts differ by 0.25."""


@dataclass(frozen=True, slots=True)
class FamilyPrior:
    """Ratio of the energies of a family, or of one of its operators, to the pooled roofline.

    Attributes:
        log_ratio: Median of log(E / roofline).
        spread: Standard deviation of it over configurations.
        rows: Configurations measured.
        operators: The same for single operators, by their stable code.
    """

    log_ratio: float = 0.0
    spread: float = UNKNOWN_SPREAD
    rows: int = 0
    operators: Mapping[int, FamilyPrior] = field(default_factory=dict)

    def find(self, code: int) -> FamilyPrior:
        """Prior of an operator, or the family's where the operator has none of its own."""
        return self.operators.get(code, self)


@cache
def load_family_priors() -> Mapping[str, FamilyPrior]:
    """Read the priors of all families; none where the content folder has no such file.

    Raises:
        ConfigError: If the file is not in the format of tools/fit_family_priors.
    """
    if _NAME not in catalog.list_names("predictors"):
        return {}
    table = catalog.load_toml("predictors", "", _NAME).get("families", {})
    try:
        return {name: _parse_prior(entry) for name, entry in table.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"predictors/priors.toml: not priors ({error}); run tools/fit_family_priors again") from error


def _parse_prior(entry: Mapping[str, Any]) -> FamilyPrior:
    operators = {get_operator_code(name): _parse_prior(one) for name, one in entry.get("operators", {}).items()}
    prior = FamilyPrior(float(entry["log_ratio"]), float(entry["spread"]), int(entry["rows"]), operators)
    if not (abs(prior.log_ratio) < 20 and 0 <= prior.spread < 20):
        raise ValueError(f"ratio {prior.log_ratio} or spread {prior.spread} is out of range")
    return prior


def look_up_priors(families: Sequence[str], codes: Floats) -> tuple[Floats, Floats]:
    """Look up the priors of kernels.

    Args:
        families: Family of each kernel.
        codes: Code of its operator, 0 for none, shape (n,).

    Returns:
        Medians of log(E / roofline) and their spreads, each of shape (n,); 0 and :data:`UNKNOWN_SPREAD` for families
        without a prior.
    """
    known, nothing = load_family_priors(), FamilyPrior()
    found = [known.get(f, nothing).find(int(c)) for f, c in zip(families, codes.tolist(), strict=True)]
    return np.array([p.log_ratio for p in found]), np.array([p.spread for p in found])


def compute_prior_half_width(spread: Floats | float) -> Floats:
    """Half-width of the nominal 90 % interval, in log energy, of kernels of which only the prior is known."""
    return np.asarray(Z * np.hypot(spread, TRANSFER_SD))
