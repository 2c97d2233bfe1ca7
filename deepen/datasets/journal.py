r"""The journal: one line per record, on the disk before ``append`` returns.

A line is ``CRC LENGTH JSON\n``: CRC-32 of the JSON's bytes in eight hex digits, their number in decimal, the JSON
itself (which holds no line break). Each line is written and synced before the next one starts, so a crash can tear
only the last line; any other bad line is damage.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepen.errors import DatasetError

__all__ = ["JournalContents", "encode_journal_line", "parse_journal"]


@dataclass(frozen=True, slots=True)
class JournalContents:
    """What a journal holds.

    Attributes:
        documents: The records' JSON documents, in the order written.
        ends: Offset after each document's line, bytes.
        torn: Bytes after the last sound line: one that was being written when the process ended.
    """

    documents: tuple[dict[str, Any], ...]
    ends: tuple[int, ...]
    truncated_bytes: int


def encode_journal_line(text: str) -> bytes:
    """Make the line for a JSON text without line breaks."""
    body = text.encode()
    return b"%08x %d %s\n" % (zlib.crc32(body), len(body), body)


def _decode_journal_line(line: bytes) -> dict[str, Any] | None:
    """Document of a line without its line break, or ``None`` if the line is not sound."""
    crc, _, rest = line.partition(b" ")
    length, _, body = rest.partition(b" ")
    try:
        sound = len(crc) == 8 and int(length) == len(body) and int(crc, 16) == zlib.crc32(body)
        document = json.loads(body) if sound else None
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def parse_journal(data: bytes, path: Path) -> JournalContents:
    """Read a journal.

    Args:
        data: The file's content.
        path: Its name, for messages.

    Raises:
        DatasetError: If a line other than the last is not sound.
    """
    documents: list[dict[str, Any]] = []
    ends: list[int] = []
    start = 0
    while start < len(data):
        stop = data.find(b"\n", start)
        document = _decode_journal_line(data[start:stop]) if stop >= 0 else None
        if document is None:
            if stop >= 0 and stop + 1 < len(data):
                raise DatasetError(
                    f"{path}: line {len(documents) + 1} is damaged; restore the file from a copy, "
                    "or delete that line to go on without its record"
                )
            break
        start = stop + 1
        documents.append(document)
        ends.append(start)
    return JournalContents(tuple(documents), tuple(ends), len(data) - start)
