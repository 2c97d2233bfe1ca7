"""Export: what other tools read holds what was stored, and a file is there wholly or not at all."""

from __future__ import annotations

import errno
import json

import pandas as pd
import pytest

from deepen.datasets import export_records
from deepen.datasets.record_schema import decode_record
from deepen.errors import ConfigError, DatasetError, StorageError


@pytest.fixture
def records(make_record):
    return [
        make_record(0),
        make_record(1, params={"c_in": 2, "kernel": [3, 3], "activation": None, "shape": "odd"}),
        make_record(2, family="concat", params={"shape": [[1, 2], [3, 4]], "axis": 1}),
        make_record(3, kind="model", kernels=({"family": "fc", "params": {"m": 1}, "features": {"macs": 2.0}},)),
    ]


def test_jsonl_holds_the_records_themselves(tmp_path, records):
    export_records(records, tmp_path / "out.jsonl", "jsonl")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    back = [decode_record(json.loads(line), "line") for line in lines]
    assert [(r.id, r.energy_j, r.params, r.kernels) for r in back] == [
        (r.id, r.energy_j, r.params, r.kernels) for r in records
    ]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tables_hold_one_row_per_record_and_a_column_per_parameter_and_feature(tmp_path, records, form):
    path = tmp_path / f"out.{form}"
    export_records(records, path, form)
    frame = pd.read_csv(path) if form == "csv" else pd.read_parquet(path)
    assert list(frame["id"].astype(str).str.zfill(16)) == [r.id for r in records]
    assert list(frame["energy_j"]) == [r.energy_j for r in records]
    assert frame["features.macs"][1] == 2000.0
    assert pd.isna(frame["features.macs"][3])
    assert json.loads(frame["params.kernel"][0]) == [3, 3]
    assert json.loads(frame["params.shape"][2]) == [[1, 2], [3, 4]]
    assert json.loads(frame["kernels"][3])[0]["family"] == "fc"


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_an_empty_dataset_exports(tmp_path, form):
    export_records([], tmp_path / "out", form)
    assert (tmp_path / "out").exists()


def test_a_file_that_is_there_is_kept_unless_told_otherwise(tmp_path, records):
    path = tmp_path / "out.csv"
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"is there already.*--force"):
        export_records(records, path, "csv")
    assert path.read_text() == "mine"
    export_records(records, path, "csv", overwrite=True)
    assert path.read_text() != "mine"
    with pytest.raises(ConfigError, match="is a folder"):
        export_records(records, tmp_path, "csv", overwrite=True)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, records, monkeypatch):
    path = tmp_path / "out.csv"
    path.write_text("mine")

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(StorageError, match="No space left"):
        export_records(records, path, "csv", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]
    assert path.read_text() == "mine"


def test_unknown_forms_and_missing_folders_are_refused(tmp_path, records):
    with pytest.raises(ConfigError, match="unknown export format 'xls'"):
        export_records(records, tmp_path / "out.xls", "xls")
    with pytest.raises(DatasetError, match="not a folder"):
        export_records(records, tmp_path / "nowhere" / "out.csv", "csv")
