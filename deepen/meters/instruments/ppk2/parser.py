"""Parser of the stream of the Nordic Power Profiler Kit II into samples.

A sample is a little-endian 32-bit word with the ADC in bits 0-13 (in steps of 4), the range in bits 14-16, a counter in
bits 18-23 and the logic inputs in bits 24-31, as Nordic's own application (nRF Connect Power Profiler) reads it. There
is no checksum and no frame mark: the counter shows the start of words and the number missing, modulo 64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepen.meters.instruments.ppk2.calibration import RANGES, Ppk2Calibration, SpikeFilter
from deepen.meters.stream.outliers import OutlierCounter
from deepen.meters.stream.types import Samples, StreamCounts

__all__ = ["MODULUS", "RATE_HZ", "Ppk2Parser"]

RATE_HZ = 100_000.0
MODULUS = 64
"""The counter has six bits."""

RUN = 8
"""Words whose counters must follow each other before a position counts as the start of a word: random bytes pass with a
probability of 64**-7."""

SHORT, LONG = 64, 1 << 14
"""Numbers of words examined together: few after a break, as another may follow, then more, so that the work stays
proportional to the bytes."""

HISTORY = 256
"""Words remembered to recognise bytes that came twice."""


class Ppk2Parser:
    """Parser of words into samples; after a loss it finds the start of words again by their counters.

    Attributes:
        tally: Counts of the faults so far. A break of the counter is ``ambiguous`` unless the discarded bytes account
            for it, because only losses modulo 64 are visible. The words on both sides of a break are suspect: they may
            be made of parts of two.
    """

    def __init__(self, calibration: Ppk2Calibration, voltage_v: float, *, spike_filter: bool = True) -> None:
        """Prepare the tables.

        Args:
            calibration: The instrument's.
            voltage_v: Voltage of the supply.
            spike_filter: True to replace the samples after a change of range.
        """
        self.tally = StreamCounts()
        self._voltage_v = voltage_v
        self._table = calibration.current_a(voltage_v)
        by_range = self._table.reshape(8, -1)
        self._step_a = np.abs(by_range[:, 1] - by_range[:, 0])
        # At the end of a range. A reading of 0 counts lies below zero current if the offset is above one count: the
        # current flows backwards, which the instrument cannot measure.
        ends = np.zeros(by_range.shape, np.bool_)
        ends[:, -1] = True
        ends[:RANGES, 0] = np.array(calibration.values["O"]) > 4
        ends[RANGES:, 0] = ends[RANGES - 1, 0]
        self._ends = ends.ravel()
        self._uncertain = [k for k in range(RANGES) if k not in calibration.ranges]
        self._nominal = calibration.nominal
        self._filter = SpikeFilter()
        self._filtered = spike_filter
        self._outliers = OutlierCounter()
        self._rest = b""
        self._index = 0
        self._next = -1  # counter the next word should have; -1 before the first
        self._locked = False
        self._thrown = 0  # bytes thrown away since the lock was lost
        self._repeated = 0  # number of repeated words still to come
        self._doubtful = False  # true if the next word may be made of parts of two
        self._recent = np.empty(0, np.uint32)

    def feed(self, data: bytes) -> Samples:
        """Parse the next bytes, split anywhere, and return the samples they complete."""
        raw = np.frombuffer(self._rest + data, np.uint8)
        at, block = 0, LONG
        words: list[NDArray[np.uint32]] = []
        index: list[NDArray[np.int64]] = []
        doubtful: list[int] = []
        while True:
            if not self._locked:
                at, block = self._search(raw, at), SHORT
                if not self._locked:
                    break
            here = raw[at : at + min((raw.size - at) // 4, block) * 4].view("<u4")
            good = self._count_consecutive_words(here)
            broken = good < here.size
            # The last word waits for the next one, which has to confirm it.
            taken = good if broken else max(good - 1, 0)
            fresh = here[:taken][min(self._repeated, taken) :]
            self._repeated -= taken - fresh.size
            self._next = (self._next + taken) % MODULUS
            at += 4 * taken
            if fresh.size:
                if self._doubtful:
                    doubtful.append(self._index)
                    self._doubtful = False
                words.append(fresh)
                index.append(np.arange(self._index, self._index + fresh.size, dtype=np.int64))
                self._index += fresh.size
                self._recent = np.concatenate([self._recent, fresh[-HISTORY:]])[-HISTORY:]
                if broken:
                    doubtful.append(self._index - 1)
            if broken:
                self._locked, self._thrown = False, 0
                self._next = (self._next + self._repeated) % MODULUS
                self._repeated = 0
            elif raw.size - at < 8:
                break
            block = min(4 * block, LONG)
        self._rest = raw[at:].tobytes()
        if not words:
            return Samples.none()
        return self._convert(np.concatenate(words), np.concatenate(index), doubtful)

    def _count_consecutive_words(self, words: NDArray[np.uint32]) -> int:
        """Count the words, from the first on, that have the expected counters."""
        counter = (words >> 18).astype(np.uint8)
        # The eight-bit sum wraps at 256, a multiple of 64; the two upper bits belong to the logic inputs.
        expected = np.arange(words.size, dtype=np.int64).astype(np.uint8) + np.uint8(self._next)
        wrong = ((counter ^ expected) & (MODULUS - 1)) != 0
        first = int(wrong.argmax()) if wrong.size else 0
        return first if wrong.size and wrong[first] else int(words.size)

    def _search(self, raw: NDArray[np.uint8], at: int) -> int:
        """Find the next start of a word; return the position to continue from, and set ``_locked`` if it was found."""
        window = SHORT
        while (places := min(raw.size - at - 4 * RUN + 1, window)) > 0:
            counter = raw[at + 2 : at + places + 4 * RUN - 1] >> 2
            follows = ((counter[4:] - counter[:-4]) & (MODULUS - 1)) == 1
            run = follows[:places].copy()
            for k in range(1, RUN - 1):
                run &= follows[4 * k : 4 * k + places]
            found = int(run.argmax())
            hit = bool(run[found])
            thrown = found if hit else places
            self._thrown += thrown
            self.tally.skipped_bytes += thrown
            at += thrown
            if hit:
                self._lock(int(counter[found]), raw[at : at + 4 * RUN].view("<u4"))
                break
            window = min(4 * window, 4 * LONG)
        return at

    def _lock(self, counter: int, words: NDArray[np.uint32]) -> None:
        """Continue at a word with this counter: count the words missing between it and the last good one."""
        self._locked = True
        if self._next >= 0:
            missing = (counter - self._next) % MODULUS
            self.tally.corrupt += -(-self._thrown // 4)
            self._repeated = self._count_repeated_words(words, MODULUS - missing) if missing else 0
            if self._repeated:
                self.tally.duplicates += self._repeated
                self.tally.ambiguous += 1
            else:
                # Discarded words were samples too: the loss is the number nearest to them that the counter allows.
                missing += MODULUS * max(0, round((self._thrown / 4 - missing) / MODULUS))
                self.tally.lost += missing
                self.tally.ambiguous += 4 * missing != self._thrown
                self._index += missing
                # Its lower bytes may be those of a word that lost its upper ones.
                self._doubtful = True
        self._next = counter

    def _count_repeated_words(self, words: NDArray[np.uint32], back: int) -> int:
        """Count how many of the next words repeat the latest ones; 0 if they are new.

        Args:
            words: The next ``RUN`` words.
            back: Number by which the counter went back, modulo 64.

            A repetition is accepted if it is exact and distinctive: words of a steady reading prove nothing. It may
            begin within a word; then its first word has its lower bytes from the word that follows the repetition.
        """
        for length in range(back, self._recent.size + 1, MODULUS):
            earlier = self._recent[self._recent.size - length :][:RUN]
            if length < RUN:
                first = {int(earlier[0]) & ~low | int(words[length]) & low for low in (0, 0xFF, 0xFFFF)}
            else:
                first = {int(words[0])}
            alike = int(words[0]) in first and np.array_equal(earlier[1:], words[1 : earlier.size])
            if alike and (length <= 2 or np.unique(earlier & 0x1FFFF).size > 2):
                return length
        return 0

    def _convert(self, words: NDArray[np.uint32], index: NDArray[np.int64], doubtful: list[int]) -> Samples:
        """Convert words to samples.

        Args:
            words: Shape (n,), n at least 1.
            index: Their positions, shape (n,).
            doubtful: Positions of words that may be made of parts of two.
        """
        code = words & 0x1FFFF
        raw_a = self._table[code]
        ranges = (code >> 14).astype(np.uint8)
        if int(ranges.max()) >= RANGES:
            self.tally.note(
                "ranges: codes above the highest range; they are read as the highest, as Nordic's software does"
            )
            np.minimum(ranges, RANGES - 1, out=ranges)
        clipped = self._ends[code]
        self.tally.clipped += int(np.count_nonzero(clipped))
        if self._uncertain and np.isin(ranges, self._uncertain).any():
            self.tally.note(f"calibration: not reported, nominal values used: {' '.join(self._nominal)}")
        suspect = clipped
        if doubtful:
            # They are returned, but neither they nor their range may affect other samples through the filter.
            doubt = np.isin(index, doubtful)
            suspect = clipped | doubt
            current_a = raw_a.copy()
            current_a[~doubt] = self._settle(raw_a[~doubt], ranges[~doubt])
        else:
            current_a = self._settle(raw_a, ranges)
        return Samples(
            index=index,
            power_w=current_a * self._voltage_v,
            current_a=current_a,
            logic=(words >> 24).astype(np.uint8),
            suspect=suspect if suspect.any() else None,
        )

    def _settle(self, current_a: NDArray[np.float64], ranges: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Count changes of range and outliers, and filter spikes; shapes (n,)."""
        if not ranges.size:
            return current_a
        self._outliers.feed(current_a, self._step_a[ranges], ranges)
        self._outliers.report(self.tally)
        settled = self._filter.feed(current_a, ranges)
        self.tally.range_switches = self._filter.changes
        return settled if self._filtered else current_a
