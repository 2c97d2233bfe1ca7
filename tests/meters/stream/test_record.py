"""Recording to memory and to disk, and judging what came."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from deepen import meters, traces
from deepen.cli import cli
from deepen.errors import ConfigError, MeterError
from deepen.meters.ports.serial_port import open_port
from deepen.meters.record import Recording, record_folder, record_trace
from deepen.meters.stream.meter import StreamMeter
from deepen.meters.trace_quality import check_trace_quality
from deepen.meters.types import Availability, DetectedInstrument
from deepen.testing.clock import VirtualClock

Toy = Callable[..., tuple[Any, Any]]


@pytest.fixture
def bench(clock: VirtualClock, toy: Toy) -> Callable[..., tuple[StreamMeter, Any, dict[str, Any]]]:
    """Make a meter in virtual time, the line behind it, and the options that make recording wait in virtual time."""

    def make(max_loss: float = 1e-3, **line_options: Any) -> tuple[StreamMeter, Any, dict[str, Any]]:
        instrument, line = toy(**line_options)
        meter = StreamMeter(instrument, line, now=clock.now, threaded=False, max_loss=max_loss)
        return meter, line, {"now": clock.now, "sleep": lambda s: meter.run_until(clock.now() + s)}

    return make


def test_a_stream_is_recorded_for_the_time_asked(bench: Any) -> None:
    meter, _, options = bench(ppm=120.0)
    found = record_trace(meter, 20.0, **options)
    assert not found.interrupted
    assert found.trace is not None
    assert found.trace.t_s[-1] - found.trace.t_s[0] > 20.0
    checked = check_trace_quality(found.trace, found.ending)
    assert checked.nominal_hz == 1000.0
    assert checked.rate_hz == pytest.approx(1000.12, abs=0.03)
    assert checked.drift_ppm == pytest.approx(120.0, abs=30.0)
    assert checked.clock_error_s < 2e-3
    assert 0 < checked.jitter_s < 4e-3
    assert (checked.dropped, checked.loss, checked.gaps, checked.gap_s) == (0, 0.0, 0, 0.0)
    assert checked.samples == found.trace.t_s.size
    assert checked.longest_s == pytest.approx(1e-3, rel=1e-2)


def test_a_check_tells_losses_and_gaps(bench: Any) -> None:
    meter, _, options = bench(max_loss=1.0, missing=frozenset({100, 101, 102, 700}))
    found = record_trace(meter, 2.0, **options)
    checked = check_trace_quality(found.trace, found.ending)
    assert (checked.dropped, checked.gaps) == (4, 2)
    assert checked.loss == pytest.approx(4 / (4 + checked.samples))
    assert checked.gap_s == pytest.approx(6e-3, rel=1e-3)
    assert any("4 samples are missing" in w for w in checked.warnings)


def test_the_drift_of_a_short_recording_is_not_made_up(bench: Any) -> None:
    meter, _, options = bench(ppm=40.0)
    found = record_trace(meter, 0.3, **options)
    checked = check_trace_quality(found.trace, found.ending)
    assert math.isnan(checked.drift_ppm)
    assert any("too short" in w for w in checked.warnings)


def test_ctrl_c_keeps_what_was_recorded(bench: Any, clock: VirtualClock) -> None:
    meter, _, options = bench()

    def sleep(duration_s: float) -> None:
        if clock.now() > 1001.0:
            raise KeyboardInterrupt
        options["sleep"](duration_s)

    found = record_trace(meter, 60.0, now=clock.now, sleep=sleep)
    assert found.interrupted
    assert found.trace is not None
    assert 1.0 < found.trace.t_s[-1] - found.trace.t_s[0] < 2.0


def test_ctrl_c_keeps_what_a_polled_source_gave() -> None:
    from deepen.testing.power import PowerTimeline, SimulatedMeter

    clock = VirtualClock()
    calls: list[float] = []

    def sleep(duration_s: float) -> None:
        calls.append(duration_s)
        if len(calls) > 5:
            raise KeyboardInterrupt
        clock.sleep(duration_s)

    found = record_trace(SimulatedMeter(PowerTimeline(2.0), clock.now), 60.0, 10.0, now=clock.now, sleep=sleep)
    assert found.interrupted
    assert found.ending is None
    assert found.trace is not None
    assert found.trace.t_s[-1] - found.trace.t_s[0] == pytest.approx(0.5)


def test_a_folder_holds_what_memory_would(bench: Any, tmp_path: Path) -> None:
    meter, line, options = bench(ppm=-30.0, power_w=lambda t: 2.0 + math.floor(t * 10) % 3)
    found = record_folder(meter, tmp_path / "a.trace", 3.0, **options)
    assert found.trace is None
    assert found.ending is not None
    trace = traces.read_trace(tmp_path / "a.trace")
    assert trace.t_s.size == found.ending.samples
    true = np.array([line.time_of(k) for k in range(trace.t_s.size)])
    assert np.abs(trace.t_s - true).max() < 1.5e-3
    assert trace.power_w == pytest.approx([2.0 + math.floor(t * 10) % 3 for t in true])
    assert (trace.meter_id, trace.source, trace.calibration_id) == ("toy", "simulated", "toy T1")
    assert trace.accuracy.reference == "toy sheet"
    assert trace.clock == found.ending.clock
    with pytest.raises(ConfigError, match="exists; name another"):
        record_folder(meter, tmp_path / "a.trace", 1.0, **options)


def test_losses_the_clock_finds_at_the_end_are_in_the_times_of_the_folder(bench: Any, tmp_path: Path) -> None:
    meter, line, options = bench(max_loss=1.0, silent=frozenset(range(3000, 3256)))
    record_folder(meter, tmp_path / "a.trace", 8.0, **options)
    trace = traces.read_trace(tmp_path / "a.trace")
    assert trace.dropped == 256
    assert len(trace.gaps) == 1
    numbers = [k for k in range(trace.t_s.size + 256) if k not in line.silent]
    true = np.array([line.time_of(k) for k in numbers])
    outside = (trace.t_s < trace.gaps[0][0]) | (trace.t_s > trace.gaps[0][1])
    assert np.count_nonzero(~outside) < 50
    assert np.abs(trace.t_s - true)[outside].max() < 2e-3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"unplug_s": 1002.0}, "plug it in"),
        ({"stop_s": 1002.0}, "sent nothing"),
        ({"missing": frozenset(range(500, 600))}, "samples were lost"),
    ],
)
def test_what_came_before_a_fault_is_finished_and_the_fault_raised(
    fault: dict[str, Any], message: str, bench: Any, clock: VirtualClock, tmp_path: Path
) -> None:
    meter, _, _ = bench(**fault)

    def sleep(duration_s: float) -> None:
        try:
            meter.run_until(clock.now() + duration_s)
        except MeterError as error:  # as the thread would
            meter._error = error

    with pytest.raises(MeterError, match=message):
        record_folder(meter, tmp_path / "a.trace", 5.0, now=clock.now, sleep=sleep)
    info = traces.open_trace(tmp_path / "a.trace").info
    assert info.complete
    assert info.samples > 1900
    assert info.clock is not None
    assert any(w.startswith(("cut short: ", "lost: 100")) for w in info.warnings)


def test_a_recording_without_a_sample_leaves_no_folder(bench: Any, tmp_path: Path) -> None:
    meter, _, options = bench(stop_s=0.0)
    with pytest.raises(MeterError, match="sent nothing"):
        record_folder(meter, tmp_path / "a.trace", 5.0, **options)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="above zero"):
        record_folder(meter, tmp_path / "a.trace", 0.0, **options)


# ---- the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def plugged(
    terminal: tuple[int, str], streaming: Callable[..., Any], toy_instrument: Any, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Let ``--meter`` be the toy on a pseudo-terminal."""

    def open_meter(spec: str | None, **options: Any) -> StreamMeter:
        port = open_port(terminal[1])
        return StreamMeter(toy_instrument(port), port, max_loss=1.0)

    monkeypatch.setattr(meters, "open_meter", open_meter)
    with streaming(terminal[0]):
        yield


def document(*args: str, code: int = 0) -> Any:
    result = CliRunner().invoke(cli, [*args, "--json"])
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("suffix", [".trace", ".parquet", ".csv", ".json"])
def test_the_command_records_a_stream_in_every_form(suffix: str, plugged: None, tmp_path: Path) -> None:
    target = tmp_path / f"power{suffix}"
    found = document("meter", "record", "--meter", "toy", "--seconds", "0.1", "--out", str(target))
    assert (found["meter"], found["source"], found["interrupted"]) == ("toy", "simulated", False)
    assert found["mean_w"] == pytest.approx(2.0)
    assert found["energy_j"] == pytest.approx(2.0 * found["duration_s"])
    trace = traces.read_trace(target)
    assert trace.t_s.size == found["samples"]
    assert trace.dropped == found["dropped"]
    assert set(trace.power_w.tolist()) == {2.0}
    assert "t_s" not in found


def test_the_command_refuses_bad_targets_before_it_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("opened a meter")

    monkeypatch.setattr(meters, "open_meter", never)
    (tmp_path / "old.trace").mkdir()
    (tmp_path / "folder.csv").mkdir()
    for name, message in (
        ("old.trace", "exists; name another"),
        ("folder.csv", "is a folder"),
        ("x.xls", "name a .trace"),
        ("no/x.csv", "make it first"),
    ):
        result = CliRunner().invoke(cli, ["meter", "record", "--out", str(tmp_path / name)])
        assert result.exit_code == 1
        assert message in result.stderr


def test_check_reports_rate_clock_jitter_and_losses(plugged: None) -> None:
    found = document("meter", "check", "--meter", "toy", "--seconds", "0.1")
    assert found["nominal_hz"] == 1000.0
    assert {"rate_hz", "drift_ppm", "clock_error_s", "jitter_s", "loss", "gaps", "noise_w"} <= set(found)
    text = CliRunner().invoke(cli, ["meter", "check", "--meter", "toy", "--seconds", "0.1"]).stdout
    for word in ("1000 nominal", "drift", "jitter", "lost samples", "gaps"):
        assert word in text


def test_an_interrupted_recording_is_written_and_exits_with_130(
    plugged: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepen.meters import record as module

    def cut(meter: StreamMeter, seconds: float, rate_hz: float) -> Recording:
        whole = record_trace(meter, 0.05)
        return Recording(whole.trace, True, whole.ending)

    monkeypatch.setattr(module, "record_trace", cut)
    target = tmp_path / "a.csv"
    found = document("meter", "record", "--meter", "toy", "--out", str(target), code=130)
    assert found["interrupted"]
    assert traces.read_trace(target).t_s.size == found["samples"]
    assert document("meter", "check", "--meter", "toy", code=130)["samples"] > 0


def test_list_shows_port_and_serial_number_of_what_is_plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Availability(
        "ppk2",
        True,
        "/dev/ttyACM0 (serial AB12)",
        "measured",
        found=(DetectedInstrument("/dev/ttyACM0", "AB12", "PPK2"),),
    )
    monkeypatch.setattr(meters, "list_meters", lambda context: [found])
    assert document("meter", "list")["meters"][0]["found"] == [
        {"port": "/dev/ttyACM0", "serial": "AB12", "product": "PPK2"}
    ]
    text = CliRunner().invoke(cli, ["meter", "list"]).stdout
    assert "ppk2:AB12" in text
    assert "/dev/ttyACM0" in text
