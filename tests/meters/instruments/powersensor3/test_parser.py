from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepen.meters.instruments.powersensor3.config import SensorConfig, parse_config
from deepen.meters.instruments.powersensor3.parser import PowerSensor3Parser, measure_frame_period_us
from deepen.meters.stream.types import Samples, StreamCounts


def noisy(n: int, seed: int = 0) -> np.ndarray:
    """Levels near 1 A and 12 V on pair 0, 0.5 A and 5 V on pair 1, nothing else plugged in."""
    rng = np.random.default_rng(seed)
    levels = np.zeros((n, 8), np.int64)
    levels[:, :4] = np.array([549, 326, 573, 775]) + rng.integers(0, 4, (n, 4))
    return levels


def state(tally: StreamCounts) -> dict[str, object]:
    return {name: getattr(tally, name) for name in StreamCounts.__slots__} | {"notes": sorted(tally.notes)}


def same(a: Samples, b: Samples) -> bool:
    return all(np.array_equal(getattr(a, c), getattr(b, c)) for c in ("index", "power_w", "logic"))


# ---- configuration ---------------------------------------------------------------------------------------------------


def record(kind: bytes = b"MLX", pair: bytes = b"12V", vref: float = 1.65, gain: float = 0.12, used: int = 1) -> bytes:
    return struct.pack("<16s16sffB", kind, pair, vref, gain, used)


def test_the_configuration_is_read() -> None:
    sensors = parse_config(record() + record(b"ACPL\0junk\x01", b"12V", 0.0, 0.5) + 6 * record(b"", b"", 0, 1, 0))
    assert sensors[0] == SensorConfig("MLX", "12V", pytest.approx(1.65), pytest.approx(0.12), True)
    assert (sensors[1].type, sensors[1].sensitivity, sensors[7].in_use) == ("ACPL", 0.5, False)


@pytest.mark.parametrize(
    "data",
    [b"", 7 * record(), 8 * record() + b"x", b"\xff" * 328, 8 * record(used=2), 8 * record(kind=b"\x01\x02")],
)
def test_other_bytes_are_no_configuration(data: bytes) -> None:
    assert parse_config(data) is None


def test_rubbish_in_unused_records_does_not_matter() -> None:
    sensors = parse_config(record() + record() + 6 * record(b"\xff" * 16, b"\x01" * 16, math.nan, 0.0, 0))
    assert [s.in_use for s in sensors] == [True] * 2 + [False] * 6


@pytest.mark.parametrize(
    ("vref", "gain", "found"),
    [
        (1.65, 0.12, ""),
        (1.65, 0.0, "sensitivity"),
        (1.65, math.nan, "sensitivity"),
        (math.nan, 1.0, "reference"),
        (4.0, 1.0, "reference"),
    ],
)
def test_useless_coefficients_are_found(vref: float, gain: float, found: str) -> None:
    defect = SensorConfig("a", "b", vref, gain, True).defect
    assert found in defect
    assert bool(defect) == bool(found)


# ---- conversion ------------------------------------------------------------------------------------------------------


def test_power_is_current_times_voltage(ps3) -> None:
    levels = np.tile([549, 326, 0, 0, 0, 0, 0, 0], (21, 1))
    found = PowerSensor3Parser(ps3.sensors, [0]).feed(ps3.frames(levels).tobytes())
    current_a, voltage_v = (3.3 * 549 / 1023 - 1.65) / 0.12, 3.3 * 326 / 1023 / 0.0877
    assert found.current_a == pytest.approx(np.full(20, current_a))
    assert found.voltage_v == pytest.approx(np.full(20, voltage_v))
    assert found.power_w == pytest.approx(np.full(20, current_a * voltage_v))


def test_pairs_are_added_up(ps3) -> None:
    data = ps3.frames(noisy(101)).tobytes()
    one, two, both = (PowerSensor3Parser(ps3.sensors, pairs).feed(data) for pairs in ([0], [1], [0, 1]))
    assert both.power_w == pytest.approx(one.power_w + two.power_w)
    assert both.current_a is None
    assert both.voltage_v is None


def test_a_pair_without_a_voltage_sensor_takes_the_voltage_told(ps3) -> None:
    sensors = (ps3.sensors[0], SensorConfig("", "", 0.0, 1.0, False), *ps3.sensors[2:])
    levels = noisy(101)
    levels[:, 1] = 0
    found = PowerSensor3Parser(sensors, [0], voltage_v=12.5).feed(ps3.frames(levels).tobytes())
    assert found.power_w == pytest.approx(found.current_a * 12.5)
    assert found.suspect is None


def test_markers_become_input_0(ps3) -> None:
    found = PowerSensor3Parser(ps3.sensors, [0]).feed(ps3.frames(noisy(101), marks=[3, 40]).tobytes())
    assert np.flatnonzero(found.logic).tolist() == [3, 40]


def test_levels_at_the_ends_are_clipped_but_no_volts_are_a_reading(ps3) -> None:
    levels = noisy(101)
    levels[10, 0], levels[20, 0], levels[30, 1], levels[40, 1], levels[50, 2] = 0, 1023, 1023, 0, 0
    parser = PowerSensor3Parser(ps3.sensors, [0])
    found = parser.feed(ps3.frames(levels).tobytes())
    assert np.flatnonzero(found.suspect).tolist() == [10, 20, 30]
    assert parser.tally.clipped == 3


# ---- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 10, 19, 20, 25, 30, 40])
def test_lost_frames_are_counted_even_past_the_wrap_of_the_stamps(ps3, k: int) -> None:
    frames = ps3.frames(noisy(301))
    parser = PowerSensor3Parser(ps3.sensors, [0])
    found = parser.feed(np.delete(frames, slice(100, 100 + k), axis=0).tobytes())
    assert found.index.tolist() == [*range(100), *range(100 + k, 300)]
    assert (parser.tally.lost, parser.tally.ambiguous, parser.tally.skipped_bytes) == (k, 1, 0)
    assert np.flatnonzero(found.suspect).tolist() == [99]


def test_a_loss_that_leaves_no_trace_is_the_quantum(ps3) -> None:
    parser = PowerSensor3Parser(ps3.sensors, [0])
    gone = slice(100, 100 + parser.quantum)
    assert parser.feed(np.delete(ps3.frames(noisy(301)), gone, axis=0).tobytes()).index.size == 300 - parser.quantum
    assert parser.tally.lost == 0


@pytest.mark.parametrize("period_us", [50.0, 51.2, 62.5, 100.0, 250.0, 1000.0])
def test_any_rate_the_stamps_can_tell(ps3, period_us: float) -> None:
    frames = ps3.frames(noisy(301), period_us=period_us, first_us=7)
    assert measure_frame_period_us(frames.tobytes()[5:]) == pytest.approx(period_us, rel=1e-2)
    parser = PowerSensor3Parser(ps3.sensors, [0], period_us=period_us)
    assert parser.feed(frames[:100].tobytes()).index.size == 99
    assert state(parser.tally) == state(StreamCounts())
    parser.feed(frames[101:].tobytes())
    assert parser.tally.lost == 1


def test_stamps_that_jitter_are_no_losses(ps3) -> None:
    frames = ps3.frames(noisy(501)).reshape(-1, 9, 2)
    stamps = (np.arange(501) * 50 + np.random.default_rng(3).integers(-4, 5, 501)) % 1024
    frames[:, 0, 0], frames[:, 0, 1] = 0xF0 | stamps >> 6, 0x40 | stamps & 63
    parser = PowerSensor3Parser(ps3.sensors, [0])
    assert parser.feed(frames.tobytes()).index.tolist() == list(range(500))
    assert state(parser.tally) == state(StreamCounts())


@pytest.mark.parametrize("at", range(1800, 1818))
@pytest.mark.parametrize("count", [1, 2, 5, 17, 18, 19, 40])
def test_after_lost_bytes_every_later_sample_is_at_its_place(ps3, at: int, count: int) -> None:
    data = ps3.frames(noisy(301)).tobytes()
    parser = PowerSensor3Parser(ps3.sensors, [0, 1])
    found = parser.feed(data[:at] + data[at + count :])
    whole = PowerSensor3Parser(ps3.sensors, [0, 1]).feed(data)
    gone = set(range(300)) - set(found.index.tolist())
    assert found.index[-1] == 299
    assert gone <= set(range(at // 18, (at + count - 1) // 18 + 1))
    assert len(gone) == parser.tally.lost >= 1
    wrong = found.power_w != whole.power_w[found.index]
    assert not (wrong if found.suspect is None else wrong & ~found.suspect).any()


@pytest.mark.parametrize("count", [1, 2, 5, 18, 36])
@pytest.mark.parametrize("skip", range(0, 18, 3))
def test_bytes_that_came_twice_add_no_samples(ps3, count: int, skip: int) -> None:
    data = ps3.frames(noisy(301)).tobytes()
    stop = 1800 + skip
    parser = PowerSensor3Parser(ps3.sensors, [0, 1])
    found = parser.feed(data[:stop] + data[stop - count : stop] + data[stop:])
    whole = PowerSensor3Parser(ps3.sensors, [0, 1]).feed(data)
    assert found.index[-1] == 299
    wrong = found.power_w != whole.power_w[found.index]
    assert not (wrong if found.suspect is None else wrong & ~found.suspect).any()
    assert parser.tally.skipped_bytes + parser.tally.duplicates > 0


def test_a_frame_that_came_twice_is_left_out(ps3) -> None:
    frames = ps3.frames(noisy(301))
    parser = PowerSensor3Parser(ps3.sensors, [0])
    found = parser.feed(np.insert(frames, 100, frames[99], axis=0).tobytes())
    assert found.index.tolist() == list(range(300))
    assert state(parser.tally) == {**state(StreamCounts()), "duplicates": 1}


def test_a_damaged_stamp_moves_nothing(ps3) -> None:
    frames = ps3.frames(noisy(301))
    frames[150, 1] ^= 0x2F
    parser = PowerSensor3Parser(ps3.sensors, [0])
    found = parser.feed(frames.tobytes())
    assert found.index.tolist() == list(range(300))
    assert (parser.tally.corrupt, parser.tally.lost) == (1, 0)


def test_a_damaged_level_is_told(ps3) -> None:
    frames = ps3.frames(noisy(301))
    frames[150, 2] ^= 0x04
    parser = PowerSensor3Parser(ps3.sensors, [0])
    parser.feed(frames.tobytes())
    assert [note.startswith("outliers: 1 ") for note in parser.tally.notes] == [True]


def test_the_signal_that_the_stream_has_stopped_is_no_damage(ps3) -> None:
    parser = PowerSensor3Parser(ps3.sensors, [0])
    parser.feed(ps3.frames(noisy(101)).tobytes() + b"\xff\x3f\xff\x3f")
    parser.feed(ps3.frames(noisy(50), first_us=101 * 50).tobytes())
    assert state(parser.tally) == state(StreamCounts())


def test_a_stream_that_starts_within_a_frame_is_found(ps3) -> None:
    parser = PowerSensor3Parser(ps3.sensors, [0])
    found = parser.feed(ps3.frames(noisy(102)).tobytes()[5:])
    assert (found.index.size, int(found.index[0])) == (100, 0)
    assert (parser.tally.skipped_bytes, parser.tally.lost) == (13, 0)


def test_the_period_is_not_told_by_noise(ps3) -> None:
    assert math.isnan(measure_frame_period_us(b""))
    frames = ps3.frames(np.full((17, 8), 500)).reshape(-1, 18)
    at = np.concatenate([[0], np.cumsum([10, 400] * 8)]) % 1024  # the middle of the steps is none of them
    frames[:, 0], frames[:, 1] = 0xF0 | at >> 6, 0x40 | at & 63
    assert math.isnan(measure_frame_period_us(frames.tobytes()))
    assert math.isnan(measure_frame_period_us(np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()))


# ---- any bytes, split anywhere ---------------------------------------------------------------------------------------

EDIT = st.tuples(st.sampled_from(["lose", "double", "flip"]), st.integers(0, 1400), st.integers(1, 60))


def damage(data: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    for what, at, count in edits:
        piece = data[at : at + count]
        if what == "lose":
            data = data[:at] + data[at + count :]
        elif what == "double":
            data = data[: at + count] + piece + data[at + count :]
        else:
            data = data[:at] + bytes(b ^ (37 * k + 1) % 256 for k, b in enumerate(piece, 1)) + data[at + count :]
    return data


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 99), st.lists(EDIT, max_size=3), st.lists(st.integers(0, 1800), max_size=12))
def test_the_result_does_not_depend_on_how_bytes_are_split(ps3, in_pieces, seed, edits, cuts) -> None:
    data = damage(ps3.frames(noisy(80, seed), first_us=seed, marks=[seed % 80]).tobytes(), edits)
    a, b = (PowerSensor3Parser(ps3.sensors, [0, 1]) for _ in range(2))
    assert same(a.feed(data), in_pieces(b, data, cuts))
    assert state(a.tally) == state(b.tally)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=400), max_size=8))
def test_any_bytes_are_taken(ps3, pieces) -> None:
    parser = PowerSensor3Parser(ps3.sensors, [0, 1])
    last, got = -1, 0
    for piece in pieces:
        found = parser.feed(piece)
        if found.index.size:
            assert found.index[0] > last
            assert (np.diff(found.index) > 0).all()
            assert np.isfinite(found.power_w).all()
            last = int(found.index[-1])
            got += 18 * found.index.size
    assert got + parser.tally.skipped_bytes <= sum(map(len, pieces))


def test_memory_stays_bounded_on_garbage(ps3) -> None:
    parser = PowerSensor3Parser(ps3.sensors, [0])
    rng = np.random.default_rng(2)
    for _ in range(50):
        parser.feed(rng.integers(0, 256, 10_000, np.uint8).tobytes())
        parser.feed(b"\xf5\x45")
        assert len(parser._rest) < 18
