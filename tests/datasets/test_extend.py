"""``Dataset.extend``: all or nothing, and the same dataset as appending one by one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from deepen.datasets import Dataset
from deepen.errors import DatasetError, MeasureError
from deepen.records import EnergyRecord

MakeRecord = Callable[..., EnergyRecord]


def test_extending_equals_appending(tmp_path: Path, make_record: MakeRecord) -> None:
    """Order, content and hash do not depend on how records came in; sequence numbers go on."""
    records = [make_record(i) for i in range(7)]
    with Dataset.open(tmp_path / "a", create=True) as one, Dataset.open(tmp_path / "b", create=True) as other:
        for record in records:
            one.append(record)
        other.append(records[0])
        other.extend(records[1:5])
        other.extend([])
        other.append(records[5])
        other.extend(records[6:])
    again = Dataset.open(tmp_path / "b")
    assert [r.id for r in again] == [r.id for r in Dataset.open(tmp_path / "a")] == [r.id for r in records]
    assert again.content_sha256() == Dataset.open(tmp_path / "a").content_sha256()
    assert not again.notes


def test_nothing_is_stored_where_one_record_cannot_be(tmp_path: Path, make_record: MakeRecord) -> None:
    """A record that cannot be encoded leaves the dataset as it was (a full disk: see ``test_store``)."""
    with Dataset.open(tmp_path / "a", create=True) as dataset:
        dataset.append(make_record(0))
        with pytest.raises(DatasetError, match="cannot be stored"):
            dataset.extend([make_record(1), make_record(2, params={"x": object()})])
        assert len(dataset) == 1
        dataset.append(make_record(5))
    assert [r.id for r in Dataset.open(tmp_path / "a")] == [make_record(0).id, make_record(5).id]


def test_what_others_did_not_measure_is_unknown(tmp_path: Path, make_record: MakeRecord) -> None:
    """A record without repeats may lack its energy or its latency, not both; one measured here may lack neither."""
    foreign = make_record(0, trials=(), runs=0)
    with Dataset.open(tmp_path / "a", create=True) as dataset:
        dataset.extend(
            [
                dataclasses.replace(foreign, energy_j=math.nan, gross_energy_j=math.nan),
                dataclasses.replace(foreign, latency_s=math.nan),
            ]
        )
    first, second = Dataset.open(tmp_path / "a").records()
    assert math.isnan(first.energy_j) and not math.isnan(first.latency_s)
    assert math.isnan(second.latency_s) and not math.isnan(second.energy_j)
    with pytest.raises(MeasureError, match="no finite energy"):
        dataclasses.replace(foreign, energy_j=math.nan, latency_s=math.nan)
    with pytest.raises(MeasureError, match="no finite energy"):
        make_record(0, latency_s=math.nan)
    from deepen.predictors.measured_rows import select_usable_rows

    unknown = dataclasses.replace(foreign, energy_j=math.nan)
    assert select_usable_rows([unknown]).left_out == {"no energy": 1}
