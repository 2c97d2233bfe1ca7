"""Runtimes over a link with a device's ways, real processes at its end; its clock happens to be the host's."""

from __future__ import annotations

import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepen.devices.links.remote import RemoteLink
from deepen.devices.runtimes.benchmark_model import BenchmarkModel
from deepen.devices.runtimes.python_runner import LiteRt, OnnxRuntime, PythonRuntime
from deepen.devices.runtimes.sync_load import ShellLoad
from deepen.errors import ConfigError, LinkError, RunError
from deepen.testing.links import make_shell_link

pytestmark = pytest.mark.serial
HALF = 3**0.5


@pytest.fixture
def link(tmp_path: Path) -> Iterator[RemoteLink]:
    opened = make_shell_link(str(tmp_path))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("kind", "folder", "name"), [(OnnxRuntime, "models", "add.onnx"), (LiteRt, "lite_models", "sum.tflite")]
)
def test_stamps_are_mapped_within_the_stated_error(
    kind: type[PythonRuntime], folder: str, name: str, link: RemoteLink, request: pytest.FixtureRequest
) -> None:
    runtime = kind(link, python=sys.executable)
    assert not runtime.local
    loaded = runtime.load(request.getfixturevalue(folder) / name)
    seen = []
    stamped = runtime.run_with_timestamps

    def spy(*args):
        seen.append(stamped(*args))
        return seen[-1]

    runtime.run_with_timestamps = spy
    for n in (1, 50, 500):
        seen.clear()
        interval = loaded.run(n)
        trip, _ = seen[0]
        assert interval.runs == n
        assert interval.uncertainty_s > 0
        # Both clocks are one: what the device stamped is the truth.
        assert abs(interval.start_s - trip.start_s) <= HALF * interval.uncertainty_s + 1e-9
        assert abs(interval.end_s - trip.end_s) <= HALF * interval.uncertainty_s + 1e-9
    assert interval.cpu_s > 0
    runtime.close()


def test_a_bad_model_and_an_ended_worker_are_told_apart_over_a_link(link: RemoteLink, models: Path) -> None:
    runtime = OnnxRuntime(link, python=sys.executable)
    with pytest.raises(RunError, match=r"garbage\.onnx"):
        runtime.load(models / "garbage.onnx")
    loaded = runtime.load(models / "add.onnx")
    assert runtime._channel is not None
    runtime._channel.kill()
    with pytest.raises(LinkError):
        loaded.run(1)
    assert runtime.load(models / "add.onnx").run(2).runs == 2
    runtime.close()


def test_a_device_without_the_package_is_told_what_to_install(link: RemoteLink, models: Path, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without site-packages
    bare.chmod(0o755)
    with pytest.raises(ConfigError, match=r"onnxruntime can not be imported.*pip install onnxruntime"):
        OnnxRuntime(link, python=str(bare)).load(models / "add.onnx")


def test_a_tool_is_pushed_and_its_lines_place_the_block(link: RemoteLink, lite_models: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    tool = tmp_path / "benchmark_model"
    tool.write_text(
        f"#!{sys.executable}\n"
        "import sys, time\n"
        "n = int(next(a for a in sys.argv if a.startswith('--num_runs=')).split('=')[1])\n"
        "print('INFO: Running benchmark for at least 1 iterations', flush=True)\n"
        "print('INFO: count=1 curr=1', flush=True)\n"
        "print(f'INFO: Running benchmark for at least {n} iterations', flush=True)\n"
        "start = time.monotonic()\n"
        "time.sleep(0.02)\n"
        "end = time.monotonic()\n"
        "print(f'INFO: count={n} avg={(end - start) / n * 1e6:.6g}', flush=True)\n"
        f"open({str(truth)!r}, 'w').write(f'{{start}} {{end}}')\n"
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    runtime = BenchmarkModel(link, tool=tool)
    loaded = runtime.load(lite_models / "sum.tflite")
    before = time.monotonic()
    interval = loaded.run(4)
    start, end = map(float, truth.read_text().split())
    assert before <= interval.start_s <= interval.end_s <= time.monotonic()
    # On a busy machine a line may take longer than the quick round trips did: then the block is found too late.
    assert interval.start_s >= start - HALF * interval.uncertainty_s - 1e-4
    assert interval.duration_s >= (end - start) * (1 - 1e-5)
    runtime.close()


def test_pulses_over_a_link(link: RemoteLink) -> None:
    load = ShellLoad(link, (), 5e-3)
    first, second = load.run(5), load.run(50)
    assert first.end_s <= second.start_s
    assert (first.runs, second.runs) == (5, 50)
    load.close()
