"""The store: what is appended is there, in order, once, whatever happens to the process or the disk."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from deepen.datasets import Dataset, read_dataset
from deepen.datasets.database import DATASET_SCHEMA
from deepen.datasets.record_schema import encode_canonical_json, encode_record
from deepen.errors import DatasetError, StorageError
from deepen.records import RECORD_SCHEMA
from tests.support.faulty_disk import build_library, run_with_faulty_disk


def ids(folder: Path) -> list[str]:
    return [record.id for record in Dataset.open(folder).records()]


def fill(folder: Path, make_record, count: int, start: int = 0) -> None:
    with Dataset.open(folder, create=True) as dataset:
        for index in range(start, start + count):
            dataset.append(make_record(index))


def numbered(count: int, start: int = 0) -> list[str]:
    return [f"{index:016x}" for index in range(start, start + count)]


def run_sql(file: Path, *statements: str) -> list[tuple]:
    """Do to a file what any SQLite program may do."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        return [row for statement in statements for row in connection.execute(statement)]


# What goes in comes out


def test_records_come_back_equal(tmp_path, make_record):
    full = make_record(
        3,
        temperature_c=41.5,
        temperature_before_c=39.0,
        temperature_max_c=42.0,
        serial="0A1B2C",
        settings={"governor": {"wanted": "performance", "actual": "schedutil", "ok": False, "cause": "no root"}},
        throttled=("cpufreq at state 2",),
        rejected=({"reason": "drift", "energy_j": 0.25},),
        warnings=("few blocks",),
        kernels=({"family": "other", "params": {"shape": [1, 2]}, "features": {"macs": 0.0}, "multiplicity": 2.0},),
    )
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        assert dataset.append(full) == 1
        while_writing = Dataset.open(tmp_path / "d").records()[0]
    expected = dataclasses.asdict(full)
    for back in (while_writing, Dataset.open(tmp_path / "d").records()[0]):
        got = dataclasses.asdict(back)
        assert math.isnan(got.pop("frequency_hz"))
        assert got == {name: value for name, value in expected.items() if name != "frequency_hz"}


def test_numpy_values_and_tuples_are_stored_as_plain_ones(tmp_path, make_record):
    import numpy as np

    record = make_record(params={"c_in": np.int64(3), "kernel": (3, 3), "bias": np.bool_(True)})
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        dataset.append(record)
    back = Dataset.open(tmp_path / "d").records()[0]
    assert back.params == {"c_in": 3, "kernel": [3, 3], "bias": True}


def test_a_value_that_cannot_be_stored_is_refused_and_leaves_nothing(tmp_path, make_record):
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        with pytest.raises(DatasetError, match="object cannot be stored"):
            dataset.append(make_record(params={"x": object()}))
        assert len(dataset) == 0


def test_keys_model_names_and_kinds(tmp_path, make_record):
    from deepen.kernels.types import hash_params

    kernel, model = make_record(1), make_record(2, kind="model")
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        assert dataset.keys() == frozenset()
        dataset.append(kernel)
        dataset.append(model)
        assert dataset.keys() == {hash_params(kernel.family, kernel.params)}
        assert dataset.model_names() == {"model 2"}
        assert [record.kind for record in dataset.records("model")] == ["model"]
        assert len(dataset) == 2


def test_the_same_record_again_is_not_stored_again(tmp_path, make_record):
    """So a caller who does not know how an append ended may repeat it."""
    batch = [make_record(1), make_record(2), make_record(1)]  # a source may hold one measurement twice
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        assert [dataset.append(make_record(0)) for _ in range(3)] == [1, 1, 1]
        dataset.extend(batch)
        dataset.extend(batch)
        assert dataset.append(make_record(2)) == 3
        for _ in range(2):  # a simulated source repeats itself to the last bit
            assert [dataset.append(make_record(7), repeat) for repeat in range(3)] == [5, 6, 7]
    fill(tmp_path / "d", make_record, 3)
    assert ids(tmp_path / "d") == [f"{index:016x}" for index in (0, 1, 2, 1, 7, 7, 7)]


def test_a_path_is_a_file_or_a_folder_with_one(tmp_path, make_record):
    fill(tmp_path / "one.db", make_record, 2)
    fill(tmp_path / "folder", make_record, 2)
    assert (tmp_path / "one.db").is_file() and (tmp_path / "folder" / "records.db").is_file()
    shutil.copy(tmp_path / "one.db", tmp_path / "renamed")
    for path in ("one.db", "folder", "folder/records.db", "renamed"):
        assert ids(tmp_path / path) == numbered(2)
    assert Dataset.open(tmp_path / "folder").folder == tmp_path / "folder"
    assert Dataset.open(tmp_path / "one.db").folder == tmp_path / "one.files"


def test_content_hash_depends_on_records_alone(tmp_path, make_record):
    fill(tmp_path / "a", make_record, 5)
    with Dataset.open(tmp_path / "b", create=True) as dataset:
        for index in (4, 2, 0, 1, 3):
            dataset.append(make_record(index))
        while_writing = dataset.content_sha256()
    assert while_writing == Dataset.open(tmp_path / "a").content_sha256()
    assert while_writing == Dataset.open(tmp_path / "b").content_sha256()
    fill(tmp_path / "b", make_record, 1, start=9)
    assert while_writing != Dataset.open(tmp_path / "b").content_sha256()


def test_card_sums_up_and_names_the_weakest_label(tmp_path, make_record):
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        dataset.append(make_record(0, source="measured", meter="rapl"))
        dataset.append(make_record(1, source="modelled"))
        dataset.append(make_record(2, source="measured", family="relu"))
        dataset.append(make_record(3, kind="model", source="measured"))
        live = dataset.card
    assert (live.source, live.sources) == ("modelled", {"measured": 3, "modelled": 1})
    assert (live.records, live.kernels, live.models) == (4, 3, 1)
    assert live.families == {"conv-bn-relu": 2, "relu": 1}
    assert live.meter == "emulator, rapl"
    assert live.created.startswith("20")
    assert Dataset.open(tmp_path / "d").card == live


def test_columns_can_be_filtered_by_in_sql(tmp_path, make_record):
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        dataset.append(make_record(0, device="a", threads=4, serial="S1"))
        dataset.append(make_record(1, device="b", family="relu"))
    sql = "SELECT seq, threads, serial, json_extract(document, '$.name') FROM records WHERE "
    assert run_sql(tmp_path / "d" / "records.db", sql + "device = 'a'") == [(1, 4, "S1", "conv-bn-relu 0")]
    assert run_sql(tmp_path / "d" / "records.db", sql + "family = 'relu'") == [(2, 1, "", "conv-bn-relu 1")]


def test_frame_has_a_row_per_record_and_keeps_nested_values(tmp_path, make_record):
    fill(tmp_path / "d", make_record, 3)
    frame = read_dataset(tmp_path / "d")
    assert list(frame["id"]) == ids(tmp_path / "d")
    assert frame["params"][1]["kernel"] == [3, 3]
    flat = read_dataset(tmp_path / "d", flatten=True)
    assert list(flat["features.macs"]) == [1000.0, 2000.0, 3000.0]
    assert list(flat["params.kernel"]) == ["[3,3]"] * 3


def test_an_empty_dataset_reads_as_empty(tmp_path):
    Dataset.open(tmp_path / "d", create=True).close()
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.records() == []
    assert dataset.card.records == 0
    assert "energy_j" in dataset.frame().columns


def test_storing_imports_neither_pandas_nor_pyarrow(tmp_path, make_record):
    fill(tmp_path / "d", make_record, 2)
    code = (
        "import sys, dataclasses; from deepen.datasets import Dataset;"
        "d = Dataset.open(sys.argv[1], create=True);"
        "d.append(dataclasses.replace(d.records()[0], id='new')); d.close();"
        "print(len(d), [m for m in ('pandas', 'pyarrow', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "d")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3 []"


# One writer, many readers


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path, make_record):
    with Dataset.open(tmp_path / "d", create=True) as writer:
        writer.append(make_record(0))
        with pytest.raises(StorageError, match=rf"being written by process {os.getpid()}"):
            Dataset.open(tmp_path / "d", create=True)
        reader = Dataset.open(tmp_path / "d")
        with pytest.raises(StorageError, match="being written"):
            reader.append(make_record(1))
        writer.append(make_record(2))
        assert len(reader) == 1
        reader.refresh()
        assert len(reader) == 2
    reader.append(make_record(3))
    assert len(reader) == 3
    reader.close()
    assert len(ids(tmp_path / "d")) == 3


def test_a_late_writer_sees_what_others_stored_since_it_opened(tmp_path, make_record):
    fill(tmp_path / "d", make_record, 1)
    late = Dataset.open(tmp_path / "d")
    fill(tmp_path / "d", make_record, 2, start=1)
    late.append(make_record(3))
    late.close()
    assert ids(tmp_path / "d") == numbered(4)


def test_readers_see_every_record_while_a_writer_appends(tmp_path, make_record):
    code = """
import dataclasses, sys
from deepen.datasets import Dataset
dataset = Dataset.open(sys.argv[1])
record = dataset.records()[0]
for start in range(1, 121, 12):
    with Dataset.open(sys.argv[1], create=True) as writer:
        for index in range(start, start + 12):
            writer.append(dataclasses.replace(record, id=f"{index:016x}"))
"""
    fill(tmp_path / "d", make_record, 1)
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "d")])
    seen = 0
    while writer.poll() is None:
        dataset = Dataset.open(tmp_path / "d")
        found = [record.id for record in dataset]
        assert found == numbered(len(found))
        assert len(found) >= seen
        assert dataset.notes == ()
        seen = len(found)
    assert writer.returncode == 0
    assert len(ids(tmp_path / "d")) == 121


def test_a_reader_without_write_permission_reads_and_leaves_nothing(tmp_path, make_record, monkeypatch):
    fill(tmp_path / "d", make_record, 2)
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
    before = {path.name for path in (tmp_path / "d").iterdir()}
    assert ids(tmp_path / "d") == numbered(2)
    assert {path.name for path in (tmp_path / "d").iterdir()} == before
    with Dataset.open(tmp_path / "d", create=True) as writer:
        writer.append(make_record(2))
        assert ids(tmp_path / "d") == numbered(3)


# A process that ends at any moment, and disks that refuse


@pytest.fixture(scope="module")
def faulty_disk(tmp_path_factory):
    """Runs one of the checks of ``store_crashes.py`` and returns how much it looked at."""
    library = build_library(tmp_path_factory.mktemp("faulty-disk"))
    script = Path(__file__).parents[1] / "support" / "store_crashes.py"

    def run(what: str, folder: Path) -> int:
        return int(run_with_faulty_disk(library, script, what, str(folder)))

    return run


linux = pytest.mark.skipif(sys.platform != "linux", reason="preloads a library as Linux does")


@linux
@pytest.mark.slow
def test_a_process_killed_at_any_system_call_loses_at_most_the_record_being_written(faulty_disk, tmp_path):
    assert faulty_disk("kill", tmp_path) > 60


@linux
def test_a_disk_that_fails_at_any_system_call_stores_nothing_and_the_next_append_works(faulty_disk, tmp_path):
    assert faulty_disk("fail", tmp_path) > 10


@linux
def test_what_was_stored_survives_a_power_cut_after_any_system_call(faulty_disk, tmp_path):
    assert faulty_disk("power", tmp_path) > 300


@pytest.mark.slow
def test_30_sigkills_at_random_moments_keep_every_acknowledged_record(tmp_path, make_record):
    code = """
import dataclasses, sys
from deepen.datasets import Dataset
with Dataset.open(sys.argv[1], create=True) as dataset:
    record = dataset.records()[0]
    for index in range(len(dataset), 100_000):
        dataset.append(dataclasses.replace(record, id=f"{index:016x}"))
        print(index + 1, flush=True)
"""
    rng = random.Random(11)
    folder = tmp_path / "d"
    fill(folder, make_record, 1)
    for _ in range(30):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert child.stdout is not None
        for _ in range(rng.randrange(1, 30)):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        lines = child.stdout.read().splitlines()
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        acknowledged = int(lines[-1]) if lines and lines[-1].isdigit() else 0
        found = ids(folder)
        assert found == numbered(len(found))
        assert acknowledged <= len(found)
        if acknowledged:
            assert len(found) <= acknowledged + 1


def test_a_torn_log_keeps_every_record_before_the_tear(tmp_path, make_record):
    """A copy of file and log cut anywhere: whole records, from the first on, and a writer goes on after them."""
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        for index in range(3):
            dataset.append(make_record(index))
        content = (tmp_path / "d" / "records.db").read_bytes()
        log = (tmp_path / "d" / "records.db-wal").read_bytes()
    frame = 24 + 4096
    ends = {32 + frame * n + shift for n in range(len(log) // frame + 1) for shift in (-1, 0, 1, 24)}
    target, seen = tmp_path / "cut", set()
    for length in sorted({end for end in ends if 0 <= end <= len(log)} | set(range(0, len(log), 211))):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        (target / "records.db").write_bytes(content)
        (target / "records.db-wal").write_bytes(log[:length])
        found = ids(target)
        assert found == numbered(len(found)), length
        seen.add(len(found))
        if length % 5 == 0:
            fill(target, make_record, 3 - len(found), len(found))
            assert ids(target) == numbered(3), length
    assert seen == {0, 1, 2, 3}


def test_a_real_full_disk_is_a_storage_error(tmp_path, make_record):
    """A limit on file size makes the kernel refuse the write, as a full disk does."""
    code = """
import dataclasses, resource, signal, sys
from deepen.datasets import Dataset
from deepen.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
dataset = Dataset.open(sys.argv[1], create=True)
record = dataset.records()[0]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    while True:
        dataset.append(dataclasses.replace(record, id=str(len(dataset))))
except StorageError as error:
    print(len(dataset), error)
try:
    dataset.extend([dataclasses.replace(record, id=f"more {i}") for i in range(999)])
except StorageError as error:
    print(len(dataset), error)
dataset.close()
"""
    folder = tmp_path / "d"
    fill(folder, make_record, 1)
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        count, _, message = line.partition(" ")
        assert "cannot write" in message and "free space" in message
        assert len(ids(folder)) == int(count) > 1
    assert len(done.stdout.splitlines()) == 2
    fill(folder, make_record, 1, start=50)
    assert Dataset.open(folder).notes == ()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a /proc, where nothing can be made")
def test_a_folder_that_cannot_be_made_is_a_storage_error():
    with pytest.raises(StorageError, match="cannot make the folder /proc/deepen"):
        Dataset.open("/proc/deepen", create=True)


def test_something_else_in_the_place_is_an_error_and_left_alone(tmp_path):
    (tmp_path / "d").write_text("not a folder")
    for create in (False, True):
        with pytest.raises(DatasetError, match="not a deepen dataset"):
            Dataset.open(tmp_path / "d", create=create)
        with pytest.raises(DatasetError, match="a file stands" if create else "no dataset at"):
            Dataset.open(tmp_path / "d" / "below", create=create)
    assert (tmp_path / "d").read_text() == "not a folder"


# Damage and strangers


def test_no_dataset_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset at .*deepen dataset build --out"):
        Dataset.open(tmp_path / "nothing")
    with pytest.raises(DatasetError, match="no dataset at"):
        Dataset.open(tmp_path / "nothing", writable=True)
    assert not (tmp_path / "nothing").exists()


def test_a_folder_of_the_layout_before_is_named_as_such(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "card.json").write_text("{}")
    for create in (False, True):
        with pytest.raises(DatasetError, match="of an earlier layout"):
            Dataset.open(tmp_path / "d", create=create)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: b"", "not a deepen dataset"),
        (lambda header: header[:60], "not a deepen dataset"),
        (lambda header: b"PAR1" + header[4:], "not a deepen dataset"),
        (lambda header: header[:68] + bytes(4) + header[72:], "not a deepen dataset"),
        (lambda header: header[:60] + (99).to_bytes(4, "big") + header[64:], "schema 99 is newer .* upgrade deepen"),
    ],
)
def test_a_foreign_or_newer_file_is_one_clear_line(tmp_path, make_record, change, message):
    fill(tmp_path / "d", make_record, 2)
    file = tmp_path / "d" / "records.db"
    content = file.read_bytes()
    changed = change(content[:100]) + (content[100:] if len(change(content[:100])) == 100 else b"")
    file.write_bytes(changed)
    for create in (False, True):
        with pytest.raises(DatasetError, match=message) as caught:
            Dataset.open(tmp_path / "d", create=create)
        assert "\n" not in str(caught.value)
    assert file.read_bytes() == changed


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM records; END",
        "CREATE VIEW v AS SELECT * FROM records",
        "CREATE TABLE more (a)",
        "CREATE INDEX i ON records (device)",
        "ALTER TABLE records ADD COLUMN more TEXT",
        "ALTER TABLE records RENAME COLUMN serial TO other",
        "CREATE VIRTUAL TABLE v USING fts5(a)",
        "DROP TABLE metadata",
    ],
)
def test_a_file_with_another_schema_is_refused(tmp_path, make_record, statement):
    fill(tmp_path / "d", make_record, 2)
    run_sql(tmp_path / "d" / "records.db", statement)
    for create in (False, True):
        with pytest.raises(DatasetError, match="not the tables of a deepen dataset"):
            Dataset.open(tmp_path / "d", create=create)


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal"])
def test_links_are_not_followed(tmp_path, make_record, ending):
    fill(tmp_path / "d", make_record, 1)
    file = tmp_path / "d" / f"records.db{ending}"
    victim = tmp_path / "victim"
    victim.write_bytes(file.read_bytes() if file.exists() else b"mine")
    before = victim.read_bytes()
    file.unlink(missing_ok=True)
    file.symlink_to(victim)
    for create in (False, True):
        with pytest.raises(DatasetError, match="not a regular file"):
            Dataset.open(tmp_path / "d", create=create)
    assert victim.read_bytes() == before


def test_a_lock_that_is_a_link_is_not_followed(tmp_path, make_record):
    fill(tmp_path / "d", make_record, 1)
    lock, victim = tmp_path / "d" / ".records.db.lock", tmp_path / "victim"
    victim.write_text("mine")
    lock.unlink()
    lock.symlink_to(victim)
    with pytest.raises(StorageError, match="cannot write in"):
        Dataset.open(tmp_path / "d", create=True)
    assert victim.read_text() == "mine"


def test_companions_that_belong_to_no_file_are_refused(tmp_path, make_record):
    fill(tmp_path / "d", make_record, 1)
    (tmp_path / "d" / "records.db-journal").write_bytes(b"x" * 600)
    with pytest.raises(DatasetError, match=r"-journal: no file of a dataset"):
        Dataset.open(tmp_path / "d")
    (tmp_path / "d" / "records.db-journal").unlink()
    (tmp_path / "d" / "records.db").unlink()
    (tmp_path / "d" / "records.db-wal").write_bytes(b"x" * 600)
    for create in (False, True):
        with pytest.raises(DatasetError, match=r"-wal: records of a dataset whose file is gone"):
            Dataset.open(tmp_path / "d", create=create)


def test_a_fifo_in_the_place_of_the_file_does_not_hang(tmp_path):
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "records.db")
    with pytest.raises(DatasetError, match="not a regular file"):
        Dataset.open(tmp_path / "d")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE records SET document = replace(document, '0.5', '0.7') WHERE seq = 2", "record 2: damaged"),
        ("UPDATE records SET document = x'00ff' WHERE seq = 2", "record 2: damaged"),
        ("UPDATE records SET key = 'short' WHERE seq = 2", "record 2: damaged"),
        ("UPDATE records SET device = 'other' WHERE seq = 2", "record 2: column device is not what its document says"),
        ("UPDATE records SET threads = 'many' WHERE seq = 3", "record 3: column threads is not what"),
        ("UPDATE records SET seq = -1 WHERE seq = 1", "record -1: follows record 0"),
    ],
)
def test_a_changed_row_is_an_error_not_another_dataset(tmp_path, make_record, statement, message):
    fill(tmp_path / "d", make_record, 3)
    run_sql(tmp_path / "d" / "records.db", statement)
    for create in (False, True):
        with pytest.raises(DatasetError, match=message) as caught:
            Dataset.open(tmp_path / "d", create=create)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def plant(file: Path, document: object) -> None:
    """Put a document into the first row as a stranger would: with a key that fits."""
    import hashlib

    text = document if isinstance(document, str) else encode_canonical_json(document)
    with closing(sqlite3.connect(file)) as connection, connection:
        key = hashlib.sha256(text.encode()).hexdigest()
        connection.execute("UPDATE records SET document = ?, key = ? WHERE seq = 1", (text, key))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: "[" * 100_000,
        lambda d: "[]",
        lambda d: "null",
        lambda d: "{",
        lambda d: {},
        lambda d: d | {"colour": "blue"},
        lambda d: d | {"energy_j": "1e-3 J"},
        lambda d: d | {"energy_j": None, "latency_s": None},
        lambda d: d | {"trials": 3},
        lambda d: d | {"trials": [[1.0]]},
        lambda d: d | {"params": []},
        lambda d: d | {"features": {"macs": []}},
        lambda d: d | {"kind": "model", "kernels": [1]},
        lambda d: d | {"kind": "model", "kernels": [{"family": "fc", "params": {}, "multiplicity": 1.0}]},
        lambda d: d | {"source": "guessed"},
        lambda d: json.dumps(d)[:-1] + ', "threads": 1e400}',
        lambda d: d | {"schema": RECORD_SCHEMA + 1},
        lambda d: json.dumps(d)[:-1] + ', "threads": 9}',
    ],
)
def test_a_document_that_is_no_record_is_one_line_naming_it(tmp_path, make_record, change):
    fill(tmp_path / "d", make_record, 2)
    document = change(encode_record(make_record(0)))
    plant(tmp_path / "d" / "records.db", document if isinstance(document, str) else json.loads(json.dumps(document)))
    with pytest.raises(DatasetError, match=r"records\.db, record 1: ") as caught:
        Dataset.open(tmp_path / "d")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_deleted_rows_are_reported_not_hidden(tmp_path, make_record):
    fill(tmp_path / "d", make_record, 4)
    run_sql(tmp_path / "d" / "records.db", "DELETE FROM records WHERE seq = 2")
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        assert "1 of 4 records are missing" in dataset.notes[0]
        assert dataset.append(make_record(1)) == 5
    assert ids(tmp_path / "d") == [f"{index:016x}" for index in (0, 2, 3, 1)]


def test_damage_anywhere_is_one_clear_line_or_changes_nothing(tmp_path, make_record):
    fill(tmp_path / "d", make_record, 20)
    file = tmp_path / "d" / "records.db"
    whole, expected = file.read_bytes(), numbered(20)
    rng = random.Random(3)
    outcomes = set()
    for trial in range(200):
        damaged = bytearray(whole)
        for _ in range(1 + 40 * (trial % 2)):
            damaged[rng.randrange(100 if trial % 3 else 0, len(whole))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        try:
            outcomes.add(ids(tmp_path / "d") == expected)
        except (DatasetError, StorageError) as error:
            assert file.name in str(error)
            assert "\n" not in str(error) and len(str(error)) < 400
            outcomes.add("error")
    assert outcomes == {True, "error"}  # never other records than were stored
    for content in (whole[: len(whole) // 2], whole[:4096], whole[:4096] + bytes(len(whole) - 4096)):
        file.write_bytes(content)
        with pytest.raises(DatasetError, match="damaged"):
            Dataset.open(tmp_path / "d")


def test_a_log_of_another_file_does_not_get_into_this_one(tmp_path, make_record):
    """Bytes of a stranger where the newest records would be: what is in the file stays."""
    fill(tmp_path / "d", make_record, 2)
    rng = random.Random(4)
    for _ in range(20):
        (tmp_path / "d" / "records.db-wal").write_bytes(rng.randbytes(rng.randrange(40_000)))
        assert ids(tmp_path / "d") == numbered(2)


def test_records_of_any_feature_version_share_a_dataset(tmp_path, make_record):
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        dataset.append(make_record(0))
        dataset.append(make_record(1, kind="model", features_version=0))
        dataset.append(make_record(2, features_version=2))
    assert [record.features_version for record in Dataset.open(tmp_path / "d")] == [1, 0, 2]
    assert DATASET_SCHEMA == 2
