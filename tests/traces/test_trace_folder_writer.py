"""Recording into a folder: parts, losses, what a killed process leaves, and damage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepen import traces
from deepen.clock import SampleLoss, insert_losses
from deepen.clock.host_clock import ClockMap
from deepen.errors import ConfigError, MeasureError, StorageError
from deepen.records import TraceWarning
from deepen.traces import TraceHeader, TraceWriter, trace_folder_writer

CLOCK = ClockMap(0.0, 50.0, 1 + 20e-6, 1e-4, "arrival")
HEADER = TraceHeader("ppk2", "metadata", "simulated", 1000.0, precision="float64", start_s=40.0)


def ramp(first: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.arange(first, first + n, dtype=np.int64)
    return index, np.sin(index / 50.0) + 2.0


def test_a_recording_reads_back_over_several_parts(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "a.trace", HEADER, part_samples=1000) as writer:
        for first in range(0, 3500, 70):
            writer.append(*ramp(first, 70))
        assert writer.samples == 3500
        writer.finish(CLOCK, gaps=((51.0, 51.5),), dropped=2, warnings=(TraceWarning("loss", "w"),))
    assert sorted(p.name for p in (tmp_path / "a.trace").iterdir()) == [
        "manifest.json",
        *(f"part-00000{k}.parquet" for k in range(4)),
    ]
    back = traces.read_trace(tmp_path / "a.trace")
    np.testing.assert_array_equal(back.t_s, CLOCK.to_host(np.arange(3500) / 1000.0))
    np.testing.assert_array_equal(back.power_w, ramp(0, 3500)[1])
    assert (back.gaps, back.dropped, back.warnings, back.clock) == (((51.0, 51.5),), 2, ("w",), CLOCK)
    assert traces.open_trace(tmp_path / "a.trace").info.complete


def test_times_are_not_stored(tmp_path: Path) -> None:
    n = 200_000
    with TraceWriter(tmp_path / "a.trace", TraceHeader("m", "c", "simulated", 1e5)) as writer:
        writer.append(np.arange(n), np.random.default_rng(0).normal(1.0, 0.3, n))
        writer.finish(CLOCK)
    stored = sum(p.stat().st_size for p in (tmp_path / "a.trace").iterdir())
    assert stored < 4.2 * n  # one float32 of power each, and next to nothing for the positions


def test_a_recording_without_clock_starts_where_its_header_says(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "a.trace", HEADER) as writer:
        writer.append(*ramp(0, 10))
        writer.finish()
    np.testing.assert_array_equal(traces.read_trace(tmp_path / "a.trace").t_s, 40.0 + np.arange(10) / 1000.0)


def test_stamps_and_inputs_are_kept(tmp_path: Path) -> None:
    header = TraceHeader("hwmon", "c", "measured", 0.0, times="stamps", precision="float64", logic=True)
    t_s = np.array([1.0, 1.11, 1.19, 2.5])
    with TraceWriter(tmp_path / "a.trace", header) as writer:
        writer.append(t_s, t_s * 2, np.array([0, 1, 128, 255], np.uint8))
        writer.finish()
    back = traces.read_trace(tmp_path / "a.trace")
    assert back.t_s.tolist() == t_s.tolist()
    assert back.logic is not None
    assert back.logic.tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("samples", [(7, 3), (5, -4), (-6, 2), (3, -40)])
def test_losses_found_by_the_clock_are_inserted_on_reading(tmp_path: Path, samples: tuple[int, int]) -> None:
    losses = (SampleLoss(100, samples[0], 0.5, 110), SampleLoss(470, samples[1], 0.5, 480))
    with TraceWriter(tmp_path / "a.trace", HEADER, part_samples=64) as writer:
        writer.append(*ramp(0, 500))
        writer.finish(CLOCK, ((50.1, 50.11), (50.47, 50.48)), 7, losses=losses)
    whole = traces.read_trace(tmp_path / "a.trace")
    expected = CLOCK.to_host(insert_losses(np.arange(500), losses) / 1000.0)
    np.testing.assert_array_equal(whole.t_s, expected)
    info = traces.open_trace(tmp_path / "a.trace").info
    assert (info.start_s, info.end_s) == (expected[0], expected[-1])
    pieces = list(traces.read_chunks(tmp_path / "a.trace", 33))
    np.testing.assert_array_equal(np.concatenate([p.t_s for p in pieces]), expected)
    assert sum(p.dropped for p in pieces) == 7
    assert sum(len(p.gaps) for p in pieces) == 2


def test_leaving_early_keeps_what_came_and_says_so(tmp_path: Path) -> None:
    class Unplugged(Exception):
        pass

    with pytest.raises(Unplugged), TraceWriter(tmp_path / "a.trace", HEADER, part_samples=100) as writer:
        writer.append(*ramp(0, 250))
        index, power_w = ramp(260, 40)
        writer.append(index, power_w)
        raise Unplugged
    info = traces.open_trace(tmp_path / "a.trace").info
    assert not info.complete
    assert (info.samples, info.dropped) == (290, 10)
    assert info.gaps == ((40.0 + 0.249, 40.26),)
    assert any("cut short" in w and "0.3 s" in w and "nominal rate" in w for w in info.warnings)
    assert traces.read_trace(tmp_path / "a.trace").power_w.size == 290


def test_facts_known_while_recording_survive(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "a.trace", HEADER) as writer:
        writer.append(*ramp(0, 10))
        writer.update(clock=CLOCK, dropped=4, gaps=((50.0, 50.1),), warnings=(TraceWarning("temperature", "noisy"),))
    info = traces.open_trace(tmp_path / "a.trace").info
    assert (info.clock, info.dropped, info.gaps) == (CLOCK, 4, ((50.0, 50.1),))
    assert info.warnings[0] == "noisy"
    assert "nominal rate" not in info.warnings[1]


KILLED = """
import sys
import numpy as np
from deepen.traces import TraceHeader, TraceWriter
writer = TraceWriter(sys.argv[1], TraceHeader("m", "c", "simulated", 1000.0), part_samples=1000, flush_s=0.1)
first = 0
while True:
    writer.append(np.arange(first, first + 50), np.full(50, 1.5))
    first += 50
    if first == 2500:
        print("go", flush=True)
"""


def test_what_was_written_survives_a_killed_process(tmp_path: Path) -> None:
    place = tmp_path / "a.trace"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(place)], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert child.stdout is not None
    assert child.stdout.readline() == b"go\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    back = traces.read_trace(place)
    assert back.t_s.size >= 500  # at most four parts wait for the disk
    assert back.t_s.size % 50 == 0
    assert set(back.power_w.tolist()) == {1.5}
    assert any("cut short" in w for w in back.warnings)


def test_a_part_that_the_manifest_does_not_know_yet_is_read(tmp_path: Path) -> None:
    place = tmp_path / "a.trace"
    with TraceWriter(place, HEADER, part_samples=100) as writer:
        writer.append(*ramp(0, 150))
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["parts"] = manifest["parts"][:1]
    manifest["parts"][0]["samples"] = 60  # written when the part was shorter
    manifest["parts"][0]["last"] = 59
    (place / "manifest.json").write_text(json.dumps(manifest))
    assert traces.read_trace(place).t_s.size == 150


def test_an_unfinished_part_is_written_in_time(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "a.trace", HEADER, flush_s=1.0) as writer:
        writer.append(*ramp(0, 900))
        writer.append(*ramp(900, 200))
        writer._await_writes(0)
        assert traces.open_trace(tmp_path / "a.trace").info.samples == 1100
        writer.append(*ramp(1100, 900))
        writer._await_writes(0)
        assert traces.open_trace(tmp_path / "a.trace").info.samples == 1100
        writer.finish(CLOCK)
    assert traces.open_trace(tmp_path / "a.trace").info.samples == 2000


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ((np.arange(3), np.ones(2)), "1-D and alike"),
        ((np.array([5, 5]), np.ones(2)), "must increase"),
        ((np.array([2, 3]), np.ones(2)), "went back after 9"),
        ((np.array([20.0]), np.ones(1)), "positions of type float64"),
        ((np.array([20]), np.array([np.nan])), "is not a number"),
        ((np.array([20]), np.ones(1), np.ones(1, np.uint8)), "logic inputs: False"),
    ],
)
def test_samples_that_are_none_are_refused(tmp_path: Path, samples: tuple[np.ndarray, ...], message: str) -> None:
    with TraceWriter(tmp_path / "a.trace", HEADER, part_samples=10) as writer:
        writer.append(*ramp(0, 10))
        with pytest.raises(MeasureError, match=message):
            writer.append(*samples)
        writer.finish(CLOCK)
        with pytest.raises(MeasureError, match="is closed"):
            writer.append(*ramp(10, 1))
    assert traces.read_trace(tmp_path / "a.trace").t_s.size == 10


def test_names_that_cannot_be_recorded_into(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.trace"):
        TraceWriter(tmp_path / "a.csv", HEADER)
    with pytest.raises(ConfigError, match="no folder"):
        TraceWriter(tmp_path / "none" / "a.trace", HEADER)
    TraceWriter(tmp_path / "a.trace", HEADER).close()
    with pytest.raises(ConfigError, match="exists"):
        TraceWriter(tmp_path / "a.trace", HEADER)


def test_a_full_disk_comes_out_of_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = TraceWriter(tmp_path / "a.trace", HEADER, part_samples=10)
    writer.append(*ramp(0, 10))
    writer._await_writes(0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trace_folder_writer, "write_table", full)
    with pytest.raises(StorageError, match="No space left on device"):
        writer.append(*ramp(10, 10))
        writer.close()
    monkeypatch.undo()
    assert traces.read_trace(tmp_path / "a.trace").t_s.size == 10
    assert not list((tmp_path / "a.trace").glob(".*"))


@pytest.mark.parametrize("name", ["manifest.json", "part-000000.parquet", "part-000001.parquet"])
def test_every_damaged_byte_is_noticed_or_harmless(tmp_path: Path, name: str) -> None:
    place = tmp_path / "a.trace"
    with TraceWriter(place, HEADER, part_samples=64) as writer:
        writer.append(*ramp(0, 128))
        writer.finish(CLOCK)
    good = traces.read_trace(place)
    whole = (place / name).read_bytes()
    rng = np.random.default_rng(3)
    for at in rng.choice(len(whole), 120, replace=False).tolist():
        torn = bytearray(whole)
        torn[at] ^= int(rng.integers(1, 256))
        (place / name).write_bytes(torn)
        try:
            back = traces.read_trace(place)
        except MeasureError:
            continue
        if name.startswith("part"):
            np.testing.assert_array_equal(back.power_w, good.power_w)
            np.testing.assert_array_equal(back.t_s, good.t_s)


def test_missing_and_foreign_parts_of_a_finished_trace_are_noticed(tmp_path: Path) -> None:
    place = tmp_path / "a.trace"
    with TraceWriter(place, HEADER, part_samples=64) as writer:
        writer.append(*ramp(0, 128))
        writer.finish(CLOCK)
    part = (place / "part-000001.parquet").read_bytes()
    (place / "part-000002.parquet").write_bytes(part)
    with pytest.raises(MeasureError, match="parts are not those of its manifest"):
        traces.read_trace(place)
    (place / "part-000002.parquet").unlink()
    (place / "part-000001.parquet").unlink()
    with pytest.raises(MeasureError, match="parts are not those of its manifest"):
        traces.read_trace(place)
    (place / "part-000001.parquet").write_bytes(part[: len(part) // 2])
    with pytest.raises(MeasureError, match="cannot be read as Parquet"):
        traces.read_trace(place)


def test_a_newer_or_foreign_manifest_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "a.trace"
    with TraceWriter(place, HEADER) as writer:
        writer.finish(CLOCK)
    manifest = json.loads((place / "manifest.json").read_text())
    for change, message in [
        ({"version": 2}, "update deepen"),
        ({"format": "x"}, "not written by deepen"),
        ({"source": "guessed"}, "facts are damaged"),
        ({"rate_hz": 0}, "facts are damaged"),
        ({"parts": [{"file": "../x", "samples": 1, "first": 0, "last": 0}]}, "not a plain file name"),
    ]:
        (place / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(MeasureError, match=message):
            traces.read_trace(place)
