"""Tables on disk: a folder with ``rows.parquet`` and ``table.json``; no code in either."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from deepen.errors import DatasetError
from deepen.extras import require_packages
from deepen.search.table.table import BenchmarkTable
from deepen.search.table.types import KEYS, TableManifest
from deepen.storage.atomic import make_folder, write_file_atomically

__all__ = ["read_table", "write_table"]

MANIFEST = "table.json"
ROWS = "rows.parquet"


def write_table(table: BenchmarkTable, folder: str | Path) -> Path:
    """Write a table. An existing table is replaced; a folder with other contents is refused.

    Args:
        table: The table.
        folder: Its folder.

    Returns:
        The folder.

    Raises:
        DatasetError: If the folder holds something else.
        StorageError: If the disk refuses.
    """
    require_packages("a table", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(folder)
    if path.is_dir() and not (path / MANIFEST).exists() and any(path.iterdir()):
        raise DatasetError(f"{path}: holds files that are no table; name a new folder")
    make_folder(path)
    arrays = {k: pa.array(v.tolist() if v.dtype == object else v) for k, v in {**table.keys, **table.data}.items()}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays), sink, compression="zstd")
    rows = sink.getvalue().to_pybytes()
    document = table.manifest.to_json() | {"rows": len(table), "sha256": hashlib.sha256(rows).hexdigest()}
    # The rows first: a process that ends in between leaves a sum that does not fit, which is refused.
    write_file_atomically(path / ROWS, rows)
    write_file_atomically(
        path / MANIFEST, (json.dumps(_convert_to_json_values(document), indent=1, ensure_ascii=False) + "\n").encode()
    )
    return path


def _convert_to_json_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _convert_to_json_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_convert_to_json_values(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def read_table(folder: str | Path) -> BenchmarkTable:
    """Read a table.

    Raises:
        DatasetError: If there is none, or it is damaged or of a newer deepen.
    """
    require_packages("a table", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(folder)
    if not (path / MANIFEST).is_file():
        raise DatasetError(f"{path}: no table here; make one with 'deepen table build' or 'deepen table import'")
    try:
        document = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        rows = (path / ROWS).read_bytes()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); fetch or build the table again") from error
    manifest = TableManifest.from_json(document, str(path / MANIFEST))
    if hashlib.sha256(rows).hexdigest() != document.get("sha256"):
        raise DatasetError(f"{path / ROWS}: does not fit {MANIFEST} (SHA-256); fetch or build the table again")
    try:
        read = pq.read_table(pa.BufferReader(rows))
        columns = {name: read[name] for name in read.column_names}
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise DatasetError(f"{path / ROWS}: not readable ({error}); fetch or build the table again") from error
    keys = {k: _convert_column_to_array(v) for k, v in columns.items() if k in KEYS}
    return BenchmarkTable(manifest, keys, {k: _convert_column_to_array(v) for k, v in columns.items() if k not in KEYS})


def _convert_column_to_array(column: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return column.to_numpy()
