"""CSV of other programs: declared units, PPK2, Joulescope, PTDaemon, and interval files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from deepen import traces
from deepen.errors import ConfigError, MeasureError


def place(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("t_s,power_w", "0,1.5\n0.5,2.5\n1,3.5\n"),
        ("time_ms,Power (mW)", "0,1500\n500,2500\n1000,3500\n"),
        ("Timestamp [us];P [W]", "0;1.5\n500000;2.5\n1000000;3.5\n"),
        ("elapsed time (s)\tpower_mw\tnote", "0\t1500\tx\n0.5\t2500\t\n1\t3500\tz\n"),
        ("time_s,current_ma,voltage_v", "0,300,5\n.5,500,5\n1,700,5\n"),
        ("Time (s),Current (uA),Voltage (mV)", "0,300000,5000\n0.5,500000,5000\n1,700000,5000\n"),
        ("\ufefft_s,p_kW", "0,0.0015\n0.5,0.0025\n1,0.0035\n"),
        ("t_s,power_w", "0,1.5\r\n0.5,2.5\r\n1,3.5\r\n"),
    ],
)
def test_units_are_read_from_the_header(tmp_path: Path, header: str, rows: str) -> None:
    trace = traces.read_trace(place(tmp_path, f"{header}\n{rows}"))
    np.testing.assert_allclose(trace.t_s, [0, 0.5, 1.0], rtol=1e-15)
    np.testing.assert_allclose(trace.power_w, [1.5, 2.5, 3.5], rtol=1e-15)
    assert (trace.rate_hz, trace.dropped, trace.meter_id) == (2.0, 0, "a")
    assert any("does not say where its numbers come from" in w for w in trace.warnings)


def test_units_are_told_where_the_header_declares_none(tmp_path: Path) -> None:
    path = place(tmp_path, "stamp,P1,P2\n10,5,7\n20,6,8\n")
    trace = traces.read_trace(path, time="stamp:ms", power="P2:uW", source="simulated", meter="scope")
    assert trace.t_s.tolist() == [0.01, 0.02]
    np.testing.assert_allclose(trace.power_w, [7e-6, 8e-6])
    assert (trace.source, trace.meter_id, trace.warnings) == ("simulated", "scope", ())
    numbered = traces.read_trace(path, rate_hz="50", current="P1:mA", voltage_v="2")
    assert numbered.t_s.tolist() == [0.0, 0.02]
    np.testing.assert_allclose(numbered.power_w, [0.01, 0.012])


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        ("t_s,power", {}, r"no column declares a power or a current \(t_s, power\); say power=COLUMN:UNIT"),
        ("t,power_w", {}, "no column declares a time"),
        ("t_s,p_MW", {"power": "p_MW:MW"}, "unit of W, mW"),
        ("t_s,P (MW)", {}, "no column declares a power"),
        ("t_s,x", {"power": "y:W"}, "has 0 columns 'y'; its columns: t_s, x"),
        ("t_s,x", {"power": "x"}, "write power=COLUMN:UNIT"),
        ("t_s,power_w,p_mw", {}, "several columns declare a power"),
        ("t_s,current_a", {}, "current without a voltage is no power"),
        ("t_s,power_w", {"voltage_v": "3"}, "voltage_v is not needed"),
        ("t_s,i_a,u_v", {"voltage_v": "3"}, "voltage_v only where there is no column"),
        ("t_s,current_a", {"voltage_v": "three"}, "above zero, not 'three'"),
        ("t_s,power_w", {"source": "guessed"}, "measured, modelled or simulated, not 'guessed'"),
        ("t_s,power_w", {"run": "1"}, "read as 'csv', which has no option 'run'"),
    ],
)
def test_what_is_not_declared_is_asked_for(tmp_path: Path, header: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        traces.read_trace(
            place(tmp_path, f"{header}\n0,1,1\n1,2,2\n" if header.count(",") > 1 else f"{header}\n0,1\n1,2\n"),
            **options,
        )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "has no rows"),
        ("0,1\n1,x\n2,3\n", "row 2, column 'power_w'"),
        ("0,1\n1,2,3\n2,3\n", "row 2: Expected 2 columns, got 3"),
        ("0,1\n2,2\n1,3\n", r"the time of row 3 \(1 s\) goes back"),
        ("0,1\n1,2\n1,3\n", r"the time of row 3 \(1 s\) repeats; .* give the sample rate"),
        ("0,1\n,2\n2,3\n", "row 2 .* is no number"),
        ("inf,1\n", "is no number"),
        ("0,nan\n1,\n", "no rows with a value"),
    ],
)
def test_rows_that_are_no_samples_are_named(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        traces.read_trace(place(tmp_path, f"t_s,power_w\n{rows}"))


def test_a_mistake_deep_in_a_file_is_counted_from_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepen.traces.csv_columns._BLOCK", 100)
    rows = "".join(f"{k},{k}\n" for k in range(500))
    path = place(tmp_path, f"t_s,power_w\n{rows}500,oops\n501,3\n")
    with pytest.raises(MeasureError, match=r"row 501, column 'power_w'.*'oops'"):
        traces.read_trace(path)
    path = place(tmp_path, f"t_s,power_w\n{rows}")
    assert traces.read_trace(path).power_w.tolist() == list(range(500))
    with pytest.raises(MeasureError, match="a line of more than 100 bytes"):
        traces.read_trace(place(tmp_path, f"t_s,power_w\n{rows}{'9' * 400}\n"))


def test_a_cut_last_line_is_left_out_or_doubted(tmp_path: Path) -> None:
    torn = traces.read_trace(place(tmp_path, "t_s,power_w\n0,1\n1,2\n2"))
    assert torn.power_w.tolist() == [1.0, 2.0]
    assert "the last line is cut short and was left out" in torn.warnings
    doubted = traces.read_trace(place(tmp_path, "t_s,power_w\n0,1\n1,2"))
    assert doubted.power_w.tolist() == [1.0, 2.0]
    assert any("its last value may be wrong" in w for w in doubted.warnings)


def test_missing_rows_and_values_of_a_regular_series_are_lost(tmp_path: Path) -> None:
    rows = [f"{k / 100},{'' if k in (50, 51) else 1}" for k in range(100) if not 20 <= k < 25]
    trace = traces.read_trace(place(tmp_path, "t_s,power_w\n" + "\n".join(rows) + "\n"))
    assert trace.dropped == 7
    assert trace.gaps == (pytest.approx((0.19, 0.25)), pytest.approx((0.49, 0.52)))
    assert trace.rate_hz == pytest.approx(100.0)
    assert any("2 rows have no value" in w for w in trace.warnings)
    assert any("2 gaps, 7 samples lost (7.000%)" in w for w in trace.warnings)


def test_a_polled_series_has_no_gaps_but_says_why(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(0).exponential(0.1, 200))
    trace = traces.read_trace(place(tmp_path, "t_s,power_w\n" + "".join(f"{t},1\n" for t in times)))
    assert (trace.dropped, trace.gaps) == (0, ())
    assert any("times are irregular" in w for w in trace.warnings)


PPK2 = "Timestamp(ms),Current(uA)"


def test_ppk2_exports_with_and_without_inputs(tmp_path: Path) -> None:
    rows = [(k * 0.01, 1000.0 + k) for k in range(300) if not 100 <= k < 107]
    bare = place(tmp_path, PPK2 + "\n" + "".join(f"{t:.2f},{i:.3f}\n" for t, i in rows))
    trace = traces.read_trace(bare, voltage_v="3.3")
    assert trace.rate_hz == pytest.approx(1e5)
    assert trace.power_w[0] == pytest.approx(3.3e-3)
    assert (trace.dropped, len(trace.gaps)) == (7, 1)
    assert trace.logic is None
    joined = place(tmp_path, PPK2 + ",D0-D7\n0,1,10000001\n0.01,2,0X00000-\n")
    apart = place(tmp_path, PPK2 + ",D0,D1,D2,D3,D4,D5,D6,D7\n0,1,1,0,0,0,0,0,0,1\n0.01,2,0,1,0,0,0,0,0,0\n")
    assert traces.read_trace(apart, voltage_v="3").logic.tolist() == [0b10000001, 0b10]  # type: ignore[union-attr]
    place(tmp_path, PPK2 + ",D0-D7\n0,1,10000001\n0.01,2,0X00000-\n")
    unsure = traces.read_trace(joined, voltage_v="3")
    assert unsure.logic is not None
    assert unsure.logic.tolist() == [0b10000001, 0b10]
    assert any("undecided" in w for w in unsure.warnings)


def test_ppk2_needs_a_voltage_and_sane_inputs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"measures no voltage; say voltage_v=VOLTS"):
        traces.read_trace(place(tmp_path, PPK2 + "\n0,1\n"))
    with pytest.raises(MeasureError, match="eight characters"):
        traces.read_trace(place(tmp_path, PPK2 + ",D0-D7\n0,1,101\n"), voltage_v="3")
    with pytest.raises(MeasureError, match="neither 0, 1, X nor -"):
        traces.read_trace(place(tmp_path, PPK2 + ",D0-D7\n0,1,10000002\n"), voltage_v="3")
    with pytest.raises(MeasureError, match="no rows"):
        traces.read_trace(place(tmp_path, PPK2 + "\n"), voltage_v="3")


def test_joulescope_csv_of_samples_and_of_statistics(tmp_path: Path) -> None:
    samples = place(tmp_path, "#time (s),current (A),voltage (V)\n0,0.1,5\n0.001,NaN,NaN\n0.002,0.3,5\n")
    trace = traces.read_trace(samples)
    assert trace.power_w.tolist() == [0.5, 1.5]
    assert (trace.sampling, trace.dropped) == ("point", 1)
    statistics = place(tmp_path, "#time,current,voltage,power,charge,energy\n0.5,1,5,4.9,0,0\n1.0,1,5,5.1,1,2\n")
    trace = traces.read_trace(statistics)
    assert trace.power_w.tolist() == [4.9, 5.1]
    assert (trace.sampling, trace.meter_id) == ("mean", "joulescope")


def test_joulescope_recordings(tmp_path: Path) -> None:
    pyjls = pytest.importorskip("pyjls", reason="pyjls is not installed (pip install 'deepen[joulescope]')")
    path = tmp_path / "a.jls"
    current = np.full(5000, 0.25, np.float32)
    current[1000:1010] = np.nan
    with pyjls.Writer(str(path)) as writer:
        writer.source_def(1, "js220", "Jetperch", "JS220", "1", "000001")
        for signal, (name, unit) in enumerate([("current", "A"), ("voltage", "V")], start=1):
            writer.signal_def(signal, 1, sample_rate=10_000, name=name, units=unit)
        writer.fsr_f32(1, 0, current)
        writer.fsr_f32(2, 0, np.full(5000, 4.0, np.float32))
    trace = traces.read_trace(path)
    assert (trace.t_s.size, trace.rate_hz, trace.dropped) == (4990, 10_000.0, 10)
    assert trace.gaps == (pytest.approx((0.0999, 0.101)),)
    assert set(trace.power_w.tolist()) == {1.0}
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(MeasureError, match="cannot be read by pyjls"):
        traces.read_trace(path)


def ptd(*rows: tuple[str, float, str]) -> str:
    return "".join(f"Time,{t},Watts,{w:.6f},Volts,228.4,Amps,0.2,PF,0.5,Mark,{m}\n" for t, w, m in rows)


def test_ptdaemon_logs_with_their_marks(tmp_path: Path) -> None:
    trace_path = place(
        tmp_path,
        ptd(
            ("12-23-2020 10:21:59.500", 23.4, "notset"),
            ("12-23-2020 10:22:00.505", 33.5, "testing"),
            ("12-23-2020 10:22:01.514", 41.3, "testing"),
            ("12-23-2020 10:22:02.507", -1.0, "testing"),
            ("12-23-2020 10:22:03.499", 42.7, "notset"),
        ),
    )
    trace = traces.read_trace(trace_path)
    assert np.diff(trace.t_s) == pytest.approx([1.005, 1.009, 1.985], abs=1e-6)
    assert (trace.sampling, trace.dropped, trace.t_s[0]) == ("mean", 1, 1_608_718_919.5)
    (window,) = traces.read_windows(trace_path)
    assert window.interval.label == "testing"
    assert window.interval.duration_s == pytest.approx(2.002)
    with pytest.raises(MeasureError, match="row 2: 'yesterday' is no time"):
        traces.read_trace(place(tmp_path, ptd(("12-23-2020 10:21:59", 1, "a"), ("yesterday", 2, "a"))))
    with pytest.raises(MeasureError, match="goes back"):
        traces.read_trace(place(tmp_path, ptd(("12-23-2020 10:21:59", 1, "a"), ("12-23-2020 10:21:58", 2, "a"))))


def test_interval_files(tmp_path: Path) -> None:
    found = traces.read_windows(
        place(tmp_path, "start_s, end_s ,label,runs,energy_j\n1,2.5,run,10,0.5\n3,4,idle,,\n\n")
    )
    assert [(w.interval.start_s, w.interval.end_s, w.interval.label, w.interval.runs) for w in found] == [
        (1.0, 2.5, "run", 10),
        (3.0, 4.0, "idle", 0),
    ]
    assert found[0].energy_j == 0.5
    assert math.isnan(found[1].energy_j)
    logged = traces.read_windows(
        place(tmp_path, "inference_index,start_us,end_us,duration_us\n7,1756315092875840,1756315092885810,9970\n")
    )
    assert logged[0].interval.start_s == 1756315092.875840
    assert logged[0].interval.label == "7"
    assert [w.interval.label for w in traces.read_windows(place(tmp_path, "start_s,end_s\n0,1\n1,2\n"))] == ["0", "1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start_s,end_s\n", "has no rows"),
        ("start_s,end_s\n1,2\n2,x\n", "line 3: could not convert"),
        ("start_s,end_s\n1,2\n2\n", "line 3: end_s is ''"),
        ("start_s,end_s\n2,1\n", "line 2: interval '0' ends before it starts"),
        ("start_s,end_s\n0,inf\n", "line 2: end_s is 'inf'"),
        ("start_s,end_s,runs\n0,1,few\n", "line 2: invalid literal"),
    ],
)
def test_interval_files_with_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        traces.read_windows(place(tmp_path, text))
