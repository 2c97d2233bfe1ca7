"""Importers: energy that others measured, as a dataset like any other.

An importer reads the files of one source as they are published and turns them into energy records: kernels by family
and parameters, whole models by their kernels. It repairs only what is certain and says so, row by row.

Adding one is a module with a function ``read(folder) -> Imported`` and a line in :data:`IMPORTERS`.
"""

from __future__ import annotations

from deepen.datasets.importers.base import ImportNote, ImportResult
from deepen.datasets.importers.registry import IMPORTERS, Importer, get_importer, import_dataset

__all__ = ["IMPORTERS", "ImportNote", "ImportResult", "Importer", "get_importer", "import_dataset"]
