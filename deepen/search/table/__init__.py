"""Tables of networks with energy as a column: made by prediction, imported, stored, read."""

from __future__ import annotations

from deepen.search.table.build import build_table
from deepen.search.table.importing import import_table, join_tables
from deepen.search.table.store import read_table, write_table
from deepen.search.table.table import BenchmarkTable
from deepen.search.table.types import TableColumn, TableManifest

__all__ = [
    "BenchmarkTable",
    "TableColumn",
    "TableManifest",
    "build_table",
    "import_table",
    "join_tables",
    "read_table",
    "write_table",
]
