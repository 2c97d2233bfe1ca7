"""The DeepEn2023 importers: on files made here in their layout, and on the real ones where they are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from deepen.datasets import Dataset, read_dataset
from deepen.datasets.importers import get_importer, import_dataset
from deepen.datasets.quality import check_dataset
from deepen.errors import ConfigError, DatasetError

SIZES = [(8, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 96), (96, 128), (128, 128), (128, 192)]


def write(path: Path, kernel: str, rows: dict[str, object], field: str) -> None:
    """One file of the layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({kernel: {name: {field: value} for name, value in rows.items()}}))


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """Ten sound convolutions, and one of every defect the importer knows."""
    root = tmp_path / "DeepEn"
    energy, latency, power, config = {}, {}, {}, {}
    for number, (c_in, c_out) in enumerate(SIZES):
        name = f"GOOD{number:02d}"
        millijoule = 28 * 28 * 9 * c_in * c_out * 1e-7  # 100 pJ per multiply-accumulate
        energy[name], latency[name], power[name] = f"{millijoule:.3f}", f"{millijoule / 2:.4f}", f"{2000 + number:.2f}"
        config[name] = {"HW": 28, "CIN": c_in, "COUT": c_out, "KERNEL_SIZE": 3, "STRIDES": 1}
    same = config["GOOD08"]
    middle = float(energy["GOOD08"])
    rows = {
        "SLIPPED": (middle, middle / 2 / 1000, 2000.0),  # latency in seconds
        "ZEROLAT": (middle, 0.0, 2000.0),
        "BIGPOWE": (middle, middle / 2, 2e6),  # power in microwatts
        "BIGBOTH": (middle * 1000, middle / 2, 2e6),  # energy and power in the smaller unit
        "CONFUSE": (middle, middle * 2, 2000.0),  # nothing tells which is wrong
        "NOTHING": (0.0, middle / 2, 2000.0),
    }
    for name, (e, t, p) in rows.items():
        energy[name], latency[name], power[name] = f"{e:.3f}", f"{t:.4f}", f"{p:.1f}"
        config[name] = same
    energy["NOCONF"], latency["NOCONF"], power["NOCONF"] = "3.000", "1.5000", "2000.0"
    config["LONELY"] = same
    write(root / "Kernel_energy" / "conv-bn-relu_energy.json", "conv-bn-relu", energy, "energy")
    write(root / "Kernel_latency" / "conv-bn-relu_latency.json", "conv-bn-relu", latency, "latency")
    write(root / "Kernel_power" / "conv-bn-relu_power.json", "conv-bn-relu", power, "power")
    write(root / "kernel_config" / "results" / "Conv" / "conv-bn-relu_test.json", "conv-bn-relu", config, "config")
    return root


def test_only_what_is_certain_is_repaired_and_everything_is_said(download: Path) -> None:
    """Each defect ends as it must: put right with its reason, or left out with its reason."""
    found = get_importer("deepen2023").read(download)
    records = {record.id: record for record in found.records}
    repaired = {note.id: note.reason for note in found.repaired}
    rejected = {note.id: note.reason for note in found.rejected}
    assert set(records) == {f"GOOD{n:02d}" for n in range(10)} | {"SLIPPED", "ZEROLAT", "BIGPOWE", "BIGBOTH"}
    sound = records["GOOD08"]
    for name, says in {
        "SLIPPED": "latency in seconds", "ZEROLAT": "latency is 0", "BIGPOWE": "power", "BIGBOTH": "energy",
    }.items():  # fmt: skip
        assert says in repaired[name], name
        assert records[name].energy_j == pytest.approx(sound.energy_j, rel=0.02), name
        assert records[name].latency_s == pytest.approx(sound.latency_s, rel=0.02), name
        assert any("repaired" in text for text in records[name].warnings), name
    assert "nothing tells which" in rejected["CONFUSE"]
    assert "not a positive number" in rejected["NOTHING"]
    assert "no configuration" in rejected["NOCONF"]
    assert "without an energy" in rejected["LONELY"]
    assert set(repaired) == {"SLIPPED", "ZEROLAT", "BIGPOWE", "BIGBOTH"}


def test_records_say_what_was_measured(download: Path) -> None:
    """SI units, family, parameters, and the step of the values as uncertainty."""
    record = get_importer("deepen2023").read(download).records[0]
    assert (record.family, record.params["c_in"], record.params["pads"]) == ("conv-bn-relu", 8, [1, 1, 1, 1])
    assert record.features["macs"] == 28 * 28 * 9 * 8 * 16
    assert record.energy_j == pytest.approx(28 * 28 * 9 * 8 * 16 * 1e-10, rel=0.05)
    assert record.uncertainty_j == pytest.approx(1e-6 / math.sqrt(12))
    assert record.budget == {"quantisation": record.uncertainty_j}
    assert record.source == "published"
    assert any("idle" in text for text in record.warnings)


def test_a_folder_that_is_something_else_is_one_clear_line(tmp_path: Path, download: Path) -> None:
    """Absent, wrong and damaged folders, unknown names and taken targets."""
    with pytest.raises(DatasetError, match=r"no such folder"):
        import_dataset("deepen2023", tmp_path / "absent", tmp_path / "out")
    with pytest.raises(DatasetError, match=r"no Kernel_energy there.*give the folder with"):
        import_dataset("deepen2023", tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"unknown importer 'deepen2024'.*deepen2023"):
        import_dataset("deepen2024", download, tmp_path / "out")
    file = download / "Kernel_energy" / "conv-bn-relu_energy.json"
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"conv-bn-relu_energy.json: damaged"):
        import_dataset("deepen2023", download, tmp_path / "out")
    file.write_text('{"conv-bn-relu": [1, 2]}')
    with pytest.raises(DatasetError, match=r"not of the layout"):
        import_dataset("deepen2023", download, tmp_path / "out")
    file.write_text(whole)
    import_dataset("deepen2023", download, tmp_path / "out")
    with pytest.raises(DatasetError, match=r"a dataset already"):
        import_dataset("deepen2023", download, tmp_path / "out")
    assert len(read_dataset(tmp_path / "out")) == 14


def test_configurations_of_another_device_describe_more_rows(download: Path, tmp_path: Path) -> None:
    """A row without a configuration is taken with one from a further file; the folder's own word goes first."""
    other = tmp_path / "conv_GPU.json"
    sizes = {"HW": 14, "CIN": 48, "COUT": 40, "KERNEL_SIZE": 1, "STRIDES": 1}
    write(other, "conv-bn-relu", {"NOCONF": sizes, "GOOD00": sizes, "ABSENT": sizes}, "config")
    alone = get_importer("deepen2023").read(download)
    found = get_importer("deepen2023").read(download, [other])
    added = {r.id: r for r in found.records}.keys() - {r.id for r in alone.records}
    assert added == {"NOCONF"}
    taken = {record.id: record.params for record in found.records}
    assert (taken["NOCONF"]["c_in"], taken["NOCONF"]["c_out"], taken["GOOD00"]["c_in"]) == (48, 40, 8)
    assert "ABSENT" not in {note.id for note in found.rejected}
    assert "1 rows have their configuration from conv_GPU.json" in found.notes


def test_further_configurations_must_be_some(download: Path, tmp_path: Path) -> None:
    """A file that describes nothing, that is absent, or that goes to another importer is refused in one line."""
    empty = tmp_path / "other.json"
    write(empty, "conv-bn-relu", {"NOCONF": "1"}, "energy")
    with pytest.raises(DatasetError, match=r"other\.json: holds no configurations; give a file like conv_GPU\.json"):
        get_importer("deepen2023").read(download, [empty])
    with pytest.raises(DatasetError, match=r"absent\.json"):
        get_importer("deepen2023").read(download, [tmp_path / "absent.json"])
    with pytest.raises(ConfigError, match="'deepen2023-gpu' takes no further configurations, only deepen2023"):
        get_importer("deepen2023-gpu").read(download, [empty])


def test_the_real_kernels(shared_dir: Path, tmp_path: Path) -> None:
    """The published CPU kernels: slips found, nothing invented, and what remains behaves like energy."""
    folder = shared_dir / "data" / "deepen2023" / "kernels_p40pro_cpu"
    found = import_dataset("deepen2023", folder, tmp_path / "p40")
    slips = [note for note in found.repaired if "latency in seconds" in note.reason]
    assert len(slips) >= 35
    assert "concat" in {r.family for r in found.records if "repaired" in "".join(r.warnings)}
    assert len(found.records) >= 600
    findings = check_dataset(Dataset.open(tmp_path / "p40"))
    assert not [finding for finding in findings if finding.severity == "error"]


def test_the_real_kernels_that_another_device_describes(shared_dir: Path) -> None:
    """A hundred convolutions of the CPU are described with the GPU's only."""
    folder = shared_dir / "data" / "deepen2023"
    alone = get_importer("deepen2023").read(folder / "kernels_p40pro_cpu")
    configurations = folder / "kernels_gpu_conv" / "conv_GPU.json"
    found = get_importer("deepen2023").read(folder / "kernels_p40pro_cpu", [configurations])
    assert len(found.records) - len(alone.records) == 103


def test_the_real_gpu_kernels(shared_dir: Path) -> None:
    """The published GPU kernels have energies and no latencies."""
    found = get_importer("deepen2023-gpu").read(shared_dir / "data" / "deepen2023" / "kernels_gpu_conv")
    assert len(found.records) >= 400
    assert all(math.isnan(record.latency_s) and record.energy_j > 0 for record in found.records)
    assert not [finding for finding in check_dataset(found.records) if finding.severity == "error"]
