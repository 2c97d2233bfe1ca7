"""Writing finished traces, reading them whole or in pieces, and what identifies them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepen import traces
from deepen.errors import ConfigError, MeasureError, StorageError
from deepen.records import PowerTrace
from deepen.traces import write_file

Make = Callable[..., PowerTrace]
Same = Callable[[PowerTrace, PowerTrace], None]


@pytest.mark.parametrize("suffix", traces.SUFFIXES)
@pytest.mark.parametrize("logic", [True, False])
@pytest.mark.parametrize("sampling", ["point", "mean"])
def test_a_trace_comes_back_to_the_last_bit(
    tmp_path: Path, make_trace: Make, same: Same, suffix: str, logic: bool, sampling: str
) -> None:
    inputs = (np.arange(1000) % 256).astype(np.uint8) if logic else None
    trace = make_trace(logic=inputs, sampling=sampling)
    path = traces.write_trace(trace, tmp_path / f"a{suffix}")
    same(traces.read_trace(path), trace)
    opened = traces.open_trace(path)
    assert (opened.info.samples, opened.info.start_s, opened.info.end_s) == (1000, trace.t_s[0], trace.t_s[-1])
    assert (opened.info.logic, opened.info.complete) == (logic, True)
    assert traces.hash_trace(opened) == traces.hash_trace(trace)
    assert opened.windows() == ()


finite = st.floats(-1e6, 1e6)
irregular = st.lists(st.floats(0, 1e9), min_size=1, max_size=60, unique=True).map(sorted)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(times=irregular, rate_hz=st.sampled_from([0.0, 1.0, 3.7, 5000.0]), data=st.data())
def test_any_times_come_back(
    tmp_path_factory: pytest.TempPathFactory, same: Same, times: list[float], rate_hz: float, data: st.DataObject
) -> None:
    power = data.draw(st.lists(finite, min_size=len(times), max_size=len(times)))
    trace = PowerTrace(np.array(times), np.array(power), rate_hz, 'm,\n"x"', "ü", "modelled", dropped=1)
    for suffix in traces.SUFFIXES:
        path = traces.write_trace(trace, tmp_path_factory.mktemp("t") / f"a{suffix}")
        same(traces.read_trace(path), trace)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(1, 1200),
    suffix=st.sampled_from(traces.SUFFIXES),
    window=st.tuples(st.floats(-0.1, 0.3), st.floats(-0.1, 0.3)).map(sorted),
)
def test_pieces_add_up_to_the_whole(
    tmp_path_factory: pytest.TempPathFactory, make_trace: Make, size: int, suffix: str, window: list[float]
) -> None:
    trace = make_trace(gaps=((104_319.12, 104_319.13), (104_319.2, 104_319.25)), dropped=7)
    path = traces.write_trace(trace, tmp_path_factory.mktemp("t") / f"a{suffix}")
    pieces = list(traces.read_chunks(path, size))
    assert [p.t_s.size for p in pieces[:-1]] == [size] * (len(pieces) - 1)
    np.testing.assert_array_equal(np.concatenate([p.t_s for p in pieces]), trace.t_s)
    np.testing.assert_array_equal(np.concatenate([p.power_w for p in pieces]), trace.power_w)
    assert tuple(g for p in pieces for g in p.gaps) == trace.gaps
    assert sum(p.dropped for p in pieces) == 7
    start_s, end_s = (trace.t_s[0] + w for w in window)
    some = list(traces.read_chunks(path, size, start_s=start_s, end_s=end_s))
    inside = (trace.t_s >= start_s) & (trace.t_s <= end_s)
    np.testing.assert_array_equal(np.concatenate([[], *(p.t_s for p in some)]), trace.t_s[inside])


def test_pieces_need_a_size(tmp_path: Path, make_trace: Make) -> None:
    path = traces.write_trace(make_trace(), tmp_path / "a.json")
    with pytest.raises(ConfigError, match="at least one sample"):
        list(traces.read_chunks(path, 0))


def test_positions_are_stored_where_they_give_the_times_back(tmp_path: Path, make_trace: Make) -> None:
    def stored(trace: PowerTrace) -> str:
        place = traces.write_trace(trace, tmp_path / "a.trace")
        return str(json.loads((place / "manifest.json").read_text())["times"])

    assert stored(make_trace()) == "index"
    assert stored(make_trace(clock=None)) == "index"
    shifted = make_trace()
    assert stored(replace(shifted, t_s=shifted.t_s + 1e-5)) == "stamps"


def test_power_can_be_stored_in_half_the_bytes(tmp_path: Path, make_trace: Make) -> None:
    trace = make_trace()
    back = traces.read_trace(traces.write_trace(trace, tmp_path / "a.parquet", precision="float32"))
    np.testing.assert_allclose(back.power_w, trace.power_w, rtol=6.1e-8)
    assert (back.power_w != trace.power_w).any()


def test_csv_is_plain_to_other_programs(tmp_path: Path, make_trace: Make) -> None:
    trace = make_trace(3)
    with traces.write_trace(trace, tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["t_s"]) for r in rows] == trace.t_s.tolist()
    assert [float(r["power_w"]) for r in rows] == trace.power_w.tolist()
    assert {(r["meter"], r["source"]) for r in rows} == {("lvpm", "simulated")}


def test_facts_of_any_length_fit_into_csv(tmp_path: Path, make_trace: Make, same: Same) -> None:
    gaps = tuple((float(k), k + 0.5) for k in range(20_000))
    trace = make_trace(gaps=gaps, dropped=40_000)
    same(traces.read_trace(traces.write_trace(trace, tmp_path / "a.csv")), trace)


def test_csv_written_before_facts_were_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t_s,power_w,meter,source\n1.0,2.5,rapl,modelled\n1.5,3.5,rapl,modelled\n")
    trace = traces.read_trace(tmp_path / "a.csv")
    assert (trace.meter_id, trace.source, trace.rate_hz) == ("rapl", "modelled", 2.0)
    assert trace.power_w.tolist() == [2.5, 3.5]
    assert trace.warnings == ()


@pytest.mark.parametrize("suffix", traces.SUFFIXES)
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, make_trace: Make, same: Same, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_trace(50)
    path = traces.write_trace(old, tmp_path / f"a{suffix}")
    with pytest.raises(MeasureError, match="is not a number"):
        traces.write_trace(make_trace(5, power_w=np.array([1, 2, np.nan, 4, 5])), path)
    monkeypatch.setattr(Path, "replace", _full_disk)
    monkeypatch.setattr(Path, "rename", _full_disk)
    with pytest.raises(StorageError, match=r"No space left on device; free space"):
        traces.write_trace(make_trace(60), path)
    monkeypatch.undo()
    same(traces.read_trace(path), old)
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]
    traces.write_trace(make_trace(60), path)
    assert traces.read_trace(path).t_s.size == 60
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]


def _full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_stored_trace_is_copied_piece_by_piece(
    tmp_path: Path, make_trace: Make, same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_file, "CHUNK", 64)
    trace = make_trace()
    path = traces.write_trace(trace, tmp_path / "a.json")
    for suffix in traces.SUFFIXES:
        path = traces.write_trace(traces.open_trace(path), tmp_path / f"b{suffix}")
        same(traces.read_trace(path), trace)


def test_names_that_cannot_be_written(tmp_path: Path, make_trace: Make) -> None:
    with pytest.raises(ConfigError, match=r"name a \.trace, \.parquet, \.csv or \.json file"):
        traces.write_trace(make_trace(), tmp_path / "a.xlsx")
    with pytest.raises(ConfigError, match="no folder"):
        traces.write_trace(make_trace(), tmp_path / "none" / "a.csv")
    (tmp_path / "a.trace").mkdir()
    (tmp_path / "a.trace" / "precious").touch()
    with pytest.raises(ConfigError, match="is no trace"):
        traces.write_trace(make_trace(), tmp_path / "a.trace")
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        traces.write_trace(make_trace(), tmp_path / "a.csv")
    assert (tmp_path / "a.trace" / "precious").exists()


def test_a_trace_without_samples_is_kept_but_not_as_csv(tmp_path: Path, make_trace: Make, same: Same) -> None:
    empty = make_trace(0)
    for suffix in (".trace", ".parquet", ".json"):
        same(traces.read_trace(traces.write_trace(empty, tmp_path / f"a{suffix}")), empty)
    with pytest.raises(MeasureError, match=r"write a \.trace"):
        traces.write_trace(empty, tmp_path / "a.csv")


def test_the_hash_tells_traces_apart(make_trace: Make) -> None:
    trace = make_trace()
    other = trace.power_w.copy()
    other[500] = np.nextafter(other[500], 9)
    hashes = {
        traces.hash_trace(t)
        for t in (
            trace,
            replace(trace, power_w=other),
            replace(trace, source="measured"),
            replace(trace, dropped=4),
            replace(trace, gaps=()),
            replace(trace, t_s=trace.t_s + 1),
            replace(trace, logic=np.zeros(1000, np.uint8)),
        )
    }
    assert len(hashes) == 7
    assert traces.hash_trace(make_trace()) == traces.hash_trace(trace)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_a_torn_file_is_an_error_or_says_so(tmp_path: Path, make_trace: Make, suffix: str) -> None:
    trace = make_trace(300)
    whole = traces.write_trace(trace, tmp_path / f"a{suffix}").read_bytes()
    place = tmp_path / f"b{suffix}"
    for at in np.random.default_rng(1).integers(1, len(whole) - 1, 150).tolist():
        place.write_bytes(whole[:at])
        try:
            back = traces.read_trace(place)
        except MeasureError as error:
            assert "\n" not in str(error)
        else:
            assert suffix == ".csv"
            assert back.t_s.size < 300 or back.warnings != trace.warnings


def test_a_csv_that_lost_its_end_says_so(tmp_path: Path, make_trace: Make) -> None:
    trace = make_trace(300)
    lines = traces.write_trace(trace, tmp_path / "a.csv").read_text().splitlines(keepends=True)
    (tmp_path / "b.csv").write_text("".join(lines[:200]))
    assert any("cut short" in w for w in traces.read_trace(tmp_path / "b.csv").warnings)
