"""Datasets: energy records in a folder that survives crashes, their quality, and their division.

``store`` keeps the records (``card``, ``parts``, ``journal`` and ``disk`` are its pieces, ``encode`` their form),
``export`` writes them for other tools, ``quality`` says what looks wrong, ``split`` divides them for training.
"""

from __future__ import annotations

from deepen.datasets.card import Card
from deepen.datasets.export import export
from deepen.datasets.store import Dataset, read_dataset

__all__ = ["Card", "Dataset", "export", "read_dataset"]
