"""Scores of devices, and the energy of models over their whole life.

``app_rows`` reads measurements of applications; ``pcs`` and ``iecs`` are the published scores, ``relative`` is our own;
``lifecycle`` ranks models by the energy of training and use together.
"""

from __future__ import annotations

from deepen.scoring.app_rows import AppRow, AppTable, read_app_rows
from deepen.scoring.iecs import against_published, inferences_per_joule
from deepen.scoring.pcs import pcs, read_device_facts
from deepen.scoring.relative import relative_scores

__all__ = [
    "AppRow",
    "AppTable",
    "against_published",
    "inferences_per_joule",
    "pcs",
    "read_app_rows",
    "read_device_facts",
    "relative_scores",
]
