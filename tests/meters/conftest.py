from __future__ import annotations

import os
import tty
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest


@pytest.fixture
def sysfs(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Write files below a fake root and return the root."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """A pseudo-terminal: descriptor of its master, and path of the other end."""
    master, slave = os.openpty()
    tty.setraw(master)
    path = os.ttyname(slave)
    os.close(slave)
    yield master, path
    with suppress(OSError):  # a test may have unplugged it
        os.close(master)
