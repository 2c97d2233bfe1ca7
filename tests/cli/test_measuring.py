"""The commands that measure: doctor, device, meter, profile."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deepen import measure, meters
from deepen.cli import cli
from deepen.cli.profile import render_measurement
from deepen.doctor import checks as doctor
from deepen.doctor.checks import DoctorCheck
from deepen.errors import MeterError
from deepen.graph import ReadOptions
from deepen.measure.conditions.drift_reference import write_empty_model
from deepen.records import EnergyRecord


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


def document(*args: str) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def fails(code: int, message: str, *args: str) -> None:
    result = run(*args)
    assert result.exit_code == code
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert "Traceback" not in result.stderr


RECORD = EnergyRecord(
    id="0" * 16,
    kind="model",
    name="m",
    energy_j=2e-3,
    uncertainty_j=1e-5,
    gross_energy_j=3e-3,
    latency_s=1e-3,
    idle_power_before_w=1.0,
    idle_power_after_w=1.1,
    threads=2,
    alignment={"method": "pulses", "error_s": 2e-5},
    budget={"gain": 0.0, "repeats": 8e-6, "idle": 6e-6},
    runtime="onnxruntime",
    runtime_build="onnxruntime 1.0 level=extended threads=2",
    device="local",
    meter="rapl",
    source="measured",
    runs=40,
    trials=(1.9e-3, 2.1e-3),
    recorded_at="2026-01-01T00:00:00Z",
    rejected=({"reason": "outlier", "energy_j": 9e-3},),
    warnings=("few-blocks: 2 counted, 5 wanted",),
    inputs={"n": {"role": "rounds", "shape": [], "low": 16.0, "high": 16.0}},
)


def test_profile_passes_everything_on_and_prints_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def profile(path: str, **options: Any) -> EnergyRecord:
        asked.update(options, path=path)
        return RECORD

    monkeypatch.setattr(measure, "profile", profile)
    args = ["profile", "m.onnx", "--device", "d", "--meter", "m?x=1", "--threads", "2", "--seconds", "3"]
    args += ["--shape", "a=1x3", "--shape", "b=7", "--dim", "N=2", "--runtime", "r"]
    args += [
        "--input",
        "n=3",
        "--input",
        "f=true",
        "--delegate",
        "gpu",
        "--no-prepare",
        "--set",
        "governor=performance",
    ]
    found = document(*args)
    assert callable(asked.pop("tell"))
    assert asked == {
        "delegate": "gpu", "prepare": False, "settings": {"governor": "performance"}, "path": "m.onnx",
        "device": "d", "meter": "m?x=1", "threads": 2, "seconds": 3.0, "runtime": "r", "sync": "auto",
        "shapes": ReadOptions(shapes={"a": (1, 3), "b": (7,)}, dims={"N": 2}), "inputs": {"n": 3.0, "f": 1.0},
    }  # fmt: skip
    assert found["power_w"] == pytest.approx(3.0)
    for key in ("energy_j", "uncertainty_j", "gross_energy_j", "latency_s", "source", "meter", "runtime_build"):
        assert found[key] == getattr(RECORD, key)
    assert found["blocks"] == [1.9e-3, 2.1e-3]
    assert found["rejected"] == [{"reason": "outlier", "energy_j": 9e-3}]
    assert found["temperature_c"] is None
    assert found["alignment"] == {"method": "pulses", "error_s": 2e-5}
    assert found["inputs"] == {"n": {"role": "rounds", "shape": [], "low": 16.0, "high": 16.0}}
    assert found["budget"] == {"gain": 0.0, "repeats": 8e-6, "idle": 6e-6}
    text = run(*args).stdout
    assert "repeats 8.00 µJ, idle 6.00 µJ; clock: pulses (± 20.0 µs)" in text
    for piece in (
        "2.00 mJ ± 10.0 µJ",
        "3.00 mJ",
        "1.00 ms",
        "3.00 W",
        "rapl (measured)",
        "1 rejected",
        "few-blocks",
        "n = 16 (rounds)",
    ):
        assert piece in text


def test_a_small_share_of_doubt_is_no_zero() -> None:
    precise = dataclasses.replace(RECORD, energy_j=20e-3, uncertainty_j=4.6e-6)
    assert "20.0 mJ ± 4.60 µJ (0.02 %)" in render_measurement("m.onnx", precise)


@pytest.mark.serial
def test_profile_for_real(tmp_path: Path) -> None:
    path = write_empty_model(tmp_path / "empty.onnx")
    found = document("profile", str(path), "--meter", "cpu-model", "--seconds", "0.05")
    assert found["source"] == "modelled"
    assert found["energy_j"] > 0


@pytest.mark.serial
def test_profile_of_bad_input(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"nonsense")
    fails(1, "bad.onnx: onnxruntime cannot run it", "profile", str(bad), "--meter", "cpu-model")
    fails(1, "name a readable ONNX or TFLite file", "profile", str(tmp_path / "absent.onnx"))
    fails(1, "did you mean local", "profile", str(bad), "--device", "locall")
    fails(1, "neither a serial number nor HOST:PORT", "profile", str(bad), "--device", "adb:a b")
    fails(1, "did you mean cpu-model", "profile", str(bad), "--meter", "cpumodel")
    fails(1, "cannot read the shape", "profile", str(bad), "--shape", "x=axb")
    assert run("profile", str(bad), "--threads", "0").exit_code == 2
    assert run("profile", str(bad), "--seconds", "0").exit_code == 2
    assert run("profile").exit_code == 2


def children(pid: int) -> set[int]:
    """Processes whose parent is this one."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.add(int(stat.parent.name))
    return found


@pytest.mark.serial
def test_ctrl_c_ends_the_command_and_its_worker(tmp_path: Path) -> None:
    path = write_empty_model(tmp_path / "empty.onnx")
    call = ["profile", str(path), "--meter", "cpu-model", "--seconds", "120"]
    host = subprocess.Popen(
        [sys.executable, "-c", "from deepen.cli import main; main()", *call],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    workers: set[int] = set()
    while not workers and time.monotonic() < deadline:
        workers = children(host.pid)
    host.send_signal(signal.SIGINT)
    stdout, stderr = host.communicate(timeout=60)
    assert workers
    assert host.returncode == 130
    assert stdout == ""
    assert stderr.strip().splitlines()[-1] == "error: interrupted"
    # Interrupted while it was being started, a worker ends by itself: its input has closed.
    deadline = time.monotonic() + 60
    while (left := [w for w in workers if Path(f"/proc/{w}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def test_device_list_probe_and_prepare() -> None:
    found = document("device", "list")["devices"]
    assert {"local", "arm-board", "generic"} <= {d["id"] for d in found}
    assert all(d["title"] and d["link"] in ("local", "adb", "ssh") for d in found)
    probe = document("device", "probe")
    assert probe["device"] == "local"
    assert probe["state"]["usable_cores"]
    assert probe["profile"]["power"]["source"]
    ready = document("device", "prepare", "local")
    assert ready["ready"] == all(s["ok"] for s in ready["settings"])
    for args in (["list"], ["probe"], ["prepare"]):
        result = run("device", *args)
        assert result.exit_code == 0
        assert result.stdout.strip()
    fails(1, "unknown device 'pixel'", "device", "probe", "pixel")


def test_meter_list_gives_a_cause_for_every_absent_source() -> None:
    found = document("meter", "list")["meters"]
    assert [m["name"] for m in found] == list(meters.DRIVERS)
    for meter in found:
        assert meter["available"] or meter["cause"]
        assert meter["source"] in ("measured", "modelled", "simulated")
    text = run("meter", "list").stdout
    assert all(m["name"] in text for m in found)


def test_meter_record_writes_what_was_read_with_its_label(tmp_path: Path) -> None:
    target = tmp_path / "power.csv"
    args = ["meter", "record", "--meter", "cpu-model", "--seconds", "0.1", "--rate", "50"]
    found = document(*args, "--out", str(target))
    with target.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found["samples"]
    assert {r["source"] for r in rows} == {"modelled"}
    assert found["energy_j"] == pytest.approx(found["mean_w"] * found["duration_s"])
    assert len(document(*args)["power_w"]) >= 2
    fails(1, "name a .trace, .parquet, .csv or .json file", *args, "--out", str(tmp_path / "power.xls"))
    fails(1, "make it first", *args, "--out", str(tmp_path / "absent" / "power.csv"))


def test_meter_check() -> None:
    args = ["meter", "check", "--meter", "cpu-model", "--seconds", "0.1", "--rate", "50"]
    found = document(*args)
    assert (found["meter"], found["source"]) == ("cpu-model", "modelled")
    assert found["min_w"] <= found["mean_w"] <= found["max_w"]
    assert "modelled" in run(*args).stdout
    fails(1, "did you mean rapl", "meter", "check", "--meter", "rappl")
    assert run("meter", "check", "--seconds", "-1").exit_code == 2


def test_a_source_that_does_not_answer_exits_with_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: Any, **options: Any) -> None:
        raise MeterError("rapl: no permission; chmod it")

    monkeypatch.setattr(meters, "open_meter", absent)
    fails(3, "no permission; chmod it", "meter", "check", "--meter", "rapl")


@pytest.mark.serial
def test_doctor_here() -> None:
    found = document("doctor")
    assert found["ready"] is True
    assert all(c["status"] == "ok" or c["cause"] for c in found["checks"])


def test_doctor_exits_with_3_when_something_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = (
        DoctorCheck("python", "ok", "3.11"),
        DoctorCheck("package x", "fail", "", "not installed", "pip install x"),
    )
    monkeypatch.setattr(doctor, "check_machine", lambda: checks)
    result = run("doctor")
    assert result.exit_code == 3
    assert "FAIL  package x" in result.stdout
    assert "cure: pip install x" in result.stdout
    result = run("doctor", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["ready"] is False


@pytest.mark.parametrize(
    "args",
    [["doctor"], ["profile"], ["device"], ["device", "list"], ["device", "probe"], ["device", "prepare"], ["meter"],
     ["meter", "list"], ["meter", "record"], ["meter", "check"]],
)  # fmt: skip
def test_help_has_an_example(args: list[str]) -> None:
    result = run(*args, "-h")
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    assert "deepen " + args[0] in result.stdout
