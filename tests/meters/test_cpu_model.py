from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deepen.devices import CpuPower
from deepen.errors import MeterError
from deepen.measure import integrate_power
from deepen.meters import MeterContext, cpu_model, open_meter
from deepen.meters.cpu_model import CpuModelMeter, read_machine_cpu_s, read_process_cpu_s
from deepen.records import Interval

POWER = CpuPower("test", idle_w=4.0, full_w=20.0, cores=8, source="a figure for tests")  # 2 W per core


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A wall clock and CPU clocks by process id, set by hand."""
    values: dict[str, float] = {"now": 100.0}
    monkeypatch.setattr(cpu_model, "monotonic_s", lambda: values["now"])
    monkeypatch.setattr(cpu_model, "read_process_cpu_s", lambda pid: values.get(f"cpu{pid}", math.nan))
    return values


def test_energy_of_an_observed_block_is_idle_plus_its_cpu_time(clocks: dict[str, float]) -> None:
    clocks["cpu7"] = 50.0
    meter = CpuModelMeter(POWER, MeterContext(pid=lambda: 7))
    meter.start()
    blocks = []
    for dt, cpu, before, after in [(0.02, 0.0199, 1e-4, 3e-4), (0.5, 0.7, 0.0, 1e-3), (0.02, 0.001, 5e-5, 0.0)]:
        meter.mark()
        start = clocks["now"] + before
        block = Interval(start, start + dt, "run", runs=3, cpu_s=cpu)
        clocks["now"] = block.end_s + after
        clocks["cpu7"] += cpu + 2e-4  # handling the request costs something too
        meter.mark()
        meter.observe(block)
        blocks.append((block, dt, cpu))
    clocks["now"] += 0.01
    trace = meter.stop()
    for window, (_, dt, cpu) in zip(integrate_power(trace, [b for b, _, _ in blocks], 4.0), blocks, strict=True):
        assert window.gross_j == pytest.approx(4.0 * dt + 2.0 * cpu, rel=1e-6)
        assert window.net_j == pytest.approx(2.0 * cpu, rel=1e-6)
    whole = Interval(float(trace.t_s[0]), float(trace.t_s[-1]), "all")
    total = sum(cpu + 2e-4 for _, _, cpu in blocks)
    assert integrate_power(trace, [whole], 4.0)[0].net_j == pytest.approx(2.0 * total, rel=1e-6)
    assert (trace.source, trace.meter_id) == ("modelled", "cpu-model")
    assert trace.calibration_id == "test: idle 4 W, full load 20 W, 8 cores"


def test_marked_stretches_without_an_observed_block_use_the_process_clock(clocks: dict[str, float]) -> None:
    clocks["cpu7"] = 1.0
    meter = CpuModelMeter(POWER, MeterContext(pid=lambda: 7))
    meter.start()
    edges = [100.0]
    for dt, cpu in [(1.0, 0.25), (2.0, 0.0), (0.5, 1.5)]:
        clocks["now"] += dt
        clocks["cpu7"] += cpu
        meter.mark()
        edges.append(clocks["now"])
    trace = meter.stop()
    spans = [Interval(a, b, "span") for a, b in itertools.pairwise(edges)]
    assert [w.net_j for w in integrate_power(trace, spans, 4.0)] == pytest.approx([0.5, 0.0, 3.0], abs=1e-6)


def test_without_a_process_clock_blocks_alone_count(clocks: dict[str, float]) -> None:
    meter = CpuModelMeter(POWER, MeterContext(pid=lambda: None))
    meter.start()
    blocks = []
    for _ in range(3):
        meter.mark()
        start = clocks["now"] + 1e-4
        blocks.append(Interval(start, start + 0.1, "run", cpu_s=0.1))
        clocks["now"] = start + 0.1
        meter.mark()
        meter.observe(blocks[-1])
        clocks["now"] += 0.05
    assert [w.net_j for w in integrate_power(meter.stop(), blocks, 4.0)] == pytest.approx([0.2] * 3, rel=1e-6)


def test_a_replaced_worker_neither_adds_nor_takes_away(clocks: dict[str, float]) -> None:
    clocks |= {"cpu7": 5.0, "cpu8": 90.0}
    worker = [7]
    meter = CpuModelMeter(POWER, MeterContext(pid=lambda: worker[0]))
    meter.start()
    for pid, cpu in [(7, 1.0), (8, 0.0), (8, 0.5)]:
        worker[0] = pid
        clocks[f"cpu{pid}"] += cpu
        clocks["now"] += 1.0
        meter.mark()
    del clocks["cpu8"]  # it has ended
    clocks["now"] += 1.0
    trace = meter.stop()
    spans = [Interval(100.0 + i, 101.0 + i, "span") for i in range(4)]
    assert [w.net_j for w in integrate_power(trace, spans, 4.0)] == pytest.approx([2.0, 0.0, 1.0, 0.0], abs=1e-6)


def test_a_block_outside_its_marks_is_refused(clocks: dict[str, float]) -> None:
    meter = CpuModelMeter(POWER, MeterContext(pid=lambda: None))
    meter.start()
    meter.mark()
    clocks["now"] += 1.0
    meter.mark()
    with pytest.raises(MeterError, match="outside the marks"):
        meter.observe(Interval(99.0, 100.5, "run", cpu_s=0.1))
    with pytest.raises(MeterError, match="outside the marks"):
        meter.observe(Interval(100.5, 101.5, "run", cpu_s=0.1))
    meter.observe(Interval(99.0, 99.5, "run"))  # no CPU time told: nothing to place


def test_the_cpu_clock_of_a_process_moves_with_its_work() -> None:
    before = read_process_cpu_s(os.getpid())
    end = time.process_time() + 0.02
    while time.process_time() < end:
        pass
    assert read_process_cpu_s(os.getpid()) - before >= 0.019
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert math.isnan(read_process_cpu_s(ended.pid))
    assert math.isnan(read_process_cpu_s(2**30))


def test_whole_machine_from_proc_stat(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    stat = tmp_path / "proc" / "stat"
    stat.write_text("cpu  100 10 50 9999 77 3 2 5 40 0\ncpu0 1 1 1 1\n")
    assert read_machine_cpu_s(tmp_path) == pytest.approx(170 / os.sysconf("SC_CLK_TCK"))  # guest time lies inside user
    meter = open_meter("cpu-model", power=POWER, root=tmp_path)
    assert meter.scope == "machine"
    assert meter.update_s == 0.01
    stat.unlink()
    assert math.isnan(read_machine_cpu_s(tmp_path))
    with pytest.raises(MeterError, match="/proc/stat"):
        open_meter("cpu-model", power=POWER, root=tmp_path)


def test_needs_power_figures(pid: Callable[[], int | None] = lambda: 1) -> None:
    with pytest.raises(MeterError, match="no power figures"):
        open_meter("cpu-model", pid=pid)
    assert not cpu_model.DRIVER.probe(MeterContext()).available
    found = cpu_model.DRIVER.probe(MeterContext(power=POWER))
    assert found.available
    assert "a figure for tests" in found.detail
    assert open_meter("cpu-model", power=POWER, pid=pid).scope == "process"
