"""Records, and disks that fail, for the tests of the store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepen.records import EnergyRecord
from deepen.storage.atomic import OsDisk
from tests.support.records import make_energy_record

MakeRecord = Callable[..., EnergyRecord]


@pytest.fixture(scope="session")
def make_record() -> MakeRecord:
    """Factory of records; ``index`` makes kernels differ, keywords replace fields."""
    return make_energy_record


class Crash(BaseException):
    """The process ends here: no later operation of the same disk takes effect."""


class CrashingDisk(OsDisk):
    """A disk whose process ends at one operation, after doing none, half or all of it.

    Args:
        at: Number of the operation that ends it, from 0.
        part: How much of that operation still happens: ``none``, ``half`` (writes only) or ``all``.
    """

    def __init__(self, at: int, part: str) -> None:
        self.at = at
        self.part = part
        self.calls = 0

    @property
    def crashed(self) -> bool:
        return self.calls > self.at

    def _step(self, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        number, self.calls = self.calls, self.calls + 1
        if number < self.at:
            return act()
        if number == self.at and self.part == "all":
            act()
        if number == self.at and self.part == "half" and half:
            half()
        raise Crash

    def open(self, path: Path) -> int:
        if self.calls == self.at and self.part == "all":
            os.close(super().open(path))
            self.part = "none"
        return int(self._step(lambda: super(CrashingDisk, self).open(path)))

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        parent = super()
        self._step(
            lambda: parent.write(descriptor, data, offset),
            lambda: parent.write(descriptor, data[: len(data) // 2], offset),
        )

    def sync(self, descriptor: int) -> None:
        parent = super()
        self._step(lambda: parent.sync(descriptor))

    def truncate(self, descriptor: int, length: int) -> None:
        parent = super()
        self._step(lambda: parent.truncate(descriptor, length))

    def replace(self, source: Path, target: Path) -> None:
        parent = super()
        self._step(lambda: parent.replace(source, target))

    def remove(self, path: Path) -> None:
        parent = super()
        self._step(lambda: parent.remove(path))


class FailingDisk(OsDisk):
    """A disk on which chosen operations fail, for as long as ``failing`` is true.

    Args:
        error: Error number, for example ``errno.ENOSPC``.
        verbs: Operations that fail.
        half: Whether a failing write first writes half of its data.
    """

    def __init__(self, error: int, verbs: tuple[str, ...], half: bool = True) -> None:
        self.error = error
        self.verbs = verbs
        self.half = half
        self.failing = False

    def _fail(self, verb: str) -> None:
        if self.failing and verb in self.verbs:
            raise OSError(self.error, os.strerror(self.error))

    def open(self, path: Path) -> int:
        self._fail("open")
        return super().open(path)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        if self.failing and "write" in self.verbs and self.half:
            super().write(descriptor, data[: len(data) // 2], offset)
        self._fail("write")
        super().write(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        self._fail("sync")
        super().sync(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        self._fail("truncate")
        super().truncate(descriptor, length)

    def replace(self, source: Path, target: Path) -> None:
        self._fail("replace")
        super().replace(source, target)

    def remove(self, path: Path) -> None:
        self._fail("remove")
        super().remove(path)


@pytest.fixture
def crashing_disk() -> Callable[[int, str], CrashingDisk]:
    """Factory of disks whose process ends at a chosen operation."""
    return CrashingDisk


@pytest.fixture
def crash() -> type[BaseException]:
    """What a crashing disk raises."""
    return Crash


@pytest.fixture
def failing_disk() -> Callable[..., FailingDisk]:
    """Factory of disks on which chosen operations fail."""
    return FailingDisk
