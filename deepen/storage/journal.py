"""Append-only journals: one JSON document per line, of which a crash can tear only the last."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from deepen.errors import DeepenError

__all__ = ["JournalLineError", "JournalWriter", "replay_journal"]


class JournalLineError(ValueError):
    """A line other than the last is damaged.

    Attributes:
        number: Its number, from 1.
    """

    def __init__(self, number: int, reason: object) -> None:
        super().__init__(f"line {number} is damaged ({reason})")
        self.number = number


def replay_journal(data: bytes, take: Callable[[Any], None]) -> int:
    """Hand on the documents of a journal in order.

    Args:
        data: Content of the file.
        take: Takes a document; may refuse it by a ``DeepenError``, ``KeyError``, ``TypeError`` or ``ValueError``.

    Returns:
        Bytes up to the end of the last sound line: where the next one goes.

    Raises:
        JournalLineError: If a line that others follow is damaged or refused.
    """
    lines = data.split(b"\n")
    sound = 0
    for number, line in enumerate(lines[:-1], start=1):  # bytes after the last line break are torn
        try:
            take(json.loads(line))
        except (ValueError, KeyError, TypeError, DeepenError) as error:
            if number == len(lines) - 1:
                break
            raise JournalLineError(number, error) from error
        sound += len(line) + 1
    return sound


class JournalWriter:
    """Appends documents to an open journal.

    Args:
        descriptor: The file, open for writing; stays the caller's to close.
        end: Bytes that are sound; what follows is cut off.
        sync: Wait for the medium with every line.

    Raises:
        OSError: If the disk refuses.
    """

    def __init__(self, descriptor: int, end: int, *, sync: bool = True) -> None:
        self._descriptor, self._end, self._sync = descriptor, end, sync
        os.ftruncate(descriptor, end)

    def append(self, document: Any) -> None:
        """Write a document; it counts when this returns. What a failure leaves is overwritten by the next.

        Raises:
            OSError: If the disk refuses.
        """
        view = memoryview(json.dumps(document).encode() + b"\n")
        offset = self._end
        while view:  # a nearly full disk takes a part
            done = os.pwrite(self._descriptor, view, offset)
            view, offset = view[done:], offset + done
        if self._sync:
            os.fsync(self._descriptor)
        self._end = offset
