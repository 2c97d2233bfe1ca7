"""Tables of others: units, percentages, layouts, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepen.errors import ConfigError, DatasetError
from deepen.search import BenchmarkTable, compute_exact_front, import_table, read_objectives

A = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
B = A.replace("nor_conv_3x3", "nor_conv_1x1")


def write(folder: Path, text: str) -> Path:
    file = folder / "rows.csv"
    file.write_text(text)
    return file


def test_rows_in_any_unit(tmp_path: Path) -> None:
    file = write(tmp_path, f"arch_str,arch_idx,energy_mJ,latency_ms,accuracy,note\n{A},5,2.5,3,71.5,x\n{B},9,,4,60,y\n")
    table = import_table(file, space="nasbench201")
    assert table.data["energy_j"][0] == 2.5e-3
    assert np.isnan(table.data["energy_j"][1])
    assert table.data["latency_s"].tolist() == [0.003, 0.004]
    assert table.data["accuracy"].tolist() == [0.715, 0.6]
    assert table.by_index == {5: table.hashes[0], 9: table.hashes[1]}
    assert [c.unit for c in table.manifest.columns] == ["J", "s", ""]
    assert any("note" in n for n in table.manifest.notes)
    assert compute_exact_front(table, read_objectives(table, ["energy_j", "accuracy"])).missing == 1


def test_rows_without_a_space_are_their_own_names(tmp_path: Path) -> None:
    table = import_table(write(tmp_path, "arch,energy_j\nbig,2\nsmall,1\n"))
    assert table.hashes == ("big", "small")
    assert table.space is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; give a CSV file"),
        ("arch,energy_j\n", "no rows"),
        ("name,energy_j\nx,1\n", "no column with the architecture"),
        (f"arch,energy_j\n{A},1\n{A},2\n", "twice"),
        ("arch,energy_j\n|bad|,1\n", "row 2"),
        (f"arch,energy_j\n{A},1\n,2\n", "row 3"),
        (f"arch,what\n{A},word\n", "no column with figures"),
        (f"arch,energy_mj,energy_j\n{A},1,2\n", "two columns become energy_j"),
        (f"arch,budget,energy_j\n{A},,2\n", "empty cells"),
    ],
)
def test_bad_rows_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        import_table(write(tmp_path, text), space="nasbench201")


def test_bad_names_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, f"arch,energy_j\n{A},1\n")
    with pytest.raises(ConfigError, match="pi5-nasbench201"):
        import_table(file, "pi5")
    with pytest.raises(ConfigError, match="source"):
        import_table(file, source="guessed")
    with pytest.raises(ConfigError, match="No such file"):
        import_table(tmp_path / "none.csv")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DatasetError, match="not a readable"):
        import_table(tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match="no EC-NAS results"):
        import_table(tmp_path, "ec-nas")
    (tmp_path / "x.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DatasetError, match=r"not a readable folder or .tar.gz"):
        import_table(tmp_path / "x.tar.gz", "ec-nas")


def test_ec_nas_kilowatt_hours_contain_the_pue_and_joules_do_not(ecnas: BenchmarkTable) -> None:
    assert (len(ecnas.hashes), len(ecnas)) == (91, 819)
    ratio = ecnas.data["total_energy_j"] / ecnas.data["device_energy_j"]
    assert ratio == pytest.approx(np.full(len(ecnas), 1.590), abs=5e-4)
    columns = ecnas.columns
    assert (columns["total_energy_j"].pue, columns["device_energy_j"].pue) == (1.59, 1.0)
    assert ecnas.data["gpu_energy_j"] + ecnas.data["cpu_energy_j"] == pytest.approx(ecnas.data["device_energy_j"])


def test_ec_nas_repeats_vary_by_two_percent(ecnas: BenchmarkTable) -> None:
    spread = ecnas.repeat_cv("energy_j")
    assert len(spread) == 91
    assert spread.mean() == pytest.approx(0.022, abs=5e-4)
    assert spread.max() == pytest.approx(0.102, abs=5e-4)


def test_ec_nas_figures_are_the_published_ones(ecnas: BenchmarkTable) -> None:
    kwh = np.concatenate(ecnas.repeats("energy_j")) / 3.6e6 * 1e3
    assert [kwh.min(), np.median(kwh), kwh.max()] == pytest.approx([5.3, 16.7, 38.4], abs=0.06)


def test_pi5_front_is_that_of_brute_force(pi5: BenchmarkTable) -> None:
    truth = compute_exact_front(pi5, read_objectives(pi5, ["energy_j", "accuracy"]))
    energy, accuracy = pi5.data["energy_j"], pi5.data["accuracy"]
    assert (len(truth.archs), truth.missing) == (11635, 0)
    best, expected = -1.0, []
    for i in np.lexsort((-accuracy, energy)):
        if accuracy[i] > best:
            best = accuracy[i]
            expected.append((energy[i], accuracy[i]))
    found = truth.points[truth.front]
    assert [(e, -a) for e, a in found.tolist()] == [(float(e), float(a)) for e, a in expected]


def test_pi5_knows_its_space_and_both_runtimes(pi5: BenchmarkTable, shared_dir: Path) -> None:
    assert pi5.manifest.space == "nasbench201?classes=100&resolution=32"
    onnx = import_table(shared_dir / "data/pi5_nasbench201", "pi5-nasbench201", runtime="onnx")
    assert set(onnx.hashes) == set(pi5.hashes)
    assert np.corrcoef(onnx.data["energy_j"], pi5.data["energy_j"])[0, 1] > 0.8
    with pytest.raises(ConfigError, match="litert"):
        import_table(shared_dir / "data/pi5_nasbench201", "pi5-nasbench201", runtime="torch")
