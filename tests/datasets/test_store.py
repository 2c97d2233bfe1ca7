"""The store: what is appended is there, in order, once, whatever happens to the process or the disk."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deepen.datasets import Dataset, read_dataset
from deepen.errors import DatasetError, StorageError
from deepen.records import RECORD_SCHEMA


def ids(folder: Path) -> list[str]:
    return [record.id for record in Dataset.open(folder).records()]


def fill(folder: Path, make_record, count: int, start: int = 0, **options) -> None:
    with Dataset.open(folder, create=True, **options) as dataset:
        for index in range(start, start + count):
            dataset.append(make_record(index))


def journal_bytes(folder: Path) -> bytes:
    return (folder / "journal.jsonl").read_bytes()


def journal_only(folder: Path, make_record, count: int) -> None:
    """Leave a dataset as a killed writer does: records in the journal alone."""
    writer = Dataset.open(folder, create=True)
    for index in range(count):
        writer.append(make_record(index))
    writer._release()


# What goes in comes out


def test_records_come_back_equal_from_the_journal_and_from_parquet(tmp_path, make_record):
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
        kernels=({"family": "relu", "params": {"shape": [1, 2]}, "features": {"macs": 0.0}, "multiplicity": 2.0},),
    )
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        assert dataset.append(full) == 1
        from_journal = Dataset.open(tmp_path / "d").records()[0]
        dataset.compact()
        from_part = Dataset.open(tmp_path / "d").records()[0]
    assert journal_bytes(tmp_path / "d") == b""
    expected = dataclasses.asdict(full)
    for back in (from_journal, from_part):
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
        assert journal_bytes(tmp_path / "d") == b""


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


def test_parts_are_merged_and_order_is_kept(tmp_path, make_record):
    for start in (0, 7, 14):
        fill(tmp_path / "d", make_record, 7, start, compact_every=3)
    assert ids(tmp_path / "d") == [f"{index:016x}" for index in range(21)]
    assert [path.name for path in (tmp_path / "d" / "parts").iterdir()] == ["part-00000001-00000021.parquet"]


def test_content_hash_depends_on_records_alone(tmp_path, make_record):
    fill(tmp_path / "a", make_record, 5)
    with Dataset.open(tmp_path / "b", create=True) as dataset:
        for index in (4, 2, 0, 1, 3):
            dataset.append(make_record(index))
        in_journal = dataset.content_sha256()
    assert in_journal == Dataset.open(tmp_path / "a").content_sha256() == Dataset.open(tmp_path / "b").content_sha256()
    fill(tmp_path / "b", make_record, 1)
    assert in_journal != Dataset.open(tmp_path / "b").content_sha256()


def test_card_sums_up_and_names_the_weakest_label(tmp_path, make_record):
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        dataset.append(make_record(0, source="measured", meter="rapl"))
        dataset.append(make_record(1, source="modelled"))
        dataset.append(make_record(2, source="measured", family="relu"))
        dataset.append(make_record(3, kind="model", source="measured"))
        live = dataset.card
    stored = json.loads((tmp_path / "d" / "card.json").read_text())
    assert (live.source, live.sources) == ("modelled", {"measured": 3, "modelled": 1})
    assert (live.records, live.kernels, live.models) == (4, 3, 1)
    assert live.families == {"conv-bn-relu": 2, "relu": 1}
    assert live.meter == "emulator, rapl"
    assert stored["content_sha256"] == live.content_sha256 == Dataset.open(tmp_path / "d").content_sha256()
    assert stored["created"] == live.created


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


def test_opening_imports_neither_pandas_nor_pyarrow(tmp_path, make_record):
    journal_only(tmp_path / "d", make_record, 2)
    code = (
        "import sys; from deepen.datasets import Dataset;"
        "print(len(Dataset.open(sys.argv[1])), [m for m in ('pandas', 'pyarrow', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "d")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []"


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
    assert ids(tmp_path / "d") == [f"{index:016x}" for index in range(4)]


def test_readers_see_every_record_while_a_writer_appends_and_compacts(tmp_path, make_record):
    code = """
import dataclasses, sys
from deepen.datasets import Dataset
dataset = Dataset.open(sys.argv[1])
record = dataset.records()[0]
with Dataset.open(sys.argv[1], create=True, compact_every=4) as writer:
    for index in range(1, 121):
        writer.append(dataclasses.replace(record, id=f"{index:016x}"))
"""
    fill(tmp_path / "d", make_record, 1)
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "d")])
    seen = 0
    while writer.poll() is None:
        dataset = Dataset.open(tmp_path / "d")
        found = [record.id for record in dataset]
        assert found == [f"{index:016x}" for index in range(len(found))]
        assert len(found) >= seen
        assert dataset.notes == ()
        seen = len(found)
    assert writer.returncode == 0
    assert len(ids(tmp_path / "d")) == 121


# A process that ends at any moment


def run_until_crash(folder: Path, make_record, disk, total: int) -> None:
    """Append and compact until the disk's process ends."""
    dataset = Dataset.open(folder, create=True, disk=disk, compact_every=3)
    try:
        for index in range(len(dataset), total):
            dataset.append(make_record(index))
        dataset.compact()
    finally:
        dataset._release()  # what the operating system does for a process that ended


@pytest.mark.parametrize("part", ["none", "half", "all"])
def test_a_crash_at_any_disk_operation_loses_at_most_the_record_being_written(
    tmp_path, make_record, crashing_disk, crash, part
):
    total, at = 8, 0
    while True:
        folder = tmp_path / f"{part}-{at}"
        disk = crashing_disk(at, part)
        acknowledged: list[int] = []

        def counted(index: int, acknowledged: list[int] = acknowledged):
            acknowledged.append(index)  # the append before this one had returned
            return make_record(index)

        crashed = False
        try:
            run_until_crash(folder, counted, disk, total)
        except crash:
            crashed = True
        returned = len(acknowledged) if not crashed else max(0, len(acknowledged) - 1)
        found = ids(folder) if (folder / "card.json").exists() else []
        assert found == [f"{index:016x}" for index in range(len(found))]
        assert returned <= len(found) <= len(acknowledged)
        # And running again resumes, completes, and repeats nothing.
        fill(folder, make_record, total - len(found), len(found))
        assert ids(folder) == [f"{index:016x}" for index in range(total)]
        assert not list(folder.rglob("*.tmp"))
        if not crashed:
            break
        at += 1
    assert at > 30  # there were that many places to crash at


def test_crashes_in_a_row_never_lose_or_repeat_a_record(tmp_path, make_record, crashing_disk, crash):
    rng = random.Random(7)
    total, crashes = 60, 0
    folder = tmp_path / "d"
    Dataset.open(folder, create=True).close()
    acknowledged = 0
    while len(ids(folder)) < total:
        disk = crashing_disk(rng.randrange(40), rng.choice(["none", "half", "all"]))
        dataset = None
        try:
            dataset = Dataset.open(folder, create=True, disk=disk, compact_every=5)
            for index in range(len(dataset), total):
                dataset.append(make_record(index))
                acknowledged = index + 1
        except crash:
            crashes += 1
        finally:
            if dataset is not None:
                dataset._release()
        found = ids(folder)
        assert found == [f"{index:016x}" for index in range(len(found))]
        assert len(found) >= acknowledged
    assert crashes > 5


def test_sigkill_at_random_moments_keeps_every_acknowledged_record(tmp_path, make_record):
    code = """
import dataclasses, sys
from deepen.datasets import Dataset
with Dataset.open(sys.argv[1], create=True, compact_every=7) as dataset:
    record = dataset.records()[0]
    for index in range(len(dataset), 100_000):
        dataset.append(dataclasses.replace(record, id=f"{index:016x}"))
        print(index + 1, flush=True)
"""
    rng = random.Random(11)
    folder = tmp_path / "d"
    fill(folder, make_record, 1)
    for _ in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert child.stdout is not None
        for _ in range(rng.randrange(1, 60)):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        lines = child.stdout.read().splitlines()
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        acknowledged = int(lines[-1]) if lines and lines[-1].isdigit() else 0
        found = ids(folder)
        assert found == [f"{index:016x}" for index in range(len(found))]
        assert acknowledged <= len(found)
        if acknowledged:
            assert len(found) <= acknowledged + 1


def test_a_torn_last_line_is_dropped_and_reported_once(tmp_path, make_record):
    folder = tmp_path / "d"
    journal_only(folder, make_record, 3)
    whole = journal_bytes(folder)
    (folder / "journal.jsonl").write_bytes(whole[:-40])
    reader = Dataset.open(folder)
    assert len(reader) == 2
    assert "torn by a crash" in reader.notes[0]
    with Dataset.open(folder, create=True) as writer:
        assert len(writer.notes) == 1
        writer.append(make_record(2))
    assert ids(folder) == [f"{index:016x}" for index in range(3)]
    assert Dataset.open(folder).notes == ()


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_every_cut_of_the_last_line_keeps_the_lines_before(tmp_path, make_record, cut):
    folder = tmp_path / "d"
    journal_only(folder, make_record, 2)
    whole = journal_bytes(folder)
    start = whole.index(b"\n") + 1
    for length in range(start + 1, len(whole), cut * 7):
        (folder / "journal.jsonl").write_bytes(whole[:length])
        assert ids(folder) == [f"{0:016x}"]


# Disks that refuse


@pytest.mark.parametrize("verbs", [("write",), ("sync",), ("write", "truncate"), ("sync", "truncate")])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failed_append_stores_nothing_and_the_next_one_works(tmp_path, make_record, failing_disk, verbs, error):
    disk = failing_disk(error, verbs)
    folder = tmp_path / "d"
    with Dataset.open(folder, create=True, disk=disk) as dataset:
        dataset.append(make_record(0))
        disk.failing = True
        with pytest.raises(StorageError, match=r"cannot write .*journal") as caught:
            dataset.append(make_record(1))
        assert "\n" not in str(caught.value)
        assert len(dataset) == 1
        disk.failing = False
        dataset.append(make_record(2))
    assert ids(folder) == [f"{0:016x}", f"{2:016x}"]


@pytest.mark.parametrize("verb", ["open", "write", "sync", "truncate", "replace", "remove"])
def test_a_failed_compaction_loses_nothing(tmp_path, make_record, failing_disk, verb):
    disk = failing_disk(errno.ENOSPC, (verb,))
    folder = tmp_path / "d"
    dataset = Dataset.open(folder, create=True, disk=disk)
    for index in range(4):
        dataset.append(make_record(index))
    dataset.compact()
    dataset.append(make_record(4))
    disk.failing = True
    with pytest.raises(StorageError):
        dataset.compact()
    assert ids(folder) == [f"{index:016x}" for index in range(5)]
    disk.failing = False
    dataset.append(make_record(5))
    dataset.close()
    assert ids(folder) == [f"{index:016x}" for index in range(6)]
    assert len(list((folder / "parts").iterdir())) == 1


def test_a_full_disk_while_closing_is_an_error_and_frees_the_lock(tmp_path, make_record, failing_disk):
    disk = failing_disk(errno.ENOSPC, ("write",))
    with pytest.raises(StorageError), Dataset.open(tmp_path / "d", create=True, disk=disk) as dataset:
        dataset.append(make_record(0))
        disk.failing = True
    fill(tmp_path / "d", make_record, 1, start=1)
    assert len(ids(tmp_path / "d")) == 2


def test_a_real_full_disk_is_a_storage_error(tmp_path, make_record):
    """A limit on file size makes the kernel refuse the write, as a full disk does."""
    code = """
import dataclasses, resource, signal, sys
from deepen.datasets import Dataset
from deepen.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
dataset = Dataset.open(sys.argv[1], create=True)
record = dataset.records()[0]
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    while True:
        dataset.append(record)
except StorageError as error:
    print(len(dataset), error)
"""
    folder = tmp_path / "d"
    fill(folder, make_record, 1)
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    count, _, message = done.stdout.partition(" ")
    assert "cannot write" in message
    assert len(ids(folder)) == int(count) > 1
    assert Dataset.open(folder).notes == ()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a /proc, where nothing can be made")
def test_a_folder_that_cannot_be_made_is_a_storage_error():
    with pytest.raises(StorageError, match="cannot make the folder /proc/deepen"):
        Dataset.open("/proc/deepen", create=True)


def test_a_file_where_the_folder_should_be_is_an_error(tmp_path):
    (tmp_path / "d").write_text("not a folder")
    with pytest.raises(DatasetError, match="a file stands where a folder is needed"):
        Dataset.open(tmp_path / "d", create=True)
    with pytest.raises(DatasetError, match="a file stands"):
        Dataset.open(tmp_path / "d" / "below", create=True)
    with pytest.raises(DatasetError, match="no dataset at"):
        Dataset.open(tmp_path / "d")
    assert (tmp_path / "d").read_text() == "not a folder"


# Damage and strangers


def test_no_dataset_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset at .*deepen dataset build --out"):
        Dataset.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[]", "not the card of a deepen dataset"),
        (b'{"name": "mine"}', "not the card of a deepen dataset"),
        (b'{"format": "deepen-dataset"}', "no schema version"),
        (b'{"format": "deepen-dataset", "schema": 99, "deepen": "7.0"}', "schema 99 .* newer .* upgrade"),
    ],
)
def test_a_bad_card_is_one_clear_line(tmp_path, make_record, content, message):
    fill(tmp_path / "d", make_record, 2)
    (tmp_path / "d" / "card.json").write_bytes(content)
    for create in (False, True):
        with pytest.raises(DatasetError, match=message) as caught:
            Dataset.open(tmp_path / "d", create=create)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "d" / "card.json").read_bytes() == content


def test_records_without_a_card_are_not_taken_for_an_empty_dataset(tmp_path, make_record):
    fill(tmp_path / "d", make_record, 2)
    (tmp_path / "d" / "card.json").unlink()
    with pytest.raises(DatasetError, match=r"no card\.json"):
        Dataset.open(tmp_path / "d", create=True)


def test_a_record_of_a_newer_schema_is_refused(tmp_path, make_record):
    from deepen.datasets.journal import encode_journal_line
    from deepen.datasets.record_schema import encode_canonical_json, encode_record

    journal_only(tmp_path / "d", make_record, 1)
    document = encode_record(make_record(1)) | {"schema": RECORD_SCHEMA + 1, "colour": "blue"}
    with (tmp_path / "d" / "journal.jsonl").open("ab") as file:
        file.write(encode_journal_line(encode_canonical_json({"seq": 2, "record": document})))
    with pytest.raises(DatasetError, match=r"line 2: record schema \d+ is newer .* upgrade deepen"):
        Dataset.open(tmp_path / "d")


def test_damage_inside_the_journal_is_an_error_not_a_smaller_dataset(tmp_path, make_record):
    journal_only(tmp_path / "d", make_record, 3)
    damaged = bytearray(journal_bytes(tmp_path / "d"))
    damaged[damaged.index(b"\n") + 60] ^= 1
    (tmp_path / "d" / "journal.jsonl").write_bytes(damaged)
    for create in (False, True):
        with pytest.raises(DatasetError, match=r"journal\.jsonl: line 2 is damaged"):
            Dataset.open(tmp_path / "d", create=create)
    assert journal_bytes(tmp_path / "d") == damaged


def test_deleting_the_damaged_line_goes_on_and_says_so(tmp_path, make_record):
    journal_only(tmp_path / "d", make_record, 3)
    lines = journal_bytes(tmp_path / "d").splitlines(keepends=True)
    (tmp_path / "d" / "journal.jsonl").write_bytes(lines[0] + lines[2])
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        assert "1 of 3 records are missing" in dataset.notes[0]
        dataset.append(make_record(3))
    assert ids(tmp_path / "d") == [f"{index:016x}" for index in (0, 2, 3)]


def test_a_repeated_journal_line_is_damage(tmp_path, make_record):
    journal_only(tmp_path / "d", make_record, 2)
    content = journal_bytes(tmp_path / "d")
    (tmp_path / "d" / "journal.jsonl").write_bytes(content + content)
    with pytest.raises(DatasetError, match="record 1 follows record 2"):
        Dataset.open(tmp_path / "d")


def test_a_damaged_part_is_one_clear_line_wherever_the_damage_is(tmp_path, make_record):
    fill(tmp_path / "d", make_record, 20)
    (part,) = (tmp_path / "d" / "parts").iterdir()
    whole = part.read_bytes()
    rng = random.Random(3)
    outcomes = set()
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        part.write_bytes(damaged)
        try:
            outcomes.add(ids(tmp_path / "d") == [f"{index:016x}" for index in range(20)])
        except DatasetError as error:
            assert part.name in str(error)
            assert "\n" not in str(error)
            outcomes.add("error")
    assert False not in outcomes  # never other records than were stored
    assert "error" in outcomes
    for content in (b"", whole[: len(whole) // 2], b"PAR1 not really"):
        part.write_bytes(content)
        with pytest.raises(DatasetError, match="delete it to go on without its 20 records"):
            Dataset.open(tmp_path / "d")


def test_a_renamed_part_is_noticed(tmp_path, make_record):
    fill(tmp_path / "d", make_record, 4)
    (part,) = (tmp_path / "d" / "parts").iterdir()
    part.rename(part.with_name("part-00000001-00000005.parquet"))
    with pytest.raises(DatasetError, match="does not hold the records its name says"):
        Dataset.open(tmp_path / "d")


def test_overlapping_parts_are_refused(tmp_path, make_record):
    fill(tmp_path / "d", make_record, 4)
    (part,) = (tmp_path / "d" / "parts").iterdir()
    part.with_name("part-00000003-00000009.parquet").write_bytes(part.read_bytes())
    with pytest.raises(DatasetError, match="overlap"):
        Dataset.open(tmp_path / "d")


def test_a_deleted_part_is_reported_not_hidden(tmp_path, make_record, monkeypatch):
    monkeypatch.setattr("deepen.datasets.store.SMALL_PART", 1)
    for start in (0, 3):
        fill(tmp_path / "d", make_record, 3, start)
    first, _ = sorted((tmp_path / "d" / "parts").iterdir())
    first.unlink()
    dataset = Dataset.open(tmp_path / "d")
    assert [record.id for record in dataset] == [f"{index:016x}" for index in (3, 4, 5)]
    assert "3 of 6 records are missing" in dataset.notes[0]


def test_features_of_another_version_do_not_mix(tmp_path, make_record):
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        dataset.append(make_record(0))
        dataset.append(make_record(1, kind="model", features_version=0))
        with pytest.raises(DatasetError, match=r"holds features of version 1, record .* has version 2"):
            dataset.append(make_record(2, features_version=2))
    assert len(ids(tmp_path / "d")) == 2
