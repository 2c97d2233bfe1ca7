"""The schema in words says what the code does, and the files of a dataset can be read without the code."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import fields

import pytest

from deepen import catalog
from deepen.datasets import Dataset
from deepen.datasets.record_schema import decode_record, encode_record, hash_record
from deepen.errors import DatasetError
from deepen.records import RECORD_SCHEMA, EnergyRecord


@pytest.fixture
def schema():
    return catalog.load_toml("datasets", "", "schema")


def test_every_field_is_described_in_order(schema):
    assert list(schema["fields"]) == [field.name for field in fields(EnergyRecord)]
    assert schema["schema"] == RECORD_SCHEMA
    assert all(entry["about"] for entry in schema["fields"].values())


def test_units_in_names_agree_with_units_in_words(schema):
    units = {"_j": "J", "_s": "s", "_w": "W", "_c": "degC", "_hz": "Hz"}
    for name, entry in schema["fields"].items():
        for ending, unit in units.items():
            if name.endswith(ending):
                assert entry["unit"] == unit, name


def test_values_of_a_document_are_of_the_types_of_the_schema(schema, make_record):
    kinds = {
        "string": str,
        "double": float,
        "int64": int,
        "list<double>": list,
        "list<string>": list,
        "json": (dict, list),
    }
    document = encode_record(
        make_record(temperature_c=1.0, frequency_hz=1.0, temperature_before_c=1.0, temperature_max_c=1.0)
    )
    assert set(schema["fields"]) == set(document)
    for name, value in document.items():
        assert isinstance(value, kinds[schema["fields"][name]["type"]]), name


def test_a_reader_without_the_code_finds_the_same_records_and_hash(tmp_path, make_record):
    """Follows datasets/README.md alone."""
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        for index in range(3):
            dataset.append(make_record(index))
        expected = dataset.content_sha256()
    with closing(sqlite3.connect(tmp_path / "d" / "records.db")) as connection:
        documents = [text for (text,) in connection.execute("SELECT document FROM records ORDER BY seq")]
    assert [json.loads(text)["id"] for text in documents] == [f"{index:016x}" for index in range(3)]
    sums = sorted(hashlib.sha256(text.encode()).digest() for text in documents)
    assert hashlib.sha256(b"".join(sums)).hexdigest() == expected


def test_records_of_the_first_schema_keep_their_hash(make_record):
    """The hash was made by the version that wrote schema 1."""
    record = make_record(0, schema=1)
    document = encode_record(record)
    assert not {"alignment", "budget", "serial", "settings", "throttled", "temperature_max_c"} & set(document)
    assert {"alignment", "budget"} <= set(encode_record(make_record(0, schema=2)))
    assert "settings" not in encode_record(make_record(0, schema=2))
    assert hash_record(record).hex() == "aae903c7277a013a8a772118cadb8580b14d0cb213bf1edff42302e7bde00f6a"
    assert hash_record(decode_record(document, "here")) == hash_record(record)
    newer = make_record(
        1, alignment={"method": "pulses", "error_s": 1e-5}, budget={"idle": 1e-9}, throttled=("hot",), serial="S"
    )
    back = [decode_record(json.loads(json.dumps(encode_record(r))), "here") for r in (record, newer)]
    assert [hash_record(r) for r in back] == [hash_record(record), hash_record(newer)]
    assert back[1].budget == {"idle": 1e-9}
    assert (back[0].throttled, back[1].throttled, back[1].serial) == ((), ("hot",), "S")


def test_a_record_of_an_unknown_schema_is_not_written(make_record):
    with pytest.raises(DatasetError, match=f"has schema {RECORD_SCHEMA + 1}; this deepen writes {RECORD_SCHEMA}"):
        encode_record(make_record(0, schema=RECORD_SCHEMA + 1))
