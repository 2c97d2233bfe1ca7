"""Division: by configuration alone, the same every time, and stable while a dataset grows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.datasets.train_test_split import make_approximate_key, make_configuration_key, split_records
from deepen.errors import ConfigError


@pytest.fixture
def records(make_record):
    return [make_record(index) for index in range(400)]


def test_sides_are_disjoint_complete_and_about_the_share(records):
    split = split_records(records, 0.25, seed=1)
    assert {r.id for r in split.train} | {r.id for r in split.held_out} == {r.id for r in records}
    assert not {r.id for r in split.train} & {r.id for r in split.held_out}
    assert 0.18 < len(split.held_out) / len(records) < 0.32


def test_the_same_seed_gives_the_same_sides_and_another_seed_others(records):
    assert split_records(records, 0.2, 3) == split_records(records, 0.2, 3)
    assert split_records(records, 0.2, 3) != split_records(records, 0.2, 4)


@given(seed=st.integers(0, 1000), size=st.integers(0, 60))
def test_a_growing_dataset_keeps_its_sides(seed, size):
    from deepen.records import EnergyRecord

    def record(index: int) -> EnergyRecord:
        return EnergyRecord(
            id=str(index), kind="kernel", name="", energy_j=1.0, uncertainty_j=0.0, gross_energy_j=1.0, latency_s=1.0,
            idle_power_before_w=0.0, idle_power_after_w=0.0, threads=1, runtime="", runtime_build="", device="",
            meter="", source="simulated", runs=1, trials=(), recorded_at="", family="fc", params={"n": index},
        )  # fmt: skip

    few = split_records([record(i) for i in range(size)], 0.3, seed)
    many = split_records([record(i) for i in range(60)], 0.3, seed)
    assert {r.id for r in few.held_out} <= {r.id for r in many.held_out}
    assert {r.id for r in few.train} <= {r.id for r in many.train}


def test_repeats_of_one_configuration_stay_together(make_record):
    repeats = [make_record(index, id=f"{index}-{n}") for index in range(50) for n in range(3)]
    split = split_records(repeats, 0.5, seed=2)
    assert not {make_configuration_key(r) for r in split.train} & {make_configuration_key(r) for r in split.held_out}
    assert len(split.held_out) % 3 == 0


def test_similar_configurations_can_be_kept_together(make_record):
    close = [make_record(0, params={"c_in": c, "kernel": [3, 3], "bias": True}) for c in (62, 63, 64, 65, 66)]
    far = make_record(0, params={"c_in": 128, "kernel": [3, 3], "bias": True})
    other_kernel = make_record(0, params={"c_in": 64, "kernel": [1, 1], "bias": True})
    other_flag = make_record(0, params={"c_in": 64, "kernel": [3, 3], "bias": False})
    assert len({make_approximate_key(r) for r in close}) == 1
    assert len({make_configuration_key(r) for r in close}) == 5
    assert len({make_approximate_key(r) for r in (close[0], far, other_kernel, other_flag)}) == 4


def test_models_are_told_apart_by_name(make_record):
    models = [make_record(i, kind="model") for i in range(40)]
    assert 0 < len(split_records(models, 0.5, 0).held_out) < 40
    assert make_approximate_key(models[0]) == make_configuration_key(models[0])


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (1.0, 400)])
def test_extreme_shares(records, share, count):
    assert len(split_records(records, share).held_out) == count


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_its_range_is_refused(records, share):
    with pytest.raises(ConfigError, match="held-out share"):
        split_records(records, share)
