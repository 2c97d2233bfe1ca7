"""Importers of whole networks: kernels found, copies left out, sums right, and no energy invented."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from deepen.datasets import Dataset
from deepen.datasets.importers import get_importer, import_dataset
from deepen.datasets.quality import check_dataset
from deepen.errors import DatasetError
from deepen.kernels.splitting.split import split_graph
from deepen.spaces.nasbench201_networks import build_graph, get_cell_at_index


def _pi5(folder: Path, rows: list[tuple[int, int, str, float, float]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = ["arch_idx,arch_str", *(f"{i},{get_cell_at_index(1000 + i)}" for i in range(6))]
    (folder / "arch_idx_to_str.csv").write_text("\n".join(lines))
    table = [
        {
            "arch_idx": i, "rep_arch_idx": rep, "device": "pi5", "framework": framework, "task": "cifar100",
            "lat_ms_median": latency, "lat_ms_var": 0.0, "energy_mj": energy, "accuracy": 50.0, "status": "ok",
        }
        for i, rep, framework, latency, energy in rows
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(table), folder / "measurements.parquet")


def test_networks_of_a_search_space(tmp_path: Path) -> None:
    """Each network once, with the kernels of its graph; copies and impossible rows are told."""
    _pi5(
        tmp_path,
        [
            (1, 1, "onnx", 4.0, 6.0), (2, 1, "onnx", 4.0, 6.0), (3, 3, "onnx", 4.0, 0.0), (4, 4, "onnx", 4.0, 4000.0),
            (9, 9, "onnx", 4.0, 6.0), (1, 1, "litert", 3.0, 5.0), (5, 5, "torchmobile", 3.0, 5.0),
        ],
    )  # fmt: skip
    found = import_dataset("pi5-nasbench201", tmp_path, tmp_path / "out")
    reasons = {note.id: note.reason for note in found.rejected}
    assert "shares its measurement" in reasons["onnx-cifar100-2"]
    assert "not a positive number" in reasons["onnx-cifar100-3"]
    assert "net power" in reasons["onnx-cifar100-4"]
    assert "not in arch_idx_to_str" in reasons["onnx-cifar100-9"]
    assert "torchmobile" in reasons["torchmobile-cifar100-5"]
    stored = {record.id: record for record in Dataset.open(tmp_path / "out")}
    assert set(stored) == {"onnx-cifar100-1", "litert-cifar100-1"}
    record = stored["onnx-cifar100-1"]
    assert (record.energy_j, record.latency_s) == pytest.approx((6e-3, 4e-3))
    kernels = split_graph(build_graph(get_cell_at_index(1001), 100)).kernels
    assert sum(part["multiplicity"] for part in record.kernels) == len(kernels)
    macs = sum(part["multiplicity"] * part["features"]["macs"] for part in record.kernels)
    assert macs == sum(kernel.macs for kernel in kernels)
    assert Dataset.open(tmp_path / "out").content_sha256() == _again(found, tmp_path)


def _again(found, tmp_path: Path) -> str:  # type: ignore[no-untyped-def]
    """Hash of the same records in another dataset, written one by one."""
    with Dataset.open(tmp_path / "again", create=True) as dataset:
        for record in found.records:
            dataset.append(record)
        return dataset.content_sha256()


def test_one_runtime_can_be_asked_for(tmp_path: Path) -> None:
    """Records of other runtimes are left out, and that is said."""
    _pi5(tmp_path, [(1, 1, "onnx", 4.0, 6.0), (1, 1, "litert", 3.0, 5.0)])
    found = import_dataset("pi5-nasbench201", tmp_path, tmp_path / "out", runtime="tflite-cpu")
    assert [record.runtime for record in found.records] == ["tflite-cpu"]
    assert any("left out" in note for note in found.notes)


NET = "module:{module},rep_no:{rep},macs:1,batch_size:2,freeText:architecture={net};layer_idx={layer},forward_passes:10"


def _codecarbon(path: Path, rows: list[tuple[str, float, float]]) -> None:
    lines = ["project_name,duration,cpu_energy"]
    lines += [f'"{name}",{seconds},{joules / 3.6e6}' for name, seconds, joules in rows]
    path.write_text("\n".join(lines))


def test_layers_and_networks(tmp_path: Path) -> None:
    """Repeats are joined, energies are per forward pass, the network consists of its layers."""

    def name(module: str, layer: int, rep: int = 1, net: str = "alexnet") -> str:
        return NET.format(module=module, layer=layer, rep=rep, net=net)

    _codecarbon(
        tmp_path / "00_architectures-layerwise-raw.csv",
        [
            (name("AlexNet", 0), 30.0, 2250.0), (name("AlexNet", 0, 2), 30.0, 2270.0),
            (name("Conv2d", 1), 30.0, 2250.0), (name("Dropout", 15), 30.0, 2250.0),
            (name("ReLU", 1, net="vgg11"), 30.0, 2250.0),
            (name("Conv2d", 1, net="lenet"), 30.0, 2250.0), (name("ReLU", 2), 30.0, 700.0), ("nonsense", 30.0, 2250.0),
        ],
    )  # fmt: skip
    found = get_importer("layers-and-nets").read(tmp_path)
    net, layer = sorted(found.records, key=lambda record: record.kind, reverse=True)
    assert net.energy_j == pytest.approx(226.0)
    assert net.trials == pytest.approx((225.0, 227.0))
    assert layer.params["c_out"] == 64
    macs = sum(part["features"]["macs"] for part in net.kernels)
    assert macs == pytest.approx(2 * 714.2e6, rel=1e-3)  # torchvision's AlexNet: 714 M per image
    reasons = " ".join(note.reason for note in found.rejected)
    for says in ("Dropout does nothing", "another version of the network", "no network 'lenet'", "power is 23.3 W",
                 "does not say what ran"):  # fmt: skip
        assert says in reasons


def test_the_real_layers_and_networks(shared_dir: Path) -> None:
    """Nearly all rows are used, and no set of them looks wrong."""
    found = get_importer("layers-and-nets").read(shared_dir / "data" / "layers_and_nets_cpu")
    assert len(found.records) > 6000
    assert sum(record.kind == "model" for record in found.records) >= 90
    assert not [finding for finding in check_dataset(found.records) if finding.severity == "error"]


LOG = """00776.007 ulp-ml: Energy data for window 2 at time 87.08 for 12.81 sec.:
00776.008 ulp-ml:   Energy       :    71710.821 uJ
00776.008 ulp-ml:   Power        :     5599.783 uW
00776.008 ulp-ml:   Energy/Inf.  :       71.711 uJ/inf.
00776.087 ulp-ml: Median energy cost is {median} uJ/inf.
00776.088 ulp-ml: Performance results for window 2:
00776.088 ulp-ml:   # Inferences :         1000
00776.088 ulp-ml:   Runtime      :       12.806 sec.
"""


def test_mlperf_tiny(tmp_path: Path) -> None:
    """A log is a record; copies, other units, torn logs and figures that do not fit are told."""
    for place, text in {
        "v1.0/closed/acme/results/board/ic": LOG.format(median="71.711"),
        "v1.1/closed/acme/results/board/ic": LOG.format(median="71.711").replace("00776", "00800"),
        "v1.1/closed/acme/results/board/ad": LOG.format(median="99.0"),
        "v1.1/closed/acme/results/board/kws": LOG[:300],
        "v1.1/closed/acme/results/board/sww": LOG.format(median="71.711"),
        "v1.1/closed/acme/results/board/vww": LOG.format(median="71.711").replace("71710", "91710"),
    }.items():
        folder = tmp_path / place / "energy"
        folder.mkdir(parents=True)
        (folder / "results.txt").write_text(text)
    found = get_importer("mlperf-tiny").read(tmp_path)
    (record,) = found.records
    assert record.energy_j == pytest.approx(71.711e-6)
    assert record.latency_s == pytest.approx(12.806e-3)
    reasons = {note.id.rpartition("/")[2]: note.reason for note in found.rejected}
    assert "the same log" in reasons["ic"]
    assert "median stated" in reasons["ad"]
    assert "ended early" in reasons["kws"]
    assert "per stream" in reasons["sww"]
    assert "energy over inferences" in reasons["vww"]


def test_latencies_are_no_energies(tmp_path: Path) -> None:
    """nn-Meter's records have a latency and no energy, and are stored so."""
    folder = tmp_path / "model_latency" / "cpu"
    folder.mkdir(parents=True)
    (folder / "x-log.csv").write_text("0,x_1,10.5,0.1,0.95\n1,x_1,10.5,0.1,0.95\n2,x_1,11.5,0.1\n3,x_2,oops,1\n4,x_3\n")
    found = import_dataset("nn-meter", tmp_path, tmp_path / "out")
    stored = Dataset.open(tmp_path / "out").records()
    assert [(r.id, r.latency_s) for r in stored] == [("cpu/x_1", 0.0105), ("cpu/x_1#2", 0.0115)]
    assert all(math.isnan(record.energy_j) for record in stored)
    assert len(found.rejected) == 3
    assert not [finding for finding in check_dataset(stored) if finding.severity == "error"]


def test_training_energies_say_so(shared_dir: Path, tmp_path: Path) -> None:
    """EC-NAS: repeats joined, joules without the data centre's factor, and the label on every record."""
    found = get_importer("ec-nas").read(shared_dir / "data" / "ec_nas")
    assert len(found.records) >= 80
    assert all("not of an inference" in "".join(record.warnings) for record in found.records)
    record = next(r for r in found.records if r.id == "001a6fcc8b38cbc515be788a86bdc804")
    assert len(record.trials) == 3
    assert any(trial == pytest.approx(42371, abs=1) for trial in record.trials)
    (tmp_path / "x.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DatasetError, match="not a readable archive"):
        get_importer("ec-nas").read(tmp_path)
