"""Scan of the times of a table of samples: their order, their rate, and the samples missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepen.errors import MeasureError
from deepen.records import TraceWarning
from deepen.traces.types import TraceInfo

__all__ = ["TimeScan", "drop_missing_samples"]

_REGULAR = 0.9
"""Share of steps within a tenth of the median above which times count as regular, so that a longer step is a loss."""


class TimeScan:
    """Scans the times of a file, block by block.

    In a regular series a step of 1.5 periods or more is a gap, and so is a sample without a value; in an irregular one
    (a sensor that is polled) only samples without a value are.

    Args:
        path: The file, for messages.
        rate_hz: Sample rate where it is known; 0 to take it from the first block.
    """

    def __init__(self, path: Path, rate_hz: float = 0.0) -> None:
        self._path = path
        self._known = rate_hz > 0
        self._period_s = 1 / rate_hz if rate_hz > 0 else 0.0
        self._rows = 0
        self._last_s = -np.inf
        self.regular = rate_hz > 0
        self.samples = 0
        self.missing = 0
        self.lost = 0
        self.start_s = np.nan
        self.end_s = np.nan
        self.gaps: list[tuple[float, float]] = []

    def feed(self, t_s: NDArray[np.float64], power_w: NDArray[np.float64]) -> None:
        """Scan the next rows.

        Args:
            t_s: Times, seconds, shape (n,).
            power_w: Powers, shape (n,); ``nan`` where a sample has no value.

        Raises:
            MeasureError: If a time is missing, repeats or goes back; with the row.
        """
        if not t_s.size:
            return
        steps = np.diff(t_s, prepend=self._last_s)
        wrong = np.flatnonzero(~(steps > 0) | ~np.isfinite(t_s))
        if wrong.size:
            row, t = self._rows + int(wrong[0]) + 1, float(t_s[wrong[0]])
            what = "is no number" if not np.isfinite(t) else "repeats" if steps[wrong[0]] == 0 else "goes back"
            raise MeasureError(
                f"{self._path}: the time of row {row} ({t:.9g} s) {what}; if the clock is coarse and no row is "
                "missing, give the sample rate (rate_hz) to number the rows instead"
            )
        inner = steps[1:] if not self._rows else steps
        if not self._known and inner.size:
            self._learn(inner)
        good = np.isfinite(power_w)
        self.missing += int(t_s.size - good.sum())
        self._record_gaps(t_s[good])
        self._rows += t_s.size
        self._last_s = float(t_s[-1])

    def _learn(self, steps: NDArray[np.float64]) -> None:
        self._known = True
        self._period_s = float(np.median(steps))
        self.regular = bool(np.mean(np.abs(steps - self._period_s) <= 0.1 * self._period_s) >= _REGULAR)

    def _record_gaps(self, t_s: NDArray[np.float64]) -> None:
        """Record steps between samples with a value that are too long."""
        if not t_s.size:
            return
        joined = t_s if not self.samples else np.concatenate([[self.end_s], t_s])
        if not self.samples:
            self.start_s = float(t_s[0])
        if self.regular:
            steps = np.diff(joined) / self._period_s
            at = np.flatnonzero(steps >= 1.5)
            self.lost += int(np.rint(steps[at] - 1).sum())
            self.gaps += zip(joined[at].tolist(), joined[at + 1].tolist(), strict=True)
        self.samples += t_s.size
        self.end_s = float(t_s[-1])

    @property
    def dropped(self) -> int:
        """Number of samples missing: those without a row and those without a value."""
        return max(self.lost, self.missing) if self.regular else self.missing

    @property
    def rate_hz(self) -> float:
        """Sample rate with lost samples included, hertz; 0 with fewer than two samples."""
        span_s = self.end_s - self.start_s
        return (self.samples - 1 + (self.lost if self.regular else 0)) / span_s if self.samples > 1 else 0.0

    def complete_info(
        self,
        info: TraceInfo,
        before: Sequence[TraceWarning] = (),
        after: Sequence[TraceWarning] = (),
        *,
        rate_hz: float = 0.0,
    ) -> TraceInfo:
        """Fill in the fields of a description that follow from the times of the samples.

        Args:
            info: The description so far.
            before: What a reader should know of the file.
            after: More of that, behind what the times say.
            rate_hz: Sample rate where the file states one, hertz.

        Raises:
            MeasureError: If no sample has a value.
        """
        if not self.samples:
            raise MeasureError(f"{info.path}: has no samples with a value; export or record again")
        return replace(
            info,
            rate_hz=rate_hz or self.rate_hz,
            samples=self.samples,
            start_s=self.start_s,
            end_s=self.end_s,
            gaps=tuple(self.gaps),
            dropped=self.dropped,
            warnings=(*before, *self.notes(), *after),
        )

    def notes(self) -> list[TraceWarning]:
        """Return warnings for the reader."""
        notes = []
        if self.missing:
            notes.append(TraceWarning("loss", f"{self.missing} rows have no value and count as lost"))
        if self.gaps:
            share = self.dropped / (self.dropped + self.samples)
            notes.append(TraceWarning("loss", f"{len(self.gaps)} gaps, {self.dropped} samples lost ({share:.3%})"))
        if self.samples > 1 and not self.regular:
            text = "times are irregular, so that missing samples cannot be told from slow ones"
            notes.append(TraceWarning("loss", text))
        return notes


def drop_missing_samples(
    t_s: NDArray[np.float64], power_w: NDArray[np.float64], logic: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]:
    """Return times, powers and digital inputs without the samples that have no value (``nan``); shape (k,)."""
    good = np.isfinite(power_w)
    if bool(good.all()):
        return t_s, power_w, logic
    return t_s[good], power_w[good], None if logic is None else logic[good]
