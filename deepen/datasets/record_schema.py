"""Energy records as JSON documents and as Parquet columns; the schema is ``datasets/schema.toml`` in words.

Both forms hold the same values bit for bit, so that a record's hash does not depend on where it is stored. Numbers
that are not finite are ``null`` in JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from deepen.datasets.model_kernels import ModelKernelEntry, restore_features
from deepen.errors import DatasetError, DeepenError
from deepen.records import RECORD_SCHEMA, EnergyRecord

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "FIELDS",
    "decode_record",
    "decode_table",
    "encode_canonical_json",
    "encode_record",
    "encode_table",
    "hash_record",
]

FIELDS: tuple[str, ...] = tuple(f.name for f in fields(EnergyRecord))
"""Names of a record's fields, in the order of :class:`~deepen.records.EnergyRecord`."""

_TYPES: dict[str, str] = {f.name: str(f.type) for f in fields(EnergyRecord)}
_FLOATS = frozenset(name for name, kind in _TYPES.items() if kind == "float")
_INTS = frozenset(name for name, kind in _TYPES.items() if kind == "int")
_JSON = ("params", "features", "kernels", "rejected", "alignment", "budget", "settings", "throttled")
_SINCE = {
    "alignment": 2, "budget": 2,
    "serial": 3, "settings": 3, "temperature_before_c": 3, "temperature_max_c": 3, "throttled": 3,
}  # fmt: skip
"""Fields that a record of an older schema does not have: they stay out of its document, so that its hash stays."""


def _convert_to_json(value: Any) -> Any:
    """Make a value JSON: arrays and tuples lists, NumPy scalars Python's, what is not finite ``None``."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, ModelKernelEntry):
        value = value.without_features()
    if isinstance(value, Mapping):
        return {str(k): _convert_to_json(v) for k, v in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [_convert_to_json(v) for v in value]
    if hasattr(value, "tolist"):
        return _convert_to_json(value.tolist())
    raise DatasetError(f"a {type(value).__name__} cannot be stored; records hold numbers, strings, lists and mappings")


def _encode_features(values: Mapping[str, Any]) -> dict[str, float | None]:
    plain = {str(name): float(value) for name, value in values.items()}
    return {name: value if math.isfinite(value) else None for name, value in plain.items()}


def encode_record(record: EnergyRecord) -> dict[str, Any]:
    """Make the JSON document of a record: one key per field of :data:`FIELDS` that its schema has.

    Raises:
        DatasetError: If a value cannot be stored, or the record has a schema this deepen does not know.
    """
    if not 1 <= record.schema <= RECORD_SCHEMA:
        raise DatasetError(f"record '{record.name}' has schema {record.schema}; this deepen writes {RECORD_SCHEMA}")
    document = {
        name: _convert_to_json(getattr(record, name)) for name in FIELDS if _SINCE.get(name, 1) <= record.schema
    }
    for name in _FLOATS & document.keys():
        document[name] = None if document[name] is None else float(document[name])
    document["trials"] = [_convert_to_json(float(value)) for value in record.trials]
    document["features"] = _encode_features(record.features)
    return document


def encode_canonical_json(document: Any) -> str:
    """Write a document as JSON text without line breaks; equal documents give equal text."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def hash_record(record: EnergyRecord) -> bytes:
    """SHA-256 of a record's canonical JSON."""
    return hashlib.sha256(encode_canonical_json(encode_record(record)).encode()).digest()


def _decode_number(value: Any) -> float:
    return math.nan if value is None else float(value)


def decode_record(document: Mapping[str, Any], where: str) -> EnergyRecord:
    """Read a record back.

    Args:
        document: As made by :func:`encode_record`.
        where: File and place, for messages.

    Raises:
        DatasetError: If it was written by a newer deepen or is no record.
    """
    schema = document.get("schema")
    if isinstance(schema, int) and schema > RECORD_SCHEMA:
        raise DatasetError(
            f"{where}: record schema {schema} is newer than the {RECORD_SCHEMA} this deepen reads; upgrade deepen"
        )
    unknown = set(document) - set(FIELDS)
    if unknown:
        raise DatasetError(f"{where}: not a deepen record (unknown {', '.join(sorted(unknown))}); restore the file")
    values: dict[str, Any] = dict(document)
    try:
        for name in _FLOATS & values.keys():
            values[name] = _decode_number(values[name])
        for name in _INTS & values.keys():
            values[name] = int(values[name])
        values["trials"] = tuple(_decode_number(value) for value in values["trials"])
        values["features"] = {name: _decode_number(value) for name, value in values.get("features", {}).items()}
        for name in ("kernels", "rejected", "warnings", "throttled"):
            values[name] = tuple(values.get(name, ()))
        values["kernels"] = restore_features(values["kernels"], where)
        return EnergyRecord(**values)
    except (KeyError, TypeError, ValueError, AttributeError, DeepenError) as error:
        raise DatasetError(f"{where}: not a deepen record ({error}); restore the file from a copy") from error


def _get_column_default(name: str) -> Any:
    """What a column holds for a record that is older than the field."""
    return {} if name in _JSON else None if name in _FLOATS else ""


def encode_table(sequence: Sequence[int], records: Sequence[EnergyRecord]) -> pa.Table:
    """Lay records out as Parquet columns.

    Mappings and lists of mappings are JSON text, the rest are plain columns named as the fields; ``seq`` is the
    position at which the store took the record.

    Args:
        sequence: Sequence numbers, shape (n,).
        records: The records, shape (n,).
    """
    import pyarrow as pa

    documents = [encode_record(record) for record in records]
    columns: dict[str, pa.Array] = {"seq": pa.array(sequence, pa.int64())}
    for name in FIELDS:
        values = [document.get(name, _get_column_default(name)) for document in documents]
        if name in _JSON:
            columns[name] = pa.array([encode_canonical_json(value) for value in values], pa.string())
        elif name == "trials":
            columns[name] = pa.array([[_decode_number(v) for v in value] for value in values], pa.list_(pa.float64()))
        elif name == "warnings":
            columns[name] = pa.array(values, pa.list_(pa.string()))
        elif name in _FLOATS:
            columns[name] = pa.array([_decode_number(value) for value in values], pa.float64())
        else:
            columns[name] = pa.array(values, pa.int64() if name in _INTS else pa.string())
    return pa.table(columns)


def decode_table(table: pa.Table, where: str) -> list[tuple[int, EnergyRecord]]:
    """Read ``(sequence number, record)`` pairs back from :func:`encode_table`'s columns.

    Raises:
        DatasetError: If the columns are not a deepen dataset's.
    """
    if "seq" not in table.column_names:
        raise DatasetError(f"{where}: not a part of a deepen dataset (no column 'seq'); restore the file from a copy")
    rows: list[tuple[int, EnergyRecord]] = []
    for row in table.to_pylist():
        seq = row.pop("seq")
        try:
            row.update({name: json.loads(row[name]) for name in _JSON if name in row})
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{where}: record {seq} is damaged ({error}); restore the file from a copy") from error
        rows.append((int(seq), decode_record(row, f"{where}, record {seq}")))
    return rows
