"""Reads candidates from a CSV or a TOML file.

Each candidate (a line, or a ``[[candidate]]`` table) has:

``name``
    A name of its own for each candidate.
``accuracy``
    A share such as ``0.741``, or ``74.1 %``.
``training``, ``search`` (or ``compression``), ``retraining``
    Energy spent once, with its unit: ``12.5 kWh``. In a CSV, the unit may be in the header instead:
    ``training_kwh``, ``inference_mJ``. An empty cell means no energy. Instead of ``training``, ``training_run`` may
    name the JSON file that ``deepen.measure_training`` wrote.
``inference``
    Energy per inference; or, instead of it, ``record`` (the output of ``deepen profile --json``) or ``model`` (a model
    file, predicted with the predictor that is given).
``accuracy_uncertainty``, ``training_uncertainty``, ... ``inference_uncertainty``
    Standard uncertainties: an energy with its unit, or a share of the value such as ``5 %``.
``pue_included``
    PUE already contained in the training energies; 1 by default.
``source``
    measured (by default), published, modelled, simulated or predicted.
``learnt_from``
    For predicted energies, the label of what they were learnt from.

Other columns are ignored. Paths are relative to the file's own folder.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, DatasetError, DeepenError
from deepen.records import SourceLabel, find_weakest_label, parse_label
from deepen.scoring.app_rows import NO_SOURCE
from deepen.scoring.lifecycle.candidates import PARTS, LifecycleCandidates
from deepen.scoring.lifecycle.quantity import JOULES, get_joules_per_unit, parse_energy, parse_fraction
from deepen.tables import read_csv_cells

if TYPE_CHECKING:
    from deepen.predictors.predictor import Predictor

__all__ = ["read_candidates"]

_ENERGIES = (*PARTS, "compression", "inference")
_FIELD = re.compile(rf"({'|'.join(_ENERGIES)})(_uncertainty)?(?:_([A-Za-zµμ]+))?")
_TEXTS = (
    "name",
    "accuracy",
    "accuracy_uncertainty",
    "pue_included",
    "source",
    "learnt_from",
    "model",
    "record",
    "training_run",
)
_LOWER_UNITS = {unit.lower(): unit for unit in ("J", "kJ", "GJ", "Wh", "mWh", "kWh", "uJ", "nJ", "mJ")}
"""Header units in lower case, as in ``energy_mj``: millijoules; megajoules are written ``_MJ``."""
_FOR_90 = 2 * 1.6448536269514722
"""Width of a 90 % interval of a normal distribution, in standard deviations."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _CandidateColumn:
    """One column of a file: its field, the unit of its bare numbers, and its cells."""

    field: str
    unit: str
    cells: Sequence[str]


def read_candidates(path: str | Path, predictor: str | Predictor | None = None) -> LifecycleCandidates:
    """Read candidates from a ``.toml`` file, or else a CSV file.

    1. Read the columns; name and accuracy are needed.
    2. Parse the accuracies and the energies spent once, with their uncertainties; compression counts as search.
    3. Parse the inference energies and the labels.
    4. Fill in energies from files of training runs and records.
    5. Predict the inference energies of models that have none; then none may be missing.

    Args:
        path: The file.
        predictor: Name, file or predictor that predicts the inference energy of candidates with a ``model``.

    Raises:
        ConfigError: If a file does not exist, a unit is wrong, or a predictor is needed and not given.
        DatasetError: If a candidate lacks a figure, or a figure is out of range.
        GraphError, PredictorError: If a model cannot be predicted.
    """
    # 1
    file = Path(path)
    places, columns = _read_toml(file) if file.suffix.lower() == ".toml" else _read_csv(file)
    table = {c.field: c for c in columns}
    n = len(places)
    for needed in ("name", "accuracy"):
        if needed not in table:
            raise DatasetError(f"{file}: no {needed}; each candidate needs a name, an accuracy and an inference energy")
    # 2
    accuracy = _parse_accuracies(table["accuracy"], places)
    accuracy_u = _parse_uncertainties(table, "accuracy", accuracy, places)
    parts, parts_u = np.zeros((n, len(PARTS))), np.zeros((n, len(PARTS)))
    for name in (*PARTS, "compression"):
        if name in table:
            column = PARTS.index("search" if name == "compression" else name)
            value = _parse_energies(table[name], places, 0.0)
            parts[:, column] += value
            parts_u[:, column] = np.hypot(parts_u[:, column], _parse_uncertainties(table, name, value, places))
    # 3
    inference = _parse_energies(table["inference"], places, math.nan) if "inference" in table else np.full(n, np.nan)
    inference_u = _parse_uncertainties(table, "inference", inference, places)
    given = zip(_get_texts(table, "source", n), _get_texts(table, "learnt_from", n), places, strict=True)
    labels = [_parse_label(*cells) for cells in given]
    # 4
    base = file.parent
    _fill_training_energies(base, _get_texts(table, "training_run", n), places, parts, parts_u, labels)
    _fill_recorded_energies(base, _get_texts(table, "record", n), places, inference, inference_u, labels)
    # 5
    _predict_missing_energies(base, _get_texts(table, "model", n), places, inference, inference_u, labels, predictor)
    lacking = np.flatnonzero(np.isnan(inference))
    if lacking.size:
        raise DatasetError(f"{places[lacking[0]]}: no inference energy; give inference, record or model")
    pue = np.ones(n)
    if "pue_included" in table:
        pue = _parse_numbers(table["pue_included"], places, _parse_plain_number, 1.0, 1.0)
    try:
        return LifecycleCandidates(
            tuple(table["name"].cells),
            accuracy,
            parts,
            inference,
            accuracy_u,
            parts_u,
            inference_u,
            pue,
            tuple(x.source for x in (labels[:1] if len(set(labels)) == 1 else labels)),
            () if "source" in table or not _has_bare_figures(table) else (NO_SOURCE,),
            find_weakest_label(labels).learnt_from if any(x.learnt_from for x in labels) else "",
        )
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from error


def _has_bare_figures(table: Mapping[str, _CandidateColumn]) -> bool:
    """Return whether any energy is given as a bare figure instead of a file that states its source."""
    return any(name in table for name in (*PARTS, "compression", "inference"))


def _read_csv(file: Path) -> tuple[list[str], list[_CandidateColumn]]:
    names, lines = read_csv_cells(file)
    if not lines:
        raise DatasetError(f"{file}: no candidates below the header; add at least one line")
    fields = [_parse_field(name, file) for name in names]
    doubled = {f[0] for f in fields if f and [g[0] for g in fields if g].count(f[0]) > 1}
    if doubled:
        raise DatasetError(f"{file}: '{min(doubled)}' is given in two columns; keep one of them")
    cells = list(zip(*(record for _, record in lines), strict=True))
    places = [f"{file} line {number}" for number, _ in lines]
    return places, [_CandidateColumn(*f, c) for f, c in zip(fields, cells, strict=True) if f is not None]


def _parse_field(name: str, file: Path) -> tuple[str, str] | None:
    """Return field and unit of a column; ``None`` for a column to ignore."""
    if name in _TEXTS:
        return name, ""
    if name in ("accuracy_percent", "accuracy_%"):
        return "accuracy", "%"
    match = _FIELD.fullmatch(name)
    if match is None:
        return None
    unit = match[3] or ""
    if unit and unit not in JOULES:
        if unit.lower() not in _LOWER_UNITS:
            raise ConfigError(
                f"{file}: column '{name}': '{unit}' is no unit of energy; write for example {match[1]}_kWh"
            )
        unit = _LOWER_UNITS[unit.lower()]
    return match[1] + (match[2] or ""), unit


def _read_toml(file: Path) -> tuple[list[str], list[_CandidateColumn]]:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ConfigError(f"{file}: {error.strerror}; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: not valid TOML ({error}); correct the file") from error
    tables = data.get("candidate")
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise DatasetError(f"{file}: no [[candidate]] tables; write one for each candidate")
    known = {*_TEXTS, *_ENERGIES, *(f"{e}_uncertainty" for e in _ENERGIES)}
    for t in tables:
        for key in t:
            if key not in known:
                raise DatasetError(
                    f"{file}: candidate '{t.get('name', '')}' has the unknown key '{key}'; known: "
                    f"{', '.join(sorted(known))}"
                )
    places = [f"{file}: candidate '{t.get('name', k + 1)}'" for k, t in enumerate(tables)]
    used = [key for key in known if any(key in t for t in tables)]
    return places, [_CandidateColumn(key, "", [str(t.get(key, "")) for t in tables]) for key in used]


def _parse_numbers(
    column: _CandidateColumn,
    places: Sequence[str],
    parse: Callable[[str], float],
    default: float | None,
    scale: float | None,
) -> _Floats:
    """Parse the figures of a column; float64, shape (n,).

    Args:
        column: The column.
        places: Location of each cell, for messages.
        parse: Reads one cell that is not empty.
        default: Value of an empty cell; ``None`` if it must not be empty.
        scale: Factor for bare numbers; ``None`` if they must have a unit. Whole columns of bare numbers are read at
            once.
    """
    if scale is not None:
        try:
            quick = np.array(column.cells, dtype=np.float64)
        except ValueError:
            pass  # units, empty cells, or text: read one by one, with an error that names the place
        else:
            if np.isfinite(quick).all():
                return np.asarray(quick * scale, dtype=np.float64)
    found = np.empty(len(places))
    for k, (text, place) in enumerate(zip(column.cells, places, strict=True)):
        if not text and default is None:
            raise DatasetError(f"{place}: no {column.field}; fill it in")
        try:
            found[k] = parse(text) if text else default
        except ConfigError as error:
            raise DatasetError(f"{place}: {column.field}: {error}") from error
    return found


def _parse_energies(column: _CandidateColumn, places: Sequence[str], default: float) -> _Floats:
    scale = get_joules_per_unit(column.unit) if column.unit else None
    return _parse_numbers(column, places, lambda text: parse_energy(text, column.unit), default, scale)


def _parse_accuracies(column: _CandidateColumn, places: Sequence[str]) -> _Floats:
    percent = column.unit == "%"

    def parse(text: str) -> float:
        return parse_fraction(text if not percent or text.endswith("%") else f"{text} %", "accuracy")

    return _parse_numbers(column, places, parse, None, 0.01 if percent else 1.0)


def _parse_uncertainties(
    table: Mapping[str, _CandidateColumn], field: str, value: _Floats, places: Sequence[str]
) -> _Floats:
    """Parse the standard uncertainties of a field: energies, or shares of the value written with a percent sign."""
    column = table.get(f"{field}_uncertainty")
    if column is None:
        return np.zeros(len(places))
    relative = np.array([text.endswith("%") for text in column.cells])
    if field == "accuracy":  # a percentage is in points of accuracy
        return _parse_numbers(column, places, lambda text: parse_fraction(text, "uncertainty"), 0.0, 1.0)
    shares = np.array(
        [_parse_share(t, place) if r else 0.0 for t, r, place in zip(column.cells, relative, places, strict=True)]
    )
    plain = _CandidateColumn(
        column.field, column.unit, [t if not r else "" for t, r in zip(column.cells, relative, strict=True)]
    )
    known = np.where(np.isnan(value), 0.0, value)
    return np.where(relative, shares * known, _parse_energies(plain, places, 0.0))


def _parse_share(text: str, place: str) -> float:
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share < math.inf:
        raise DatasetError(f"{place}: uncertainty '{text}' is no share; write for example 5 %")
    return share


def _get_texts(table: Mapping[str, _CandidateColumn], field: str, n: int) -> Sequence[str]:
    return table[field].cells if field in table else ("",) * n


def _parse_label(source: str, learnt_from: str, place: str) -> SourceLabel:
    try:
        return parse_label(source, learnt_from)
    except ConfigError as error:
        raise DatasetError(f"{place}: {error}") from error


def _parse_plain_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"'{text}' is no number") from None


def _read_energy_json(file: Path, place: str, made_by: str) -> tuple[float, float, SourceLabel]:
    """Read ``energy_j``, its standard uncertainty and its label from a JSON document."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        energy_j, u = float(data["energy_j"]), data.get("uncertainty_j")
        label = _parse_label(str(data["source"]), str(data.get("learnt_from", "")), place)
        if u is None and "interval_j" in data:  # of a prediction
            u = (float(data["interval_j"][1]) - float(data["interval_j"][0])) / _FOR_90
        found = energy_j, 0.0 if u is None or math.isnan(u) else float(u), label
        whole, ended = data.get("complete", True), str(data.get("ended", ""))
        open_above = bool(data.get("open_above", False))
    except OSError as error:
        raise ConfigError(f"{place}: {file}: {error.strerror}; check the path") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DatasetError(f"{place}: {file} is no output of {made_by}; it needs energy_j and source") from error
    if open_above:
        raise _make_lower_bound_error(f"{place}: {file}")
    if not whole:
        raise DatasetError(
            f"{place}: {file} is not complete ({ended}); run the training again, or give what it cost as training"
        )
    if not energy_j >= 0:
        raise DatasetError(f"{place}: {file} has the energy {energy_j:g} J; measure again")
    return found


def _fill_training_energies(
    base: Path, texts: Sequence[str], places: Sequence[str], parts: _Floats, parts_u: _Floats, labels: list[SourceLabel]
) -> None:
    for k, (text, place) in enumerate(zip(texts, places, strict=True)):
        if not text:
            continue
        if parts[k, 0]:
            raise DatasetError(f"{place}: both training and training_run; keep one of them")
        parts[k, 0], parts_u[k, 0], label = _read_energy_json(base / text, place, "deepen.measure_training")
        labels[k] = find_weakest_label([labels[k], label])


def _fill_recorded_energies(
    base: Path, texts: Sequence[str], places: Sequence[str], energy: _Floats, u: _Floats, labels: list[SourceLabel]
) -> None:
    for k, (text, place) in enumerate(zip(texts, places, strict=True)):
        if not text:
            continue
        if not math.isnan(energy[k]):
            raise DatasetError(f"{place}: both inference and record; keep one of them")
        energy[k], u[k], label = _read_energy_json(base / text, place, "'deepen profile --json'")
        labels[k] = find_weakest_label([labels[k], label])


def _make_lower_bound_error(subject: str) -> DatasetError:
    return DatasetError(
        "its predicted energy is only a lower bound, because part of its work is unknown",
        subject=subject,
        cure="let 'deepen predict' say what it needs to know, and give its output as record; or measure the model",
    )


def _predict_missing_energies(
    base: Path,
    texts: Sequence[str],
    places: Sequence[str],
    energy: _Floats,
    u: _Floats,
    labels: list[SourceLabel],
    predictor: str | Predictor | None,
) -> None:
    """Predict the energies of candidates that have a model and no energy; other models are ignored."""
    wanted = [k for k, text in enumerate(texts) if text and math.isnan(energy[k])]
    if not wanted:
        return
    if predictor is None:
        raise ConfigError(f"{places[wanted[0]]}: its model must be predicted; name a predictor with --predictor")
    if isinstance(predictor, str):
        from deepen import predictors

        predictor = predictors.load_predictor(predictor)
    for k in wanted:
        try:
            found = predictor.predict(base / texts[k])
        except DeepenError as error:
            raise error.with_subject(places[k]) from error
        if found.open_above:
            raise _make_lower_bound_error(f"{places[k]}: {texts[k]}")
        energy[k], u[k] = found.energy_j, (found.interval_j[1] - found.interval_j[0]) / _FOR_90
        labels[k] = find_weakest_label([labels[k], found.label])
