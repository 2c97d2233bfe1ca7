"""Detached runs without daemons: what their answers and the trace make of each other, and what the host keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from deepen.cli import cli
from deepen.clock.host_clock import ClockMap
from deepen.clock.round_trips import RoundTrip
from deepen.devices.background_jobs import DetachedJob, DetachedOutput
from deepen.doctor.device_checks import check_devices
from deepen.errors import ConfigError, LinkError, MeasureError, RunError
from deepen.measure.alignment.load_pattern import SyncPulses
from deepen.measure.conditions.device_conditions import DeviceConditions
from deepen.measure.detached.cable import MeterCable, QuietCable, UserCable, choose_cable, wait_until_reachable
from deepen.measure.detached.plan import estimate_duration_s, fit_device_clock, make_steps, make_worker_requests
from deepen.measure.detached.result import make_detached_record
from deepen.measure.detached.store import PendingRun, get_detached_folder, list_pending_runs, save_pending_run
from deepen.records import EnergyRecord, PowerTrace
from deepen.testing.clock import VirtualClock
from deepen.testing.device import FakeDevice, FakeRuntime
from deepen.testing.instruments.signal import StepSignal
from deepen.testing.links import make_shell_link
from deepen.testing.power import PowerTimeline
from deepen.traces import write_trace

IDLE_W, WORK_W, RUN_S = 0.6, 2.0, 2e-3
OFFSET_S, RATE = 4321.0, 1 + 25e-6  # of the device's clock
METER_S = 0.013  # how far the meter's clock is off
RUNS = 50
PULSES = SyncPulses(0.02, RUN_S, 0.05)


def device_s(host_s: float) -> float:
    return host_s * RATE + OFFSET_S


def trip(at_s: float, slept_s: float = 100.0) -> RoundTrip:
    """A quick round trip at a moment of the host."""
    return RoundTrip(at_s - 2e-4, at_s + 3e-4, device_s(at_s), device_s(at_s), slept_s)


@dataclass
class Simulated:
    """A run as it went: what it answered, and the power meanwhile."""

    pending: PendingRun
    replies: list[dict[str, Any]]
    edges: list[float] = field(default_factory=list)
    end_s: float = 0.0

    def trace(self, path: Path, *, start_s: float = 1000.0, end_s: float | None = None, noise_w: float = 0.02) -> Path:
        levels = np.where(np.arange(len(self.edges) + 1) % 2, IDLE_W + WORK_W, IDLE_W)
        bounds = np.arange(start_s, end_s or self.end_s + 1.0, 1 / 5000)
        power = StepSignal(np.array(self.edges), levels).mean_w(bounds[:-1], bounds[1:])
        power += np.random.default_rng(3).normal(0.0, noise_w, power.size)
        clock = ClockMap(0.0, 0.0, 1.0, 1e-3, "arrival")
        middles = (bounds[1:] + bounds[:-1]) / 2 + METER_S
        write_trace(PowerTrace(middles, power, 5000.0, "lvpm", "c", "simulated", clock=clock), path)
        return path


def simulate(
    *, pulses: SyncPulses | None = PULSES, blocks: int = 12, change: Callable[[int, dict[str, Any]], None] | None = None
) -> Simulated:
    """Play the steps one after the other; ``change`` may change an answer, by the number of its step."""
    steps = make_steps(runs=RUNS, blocks=blocks, warm_runs=100, settle_s=0.5, idle_s=1.0, pulses=pulses)
    pending = PendingRun(
        job=DetachedJob("0" * 32, "/data/detached/x"), device="fake", serial="S1", model="m.onnx", content="c",
        workload={"runtime": "onnxruntime", "threads": 1, "seconds": 1.0, "shapes": {"x": [1, 3]}, "id": "w"},
        build="fake 1.0", runs=RUNS, steps=steps, first=3, pulses=pulses, trips=(trip(999.0), trip(1000.0)),
        state={"temperature_c": 38.0, "counters": {}},
        settings={"governor": {"wanted": "performance", "actual": "performance", "ok": True, "cause": ""}},
        started_at="2026-01-01T00:00:00Z", host_boot="b",
    )  # fmt: skip
    found = Simulated(pending, [{"id": 0}, {"id": 1, "handle": 1}, {"id": 2}])
    at_s = 1000.5
    for number, step in enumerate(steps):
        start_s = at_s + 1e-4  # between an answer and the next request
        at_s = start_s + (step.amount * RUN_S if step.op == "run" else step.amount / 1e9)
        if step.op == "run":
            found.edges += [start_s, at_s]
        start_ns, end_ns = (round(1e9 * device_s(t)) for t in (start_s, at_s))
        reply = {"id": number + 3, "start_ns": start_ns, "end_ns": end_ns, "cpu_ns": end_ns - start_ns}
        reply |= {"start_boot_ns": start_ns + 10**11, "end_boot_ns": end_ns + 10**11}
        if change is not None:
            change(number, reply)
        found.replies.append(reply)
    found.end_s = at_s
    return found


@pytest.fixture
def device() -> FakeDevice:
    clock = VirtualClock()
    return FakeDevice(FakeRuntime(clock, PowerTimeline(IDLE_W)))


def record(device: FakeDevice, run: Simulated, path: Path, after: bool = True, replies: Any = None) -> EnergyRecord:
    later = [trip(run.end_s + 5.0 + k) for k in range(2)] if after else []
    found = DetachedOutput(tuple(run.replies if replies is None else replies), "last words")
    return make_detached_record(device, run.pending, found, later, path, DeviceConditions("S1"))


def test_the_energy_is_found_whatever_the_clocks_show(device: FakeDevice, tmp_path: Path) -> None:
    run = simulate()
    found = record(device, run, run.trace(tmp_path / "p.trace"))
    assert found.energy_j == pytest.approx(WORK_W * RUN_S, rel=2e-3)
    assert abs(found.energy_j - WORK_W * RUN_S) <= 2 * found.uncertainty_j
    assert found.latency_s == pytest.approx(RUN_S, rel=1e-3)
    assert found.idle_power_before_w == pytest.approx(IDLE_W, rel=0.01)
    assert found.idle_power_after_w == pytest.approx(IDLE_W, rel=0.01)
    assert found.alignment["method"] == "pulses"
    assert len(found.trials) + len(found.rejected) == 12
    assert (found.device, found.serial, found.meter, found.runtime) == ("fake", "S1", "lvpm", "onnxruntime")
    assert (found.temperature_before_c, found.temperature_c) == (38.0, 40.0)
    assert found.name == "m"


def test_without_round_trips_after_the_cut_the_pattern_suffices(device: FakeDevice, tmp_path: Path) -> None:
    run = simulate()
    found = record(device, run, run.trace(tmp_path / "p.trace"), after=False)
    assert found.energy_j == pytest.approx(WORK_W * RUN_S, rel=2e-3)


def test_without_a_pattern_round_trips_are_used_and_said(device: FakeDevice, tmp_path: Path) -> None:
    run = simulate(pulses=None)
    found = record(device, run, run.trace(tmp_path / "p.trace"))
    assert found.alignment["method"] == "ping"
    assert found.alignment["error_s"] >= 1e-3  # the meter's own doubt
    # Blocks without rest in between: only the first and last see the shifted clock.
    assert found.energy_j == pytest.approx(WORK_W * RUN_S, rel=0.02)


def test_a_pattern_that_is_not_found_is_said_or_refused(device: FakeDevice, tmp_path: Path) -> None:
    run = simulate(pulses=replace(PULSES, max_offset_s=0.001))  # the meter is off by more
    path = run.trace(tmp_path / "p.trace")
    found = record(device, run, path)
    assert any("round trips before and after the run were used" in w for w in found.warnings)
    run.pending = replace(run.pending, pulses=replace(PULSES, max_offset_s=0.001, required=True))
    with pytest.raises(MeasureError, match="sync pulses"):
        record(device, run, path)


def test_a_trace_that_was_cut_short_counts_as_far_as_it_goes(device: FakeDevice, tmp_path: Path) -> None:
    run = simulate()
    path = run.trace(tmp_path / "p.trace", end_s=run.edges[-20])
    found = record(device, run, path)
    assert found.energy_j == pytest.approx(WORK_W * RUN_S, rel=5e-3)
    assert any("blocks" in w and "covers" in w for w in found.warnings)
    assert any("before the run only" in w for w in found.warnings)
    assert found.idle_power_after_w == found.idle_power_before_w


def test_a_trace_that_does_not_cover_the_run_is_refused(device: FakeDevice, tmp_path: Path) -> None:
    run = simulate()
    with pytest.raises(MeasureError, match="does not cover the rest before"):
        record(device, run, run.trace(tmp_path / "late.trace", start_s=run.edges[4]))
    with pytest.raises(MeasureError, match=r"covers 0 of 12 blocks"):
        record(device, run, run.trace(tmp_path / "short.trace", end_s=run.edges[2]))
    (tmp_path / "none.trace").mkdir()
    with pytest.raises(MeasureError, match="holds nothing"):
        record(device, run, tmp_path / "none.trace")


def test_a_run_that_was_ended_counts_as_far_as_it_went(device: FakeDevice, tmp_path: Path) -> None:
    run = simulate()
    found = record(device, run, run.trace(tmp_path / "p.trace"), replies=run.replies[:20])
    assert any("the run was ended on the device after 17 of" in w for w in found.warnings)
    with pytest.raises(LinkError, match=r"before it began to measure \(last words\)"):
        record(device, run, tmp_path / "p.trace", replies=run.replies[:3])
    with pytest.raises(LinkError, match="before it began"):
        record(device, run, tmp_path / "p.trace", replies=[])


def test_a_device_that_slept_is_told_with_the_cure(device: FakeDevice, tmp_path: Path) -> None:
    def sleep(number: int, reply: dict[str, Any]) -> None:
        if number > 10:
            reply["start_boot_ns"] += 2 * 10**9
            reply["end_boot_ns"] += 2 * 10**9

    run = simulate(change=sleep)
    with pytest.raises(MeasureError, match=r"went to sleep for 2\.0 s .* keep it awake"):
        record(device, run, run.trace(tmp_path / "p.trace"))


def test_a_model_that_failed_is_told(device: FakeDevice, tmp_path: Path) -> None:
    run = simulate()
    path = run.trace(tmp_path / "p.trace")
    failed = [*run.replies[:10], {"id": 10, "error": "no memory", "kind": "memory"}]
    with pytest.raises(RunError, match="failed in the detached run: no memory"):
        record(device, run, path, replies=failed)
    with pytest.raises(RunError, match="could not be loaded"):
        record(device, run, path, replies=[run.replies[0], {"id": 1, "error": "bad"}])
    with pytest.raises(LinkError, match="answered 7 instead of 0"):
        record(device, run, path, replies=[{"id": 7}])


def test_a_device_that_was_restarted_is_told(device: FakeDevice, tmp_path: Path) -> None:
    run = simulate()
    path = run.trace(tmp_path / "p.trace")
    found = DetachedOutput(tuple(run.replies), "")
    restarted = [replace(trip(run.end_s + 5), start_s=12.0, end_s=12.0)]
    with pytest.raises(MeasureError, match="a clock was set or stopped"):
        make_detached_record(device, run.pending, found, restarted, path, DeviceConditions())


def test_beyond_the_round_trips_the_clock_is_known_less() -> None:
    trips = [trip(1000.0), trip(1010.0)]
    near, far = fit_device_clock(trips, device_s(1010.0)), fit_device_clock(trips, device_s(1110.0))
    assert far.error_s == pytest.approx(near.error_s + 300e-6 * 100, rel=0.01)


def test_requests_are_numbered_and_wait_for_the_hold() -> None:
    steps = make_steps(runs=3, blocks=2, warm_runs=5, settle_s=1.0, idle_s=2.0, pulses=None)
    asked = make_worker_requests(steps, [{"op": "hello"}, {"op": "load"}], hold_pid=77, hold_s=9.0)
    assert [r["id"] for r in asked] == list(range(len(asked)))
    assert [r["op"] for r in asked] == ["hello", "load", "wait", "wait", "wait", "run", "run", "run", "wait", "bye"]
    assert asked[2] == {"op": "wait", "ns": 9 * 10**9, "pid": 77, "id": 2}
    assert estimate_duration_s(steps, 0.5) == pytest.approx(1 + 2 + 2.5 + 3 + 2)


# ---- what the host keeps --------------------------------------------------------------------------------------------


def test_a_run_is_kept_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPEN_STATE", str(tmp_path))
    assert list_pending_runs() == []
    for pulses in (PULSES, None):
        pending = simulate(pulses=pulses).pending
        save_pending_run(pending)
        assert list_pending_runs() == [pending]
        assert pending.trace == get_detached_folder() / pending.job.token / "power.trace"
        pending.forget()
        assert list_pending_runs() == []


def test_a_run_under_way_is_not_offered_to_be_collected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPEN_STATE", str(tmp_path))
    pending = simulate().pending
    save_pending_run(pending)

    def offered() -> list[str]:
        """What ``device list`` and the doctor say of it."""
        said = CliRunner().invoke(cli, ["device", "list"]).stdout
        doctor = [c.cure for c in check_devices(tmp_path) if c.name.startswith("detached run")]
        return [line for line in (*said.splitlines(), *doctor) if "m.onnx" in line]

    with pending.held():
        assert pending.in_progress
        (line,) = offered()
        assert line.endswith("is under way")
    assert not pending.in_progress
    assert len(offered()) == 2
    assert all("--collect" in line for line in offered())
    pending.forget()
    assert not pending.in_progress


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "job": {"token": "../..", "folder": "/"}}']
)
def test_a_damaged_one_is_told(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPEN_STATE", str(tmp_path))
    folder = get_detached_folder() / "x"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(text)
    with pytest.raises(ConfigError, match=r"is damaged .*remove the folder"):
        list_pending_runs()


# ---- cables ---------------------------------------------------------------------------------------------------------


class Named:
    """A link of which only the name counts."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize(
    ("name", "meter", "off", "kind"),
    [
        ("ssh pi@board:22", "lvpm", False, QuietCable),
        ("adb 10.0.0.7:5555", "lvpm", False, QuietCable),
        ("adb 1A2B3C", "lvpm", False, MeterCable),
        ("adb 1A2B3C", "hvpm", True, MeterCable),
        ("adb 1A2B3C", "ppk2", True, QuietCable),
        ("adb 1A2B3C", "ppk2", False, UserCable),
        ("adb", "otii", False, UserCable),
    ],
)
def test_how_a_link_is_cut_follows_from_link_and_meter(name: str, meter: str, off: bool, kind: type) -> None:
    chosen = choose_cable(Named(name), meter, off, print)  # type: ignore[arg-type]
    assert type(chosen) is kind


def test_a_user_is_asked_and_waited_for(tmp_path: Path) -> None:
    link = make_shell_link(str(tmp_path))
    told: list[str] = []
    held = link.spawn(["cat"], {})
    with pytest.raises(LinkError, match="nobody unplugged it"):
        UserCable(told.append, patience_s=0.2).cut(link, held)
    held.kill()
    UserCable(told.append).cut(link, held)  # the hold is gone
    assert told[0].startswith("unplug the USB cable of shell now")
    link.close()


def test_a_device_that_stays_away_is_told(tmp_path: Path) -> None:
    link = make_shell_link(str(tmp_path))
    wait_until_reachable(link, 10.0)
    link.close()
    waited: list[float] = []
    with pytest.raises(LinkError, match="has not come back"):
        wait_until_reachable(link, 0.05, sleep=waited.append)
