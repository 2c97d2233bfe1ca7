"""Datasets: energy records in one SQLite file that survives crashes, their quality, and their division.

``store`` keeps the records (``database`` is the file, ``record_schema`` and ``stored_features`` their form, ``card``
their summary), ``export`` writes them for other tools, ``quality`` says what looks wrong, ``train_test_split`` divides
them for training.
"""

from __future__ import annotations

from deepen.datasets.card import DatasetCard
from deepen.datasets.export import export_records
from deepen.datasets.store import Dataset, read_dataset

__all__ = ["Dataset", "DatasetCard", "export_records", "read_dataset"]
