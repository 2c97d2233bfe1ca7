"""PCS, the power consumption score: the margin between a device's mean power and its rated power.

``PCS = round(100 * mean over rows of (1 - mean power / TDP))``, larger is better. The formula was inferred from the
figures on the DeepEn2023 site (SEC 2023, amai-gsu.github.io/DeepEn2023): it gives all eight published values, but only
if the TDPs, listed in alphabetical order of the phones' names, are assigned to the phones in the order of the table.
So six of the eight phones were scored with another phone's TDP. :func:`compute_pcs` computes both.

The score rewards a large TDP, which is a property of the chip's data sheet and not of its consumption; it is below 0
for a device that draws more than its TDP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from deepen.errors import ConfigError, DatasetError
from deepen.scoring.app_rows import AppTable
from deepen.tables import read_csv_rows

__all__ = [
    "DeviceReferenceValues",
    "PcsScore",
    "TdpOrder",
    "assign_tdp_as_published",
    "compute_pcs",
    "read_device_reference_values",
]

TdpOrder = Literal["own", "published"]
"""Each device with its own TDP (``own``), or with the one that the published scores used (``published``)."""

_TDP = ("tdp_w", "tdp_w_printed")
_DEVICE = ("device", "phone")


@dataclass(frozen=True, slots=True)
class DeviceReferenceValues:
    """Published reference values of devices, beside the measurements.

    Attributes:
        tdp_w: Device -> rated power (thermal design power), watts, in the order of the file.
        pcs: Device -> published PCS; empty where none is published.
        iecs: Device -> published IECS; empty where none is published.
    """

    tdp_w: Mapping[str, float]
    pcs: Mapping[str, float]
    iecs: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PcsScore:
    """PCS of one device.

    Attributes:
        device: Device.
        rows: Rows with a power.
        mean_power_w: Mean power over them, watts.
        tdp_w: The device's own TDP, watts.
        published_tdp_w: The TDP that the published order assigns to it, watts.
        exact: Score with the own TDP, not rounded.
        own: Score with the own TDP.
        published_order: Score with the TDP of the published order.
    """

    device: str
    rows: int
    mean_power_w: float
    tdp_w: float
    published_tdp_w: float
    exact: float
    own: int
    published_order: int

    def score(self, order: TdpOrder) -> int:
        """Return the score for one of the orders."""
        return self.own if order == "own" else self.published_order


def read_device_reference_values(path: str | Path, need_tdp: bool = True) -> DeviceReferenceValues:
    """Read TDPs, and published scores if there are any, from a CSV file.

    Columns: ``device`` (or ``phone``), ``tdp_w`` (or ``tdp_w_printed``), ``pcs_published``, ``iecs_published``.

    Args:
        path: The file.
        need_tdp: Whether every device must have a TDP.

    Raises:
        ConfigError: If there is no such file.
        DatasetError: If a column is missing, or a figure is not a number above zero.
    """
    file = Path(path)
    columns, lines = read_csv_rows(file)
    device = next((c for c in _DEVICE if c in columns), None)
    tdp = next((c for c in _TDP if c in columns), None)
    if device is None or (need_tdp and tdp is None):
        what = "device (or phone)" if device is None else "tdp_w"
        raise DatasetError(f"{file}: no column {what}; there are: {', '.join(columns)}")
    found: dict[str, dict[str, float]] = {"tdp": {}, "pcs_published": {}, "iecs_published": {}}
    seen: set[str] = set()
    for number, line in lines:
        name = line[device]
        if not name or name in seen:
            raise DatasetError(
                f"{file} line {number}: {'device ' + name + ' again' if name else 'no device'}; correct it"
            )
        seen.add(name)
        for key, column in (("tdp", tdp), ("pcs_published", "pcs_published"), ("iecs_published", "iecs_published")):
            text = line.get(column, "") if column else ""
            if not text and not (key == "tdp" and need_tdp):
                continue
            found[key][name] = _parse_number(text, f"{file} line {number}: {column}", above_zero=key == "tdp")
    return DeviceReferenceValues(found["tdp"], found["pcs_published"], found["iecs_published"])


def _parse_number(text: str, where: str, above_zero: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (above_zero and value <= 0):
        raise DatasetError(f"{where} is '{text}'; write a number{' above zero' if above_zero else ''}")
    return value


def assign_tdp_as_published(devices: Sequence[str], tdp_w: Mapping[str, float]) -> dict[str, float]:
    """Assign TDPs as the published scores did: in alphabetical order of the names, to the devices in table order.

    Args:
        devices: Devices in table order.
        tdp_w: Their own TDPs.
    """
    return dict(zip(devices, (tdp_w[d] for d in sorted(devices)), strict=True))


def compute_pcs(table: AppTable, tdp_w: Mapping[str, float]) -> list[PcsScore]:
    """Score devices by mean power over TDP.

    Args:
        table: Rows of all devices; rows without a power do not count.
        tdp_w: Device -> TDP, watts; devices without rows are ignored.

    Raises:
        ConfigError: If a device has no TDP, with the names.
        DatasetError: If a device has no row with a power.
    """
    lacking = [d for d in table.devices if d not in tdp_w]
    if lacking:
        raise ConfigError(
            f"no TDP for {', '.join(lacking)}; add them to the file of --tdp (names as in the measurements)"
        )
    # The order of the TDP file is that of the published table; devices without rows are left out of it.
    listed = [d for d in tdp_w if d in set(table.devices)]
    assigned = assign_tdp_as_published(listed, tdp_w)
    scores = []
    for device, row in zip(table.devices, table.power_w, strict=True):
        known = row[~np.isnan(row)]
        if not known.size:
            raise DatasetError(f"{device} has no row with a mean power; measure some, or leave the device out")
        mean_w = float(known.mean())
        own, other = tdp_w[device], assigned[device]
        exact = 100 * (1 - mean_w / own)
        scores.append(
            PcsScore(
                device,
                known.size,
                mean_w,
                own,
                other,
                exact,
                _round_half_up(exact),
                _round_half_up(100 * (1 - mean_w / other)),
            )
        )
    return scores


def _round_half_up(value: float) -> int:
    """Round half up, as a spreadsheet does."""
    return math.floor(value + 0.5)
