"""Detached runs on the host's disk until they are collected: a folder with the request and the power trace."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepen.clock.round_trips import RoundTrip
from deepen.devices.background_jobs import DetachedJob
from deepen.devices.settings.restore_journal import get_journal_folder
from deepen.errors import ConfigError, StorageError
from deepen.measure.alignment.load_pattern import SyncPulses
from deepen.measure.detached.plan import DetachedStep
from deepen.storage.locks import is_file_locked, lock_file

__all__ = ["PendingRun", "get_detached_folder", "list_pending_runs", "read_host_boot_id", "save_pending_run"]

_FILE = "job.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class PendingRun:
    """A detached run that has not been collected.

    Attributes:
        job: Its name and place on the device.
        device: Profile id of the device.
        serial: Its serial number.
        model: Name of the model file.
        content: Hash of the model.
        workload: Conditions it runs under: ``runtime``, ``threads``, ``shapes``, ``seconds``,
            ``inputs`` (as in a record) and ``input_warnings``.
        build: Runtime version, provider, level and threads.
        runs: Inferences in a block.
        steps: Steps of the worker.
        first: Number of requests before the first step.
        pulses: The sync pattern; ``None`` for none.
        trips: Round trips before the cut.
        state: The device before: ``temperature_c``, ``counters``.
        settings: Settings asked for, as ``EnergyRecord.settings`` has them.
        started_at: UTC, ISO-8601.
        host_boot: Start of the host in which its times count.
    """

    job: DetachedJob
    device: str
    serial: str
    model: str
    content: str
    workload: Mapping[str, Any]
    build: str
    runs: int
    steps: tuple[DetachedStep, ...]
    first: int
    pulses: SyncPulses | None
    trips: tuple[RoundTrip, ...]
    state: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    started_at: str
    host_boot: str

    @property
    def folder(self) -> Path:
        """Its folder on this machine."""
        return get_detached_folder() / self.job.token

    @property
    def trace(self) -> Path:
        """Its power trace."""
        return self.folder / "power.trace"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Mark it as in progress for a block; ``flock`` ends with the process however it ends."""
        fd = lock_file(self.folder / _FILE, wait=True, create=False)
        try:
            yield
        finally:
            os.close(fd)

    @property
    def in_progress(self) -> bool:
        """True while a process works on it, so that it must not be collected or removed."""
        return is_file_locked(self.folder / _FILE)

    def forget(self) -> None:
        """Remove its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def get_detached_folder() -> Path:
    """Folder of the runs to be collected, beside the journals of settings."""
    return get_journal_folder().parent / "detached"


def read_host_boot_id() -> str:
    """Start of this machine; empty where it does not tell. The monotonic clock means nothing beyond it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def save_pending_run(pending: PendingRun) -> None:
    """Write a run to the disk; it is there when this returns.

    Raises:
        StorageError: If the disk refuses.
    """
    from deepen.devices.links.files import open_atomic_file

    steps = [[s.op, s.amount, s.label] for s in pending.steps]
    document = {**asdict(pending), "version": _VERSION, "steps": steps}
    if pending.pulses is not None:
        document["pulses"].pop("player")
    try:
        pending.folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise StorageError(
            f"cannot make {pending.folder} ({error.strerror})", cure="make its parent writable, or set DEEPEN_STATE"
        ) from error
    with open_atomic_file(pending.folder / _FILE) as file:
        file.write(json.dumps(document).encode())


def list_pending_runs() -> list[PendingRun]:
    """List the runs that have not been collected, the oldest first.

    Raises:
        ConfigError: If one is damaged.
    """
    found = []
    folder = get_detached_folder()
    for path in sorted(folder.glob(f"*/{_FILE}")) if folder.is_dir() else []:
        try:
            found.append(_decode_pending_run(json.loads(path.read_bytes())))
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            raise ConfigError(f"{path}: is damaged ({error})", cure=f"remove the folder {path.parent}") from error
    return sorted(found, key=lambda p: p.started_at)


def _decode_pending_run(document: dict[str, Any]) -> PendingRun:
    if document.pop("version") != _VERSION:
        raise ValueError("another version of deepen wrote it")
    return PendingRun(
        **{
            **document,
            "job": DetachedJob(**document["job"]),
            "steps": tuple(DetachedStep(*step) for step in document["steps"]),
            "pulses": None if document["pulses"] is None else SyncPulses(**document["pulses"]),
            "trips": tuple(RoundTrip(**trip) for trip in document["trips"]),
        }
    )
