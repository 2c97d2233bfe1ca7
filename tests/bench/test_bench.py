"""The whole chain on real daemons and pseudo-terminals, held against the truth."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deepen.bench import BenchDevice, VirtualBench, bench, measure_with_truth
from deepen.bench.bench import MeasurementWithTruth
from deepen.bench.daemons import find_adbd, find_sshd, make_namespace_command
from deepen.cli import cli
from deepen.errors import ConfigError, LinkError, MeasureError, MeterError

pytestmark = [
    pytest.mark.serial,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the bench runs on Linux only"),
]


def need(link: str) -> None:
    """Skip where a link cannot be: says why."""
    try:
        if link == "ssh":
            find_sshd()
        elif link == "adb":
            find_adbd()
            make_namespace_command()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def up() -> Iterator[VirtualBench]:
    with VirtualBench() as made:
        yield made
        folder = made._folder
    assert folder is not None
    assert not folder.exists()
    assert processes(str(folder)) == []


def processes(word: str) -> list[str]:
    """Command lines with a word in them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found


def patiently(device: BenchDevice, path: Path, **options: Any) -> MeasurementWithTruth:
    """Measure; again where this machine was too busy to: what was refused is no number, so nothing is hidden by it."""
    for _ in range(2):
        with suppress(MeterError, MeasureError):
            return measure_with_truth(device, path, **options)
    return measure_with_truth(device, path, **options)


def once_played(device: BenchDevice, strike: Callable[[], object]) -> threading.Thread:
    """Do something as soon as a few blocks were played."""

    def wait() -> None:
        while len(device.player.blocks) < 5:
            time.sleep(0.01)
        strike()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("meter", ["lvpm", "ppk2"])
@pytest.mark.parametrize("link", ["ssh", "adb", "local"])
def test_net_energy_within_one_percent(up: VirtualBench, squeezenet: Path, link: str, meter: str) -> None:
    need(link)
    device = up.add(link, meter, seed=5)  # type: ignore[arg-type]
    found = patiently(device, squeezenet, seconds=1.0)
    assert found.error == pytest.approx(0.0, abs=0.01)
    assert found.record.gross_energy_j == pytest.approx(found.true_gross_j, rel=0.03)  # not the same blocks
    assert found.record.source == "simulated"
    assert found.record.meter == meter
    assert found.record.idle_power_before_w == pytest.approx(0.603, rel=0.01)
    assert not found.record.rejected
    assert abs(found.record.energy_j - found.true_net_j) <= 2 * found.record.uncertainty_j
    one_j = device.player.model.run_j + sum(k.energy_j for k in found.kernels)
    assert found.true_net_j == pytest.approx(one_j)


def test_the_c_runner_drives_it_too(up: VirtualBench, squeezenet: Path) -> None:
    need("ssh")
    found = patiently(up.add("ssh", "ppk2"), squeezenet, seconds=1.0, runtime="crunner")
    assert found.error == pytest.approx(0.0, abs=0.01)
    assert found.record.runtime == "crunner"
    assert "DEEPEN_RUNNER" not in os.environ


def test_a_slower_device_is_measured_as_well(up: VirtualBench, squeezenet: Path) -> None:
    device = up.add("local", "ppk2", frequency_hz=1.2e9)
    found = patiently(device, squeezenet, seconds=1.0)
    top_j = device.player.model.run_j + sum(k.energy_j for k in found.kernels)
    assert found.record.energy_j == pytest.approx(0.75**2 * top_j, rel=0.01)


def test_two_devices_side_by_side(up: VirtualBench, squeezenet: Path) -> None:
    need("ssh")
    devices = [up.add("ssh", "lvpm"), up.add("ssh", "ppk2", frequency_hz=1.8e9)]
    errors: list[float] = []
    threads = [
        threading.Thread(target=lambda d=d: errors.append(patiently(d, squeezenet, seconds=0.5).error)) for d in devices
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert errors == pytest.approx([0.0, 0.0], abs=0.01)


@pytest.mark.parametrize("link", ["ssh", "adb"])
def test_a_link_cut_in_the_middle(up: VirtualBench, squeezenet: Path, link: str) -> None:
    need(link)
    device = up.add(link, "lvpm")  # type: ignore[arg-type]
    struck = once_played(device, device.cut)
    with pytest.raises(LinkError):
        measure_with_truth(device, squeezenet, seconds=2.0)
    struck.join()
    assert patiently(device, squeezenet, seconds=0.5).error == pytest.approx(0.0, abs=0.01)


def test_a_meter_unplugged_in_the_middle(up: VirtualBench, squeezenet: Path) -> None:
    device = up.add("local", "lvpm")
    struck = once_played(device, device.unplug)
    with pytest.raises(MeterError, match="is gone"):
        measure_with_truth(device, squeezenet, seconds=2.0)
    struck.join()
    device.plug()
    assert patiently(device, squeezenet, seconds=0.5).error == pytest.approx(0.0, abs=0.01)


def test_a_runner_killed_in_the_middle(up: VirtualBench, squeezenet: Path) -> None:
    need("ssh")
    device = up.add("ssh", "lvpm")
    killed: list[int] = []
    struck = once_played(device, lambda: killed.append(device.kill_runner()))
    with pytest.raises(LinkError, match="SIGKILL"):
        measure_with_truth(device, squeezenet, seconds=2.0)
    struck.join()
    assert killed == [1]


def test_a_local_device_has_no_link_to_cut(up: VirtualBench) -> None:
    with pytest.raises(ConfigError, match="use ssh or adb"):
        up.add("local", "lvpm").cut()


# ---- the command ---------------------------------------------------------------------------------------------------


def test_bench_run(squeezenet: Path) -> None:
    done = CliRunner().invoke(
        cli, ["bench", "run", str(squeezenet), "--link", "local", "--meter", "ppk2", "--seconds", "0.5", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert abs(found["error_percent"]) < 1
    assert found["source"] == found["measured"]["source"] == "simulated"
    assert found["energy_j"] / found["true_j"] - 1 == pytest.approx(found["error_percent"] / 100)
    assert sum(k["energy_j"] for k in found["kernels"]) == pytest.approx(found["true_j"], rel=0.01)
    assert all(b["end_s"] > b["start_s"] for b in found["blocks"])


def test_bench_run_with_a_fault(squeezenet: Path) -> None:
    done = CliRunner().invoke(
        cli, ["bench", "run", str(squeezenet), "--link", "local", "--seconds", "3", "--fault", "unplug@0.2"]
    )
    assert done.exit_code == 3, done.output
    assert "fault: unplug: done" in done.stderr
    assert f"measuring {squeezenet.name} for" in done.stderr  # not its whole path
    assert "is gone" in done.stderr


@pytest.mark.parametrize("fault", ["cut", "explode@1", "cut@-1", "cut@x", "cut@inf"])
def test_faults_that_are_none(fault: str) -> None:
    done = CliRunner().invoke(cli, ["bench", "run", "x.onnx", "--fault", fault])
    assert done.exit_code == 2
    assert "cut@2.5" in done.stderr


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "deepen", "bench", "up", "--json", *options],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        )  # fmt: skip
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def document(process: subprocess.Popen[str]) -> dict[str, object]:
    """The JSON document a command begins with."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":
            return json.loads(text)
    assert process.stderr is not None
    raise AssertionError(process.stderr.read())


def test_bench_up_serves_deepen_profile(
    started: Callable[..., subprocess.Popen[str]], squeezenet: Path, tmp_path: Path
) -> None:
    need("ssh")
    process = started("--link", "ssh", "--meter", "ppk2")
    (device,) = document(process)["devices"]  # type: ignore[misc]
    done = subprocess.run(
        [sys.executable, "-m", "deepen", "profile", str(squeezenet), "--device", device["device"],
         "--meter", device["meter"], "--seconds", "0.5", "--json"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["source"] == "simulated"
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write("truth\ndance\ncut 0.1\nrestart 0.1\n")
    process.stdin.flush()
    guard = threading.Timer(60, process.kill)
    guard.start()
    said = [process.stderr.readline() for _ in range(4)]
    guard.cancel()
    assert "net per inference" in said[0]
    assert "unknown order 'dance'" in said[1]
    assert said[2:] == ["cut: done\n", "restart: done\n"]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert list(tmp_path.glob("deepen-bench-*")) == []
    assert processes(str(tmp_path)) == []


def test_what_a_killed_bench_leaves_is_gone_with_the_next(
    started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    need("ssh")
    link = "adb"
    try:
        find_adbd()
        make_namespace_command()
    except ConfigError:
        link = "ssh"
    killed = started("--link", link)
    document(killed)
    (left,) = tmp_path.glob("deepen-bench-*")
    killed.kill()
    killed.wait()
    end = time.monotonic() + 60
    while found := processes(str(left)):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    document(started("--link", "ssh"))
    assert not left.exists()
    assert len(list(tmp_path.glob("deepen-bench-*"))) == 1


@pytest.mark.parametrize("link", ["ssh", "adb"])
def test_a_device_that_restarts(up: VirtualBench, squeezenet: Path, link: str) -> None:
    need(link)
    device = up.add(link, "lvpm")  # type: ignore[arg-type]
    struck = once_played(device, device.restart)
    with pytest.raises(LinkError):
        measure_with_truth(device, squeezenet, seconds=3.0)
    struck.join()
    assert patiently(device, squeezenet, seconds=0.5).error == pytest.approx(0.0, abs=0.01)
    end = time.monotonic() + 60  # the watchdog of a job looks once a second whether it is over
    while device.list_leftover_files() and time.monotonic() < end:
        time.sleep(0.2)
    assert device.list_leftover_files() == []  # what the restart left went with the next connection


def test_devices_of_a_bench_are_told_apart(up: VirtualBench) -> None:
    from deepen.devices import open_device

    need("ssh")
    told = []
    for device in (up.add("ssh", "lvpm"), up.add("ssh", "ppk2")):
        opened = open_device(device.spec)
        told.append((opened.profile.id, opened.identity.serial))  # type: ignore[attr-defined]
        opened.close()
    assert [profile for profile, _ in told] == ["virtual-bench"] * 2
    assert told[0][1] != told[1][1]


def test_bench_up_without_daemons_says_so_and_stays_local(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> None:
        raise ConfigError("none can be made here; use --link ssh")

    monkeypatch.setattr(bench, "start_adbd", nothing)
    monkeypatch.setattr(bench, "start_sshd", nothing)
    done = CliRunner().invoke(cli, ["bench", "up"], input="truth\nquit\n")
    assert done.exit_code == 0, done.output
    assert "no adb: none can be made here" in done.stderr
    assert "no ssh: none can be made here" in done.stderr
    assert "DEEPEN_RUNNER=" in done.stdout
    assert "--runtime crunner" in done.stdout
    assert "simulated" in done.stdout
    asked = CliRunner().invoke(cli, ["bench", "up", "--link", "adb"])
    assert asked.exit_code == 1
    assert "none can be made here" in asked.stderr
