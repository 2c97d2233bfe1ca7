"""A substitute for IECS, the inference energy consumption score: the sum of inferences per joule.

The formula of IECS (DeepEn2023, SEC 2023) is not public. Its site says that the energy of inference over six
applications and all delegates is summed up and that larger is better; of all the forms tried on the published
figures, the sum over rows of ``1 / energy per inference`` comes closest (correlation 0.94, nearly the same order).
That sum is computed here, under its own name; :func:`compare_with_published` compares it with published values.

Such a sum has two weaknesses: rows of little energy dominate it (one value that is ten times too small can change the
order), and a device with a missing row loses that row's whole share. :mod:`deepen.scoring.relative` has neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deepen.errors import DatasetError
from deepen.robust_statistics import compute_spearman
from deepen.scoring.app_rows import AppTable

__all__ = ["InferencesPerJoule", "ScoreAgreement", "compare_with_published", "sum_inferences_per_joule"]


@dataclass(frozen=True, slots=True)
class InferencesPerJoule:
    """Sum of inferences per joule of one device.

    Attributes:
        device: Device.
        rows: Rows with an energy.
        missing: Rows that other devices have and this one lacks; each of them makes its sum smaller.
        value: Sum over rows of 1 / energy per inference, 1/J.
        largest_share: Share of the sum that comes from its largest row, 0..1.
        largest_row: Workload of that row.
    """

    device: str
    rows: int
    missing: int
    value: float
    largest_share: float
    largest_row: str


@dataclass(frozen=True, slots=True)
class ScoreAgreement:
    """Agreement of the substitute score with published values.

    Attributes:
        devices: Devices compared.
        pearson: Linear correlation; ``nan`` for fewer than three devices or constant values.
        spearman: Rank correlation; ``nan`` likewise.
        ratio_min: Least ratio published / substitute.
        ratio_median: Median ratio.
        ratio_max: Largest ratio.
    """

    devices: int
    pearson: float
    spearman: float
    ratio_min: float
    ratio_median: float
    ratio_max: float


def sum_inferences_per_joule(table: AppTable) -> list[InferencesPerJoule]:
    """Sum inferences per joule over the rows of each device.

    Raises:
        DatasetError: If a device has no row with an energy.
    """
    used = ~np.isnan(table.energy_j).all(axis=0)
    found = []
    for device, row in zip(table.devices, table.energy_j, strict=True):
        known = ~np.isnan(row)
        if not known.any():
            raise DatasetError(f"{device} has no row with an energy; measure some, or leave the device out")
        rates = np.where(known, 1.0 / np.where(known, row, 1.0), 0.0)
        total, largest = float(rates.sum()), int(rates.argmax())
        missing = int(np.count_nonzero(used & ~known))
        share = float(rates[largest]) / total
        found.append(InferencesPerJoule(device, int(known.sum()), missing, total, share, table.workloads[largest]))
    return found


def compare_with_published(scores: Sequence[InferencesPerJoule], published: Mapping[str, float]) -> ScoreAgreement:
    """Compare the substitute with published values of the same devices.

    Raises:
        DatasetError: If no device has both.
    """
    both = [(s.value, published[s.device]) for s in scores if s.device in published]
    if not both:
        raise DatasetError("no device has a published value; check that the names are the same in both files")
    ours, theirs = np.array(both).T
    varied = len(both) >= 3 and float(np.ptp(ours)) > 0 and float(np.ptp(theirs)) > 0
    pearson = float(np.corrcoef(ours, theirs)[0, 1]) if varied else float("nan")
    ratio = theirs / ours
    return ScoreAgreement(
        len(both),
        pearson,
        compute_spearman(ours, theirs) if varied else float("nan"),
        float(ratio.min()),
        float(np.median(ratio)),
        float(ratio.max()),
    )
