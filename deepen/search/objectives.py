"""Objectives a search minimises: columns of a table, or carbon computed from an energy and a grid's intensity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError
from deepen.search.table.table import BenchmarkTable
from deepen.search.table.types import TableColumn

__all__ = ["Objective", "compute_objective_values", "read_objectives"]

JOULES_PER_KWH = 3.6e6
CARBON = "carbon_g"


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective of a search.

    Attributes:
        name: Column, or ``carbon_g``.
        sign: 1 if smaller is better, -1 if larger is.
        column: The column it is computed from.
        factor: Factor from the column's unit to the objective's.
        unit: Its unit.
    """

    name: str
    sign: float
    column: str
    factor: float = 1.0
    unit: str = ""


def read_objectives(
    table: BenchmarkTable, names: Sequence[str], grid_g_per_kwh: float | None = None
) -> tuple[Objective, ...]:
    """Read objectives.

    Args:
        table: The table.
        names: Columns, with ``:min`` or ``:max`` if the column itself has no direction; ``carbon_g`` is computed from
            ``energy_j`` if the table has no such column.
        grid_g_per_kwh: Carbon intensity of the grid, gCO2e per kWh; for ``carbon_g``.

    Raises:
        ConfigError: If a column is unknown, has no direction, or is named twice.
    """
    found = []
    for text in names:
        name, _, direction = text.partition(":")
        factor, source = 1.0, name
        if name == CARBON and CARBON not in table.columns:
            if grid_g_per_kwh is None or not (math.isfinite(grid_g_per_kwh) and grid_g_per_kwh > 0):
                raise ConfigError("carbon_g needs the carbon intensity of the grid, gCO2e per kWh; give --grid")
            source, factor = "energy_j", grid_g_per_kwh / JOULES_PER_KWH
        column: TableColumn = table.column(source)
        better = direction or ("min" if name == CARBON else column.better)
        if better not in ("min", "max"):
            raise ConfigError(f"column {name} does not say which way is better; write {name}:min or {name}:max")
        unit = "g" if name == CARBON else column.unit
        found.append(Objective(name, 1.0 if better == "min" else -1.0, source, factor, unit))
    if not found:
        raise ConfigError("a search needs at least one objective, such as energy_j and accuracy")
    if len({o.name for o in found}) < len(found):
        raise ConfigError(f"an objective is named twice: {', '.join(names)}")
    return tuple(found)


def compute_objective_values(
    table: BenchmarkTable, objectives: Sequence[Objective], budget: float | None = None
) -> NDArray[np.float64]:
    """Compute the objectives of every network, shape (networks, objectives); smaller is better, NaN is missing."""
    columns = [o.sign * o.factor * table.per_network(o.column, budget) for o in objectives]
    return np.stack(columns, axis=1) if len(table.hashes) else np.zeros((0, len(objectives)))
