"""Datasets: energy records in a folder that survives crashes, their quality, and their division.

``store`` keeps the records (``card``, ``parts``, ``journal`` and ``disk`` are its pieces, ``encode`` their form),
``export_records`` writes them for other tools, ``quality`` says what looks wrong, ``split`` divides them for training.
"""

from __future__ import annotations

from deepen.datasets.card import DatasetCard
from deepen.datasets.export import export_records
from deepen.datasets.store import Dataset, read_dataset

__all__ = ["Dataset", "DatasetCard", "export_records", "read_dataset"]
