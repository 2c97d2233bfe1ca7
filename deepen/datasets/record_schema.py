"""Energy records as JSON documents; the schema is ``datasets/schema.toml`` in words.

Numbers that are not finite are ``null``. Features that follow from a kernel's family and parameters are left out and
computed again on reading (:mod:`deepen.datasets.stored_features`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from deepen.datasets.stored_features import (
    ModelKernelEntry,
    depends_on_version,
    list_underivable_features,
    restore_entries,
    restore_features,
)
from deepen.errors import DatasetError, DeepenError
from deepen.records import RECORD_SCHEMA, EnergyRecord

__all__ = [
    "FIELDS",
    "decode_record",
    "encode_canonical_json",
    "encode_record",
    "hash_record",
]

FIELDS: tuple[str, ...] = tuple(f.name for f in fields(EnergyRecord))
"""Names of a record's fields, in the order of :class:`~deepen.records.EnergyRecord`."""

_TYPES: dict[str, str] = {f.name: str(f.type) for f in fields(EnergyRecord)}
_FLOATS = frozenset(name for name, kind in _TYPES.items() if kind == "float")
_INTS = frozenset(name for name, kind in _TYPES.items() if kind == "int")
_CONTAINERS: dict[str, type] = {
    name: dict if kind.startswith("Mapping") else list if kind.startswith("tuple") else str
    for name, kind in _TYPES.items()
    if name not in _FLOATS | _INTS
}
"""JSON type of the fields that are no numbers."""
_SINCE = {
    "alignment": 2, "budget": 2,
    "serial": 3, "settings": 3, "temperature_before_c": 3, "temperature_max_c": 3, "throttled": 3,
    "inputs": 4,
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


def encode_record(record: EnergyRecord, *, whole: bool = False) -> dict[str, Any]:
    """Make the JSON document of a record: one key per field of :data:`FIELDS` that its schema has.

    Args:
        record: The record.
        whole: Keep features that follow from parameters, too: for other tools.

    Raises:
        DatasetError: If a value cannot be stored, or the record has a schema this deepen does not know.
    """
    if not 1 <= record.schema <= RECORD_SCHEMA:
        raise DatasetError(f"record '{record.name}' has schema {record.schema}; this deepen writes {RECORD_SCHEMA}")
    document = {
        name: _convert_to_json(getattr(record, name))
        for name in FIELDS
        if _SINCE.get(name, 1) <= record.schema and name not in ("features", "kernels")
    }
    for name in _FLOATS & document.keys():
        document[name] = None if document[name] is None else float(document[name])
    document["trials"] = [_convert_to_json(float(value)) for value in record.trials]
    if whole:
        document["features"] = _encode_features(record.features)
        document["kernels"] = _convert_to_json(record.kernels)
        return document
    version = record.features_version
    features = list_underivable_features(record.family, document["params"], record.features, version)
    document["features"] = _encode_features(features)
    document["kernels"] = [_encode_kernel(part, version) for part in record.kernels]
    stored = [features, *(part.get("features", {}) for part in document["kernels"])]
    document["features_version"] = version if any(map(depends_on_version, stored)) else 0
    return document


def _encode_kernel(part: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Make the JSON of a model's kernel; its features only where they do not follow from the rest."""
    document: dict[str, Any] = _convert_to_json({name: value for name, value in part.items() if name != "features"})
    features = part.underivable if isinstance(part, ModelKernelEntry) else None
    if features is None:
        features = list_underivable_features(
            document.get("family", ""), document.get("params", {}), part.get("features", {}), version
        )
        if isinstance(part, ModelKernelEntry):
            part.underivable = features
    return document | {"features": _encode_features(features)} if features else document


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
    odd = [name for name, value in values.items() if not isinstance(value, _CONTAINERS.get(name, object))]
    if odd:
        raise DatasetError(
            f"{where}: not a deepen record ({odd[0]} is no {_CONTAINERS[odd[0]].__name__}); restore the file"
        )
    try:
        for name in _FLOATS & values.keys():
            values[name] = _decode_number(values[name])
        for name in _INTS & values.keys():
            values[name] = int(values[name])
        values["trials"] = tuple(_decode_number(value) for value in values["trials"])
        for name in ("kernels", "rejected", "warnings", "throttled"):
            values[name] = tuple(values.get(name, ()))
        version = values.get("features_version", 0)
        stored = {name: _decode_number(value) for name, value in values.get("features", {}).items()}
        if values["kernels"]:
            values["kernels"], version = restore_entries(values["kernels"], version, where)
        if values.get("kind") == "kernel":
            stored, version = restore_features(values.get("family", ""), values.get("params", {}), stored, version)
        return EnergyRecord(**{**values, "features": stored, "features_version": version})
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, DeepenError) as error:
        raise DatasetError(f"{where}: not a deepen record ({error}); restore the file from a copy") from error
