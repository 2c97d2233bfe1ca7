from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepen import catalog
from deepen.errors import ConfigError, MeterError
from deepen.meters import open_meter
from deepen.meters.instruments.profile_file import ProfileTable
from deepen.meters.instruments.text_lines.driver import DRIVER, LineInstrument, LineProfile
from deepen.meters.instruments.text_lines.parser import LineFormat, LineParser
from deepen.meters.stream.types import Instrument, Samples
from deepen.meters.types import MeterContext, MeterSpec
from deepen.records import PowerTrace
from deepen.testing.instruments.faults import FAULT_MAKERS, LoseFrames
from deepen.testing.instruments.line import LinePrinter
from deepen.testing.instruments.pty import serve_emulator
from deepen.testing.instruments.signal import BlockSignal, StepSignal

Connect = Callable[..., Any]
WINDOWS = [(1004.0, 1005.0), (1007.0, 1008.5)]


def form(**data: Any) -> LineFormat:
    table = ProfileTable("here", data)
    found = LineFormat.read(table)
    table.end()
    return found


COUNTED = form(columns=["counter", "power"], units={"power": "mW"})
TIMED = form(columns=["time", "power"], units={"time": "ms", "power": "W"})
PLAIN = form(columns=["power"], units={"power": "W"})


def parse(fmt: LineFormat, text: str, **options: Any) -> tuple[LineParser, Samples]:
    parser = LineParser(fmt, 10.0, **options)
    return parser, parser.feed(("lead in\n" + text).encode())


class TestParser:
    def test_columns_with_units(self):
        _, samples = parse(COUNTED, "5,1500\n6,2500.5\r\n")
        assert samples.index.tolist() == [0, 1]
        assert samples.power_w.tolist() == pytest.approx([1.5, 2.5005])

    def test_a_pattern_with_named_groups(self):
        fmt = form(pattern=r"I=(?P<current>\S+) U=(?P<voltage>\S+).*", units={"current": "uA", "voltage": "mV"})
        _, samples = parse(fmt, "I=2000 U=5000 ok\n")
        assert samples.power_w.tolist() == pytest.approx([0.01])

    def test_columns_apart_by_white_space_with_a_comma_in_numbers(self):
        fmt = form(columns=["-", "power"], units={"power": "W"}, separator="", decimal=",")
        assert parse(fmt, "x   1,25 \n")[1].power_w.tolist() == [1.25]

    def test_current_alone_takes_the_voltage_given(self):
        fmt = form(columns=["current"], units={"current": "A"})
        assert parse(fmt, "0.5\n", voltage_v=5.0)[1].power_w.tolist() == [2.5]

    def test_energy_of_a_period(self):
        fmt = form(columns=["energy"], units={"energy": "mJ"})
        assert parse(fmt, "100\n")[1].power_w.tolist() == pytest.approx([1.0])

    def test_a_running_total_keeps_its_energy_over_lost_lines(self):
        fmt = form(columns=["counter", "energy_total"], units={"energy_total": "J"})
        parser, samples = parse(fmt, "0,10.0\n1,10.1\n4,10.7\n5,10.8\n")
        assert samples.index.tolist() == [1, 4, 5]
        assert samples.power_w.tolist() == pytest.approx([1.0, 2.0, 1.0])
        assert parser.tally.lost == 2

    def test_a_total_that_goes_back_is_left_out(self):
        fmt = form(columns=["energy_total"], units={"energy_total": "Wh"})
        parser, samples = parse(fmt, "1\n1.001\n0.2\n0.201\n")
        assert samples.index.tolist() == [1, 3]
        assert samples.power_w.tolist() == pytest.approx([36.0, 36.0])
        assert parser.tally.ambiguous == 1

    @pytest.mark.parametrize(("wrong", "alone"), [("10.2", [36.0] * 9), ("1.02", [36.0] * 9), ("99", [36.0] * 9)])
    def test_a_total_that_was_damaged_leaves_the_others_right(self, wrong: str, alone: list[float]):
        fmt = form(columns=["energy_total"], units={"energy_total": "Wh"})
        totals = [f"{5 + k / 1000:.3f}" for k in range(11)]
        totals[6] = wrong
        parser, samples = parse(fmt, "".join(t + "\n" for t in totals))
        doubtful = {k for a, b in parser.doubts for k in range(a + 1, b)}
        sure = [w for k, w in zip(samples.index.tolist(), samples.power_w.tolist(), strict=True) if k not in doubtful]
        assert sure == pytest.approx(alone)
        assert parser.tally.ambiguous == 1

    def test_a_line_written_like_no_other_is_a_gap(self):
        lines = [f"{k},{1000 + 7 * k % 100}.{k % 10}{k * 3 % 10}\n" for k in range(300)]
        lines[200] = "200,1312\n"  # two digits and the point are gone
        parser, samples = parse(COUNTED, "".join(lines))
        assert parser.doubts == [(199, 201)]
        assert parser.tally.corrupt == 1
        assert samples.index.tolist() == list(range(300))

    @pytest.mark.parametrize("style", ["{:.4g}", "{:g}", "{:.3e}", "{:.2f}"])
    def test_numbers_that_are_written_as_they_come_are_no_damage(self, style: str):
        rng = np.random.default_rng(5)
        lines = [f"{k},{style.format(x)}\n" for k, x in enumerate(rng.uniform(0.5, 20.0, 3000).tolist())]
        parser, samples = parse(COUNTED, "".join(lines))
        assert samples.index.size == 3000
        assert len(parser.doubts) <= 12
        assert not [d for d in parser.doubts if d[0] > 2500]

    def test_a_display_that_changes_its_range_is_believed_once_it_stays(self):
        lines = [f"{k},{1.234 if k < 100 else 12.34 if k < 200 else 5.678:.{3 if k < 100 or k >= 200 else 2}f}\n"
                 for k in range(300)]  # fmt: skip
        parser, _ = parse(COUNTED, "".join(lines))
        assert parser.doubts == []

    def test_a_counter_tells_lost_lines_once_the_next_line_agrees(self):
        parser = LineParser(COUNTED, 10.0)
        assert parser.feed(b"\n5,1\n9,1\n").index.tolist() == [0]
        assert parser.feed(b"10,1\n").index.tolist() == [4, 5]
        assert parser.tally.lost == 3

    def test_a_damaged_counter_costs_its_own_line_only(self):
        parser, samples = parse(COUNTED, "5,1\n9996,1\n7,1\n8,1\n")
        assert samples.index.tolist() == [0, 2, 3]
        assert (parser.tally.lost, parser.tally.corrupt) == (1, 1)

    def test_a_counter_that_wraps(self):
        fmt = form(columns=["counter", "power"], units={"power": "W"}, counter_modulus=256)
        parser, samples = parse(fmt, "254,1\n255,1\n0,1\n1,1\n4,1\n5,1\n")
        assert samples.index.tolist() == [0, 1, 2, 3, 6, 7]
        assert parser.tally.lost == 2

    def test_lines_that_come_twice_count_once(self):
        parser, samples = parse(COUNTED, "5,1\n5,1\n6,1\n")
        assert samples.index.tolist() == [0, 1]
        assert parser.tally.duplicates == 1

    @pytest.mark.parametrize("fmt", ["counted", "wrapping", "timed"])
    def test_lines_that_were_repeated_later_count_once(self, fmt: str):
        forms = {
            "counted": COUNTED,
            "wrapping": form(columns=["counter", "power"], units={"power": "mW"}, counter_modulus=256),
            "timed": form(columns=["time", "power"], units={"time": "ms", "power": "mW"}),
        }
        place = {"timed": 100}.get(fmt, 1)
        lines = [f"{place * (k % 256)},{k % 3}\n" for k in range(20)]
        parser, samples = parse(forms[fmt], "".join(lines[:12] + lines[9:12] + lines[12:]))
        assert samples.index.tolist() == list(range(20))
        assert parser.tally.duplicates == 3
        assert parser.tally.lost == 0
        assert (parser.tally.ambiguous > 0) == (fmt == "wrapping")  # or 253 lines went missing

    def test_a_line_made_of_parts_of_two_is_doubtful(self):
        lines = [f"{k},{k % 3}.25\n" for k in range(10)]
        parser, samples = parse(COUNTED, "".join(lines[:6]) + "6,7" + "5.25\n" + "".join(lines[3:]))
        assert samples.index.tolist() == list(range(10))
        assert (5, 7) in parser.doubts
        assert not [d for d in parser.doubts if not 4 <= d[0] <= d[1] <= 8]

    def test_a_counter_that_soon_starts_again_repeats_no_line(self):
        fmt = form(columns=["counter", "power"], units={"power": "W"}, counter_modulus=4)
        parser, samples = parse(fmt, "".join(f"{k % 4},1\n" for k in range(40)))
        assert samples.index.tolist() == list(range(40))
        assert parser.tally.duplicates == 0

    def test_an_instrument_that_starts_again_is_told(self):
        parser, samples = parse(COUNTED, "500,1\n0,1\n1,1\n")
        assert samples.index.tolist() == [0, 1, 2]
        assert parser.tally.ambiguous == 1
        assert parser.tally.notes

    def test_a_clock_tells_lost_lines(self):
        parser, samples = parse(TIMED, "0,1\n100,1\n400,1\n500,1\n")
        assert samples.index.tolist() == [0, 1, 4, 5]
        assert parser.tally.lost == 2

    def test_an_unsteady_clock_loses_nothing(self):
        parser, samples = parse(TIMED, "0,1\n160,1\n200,1\n300,1\n340,1\n440,1\n")
        assert samples.index.tolist() == list(range(6))
        assert parser.tally.lost == parser.tally.ambiguous == 0

    def test_without_counter_or_clock_a_damaged_line_is_one_lost(self):
        parser, samples = parse(PLAIN, "1.0\n1.x\n1.0\n")
        assert samples.index.tolist() == [0, 2]
        assert parser.tally.lost == 1

    def test_the_first_line_may_have_lost_its_beginning(self):
        parser = LineParser(PLAIN, 10.0)
        assert parser.feed(b"3.5\n123.5\n").power_w.tolist() == [123.5]
        assert parser.tally.skipped_bytes == 0

    @pytest.mark.parametrize("text", ["nan", "inf", "1e999", "--1", "0x10", "1_0", "1e15e1", "", "9e99"])
    def test_what_is_no_number_is_refused(self, text: str):
        parser, samples = parse(COUNTED, f"1,{text}\n")
        assert not samples.index.size
        assert parser.tally.corrupt == 1

    def test_too_many_or_few_columns_are_refused(self):
        assert parse(COUNTED, "1,2,3\n1\n")[0].tally.corrupt == 2

    def test_headings_and_comments_are_passed_over(self):
        fmt = form(columns=["power"], units={"power": "W"}, ignore="^(#|power)")
        parser, samples = parse(fmt, "power\n# hello\n1\n")
        assert samples.index.size == 1
        assert parser.tally.corrupt == 0

    def test_above_the_range_is_clipped(self):
        parser, samples = parse(PLAIN, "1\n99\n", max_w=20.0)
        assert samples.suspect is not None
        assert samples.suspect.tolist() == [False, True]
        assert parser.tally.clipped == 1

    def test_a_line_without_end_does_not_fill_memory(self):
        parser = LineParser(PLAIN, 10.0)
        for _ in range(100):
            parser.feed(b"7" * 500)
        assert len(parser._rest) <= 1500
        assert parser.feed(b"\n1\n").power_w.tolist() == [1.0]

    def test_one_wrong_digit_between_steady_lines_is_told(self):
        lines = [f"{k},{1000 + k % 3}\n" for k in range(200)]
        lines[150] = "150,9001\n"
        parser, _ = parse(COUNTED, "".join(lines))
        assert any("1 samples stand alone" in n for n in parser.tally.notes)


@pytest.mark.parametrize("fmt", [COUNTED, TIMED, PLAIN], ids=["counter", "clock", "plain"])
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=8),
            st.tuples(st.integers(0, 30), st.integers(-5, 99)).map(lambda v: f"{v[0]},{v[1]}\n".encode()),
            st.integers(0, 10**30).map(lambda v: f"{v},1\r\n".encode()),
            st.sampled_from([b"1\n", b"2.5e3\r\n", b"\n", b"\r", b"7" * 1100]),
        ),
        max_size=25,
    ),
    cuts=st.lists(st.integers(0, 3000), max_size=8),
)
@settings(max_examples=150, deadline=None)
def test_no_bytes_break_the_parser_and_splits_do_not_matter(fmt: LineFormat, pieces: list[bytes], cuts: list[int]):
    data = b"".join(pieces)
    whole, split = LineParser(fmt, 10.0), LineParser(fmt, 10.0)
    one = whole.feed(data)
    parts = [split.feed(data[a:b]) for a, b in pairwise([0, *sorted(min(c, len(data)) for c in cuts), len(data)])]
    assert one.index.tolist() == [i for p in parts for i in p.index.tolist()]
    assert one.power_w.tolist() == [w for p in parts for w in p.power_w.tolist()]
    assert (np.diff(one.index) > 0).all()
    assert whole.tally == split.tally


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "either columns or a pattern"),
        ({"columns": ["power"], "pattern": "(?P<power>.*)", "units": {"power": "W"}}, "either columns or a pattern"),
        ({"columns": ["watts"]}, "'watts' is nothing known"),
        ({"columns": ["power", "power"], "units": {"power": "W"}}, "same name"),
        ({"columns": ["power"]}, "power is missing"),
        ({"columns": ["power"], "units": {"power": "V"}}, "no unit of power"),
        ({"columns": ["power"], "units": {"power": "W", "time": "s"}}, "nothing is known of time"),
        ({"columns": ["voltage"], "units": {"voltage": "V"}}, "no value tells power"),
        ({"pattern": "(?P<power>"}, "no regular expression"),
        ({"columns": "power"}, "list of texts"),
    ],
)
def test_a_wrong_profile_says_where_and_what(data: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        form(**data)


PROFILE = """
meter = "line"
[line]
rate_hz = {rate}
columns = {columns}
units = {units}
start = ["start"]
stop = ["stop"]
identify = "id?"
identity = "ACME PM\\\\d"
accuracy = {{ reading = 0.01, reference = "its data sheet" }}
"""
KINDS = {
    "counter": ("{counter},{power:.6f}\r\n", '["counter", "power"]', '{ power = "W" }'),
    "clock": ("{ms:.0f},{power:.6f}\r\n", '["time", "power"]', '{ time = "ms", power = "W" }'),
    "plain": ("{current:.7f},{voltage:.4f}\n", '["current", "voltage"]', '{ current = "A", voltage = "V" }'),
    "total": ("{counter},{total:.9f}\n", '["counter", "energy_total"]', '{ energy_total = "J" }'),
}


@pytest.fixture
def profile(tmp_path: Path) -> Callable[..., str]:
    def write(kind: str = "counter", rate: float = 100.0, extra: str = "") -> str:
        _, columns, units = KINDS[kind]
        path = tmp_path / f"{kind}.toml"
        path.write_text(PROFILE.format(rate=rate, columns=columns, units=units) + extra)
        return str(path)

    return write


def printer(kind: str = "counter", rate: float = 100.0, **options: Any) -> LinePrinter:
    return LinePrinter(BlockSignal(1.0, 6.0, WINDOWS), KINDS[kind][0], rate_hz=rate, **options)


def record(rig: Any) -> PowerTrace:
    rig.meter.start()
    rig.meter.run_until(1010.0)
    trace: PowerTrace = rig.meter.stop()
    rig.meter.close()
    return trace


UNCHECKED = "unchecked: lines have no checksum; a damaged digit may pass for a value"


def told(trace: PowerTrace) -> list[str]:
    """Warnings but for the one that every recording has."""
    return [w for w in trace.warnings if w != UNCHECKED]


def energy_j(trace: PowerTrace, start_s: float, end_s: float) -> float:
    edges = np.concatenate([[trace.t_s[0] - 1 / trace.rate_hz], trace.t_s])
    inside = np.clip(edges[1:], start_s, end_s) - np.clip(edges[:-1], start_s, end_s)
    return float(trace.power_w @ inside)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_energy_of_windows_is_right(connect: Connect, profile: Callable[..., str], kind: str):
    emulator = printer(kind, ppm=-40.0)
    rig = connect(LineInstrument, emulator, profile=profile(kind))
    assert isinstance(rig.instrument, Instrument)
    trace = record(rig)
    assert trace.dropped == 0
    assert told(trace) == []
    assert trace.warnings == (UNCHECKED,)
    assert trace.sampling == ("mean" if kind == "total" else "point")
    assert trace.accuracy.gain == pytest.approx(0.01 / math.sqrt(3))
    for start, end in WINDOWS:
        assert energy_j(trace, start - 0.5, end + 0.5) == pytest.approx(
            emulator.energy_j(start - 0.5, end + 0.5), rel=5e-3
        )


def test_the_conversation(connect: Connect, profile: Callable[..., str]):
    emulator = printer()
    record(connect(LineInstrument, emulator, profile=profile()))
    assert emulator.received == ["stop", "id?", "start", "stop", "stop"]
    assert not emulator.clock.running


def test_something_else_at_the_port_is_named(connect: Connect, profile: Callable[..., str]):
    with pytest.raises(MeterError, match=r"asked 'id\?', got 'OTHER 1'\); check port"):
        connect(LineInstrument, printer(identity="OTHER 1"), profile=profile())


def test_lost_lines_are_counted(connect: Connect, profile: Callable[..., str]):
    trace = record(connect(LineInstrument, printer(), [LoseFrames(5.0, 7)], max_loss=0.1, profile=profile()))
    assert trace.dropped == 7
    assert len(trace.gaps) == 1


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("name", sorted(FAULT_MAKERS))
def test_no_fault_yields_a_wrong_energy_without_a_word(
    connect: Connect, profile: Callable[..., str], name: str, kind: str
):
    emulator = printer(kind)
    try:
        trace = record(
            connect(LineInstrument, emulator, [FAULT_MAKERS[name](4.2)], max_loss=1.0, profile=profile(kind))
        )
    except MeterError:
        return
    wrong = any(
        abs(energy_j(trace, a - 0.5, b + 0.5) / emulator.energy_j(a - 0.5, b + 0.5) - 1) > 0.01 for a, b in WINDOWS
    )
    if name in {"split reads", "voltage droop", "bad checksums"}:
        assert not wrong
        assert not told(trace)
    if wrong:
        assert trace.dropped or trace.gaps or told(trace)


def test_over_a_terminal(profile: Callable[..., str]):
    with serve_emulator(LinePrinter(StepSignal([], [2.5]), KINDS["counter"][0], rate_hz=200.0)) as served:
        meter = open_meter(f"line:{served.path}?profile={profile(rate=200.0)}")
        try:
            meter.start()
            trace = meter.stop()
        finally:
            meter.close()
        assert trace.source == "simulated"
        assert trace.dropped == served.lost() == 0
        assert trace.power_w == pytest.approx(2.5)
        assert trace.calibration_id == "profile counter, ACME PM1 0042"


@pytest.mark.parametrize("name", ["csv-example", "ptdaemon-csv"])
def test_shipped_profiles_are_right(name: str):
    spec = MeterSpec("line", "x", {"profile": name})
    assert LineProfile.load(spec).name == name
    assert catalog.load_toml("devices", "meters", name)["meter"] == f"line?profile={name}"


def test_ptdaemon_lines():
    fmt = LineProfile.load(MeterSpec("line", "x", {"profile": "ptdaemon-csv"})).form
    line = "Time,06-25-2020 15:24:40.123,Watts,135.2,Volts,229.8,Amps,0.61,PF,0.96\n"
    assert LineParser(fmt, 1.0).feed(("\n" + line).encode()).power_w.tolist() == [135.2]


def test_current_alone_needs_the_voltage_and_power_refuses_it(tmp_path: Path):
    path = tmp_path / "amps.toml"
    path.write_text('[line]\nrate_hz = 10\ncolumns = ["current"]\nunits = { current = "mA" }\n')
    with pytest.raises(ConfigError, match=r"add \?voltage_v"):
        LineInstrument(None, MeterSpec("line", "x", {"profile": str(path)}), "measured")  # type: ignore[arg-type]
    path.write_text('[line]\nrate_hz = 10\ncolumns = ["power"]\nunits = { power = "mW" }\n')
    with pytest.raises(ConfigError, match="leave voltage_v out"):
        LineInstrument(None, MeterSpec("line", "x", {"profile": str(path), "voltage_v": "5"}), "measured")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[line]\nrate_hz = 0\n", "above 0"),
        ("[line]\nrate_hz = 10\nsped = 3\n", "nothing is known of sped"),
        ('[line]\nrate_hz = 10\nsampling = "max"\n', "sampling"),
        ('[line]\nrate_hz = 10\nidentify = "x"\n', "belong together"),
        ("[line]\nrate_hz = 10\naccuracy = { reading = 0.1 }\n", "need a source"),
        ("[scpi]\n", r"no table \[line\]"),
        ("[line\n", "not valid TOML"),
    ],
)
def test_wrong_profiles_are_refused(tmp_path: Path, text: str, words: str):
    path = tmp_path / "p.toml"
    lines = '\ncolumns = ["power"]\nunits = { power = "W" }\n' if text.startswith("[line]") else ""
    path.write_text(text + lines)
    with pytest.raises(ConfigError, match=words):
        LineProfile.load(MeterSpec("line", "x", {"profile": str(path)}))


def test_without_a_profile_the_ones_there_are_named():
    with pytest.raises(ConfigError, match="csv-example"):
        DRIVER.open(MeterSpec("line", "/dev/null"), MeterContext())


def test_a_profile_that_is_not_there():
    with pytest.raises(ConfigError, match="cannot read meter profile"):
        DRIVER.open(MeterSpec("line", "/dev/null", {"profile": "/nowhere/x.toml"}), MeterContext())
    with pytest.raises(ConfigError, match="csv-example"):
        DRIVER.open(MeterSpec("line", "/dev/null", {"profile": "csv-exampl"}), MeterContext())
