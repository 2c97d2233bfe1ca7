"""Nordic Power Profiler Kit II: bytes to samples.

Protocol (as Nordic's own application, nRF Connect Power Profiler, speaks it): the metadata are text, lines
``KEY: value`` closed by ``END``; a sample is a little-endian 32-bit word with the ADC in bits 0-13 (in steps of 4), the
range in bits 14-16, a counter in bits 18-23 and the logic inputs in bits 24-31. There is no checksum and no frame mark:
the counter tells where words start and how many are missing, modulo 64.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.meters.outliers import Outliers
from deepen.meters.stream import Samples, Tally

__all__ = ["MODULUS", "RATE_HZ", "Calibration", "Ppk2Parser", "SpikeFilter"]

RATE_HZ = 100_000.0
RANGES = 5
MODULUS = 64
"""The counter has six bits."""

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
"""Coefficients by range for those the instrument does not tell: the nominal shunt resistors (Nordic's application) and
no correction."""

AMPERE_METER, SOURCE_METER = 1, 2
"""Modes as the metadata and the mode command number them."""

ALPHA, ALPHA_TOP = 0.18, 0.06
"""Weights of the newest sample in the averages of the spike filter, the second for the highest range."""

FILTERED, HELD = 3, 2
"""Samples replaced after a change of range; samples of the highest range that do not enter the averages."""

RUN = 8
"""Words whose counters must follow each other before a position counts as the start of a word: random bytes pass with a
probability of 64**-7."""

HISTORY = 256
"""Words remembered to recognise bytes that came twice."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the instrument tells about itself.

    Attributes:
        values: Coefficient -> its value in each of the five ranges.
        nominal: Coefficients the instrument does not tell, as ``R3``; nominal values stand in.
        hardware: Hardware number; empty where it tells none.
        voltage_v: Voltage its regulator is set to; ``nan`` where it does not tell.
        mode: 1 ampere meter, 2 source meter, 0 where it does not tell.
        id: Short hash of the coefficients.
    """

    values: Mapping[str, tuple[float, ...]]
    nominal: tuple[str, ...]
    hardware: str
    voltage_v: float
    mode: int
    id: str

    @classmethod
    def parse(cls, text: str) -> Calibration | None:
        """Read the metadata.

        Values that are not finite, and zero where zero cannot be (``R``, ``UG``, or ``GI`` together with ``GS``: no
        current would ever be told), are defects seen on real units; nominal values take their place.

        Args:
            text: The lines up to ``END``.

        Returns:
            The calibration, or ``None`` if no shunt resistor is named, so that no PPK2 wrote this.
        """
        told = {
            key.split()[-1]: value.strip()
            for key, _, value in (x.partition(":") for x in text.splitlines())
            if key.split()
        }
        if not any(f"R{k}" in told for k in range(RANGES)):
            return None
        values = {key: list(nominal) for key, nominal in NOMINAL.items()}
        missing = []
        for key, column in values.items():
            for k in range(RANGES):
                value = _number(told.get(f"{key}{k}", ""))
                useless = key in {"R", "UG"} or (key == "GI" and not _number(told.get(f"GS{k}", "")))
                if math.isfinite(value) and not (useless and value == 0) and not (key == "R" and value < 0):
                    column[k] = value
                else:
                    missing.append(f"{key}{k}")
        coefficients = {key: tuple(column) for key, column in values.items()}
        mode = _number(told.get("mode", ""))
        return cls(
            values=coefficients,
            nominal=tuple(missing),
            hardware=told.get("HW", ""),
            voltage_v=_number(told.get("VDD", "")) / 1000,
            mode=int(mode) if mode in {AMPERE_METER, SOURCE_METER} else 0,
            id=hashlib.sha256(repr(coefficients).encode()).hexdigest()[:8],
        )

    def current_a(self, voltage_v: float) -> NDArray[np.float64]:
        """Current of every word's lower 17 bits (ADC and range): a table, so that converting is one look-up.

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


def _number(text: str) -> float:
    """A number of the metadata; ``nan`` where it is none (real units write ``-nan``)."""
    try:
        return float(text)
    except ValueError:
        return math.nan


class SpikeFilter:
    """The filter Nordic's application applies: averages replace the first samples after a change of range.

    Written for whole batches; the result does not depend on how the samples are split into them.
    """

    def __init__(self) -> None:
        """Start with no average."""
        from scipy.signal import lfilter

        self._lfilter = lfilter
        self._averages: tuple[float, float] | None = None
        self._range = -1
        self._age = FILTERED

    def feed(self, current_a: NDArray[np.float64], ranges: NDArray[np.uint8]) -> tuple[NDArray[np.float64], int]:
        """Filter the next samples.

        Args:
            current_a: Amperes; float64, shape (n,), n at least 1.
            ranges: Range of each; uint8, shape (n,).

        Returns:
            Filtered current (the input itself where no range changed), and the number of changes of range.
        """
        if self._averages is None:
            self._range, self._averages = int(ranges[0]), (float(current_a[0]), float(current_a[0]))
        changed = np.diff(ranges, prepend=np.uint8(self._range)) != 0
        changes = int(np.count_nonzero(changed))
        self._range = int(ranges[-1])
        if not changes and self._age >= FILTERED:
            means = [self._average(current_a, k) for k in range(2)]
            self._averages = (float(means[0][-1]), float(means[1][-1]))
            return current_a, 0
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
        return np.where(age < FILTERED, np.where(top, mean_top, mean), current_a), changes

    def _average(self, x: NDArray[np.float64], which: int) -> NDArray[np.float64]:
        """Exponential averages after each sample, from where the last batch left off; shape (n,)."""
        assert self._averages is not None
        alpha = (ALPHA, ALPHA_TOP)[which]
        start = [(1 - alpha) * self._averages[which]]
        y: NDArray[np.float64] = self._lfilter([alpha], [1.0, alpha - 1.0], x, zi=start)[0]
        return y


class Ppk2Parser:
    """Words to samples; finds the start of words again after a loss, by their counters.

    Attributes:
        tally: What went wrong so far. A break of the counter is ``ambiguous`` unless the bytes thrown away account for
            it, because only losses modulo 64 can be told.
    """

    def __init__(self, calibration: Calibration, voltage_v: float, *, spike_filter: bool = True) -> None:
        """Prepare the tables.

        Args:
            calibration: The instrument's.
            voltage_v: Voltage of the supply.
            spike_filter: Whether to replace the samples after a change of range.
        """
        self.tally = Tally()
        self._voltage_v = voltage_v
        self._table = calibration.current_a(voltage_v)
        by_range = self._table.reshape(8, -1)
        self._step_a = np.abs(by_range[:, 1] - by_range[:, 0])
        # A reading of 0 counts lies below zero current where the offset is above one count: current flows backwards.
        self._floor = np.array([*(o > 4 for o in calibration.values["O"]), *(False,) * (8 - RANGES)])
        self._floor[RANGES:] = self._floor[RANGES - 1]
        self._uncertain = [k for k in range(RANGES) if any(key.endswith(str(k)) for key in calibration.nominal)]
        self._nominal = calibration.nominal
        self._filter = SpikeFilter() if spike_filter else None
        self._outliers = Outliers()
        self._last_range = -1
        self._rest = b""
        self._index = 0
        self._next = -1  # counter the next word should have; -1 before the first
        self._locked = False
        self._thrown = 0  # bytes thrown away since the lock was lost
        self._repeated = 0  # words still to come that came before
        self._recent = np.empty(0, np.uint32)

    def feed(self, data: bytes) -> Samples:
        """Take the next bytes."""
        raw = np.frombuffer(self._rest + data, np.uint8)
        at = 0
        words: list[NDArray[np.uint32]] = []
        index: list[NDArray[np.int64]] = []
        while True:
            if not self._locked:
                at = self._search(raw, at)
                if not self._locked:
                    break
            here = raw[at : at + (raw.size - at) // 4 * 4].view("<u4")
            good = self._following(here)
            at += 4 * good
            fresh = here[:good][min(self._repeated, good) :]
            self._repeated -= good - fresh.size
            self._next = (self._next + good) % MODULUS
            if fresh.size:
                words.append(fresh)
                index.append(np.arange(self._index, self._index + fresh.size, dtype=np.int64))
                self._index += fresh.size
                self._recent = np.concatenate([self._recent, fresh[-HISTORY:]])[-HISTORY:]
            if good == here.size:
                break
            self._locked, self._thrown = False, 0
            self._next = (self._next + self._repeated) % MODULUS
            self._repeated = 0
        self._rest = raw[at:].tobytes()
        if not words:
            return Samples.none()
        return self._convert(np.concatenate(words), np.concatenate(index))

    def _following(self, words: NDArray[np.uint32]) -> int:
        """How many words from the first on have the counters they should have."""
        counter = (words >> 18).astype(np.uint8)
        # The eight-bit sum wraps at 256, a multiple of 64; the two upper bits belong to the logic inputs.
        expected = np.arange(words.size, dtype=np.int64).astype(np.uint8) + np.uint8(self._next)
        wrong = ((counter ^ expected) & (MODULUS - 1)) != 0
        first = int(wrong.argmax()) if wrong.size else 0
        return first if wrong.size and wrong[first] else int(words.size)

    def _search(self, raw: NDArray[np.uint8], at: int) -> int:
        """Find the next start of a word; returns where to go on, with ``_locked`` set if it was found."""
        places = raw.size - at - 4 * RUN + 1
        if places <= 0:
            return at
        counter = raw[at + 2 :] >> 2
        follows = ((counter[4:] - counter[:-4]) & (MODULUS - 1)) == 1
        run = follows[:places].copy()
        for k in range(1, RUN - 1):
            run &= follows[4 * k : 4 * k + places]
        found = int(run.argmax())
        hit = bool(run[found])
        thrown = found if hit else places
        self._thrown += thrown
        self.tally.skipped_bytes += thrown
        if hit:
            self._lock(int(counter[found]), raw[at + found : at + found + 4 * RUN].view("<u4"))
        return at + thrown

    def _lock(self, counter: int, words: NDArray[np.uint32]) -> None:
        """Go on at a word with this counter: count what is missing between it and the last good word."""
        self._locked = True
        if self._next >= 0:
            missing = (counter - self._next) % MODULUS
            self.tally.corrupt += -(-self._thrown // 4)
            self._repeated = self._came_before(words, MODULUS - missing) if missing else 0
            if self._repeated:
                self.tally.duplicates += self._repeated
                self.tally.ambiguous += 1
            else:
                # Words thrown away were samples too: the loss is the one nearest to them that the counter allows.
                missing += MODULUS * max(0, round((self._thrown / 4 - missing) / MODULUS))
                self.tally.lost += missing
                self.tally.ambiguous += 4 * missing != self._thrown
                self._index += missing
        self._next = counter

    def _came_before(self, words: NDArray[np.uint32], back: int) -> int:
        """How many of the next words are a repetition of the latest ones; 0 when they are new.

        Args:
            words: The next ``RUN`` words.
            back: How far the counter went back, modulo 64.

        A repetition is believed if it is exact and tells: more than two words of a steady reading say nothing.
        """
        for length in range(back, self._recent.size + 1, MODULUS):
            earlier = self._recent[self._recent.size - length :][:RUN]
            told = np.unique(earlier & 0x1FFFF).size
            if np.array_equal(earlier, words[: earlier.size]) and (length <= 2 or told > 2):
                return length
        return 0

    def _convert(self, words: NDArray[np.uint32], index: NDArray[np.int64]) -> Samples:
        """Make samples of words; both of shape (n,), n at least 1."""
        code = words & 0x1FFFF
        raw_a = self._table[code]
        adc, ranges = code & 0x3FFF, (code >> 14).astype(np.uint8)
        if int(ranges.max()) >= RANGES:
            self.tally.note(
                "range codes above the highest range; they are read as the highest, as Nordic's software does"
            )
            np.minimum(ranges, RANGES - 1, out=ranges)
        clipped = (adc == 0x3FFF) | ((adc == 0) & self._floor[ranges])
        self.tally.clipped += int(np.count_nonzero(clipped))
        if self._uncertain and np.isin(ranges, self._uncertain).any():
            self.tally.note(f"calibration not told by the instrument, nominal values used: {' '.join(self._nominal)}")
        self._outliers.feed(raw_a, self._step_a[ranges], ranges)
        self._outliers.report(self.tally)
        if self._filter is None:
            before = ranges[:1] if self._last_range < 0 else np.array([self._last_range], np.uint8)
            changes, current_a = int(np.count_nonzero(np.diff(ranges, prepend=before))), raw_a
            self._last_range = int(ranges[-1])
        else:
            current_a, changes = self._filter.feed(raw_a, ranges)
        self.tally.range_switches += changes
        return Samples(
            index=index,
            power_w=current_a * self._voltage_v,
            current_a=current_a,
            logic=(words >> 24).astype(np.uint8),
            suspect=clipped if clipped.any() else None,
        )
