"""Conversion of readings of the Nordic Power Profiler Kit II, by its metadata and the formulas of Nordic's software."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.meters.stream.exponential_mean import compute_exponential_mean

__all__ = ["AMPERE_METER", "RANGES", "SOURCE_METER", "Ppk2Calibration", "SpikeFilter"]

RANGES = 5
ADC_A = 1.8 / 163840
"""Reference voltage over the ADC's full scale: volts across the shunt resistor per count."""

NOMINAL: Mapping[str, tuple[float, ...]] = {
    "R": (1031.64, 101.65, 10.15, 0.94, 0.043),
    "GS": (0.0,) * RANGES,
    "GI": (1.0,) * RANGES,
    "O": (0.0,) * RANGES,
    "S": (0.0,) * RANGES,
    "I": (0.0,) * RANGES,
    "UG": (1.0,) * RANGES,
}
"""Coefficients by range in place of those the instrument does not report: the nominal shunt resistors (Nordic's
application) and no correction."""

_LARGEST = 1e6
"""No coefficient comes near this (those of real units are below a few thousand)."""

AMPERE_METER, SOURCE_METER = 1, 2
"""Modes as the metadata and the mode command number them."""

ALPHA, ALPHA_TOP = 0.18, 0.06
"""Weights of the newest sample in the averages of the spike filter, the second for the highest range."""

FILTERED, HELD = 3, 2
"""Samples replaced after a change of range; samples of the highest range that do not enter the averages."""


@dataclass(frozen=True, slots=True)
class Ppk2Calibration:
    """Calibration and settings that the instrument reports.

    Attributes:
        values: Coefficient -> its value in each of the five ranges.
        nominal: Coefficients the instrument does not report, as ``R3``; nominal values stand in.
        hardware: Hardware number; empty if not reported.
        voltage_v: Voltage its regulator is set to, volts; ``nan`` if not reported.
        mode: 1 ampere meter, 2 source meter, 0 if not reported.
        id: Short hash of the coefficients.
    """

    values: Mapping[str, tuple[float, ...]]
    nominal: tuple[str, ...]
    hardware: str
    voltage_v: float
    mode: int
    id: str

    @property
    def ranges(self) -> tuple[int, ...]:
        """Ranges of which every coefficient is reported."""
        return tuple(k for k in range(RANGES) if not any(key.endswith(str(k)) for key in self.nominal))

    @classmethod
    def parse(cls, text: str) -> Ppk2Calibration | None:
        """Parse the metadata.

        Values that are not finite or absurd, and zero where zero is impossible (``R``, ``UG``, or ``GI`` with ``GS``,
        with which every current would read 0), are defects seen on real units; nominal values take their place.

        Args:
            text: The lines up to ``END``.

        Returns:
            The calibration, or ``None`` if no shunt resistor is named, so that the text is not from a PPK2.
        """
        fields = {
            key.split()[-1]: value.strip()
            for key, _, value in (x.partition(":") for x in text.splitlines())
            if key.split()
        }
        if not any(f"R{k}" in fields for k in range(RANGES)):
            return None
        values = {key: list(nominal) for key, nominal in NOMINAL.items()}
        missing = []
        for key, column in values.items():
            for k in range(RANGES):
                value = _parse_number(fields.get(f"{key}{k}", ""))
                useless = key in {"R", "UG"} or (key == "GI" and not _parse_number(fields.get(f"GS{k}", "")))
                if abs(value) < _LARGEST and not (useless and value == 0) and not (key == "R" and value < 0):
                    column[k] = value
                else:
                    missing.append(f"{key}{k}")
        coefficients = {key: tuple(column) for key, column in values.items()}
        mode = _parse_number(fields.get("mode", ""))
        return cls(
            values=coefficients,
            nominal=tuple(missing),
            hardware=fields.get("HW", ""),
            voltage_v=_parse_number(fields.get("VDD", "")) / 1000,
            mode=int(mode) if mode in {AMPERE_METER, SOURCE_METER} else 0,
            id=hashlib.sha256(repr(coefficients).encode()).hexdigest()[:8],
        )

    def current_a(self, voltage_v: float) -> NDArray[np.float64]:
        """Compute the current for every value of a word's lower 17 bits (ADC and range), as a look-up table.

        ``I = UG (r (GS r + GI) + S V + I0)`` with ``r = (4 adc - O) (1.8 V / 163840) / R`` (Nordic's application).

        Args:
            voltage_v: Voltage of the supply.

        Returns:
            Amperes; float64, shape (2**17,).
        """
        v = {key: np.array(column)[:, None] for key, column in self.values.items()}
        r = (4.0 * np.arange(1 << 14) - v["O"]) * (ADC_A / v["R"])
        table = v["UG"] * (r * (v["GS"] * r + v["GI"]) + v["S"] * voltage_v + v["I"])
        # The range has three bits; codes above the highest range mean the highest.
        return np.concatenate([table, np.repeat(table[-1:], 8 - RANGES, axis=0)]).ravel()


def _parse_number(text: str) -> float:
    """Parse a number of the metadata; ``nan`` if it is not one (real units write ``-nan``)."""
    try:
        return float(text)
    except ValueError:
        return math.nan


class SpikeFilter:
    """The spike filter of Nordic's application: averages replace the first samples after a change of range.

    It works on whole batches; the result does not depend on how the samples are split into them.

    Attributes:
        changes: Number of changes of range so far.
    """

    def __init__(self) -> None:
        """Start with no average."""
        self.changes = 0
        self._averages: tuple[float, float] | None = None
        self._range = -1
        self._age = FILTERED

    def feed(self, current_a: NDArray[np.float64], ranges: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Filter the next samples.

        Args:
            current_a: Amperes; float64, shape (n,), n at least 1.
            ranges: Range of each; uint8, shape (n,).

        Returns:
            Filtered current; the input itself where no range changed.
        """
        if self._averages is None:
            self._range, self._averages = int(ranges[0]), (float(current_a[0]), float(current_a[0]))
        changed = np.empty(ranges.size, np.bool_)
        changed[0] = ranges[0] != self._range
        np.not_equal(ranges[1:], ranges[:-1], out=changed[1:])
        self._range = int(ranges[-1])
        changes = int(np.count_nonzero(changed))
        self.changes += changes
        if self._age >= FILTERED and not changes:
            means = [self._average(current_a, k) for k in range(2)]
            self._averages = (float(means[0][-1]), float(means[1][-1]))
            return current_a
        # Samples since the range changed: 0 at the first one of the new range.
        position = np.arange(current_a.size)
        age = position - np.maximum.accumulate(np.where(changed, position, -self._age))
        self._age = min(int(age[-1]) + 1, FILTERED)
        top = ranges == RANGES - 1
        enters = ~(top & (age < HELD))
        # A held sample repeats the average of the last one that entered; 0 is the average before this batch.
        last = np.cumsum(enters)
        kept = current_a[enters]
        mean, mean_top = (
            np.concatenate([[self._averages[k]], self._average(kept, k) if kept.size else kept])[last] for k in range(2)
        )
        self._averages = (float(mean[-1]), float(mean_top[-1]))
        return np.where(age < FILTERED, np.where(top, mean_top, mean), current_a)

    def _average(self, x: NDArray[np.float64], which: int) -> NDArray[np.float64]:
        """Return the exponential averages after each sample, continuing the last batch; shape (n,)."""
        assert self._averages is not None
        return compute_exponential_mean(x, (ALPHA, ALPHA_TOP)[which], self._averages[which])
