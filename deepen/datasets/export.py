"""Records as tables and files for other tools: pandas, CSV, Parquet, JSON lines."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from deepen.datasets.record_schema import FIELDS, encode_canonical_json, encode_record
from deepen.errors import ConfigError, DatasetError
from deepen.extras import require_packages
from deepen.kernels.types import hash_params
from deepen.records import EnergyRecord
from deepen.storage.atomic import write_file_atomically

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Format", "export_records", "infer_format", "make_frame"]

Format = Literal["csv", "parquet", "jsonl"]

_NESTED = ("kernels", "trials", "rejected", "warnings", "alignment", "budget", "settings", "inputs", "throttled")


def infer_format(path: Path) -> Format:
    """Tell the format from a file's ending.

    Raises:
        ConfigError: If the ending is none of ours.
    """
    ending = path.suffix.lower().removeprefix(".")
    for form in get_args(Format):
        if ending == form:
            return form  # type: ignore[no-any-return]
    raise ConfigError(f"cannot tell the format of '{path.name}'; add --format {'|'.join(get_args(Format))}")


def make_frame(records: Sequence[EnergyRecord], flatten: bool = False) -> pd.DataFrame:
    """Lay records out as a table.

    Args:
        records: The records.
        flatten: Spread ``params`` and ``features`` over columns ``params.NAME`` and ``features.NAME`` (JSON text where
            a parameter is a list) and write the other nested fields as JSON text.

    Returns:
        One row per record; columns as the fields of ``EnergyRecord`` and ``key`` (empty for a model).
    """
    require_packages("a DataFrame", "pandas")
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for record in records:
        row: dict[str, Any] = {name: getattr(record, name) for name in FIELDS}
        row["key"] = hash_params(record.family, record.params) if record.kind == "kernel" else ""
        if flatten:
            document = encode_record(record, whole=True)
            del row["params"], row["features"]
            row.update({name: encode_canonical_json(document.get(name, {})) for name in _NESTED})
            row.update({f"params.{name}": _encode_cell(value) for name, value in document["params"].items()})
            row.update({f"features.{name}": value for name, value in document["features"].items()})
        rows.append(row)
    if rows:
        return pd.DataFrame(rows)
    return pd.DataFrame(columns=[f.name for f in fields(EnergyRecord)] + ["key"])


def _encode_cell(value: Any) -> Any:
    return encode_canonical_json(value) if isinstance(value, list | dict) else value


def export_records(records: Sequence[EnergyRecord], path: Path, form: Format, *, overwrite: bool = False) -> None:
    """Write records to one file; it is wholly there or not at all.

    Args:
        records: The records.
        path: The file.
        form: ``csv`` and ``parquet`` hold the flattened table of :func:`make_frame`; ``jsonl`` holds one record per
            line, whole.
        overwrite: Replace a file that is there.

    Raises:
        ConfigError: If the form is unknown or the file is there and ``overwrite`` is false.
        DatasetError: If the file's folder does not exist.
        StorageError: If the disk refuses; nothing is left behind.
    """
    if form not in get_args(Format):
        raise ConfigError(f"unknown export format '{form}'; known: {', '.join(get_args(Format))}")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} is there already; choose another name or add --force")
    if not path.parent.is_dir():
        raise DatasetError(f"{path.parent} is not a folder; make it first or choose another")
    write_file_atomically(path, _encode_records(records, form))


def _encode_records(records: Sequence[EnergyRecord], form: Format) -> bytes:
    if form == "jsonl":
        lines = (
            json.dumps(encode_record(record, whole=True), allow_nan=False, ensure_ascii=False) for record in records
        )
        return "".join(f"{line}\n" for line in lines).encode()
    frame = make_frame(records, flatten=True)
    if form == "csv":
        return frame.to_csv(index=False, lineterminator="\n").encode()  # type: ignore[no-any-return]
    buffer = io.BytesIO()
    _unify_column_types(frame).to_parquet(buffer, index=False)
    return buffer.getvalue()


def _unify_column_types(frame: pd.DataFrame) -> pd.DataFrame:
    """Make every column one Parquet type: parameters whose type differs between families become JSON text."""
    for name in frame.columns:
        kinds = {type(value) for value in frame[name] if not _is_missing(value)}
        if len(kinds - {int, float}) > 0 and len(kinds) > 1:
            frame[name] = [
                None if _is_missing(v) else v if isinstance(v, str) else encode_canonical_json(v) for v in frame[name]
            ]
    return frame


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
