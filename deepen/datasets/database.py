"""The file of a dataset: one SQLite database, created atomically and opened as untrusted input.

A dataset may come from strangers, so a file is looked at before SQLite is: it and its companions must be regular
files, its header must name this format, and the schema must be, word for word, the one below (no trigger, no view, no
further table). SQLite's own defences are switched on where the installed version has them.
https://www.sqlite.org/security.html, https://www.sqlite.org/fileformat2.html
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import quote

from deepen import __version__
from deepen.clock.host_clock import utc_now
from deepen.errors import DatasetError, StorageError
from deepen.storage.atomic import make_folder, write_file_atomically
from deepen.storage.temporary_folders import TemporaryFolder

__all__ = [
    "DATASET_SCHEMA",
    "FILE_NAME",
    "check_pages",
    "check_schema",
    "create_database",
    "locate_companion_folder",
    "locate_database",
    "open_database",
    "translate_database_errors",
]

DATASET_SCHEMA = 2
"""Version of the file's layout (``PRAGMA user_version``); a reader refuses a newer one. 1 was a folder of Parquet."""

FILE_NAME = "records.db"
"""The file in a folder that stands for a dataset."""

APPLICATION_ID = int.from_bytes(b"dpen", "big")
"""``PRAGMA application_id``: distinguishes a dataset from any other SQLite file."""

_SCHEMA = (
    "CREATE TABLE metadata (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE records (seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, "
    "family TEXT NOT NULL, device TEXT NOT NULL, serial TEXT NOT NULL, runtime TEXT NOT NULL, "
    "threads INTEGER NOT NULL, meter TEXT NOT NULL, source TEXT NOT NULL, recorded_at TEXT NOT NULL, "
    "document TEXT NOT NULL)",
)

_LARGEST_VALUE = 64 * 2**20
"""Limit on the bytes of a record's document."""

_BUSY_S = 10.0
"""Longest wait while another program keeps the file locked."""

_REFUSALS = frozenset(
    (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOMEM,
    )
)
"""Result codes with which the system or another program refuses; all others mean that the file is damaged."""


def locate_database(path: str | Path) -> Path:
    """Name the file of a dataset.

    Args:
        path: A file ``NAME.db`` (or any file that is there), or a folder, which stands for ``records.db`` in it.
    """
    given = Path(path)
    return given if given.suffix == ".db" or given.is_file() else given / FILE_NAME


def locate_companion_folder(path: str | Path) -> Path:
    """Name the folder for what belongs to the records (plan, log, models being measured).

    Args:
        path: As for :func:`locate_database`.

    Returns:
        The folder given, or ``NAME.files`` beside a file ``NAME.db``.
    """
    file = locate_database(path)
    return file.parent if file.name == FILE_NAME else file.with_suffix(".files")


def create_database(path: Path) -> None:
    """Make an empty dataset; it is wholly there or not at all.

    Raises:
        DatasetError: If something else stands there.
        StorageError: If the disk refuses.
    """
    make_folder(path.parent)
    _check_files(path)
    try:
        # SQLite makes a file in several steps, so it makes this one elsewhere.
        with contextlib.closing(TemporaryFolder("deepen-dataset-")) as folder:
            draft = folder.path / FILE_NAME
            with translate_database_errors("make", path):
                connection = sqlite3.connect(draft, isolation_level=None)
                try:
                    _execute_schema(connection)
                    connection.executemany(
                        "INSERT INTO metadata VALUES (?, ?)", [("created", utc_now()), ("deepen", __version__)]
                    )
                    connection.execute("PRAGMA journal_mode=WAL")
                finally:
                    connection.close()
            content = draft.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot make {path}: {error.strerror or error}; free space or set TMPDIR") from error
    write_file_atomically(path, content)


def open_database(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Connect to the file of a dataset, in autocommit mode.

    Args:
        path: The file.
        writable: To append to it; what is committed is then on the medium (``synchronous=FULL``).

    Raises:
        DatasetError: If there is none, it is no dataset, or it was made by a newer deepen.
        StorageError: If it cannot be opened.
    """
    before = _check_files(path)
    if before is None:
        raise _make_missing_error(path)
    _check_header(path)
    connection = _connect(path, writable)
    try:
        with translate_database_errors("open", path):
            _harden(connection)
            if writable:
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA fullfsync=ON")  # macOS: fsync alone does not reach the medium there
            else:
                connection.execute("PRAGMA query_only=ON")
        after = _check_files(path)
        if after is None or not os.path.samestat(before, after):
            raise DatasetError(f"{path}: was replaced while it was being opened; open it again")
    except BaseException:
        connection.close()
        raise
    return connection


def check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file with any other table, index, view or trigger than a dataset has.

    Raises:
        DatasetError: If it has.
    """
    with translate_database_errors("read", path):
        found = set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))
    if found != _get_expected_schema():
        odd = sorted({str(entry[1])[:40] for entry in found ^ _get_expected_schema()})
        raise DatasetError(f"{path}: not the tables of a deepen dataset ({', '.join(odd[:3])!a}); choose another file")


def check_pages(connection: sqlite3.Connection, path: Path) -> None:
    """Check every page of the file with SQLite.

    Raises:
        DatasetError: If it finds damage.
    """
    with translate_database_errors("read", path):
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _make_damage_error(path, str(verdict))


@contextlib.contextmanager
def translate_database_errors(action: str, path: Path) -> Iterator[None]:
    """Translate SQLite's errors inside the block: the disk's to a ``StorageError``, the file's to a ``DatasetError``.

    Args:
        action: Verb for the message: ``cannot <action> <path>``.
        path: The file.
    """
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # the rest is detail
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if code in _REFUSALS:
            raise StorageError(
                f"cannot {action} {path}: {reason}; free space, make file and folder writable, or end what uses it"
            ) from error
        raise _make_damage_error(path, reason) from error


def _make_damage_error(path: Path, reason: str) -> DatasetError:
    return DatasetError(f"{path}: damaged ({reason[:120]}); restore it from a copy")


def _make_missing_error(path: Path) -> DatasetError:
    shown = path.parent if path.name == FILE_NAME else path
    if (path.parent / "card.json").exists() and path.name == FILE_NAME:
        return DatasetError(
            f"{shown}: a dataset of an earlier layout (card.json and parts); measure or import it again"
        )
    return DatasetError(f"no dataset at {shown}; make one with: deepen dataset build --out {shown}")


def _execute_schema(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={DATASET_SCHEMA}")
    for statement in _SCHEMA:
        connection.execute(statement)


@cache
def _get_expected_schema() -> frozenset[tuple[str, str, str, str | None]]:
    """Rows of ``sqlite_master`` in a dataset, as this version of SQLite writes them."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        _execute_schema(connection)
        return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


def _check_files(path: Path) -> os.stat_result | None:
    """Read the status of the file and its companions without following links; ``None`` where there is no file.

    Raises:
        DatasetError: If one is no regular file, or should not be there.
        StorageError: If one cannot be looked at.
    """
    found: dict[str, os.stat_result] = {}
    for ending in ("", "-wal", "-shm", "-journal"):
        companion = path.with_name(path.name + ending)
        try:
            found[ending] = companion.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise StorageError(f"cannot open {companion}: {error.strerror}; check the folder's permissions") from error
        if not stat.S_ISREG(found[ending].st_mode):
            raise DatasetError(f"{companion}: not a regular file; links and devices are not opened, choose another")
    if "-journal" in found:  # we use none, and SQLite would replay it over the file
        raise DatasetError(f"{path}-journal: no file of a dataset; remove it, then check the dataset")
    if "" not in found and found.get("-wal"):
        raise DatasetError(f"{path}-wal: records of a dataset whose file is gone; restore {path.name}, or remove it")
    return found.get("")


def _check_header(path: Path) -> None:
    """Read the first 100 bytes: SQLite, ours, and of a version we know.

    Raises:
        DatasetError: If they are not.
        StorageError: If the file cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            header = os.pread(descriptor, 100, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(f"cannot open {path}: {error.strerror}; check its permissions") from error
    identity = int.from_bytes(header[68:72], "big")
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0") or identity != APPLICATION_ID:
        raise DatasetError(f"{path}: not a deepen dataset; choose another path")
    schema = int.from_bytes(header[60:64], "big")
    if schema > DATASET_SCHEMA:
        raise DatasetError(
            f"{path}: dataset schema {schema} is newer than the {DATASET_SCHEMA} that deepen {__version__} reads; "
            "upgrade deepen"
        )


def _connect(path: Path, writable: bool) -> sqlite3.Connection:
    """Connect. Readers may finish what a killed writer left, where the file is theirs to write.

    Raises:
        StorageError: If SQLite cannot open the file.
    """
    where = "file:" + quote(str(path.absolute()))
    own = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    mode = "mode=rw" if writable or own else "mode=ro"
    if mode == "mode=ro" and not path.with_name(path.name + "-wal").exists():
        mode += "&immutable=1"  # there is nothing to share with a writer, nor a place for the shared memory
    with translate_database_errors("open", path):
        return sqlite3.connect(
            f"{where}?{mode}", uri=True, isolation_level=None, timeout=_BUSY_S, check_same_thread=False
        )


def _harden(connection: sqlite3.Connection) -> None:
    """Switch on SQLite's defences; those that an older version lacks are left out."""
    for category, limit in (
        (sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE),
        (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 100_000),
        (sqlite3.SQLITE_LIMIT_COLUMN, 100),
        (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 100),
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
        (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 1),
        (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
    ):
        connection.setlimit(category, limit)
    for option, value in (("DEFENSIVE", True), ("ENABLE_TRIGGER", False), ("ENABLE_VIEW", False)):
        if hasattr(connection, "setconfig"):  # Python 3.12
            connection.setconfig(getattr(sqlite3, f"SQLITE_DBCONFIG_{option}"), value)
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
        connection.execute(f"PRAGMA {pragma}")
