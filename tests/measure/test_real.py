"""A few short real measurements: that the pieces meet, not how fast this machine is."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import deepen
from deepen.devices import open_device
from deepen.doctor.checks import check_machine
from deepen.errors import ConfigError, MeterError, RunError
from deepen.measure import make_workload, open_session, profile
from deepen.measure.conditions.drift_reference import write_empty_model, write_reference_model
from deepen.records import StoppingRule
from deepen.testing.bench import SimulatedBench

pytestmark = pytest.mark.serial

QUICK = StoppingRule(min_duration_s=0.02, max_duration_s=0.5, min_blocks=3, rel_std=0.5)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reference_model(tmp_path_factory.mktemp("reference") / "reference.onnx")


def test_modelled_energy_is_the_workers_cpu_time_times_the_documented_power(reference: Path) -> None:
    with open_session(meter="cpu-model", reference_every_s=None) as session:
        record = session.measure(make_workload(reference, rule=QUICK))
        power = session.device.profile.power
    assert power is not None
    assert record.source == "modelled"
    assert (record.meter, record.device) == ("cpu-model", "local")
    assert record.idle_power_before_w == pytest.approx(power.idle_w, rel=1e-6)
    # One thread: at most one core's worth of energy per second, and gross is net plus idle.
    assert 0 < record.energy_j <= power.per_core_w * record.latency_s * 1.02
    assert record.gross_energy_j == pytest.approx(record.energy_j + power.idle_w * record.latency_s, rel=1e-6)
    assert record.runtime_build.endswith("level=extended threads=1")
    assert record.runs >= 3


def test_a_session_measures_several_models_and_the_cost_of_a_call(reference: Path, tmp_path: Path) -> None:
    with open_session(meter="cpu-model") as session:
        model = session.measure(make_workload(reference, rule=QUICK))
        again = session.measure(make_workload(reference, rule=QUICK))
        call_j = session.empty_run_j()
        assert 0 < call_j < model.energy_j
        assert model.id == again.id
        assert len(session.drift) >= 1
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(b"nonsense")
        with pytest.raises(RunError, match=r"bad\.onnx"):
            session.measure(make_workload(bad))
        assert session.measure(make_workload(reference, rule=QUICK)).energy_j > 0


def test_profile_in_one_call(reference: Path) -> None:
    record = deepen.profile(str(reference), meter="cpu-model", seconds=0.1)
    assert record.kind == "model"
    assert record.name == "reference"
    assert record.energy_j > 0
    assert math.isfinite(record.uncertainty_j)


def test_wrong_names_are_refused_before_anything_runs(reference: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean local"):
        profile(reference, device="locl")
    with pytest.raises(ConfigError, match="did you mean cpu-model"):
        profile(reference, meter="cpu-mode")
    with pytest.raises(ConfigError, match="did you mean onnxruntime"):
        profile(reference, meter="cpu-model", runtime="onnxruntim")
    with pytest.raises(ConfigError, match="lower --threads"):
        profile(reference, meter="cpu-model", threads=4096)


HOST = """
import sys
from deepen.measure import make_workload, open_session
from deepen.records import StoppingRule
with open_session(meter="cpu-model") as session:
    print(session.device.worker_pid(), flush=True)
    while True:
        session.measure(make_workload(sys.argv[1], rule=StoppingRule(0.1, 0.3, 3, 0.5)))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_measurement_leaves_no_worker(how: signal.Signals, reference: Path) -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(reference)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert host.stdout is not None
        worker = int(host.stdout.readline())
        os.kill(worker, 0)  # it is there
        host.send_signal(how)
        host.wait(timeout=60)
        stat = Path(f"/proc/{worker}/stat")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z":
            time.sleep(0.02)
        assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    finally:
        host.kill()
        host.wait()
        if host.stdout is not None:
            host.stdout.close()


def test_the_doctor_finds_what_is_there() -> None:
    checks = {c.name: c for c in check_machine()}
    assert checks["python"].status in ("ok", "note")
    assert checks["package numpy"].status == "ok"
    assert checks["runtime onnxruntime"].status == "ok"
    assert checks["meter cpu-model"].status == "ok"
    assert not [c for c in checks.values() if c.status == "fail"]
    for check in checks.values():
        assert check.status == "ok" or check.cause, f"{check.name} gives no reason"


def test_the_doctor_names_a_missing_package_and_a_broken_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    from deepen.doctor import checks as doctor

    original = metadata.version

    def version(name: str) -> str:
        if name in ("pyarrow", "onnx"):
            raise metadata.PackageNotFoundError(name)
        return original(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    bench = SimulatedBench()

    def broken(*args: object) -> None:
        raise MeterError("the worker ended", cure="reinstall onnxruntime")

    monkeypatch.setattr(bench.device, "runtime", broken)
    checks = {c.name: c for c in check_machine(bench.device)}
    assert (checks["package onnx"].status, checks["package onnx"].cure) == ("fail", "pip install onnx")
    pyarrow = checks["package pyarrow"]  # only an extra needs it
    assert (pyarrow.status, pyarrow.cure) == ("note", "pip install 'deepen[data]'")
    assert (checks["runtime onnxruntime"].status, checks["runtime onnxruntime"].cure) == (
        "fail",
        "reinstall onnxruntime",
    )
    assert not bench.device.closed  # who opened it closes it


def test_the_doctor_survives_a_broken_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPEN_CATALOG", str(tmp_path))
    failed = {c.name: c for c in check_machine() if c.status == "fail"}
    assert set(failed) == {"catalog", "device local"}
    assert "DEEPEN_CATALOG" in failed["catalog"].cure


def test_prepare_and_state_of_this_machine() -> None:
    device = open_device("local")
    try:
        state = device.state()
        assert state.usable_cores
        assert state.cores >= len(state.usable_cores)
        assert {s.name for s in device.prepare()} == {"affinity", "governor", "temperature", "load"}
    finally:
        device.close()


def test_the_empty_model_runs(tmp_path: Path) -> None:
    record = profile(write_empty_model(tmp_path / "empty.onnx"), meter="cpu-model", seconds=0.05)
    assert record.energy_j > 0
