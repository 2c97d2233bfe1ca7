"""Kernels from CSV: units, lists, copies, defects, and what does not behave like energy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from deepen.datasets.importers import get_importer
from deepen.datasets.quality import check_dataset
from deepen.errors import DatasetError

HEADER = "id,family,c_in,c_out,spatial,kernel,stride,dilation,pads,bias,activation,energy_uJ,latency_us,power_mW"
ROW = "conv-bn-relu,16,32,28x28,3x3,1x1,1x1,1x1x1x1,true,relu"


def read(path: Path, *lines: str):  # type: ignore[no-untyped-def]
    """Import a file of these lines."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return get_importer("csv").read(path)


def test_units_lists_and_defaults(tmp_path: Path) -> None:
    """A row becomes the kernel it describes, in SI units."""
    found = read(tmp_path / "board.csv", HEADER, f"a,{ROW},512.5,250,2050")
    (record,) = found.records
    assert record.energy_j == pytest.approx(512.5e-6)
    assert record.latency_s == pytest.approx(250e-6)
    assert record.params["spatial"] == [28, 28]
    assert record.params["dtype"] == "float32"
    assert record.features["macs"] == 28 * 28 * 9 * 16 * 32
    assert record.device == "board"


def test_bad_rows_are_rejected_one_by_one(tmp_path: Path) -> None:
    """Unknown families, wrong parameters, torn lines, ids and rows that occur again."""
    found = read(
        tmp_path / "t.csv", HEADER, f"a,{ROW},512.5,250,2050", f"b,{ROW},512.5,250,2050", f"a,{ROW},600,300,2000",
        "c,conv-bn-relu,sixteen,32,28x28,3x3,1x1,1x1,1x1x1x1,true,relu,5,5,1000", f"d,{ROW},-3,250,2050",
        f"e,{ROW}", ",".join(["f", "warp-drive", *[""] * 9, "1", "1", "1000"]),
    )  # fmt: skip
    assert [record.id for record in found.records] == ["a"]
    reasons = {note.id: note.reason for note in found.rejected}
    assert "copy of a" in reasons["b"]
    assert "was there before" in reasons["a"]
    assert "c_in" in reasons["c"]
    assert "not a positive number" in reasons["d"]
    assert "not a positive number" in reasons["e"] or "values" in reasons["e"]
    assert "warp-drive" in reasons["f"]


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("name,energy_mJ", "no column 'family'"),
        ("family,energy", "lacks energy_UNIT"),
        ("family,energy_mJ,energy_J", "keep one"),
    ],
)
def test_a_header_that_does_not_do(tmp_path: Path, header: str, says: str) -> None:
    """The header's fault is named."""
    with pytest.raises(DatasetError, match=says):
        read(tmp_path / "t.csv", header, ",".join("1" for _ in header.split(",")))


def _sizes(count: int, energy, tmp_path: Path):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    lines = ["id,OP,energy_mJ,HW,KERNEL_SIZE,STRIDES,CIN,COUT"]
    for number in range(count):
        side, kernel = int(rng.choice([7, 14, 28, 56])), int(rng.choice([1, 3, 5]))
        c_in, c_out = (int(v) for v in np.exp(rng.uniform(2, 6, 2)))
        macs = side**2 * kernel**2 * c_in * c_out
        lines.append(f"k{number},conv-bn-relu6,{energy(macs, rng):.6f},{side},{kernel},1,{c_in},{c_out}")
    return read(tmp_path / "sizes.csv", *lines)


def test_energy_is_told_from_noise(tmp_path: Path) -> None:
    """Energy with 30 % of scatter passes; numbers without relation to the work are an error, twice over."""
    good = _sizes(150, lambda macs, rng: macs * 1e-7 * math.exp(0.3 * rng.standard_normal()), tmp_path)
    assert not [f for f in check_dataset(good.records) if f.severity == "error"]
    noise = _sizes(150, lambda macs, rng: math.exp(2 * rng.standard_normal()), tmp_path)
    assert {f.check for f in check_dataset(noise.records) if f.severity == "error"} >= {
        "rank-correlation",
        "neighbours",
    }


def test_the_published_noise_is_flagged(shared_dir: Path) -> None:
    """Both control sets are errors."""
    files = sorted((shared_dir / "data" / "noise_control").glob("*.csv"))
    assert files
    for path in files:
        findings = check_dataset(get_importer("csv").read(path).records)
        assert {"rank-correlation", "neighbours"} <= {f.check for f in findings if f.severity == "error"}, path.name
