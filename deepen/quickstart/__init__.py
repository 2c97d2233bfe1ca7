"""The main task from end to end on one machine: measure kernels, train, predict unseen models, measure them.

All results are in one folder, from which a run can be resumed: ``kernels/`` (dataset of kernels and calibration
networks), ``models/`` (dataset of the measured models), ``quickstart.deepen`` (the predictor) and ``result.json``.
"""

from __future__ import annotations

from deepen.quickstart.results import (
    ModelResult,
    QuickstartOptions,
    QuickstartProgress,
    QuickstartResult,
    make_result_document,
)
from deepen.quickstart.run import run_quickstart
from deepen.quickstart.targets import list_reference_models

__all__ = [
    "ModelResult",
    "QuickstartOptions",
    "QuickstartProgress",
    "QuickstartResult",
    "list_reference_models",
    "make_result_document",
    "run_quickstart",
]
