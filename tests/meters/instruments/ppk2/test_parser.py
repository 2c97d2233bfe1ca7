from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepen.meters.instruments.ppk2.calibration import Ppk2Calibration, SpikeFilter
from deepen.meters.instruments.ppk2.parser import Ppk2Parser
from deepen.meters.stream.types import Samples, StreamCounts


def noisy(n: int, seed: int = 0, level: int = 2000) -> np.ndarray:
    return np.random.default_rng(seed).integers(level, level + 40, n)


def same(a: Samples, b: Samples) -> bool:
    columns = ("index", "power_w", "current_a", "logic")
    return all(np.array_equal(getattr(a, c), getattr(b, c)) for c in columns)


def state(tally: StreamCounts) -> dict[str, object]:
    return {name: getattr(tally, name) for name in StreamCounts.__slots__} | {"notes": sorted(tally.notes)}


# ---- calibration and conversion --------------------------------------------------------------------------------------


def test_current_follows_the_formula_with_every_coefficient(ppk2) -> None:
    given_ = {
        "R2": "9.8",
        "GS2": "14.5",
        "GI2": "0.96",
        "O2": "64.6",
        "S2": "0.0000053",
        "I2": "-0.0000122",
        "UG2": "1.02",
    }
    calibration = Ppk2Calibration.parse(ppk2.text(**given_))
    found = Ppk2Parser(calibration, 3.7).feed(ppk2.closed(ppk2.words([5000] * 10, 2)))
    r = (4 * 5000 - 64.6) * (1.8 / 163840) / 9.8
    expected_a = 1.02 * (r * (14.5 * r + 0.96) + 5.3e-6 * 3.7 - 12.2e-6)
    assert found.current_a == pytest.approx(np.full(10, expected_a), rel=1e-12)
    assert found.power_w == pytest.approx(found.current_a * 3.7, rel=1e-12)


@pytest.mark.parametrize("k", range(5))
def test_each_range_uses_its_own_resistor(ppk2, k: int) -> None:
    found = Ppk2Parser(ppk2.calibration, 3.3).feed(ppk2.closed(ppk2.words([3025] * 10, k)))
    assert found.current_a == pytest.approx(np.full(10, 12000 * 1.8 / 163840 / ppk2.resistors[k]), rel=1e-12)


def test_the_metadata_tell_supply_hardware_and_mode(ppk2) -> None:
    calibration = ppk2.calibration
    assert (calibration.voltage_v, calibration.hardware, calibration.mode) == (3.3, "9173", 2)
    assert calibration.nominal == ()
    assert calibration.id != Ppk2Calibration.parse(ppk2.text(R0="1001.0")).id


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("R3", "0.0000"),
        ("R3", "-nan"),
        ("R3", "-1"),
        ("GI3", "nan"),
        ("O3", "-nan"),
        ("UG3", "0"),
        ("GS3", "1e300"),
        ("S3", "x"),
        ("I3", ""),
    ],
)
def test_defects_of_the_metadata_give_nominal_values_and_are_told(ppk2, key: str, text: str) -> None:
    calibration = Ppk2Calibration.parse(ppk2.text(**{key: text}))
    assert calibration.nominal == (key,)
    assert all(math.isfinite(v) for column in calibration.values.values() for v in column)
    parser = Ppk2Parser(calibration, 3.3)
    parser.feed(ppk2.closed(ppk2.words([2000] * 20, 2)))
    assert parser.tally.notes == []  # the range in use is calibrated
    parser.feed(ppk2.closed(ppk2.words([2000] * 20, 3, first=20)))
    assert [key in note for note in parser.tally.notes] == [True]


def test_a_gain_of_zero_is_a_defect_only_where_no_current_could_be_told(ppk2) -> None:
    assert Ppk2Calibration.parse(ppk2.text(GI1="0.0")).nominal == ("GI1",)
    assert Ppk2Calibration.parse(ppk2.text(GI1="0.0", GS1="2.5")).nominal == ()


@pytest.mark.parametrize("text", ["", "END\n", "hello: 1\nworld: 2\n", "\ufffd\ufffd\n: \n"])
def test_other_text_is_no_calibration(text: str) -> None:
    assert Ppk2Calibration.parse(text) is None


def test_logic_inputs_come_with_the_samples(ppk2) -> None:
    logic = np.arange(300) % 256
    found = Ppk2Parser(ppk2.calibration, 3.3).feed(ppk2.closed(ppk2.words(noisy(300), 1, logic=logic)))
    assert np.array_equal(found.logic, logic)


def test_readings_at_the_ends_are_clipped(ppk2) -> None:
    adc = noisy(100)
    adc[40], adc[60] = 0x3FFF, 0
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    found = parser.feed(ppk2.closed(ppk2.words(adc, 1)))
    assert parser.tally.clipped == 2
    assert np.flatnonzero(found.suspect).tolist() == [40, 60]


def test_zero_counts_are_no_current_where_there_is_no_offset(ppk2) -> None:
    parser = Ppk2Parser(Ppk2Calibration.parse(ppk2.text(O1="0.0")), 3.3)
    found = parser.feed(ppk2.closed(ppk2.words([0] * 100, 1)))
    assert (parser.tally.clipped, found.suspect) == (0, None)
    assert not found.current_a.any()


def test_range_codes_above_the_highest_are_read_as_the_highest(ppk2) -> None:
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    found = parser.feed(ppk2.closed(ppk2.words([2000] * 50, 7)))
    assert found.current_a == pytest.approx(np.full(50, 7900 * 1.8 / 163840 / 0.05))
    assert len(parser.tally.notes) == 1


# ---- spike filter ----------------------------------------------------------------------------------------------------


def filtered_one_by_one(current: list[float], ranges: list[int]) -> list[float]:
    """Averages (0.18, in range 4 0.06) replace 3 samples after a change; range 4 holds them for the first 2."""
    out, mean, top_mean, before, age = [], None, None, None, 99
    for x, r in zip(current, ranges, strict=True):
        age = 0 if before is not None and r != before else age + 1
        if mean is None:
            mean = top_mean = x
        if not (r == 4 and age < 2):
            mean, top_mean = 0.18 * x + 0.82 * mean, 0.06 * x + 0.94 * top_mean
        out.append((top_mean if r == 4 else mean) if age < 3 else x)
        before = r
    return out


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4), st.integers(1, 6)), min_size=1, max_size=30),
    st.lists(st.integers(0, 150), max_size=6),
)
def test_the_filter_does_batch_by_batch_what_it_does_one_by_one(runs, cuts) -> None:
    current = np.array([x + 0.01 * k for x, _, count in runs for k in range(count)])
    ranges = np.array([r for _, r, count in runs for _ in range(count)], np.uint8)
    spikes = SpikeFilter()
    edges = sorted({0, current.size, *(c for c in cuts if c < current.size)})
    pieces = [spikes.feed(current[a:b], ranges[a:b]) for a, b in pairwise(edges)]
    assert spikes.changes == np.count_nonzero(np.diff(ranges))
    assert np.concatenate(pieces) == pytest.approx(
        filtered_one_by_one(current.tolist(), ranges.tolist()), rel=1e-9, abs=1e-12
    )


def test_the_filter_can_be_left_out(ppk2) -> None:
    ranges = np.repeat([1, 2, 1], 50)
    data = ppk2.closed(ppk2.words(noisy(150), ranges))
    plain, filtered = Ppk2Parser(ppk2.calibration, 3.3, spike_filter=False), Ppk2Parser(ppk2.calibration, 3.3)
    a, b = plain.feed(data), filtered.feed(data)
    assert np.flatnonzero(a.power_w != b.power_w).tolist() == [50, 51, 52, 100, 101, 102]
    assert plain.tally.range_switches == filtered.tally.range_switches == 2


# ---- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 7, 31, 50, 60, 63])
def test_lost_words_are_counted_and_skipped_in_the_index(ppk2, k: int) -> None:
    w = ppk2.words(noisy(1000), 1)
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    found = parser.feed(ppk2.closed(np.delete(w, slice(400, 400 + k))))
    assert found.index.tolist() == [*range(400), *range(400 + k, 1000)]
    assert (parser.tally.lost, parser.tally.ambiguous, parser.tally.skipped_bytes) == (k, 1, 0)


def test_a_loss_of_64_words_is_invisible_to_the_counter_and_left_to_the_clock(ppk2) -> None:
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    found = parser.feed(ppk2.closed(np.delete(ppk2.words(noisy(1000), 1), slice(400, 464))))
    assert found.index.size == 936
    assert parser.tally.lost == 0


@pytest.mark.parametrize("at", range(1600, 1604))
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 17, 101])
def test_after_lost_bytes_every_later_sample_is_at_its_place(ppk2, at: int, count: int) -> None:
    w = ppk2.words(noisy(1000), 1, logic=np.arange(1000) % 251)
    data = ppk2.closed(w)
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    found = parser.feed(data[:at] + data[at + count :])
    whole = Ppk2Parser(ppk2.calibration, 3.3).feed(data)
    touched = set(range(at // 4, (at + count - 1) // 4 + 1))
    assert found.index[-1] == 999
    gone = set(range(1000)) - set(found.index.tolist())
    # A word that lost only its logic byte takes the first byte of the next one, which is then the one that is gone.
    assert gone <= touched | {max(touched) + 1}
    assert len(touched) - 1 <= len(gone) <= len(touched)
    wrong = found.power_w != whole.power_w[found.index]
    assert not (wrong & ~found.suspect).any()
    assert np.count_nonzero(found.suspect) <= 2
    assert parser.tally.lost == len(gone)


def test_bytes_put_in_cost_nothing_but_are_told(ppk2) -> None:
    data = ppk2.closed(ppk2.words(noisy(1000), 1))
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    found = parser.feed(data[:1600] + b"\xaa\xbb\xcc\xdd\xee" + data[1600:])
    assert found.index.tolist() == list(range(1000))
    assert (parser.tally.lost, parser.tally.skipped_bytes) == (0, 5)
    assert np.flatnonzero(found.suspect).tolist() == [399, 400]


def test_a_damaged_counter_costs_one_sample(ppk2) -> None:
    w = ppk2.words(noisy(1000), 1)
    w[500] ^= 9 << 18
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    found = parser.feed(ppk2.closed(w))
    assert found.index.tolist() == [*range(500), *range(501, 1000)]
    tally = parser.tally
    assert (tally.lost, tally.corrupt, tally.skipped_bytes, tally.ambiguous) == (1, 1, 4, 0)


def test_long_garbage_counts_as_the_words_it_replaced(ppk2) -> None:
    data = bytearray(ppk2.closed(ppk2.words(noisy(3000), 1)))
    data[4000:6000] = np.random.default_rng(1).integers(0, 256, 2000, np.uint8).tobytes()
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    found = parser.feed(bytes(data))
    assert (found.index[-1], found.index.size, parser.tally.lost) == (2999, 2500, 500)


@pytest.mark.parametrize("count", [4, 8, 40, 200, 400, 1000])
@pytest.mark.parametrize("skip", range(4))
def test_bytes_that_came_twice_are_left_out(ppk2, count: int, skip: int) -> None:
    data = ppk2.closed(ppk2.words(noisy(1000, level=1900), 1))
    stop = 2400 + skip
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    found = parser.feed(data[:stop] + data[stop - count : stop] + data[stop:])
    assert found.index.tolist() == list(range(1000))
    assert found.power_w.tolist() == Ppk2Parser(ppk2.calibration, 3.3).feed(data).power_w.tolist()
    assert parser.tally.lost == 0
    assert parser.tally.duplicates + parser.tally.skipped_bytes > 0


def test_a_repetition_of_a_steady_reading_is_no_proof(ppk2) -> None:
    w = ppk2.words([2000] * 1000, 1)
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    found = parser.feed(ppk2.closed(np.delete(w, slice(400, 410))))
    assert (parser.tally.lost, parser.tally.duplicates, int(found.index[-1])) == (10, 0, 999)


def test_a_stream_that_starts_within_a_word_is_found(ppk2) -> None:
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    found = parser.feed(b"R0: 1\n" + ppk2.closed(ppk2.words(noisy(100), 1, first=17))[3:])
    assert (found.index.size, int(found.index[0]), parser.tally.lost) == (99, 0, 0)
    assert parser.tally.skipped_bytes == 7


@pytest.mark.parametrize("byte", [0x00, 0x55, 0xFF])
def test_bytes_without_a_running_counter_give_no_samples(ppk2, byte: int) -> None:
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    assert parser.feed(bytes([byte]) * 10_000).index.size == 0
    assert parser.tally.skipped_bytes > 9_900


def test_one_damaged_reading_is_told(ppk2) -> None:
    w = ppk2.words(noisy(2000), 1)
    w[1000] ^= 1 << 12
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    parser.feed(ppk2.closed(w))
    assert [note.startswith("outliers: 1 ") for note in parser.tally.notes] == [True]


def test_one_damaged_range_is_told(ppk2) -> None:
    w = ppk2.words(noisy(2000), 1)
    w[1000] ^= 2 << 14
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    parser.feed(ppk2.closed(w))
    assert any(note.startswith("outliers: ") for note in parser.tally.notes)


# ---- any bytes, split anywhere ---------------------------------------------------------------------------------------


EDIT = st.tuples(st.sampled_from(["lose", "double", "flip", "insert"]), st.integers(0, 1800), st.integers(1, 120))


def damage(data: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    for what, at, count in edits:
        piece = data[at : at + count]
        if what == "lose":
            data = data[:at] + data[at + count :]
        elif what == "double":
            data = data[: at + count] + piece + data[at + count :]
        elif what == "flip":
            data = data[:at] + bytes(b ^ (37 * k + 1) % 256 for k, b in enumerate(piece, 1)) + data[at + count :]
        else:
            data = data[:at] + bytes((at * 31 + 7 * k) % 256 for k in range(count)) + data[at:]
    return data


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 99), st.lists(EDIT, max_size=3), st.lists(st.integers(0, 2400), max_size=12))
def test_the_result_does_not_depend_on_how_bytes_are_split(ppk2, in_pieces, seed, edits, cuts) -> None:
    rng = np.random.default_rng(seed)
    ranges = np.repeat(rng.integers(0, 5, 100), rng.integers(1, 10, 100))[:500]
    data = damage(ppk2.words(noisy(ranges.size, seed), ranges, first=seed).tobytes(), edits)
    a, b = (Ppk2Parser(ppk2.calibration, 3.3) for _ in range(2))
    assert same(a.feed(data), in_pieces(b, data, cuts))
    assert state(a.tally) == state(b.tally)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=400), max_size=8))
def test_any_bytes_are_taken(ppk2, pieces) -> None:
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    last, got = -1, 0
    for piece in pieces:
        found = parser.feed(piece)
        if found.index.size:
            assert found.index[0] > last
            assert (np.diff(found.index) > 0).all()
            assert found.index.shape == found.power_w.shape == found.logic.shape
            assert np.isfinite(found.power_w).all()
            last = int(found.index[-1])
            got += 4 * found.index.size
    assert got + parser.tally.skipped_bytes <= sum(map(len, pieces))


def test_memory_stays_bounded_on_garbage(ppk2) -> None:
    parser = Ppk2Parser(ppk2.calibration, 3.3)
    rng = np.random.default_rng(2)
    for _ in range(50):
        parser.feed(rng.integers(0, 256, 10_000, np.uint8).tobytes())
    assert parser.tally.skipped_bytes > 490_000
    assert len(parser._rest) < 64
