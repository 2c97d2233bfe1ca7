"""The predictor file ``NAME.deepen``: a zip of one JSON card and plain arrays, nothing that can execute.

Members: ``card.json`` and ``<array>.npy`` for each name of :data:`ARRAYS`, no others. Reading trusts nothing: members,
declared and real sizes, data types, shapes and every tree index are checked before use.
"""

from __future__ import annotations

import ast
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError
from deepen.predictors.inference.family_regressors import PredictorParameters
from deepen.predictors.inference.tree_ensemble import TreeEnsemble, validate_trees
from deepen.storage.atomic import make_storage_error, write_file_atomically

__all__ = ["ARRAYS", "FORMAT_VERSION", "MAX_BYTES", "read_predictor_file", "write_predictor_file"]

FORMAT_VERSION = 3
"""Rises with any change to the arrays or to the columns they are over (3: operands of products, work of loops)."""
MAX_BYTES = 10_000_000
"""Greatest size of a predictor file."""

_CARD = "card.json"
_MAX_CARD = 2_000_000
_MAX_ARRAYS = 64_000_000
_NPY_PREFIX = 10
_MAX_HEADER = 1000
_EPOCH = (1980, 1, 1, 0, 0, 0)

ARRAYS: Mapping[str, tuple[str, str]] = {
    "regressor": ("|b1", "F"),
    "work": ("<f8", "PT"),
    "half_width": ("<f8", "P"),
    "trend_mean": ("<f8", "FD"),
    "trend_scale": ("<f8", "FD"),
    "trend_coefficient": ("<f8", "FD"),
    "trend_intercept": ("<f8", "F"),
    "trend_share": ("<f8", "F"),
    "trend_low": ("<f8", "F"),
    "trend_high": ("<f8", "F"),
    "constant": ("<f8", "F"),
    "hand_over": ("<f8", "F"),
    "range_low": ("<f4", "FD"),
    "range_high": ("<f4", "FD"),
    "tree_start": ("<i4", "P"),
    "gaussian_x": ("<f4", "GD"),
    "gaussian_alpha": ("<f8", "G"),
    "gaussian_start": ("<i4", "P"),
    "gaussian_inverse_length": ("<f8", "FD"),
    "forest_feature": ("<i2", "N"),
    "forest_threshold": ("<f4", "N"),
    "forest_left": ("<i4", "N"),
    "forest_right": ("<i4", "N"),
    "forest_value": ("<f4", "N"),
    "forest_roots": ("<i4", "R"),
}
"""Array name -> (data type, dimensions): F families, P = F + 1, D columns, T work terms, G rows, N nodes, R trees."""


def write_predictor_file(path: Path, card: Mapping[str, Any], parameters: PredictorParameters) -> None:
    """Write a predictor file; the file appears whole or not at all.

    Raises:
        PredictorError: If it would be larger than :data:`MAX_BYTES`.
        StorageError: If the disk refuses.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        text = json.dumps(card, indent=1, sort_keys=True, allow_nan=False)
        archive.writestr(_make_zip_info(_CARD), text, zipfile.ZIP_DEFLATED)
        for name, (dtype, _) in ARRAYS.items():
            payload = io.BytesIO()
            np.lib.format.write_array(
                payload, np.ascontiguousarray(_get_array(parameters, name), dtype), allow_pickle=False
            )
            archive.writestr(_make_zip_info(f"{name}.npy"), payload.getvalue(), zipfile.ZIP_DEFLATED)
    content = buffer.getvalue()
    if len(content) > MAX_BYTES:
        raise PredictorError(
            f"the predictor would take {len(content) / 1e6:.1f} MB (limit {MAX_BYTES / 1e6:.0f}); "
            "lower max_nodes in the recipe"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise make_storage_error("write the predictor", path, error) from error
    write_file_atomically(path, content)


def read_predictor_file(path: Path) -> tuple[dict[str, Any], PredictorParameters]:
    """Read and check a predictor file.

    Raises:
        PredictorError: If it is missing, not a predictor, damaged, or made by a newer version.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise PredictorError(f"{path}: {size} bytes is more than a predictor may have ({MAX_BYTES})")
        with zipfile.ZipFile(path) as archive:
            members = _list_members(path, archive)
            card = _read_card(path, archive, members)
            arrays = {
                name: _read_array(path, archive, members[f"{name}.npy"], dtype) for name, (dtype, _) in ARRAYS.items()
            }
    except FileNotFoundError:
        raise PredictorError(f"{path}: no such file; see 'deepen predictor list'") from None
    except OSError as error:
        raise PredictorError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise PredictorError(
            f"{path}: not a predictor file, or a damaged one ({error}); get or train it again"
        ) from error
    parameters = _assemble_parameters(path, card, arrays)
    return card, parameters


def _make_zip_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    return info


def _get_array(parameters: PredictorParameters, name: str) -> NDArray[Any]:
    owner, attribute = (parameters.forest, name[7:]) if name.startswith("forest_") else (parameters, name)
    array: NDArray[Any] = getattr(owner, attribute)
    return array


def _list_members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    expected = {_CARD, *(f"{name}.npy" for name in ARRAYS)}
    infos = archive.infolist()
    names = [i.filename for i in infos]
    if _CARD not in names:
        raise PredictorError(f"{path}: not a predictor file (it has no card)")
    if sorted(names) != sorted(expected):
        # A newer format may hold other members; its card says so.
        _check_version(path, _read_card(path, archive, {i.filename: i for i in infos}))
        odd = sorted(set(names) ^ expected) or sorted(names)
        raise PredictorError(f"{path}: not a predictor file: unexpected or missing member '{odd[0]}'")
    if sum(i.file_size for i in infos) > _MAX_ARRAYS:
        raise PredictorError(f"{path}: unpacks to more than {_MAX_ARRAYS} bytes; refused")
    return {i.filename: i for i in infos}


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    with archive.open(info) as stream:
        content = stream.read(min(info.file_size, limit) + 1)
    if len(content) > limit or len(content) != info.file_size:
        raise PredictorError(f"{path}: member '{info.filename}' is not as large as it says; refused")
    return content


def _read_card(path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> dict[str, Any]:
    try:
        card = json.loads(_read_member(path, archive, members[_CARD], _MAX_CARD))
    except (ValueError, RecursionError) as error:
        raise PredictorError(f"{path}: the card is not JSON ({error})") from error
    if not isinstance(card, dict) or card.get("format") != "deepen-predictor":
        raise PredictorError(f"{path}: not a predictor file (its card says so)")
    _check_version(path, card)
    return card


def _check_version(path: Path, card: Mapping[str, Any]) -> None:
    version = card.get("format_version")
    if version != FORMAT_VERSION:
        raise PredictorError(
            f"{path}: predictor format {version}, this deepen reads {FORMAT_VERSION}; upgrade deepen or train again"
        )


def _read_array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, dtype: str) -> NDArray[Any]:
    """Parse a ``.npy`` member (format 1.0) of exactly this data type whose size agrees with its header."""
    content = _read_member(path, archive, info, _MAX_ARRAYS)
    start = _NPY_PREFIX + int.from_bytes(content[8:_NPY_PREFIX], "little")
    try:
        if not content.startswith(b"\x93NUMPY\x01\x00") or start > _NPY_PREFIX + _MAX_HEADER:
            raise ValueError("no array of format 1.0")
        header = ast.literal_eval(content[_NPY_PREFIX:start].decode("ascii").strip())
        found, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
        count = 1
        for n in shape:
            if type(n) is not int or n < 0:
                raise ValueError("a size is not a number")
            count *= n
    except (ValueError, SyntaxError, TypeError, LookupError, RecursionError, MemoryError) as error:
        raise PredictorError(f"{path}: array '{info.filename}' has a broken header") from error
    if found != dtype or fortran is not False:
        raise PredictorError(f"{path}: array '{info.filename}' must be {dtype} in rows, not {found!s:.20}")
    if count * np.dtype(dtype).itemsize != len(content) - start:
        raise PredictorError(f"{path}: array '{info.filename}' is not as large as its header says")
    return np.frombuffer(content, dtype=dtype, count=count, offset=start).reshape(shape)


def _assemble_parameters(
    path: Path, card: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> PredictorParameters:
    names, features = card.get("families"), card.get("feature_names")
    if not isinstance(names, dict) or not (
        isinstance(features, list) and features and all(isinstance(f, str) for f in features)
    ):
        raise PredictorError(f"{path}: the card lacks families or feature names")
    sizes: dict[str, int] = {"F": len(names), "P": len(names) + 1}
    for name, (_, dimensions) in ARRAYS.items():
        shape = arrays[name].shape
        if len(shape) != len(dimensions) or any(
            sizes.setdefault(d, n) != n for d, n in zip(dimensions, shape, strict=False)
        ):
            raise PredictorError(f"{path}: array '{name}' has shape {shape}, which does not fit the others")
    forest = TreeEnsemble(**{k[7:]: v for k, v in arrays.items() if k.startswith("forest_")})
    parameters = PredictorParameters(
        families=tuple(sorted(names)),
        feature_names=tuple(features),
        forest=forest,
        **{k: v for k, v in arrays.items() if not k.startswith("forest_")},
    )
    try:
        _check_values(parameters, sizes, arrays)
    except PredictorError as error:
        raise PredictorError(f"{path}: {error}") from error
    return parameters


def _check_values(p: PredictorParameters, sizes: Mapping[str, int], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Ranges that the evaluator relies on."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise PredictorError(f"array '{name}' has values that are not finite")
    if sizes["D"] != p.column_count:
        raise PredictorError(f"{sizes['D']} columns do not fit {len(p.feature_names)} features")
    if (p.work < 0).any() or (p.half_width < 0).any() or (p.trend_scale <= 0).any():
        raise PredictorError("work, half-width or scale out of range")
    for name, start, total in (("tree", p.tree_start, sizes["R"]), ("gaussian", p.gaussian_start, sizes["G"])):
        if int(start[0]) != 0 or int(start[-1]) != total or bool(np.any(np.diff(start) < 0)):
            raise PredictorError(f"the {name} ranges of the families do not add up")
    validate_trees(p.forest, sizes["D"])
