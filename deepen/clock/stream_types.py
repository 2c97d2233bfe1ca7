"""Result types of the stream clock: losses found, and the clock fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.clock.host_clock import ClockMap

__all__ = ["ArrivalFit", "SampleLoss", "insert_losses"]


@dataclass(frozen=True, slots=True)
class SampleLoss:
    """Samples lost that the instrument's counters did not show.

    Attributes:
        after_index: Position of the last sample known to be before the loss.
        samples: Number of samples missing; negative where more came than time allows (something was counted twice).
        error_samples: Standard uncertainty of that number.
        before_index: Position of the first sample known to be after it.
    """

    after_index: int
    samples: int
    error_samples: float
    before_index: int


@dataclass(frozen=True, slots=True)
class ArrivalFit:
    """The clock of a stream, fitted to its arrival times, and the losses it shows.

    Attributes:
        clock: From the instrument's time (position / nominal rate, losses inserted) to the host's monotonic clock.
        losses: Losses found by the clock, in order.
        unlocated_losses: Samples missing without a place (the stream is slower than any believable clock); not in
            ``losses``.
        delay_s: Median transport delay above the floor, seconds.
        rate_hz: True sample rate on the host's clock, hertz.
        rate_error: Standard uncertainty of ``clock.rate``, a share.
        nominal_hz: Rate the instrument states, hertz.
        problems: Warnings for the reader, one line each.
    """

    clock: ClockMap
    losses: tuple[SampleLoss, ...]
    unlocated_losses: int
    delay_s: float
    rate_hz: float
    rate_error: float
    nominal_hz: float
    problems: tuple[str, ...]

    def positions(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return positions with the losses found by the clock inserted; float64, same shape, strictly ascending.

        Args:
            index: Positions as the parser counted them, ascending.
        """
        return insert_losses(index, self.losses)

    def times(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the host times of samples, seconds; float64, same shape."""
        return self.clock.to_host(self.positions(index) / self.nominal_hz)


def insert_losses(index: NDArray[np.int64], losses: Sequence[SampleLoss]) -> NDArray[np.float64]:
    """Return positions with losses inserted; float64, same shape, strictly ascending.

    Positions after a loss move on by the number of samples missing. Where samples were counted twice, the doubtful
    stretch is squeezed (which of its samples are too many is unknown), and later positions move back.

    Args:
        index: Positions as the parser counted them, ascending.
        losses: Losses, in order.
    """
    at: list[int] = []
    moved: list[int] = []
    total = 0
    for start, end, samples in _merge_loss_ranges(losses):
        at += [start if samples < 0 else end - 1, end]
        moved += [total, total + samples]
        total += samples
    if not at:
        return index.astype(np.float64)
    return np.asarray(index + np.interp(index, at, moved), np.float64)


def _merge_loss_ranges(losses: Sequence[SampleLoss]) -> list[tuple[int, int, int]]:
    """Merge losses into stretches (after, before, samples), disjoint and long enough for the samples taken out."""
    found: list[tuple[int, int, int]] = []
    for loss in losses:
        start, end, samples = loss.after_index, max(loss.before_index, loss.after_index + 1), loss.samples
        start = min(start, end + samples - 1)
        while found and start < found[-1][1]:
            first, last, more = found.pop()
            start, end, samples = min(start, first), max(end, last), samples + more
            start = min(start, end + samples - 1)
        found.append((start, end, samples))
    return found
