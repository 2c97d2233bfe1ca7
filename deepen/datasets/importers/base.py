"""Base of all importers: the report, reading of files, and conversion of foreign rows to records."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepen.errors import ConfigError, DatasetError
from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.features import FEATURES_VERSION, compute_features
from deepen.records import EnergyRecord, RecordLabel

__all__ = [
    "ImportNote",
    "ImportResult",
    "SourceMetadata",
    "SourceRow",
    "describe_misfit",
    "infer_column_step",
    "infer_resolution",
    "make_kernel_record",
    "make_model_record",
    "parse_number",
    "read_json",
    "require_path",
]


@dataclass(frozen=True, slots=True)
class ImportNote:
    """A row that was repaired or rejected, and why.

    Attributes:
        id: The row's name in the source.
        reason: What was found, and what was done.
    """

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImportResult:
    """Result of an import: records, repairs and rejections.

    Attributes:
        records: Usable records.
        repaired: Rows with an unambiguous error, corrected. A row with such an error and an unknown configuration is
            listed here too, although it is rejected.
        rejected: Rows left out.
        notes: Remarks on the source as a whole.
    """

    records: tuple[EnergyRecord, ...]
    repaired: tuple[ImportNote, ...] = ()
    rejected: tuple[ImportNote, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceMetadata:
    """Metadata common to all records of a source.

    Attributes:
        device: Device measured on.
        meter: Power source.
        runtime: Runtime, as splitting names it.
        runtime_build: Known version and settings of the runtime.
        threads: Intra-operator threads.
        source: ``published`` where others measured, else modelled or simulated.
        gross: Whether energies include idle power.
        recorded_at: When it was measured, UTC; empty where the source does not say.
        warnings: Warnings added to every record.
    """

    device: str
    meter: str
    runtime: str
    runtime_build: str
    threads: int = 1
    source: RecordLabel = "published"
    gross: bool = False
    recorded_at: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceRow:
    """Values of one row.

    Attributes:
        id: Name in the source.
        name: Readable name.
        energy_j: Energy per inference; ``nan`` if the source has none.
        latency_s: Wall time per inference; ``nan`` if unknown.
        resolution_j: Step to which the energy is rounded; 0 if negligible.
        spread_j: Standard uncertainty of the energy from repeats; ``nan`` if unknown.
        trials: Energy of each repeat.
        runs: Inferences counted; 0 if unknown.
        warnings: Warnings for the user.
    """

    id: str
    name: str
    energy_j: float
    latency_s: float = math.nan
    resolution_j: float = 0.0
    spread_j: float = math.nan
    trials: tuple[float, ...] = ()
    runs: int = 0
    warnings: tuple[str, ...] = field(default=())


def _make_common_fields(row: SourceRow, origin: SourceMetadata) -> dict[str, Any]:
    """Make the fields that records of kernels and models have in common.

    A value written with a step of q is uncertain by q / sqrt(12), the standard deviation of a uniform distribution
    (JCGM 100:2008, 4.3.7).
    """
    budget = {}
    if row.resolution_j > 0:
        budget["quantisation"] = row.resolution_j / math.sqrt(12)
    if math.isfinite(row.spread_j):
        budget["repeats"] = row.spread_j
    uncertainty = math.sqrt(sum(value**2 for value in budget.values())) if budget else math.nan
    unknown = ("energy is gross: idle power is not subtracted",) if origin.gross else ()
    return {
        "id": row.id,
        "name": row.name,
        "energy_j": row.energy_j,
        "uncertainty_j": uncertainty,
        "gross_energy_j": row.energy_j if origin.gross else math.nan,
        "latency_s": row.latency_s,
        "idle_power_before_w": math.nan,
        "idle_power_after_w": math.nan,
        "threads": origin.threads,
        "runtime": origin.runtime,
        "runtime_build": origin.runtime_build,
        "device": origin.device,
        "meter": origin.meter,
        "source": origin.source,
        "runs": row.runs,
        "trials": row.trials,
        "recorded_at": origin.recorded_at,
        "warnings": (*unknown, *origin.warnings, *row.warnings),
        "budget": budget,
        "features_version": FEATURES_VERSION,
    }


def make_kernel_record(row: SourceRow, origin: SourceMetadata, family: str, params: Mapping[str, Any]) -> EnergyRecord:
    """Make the record of a kernel.

    Raises:
        ConfigError: If the parameters are not those of such a kernel.
    """
    kernel = make_kernel_from_params(family, params)
    return EnergyRecord(
        kind="kernel",
        family=family,
        params=kernel.params,
        features=compute_features(kernel),
        **_make_common_fields(row, origin),
    )


def make_model_record(row: SourceRow, origin: SourceMetadata, parts: Sequence[Mapping[str, Any]]) -> EnergyRecord:
    """Make the record of a whole model, given its kernels."""
    return EnergyRecord(kind="model", kernels=tuple(parts), **_make_common_fields(row, origin))


def require_path(folder: Path, name: str, importer: str, holds: str) -> Path:
    """Return the path of a file or folder that must exist.

    Args:
        folder: Folder given by the user.
        name: Path below it.
        importer: Name of the importer.
        holds: Contents of the right folder, for the message.

    Raises:
        DatasetError: If it is absent.
    """
    path = folder / name
    if not path.exists():
        raise DatasetError(f"{folder}: no {name} there, so {importer} cannot read it; give the folder with {holds}")
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: If it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{path}: damaged ({error}); fetch it again") from error


def parse_number(text: Any) -> float:
    """Parse a number; ``nan`` if the value is not one."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def infer_resolution(text: str, scale: float = 1.0) -> float:
    """Infer the rounding step of a number: a unit of its last decimal place, times ``scale``; 0 if it is no number.

    Zeros at the end are often dropped, so a column's step is the smallest of its values'.
    """
    digits = text.strip().lower().split("e")
    try:
        float(text)
        exponent = int(digits[1]) if len(digits) > 1 else 0
    except ValueError:
        return 0.0
    _, _, decimals = digits[0].partition(".")
    return float(scale * 10.0 ** (exponent - len(decimals)))


def infer_column_step(texts: Iterable[str]) -> float:
    """Infer the rounding step of a column from its values with decimals; 0 if there are none.

    A few values with more digits than the rest do not make the column finer.
    """
    steps = Counter(infer_resolution(str(text)) for text in texts)
    steps.pop(0.0, None)
    total = steps.total()
    if not total:
        return 0.0
    finest = [size for size, count in steps.items() if count >= 0.05 * total]
    return min(finest or steps)


def describe_misfit(error: ConfigError) -> str:
    """Render the reason for rejecting a configuration that is not a kernel."""
    return f"not a kernel deepen knows: {error}"
