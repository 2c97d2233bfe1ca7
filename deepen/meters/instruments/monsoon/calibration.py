"""Common parts of both Monsoon protocols: records between calibrations, and the detection of suspect samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepen.meters.stream.types import StreamCounts
from deepen.records import WarningCode

__all__ = ["CUT_OFF_NOTE", "NO_VOLTAGE_NOTE", "RawRecordBuffer", "SuspectSampleDetector"]

CUT_OFF_NOTE: tuple[str, WarningCode] = (
    "the over-current or thermal protection has cut the output off; switch it on again",
    "clipping",
)
NO_VOLTAGE_NOTE: tuple[str, WarningCode] = (
    "the output was not at its voltage; set it with ?voltage_v=, or look for a short",
    "trace",
)

_NEAR_SETTING = 0.1
"""Share by which the voltage may be away from the setting; samples further away are suspect."""

_SAME = 0.02
"""Share by which a calibration may differ from the one before without a note."""


class RawRecordBuffer:
    """Raw records that wait to be converted.

    Attributes:
        count: Number of records.
    """

    def __init__(self, size: int) -> None:
        """Set the size of a record, bytes."""
        self.count = 0
        self._size = size
        self._parts: list[tuple[int, bytes]] = []
        self._bad: list[tuple[int, int]] = []

    def add(self, start: int, data: bytes, good: bool) -> None:
        """Add consecutive records.

        Args:
            start: Position of the first in the stream; ascending from call to call.
            data: The records.
            good: True if the instrument marks them as valid.
        """
        count = len(data) // self._size
        self._parts.append((start, data))
        if not good:
            self._bad.append((start, start + count))
        self.count += count

    def trim(self, limit: int) -> None:
        """Drop the oldest records above ``limit``."""
        while self.count > limit:
            self.count -= len(self._parts.pop(0)[1]) // self._size
            while self._bad and self._bad[0][1] <= self._parts[0][0]:
                self._bad.pop(0)

    def take(self) -> tuple[NDArray[np.int64], bytes, NDArray[np.bool_] | None]:
        """Remove and return all records: positions, shape (n,); data; mask of invalid ones, shape (n,), or ``None``."""
        parts, bad, count = self._parts, self._bad, self.count
        self._parts, self._bad, self.count = [], [], 0
        first, last = parts[0][0], parts[-1][0] + len(parts[-1][1]) // self._size
        if last - first == count:
            index = np.arange(first, last, dtype=np.int64)
        else:
            index = np.concatenate([np.arange(s, s + len(d) // self._size, dtype=np.int64) for s, d in parts])
        doubtful = None
        if bad:
            doubtful = np.zeros(count, bool)
            for a, b in bad:
                doubtful[np.searchsorted(index, a) : np.searchsorted(index, b)] = True
        return index, b"".join(data for _, data in parts), doubtful


class SuspectSampleDetector:
    """Decides which samples are suspect, and counts the reasons."""

    def __init__(self, tally: StreamCounts, setting_v: float) -> None:
        """Start with a stream.

        Args:
            tally: Counts to add to.
            setting_v: Voltage set at the output, volts; 0 where unknown.
        """
        self._tally = tally
        self._setting_v = setting_v
        self._low_v, self._high_v = setting_v * (1 - _NEAR_SETTING), setting_v * (1 + _NEAR_SETTING)
        self._coarse: bool | None = None

    def suspect(
        self,
        coarse: NDArray[np.bool_],
        clipped: NDArray[np.bool_],
        voltage: NDArray[np.float64],
        doubtful: NDArray[np.bool_] | None,
    ) -> NDArray[np.bool_] | None:
        """Return the mask of suspect samples, ``None`` for none; all arrays of shape (n,), n > 0.

        Args:
            coarse: Samples in the coarse range.
            clipped: Samples at the end of the range.
            voltage: Voltage of the output.
            doubtful: Samples the instrument marks as invalid.
        """
        before = bool(coarse[0]) if self._coarse is None else self._coarse
        self._coarse = bool(coarse[-1])
        self._tally.range_switches += int(np.count_nonzero(coarse[1:] != coarse[:-1])) + (before != bool(coarse[0]))
        found = doubtful
        count = int(np.count_nonzero(clipped))
        if count:
            self._tally.clipped += count
            found = clipped if found is None else found | clipped
        if self._setting_v and not self._low_v <= float(voltage.min()) <= float(voltage.max()) <= self._high_v:
            away = (voltage < self._low_v) | (voltage > self._high_v)
            self._tally.note(
                f"the output was more than {_NEAR_SETTING:.0%} away from the {self._setting_v:.2f} V it is set to; "
                "look for a tripped current limit or a loose wire"
            )
            found = away if found is None else found | away
        return found

    def note_calibration_change(self, before: tuple[float, float], after: tuple[float, float]) -> None:
        """Add a note if a calibration differs much from the previous one (slopes of both ranges)."""
        if max(abs(a / b - 1) for a, b in zip(after, before, strict=True)) > _SAME:
            self._tally.note(f"the calibration changed by more than {_SAME:.0%} from one to the next")

    def note_refused_calibration(self) -> None:
        """Count an implausible calibration."""
        self._tally.corrupt += 1
        self._tally.note("a calibration made no sense and was left out")

    def note_missing_calibration(self, seconds: float) -> None:
        """Add a note that calibration has been missing for a number of seconds."""
        self._tally.note(f"calibration was missing for {seconds:g} s; switch the instrument off and on")
