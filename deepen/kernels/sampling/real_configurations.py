"""Configurations of real kernels, collected from architectures (``kernels/priors``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from deepen import catalog
from deepen.errors import ConfigError
from deepen.kernels.families.catalog import check_params, complete_params
from deepen.kernels.families.registry import get_family_definition

__all__ = [
    "RealConfiguration",
    "canonicalise_params",
    "list_families_with_configurations",
    "load_real_configurations",
]


@dataclass(frozen=True, slots=True)
class RealConfiguration:
    """One configuration seen in real architectures.

    Attributes:
        params: The family's parameters.
        sources: Up to three architectures it occurs in.
        count: Kernels with exactly these parameters, over all architectures.
    """

    params: Mapping[str, Any]
    sources: tuple[str, ...]
    count: int


def list_families_with_configurations() -> list[str]:
    """List the families that have real configurations."""
    return catalog.list_names("kernels", "priors", ".jsonl")


@cache
def load_real_configurations(family: str) -> tuple[RealConfiguration, ...]:
    """Read the real configurations of a family; empty if none were collected.

    Raises:
        ConfigError: If a row is not in the format of tools/collect_priors.
    """
    file = catalog.find_path("kernels", "priors", f"{family}.jsonl")
    if not file.is_file():
        return ()
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            params = complete_params(family, row["params"])  # defaults are not written
            rows.append(RealConfiguration(params, tuple(row["sources"]), int(row["count"])))
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise ConfigError(f"{file}:{number}: not a prior ({error}); run tools/collect_priors again") from error
    return tuple(rows)


def canonicalise_params(family: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Bring parameters into canonical form (file order, defaults filled in); ``None`` if they do not fit together."""
    try:
        done = check_params(family, params)
        get_family_definition(family).check(done)
    except ConfigError:
        return None
    return done
