"""The store: a folder with a card, Parquet parts and a journal of the newest records.

::

    DIR/card.json                            what it is (see deepen.datasets.card)
    DIR/parts/part-00000001-00000256.parquet records by sequence number
    DIR/journal.jsonl                        newest records, one synced line each (see deepen.datasets.journal)
    DIR/.lock                                held by the one writer

A record is stored when ``append`` returns, and not before: ending the process at any moment loses at most the record
being written. Compaction writes a part aside, syncs it, renames it into place and only then empties the journal; what
is in both by then is told by its sequence number, so nothing is ever there twice.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from deepen.datasets.card import DatasetCard, hash_record_set, make_card, read_card
from deepen.datasets.journal import JournalContents, encode_journal_line, parse_journal
from deepen.datasets.parts import ParquetPart, list_parts, read_part, write_part
from deepen.datasets.record_schema import decode_record, encode_canonical_json, encode_record, hash_record
from deepen.errors import DatasetError
from deepen.kernels.types import hash_params
from deepen.records import EnergyRecord
from deepen.storage.atomic import (
    OS_DISK,
    Disk,
    WriterLock,
    make_folder,
    make_storage_error,
    sync_folder,
    write_file_atomically,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Dataset", "read_dataset"]

COMPACT_EVERY = 256
"""Journal records after which ``append`` compacts."""

SMALL_PART = 4096
"""Parts below this many records are merged with what comes after them."""

_ATTEMPTS = 5
"""Times a reader starts over when a writer compacts under its eyes."""


@dataclass(slots=True)
class _StoredRecord:
    """A stored record.

    Attributes:
        seq: Sequence number, rising from 1.
        record: The record.
        end: Offset after its journal line, bytes; 0 for a record of a part.
        digest: SHA-256 of its canonical JSON; empty until asked for.
    """

    seq: int
    record: EnergyRecord
    end: int = 0
    digest: bytes = b""


class Dataset:
    """An append-only store of energy records; open one with :meth:`open`.

    One process may write at a time; any number may read meanwhile, each seeing what was stored when it opened.

    Attributes:
        path: The folder.
        notes: What a reader should know: a torn last line that was dropped, records that are missing.
    """

    def __init__(self, path: Path, created: str, disk: Disk, compact_every: int) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        self._created = created
        self._disk = disk
        self._compact_every = compact_every
        self._lock: WriterLock | None = None
        self._journal = -1
        self._rows: list[_StoredRecord] = []
        self._parts: list[ParquetPart] = []
        self._merged: list[ParquetPart] = []
        self._keys: set[str] = set()
        self._features_version = 0
        self._indexed = 0

    @classmethod
    def open(
        cls,
        path: str | Path,
        create: bool = False,
        *,
        writable: bool | None = None,
        disk: Disk = OS_DISK,
        compact_every: int = COMPACT_EVERY,
    ) -> Self:
        """Open a dataset.

        Args:
            path: Its folder.
            create: Make it where there is none.
            writable: Become the writer now rather than at the first :meth:`append`; as ``create`` where not given.
            disk: What changes files.
            compact_every: Journal records after which :meth:`append` compacts.

        Raises:
            DatasetError: If there is none and ``create`` is false, or it is damaged, foreign or of a newer deepen.
            StorageError: If it cannot be written, or another process is writing.
        """
        folder = Path(path)
        if create:
            _create_dataset(folder, disk)
        dataset = cls(folder, str(read_card(folder / "card.json").get("created", "")), disk, compact_every)
        if create if writable is None else writable:
            dataset._become_writer()
        else:
            dataset.refresh()
        return dataset

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[EnergyRecord]:
        return (row.record for row in self._rows)

    def __repr__(self) -> str:
        return f"<Dataset {self.path} of {len(self)} records>"

    # Reading

    def refresh(self) -> None:
        """Read the folder again: a reader then sees what was stored meanwhile.

        Raises:
            DatasetError: If it is damaged, or was written by a newer deepen.
        """
        for attempt in range(_ATTEMPTS):
            try:
                self._load(retry=attempt + 1 < _ATTEMPTS)
            except _ConcurrentWrite:
                continue
            return

    def _load(self, retry: bool) -> None:
        path = self.path / "journal.jsonl"
        try:
            # The journal first: what a writer moves from it to a part meanwhile is then found in both, never in none.
            journal = parse_journal(path.read_bytes() if path.exists() else b"", path)
            parts, merged = list_parts(self.path)
            rows = [_StoredRecord(seq, record) for part in parts for seq, record in read_part(part)]
        except FileNotFoundError as error:
            if retry:
                raise _ConcurrentWrite from error
            raise DatasetError(f"{error.filename}: vanished while being read; try again") from error
        except OSError as error:
            raise DatasetError(f"{self.path}: cannot be read ({error.strerror}); check its permissions") from error
        except DatasetError:
            if retry and self._lock is None:
                raise _ConcurrentWrite from None
            raise
        if journal.truncated_bytes and retry and self._lock is None:
            raise _ConcurrentWrite
        covered = parts[-1].last if parts else 0
        rows += _decode_journal_records(journal, covered, path)
        self._rows, self._parts, self._merged = rows, parts, merged
        self._keys, self._features_version, self._indexed = set(), 0, 0
        self.notes = tuple(_list_notes(rows, journal, self.path))

    def records(self, kind: str | None = None) -> list[EnergyRecord]:
        """Records in the order stored.

        Args:
            kind: ``kernel`` or ``model``; all where not given.
        """
        return [record for record in self if kind is None or record.kind == kind]

    def keys(self) -> frozenset[str]:
        """Keys (:func:`deepen.kernels.types.hash_params`) of the kernel configurations stored."""
        self._index()
        return frozenset(self._keys)

    def model_names(self) -> frozenset[str]:
        """Names of the models stored."""
        return frozenset(record.name for record in self if record.kind == "model")

    def content_sha256(self) -> str:
        """Hash of the records, whatever their order and wherever in the folder they lie."""
        for row in self._rows:
            row.digest = row.digest or hash_record(row.record)
        return hash_record_set(row.digest for row in self._rows)

    @property
    def card(self) -> DatasetCard:
        """What the dataset is, up to date."""
        return make_card(self._created, self.records(), self.content_sha256())

    def frame(self, flatten: bool = False) -> pd.DataFrame:
        """Records as a table, one row each, columns named as the fields of ``EnergyRecord``, and ``key``.

        Args:
            flatten: Spread parameters and features over columns ``params.NAME`` and ``features.NAME``, and write what
                is still nested as JSON text.
        """
        from deepen.datasets.export import make_frame

        return make_frame(self.records(), flatten)

    @property
    def features_version(self) -> int:
        """Version of the features of its records; 0 while no record has any."""
        self._index()
        return self._features_version

    # Writing

    def claim(self) -> None:
        """Become the writer now rather than at the first :meth:`append`, and see what others stored until now.

        Raises:
            DatasetError: If the dataset is damaged.
            StorageError: If it cannot be written, or another process is writing.
        """
        self._become_writer()

    def append(self, record: EnergyRecord) -> int:
        """Store a record; it is on the disk when this returns, and only then.

        Args:
            record: What to store.

        Returns:
            Its sequence number.

        Raises:
            DatasetError: If the record cannot be stored, or its features have another version than those here.
            StorageError: If the disk refuses (the dataset stays as it was), or another process is writing.
        """
        self._become_writer()
        document = encode_record(record)
        self._check_features(record)
        seq = self._last + 1
        line = encode_journal_line(encode_canonical_json({"seq": seq, "record": document}))
        path = self.path / "journal.jsonl"
        try:
            end = self._repair_journal()
            self._disk.write(self._journal, line, end)
            self._disk.sync(self._journal)
            self._rows.append(_StoredRecord(seq, record, end + len(line)))  # the one step that makes it count
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._repair_journal()
            if isinstance(error, OSError):
                raise make_storage_error("write", path, error) from error
            raise
        if seq - self._covered >= self._compact_every:
            self.compact()
        return seq

    def extend(self, records: Sequence[EnergyRecord]) -> None:
        """Store many records at once: all are on the disk when this returns; should it fail, none is.

        Args:
            records: What to store.

        Raises:
            DatasetError: If a record cannot be stored, or its features have another version than those here.
            StorageError: If the disk refuses (the dataset stays as it was), or another process is writing.
        """
        self._become_writer()
        for record in records:
            encode_record(record)
            self._check_features(record)
        if not records:
            return
        self.compact()
        before = list(self._rows)
        try:
            self._rows += [_StoredRecord(self._last + 1 + i, record) for i, record in enumerate(records)]
            self.compact()
        except BaseException:
            if self._last > self._covered:
                self._rows = before
            raise

    def compact(self) -> None:
        """Move the journal's records to a part, merge small parts, and bring ``card.json`` up to date.

        Raises:
            StorageError: If the disk refuses; no record is lost.
        """
        self._become_writer()
        kept = list(self._parts)
        while kept and kept[-1].last - kept[-1].first + 1 < SMALL_PART:
            kept.pop()
        first = kept[-1].last + 1 if kept else 1
        rows = [row for row in self._rows if row.seq >= first]
        if self._last > self._covered or len(self._parts) - len(kept) > 1:
            part = write_part(self.path, [(row.seq, row.record) for row in rows], self._disk)
            self._merged += self._parts[len(kept) :]
            self._parts = [*kept, part]  # from here the journal's content is not needed
        try:
            self._repair_journal()
        except OSError as error:
            raise make_storage_error("write", self.path / "journal.jsonl", error) from error
        self._remove_merged()
        write_file_atomically(self.path / "card.json", self.card.encode(), self._disk)

    def close(self) -> None:
        """Compact, where anything was written, and let others write; may be called again."""
        try:
            if self._lock and self._last > self._covered:
                self.compact()
        finally:
            self._release()

    @property
    def _covered(self) -> int:
        """Last sequence number held by a part."""
        return self._parts[-1].last if self._parts else 0

    @property
    def _last(self) -> int:
        """Last sequence number."""
        return max(self._covered, self._rows[-1].seq if self._rows else 0)

    def _become_writer(self) -> None:
        if self._lock:
            return
        self._lock = WriterLock(self.path)
        try:
            self._load(retry=False)
            self._journal = self._disk.open(self.path / "journal.jsonl")
            self._repair_journal()
            sync_folder(self.path, self._disk)
            for temporary in [*self.path.glob(".*.tmp"), *self.path.glob("parts/.*.tmp")]:
                self._disk.remove(temporary)
            self._remove_merged()
        except OSError as error:
            self._release()
            raise make_storage_error("write in", self.path, error) from error
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1
        if self._lock:
            self._lock.release()
            self._lock = None

    def _repair_journal(self) -> int:
        """Cut off what does not count (a failed write, records now in a part); return the offset to write at."""
        end = self._rows[-1].end if self._rows and self._rows[-1].seq > self._covered else 0
        size = os.fstat(self._journal).st_size
        if size < end:
            raise DatasetError(f"{self.path / 'journal.jsonl'}: was cut by another program; open the dataset again")
        if size > end:
            self._disk.truncate(self._journal, end)
            self._disk.sync(self._journal)
        return end

    def _remove_merged(self) -> None:
        if not self._merged:
            return
        try:
            for part in self._merged:
                self._disk.remove(part.path)
            sync_folder(self.path / "parts", self._disk)
        except OSError as error:
            raise make_storage_error("write in", self.path / "parts", error) from error
        self._merged = []

    def _index(self) -> None:
        """Take in the rows added since the last call."""
        while self._indexed < len(self._rows):
            record = self._rows[self._indexed].record
            if record.kind == "kernel":
                self._keys.add(hash_params(record.family, record.params))
            self._features_version = max(self._features_version, record.features_version)
            self._indexed += 1

    def _check_features(self, record: EnergyRecord) -> None:
        known = self.features_version
        if record.features_version and known and record.features_version != known:
            raise DatasetError(
                f"{self.path}: holds features of version {known}, record '{record.name}' has version "
                f"{record.features_version}; build a new dataset in another folder"
            )


def _create_dataset(folder: Path, disk: Disk) -> None:
    """Make an empty dataset where there is none; the card comes first, so no record is ever without one."""
    make_folder(folder)
    names = {path.name for path in folder.iterdir()}
    if "card.json" in names:
        return
    if names & {"journal.jsonl", "parts"}:
        raise DatasetError(f"{folder}: holds records but no card.json; restore it from a copy")
    lock = WriterLock(folder)
    try:
        write_file_atomically(folder / "card.json", make_card("", (), hash_record_set(())).encode(), disk)
    finally:
        lock.release()


class _ConcurrentWrite(Exception):
    """A writer changed the folder while it was being read: start over."""


def _decode_journal_records(journal: JournalContents, covered: int, path: Path) -> list[_StoredRecord]:
    rows: list[_StoredRecord] = []
    last = covered
    for number, (document, end) in enumerate(zip(journal.documents, journal.ends, strict=True), start=1):
        where = f"{path}, line {number}"
        seq, body = document.get("seq"), document.get("record")
        if not isinstance(seq, int) or not isinstance(body, dict):
            raise DatasetError(f"{where}: not a journal line; restore the file from a copy")
        if seq <= covered:
            continue
        if seq <= last:
            raise DatasetError(f"{where}: record {seq} follows record {last}; restore the file from a copy")
        rows.append(_StoredRecord(seq, decode_record(body, where), end))
        last = seq
    return rows


def _list_notes(rows: list[_StoredRecord], journal: JournalContents, folder: Path) -> Iterator[str]:
    if journal.truncated_bytes:
        lost = journal.truncated_bytes
        yield f"{folder}: the last line of the journal was torn by a crash; its {lost} bytes were dropped"
    missing = (rows[-1].seq if rows else 0) - len(rows)
    if missing:
        yield f"{folder}: {missing} of {rows[-1].seq} records are missing (deleted parts or lines)"


def read_dataset(path: str | Path, flatten: bool = False) -> pd.DataFrame:
    """Read a dataset as a table, one row per measured kernel or model.

    Args:
        path: The dataset's folder.
        flatten: Spread parameters and features over columns of their own.

    Raises:
        DatasetError: If there is none, or it is damaged or of a newer deepen.
    """
    return Dataset.open(path).frame(flatten)
