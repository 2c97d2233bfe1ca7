"""Device scores: the published ones reproduced, and our own against rows that are missing or wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepen.errors import ConfigError, DatasetError
from deepen.scoring import (
    AppRow,
    AppTable,
    compare_with_published,
    compute_pcs,
    compute_relative_scores,
    read_app_rows,
    read_device_reference_values,
    sum_inferences_per_joule,
)
from deepen.scoring.app_rows import NO_SOURCE
from deepen.scoring.pcs import assign_tdp_as_published


def ranking(table: AppTable) -> list[str]:
    return [s.device for s in sorted(compute_relative_scores(table, resamples=20).scores, key=lambda s: s.rank)]


def sum_ranking(table: AppTable) -> list[str]:
    return [s.device for s in sorted(sum_inferences_per_joule(table), key=lambda s: -s.value)]


def with_energy(table: AppTable, changes: dict[tuple[int, int], float]) -> AppTable:
    """A table with some energies multiplied (by nan: taken away)."""
    energy_j = table.energy_j.copy()
    for where, factor in changes.items():
        energy_j[where] *= factor
    return replace(table, energy_j=energy_j)


# ---- PCS -------------------------------------------------------------------------------------------------------------


def test_all_published_pcs_are_reproduced_and_corrected(phones: AppTable, site: Path) -> None:
    facts = read_device_reference_values(site / "published_scores.csv")
    scores = compute_pcs(phones, facts.tdp_w)
    assert [s.device for s in scores] == list(facts.pcs)
    assert [s.score("published") for s in scores] == list(facts.pcs.values()) == [75, 78, 62, 78, 74, 70, 67, 56]
    assert [s.score("own") for s in scores] == [63, 57, 80, 78, 83, 63, 67, 67]
    assert [s.device for s in scores if s.tdp_w == s.published_tdp_w] == ["Huawei P40 Pro", "Redmi K30 Ultra"]
    assert [s.rows for s in scores] == [35, 33, 35, 35, 35, 35, 35, 35]


def test_published_order_deals_tdps_out_by_name() -> None:
    assert assign_tdp_as_published(["c", "a", "b"], {"a": 1.0, "b": 2.0, "c": 3.0}) == {"c": 1.0, "a": 2.0, "b": 3.0}


def test_pcs_is_negative_above_tdp_and_rounds_halves_up() -> None:
    table = AppTable.of([AppRow("a", "w", 3.0, 1.0), AppRow("b", "w", 1.99, 1.0)])
    scores = compute_pcs(table, {"a": 2.0, "b": 4.0})
    assert [s.own for s in scores] == [-50, 50]
    assert scores[1].exact == pytest.approx(50.25)
    assert compute_pcs(AppTable.of([AppRow("a", "w", 0.495, 1.0)]), {"a": 1.0})[0].own == 51


def test_pcs_names_devices_without_tdp_or_power() -> None:
    table = AppTable.of([AppRow("a", "w", 3.0, 1.0), AppRow("b", "w", float("nan"), 1.0)])
    with pytest.raises(ConfigError, match="no TDP for b; add them"):
        compute_pcs(table, {"a": 2.0})
    with pytest.raises(DatasetError, match="b has no row with a mean power"):
        compute_pcs(table, {"a": 2.0, "b": 2.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("device,watts\na,5\n", "no column tdp_w"),
        ("name,tdp_w\na,5\n", "no column device"),
        ("device,tdp_w\na,0\n", "line 2: tdp_w is '0'; write a number above zero"),
        ("device,tdp_w\na,\n", "line 2: tdp_w is ''"),
        ("device,tdp_w\na,inf\n", "line 2: tdp_w is 'inf'"),
        ("device,tdp_w\na,5\na,6\n", "line 3: device a again"),
        ("device,tdp_w,iecs_published\na,5,x\n", "line 2: iecs_published is 'x'"),
    ],
)
def test_bad_tdp_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "tdp.csv"
    file.write_text(text)
    with pytest.raises(DatasetError) as caught:
        read_device_reference_values(file)
    assert message in str(caught.value)


# ---- sum of inferences per joule -------------------------------------------------------------------------------------


def test_the_stand_in_and_its_agreement_with_published_iecs(phones: AppTable, site: Path) -> None:
    scores = sum_inferences_per_joule(phones)
    assert [s.value for s in scores] == pytest.approx(
        [148.8, 151.7, 188.2, 223.4, 193.2, 125.6, 123.5, 112.1], abs=0.06
    )
    found = compare_with_published(scores, read_device_reference_values(site / "published_scores.csv").iecs)
    assert found.devices == 8
    assert found.pearson == pytest.approx(0.94, abs=0.005)
    assert (found.ratio_min, found.ratio_max) == pytest.approx((0.92, 1.28), abs=0.005)
    note8 = scores[1]
    assert note8.missing == 2
    assert note8.largest_share > 0.24
    assert "nnapi" in note8.largest_row


def test_the_stand_in_without_anything_to_compare_with() -> None:
    scores = sum_inferences_per_joule(AppTable.of([AppRow("a", "w", 1.0, 0.5), AppRow("a", "v", 1.0, 0.25)]))
    assert scores[0].value == 6.0
    assert scores[0].largest_share == pytest.approx(4 / 6)
    with pytest.raises(DatasetError, match="no device has a published value"):
        compare_with_published(scores, {"b": 3.0})
    assert np.isnan(compare_with_published(scores, {"a": 3.0}).pearson)


# ---- relative efficiency ---------------------------------------------------------------------------------------------


def test_known_efficiencies_are_found(made: list[AppRow]) -> None:
    found = compute_relative_scores(AppTable.of(made), reference="d0", resamples=200)
    for k, score in enumerate(found.scores):
        assert score.score == pytest.approx(100 / 1.3**k, rel=0.06)
        assert score.interval[0] <= score.score <= score.interval[1]
        assert score.rank == k + 1
    assert found.scores[0].interval == (100.0, 100.0)
    assert found.scale == pytest.approx(0.1, rel=0.25)
    assert found.groups == 10
    assert found.better[0, 5] == 1.0
    assert found.better[5, 0] == 0.0


def test_the_middle_is_100_by_default(made: list[AppRow]) -> None:
    scores = [s.score for s in compute_relative_scores(AppTable.of(made), resamples=20).scores]
    assert np.exp(np.median(np.log(scores))) == pytest.approx(100)


def test_intervals_cover_the_truth() -> None:
    """Over many made data sets, about 95 % of the intervals hold the true ratio (clusters of 4 rows, 12 of them)."""
    generator = np.random.default_rng(11)
    inside = []
    for _ in range(40):
        shift = generator.normal(0, 0.15, (4, 12))  # a network suits a device more or less, under every delegate
        rows = [
            AppRow(
                f"d{k}",
                f"w{i}",
                1.0,
                float(np.exp(0.2 * k + shift[k, i // 4] + generator.normal(0, 0.1))),
                f"g{i // 4}",
            )
            for k in range(4)
            for i in range(48)
        ]
        found = compute_relative_scores(AppTable.of(rows), reference="d0", resamples=200)
        for k in range(1, 4):
            low, high = found.scores[k].interval
            inside.append(low <= 100 * np.exp(-0.2 * k) <= high)
    assert 0.85 <= np.mean(inside) <= 0.99


def test_missing_rows_do_not_change_the_ranking(made: list[AppRow]) -> None:
    generator = np.random.default_rng(2)
    for _ in range(20):
        kept = [r for r in made if generator.random() > 0.3]
        assert ranking(AppTable.of(kept)) == [f"d{k}" for k in range(6)]


def test_a_device_without_its_costly_rows_gains_nothing(made: list[AppRow]) -> None:
    """The worst device with only the rows of little work: a mean of energies would put it first."""
    table = AppTable.of(made)
    costly = np.argsort(table.energy_j[0])[20:]
    fewer = with_energy(table, {(5, int(k)): float("nan") for k in costly})
    mean_j = np.nanmean(fewer.energy_j, axis=1)
    assert mean_j[5] < mean_j[0]
    assert ranking(fewer)[-1] == "d5"


@pytest.mark.parametrize("factor", [1e-6, 0.01, 100.0, 1e6])
def test_a_wrong_value_hardly_moves_a_score(made: list[AppRow], factor: float) -> None:
    table = AppTable.of(made)
    before = compute_relative_scores(table, reference="d0", resamples=20)
    largest = 0.0
    for row in range(0, 40, 5):
        after = compute_relative_scores(with_energy(table, {(3, row): factor}), reference="d0", resamples=20)
        moved = [abs(np.log(a.score / b.score)) for a, b in zip(after.scores, before.scores, strict=True)]
        largest = max(largest, *moved)
        assert after.scores[3].bounded >= 1
    assert largest < 4 * 1.345 * before.scale / 40  # 1.1 %, whatever the factor


def test_the_ranking_of_the_phones_survives_what_turns_the_sum_over(phones: AppTable) -> None:
    """Each energy in turn a thousand times too small: the sum of inferences per joule always puts that phone first."""
    truth = ranking(phones)
    far = [s.device for s in compute_relative_scores(phones, resamples=20).scores if s.rank in (1, 8)]
    generator = np.random.default_rng(3)
    cells = np.argwhere(~np.isnan(phones.energy_j))
    for device, row in cells[generator.choice(len(cells), 12, replace=False)]:
        wrong = with_energy(phones, {(int(device), int(row)): 1e-3})
        assert sum_ranking(wrong)[0] == phones.devices[device]
        found = ranking(wrong)
        assert (found[0], found[-1]) == (truth[0], truth[-1])
        assert {found[0], found[-1]} == set(far)
        assert max(abs(found.index(d) - truth.index(d)) for d in truth) <= 1


def test_the_fit_is_the_minimum_of_its_loss(made: list[AppRow]) -> None:
    """No other effects have a smaller Huber loss: tried in every direction around the solution."""
    from deepen.scoring.relative import HUBER_K, _fit_huber

    y = np.log(AppTable.of(made).energy_j)
    y[2, :5] += 3
    seen = np.ones_like(y)
    seen[1, 3:9] = 0
    scale = 0.1
    effect, rest = _fit_huber(y[None], seen[None], np.array([scale]), np.zeros((1, 6)), 1e-12)
    work = (y - effect[0][:, None] - rest[0])[0]

    def loss(devices: np.ndarray, rows: np.ndarray) -> float:
        size = np.abs(y - devices[:, None] - rows) / scale
        value = np.where(size <= HUBER_K, size**2 / 2, HUBER_K * size - HUBER_K**2 / 2)
        return float((value * seen).sum())

    least = loss(effect[0], work)
    generator = np.random.default_rng(1)
    for _ in range(100):
        step = generator.normal(0, 1e-3, 6 + 40)
        assert loss(effect[0] + step[:6], work + step[6:]) > least


def test_scores_do_not_depend_on_the_order_of_rows(made: list[AppRow]) -> None:
    shuffled = [made[i] for i in np.random.default_rng(4).permutation(len(made))]
    one = {s.device: s.score for s in compute_relative_scores(AppTable.of(made), reference="d2", resamples=20).scores}
    other = {
        s.device: s.score for s in compute_relative_scores(AppTable.of(shuffled), reference="d2", resamples=20).scores
    }
    assert other == pytest.approx(one, rel=1e-6)


def test_rows_that_agree_exactly_have_no_scatter() -> None:
    rows = [AppRow(d, f"w{i}", 1.0, (i + 1) * f) for d, f in (("a", 1.0), ("b", 2.0)) for i in range(10)]
    found = compute_relative_scores(AppTable.of(rows), reference="a", resamples=20)
    assert found.scores[1].score == pytest.approx(50)
    assert found.scores[1].interval == pytest.approx((50, 50))


def test_devices_that_nothing_connects_are_refused() -> None:
    rows = [
        AppRow(d, f"{w}{i}", 1.0, 1.0) for d, w in (("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")) for i in range(4)
    ]
    with pytest.raises(DatasetError, match="c, d cannot be compared with a: no row connects them"):
        compute_relative_scores(AppTable.of(rows))
    with pytest.raises(DatasetError, match="at least two devices"):
        compute_relative_scores(AppTable.of(rows[:4]))
    with pytest.raises(ConfigError, match="unknown device 'z'"):
        compute_relative_scores(AppTable.of(rows), reference="z")
    with pytest.raises(ConfigError, match="confidence between 0 and 1"):
        compute_relative_scores(AppTable.of(rows), confidence=1.0)


def test_few_groups_and_lonely_rows_are_told() -> None:
    rows = [AppRow(d, f"w{i}", 1.0, 1.0 + i, "one" if i < 3 else "two") for d in "ab" for i in range(6)]
    found = compute_relative_scores(AppTable.of([*rows, AppRow("a", "alone", 1.0, 5.0)]), resamples=20)
    assert any("1 rows are left out: only one device has them" in w for w in found.warnings)
    assert any("only 2 independent groups" in w for w in found.warnings)


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_repeats_count_by_their_median_and_gaps_are_told() -> None:
    rows = [AppRow("a", "w", 1.0, e) for e in (1.0, 9.0, 2.0)] + [AppRow("b", "v", 1.0, 1.0, source="simulated")]
    table = AppTable.of(rows)
    assert table.energy_j[0, 0] == 2.0
    assert np.isnan(table.energy_j[0, 1])
    assert table.label.source == "simulated"
    assert table.warnings == (
        "1 rows are given more than once; the median of each counts",
        "2 of 4 rows are missing: a 1, b 1",
        "rows of different kinds are compared: 3 measured, 1 simulated",
    )


def test_an_empty_cell_is_missing_and_extra_columns_do_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(
        "device,model,delegate,note,energy_j,power_w\n"
        "a,m,cpu,first try,,2\na,m,gpu,again,0.5,\n\nb,m,cpu,last try,1,2\n"
    )
    table = read_app_rows(file)
    assert table.workloads == ("m cpu", "m gpu")
    assert table.groups == ("m", "m")
    assert np.isnan(table.energy_j[0, 0])
    assert table.energy_j[0, 1] == 0.5
    assert read_app_rows(file, keys=("note",)).workloads[0] == "first try"
    assert table.warnings[-1] == NO_SOURCE
    file.write_text("device,model,energy_j,source\na,m,1,modelled\n")
    assert (read_app_rows(file).warnings, read_app_rows(file).label) == ((), ("modelled", ""))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; give a CSV"),
        ("device,model,energy_j\n", "no rows below the header"),
        ("model,energy_j\nm,1\n", "no column device or phone"),
        ("device,energy_j\na,1\n", "no column names the workload"),
        ("device,model\na,m\n", "no column mean_power_w"),
        ("device,model,energy_j\na,m,-1\n", "line 2: a, m: energy -1 is not above zero"),
        ("device,model,energy_j\na,m,0\n", "energy 0 is not above zero"),
        ("device,model,energy_j\na,m,inf\n", "energy inf is not above zero"),
        ("device,model,energy_j\na,m,nan\n", "leave the cell empty"),
        ("device,model,energy_j\na,m,3 mJ\n", "'3 mJ' is no number"),
        ("device,model,energy_j\na,m,1,2\n", "line 2: 4 cells under 3 columns"),
        ("device,device,energy_j\na,m,1\n", "column 'device' appears twice"),
        ("device,model,energy_j\n,m,1\n", "line 2: an application row needs a device"),
        ("device,model,energy_j,source\na,m,1,guessed\n", "line 2: source 'guessed'"),
    ],
)
def test_bad_rows_are_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(text)
    with pytest.raises(DatasetError) as caught:
        read_app_rows(file)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_files_that_are_no_csv_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_app_rows(tmp_path / "nothing.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DatasetError, match="not a text file"):
        read_app_rows(tmp_path / "binary.csv")
    (tmp_path / "rows.csv").write_text("device,model,energy_j\na,m,1\n")
    with pytest.raises(ConfigError, match="no column 'delegate'"):
        read_app_rows(tmp_path / "rows.csv", keys=("delegate",))


def test_records_of_models_in_a_dataset_are_rows(tmp_path: Path) -> None:
    from deepen.datasets import Dataset
    from deepen.records import EnergyRecord

    def record(device: str, name: str, gross_j: float) -> EnergyRecord:
        return EnergyRecord(
            id=f"{device}-{name}",
            kind="model",
            name=name,
            energy_j=0.8 * gross_j,
            uncertainty_j=0.0,
            gross_energy_j=gross_j,
            latency_s=0.1,
            idle_power_before_w=1.0,
            idle_power_after_w=1.0,
            threads=1,
            runtime="onnxruntime",
            runtime_build="x",
            device=device,
            meter="m",
            source="modelled",
            runs=1,
            trials=(0.8 * gross_j,),
            recorded_at="2026-01-01T00:00:00Z",
        )

    with Dataset.open(tmp_path / "d", create=True) as dataset:
        for k, device in enumerate(("a", "b")):
            for i in range(8):
                dataset.append(record(device, f"m{i}.onnx", (1.0 + i) * 2**k))
    table = read_app_rows(tmp_path / "d")
    assert table.devices == ("a", "b")
    assert len(table.workloads) == 8
    assert table.power_w[0, 0] == pytest.approx(10.0)
    assert table.energy_j[1, 0] == 2.0
    assert table.label.source == "modelled"
    assert compute_relative_scores(table, reference="a", resamples=20).scores[1].score == pytest.approx(50)
    with Dataset.open(tmp_path / "empty", create=True):
        pass
    with pytest.raises(DatasetError, match="no records of whole models"):
        read_app_rows(tmp_path / "empty")
