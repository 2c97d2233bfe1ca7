"""Checks energy, latency and power of a row against each other: unit slips, zeros, and contradictions.

Energy is power times latency. If all three are given, they must agree within their rounding steps. A factor of 1000
between the two sides is a unit slip, and so is a power 1000 times that of the family. The slip is attributed to the
value that agrees with the rest of its family once it is corrected; if that is undecidable, nothing is repaired.
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
"""Share by which energy may differ from power times latency beyond the rounding steps (the mean of products is not the
product of means)."""

SLIP_MARGIN = 0.05
"""The same for a product that is off by a factor of 1000: more is allowed, because digits were lost."""

PLAUSIBLE = 30.0
"""Largest plausible ratio of a power to its family's median, in either direction."""

MIN_TREND = 8
"""Fewest rows of a family with known work from which a trend is inferred."""

TREND_FACTOR = 10.0
"""Largest ratio of a value to its family's trend, in either direction, at which it still follows the trend."""


@dataclass(frozen=True, slots=True)
class ConsistencyRow:
    """One row.

    Attributes:
        id: Name in the source.
        energy_j: Energy per inference.
        latency_s: Wall time per inference; ``nan`` if not given.
        power_w: Mean power; ``nan`` if not given.
        energy_step_j: Rounding step of the energy column.
        latency_step_s: Rounding step of the latency column.
        latency_resolution_s: Rounding step of this latency itself; it may differ in a row that is in another unit.
        work: Multiply-accumulates, operations and bytes; empty if the configuration is not known.
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
    """Judge one row.

    1. The energy must be a positive number.
    2. Without latency or power, there is nothing to compare.
    3. A power that is not a positive number is removed; a negative or infinite latency is an error.
    4. A latency of 0 is replaced by energy over power.
    5. If the three values agree, the power must be plausible for the family.
    6. If they differ by a factor of 1000, the unit slip is attributed to one of them.
    7. Any other disagreement is rejected unless it is small.

    Args:
        row: The row.
        power_w: Median power of the family's consistent rows; ``nan`` if there are none.
        sound: The consistent rows of the family.
    """
    # 1
    if not (math.isfinite(row.energy_j) and row.energy_j > 0):
        return ConsistencyResult(row, reject=f"energy is {row.energy_j:g}, not a positive number")
    # 2
    if math.isnan(row.latency_s) or math.isnan(row.power_w):
        return ConsistencyResult(row)
    # 3
    if row.power_w <= 0 or not math.isfinite(row.power_w):
        return ConsistencyResult(replace(row, power_w=math.nan), repair=f"power is {row.power_w:g}: not used")
    if row.latency_s < 0 or math.isinf(row.latency_s):
        return ConsistencyResult(row, reject=f"latency is {row.latency_s:g} s")
    # 4
    if row.latency_s == 0:
        latency_s = row.energy_j / row.power_w
        if latency_s > 1.01 * row.latency_step_s:
            text = f"latency is 0 although energy over power is {latency_s * 1e3:.4g} ms: taken from those"
        else:
            text = f"latency is 0, below its step of {row.latency_step_s * 1e3:g} ms: taken as energy over power"
        return ConsistencyResult(replace(row, latency_s=latency_s), repair=text)
    # 5
    if _is_energy_consistent(row, 1.0, MARGIN):
        return _check_power_level(row, power_w, sound)
    # 6
    ratio = row.power_w * row.latency_s / row.energy_j
    loose = replace(row, latency_step_s=max(row.latency_step_s, row.latency_resolution_s))
    for slip in (SLIP, 1 / SLIP):
        if _is_energy_consistent(loose, slip, SLIP_MARGIN):
            return _resolve_unit_slip(row, slip, ratio, power_w, sound)
    # 7
    return _check_mismatch(row, ratio, power_w)


def _is_energy_consistent(row: ConsistencyRow, factor: float, margin: float) -> bool:
    """Return whether power times latency equals ``factor`` times the energy within the rounding steps."""
    if not (row.energy_j > 0 and row.latency_s > 0 and row.power_w > 0):
        return False
    low = row.power_w * max(row.latency_s - row.latency_step_s / 2, 0.0) / (row.energy_j + row.energy_step_j / 2)
    high = row.power_w * (row.latency_s + row.latency_step_s / 2) / max(row.energy_j - row.energy_step_j / 2, 1e-300)
    return low / (1 + margin) <= factor <= high * (1 + margin)


def _check_power_level(row: ConsistencyRow, power_w: float, sound: Sequence[ConsistencyRow]) -> ConsistencyResult:
    """Judge a row whose values agree, by the power of its family.

    1. A plausible power is accepted.
    2. An implausible one that a factor of 1000 does not explain is rejected.
    3. A unit slip is attributed to the energy or the latency, whichever alone is off its family's trend; power is
       derived from it.
    4. If neither or both are off, the row is rejected.
    """
    # 1
    if not math.isfinite(power_w) or 1 / PLAUSIBLE <= row.power_w / power_w <= PLAUSIBLE:
        return ConsistencyResult(row)
    # 2
    head = f"power is {row.power_w:.4g} W, {row.power_w / power_w:.3g} times the median of its family"
    slip = SLIP if row.power_w > power_w else 1 / SLIP
    if not 1 / PLAUSIBLE <= row.power_w / slip / power_w <= PLAUSIBLE:
        return ConsistencyResult(row, reject=f"{head}, and no unit slip explains it")
    # 3
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
    # 4
    return ConsistencyResult(row, reject=f"{head}: a unit slip, but nothing tells whose")


def _resolve_unit_slip(
    row: ConsistencyRow, slip: float, ratio: float, power_w: float, sound: Sequence[ConsistencyRow]
) -> ConsistencyResult:
    """Attribute a factor of 1000 between power times latency and energy to one of the three.

    1. Without other consistent rows, the row is rejected.
    2. An implausible power has the slip, if energy over latency is plausible; else the row is rejected.
    3. The energy has the slip if it alone is off its family's trend.
    4. If both energy and latency are off, or neither although there is a trend, the row is rejected.
    5. Otherwise the latency has the slip.
    """
    # 1
    head = f"power x latency is {ratio:.4g} times the energy"
    if math.isnan(power_w):
        return ConsistencyResult(row, reject=f"{head}: a unit slip, but no other row tells whose")
    # 2
    if not 1 / PLAUSIBLE <= row.power_w / power_w <= PLAUSIBLE:
        corrected_w = row.energy_j / row.latency_s
        if 1 / PLAUSIBLE <= corrected_w / power_w <= PLAUSIBLE:
            way = "divided" if slip > 1 else "multiplied"
            text = f"{head}: power {way} by 1000, {corrected_w:.4g} W"
            return ConsistencyResult(replace(row, power_w=corrected_w), repair=text)
        return ConsistencyResult(row, reject=f"{head}, and no single unit slip explains it")
    # 3
    energy_off = _is_off_trend(row, sound, "energy_j", slip)
    latency_off = _is_off_trend(row, sound, "latency_s", 1 / slip)
    if energy_off and not latency_off:
        energy_j = row.power_w * row.latency_s
        text = f"{head}, and the energy is far from its family's: {row.energy_j:.4g} J taken as {energy_j:.4g} J"
        return ConsistencyResult(replace(row, energy_j=energy_j), repair=text)
    # 4
    if energy_off and latency_off:
        return ConsistencyResult(row, reject=f"{head}, and both energy and latency are far from their family's")
    if row.work and not latency_off and len([r for r in sound if r.work]) >= MIN_TREND:
        return ConsistencyResult(
            row, reject=f"{head}: a unit slip, but neither energy nor latency is far from its family's"
        )
    # 5
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
    """Judge a row whose three values disagree by no unit slip; a disagreement of up to 25 % is accepted."""
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
