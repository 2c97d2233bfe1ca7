"""Tables of networks with energy as a column: made by prediction, imported, stored, read."""

from __future__ import annotations

from deepen.search.table.build import build_table
from deepen.search.table.importing import import_table, join
from deepen.search.table.store import read_table, write_table
from deepen.search.table.table import Table
from deepen.search.table.types import Column, Manifest

__all__ = ["Column", "Manifest", "Table", "build_table", "import_table", "join", "read_table", "write_table"]
