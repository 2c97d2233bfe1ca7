"""Storing and reading a record changes no prediction, and a new definition of the features expires no measurement."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from deepen.datasets import Dataset, stored_features
from deepen.datasets.record_schema import encode_record
from deepen.datasets.stored_features import make_model_kernel
from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.features import FEATURE_NAMES, FEATURES_VERSION, build_feature_matrix, compute_features
from deepen.kernels.sampling.real_configurations import list_families_with_configurations, load_real_configurations
from deepen.kernels.sampling.sampler import sample_kernels
from deepen.predictors.fitting.train import train_predictor
from deepen.predictors.measured_rows import select_usable_rows
from deepen.records import EnergyRecord
from deepen.spaces.nasbench201_kernels import count_kernels
from deepen.spaces.nasbench201_networks import iter_cells


@pytest.fixture(scope="module")
def predictor(kernels):
    """Trained on kernels whose energy follows from their work."""
    rng = np.random.default_rng(1)
    records = []
    for i, kernel in enumerate(kernels[::24]):
        joules = float((1e-9 * kernel.macs + 2e-9 * kernel.bytes_read + 1e-6) * rng.uniform(0.9, 1.1))
        records.append(
            EnergyRecord(
                id=str(i), kind="kernel", name=kernel.name, family=kernel.family, params=kernel.params,
                features=compute_features(kernel), features_version=FEATURES_VERSION, energy_j=joules,
                uncertainty_j=0.01 * joules, gross_energy_j=2 * joules, latency_s=joules, idle_power_before_w=1.0,
                idle_power_after_w=1.0, threads=1, runtime="r", runtime_build="b", device="d", meter="m",
                source="simulated", runs=1, trials=(joules,), recorded_at="2026-01-01T00:00:00Z",
            )
        )  # fmt: skip
    return train_predictor(records, recipe="roofline")


@pytest.fixture(scope="module")
def kernels():
    """Every real configuration and 40 sampled ones of every family, each also multiplying by zeros."""
    drawn = [(f, c.params) for f in list_families_with_configurations() for c in load_real_configurations(f)]
    drawn += [(k.family, k.params) for k in sample_kernels(count=40 * len(list_families_with_configurations()), seed=7)]
    made = [make_kernel_from_params(family, params) for family, params in drawn]
    return [dataclasses.replace(kernel, zero_operand=zeros) for kernel in made for zeros in (False, True)]


def store_and_read(folder, records):
    with Dataset.open(folder, create=True) as dataset:
        dataset.extend(records)
    return Dataset.open(folder).records()


def predict(predictor, families, features):
    assert all(tuple(row) == FEATURE_NAMES for row in features)
    return predictor.energies(families, build_feature_matrix(features)).energy_j


def test_no_kernel_is_predicted_differently_after_storing(tmp_path, make_record, kernels, predictor):
    records = [
        make_record(
            i, family=k.family, params=k.params, features=compute_features(k), features_version=FEATURES_VERSION
        )
        for i, k in enumerate(kernels)
    ]
    back = store_and_read(tmp_path / "d", records)
    assert {r.family for r in back} == set(list_families_with_configurations())
    assert [r.features for r in back] == [r.features for r in records]
    assert [r.features_version for r in back] == [FEATURES_VERSION] * len(records)
    families = [r.family for r in records]
    before = predict(predictor, families, [r.features for r in records])
    assert np.array_equal(before, predict(predictor, families, [r.features for r in back]))
    for record in records:
        stored = encode_record(record)
        assert stored["features"] == ({"zero_operand": 1.0} if record.features["zero_operand"] else {})
        assert stored["features_version"] == 0


def test_no_cell_of_nasbench201_is_predicted_differently_after_storing(tmp_path, make_record, predictor):
    """All 15,625 cells; one record holds the kernels of many, as equal kernels are described once."""
    found, counts = count_kernels(list(iter_cells()))
    zeros = np.array([kernel.zero_operand for kernel in found])
    assert np.count_nonzero(counts[:, zeros].any(axis=1)) > 2000
    parts = {
        (kernel.key, int(count)): make_model_kernel(kernel, int(count))
        for kernel, column in zip(found, counts.T, strict=True)
        for count in np.unique(column[column > 0])
    }
    entries = list(parts.values())
    plain = [dict(entry) for entry in entries]
    records = [
        make_record(i, kind="model", kernels=tuple(some), features_version=FEATURES_VERSION)
        for i, some in enumerate((entries, plain, entries[:9]))
    ]
    back = store_and_read(tmp_path / "d", records)
    for record, read in zip(records, back, strict=True):
        assert [dict(entry) for entry in read.kernels] == [dict(entry) for entry in record.kernels]
        families = [entry["family"] for entry in record.kernels]
        before, after = ([entry["features"] for entry in r.kernels] for r in (record, read))
        assert np.array_equal(predict(predictor, families, before), predict(predictor, families, after))
    assert sum(entry["features"]["zero_operand"] for entry in back[0].kernels) > 0


def test_what_does_not_follow_from_parameters_is_kept(tmp_path, make_record):
    other = dict.fromkeys(FEATURE_NAMES, 1.0)
    records = [
        make_record(0, family="other", params={"dtype": "float32"}, features=other, features_version=FEATURES_VERSION),
        make_record(1, params={}, features=other, features_version=FEATURES_VERSION),
        make_record(2, kind="model", kernels=({"family": "other", "params": {}, "features": other},),
                    features_version=FEATURES_VERSION),
    ]  # fmt: skip
    back = store_and_read(tmp_path / "d", records)
    assert [(r.features, r.kernels, r.features_version) for r in back] == [
        (r.features, r.kernels, r.features_version) for r in records
    ]


def test_features_that_differ_from_those_computed_are_kept_while_their_definition_stands(
    tmp_path, make_record, kernels
):
    features = compute_features(kernels[0]) | {"bytes_read": 7.0}
    record = make_record(
        family=kernels[0].family, params=kernels[0].params, features=features, features_version=FEATURES_VERSION
    )
    assert encode_record(record)["features"] == {"bytes_read": 7.0}
    assert store_and_read(tmp_path / "d", [record])[0].features == features


def test_a_new_definition_of_the_features_expires_no_measurement(tmp_path, make_record, kernels, monkeypatch):
    """Stored under version 2, read by a deepen that computes 3: only what cannot be computed again is left out."""
    zero = next(k for k in kernels if k.zero_operand)
    store_and_read(
        tmp_path / "d",
        [
            make_record(0, family=zero.family, params=zero.params, features=compute_features(zero),
                        features_version=FEATURES_VERSION),
            make_record(1, kind="model", kernels=(make_model_kernel(zero),), features_version=FEATURES_VERSION),
            make_record(2, family="other", params={"a": 1}, features=dict.fromkeys(FEATURE_NAMES, 1.0),
                        features_version=FEATURES_VERSION),
        ],
    )  # fmt: skip
    digest = Dataset.open(tmp_path / "d").content_sha256()
    newer = FEATURES_VERSION + 1
    for module in ("deepen.datasets.stored_features", "deepen.kernels.features"):
        monkeypatch.setattr(f"{module}.FEATURES_VERSION", newer)
    monkeypatch.setattr(
        "deepen.datasets.stored_features.compute_features", lambda k: compute_features(k) | {"ops": 5.0, "macs": 3.0}
    )
    for cached in (stored_features._compute_from_text, stored_features._restore_entry):
        cached.cache_clear()
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        kernel, model, other = dataset.records()
        assert dataset.content_sha256() == digest
        assert dataset.append(kernel) == 1 and dataset.append(model) == 2  # the very same measurements
    for features in (kernel.features, model.kernels[0]["features"]):
        assert (features["macs"], features["ops"], features["zero_operand"]) == (3.0, 5.0, 1.0)
    assert (kernel.features_version, model.features_version, other.features_version) == (newer, newer, newer - 1)
    rows = select_usable_rows([kernel, model, other])
    assert (len(rows.kernels), len(rows.models)) == (1, 1)
    assert rows.left_out == {"features of another version, without the parameters to compute them again": 1}
    for cached in (stored_features._compute_from_text, stored_features._restore_entry):
        cached.cache_clear()


def test_parameters_that_are_not_a_kernel_s_keep_the_features_given(tmp_path, make_record):
    """A stranger's parameters may be anything."""
    odd = [{"c_in": -1}, {"kernel": [0, 0]}, {"shape": [[1]]}, {"x": {"y": [None]}}, {"m": 10**400}, {"groups": 0}]
    families = ["fc", "conv-bn-relu", "concat", "nothing", "softmax"]
    records = [
        make_record(i, family=family, params=params, features={"macs": 1.0})
        for i, (family, params) in enumerate((f, p) for f in families for p in odd)
    ]
    back = store_and_read(tmp_path / "d", records)
    assert [(r.params, r.features) for r in back] == [(r.params, r.features) for r in records]


def test_parameters_that_no_kernel_has_are_an_error_where_a_model_needs_them(tmp_path, make_record):
    from deepen.errors import DatasetError

    model = make_record(kind="model", kernels=({"family": "fc", "params": {"m": 1}, "features": {}},))
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        dataset.append(model)
    with pytest.raises(DatasetError, match=r"record 1: a kernel of the model cannot be described"):
        Dataset.open(tmp_path / "d")
    with closing(sqlite3.connect(tmp_path / "d" / "records.db")) as connection:
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (1,)
