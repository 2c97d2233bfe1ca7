"""Reads from a terminal, pipe or socket that do not depend on where one read ends."""

from __future__ import annotations

import os
import select
import time

PATIENCE_S = 120.0
"""Wall time after which something will never come; long, because the machine may be busy."""


def read_bytes(descriptor: int, size: int) -> bytes:
    """Read until so many bytes have come, and what came with the last of them.

    Raises:
        AssertionError: If they do not come.
    """
    data, end_s = b"", time.monotonic() + PATIENCE_S
    while len(data) < size:
        ready, _, _ = select.select([descriptor], [], [], max(end_s - time.monotonic(), 0.0))
        assert ready, f"only {data!r} came"
        data += os.read(descriptor, 4096)
    return data
