"""Detached measurements on real daemons: the link is cut for real, and the truth is known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from deepen.bench import BenchDevice, VirtualBench
from deepen.bench.bench import override_environment
from deepen.bench.daemons import find_adbd, find_sshd, make_namespace_command
from deepen.bench.player import BlockPlayer
from deepen.cli import cli
from deepen.errors import ConfigError, LinkError, MeterError
from deepen.measure.detached import collect_detached, profile_detached
from deepen.measure.detached.store import get_detached_folder, list_pending_runs
from deepen.records import EnergyRecord, PowerTrace
from deepen.traces import write_trace

pytestmark = [
    pytest.mark.serial,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the bench runs on Linux only"),
]


class Cut:
    """The bench's cable; ``after`` is called once it is cut."""

    def __init__(self, device: BenchDevice, after: Callable[[], object] = lambda: None) -> None:
        self._device = device
        self._after = after
        self.was_cut = 0

    def cut(self, link: Any, held: Any) -> None:
        self._device.cut(3600.0)
        self.was_cut += 1
        self._after()

    def mend(self) -> None:
        self._device.mend()


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPEN_STATE", str(tmp_path / "state"))


@pytest.fixture
def up() -> Iterator[VirtualBench]:
    with VirtualBench() as made:
        yield made


def add(up: VirtualBench, link: str, meter: str, **options: Any) -> BenchDevice:
    try:
        if link == "ssh":
            find_sshd()
        else:
            find_adbd()
            make_namespace_command()
    except ConfigError as error:
        pytest.skip(str(error))
    return up.add(link, meter, **options)  # type: ignore[arg-type]


def error_of(device: BenchDevice, path: Path, record: EnergyRecord) -> float:
    """Error of the net energy, a share of the truth."""
    blocks = device.truth(BlockPlayer.key(path, {}))
    return record.energy_j / (sum(b.net_j for b in blocks) / sum(b.runs for b in blocks)) - 1


def clean(device: BenchDevice) -> None:
    """Nothing of a run is left on the device or here."""
    work = device._folder / "work"
    end = time.monotonic() + 60
    while any((work / "detached").iterdir()) or any((work / "jobs").iterdir()):
        assert time.monotonic() < end, list(work.rglob("*"))
        time.sleep(0.1)
    assert list_pending_runs() == []


def until(condition: Callable[[], bool], what: str, patience_s: float = 120.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("link", "meter", "runtime"),
    [
        ("ssh", "ppk2", "onnxruntime"),
        ("adb", "lvpm", "onnxruntime"),
        ("ssh", "lvpm", "crunner"),
        ("adb", "ppk2", "crunner"),
    ],
)
def test_net_energy_while_the_link_is_cut(
    up: VirtualBench, squeezenet: Path, link: str, meter: str, runtime: str
) -> None:
    device = add(up, link, meter, seed=5)
    if runtime == "crunner":
        device.use_c_runner()
    cable = Cut(device)
    with override_environment(device.environment):
        record = profile_detached(
            squeezenet, device=device.spec, meter=device.meter, seconds=1.5, runtime=runtime, cable=cable
        )
    assert cable.was_cut == 1
    assert error_of(device, squeezenet, record) == pytest.approx(0.0, abs=0.01)
    assert record.alignment["method"] == "pulses"
    assert record.runtime == runtime
    assert record.source == "simulated"
    assert record.idle_power_before_w == pytest.approx(0.603, rel=0.01)
    assert len(record.trials) >= 10
    clean(device)


def test_a_meter_unplugged_while_the_link_is_cut(up: VirtualBench, squeezenet: Path) -> None:
    device = add(up, "ssh", "lvpm")
    with pytest.raises(MeterError):
        profile_detached(
            squeezenet, device=device.spec, meter=device.meter, seconds=1, runtime="onnxruntime",
            cable=Cut(device, device.unplug),
        )  # fmt: skip
    clean(device)


def test_a_device_that_does_not_come_back_in_time_is_collected_later(up: VirtualBench, squeezenet: Path) -> None:
    device = add(up, "adb", "ppk2")

    class Late(Cut):
        def mend(self) -> None:
            pass

    with pytest.raises(LinkError, match=r"has not come back .*--collect"):
        profile_detached(
            squeezenet, device=device.spec, meter=device.meter, seconds=1, runtime="onnxruntime", cable=Late(device),
            back_s=1.0,
        )  # fmt: skip
    assert [p.model for p in list_pending_runs()] == [squeezenet.name]
    device.mend()
    record = collect_detached(squeezenet, device=device.spec)
    assert error_of(device, squeezenet, record) == pytest.approx(0.0, abs=0.01)
    clean(device)


_DIES = """
import sys
from deepen.measure.detached import profile_detached
class Quiet:
    def cut(self, link, held):
        link.disconnect()
    def mend(self):
        sys.stdout.write("recorded\\n")
        sys.stdout.flush()
        sys.stdin.readline()
model, device, meter = sys.argv[1:]
profile_detached(model, device=device, meter=meter, seconds=1, runtime="onnxruntime", cable=Quiet())
"""


def test_a_host_killed_meanwhile_loses_nothing_that_was_recorded(
    up: VirtualBench, squeezenet: Path, tmp_path: Path
) -> None:
    device = add(up, "ssh", "ppk2")
    argv = [sys.executable, "-c", _DIES, str(squeezenet), device.spec, device.meter]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        try:
            assert host.stdout.readline() == "recorded\n"
        finally:
            host.kill()
    (pending,) = list_pending_runs()
    until(lambda: Path(pending.job.folder, "status").exists(), "the run does not end by itself")
    collect = ["profile", str(squeezenet), "--device", device.spec, "--collect"]
    write_trace(PowerTrace(np.arange(9.0), np.ones(9), 1.0, "lvpm", "c", "simulated"), tmp_path / "other.trace")
    done = CliRunner().invoke(cli, [*collect, "--trace", str(tmp_path / "other.trace")])
    assert done.exit_code == 1, done.output
    assert list_pending_runs() == [pending]  # a wrong trace was named: nothing is lost by it
    done = CliRunner().invoke(cli, [*collect, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    truth = device.truth(BlockPlayer.key(squeezenet, {}))
    true_j = sum(b.net_j for b in truth) / sum(b.runs for b in truth)
    assert found["energy_j"] == pytest.approx(true_j, rel=0.01)
    clean(device)
    done = CliRunner().invoke(cli, ["profile", str(squeezenet), "--device", device.spec, "--collect"])
    assert done.exit_code == 1
    assert "no detached run of light_squeezenet.onnx on this device" in done.stderr


def test_a_host_killed_before_the_trace_leaves_no_process(up: VirtualBench, squeezenet: Path) -> None:
    device = add(up, "ssh", "ppk2")
    argv = [sys.executable, "-c", _DIES, str(squeezenet), device.spec, device.meter]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as host:
        try:
            until(lambda: any(get_detached_folder().glob("*/power.trace")), "nothing is recorded")
        finally:
            os.kill(host.pid, signal.SIGKILL)
    (pending,) = list_pending_runs()
    until(lambda: Path(pending.job.folder, "status").exists(), "the run does not end by itself")
    done = CliRunner().invoke(cli, ["profile", str(squeezenet), "--device", device.spec, "--collect"])
    assert done.exit_code == 1
    assert "cover" in done.stderr or "holds nothing" in done.stderr  # the trace ends where the host was killed
    clean(device)
