"""The store: records in one SQLite file, appended exactly once, read by many beside one writer.

::

    NAME.db                    records and metadata (see deepen.datasets.database); DIR stands for DIR/records.db
    NAME.db-wal, NAME.db-shm   records not yet in it; SQLite's own, removed when the last process closes the file
    .NAME.db.lock              held by the one writer

A record is stored when ``append`` returns, and not before: it is on the medium then, and survives a power cut. A record
is known by the hash of its document, so storing it again after a doubtful end changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from deepen.datasets.card import DatasetCard, hash_record_set, make_card
from deepen.datasets.database import (
    check_pages,
    check_schema,
    create_database,
    locate_companion_folder,
    locate_database,
    open_database,
    translate_database_errors,
)
from deepen.datasets.record_schema import decode_record, encode_canonical_json, encode_record
from deepen.errors import DatasetError, DeepenError, StorageError
from deepen.kernels.types import hash_params
from deepen.records import EnergyRecord
from deepen.storage.atomic import make_folder, make_storage_error
from deepen.storage.locks import lock_file, read_lock_owner, write_lock_owner

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Dataset", "read_dataset"]

_COLUMNS = ("kind", "family", "device", "serial", "runtime", "threads", "meter", "source", "recorded_at")
"""Fields that have a column of their own, for those who filter by them in SQL."""

_INSERT = (
    "INSERT INTO records "
    "(seq, key, kind, family, device, serial, runtime, threads, meter, source, recorded_at, document) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT = (
    "SELECT seq, key, document, kind, family, device, serial, runtime, threads, meter, source, recorded_at "
    "FROM records ORDER BY seq"
)


@dataclass(frozen=True, slots=True)
class _StoredRecord:
    """A stored record.

    Attributes:
        seq: Sequence number, rising from 1.
        key: SHA-256 of its document in hex; that of a repetition equal to the last bit ends in ``-2``, ``-3`` ...
        record: The record.
    """

    seq: int
    key: str
    record: EnergyRecord


class Dataset:
    """An append-only store of energy records; open one with :meth:`open`.

    One process may write at a time; any number may read meanwhile, each seeing what was stored when it opened.

    Attributes:
        path: As given: the file, or the folder it is in.
        file: The SQLite file.
        notes: What a reader should know: records that are missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = locate_database(path)
        self.notes: tuple[str, ...] = ()
        self._created = ""
        self._lock = -1
        self._connection: sqlite3.Connection | None = None
        self._rows: list[_StoredRecord] = []
        self._by_key: dict[str, _StoredRecord] = {}

    @classmethod
    def open(cls, path: str | Path, create: bool = False, *, writable: bool | None = None) -> Self:
        """Open a dataset.

        Args:
            path: A file ``NAME.db``, or a folder, which stands for ``records.db`` in it.
            create: Make it where there is none.
            writable: Become the writer now rather than at the first :meth:`append`; as ``create`` where not given.

        Raises:
            DatasetError: If there is none and ``create`` is false, or it is damaged, foreign or of a newer deepen.
            StorageError: If it cannot be written, or another process is writing.
        """
        dataset = cls(Path(path))
        if create:
            dataset._create()
        try:
            if create if writable is None else writable:
                dataset.claim()
            else:
                dataset._release()
                dataset.refresh()
        except BaseException:
            dataset._release()
            raise
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

    @property
    def folder(self) -> Path:
        """Folder for what belongs to the records: the one given, or ``NAME.files`` beside a file ``NAME.db``."""
        return locate_companion_folder(self.path)

    # Reading

    def refresh(self) -> None:
        """Read the file again: a reader then sees what was stored meanwhile.

        Raises:
            DatasetError: If it is damaged, foreign, or was written by a newer deepen.
            StorageError: If it cannot be opened.
        """
        if self._connection is not None:
            self._load(self._connection)
            return
        connection = open_database(self.file, writable=False)
        try:
            self._load(connection)
        finally:
            connection.close()

    def _load(self, connection: sqlite3.Connection) -> None:
        """Read everything there is, as of one moment."""
        check_schema(connection, self.file)
        with translate_database_errors("read", self.file):
            connection.execute("BEGIN")
            try:
                metadata = dict(connection.execute("SELECT name, value FROM metadata"))
                (indexed,) = connection.execute(
                    "SELECT count(*) FROM records INDEXED BY sqlite_autoindex_records_1"
                ).fetchone()
                try:
                    rows = list(self._read_rows(connection))
                    if len(rows) != indexed:
                        what = f"{len(rows)} records, {indexed} in the index"
                        raise DatasetError(f"{self.file}: damaged ({what}); restore it from a copy")
                except DatasetError:
                    check_pages(connection, self.file)  # where the pages are damaged, that is the reason to give
                    raise
            finally:
                connection.execute("ROLLBACK")
        self._created = str(metadata.get("created", ""))
        self._rows = rows
        self._by_key = {row.key: row for row in rows}
        missing = (rows[-1].seq if rows else 0) - len(rows)
        note = f"{self.path}: {missing} of {len(rows) + missing} records are missing (deleted rows)"
        self.notes = (note,) if missing else ()

    def _read_rows(self, connection: sqlite3.Connection) -> Iterator[_StoredRecord]:
        """Read and check the rows: rising numbers, documents that fit their key, columns that fit the documents.

        Raises:
            DatasetError: If a row is not as it was stored; the message names it.
        """
        last = 0
        for seq, key, document, *columns in connection.execute(_SELECT):
            where = f"{self.file}, record {seq}"
            # 1. A damaged file may lead in circles.
            if not isinstance(seq, int) or seq <= last:
                raise DatasetError(f"{where}: follows record {last}; restore the file from a copy")
            # 2. The document is the one that was stored.
            if not isinstance(document, str) or not isinstance(key, str) or _hash_text(document) != key[:64]:
                raise DatasetError(f"{where}: damaged (does not fit its key); restore the file from a copy")
            # 3. It is a record, and the columns say the same.
            try:
                decoded = json.loads(document)
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{where}: damaged ({error}); restore the file from a copy") from error
            if not isinstance(decoded, dict):
                raise DatasetError(f"{where}: not a deepen record; restore the file from a copy")
            record = decode_record(decoded, where)
            for name, value in zip(_COLUMNS, columns, strict=True):
                if getattr(record, name) != value:
                    raise DatasetError(
                        f"{where}: column {name} is not what its document says; restore the file from a copy"
                    )
            last = seq
            yield _StoredRecord(seq, key, record)

    def records(self, kind: str | None = None) -> list[EnergyRecord]:
        """Records in the order stored.

        Args:
            kind: ``kernel`` or ``model``; all where not given.
        """
        return [record for record in self if kind is None or record.kind == kind]

    def keys(self) -> frozenset[str]:
        """Keys (:func:`deepen.kernels.types.hash_params`) of the kernel configurations stored."""
        return frozenset(hash_params(record.family, record.params) for record in self if record.kind == "kernel")

    def model_names(self) -> frozenset[str]:
        """Names of the models stored."""
        return frozenset(record.name for record in self if record.kind == "model")

    def content_sha256(self) -> str:
        """Hash of the records, whatever their order."""
        return hash_record_set(bytes.fromhex(row.key[:64]) for row in self._rows)

    @property
    def card(self) -> DatasetCard:
        """Summary of the records as they are now."""
        return make_card(self._created, self.records(), self.content_sha256())

    def frame(self, flatten: bool = False) -> pd.DataFrame:
        """Records as a table, one row each, columns named as the fields of ``EnergyRecord``, and ``key``.

        Args:
            flatten: Spread parameters and features over columns ``params.NAME`` and ``features.NAME``, and write what
                is still nested as JSON text.
        """
        from deepen.datasets.export import make_frame

        return make_frame(self.records(), flatten)

    # Writing

    def claim(self) -> None:
        """Become the writer now rather than at the first :meth:`append`, and see what others stored until now.

        Raises:
            DatasetError: If the dataset is damaged.
            StorageError: If it cannot be written, or another process is writing.
        """
        if self._connection is not None:
            return
        try:
            self._take_lock()
            doubtful = self._find_leftover_log()
            self._connection = open_database(self.file, writable=True)
            if doubtful:
                check_schema(self._connection, self.file)
                check_pages(self._connection, self.file)
            self._load(self._connection)
        except BaseException:
            self._release()
            raise

    def append(self, record: EnergyRecord, repeat: int = 0) -> int:
        """Store a record; it is on the disk when this returns, and only then.

        Args:
            record: The record; nothing is stored if the very same record is there.
            repeat: Number of this repetition of one measurement, from 0: equal records of several are all stored.

        Returns:
            Its sequence number.

        Raises:
            DatasetError: If the record cannot be stored.
            StorageError: If the disk refuses (the dataset stays as it was), or another process is writing.
        """
        return self._store([record], repeat)[0]

    def extend(self, records: Sequence[EnergyRecord]) -> None:
        """Store many records at once: all are on the disk when this returns; should it fail, none is.

        Args:
            records: What to store; one that occurs twice is stored twice, and neither where both are there.

        Raises:
            DatasetError: If a record cannot be stored.
            StorageError: If the disk refuses (the dataset stays as it was), or another process is writing.
        """
        self._store(records)

    def close(self) -> None:
        """Let others write; may be called again."""
        self._release()

    def _store(self, records: Sequence[EnergyRecord], repeat: int = 0) -> list[int]:
        """Store records in one transaction; return their sequence numbers."""
        self.claim()
        assert self._connection is not None
        # 1. Everything that can be wrong with a record shows before anything is written.
        seen: Counter[str] = Counter()
        new: list[_StoredRecord] = []
        values: list[tuple[Any, ...]] = []
        numbers: list[int] = []
        last = self._rows[-1].seq if self._rows else 0
        for record in records:
            document = encode_record(record)
            text = encode_canonical_json(document)
            digest = _hash_text(text)
            seen[digest] += 1
            number = seen[digest] + repeat
            key = digest if number == 1 else f"{digest}-{number}"
            known = self._by_key.get(key)
            if known is None:
                known = _StoredRecord(last + len(new) + 1, key, record)
                new.append(known)
                columns = (document.get(name, getattr(record, name)) for name in _COLUMNS)
                values.append((known.seq, key, *columns, text))
            numbers.append(known.seq)
        if not new:
            return numbers
        # 2. All or nothing. However this ends, memory agrees with the file afterwards.
        try:
            with translate_database_errors("write", self.file):
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(_INSERT, values)
                self._connection.execute("COMMIT")
            self._rows += new
            self._by_key |= {row.key: row for row in new}
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            with contextlib.suppress(DeepenError):
                self._load(self._connection)
            raise
        return numbers

    def _create(self) -> None:
        """Become the writer, and make the file where there is none.

        Raises:
            DatasetError: If something else stands there.
            StorageError: If the disk refuses, or another process is writing.
        """
        if (self.file.parent / "card.json").exists() and not self.file.exists():
            raise DatasetError(
                f"{self.path}: holds a dataset of an earlier layout (card.json and parts); choose another folder"
            )
        make_folder(self.file.parent)
        try:
            self._take_lock()
            if not os.path.lexists(self.file):
                create_database(self.file)
        except BaseException:
            self._release()
            raise

    def _find_leftover_log(self) -> bool:
        """Return true if a writer ended without closing, so that the pages need a check."""
        try:
            return self.file.with_name(f"{self.file.name}-wal").stat().st_size > 0
        except OSError:
            return False

    def _take_lock(self) -> None:
        if self._lock >= 0:
            return
        lock = self.file.with_name(f".{self.file.name}.lock")
        try:
            self._lock = lock_file(lock, create=self.file.parent.is_dir())
        except FileNotFoundError:
            return  # without a folder there is no dataset, which opening it says
        except BlockingIOError as error:
            holder = read_lock_owner(lock) or "unknown"
            raise StorageError(
                f"dataset {self.path} is being written by process {holder}; wait for it to end or choose another folder"
            ) from error
        except OSError as error:
            raise make_storage_error("write in", self.file.parent, error) from error
        except ImportError as error:
            raise DatasetError("datasets can be written on Linux and macOS only; write this one there") from error
        write_lock_owner(self._lock, str(os.getpid()))

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        lock, self._lock = self._lock, -1
        try:
            if connection is not None:
                connection.close()
        finally:
            if lock >= 0:
                os.close(lock)


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_dataset(path: str | Path, flatten: bool = False) -> pd.DataFrame:
    """Read a dataset as a table, one row per measured kernel or model.

    Args:
        path: The dataset: a file ``NAME.db``, or the folder it is in.
        flatten: Spread parameters and features over columns of their own.

    Raises:
        DatasetError: If there is none, or it is damaged or of a newer deepen.
    """
    return Dataset.open(path).frame(flatten)
