"""Tables: in memory, on disk, and asked by hash, architecture and number."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from deepen.errors import ConfigError, DatasetError
from deepen.search import BenchmarkTable, TabularBenchmark, join_tables, read_table, write_table
from deepen.search.table.build import assemble_table
from deepen.search.table.types import TableColumn, TableManifest
from deepen.spaces import NasBench101Space


@pytest.fixture
def trained() -> BenchmarkTable:
    """Two cells; budgets 4 and 12, three repeats, checkpoints at a quarter and at the end."""
    space = NasBench101Space(4)
    rows = [
        (arch, budget, repeat, point, 10.0 * k + budget + repeat + point, budget * 2.0 * point / budget)
        for k, arch in enumerate(("1:", "11.1:maxpool3x3"))
        for budget in (4.0, 12.0)
        for repeat in (1, 2, 3)
        for point in (budget / 4, budget)
    ]
    archs, budget, repeat, point, energy, time = zip(*rows, strict=True)
    columns = (TableColumn.named("total_energy_j", "measured"), TableColumn.named("training_time_s", "measured"))
    data = {"total_energy_j": np.array(energy), "training_time_s": np.array(time)}
    manifest = TableManifest(space.name, "measured", columns, "made up")
    return assemble_table(
        manifest, space, archs, data,
        budget=np.array(budget), repeat=np.array(repeat), checkpoint=np.array(point),
    )  # fmt: skip


def same(a: BenchmarkTable, b: BenchmarkTable) -> bool:
    return all(
        np.array_equal(a.values(k), b.values(k), equal_nan=a.values(k).dtype != object) for k in (*a.keys, *a.data)
    )


def test_written_and_read_again(trained: BenchmarkTable, tmp_path: Path) -> None:
    folder = write_table(trained, tmp_path / "table")
    found = read_table(folder)
    assert found.manifest == trained.manifest
    assert same(found, trained)
    assert sorted(p.name for p in folder.iterdir()) == ["rows.parquet", "table.json"]
    write_table(trained, folder)  # a table may be replaced


def test_a_folder_of_something_else_is_not_overwritten(trained: BenchmarkTable, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(DatasetError, match="no table"):
        write_table(trained, tmp_path)


def test_damage_is_refused(trained: BenchmarkTable, tmp_path: Path) -> None:
    folder = write_table(trained, tmp_path / "t")
    manifest, rows = (folder / "table.json").read_text(), (folder / "rows.parquet").read_bytes()
    (folder / "rows.parquet").write_bytes(rows[:-7])
    with pytest.raises(DatasetError, match="SHA-256"):
        read_table(folder)
    (folder / "rows.parquet").write_bytes(rows)
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "not the manifest"),
        (json.dumps(json.loads(manifest) | {"format": 99}), "newer deepen"),
        (json.dumps(json.loads(manifest) | {"source": "guessed"}), "guessed"),
        (json.dumps(json.loads(manifest) | {"columns": [{"unit": "J"}]}), "damaged"),
        (json.dumps(json.loads(manifest) | {"columns": []}), "not those its manifest lists"),
    ):
        (folder / "table.json").write_text(text)
        with pytest.raises(DatasetError, match=message):
            read_table(folder)
    with pytest.raises(DatasetError, match="no table here"):
        read_table(tmp_path / "nowhere")


def test_a_network_twice_is_refused(made: BenchmarkTable) -> None:
    with pytest.raises(DatasetError, match="twice"):
        made.take(np.array([1, 1]))


def test_a_network_is_found_in_every_way(made: BenchmarkTable) -> None:
    bench = TabularBenchmark(made)
    arch, key = made.keys["arch"][7], made.keys["hash"][7]
    lines = [bench.query(arch), bench.query(hash=key), bench.query(index=7)]
    assert lines[0] == lines[1] == lines[2]
    assert lines[0]["energy_j"] == made.data["energy_j"][7]
    spent = bench.spent
    assert (spent.queries, spent.distinct, spent.epochs) == (3, 1, 0.0)
    assert spent.cost["energy_j"] == pytest.approx(3 * lines[0]["energy_j"])
    bench.reset()
    assert bench.spent.queries == 0
    assert list(bench.hashes()) == list(made.hashes)


def test_isomorphic_cells_are_the_same_network(trained: BenchmarkTable) -> None:
    bench = TabularBenchmark(trained)
    cell = bench.spec([[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]], ["maxpool3x3", "conv3x3-bn-relu"])
    assert bench.query(cell, repeat="mean")["arch"] == "11.1:maxpool3x3"
    assert bench.query("  1: ".strip(), repeat=1)["hash"] == bench.metrics("1:")["hash"]


def test_budgets_repeats_and_checkpoints(trained: BenchmarkTable) -> None:
    bench = TabularBenchmark(trained, seed=3)
    assert bench.query("1:", repeat=2)["total_energy_j"] == 12 + 2 + 12
    assert bench.query("1:", budget=4, repeat=2)["total_energy_j"] == 4 + 2 + 4
    mean = bench.query("1:", budget=4, repeat="mean")
    assert (mean["total_energy_j"], mean["repeat"]) == (4 + 2 + 4, None)
    half = bench.query("1:", budget=4, repeat=1, stop_halfway=True)
    assert (half["checkpoint"], half["training_time_s"]) == (1.0, 2.0)
    assert bench.spent.epochs == 12 + 4 + 4 + 1
    assert {bench.query("1:")["repeat"] for _ in range(50)} == {1, 2, 3}
    assert len(bench.metrics("1:")["rows"]) == 12


def test_random_repeats_follow_the_seed(trained: BenchmarkTable) -> None:
    runs = [[TabularBenchmark(trained, seed).query("1:")["repeat"] for _ in range(1)] for seed in (1, 1, 1)]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"arch": "1:", "index": 0}, "exactly one"),
        ({"index": 99}, "number 99"),
        ({"hash": "0" * 32}, "unknown hash"),
        ({"arch": "11.1:conv1x1-bn-relu"}, "not in the table"),
        ({"arch": "1:", "budget": 5}, "budgets: 4, 12"),
        ({"arch": "1:", "repeat": 9}, "no repeat 9"),
    ],
)
def test_what_is_not_there_is_refused(trained: BenchmarkTable, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TabularBenchmark(trained).query(**arguments)  # type: ignore[arg-type]


def test_a_table_without_budgets_says_so(made: BenchmarkTable) -> None:
    bench = TabularBenchmark(made)
    with pytest.raises(ConfigError, match="no budgets"):
        bench.query(index=0, budget=4)
    with pytest.raises(ConfigError, match="no checkpoints"):
        bench.query(index=0, stop_halfway=True)


def test_filters(made: BenchmarkTable) -> None:
    good = made.filter(accuracy=(0.4, None), energy_j=(None, 5e-3))
    expected = (made.data["accuracy"] >= 0.4) & (made.data["energy_j"] <= 5e-3)
    assert len(good) == expected.sum() > 0
    assert len(made.filter(where=lambda row: row["accuracy"] > 0.4)) == (made.data["accuracy"] > 0.4).sum()
    assert len(made.filter(arch=made.keys["arch"][3])) == 1
    assert len(made.filter(arch=set(made.keys["arch"][:5]))) == 5
    with pytest.raises(ConfigError, match="accuracy"):
        made.filter(acuracy=0.5)
    with pytest.raises(ConfigError, match="pair"):
        made.filter(accuracy=(1, 2, 3))


def test_rows_and_frames(trained: BenchmarkTable) -> None:
    frame = trained.to_frame()
    assert list(frame.columns) == [
        "hash",
        "arch",
        "budget",
        "repeat",
        "checkpoint",
        "total_energy_j",
        "training_time_s",
    ]
    assert frame.attrs["columns"]["total_energy_j"]["unit"] == "J"
    assert next(iter(trained))["repeat"] == 1
    assert [row["total_energy_j"] for row in trained] == frame["total_energy_j"].tolist()


def test_repeats_are_averaged_and_their_spread_told(trained: BenchmarkTable) -> None:
    assert trained.per_network("total_energy_j").tolist() == [26.0, 36.0]
    assert trained.per_network("total_energy_j", budget=4).tolist() == [10.0, 20.0]
    assert trained.repeat_cv("total_energy_j") == pytest.approx([1 / 26, 1 / 36])
    assert math.isnan(trained.per_network("total_energy_j", budget=7)[0])


def test_info_tells_units_labels_and_ranges(trained: BenchmarkTable) -> None:
    info = trained.info()
    assert (info["rows"], info["networks"], info["budgets"], info["repeats"]) == (24, 2, [4.0, 12.0], 3)
    energy = info["columns"][0]
    assert (energy["unit"], energy["source"], energy["better"], energy["min"]) == ("J", "measured", "min", 6.0)


def test_columns_of_another_table_are_joined_by_network(made: BenchmarkTable) -> None:
    other = made.take(np.arange(100, 0, -1))
    other.data["latency_s"] = other.data.pop("energy_j") * 2
    import dataclasses

    columns = (dataclasses.replace(other.manifest.columns[0], name="latency_s", unit="s"), other.manifest.columns[1])
    other = BenchmarkTable(dataclasses.replace(other.manifest, columns=columns), other.keys, other.data)
    found = join_tables(made, other)
    assert found.data["latency_s"][1:101] == pytest.approx(2 * made.data["energy_j"][1:101])
    assert np.isnan(found.data["latency_s"][0])
    assert "500 rows without" in found.manifest.notes[-1]
    with pytest.raises(ConfigError, match="already"):
        join_tables(made, other, ["accuracy"])
