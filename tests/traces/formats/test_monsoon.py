"""Monsoon CSV: bursts, the unit of time, losses; the real traces, and made ones whose times are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepen import traces
from deepen.errors import ConfigError, MeasureError

EPOCH_S = 1_756_255_121.0


def write_bursts(
    path: Path,
    seconds: float = 6.0,
    *,
    unit: float = 1e6,
    ppm: float = 0.0,
    burst: int = 128,
    lost: tuple[int, int] = (0, 0),
    calibration: int = 0,
    jitter_s: float = 2e-4,
) -> np.ndarray:
    """Write what the library writes of an instrument sampling at 5 kHz: reads of ``burst`` rows, stamped as looked at.

    Args:
        path: Where to.
        seconds: How long.
        unit: Stamps per second.
        ppm: How much the instrument's clock is slow.
        burst: Rows per read.
        lost: Position from which on samples are missing, and how many.
        calibration: Every how many samples one is taken for calibration and left out; 0 for never.
        jitter_s: Mean delay of a read.

    Returns:
        True times of the rows, seconds since 1970.
    """
    rng = np.random.default_rng(5)
    index = np.arange(round(seconds * 5000))
    true_s = EPOCH_S + index / 5000 * (1 + ppm * 1e-6)
    read = index // burst
    kept = (index < lost[0]) | (index >= sum(lost))
    if calibration:
        kept &= index % calibration != calibration // 2
    ready_s = np.array([true_s[min(last, index.size - 1)] for last in (np.arange(read[-1] + 1) + 1) * burst - 1])
    ready_s += rng.exponential(jitter_s, ready_s.size) + 5e-4
    stamps = ready_s[read] + 1e-6 * (index - read * burst)
    with path.open("w") as file:
        file.write("Time(ms),Main(mA),Main Voltage(V),\n")
        for t, i in zip(stamps[kept], index[kept], strict=True):
            file.write(f"{t * unit:.0f},{200 + 100 * (i // 500 % 2)},4.0,\n" if unit > 1 else f"{t:.6f},{200.0},4.0,\n")
    return true_s[kept]


def test_times_are_those_of_the_samples_and_not_of_their_bursts(tmp_path: Path) -> None:
    true_s = write_bursts(tmp_path / "a.csv", ppm=40)
    trace = traces.read_trace(tmp_path / "a.csv")
    assert (trace.dropped, trace.gaps, trace.rate_hz, trace.source) == (0, (), 5000.0, "measured")
    assert trace.clock is not None
    assert trace.clock.rate == pytest.approx(1 + 40e-6, abs=10e-6)
    assert np.abs(trace.t_s - true_s).max() < 5e-4
    assert np.abs(trace.t_s - true_s).max() < 3 * trace.clock.error_s
    np.testing.assert_allclose(np.unique(trace.power_w), [0.8, 1.2])
    assert any("reads of about 128" in w and "µs" in w for w in trace.warnings)


@pytest.mark.parametrize(("unit", "name"), [(1.0, "(s)"), (1e3, "(ms)"), (1e6, "(µs)"), (1e9, "(ns)")])
def test_the_unit_of_time_is_found_and_not_believed(tmp_path: Path, unit: float, name: str) -> None:
    true_s = write_bursts(tmp_path / "a.csv", 2.0, unit=unit)
    trace = traces.read_trace(tmp_path / "a.csv")
    assert np.abs(trace.t_s - true_s).max() < 2e-3
    assert any(name in w for w in trace.warnings)


def test_samples_lost_without_a_word_are_found_and_placed(tmp_path: Path) -> None:
    true_s = write_bursts(tmp_path / "a.csv", 8.0, lost=(20_000, 300), jitter_s=5e-5)
    trace = traces.read_trace(tmp_path / "a.csv")
    assert abs(trace.dropped - 300) <= 5
    start_s, end_s = trace.gaps[0][0], trace.gaps[-1][1]
    assert end_s - start_s < 0.1
    assert start_s - 1e-3 <= true_s[19_999] < true_s[20_000] <= end_s + 1e-3
    outside = (trace.t_s < start_s) | (trace.t_s > end_s)
    assert np.abs(trace.t_s - true_s)[outside].max() < 1e-3


def test_samples_taken_for_calibration_are_gaps_and_no_losses(tmp_path: Path) -> None:
    true_s = write_bursts(tmp_path / "a.csv", 8.0, calibration=1250, jitter_s=5e-5)
    trace = traces.read_trace(tmp_path / "a.csv")
    assert trace.dropped == 0
    assert len(trace.gaps) == 32
    assert any("32 rows are missing from full reads" in w for w in trace.warnings)
    assert np.abs(trace.t_s - true_s).max() < 1e-3


def test_thinned_out_rows_and_single_stamps_are_read(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w") as file:
        file.write("Time(ms),Main(mA)\n")
        for k in range(3000):
            file.write(f"{k * 2e-3:.6f},{100}\n")  # every tenth row, in seconds
    trace = traces.read_trace(tmp_path / "a.csv", voltage_v="4.2")
    assert trace.rate_hz == 500.0
    assert np.diff(trace.t_s) == pytest.approx(2e-3)
    assert trace.power_w == pytest.approx(0.42)


def test_pieces_are_those_of_the_whole(tmp_path: Path) -> None:
    write_bursts(tmp_path / "a.csv", 2.0, lost=(3000, 500), calibration=1250)
    whole = traces.read_trace(tmp_path / "a.csv")
    pieces = list(traces.read_chunks(tmp_path / "a.csv", 777))
    np.testing.assert_array_equal(np.concatenate([p.t_s for p in pieces]), whole.t_s)
    assert sum(p.dropped for p in pieces) == whole.dropped
    assert [g for p in pieces for g in p.gaps] == list(whole.gaps)


HEAD = "Time(ms),Main(mA),Main Voltage(V),\n"


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        (HEAD, {}, MeasureError, "has no rows"),
        (HEAD + "1,2,3,\n1,2,3,\n", {}, MeasureError, "no trace; record for longer"),
        (HEAD + "5,2,3,\n4,2,3,\n", {}, MeasureError, "time goes back at row 2"),
        (HEAD + "5,2,3,\n6,,3,\n", {}, MeasureError, "row 2 lacks a number"),
        (HEAD + "5,2,3,\n6,x,3,\n", {}, MeasureError, r"row 2, column 'Main\(mA\)'"),
        (HEAD + "5,2,3,\n6,2,3,\n", {"voltage_v": "4"}, ConfigError, "is not needed"),
        (HEAD + "0,2,3,\n2000,2,3,\n", {"rate_hz": "17"}, ConfigError, "not rate_hz=17"),
        ("Time(ms),Main(mA)\n1,2\n2,3\n", {}, ConfigError, "say voltage_v=VOLTS"),
        ("Time(ms),Main(mA)\n1,2\n2,3\n", {"voltage_v": "-4"}, ConfigError, "above zero, not '-4'"),
        ("Time(ms),Main(mA)\n0,2\n0.00028,3\n", {"voltage_v": "4"}, ConfigError, "no fraction of the native 5000"),
    ],
)
def test_files_that_are_no_trace(
    tmp_path: Path, text: str, options: dict[str, str], error: type[Exception], message: str
) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(error, match=message):
        traces.read_trace(tmp_path / "a.csv", **options)


def test_the_real_traces_read_with_true_times_and_stated_loss(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "monsoon_traces"
    files = sorted([folder / "baseline.csv", *folder.rglob("*_power.csv")])
    assert len(files) == 6
    for file in files:
        stamps_s = np.loadtxt(file, delimiter=",", skiprows=1, usecols=0) / 1e6
        trace = traces.read_trace(file)
        assert trace.t_s.size == stamps_s.size
        assert trace.clock is not None
        # Every sample comes in after it was taken, at most one read of 128 and the delay of a read later.
        delay_s = stamps_s - trace.t_s
        assert delay_s.min() > -1e-3
        assert np.quantile(delay_s, 0.99) < 0.0256 + 0.012
        assert np.diff(trace.t_s).min() > 1.9e-4
        # The stamps alone give the same number of samples per second, on the whole.
        span_s = float(stamps_s[-1] - stamps_s[0])
        assert trace.t_s[-1] - trace.t_s[0] == pytest.approx(span_s, abs=0.015)
        assert 0 < trace.dropped < 0.005 * trace.t_s.size
        # One sample in 1250 goes to calibration.
        calibrations = [g for g in trace.gaps if g[1] - g[0] < 6e-4]
        assert len(calibrations) == pytest.approx(trace.t_s.size / 1250, abs=10)
        assert trace.power_w.mean() == pytest.approx(
            np.loadtxt(file, delimiter=",", skiprows=1, usecols=(1, 2)).prod(1).mean() / 1e3
        )


def test_the_inferences_of_the_real_traces_lie_inside_them(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "monsoon_traces"
    for file in sorted(folder.rglob("*_inference_time.csv")):
        found = traces.read_windows(file)
        info = traces.open_trace(file.with_name(file.name.replace("_inference_time", "_power"))).info
        assert len(found) > 199
        assert all(info.start_s < w.interval.start_s < w.interval.end_s < info.end_s for w in found)
