"""The journal of changed settings, on the host's disk before the device is changed and removed once all is restored.

There is one file per device, named by its serial number, with one JSON line per event, synced before the next step. A
process that holds the journal holds its ``flock``, which the kernel releases however the process dies. Changes are
grouped in layers: settings of ``device prepare`` are held until ``--restore``; those of a run are restored at its end
or, if the run died, by the next process that opens the journal. Only the last line can be torn, and a change whose line
is torn has not been made.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepen.clock.host_clock import utc_now
from deepen.devices.settings.access import SettingLocation
from deepen.errors import ConfigError, LinkError, StorageError
from deepen.storage.journal import JournalLineError, JournalWriter, replay_journal
from deepen.storage.locks import lock_file

__all__ = [
    "JournalLayer",
    "RestoreJournal",
    "SettingChange",
    "get_journal_folder",
    "hold_journal",
    "list_open_journals",
]


@dataclass(frozen=True, slots=True)
class JournalLayer:
    """Changes made together.

    Attributes:
        number: Its position, from 1.
        hold: True if it is held until a restore is requested.
        boot_id: Boot of the device in which it was made; empty where unknown.
        device: Readable name of the device.
        recorded_at: Time of creation, ISO-8601 UTC.
    """

    number: int
    hold: bool
    boot_id: str
    device: str
    recorded_at: str


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One setting that was changed, or is about to be.

    Attributes:
        number: Its position in the journal, from 1.
        layer: The layer it belongs to.
        knob: Name of the setting, for example ``governor``.
        place: Its place on the device.
        before: Value to restore.
        wanted: Value to set; ``None`` for a place that another change may move.
        after: Value read back; ``None`` if not in the journal.
        restored: True once it has been restored.
    """

    number: int
    layer: int
    knob: str
    place: SettingLocation
    before: str
    wanted: str | None
    after: str | None = None
    restored: bool = False


def get_journal_folder() -> Path:
    """Return the journals' folder: ``$DEEPEN_STATE/devices``, else below ``$XDG_STATE_HOME`` or ``~/.local/state``."""
    if os.environ.get("DEEPEN_STATE"):
        return Path(os.environ["DEEPEN_STATE"]) / "devices"
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "deepen" / "devices"


def list_open_journals(folder: Path | None = None) -> list[tuple[Path, JournalLayer, int]]:
    """List the journals with settings to restore: file, newest layer, and number of settings.

    Raises:
        ConfigError: If one is damaged.
    """
    where = folder or get_journal_folder()
    found = []
    for path in sorted(where.glob("*.jsonl")) if where.is_dir() else []:
        layers, changes, _ = _parse_journal(path.read_bytes(), path)
        open_changes = [c for c in changes.values() if not c.restored]
        if layers and open_changes:
            found.append((path, max(layers.values(), key=lambda layer: layer.number), len(open_changes)))
    return found


def _parse_journal(data: bytes, path: Path) -> tuple[dict[int, JournalLayer], dict[int, SettingChange], int]:
    """Parse a journal into layers and changes by number, and the number of undamaged bytes."""
    layers: dict[int, JournalLayer] = {}
    changes: dict[int, SettingChange] = {}
    try:
        sound = replay_journal(data, lambda event: _apply_event(event, layers, changes))
    except JournalLineError as error:
        raise ConfigError(f"{path}: {error}; correct or delete that line, then restore again") from error
    return layers, changes, sound


def _apply_event(event: dict[str, Any], layers: dict[int, JournalLayer], changes: dict[int, SettingChange]) -> None:
    what, number = event["event"], int(event["number"])
    if what == "layer":
        texts = {key: str(event[key]) for key in ("boot_id", "device", "recorded_at")}
        layers[number] = JournalLayer(number, bool(event["hold"]), **texts)
    elif what == "change":
        wanted = event["wanted"]
        changes[number] = SettingChange(
            number,
            int(event["layer"]),
            str(event["knob"]),
            SettingLocation(str(event["kind"]), str(event["address"])),
            str(event["before"]),
            None if wanted is None else str(wanted),
        )
    elif what == "set":
        changes[number] = replace(changes[number], after=None if event["after"] is None else str(event["after"]))
    elif what == "restored":
        changes[number] = replace(changes[number], restored=True)
    else:
        raise ValueError(f"unknown event {what!r}")


class RestoreJournal:
    """The journal of one device, held by this process."""

    def __init__(self, key: str, device: str, folder: Path | None = None) -> None:
        """Open and lock it.

        Args:
            key: Name of the device's file (``Identity.key``).
            device: Readable name of the device.
            folder: Folder of journals; ``None`` for the user's.

        Raises:
            LinkError: If another process holds it: it is changing this device's settings.
            ConfigError: If it is damaged.
            StorageError: If the disk refuses it.
        """
        where = folder or get_journal_folder()
        self.path = where / f"{key}.jsonl"
        self._device = device
        self._fd = -1
        try:
            where.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = self._lock()
            data = self._read()
        except OSError as error:
            raise self._storage(error) from error
        try:
            self.layers, self._changes, sound = _parse_journal(data, self.path)
            self._writer = JournalWriter(self._fd, sound)
        except BaseException:
            os.close(self._fd)
            raise

    def _lock(self) -> int:
        try:
            return lock_file(self.path)
        except BlockingIOError as error:
            raise LinkError(
                f"another process is changing the settings of {self._device} (it holds {self.path}); end that first"
            ) from error

    def _read(self) -> bytes:
        parts = []
        while part := os.read(self._fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)

    def pending(self, layer: int | None = None) -> list[SettingChange]:
        """Return the changes not restored yet, in order, of one layer or of all."""
        return [c for c in self._changes.values() if not c.restored and (layer is None or c.layer == layer)]

    def begin(self, *, hold: bool, boot_id: str) -> int:
        """Start a layer; return its number."""
        number = max(self.layers, default=0) + 1
        self._append(
            event="layer", number=number, hold=hold, boot_id=boot_id, device=self._device, recorded_at=utc_now()
        )
        return number

    def change(self, layer: int, knob: str, place: SettingLocation, before: str, wanted: str | None) -> int:
        """Record a change that is about to be made and return its number; it is on the disk when this returns.

        Raises:
            StorageError: If the disk refuses it: the change must not be made.
        """
        number = max(self._changes, default=0) + 1
        self._append(
            event="change",
            number=number,
            layer=layer,
            knob=knob,
            kind=place.kind,
            address=place.address,
            before=before,
            wanted=wanted,
        )
        return number

    def set(self, number: int, after: str | None) -> None:
        """Record the value read back."""
        self._append(event="set", number=number, after=after)

    def restored(self, number: int) -> None:
        """Record that a change has been restored."""
        self._append(event="restored", number=number)

    def close(self) -> None:
        """Release the lock, and remove the file if nothing is left to restore; harmless when repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if not self.pending():
                self.path.unlink(missing_ok=True)
            os.close(fd)

    def _append(self, **event: Any) -> None:
        try:
            self._writer.append(event)
        except OSError as error:
            raise self._storage(error) from error
        _apply_event(event, self.layers, self._changes)

    def _storage(self, error: OSError) -> StorageError:
        return StorageError(
            f"cannot keep the journal {self.path} ({error.strerror}), and without it no setting is changed; "
            "make its folder writable or set DEEPEN_STATE"
        )


@contextlib.contextmanager
def hold_journal(key: str, device: str, folder: Path | None = None) -> Iterator[RestoreJournal]:
    """Hold a device's journal for the length of a ``with`` block."""
    journal = RestoreJournal(key, device, folder)
    try:
        yield journal
    finally:
        journal.close()
