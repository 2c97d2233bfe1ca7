"""Blocks of samples of a Joulescope, framed as bytes, and the parser that turns them into samples.

A block of the maker's driver has the number of its first sample in the instrument's native stream, the native samples
per element, and the values (``doc/streaming_topics.md`` of joulescope_driver, Apache-2.0). Frames carry a magic word
and a CRC-32, so that they can be found again after damage in storage or transmission.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deepen.meters.stream.types import Samples, StreamCounts

__all__ = ["INPUT", "POWER", "JoulescopeParser", "frame_block"]

POWER, INPUT = 0x40, 0x80

_HEADER = struct.Struct("<2sBxIQI")
_MAGIC = b"JS"
_CRC = struct.Struct("<I")
_MAX_BYTES = 1 << 20
_FURTHEST = 1 << 62


def frame_block(kind: int, sample_id: int, decimate: int, data: bytes) -> bytes:
    """Frame a block of the driver: magic, kind, decimation, number of the first sample, size, data, CRC-32.

    Args:
        kind: ``POWER``, or ``INPUT`` plus the number of an input.
        sample_id: Number of the first sample in the native stream.
        decimate: Native samples per element.
        data: Power as float32, or input bits, eight to a byte, the first in bit 0.
    """
    head = _HEADER.pack(_MAGIC, kind, decimate, sample_id, len(data))
    return head + data + _CRC.pack(zlib.crc32(data, zlib.crc32(head)))


class _InputBits:
    """The bits received of one input, from position ``start`` on."""

    def __init__(self) -> None:
        self.start = -1
        self.bits = np.empty(0, np.uint8)

    @property
    def end(self) -> int:
        return self.start + self.bits.size

    def add(self, first: int, bits: NDArray[np.uint8], limit: int) -> int:
        """Add bits and return the number missing before them, which are filled with the last level."""
        if self.start < 0 or first - self.end > limit:
            missed = max(first - self.end, 0) if self.start >= 0 else 0
            self.start, self.bits = first, bits
            return missed
        missed = max(first - self.end, 0)
        held = np.full(missed, self.bits[-1] if self.bits.size else 0, np.uint8)
        self.bits = np.concatenate([self.bits, held, bits[max(self.end - first, 0) :]])
        return missed

    def take(self, first: int, count: int) -> NDArray[np.uint8]:
        """Return the bits of positions from ``first`` on, and drop earlier ones."""
        at = first - self.start
        found = self.bits[at : at + count]
        self.start, self.bits = first + count, self.bits[at + count :]
        return found


class JoulescopeParser:
    """Parser of framed blocks; power samples wait for the inputs of the same positions."""

    def __init__(self, rate_hz: float, inputs: tuple[int, ...] = ()) -> None:
        """Begin a stream.

        Args:
            rate_hz: Samples in a second; power waits for inputs for at most as many.
            inputs: Inputs that are recorded.
        """
        self.tally = StreamCounts()
        self._limit = int(rate_hz)
        self._tracks = {k: _InputBits() for k in inputs}
        self._buffer = b""
        self._locked = True
        self._next = -1
        self._waiting: deque[tuple[int, NDArray[np.float64]]] = deque()

    def feed(self, data: bytes) -> Samples:
        """Parse the next bytes of the stream, split anywhere, and return the samples they complete."""
        done: list[Samples] = []
        for kind, sample_id, decimate, values in self._blocks(data):
            if not decimate or sample_id // decimate > _FURTHEST:
                self.tally.corrupt += 1
                continue
            first = sample_id // decimate
            if kind == POWER:
                self._power(first, values)
            elif kind - INPUT in self._tracks:
                bits = np.unpackbits(np.frombuffer(values, np.uint8), bitorder="little")
                if self._tracks[kind - INPUT].add(first, bits, self._limit):
                    self.tally.note(f"input {kind - INPUT} has gaps; its level was taken to have lasted through them")
            done += self._release()
        return Samples.join(done)

    def _blocks(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield whole blocks: kind, number of the first sample, decimation, data."""
        view = self._buffer + data
        at = 0
        while at < len(view):
            whole = at + _HEADER.size <= len(view)
            good = view.startswith(_MAGIC[: len(view) - at], at)
            if good and not whole:
                break
            if good:
                _, kind, decimate, sample_id, size = _HEADER.unpack_from(view, at)
                end = at + _HEADER.size + size
                good = size <= _MAX_BYTES
            if good and end + _CRC.size > len(view):
                break
            if good and zlib.crc32(view[at:end]) == _CRC.unpack_from(view, end)[0]:
                yield kind, sample_id, decimate, view[at + _HEADER.size : end]
                self._locked = True
                at = end + _CRC.size
                continue
            self.tally.corrupt += self._locked
            self._locked = False
            # The next place where a block may begin; the last byte may be the first half of a magic word.
            begin = view.find(_MAGIC, at + 1)
            begin = begin if begin >= 0 else max(at + 1, len(view) - view.endswith(_MAGIC[:1]))
            self.tally.skipped_bytes += begin - at
            at = begin
        self._buffer = view[at:]

    def _power(self, first: int, values: bytes) -> None:
        with np.errstate(invalid="ignore"):  # lost samples are NaN, of whichever kind
            power = np.frombuffer(values[: len(values) // 4 * 4], "<f4").astype(np.float64)
        if self._next >= 0 and first < self._next:
            self.tally.duplicates += 1
            power = power[self._next - first :]
            first = self._next
        elif self._next >= 0:
            self.tally.lost += first - self._next
        if power.size:
            self._next = first + power.size
            self._waiting.append((first, power))

    def _release(self) -> Iterator[Samples]:
        """Return the samples whose inputs are known."""
        while self._waiting:
            first, power = self._waiting[0]
            known = self._next
            for track in self._tracks.values():
                if track.start < 0:
                    known = min(known, first if self._next - first <= self._limit else self._next)
                else:
                    known = min(known, track.end)
            if self._next - known > self._limit:
                self.tally.note("an input stopped coming; it is recorded as low from there")
                known = self._next
            count = min(known - first, power.size)
            if count <= 0:
                return
            self._waiting[0] = (first + count, power[count:])
            if count == power.size:
                self._waiting.popleft()
            yield self._samples(first, power[:count])

    def _samples(self, first: int, power: NDArray[np.float64]) -> Samples:
        logic = np.zeros(power.size, np.uint8) if self._tracks else None
        if logic is not None:
            for k, track in self._tracks.items():
                skip = min(max(track.start - first, 0), power.size) if track.start >= 0 else power.size
                bits = track.take(first + skip, power.size - skip) if skip < power.size else np.empty(0, np.uint8)
                logic[skip : skip + bits.size] |= bits << np.uint8(k)
        index = first + np.arange(power.size, dtype=np.int64)
        missing = ~np.isfinite(power)
        if missing.any():
            self.tally.lost += int(np.count_nonzero(missing))
            index, power = index[~missing], power[~missing]
            logic = None if logic is None else logic[~missing]
        return Samples(index, power, logic=logic)
