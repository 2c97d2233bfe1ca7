"""Detection of isolated outliers, the effect of a damaged byte in a protocol without a checksum.

PPK2 and PowerSensor3 send samples without a checksum; a damaged byte gives one wrong sample between two right ones. A
real pulse can look the same, so the samples are not removed but counted and reported in the trace.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepen.meters.stream.exponential_mean import compute_exponential_mean
from deepen.meters.stream.types import StreamCounts
from deepen.records import TraceWarning

__all__ = ["OutlierCounter"]

MEMORY = 64
"""Number of steps over which the usual step is averaged (exponentially)."""

TIMES = 10.0
"""Distance from both neighbours, in usual steps, of an outlier; with Gaussian noise of standard deviation s the usual
step is 1.13 s, so this is 11 s and never happens by chance."""


class OutlierCounter:
    """Counts samples far from both neighbours while the neighbours agree.

    The result does not depend on how the samples are split into batches.

    Attributes:
        count: Number of samples found so far. A sample is judged once the next one has come.
    """

    def __init__(self) -> None:
        """Start without samples."""
        self.count = 0
        self._note = TraceWarning("trace", "")
        self._mean = 0.0
        self._seen = 0
        # The last two samples (value, group) and the usual step before each, waiting for their successors.
        self._values = np.empty(0)
        self._groups = np.empty(0, np.uint8)
        self._usual = np.empty(0)

    def feed(self, values: NDArray[np.float64], step: NDArray[np.float64] | float, groups: NDArray[np.uint8]) -> None:
        """Judge the next samples.

        Args:
            values: Samples; float64, shape (n,).
            step: Resolution of the instrument at each sample, in the unit of the values; a sample closer than ``TIMES``
                of these to a neighbour is not an outlier.
            groups: Measuring range of each sample; only samples whose neighbours are in one range are judged, as a
                change of range causes spikes of its own. uint8, shape (n,).
        """
        if values.size == 0:
            return
        change = np.empty(values.size)
        change[0] = values[0] - (self._values[-1] if self._values.size else values[0])
        np.subtract(values[1:], values[:-1], out=change[1:])
        np.abs(change, out=change)
        # Exponential mean of the change: y = y + (change - y) / MEMORY.
        usual = compute_exponential_mean(change, 1 / MEMORY, self._mean)
        self._mean = float(usual[-1])
        self._seen += values.size
        x = np.concatenate([self._values, values])
        group = np.concatenate([self._groups, groups])
        mean = np.concatenate([self._usual, usual + step])
        self._values, self._groups, self._usual = x[-2:], group[-2:], mean[-2:]
        if x.size < 3:
            return
        rise, fall = x[1:-1] - x[:-2], x[2:] - x[1:-1]
        least = TIMES * mean[:-2]
        alone = (rise * fall < 0) & (np.minimum(np.abs(rise), np.abs(fall)) > least) & (group[2:] == group[:-2])
        # The usual step is unknown before MEMORY samples have come.
        unknown = MEMORY - (self._seen - x.size)
        self.count += int(np.count_nonzero(alone[max(0, unknown) :]))

    def report(self, tally: StreamCounts) -> None:
        """Update the one line about these samples in a tally's notes."""
        if not self.count:
            return
        text = (
            f"outliers: {self.count} samples stand alone between two that agree: damaged bytes (this protocol has no "
            "checksum) or pulses as short as one sample"
        )
        note = TraceWarning("trace", text)
        if self._note in tally.notes:
            tally.notes[tally.notes.index(self._note)] = note
        else:
            tally.note(note)
        self._note = note
