"""Scores of devices, and the energy of models over their whole life.

``app_rows`` reads measurements of applications; ``pcs`` and ``iecs`` are the published scores, ``relative`` is our own;
``lifecycle`` ranks models by the energy of training and use together.
"""

from __future__ import annotations

from deepen.scoring.app_rows import AppRow, AppTable, read_app_rows
from deepen.scoring.iecs import compare_with_published, sum_inferences_per_joule
from deepen.scoring.pcs import compute_pcs, read_device_reference_values
from deepen.scoring.relative import compute_relative_scores

__all__ = [
    "AppRow",
    "AppTable",
    "compare_with_published",
    "compute_pcs",
    "compute_relative_scores",
    "read_app_rows",
    "read_device_reference_values",
    "sum_inferences_per_joule",
]
