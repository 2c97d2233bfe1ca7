"""Ordeals: what strikes, what counts as wrong, and a campaign on real daemons that is struck by everything."""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deepen.bench import DevicePowerModel, VirtualBench
from deepen.bench.daemons import find_adbd, find_sshd, make_namespace_command
from deepen.errors import ConfigError
from deepen.records import EnergyRecord
from tests.support.fault_campaign import (
    FaultCampaign,
    FaultCampaignReport,
    FaultCampaignScope,
    RecordComparison,
    compare_with_model,
    draw_campaign_faults,
    is_lock_held,
    select_families,
)


def test_strikes_are_as_many_as_asked_for_and_the_same_for_the_same_seed() -> None:
    drawn = draw_campaign_faults(200, 2, 7, kills=5, gone=2, unplugged=2)
    assert drawn == draw_campaign_faults(200, 2, 7, kills=5, gone=2, unplugged=2)
    assert drawn != draw_campaign_faults(200, 2, 8, kills=5, gone=2, unplugged=2)
    kinds = Counter(strike.kind for strike in drawn)
    assert kinds == {"kill host": 5, "restart device": 1, "cut link": 1, "unplug meter": 2}
    moments = [strike.after for strike in drawn]
    assert moments == sorted(set(moments))
    assert moments[0] >= 0
    assert moments[-1] < 199
    for kinds_of_one in (("restart device", "cut link"), ("unplug meter",)):
        assert {s.device for s in drawn if s.kind in kinds_of_one} == {0, 1}


def test_more_strikes_than_records_are_refused() -> None:
    with pytest.raises(ConfigError, match="no room for 9 strikes"):
        draw_campaign_faults(9, 2, 0)


@pytest.mark.parametrize(
    ("measured", "standard", "within", "wrong"),
    [
        (1.0, 0.001, True, False),
        (1.019, 0.01, True, False),
        (1.019, 0.001, False, False),  # beyond what it states, but by less than counts
        (1.021, 0.001, False, True),
        (0.95, 0.02, False, False),
        (0.9, 0.02, False, True),
    ],
)
def test_a_number_is_wrong_far_beyond_what_it_states(
    measured: float, standard: float, within: bool, wrong: bool
) -> None:
    one = RecordComparison("fc", measured, standard, 1.0)
    assert (one.within, one.wrong) == (within, wrong)


def record(params: dict[str, object], energy_j: float, copies: int = 1) -> EnergyRecord:
    return EnergyRecord(
        id="x",
        kind="kernel",
        name="fc",
        energy_j=energy_j,
        uncertainty_j=0.01 * energy_j,
        gross_energy_j=energy_j,
        latency_s=1e-3,
        idle_power_before_w=0.6,
        idle_power_after_w=0.6,
        threads=1,
        runtime="onnxruntime",
        runtime_build="",
        device="virtual-bench",
        meter="lvpm",
        source="simulated",
        runs=10,
        trials=(energy_j,),
        recorded_at="2026-01-02T03:04:05Z",
        family="fc",
        params=params,
        copies=copies,
    )


def test_the_truth_of_a_record_is_the_models_law() -> None:
    from deepen.kernels.families.catalog import check_params

    params = dict(check_params("fc", {"dtype": "float32", "m": 2, "k": 30, "n": 40}))
    model = DevicePowerModel()
    # launch + factor of fc * (multiply-accumulates + bytes of x, w and y), and a fourth of what starting a run takes
    one_j = model.launch_j + 1.2 * (model.mac_j * 2 * 30 * 40 + model.byte_j * 4 * (2 * 30 + 30 * 40 + 2 * 40))
    found = compare_with_model(record(params, 1.0, copies=4), model)
    assert found.true_j == pytest.approx(one_j + model.run_j / 4)
    assert compare_with_model(record(params, 1.0), model).true_j == pytest.approx(one_j + model.run_j)


def test_families_that_matter_are_named(squeezenet: Path) -> None:
    found = select_families([(squeezenet, {})], DevicePowerModel())
    assert "conv-bn-relu" in found
    assert "concat" in found
    assert "softmax" not in found  # a millionth of the work


def test_a_verdict_passes_only_where_nothing_is_amiss() -> None:
    good = FaultCampaignReport(1, (), (), (RecordComparison("fc", 1.0, 0.01, 1.0),), (), 1, (0,), (), 1.0)
    assert good.passed
    for change in (
        {"missing": ("fc",)},
        {"repeated": ("fc",)},
        {"left": ("process 1",)},
        {"compared": (RecordComparison("fc", 2.0, 0.01, 1.0),)},
    ):
        assert not replace(good, **change).passed  # type: ignore[arg-type]


def test_a_lock_somebody_holds_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.touch()
    assert not is_lock_held(path)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_lock_held(path)
    assert not is_lock_held(path)


@pytest.fixture
def real_bench() -> Callable[[], VirtualBench]:
    try:
        find_sshd()
        find_adbd()
        make_namespace_command()
    except ConfigError as error:
        pytest.skip(str(error))
    return VirtualBench


@pytest.mark.serial
@pytest.mark.slow
def test_a_campaign_on_two_devices_survives_everything(
    real_bench: Callable[[], VirtualBench], squeezenet: Path, tmp_path: Path
) -> None:
    aim = FaultCampaignScope(20, ("conv-bn-relu", "maxpool", "concat", "global-avgpool"), seed=3, max_macs=10**8)
    strikes = draw_campaign_faults(20, 2, 3, kills=1, gone=2, unplugged=1)
    said: list[str] = []
    with real_bench() as bench:
        bench.add("adb", "lvpm", seed=1)
        bench.add("ssh", "lvpm", seed=2)
        ordeal = FaultCampaign(bench, tmp_path, aim, strikes, say=said.append, patience_s=500)
        verdict = ordeal.run()
    log = (tmp_path / "log").read_text(errors="replace")[-3000:]
    assert verdict.records == 20, log
    assert verdict.missing == ()
    assert verdict.repeated == ()
    assert verdict.wrong == ()
    assert verdict.left == ()
    assert verdict.codes.count(-9) == 1
    assert verdict.codes[-1] == 0
    assert verdict.injected_faults == strikes, said
    assert sum(one.within for one in verdict.compared) >= 18  # 95 % are expected to be
