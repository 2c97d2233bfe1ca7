"""The schema in words says what the code does, and the files of a dataset can be read without the code."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from dataclasses import fields

import pytest

from deepen import catalog
from deepen.datasets import Dataset, DatasetCard
from deepen.datasets.card import read_card
from deepen.datasets.record_schema import decode_record, decode_table, encode_record, encode_table, hash_record
from deepen.errors import DatasetError
from deepen.records import RECORD_SCHEMA, EnergyRecord

pq = pytest.importorskip("pyarrow.parquet")


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


def test_columns_of_a_part_are_those_of_the_schema(schema, tmp_path, make_record):
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        dataset.append(make_record())
    (part,) = (tmp_path / "d" / "parts").iterdir()
    columns = {field.name: str(field.type) for field in pq.read_schema(part)}
    assert columns.pop("seq") == "int64"
    described = {name: "string" if e["type"] == "json" else e["type"] for name, e in schema["fields"].items()}
    assert {name: kind.replace("element: ", "").replace("item: ", "") for name, kind in columns.items()} == described


def test_the_card_template_has_the_fields_of_a_card():
    path = catalog.find_path("datasets", "card.template.json")
    template = json.loads(path.read_text())
    assert list(template) == list(DatasetCard(created="").document())
    assert read_card(path)["records"] == 3


def test_a_reader_without_the_code_finds_the_same_records_and_hash(tmp_path, make_record):
    """Follows datasets/README.md alone."""
    folder = tmp_path / "d"
    with Dataset.open(folder, create=True) as dataset:
        for index in range(3):
            dataset.append(make_record(index))
    writer = Dataset.open(folder, create=True)
    writer.append(make_record(3))
    expected = writer.content_sha256()

    def canonical(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":"))

    documents = []
    for part in sorted((folder / "parts").iterdir()):
        for row in pq.read_table(part).to_pylist():
            del row["seq"]
            for name in ("params", "features", "kernels", "rejected", "alignment", "budget", "settings", "throttled"):
                row[name] = json.loads(row[name])
            documents.append(
                {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
            )
    for line in (folder / "journal.jsonl").read_bytes().splitlines():
        crc, length, body = line.split(b" ", 2)
        assert (int(crc, 16), int(length)) == (zlib.crc32(body), len(body))
        documents.append(json.loads(body)["record"])
    sums = sorted(hashlib.sha256(canonical(document).encode()).digest() for document in documents)
    assert len(sums) == 4
    assert hashlib.sha256(b"".join(sums)).hexdigest() == expected
    writer.close()


def test_records_of_the_first_schema_keep_their_hash_and_are_read_in_both_forms(make_record):
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
    mixed = [(1, record), (2, newer)]
    back = decode_table(encode_table([1, 2], [r for _, r in mixed]), "here")
    assert [(seq, hash_record(r)) for seq, r in back] == [(seq, hash_record(r)) for seq, r in mixed]
    assert back[1][1].budget == {"idle": 1e-9}
    assert (back[0][1].throttled, back[1][1].throttled, back[1][1].serial) == ((), ("hot",), "S")


def test_a_record_of_an_unknown_schema_is_not_written(make_record):
    with pytest.raises(DatasetError, match=f"has schema {RECORD_SCHEMA + 1}; this deepen writes {RECORD_SCHEMA}"):
        encode_record(make_record(0, schema=RECORD_SCHEMA + 1))
