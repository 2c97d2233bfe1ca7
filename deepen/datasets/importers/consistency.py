"""Energy, latency and power of one row against each other: unit slips, zeros, and values that do not fit.

Energy is power times latency. Where all three are given, each as written to some step, the product must lie within what
the steps allow. A factor of 1000 between the two sides is a unit slip, and so is a power 1000 times that of the
family; whose it is follows from which value, put right, agrees with the rest of its family. What cannot be decided is
not repaired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from deepen.datasets.statistics import compute_log_log_residuals

__all__ = ["ConsistencyResult", "ConsistencyRow", "check_consistency"]

SLIP = 1000.0
MARGIN = 0.005
"""Share by which energy may differ from power times latency beyond what the steps explain (mean of products against
product of means)."""

SLIP_MARGIN = 0.05
"""The same for a product that is off by a factor of 1000: more differs there, because digits were lost."""

PLAUSIBLE = 30.0
"""Times the family's median power (or one over it) beyond which a power is not believed."""

MIN_TREND = 8
"""Rows of a family with work below which their trend decides nothing."""

TREND_FACTOR = 10.0
"""Times its family's trend beyond which a value is far from it."""


@dataclass(frozen=True, slots=True)
class ConsistencyRow:
    """One row.

    Attributes:
        id: Name in the source.
        energy_j: Energy per inference.
        latency_s: Wall time per inference; ``nan`` where not given.
        power_w: Mean power; ``nan`` where not given.
        energy_step_j: Step of the energy column.
        latency_step_s: Step of the latency column.
        written_s: Step this latency itself is written to: that of a row in another unit may be its own.
        work: Multiply-accumulates, operations and bytes; empty where the configuration is not known.
    """

    id: str
    energy_j: float
    latency_s: float
    power_w: float
    energy_step_j: float
    latency_step_s: float
    latency_resolution_s: float = 0.0
    work: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ConsistencyResult:
    """Verdict on a row: kept, repaired or rejected, with the reason.

    Attributes:
        row: The row, repaired.
        repair: Description of the repair; empty if none was needed.
        reject: Reason for rejecting the row; empty if it is usable.
    """

    row: ConsistencyRow
    repair: str = ""
    reject: str = ""


def check_consistency(rows: Sequence[ConsistencyRow]) -> list[ConsistencyResult]:
    """Judge the rows of one family.

    Args:
        rows: The rows.

    Returns:
        A verdict for each, in order.
    """
    sound = [row for row in rows if _is_energy_consistent(row, 1.0, MARGIN)]
    power = float(np.median([row.power_w for row in sound])) if sound else math.nan
    return [_check_row(row, power, sound) for row in rows]


def _check_row(row: ConsistencyRow, power_w: float, sound: Sequence[ConsistencyRow]) -> ConsistencyResult:
    if not (math.isfinite(row.energy_j) and row.energy_j > 0):
        return ConsistencyResult(row, reject=f"energy is {row.energy_j:g}, not a positive number")
    if math.isnan(row.latency_s) or math.isnan(row.power_w):
        return ConsistencyResult(row)
    if row.power_w <= 0 or not math.isfinite(row.power_w):
        return ConsistencyResult(replace(row, power_w=math.nan), repair=f"power is {row.power_w:g}: not used")
    if row.latency_s < 0 or math.isinf(row.latency_s):
        return ConsistencyResult(row, reject=f"latency is {row.latency_s:g} s")
    if row.latency_s == 0:
        latency_s = row.energy_j / row.power_w
        if latency_s > 1.01 * row.latency_step_s:
            text = f"latency is 0 although energy over power is {latency_s * 1e3:.4g} ms: taken from those"
        else:
            text = f"latency is 0, below its step of {row.latency_step_s * 1e3:g} ms: taken as energy over power"
        return ConsistencyResult(replace(row, latency_s=latency_s), repair=text)
    if _is_energy_consistent(row, 1.0, MARGIN):
        return _check_power_level(row, power_w, sound)
    ratio = row.power_w * row.latency_s / row.energy_j
    loose = replace(row, latency_step_s=max(row.latency_step_s, row.latency_resolution_s))
    for slip in (SLIP, 1 / SLIP):
        if _is_energy_consistent(loose, slip, SLIP_MARGIN):
            return _resolve_unit_slip(row, slip, ratio, power_w, sound)
    return _check_mismatch(row, ratio, power_w)


def _is_energy_consistent(row: ConsistencyRow, factor: float, margin: float) -> bool:
    """Return whether power times latency equals ``factor`` times the energy within the rounding steps."""
    if not (row.energy_j > 0 and row.latency_s > 0 and row.power_w > 0):
        return False
    low = row.power_w * max(row.latency_s - row.latency_step_s / 2, 0.0) / (row.energy_j + row.energy_step_j / 2)
    high = row.power_w * (row.latency_s + row.latency_step_s / 2) / max(row.energy_j - row.energy_step_j / 2, 1e-300)
    return low / (1 + margin) <= factor <= high * (1 + margin)


def _check_power_level(row: ConsistencyRow, power_w: float, sound: Sequence[ConsistencyRow]) -> ConsistencyResult:
    """A row that fits in itself, at a power that is perhaps no power of this device."""
    if not math.isfinite(power_w) or 1 / PLAUSIBLE <= row.power_w / power_w <= PLAUSIBLE:
        return ConsistencyResult(row)
    head = f"power is {row.power_w:.4g} W, {row.power_w / power_w:.3g} times the median of its family"
    slip = SLIP if row.power_w > power_w else 1 / SLIP
    if not 1 / PLAUSIBLE <= row.power_w / slip / power_w <= PLAUSIBLE:
        return ConsistencyResult(row, reject=f"{head}, and no unit slip explains it")
    others = [r for r in sound if r is not row]
    energy_off = _is_off_trend(row, others, "energy_j", 1 / slip)
    latency_off = _is_off_trend(row, others, "latency_s", slip)
    if energy_off and not latency_off:
        fixed = replace(row, energy_j=row.energy_j / slip, power_w=row.power_w / slip)
        text = f"{head}, and so is the energy of its work: power {row.power_w:.4g} W taken as {fixed.power_w:.4g} W, "
        return ConsistencyResult(fixed, repair=text + f"energy {row.energy_j:.4g} J as {fixed.energy_j:.4g} J")
    if latency_off and not energy_off:
        fixed = replace(row, latency_s=row.latency_s * slip, power_w=row.power_w / slip)
        text = (
            f"{head}, and the latency is far from its family's: {row.latency_s:.4g} s taken as {fixed.latency_s:.4g} s"
        )
        return ConsistencyResult(fixed, repair=text)
    return ConsistencyResult(row, reject=f"{head}: a unit slip, but nothing tells whose")


def _resolve_unit_slip(
    row: ConsistencyRow, slip: float, ratio: float, power_w: float, sound: Sequence[ConsistencyRow]
) -> ConsistencyResult:
    """Decide whose a factor of 1000 is."""
    head = f"power x latency is {ratio:.4g} times the energy"
    if math.isnan(power_w):
        return ConsistencyResult(row, reject=f"{head}: a unit slip, but no other row tells whose")
    if not 1 / PLAUSIBLE <= row.power_w / power_w <= PLAUSIBLE:
        put_right = row.energy_j / row.latency_s
        if 1 / PLAUSIBLE <= put_right / power_w <= PLAUSIBLE:
            way = "divided" if slip > 1 else "multiplied"
            text = f"{head}: power {way} by 1000, {put_right:.4g} W"
            return ConsistencyResult(replace(row, power_w=put_right), repair=text)
        return ConsistencyResult(row, reject=f"{head}, and no single unit slip explains it")
    energy_off = _is_off_trend(row, sound, "energy_j", slip)
    latency_off = _is_off_trend(row, sound, "latency_s", 1 / slip)
    if energy_off and not latency_off:
        energy_j = row.power_w * row.latency_s
        text = f"{head}, and the energy is far from its family's: {row.energy_j:.4g} J taken as {energy_j:.4g} J"
        return ConsistencyResult(replace(row, energy_j=energy_j), repair=text)
    if energy_off and latency_off:
        return ConsistencyResult(row, reject=f"{head}, and both energy and latency are far from their family's")
    if row.work and not latency_off and len([r for r in sound if r.work]) >= MIN_TREND:
        return ConsistencyResult(
            row, reject=f"{head}: a unit slip, but neither energy nor latency is far from its family's"
        )
    latency_s = row.energy_j / row.power_w
    unit = "seconds for milliseconds" if slip < 1 else "microseconds for milliseconds"
    text = f"{head}: latency in {unit}, {row.latency_s * 1e3:.4g} ms taken as {latency_s * 1e3:.4g} ms"
    return ConsistencyResult(replace(row, latency_s=latency_s), repair=text)


def _is_off_trend(row: ConsistencyRow, sound: Sequence[ConsistencyRow], field: str, slip: float) -> bool:
    """Return whether a value is off its family's power law in work by about ``1 / slip``; false if undecidable."""
    known = [r for r in sound if r.work and r.latency_s > 0]
    if not row.work or len(known) < MIN_TREND:
        return False
    rows = [*known, row]
    values = np.array([getattr(r, field) for r in rows])
    residual = float(compute_log_log_residuals(values, np.array([r.work for r in rows]))[-1])
    return abs(residual + math.log(slip)) < math.log(TREND_FACTOR)


def _check_mismatch(row: ConsistencyRow, ratio: float, power_w: float) -> ConsistencyResult:
    """A row whose three values do not fit, by no unit slip."""
    implied = row.energy_j / row.latency_s
    text = f"power x latency is {ratio:.4g} times the energy"
    if math.isfinite(power_w) and not 1 / PLAUSIBLE <= implied / power_w <= PLAUSIBLE:
        for slip in (SLIP, 1 / SLIP):
            if 1 / PLAUSIBLE <= implied / slip / power_w <= PLAUSIBLE:
                text += (
                    f"; with a latency {slip:g} times as long the power is {implied / slip:.3g} W, which does not fit"
                )
                return ConsistencyResult(row, reject=text + f" the {row.power_w:.3g} W stated")
        return ConsistencyResult(row, reject=f"{text}, and energy over latency is {implied:.3g} W")
    if (
        1 / 1.25 <= ratio <= 1.25
    ):  # the energy and the latency are plausible; nothing says which of them is a little off
        return ConsistencyResult(row)
    return ConsistencyResult(row, reject=f"{text}: one of the three is wrong, and nothing tells which")
