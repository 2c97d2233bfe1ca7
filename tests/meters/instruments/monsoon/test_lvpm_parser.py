from __future__ import annotations

import random
import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepen.meters.instruments.monsoon.lvpm_parser import (
    HELD_RECORDS,
    LvpmParser,
    frame_packet,
    parse_status,
    unframe_packet,
)
from deepen.meters.stream.types import Samples

ZERO, REFERENCE = (20, 30), (20020, 28830)
FINE_A, COARSE_A = 0.0332 / 20000, 2.88 / 28800
VOLTS = 30800  # 3.85 V


def data(
    sequence: int, kind: int, mains: list[int], volts: int = VOLTS, flags: int = 0x20, tail: bytes = b"\x00"
) -> bytes:
    records = b"".join(struct.pack(">hhhH", main, 0, 0, volts) for main in mains)
    return frame_packet(bytes([flags | sequence & 15, kind, 0, 0]) + records + tail)


def calibration(sequence: int) -> bytes:
    return data(sequence, 1, list(ZERO)) + data(sequence + 1, 2, list(REFERENCE))


def feed(*frames: bytes, setting_v: float = 3.85) -> tuple[LvpmParser, Samples]:
    parser = LvpmParser(setting_v)
    return parser, parser.feed(b"".join(frames))


def test_a_frame_carries_its_length_and_the_sum_of_everything_before_the_checksum() -> None:
    assert frame_packet(b"\x03\x00") == b"\x03\x03\x00\x06"
    assert unframe_packet(frame_packet(b"\x01\x0a\xff"), 0) == b"\x01\x0a\xff"
    assert unframe_packet(b"\x03\x03\x00\x07", 0) is None


def test_currents_follow_the_calibration_of_their_range() -> None:
    _, found = feed(calibration(0), data(2, 0, [10020, 14431, 20, -1980]))
    assert found.current_a is not None
    assert found.current_a == pytest.approx([10000 * FINE_A, 14400 * COARSE_A, 0.0, -2000 * FINE_A])
    assert found.voltage_v == pytest.approx([3.85] * 4)
    assert found.power_w == pytest.approx(found.current_a * 3.85)
    assert found.index.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("tail", [b"\x00", b"\x84", bytes(7), bytes(8)])
def test_bytes_after_the_records_are_left_out(tail: bytes) -> None:
    _, found = feed(calibration(0), data(2, 0, [20, 20, 20], tail=tail))
    assert found.index.size == 3


def test_records_that_come_before_the_calibration_are_converted_once_it_is_there() -> None:
    parser = LvpmParser(3.85)
    assert parser.feed(data(0, 0, [10020] * 3) + data(1, 1, list(ZERO)) + data(2, 0, [20])).index.size == 0
    assert parser.tally.uncalibrated == 4
    found = parser.feed(data(3, 2, list(REFERENCE)) + data(4, 0, [10020]))
    assert found.index.tolist() == [0, 1, 2, 3, 4]
    assert found.current_a == pytest.approx([10000 * FINE_A] * 3 + [0.0, 10000 * FINE_A])
    assert parser.tally.uncalibrated == 0


def test_without_calibration_memory_stays_bounded_and_it_is_told() -> None:
    parser = LvpmParser(3.85)
    for k in range(HELD_RECORDS // 20):
        parser.feed(data(k, 0, [100] * 30))
    assert parser.tally.uncalibrated == HELD_RECORDS // 20 * 30
    assert any("calibration was missing" in note for note in parser.tally.notes)
    k = HELD_RECORDS // 20
    found = parser.feed(calibration(k) + data(k + 2, 0, [100]))
    assert found.index.size <= HELD_RECORDS + 1
    assert found.index[-1] == k * 30
    assert parser.tally.uncalibrated == k * 30 + 1 - found.index.size
    assert parser.tally.lost == 0


def test_a_new_calibration_holds_from_where_it_stands_in_the_stream() -> None:
    later = data(3, 2, [20220, REFERENCE[1]])
    _, found = feed(calibration(0), data(2, 0, [10020]), later, data(4, 0, [10020]))
    assert found.current_a == pytest.approx([10000 * FINE_A, 10000 * 0.0332 / 20200])


def test_a_calibration_that_makes_no_sense_is_left_out_and_told() -> None:
    parser, found = feed(calibration(0), data(2, 2, [20, 30]), data(3, 0, [10020]), data(4, 1, [20]))
    assert found.current_a == pytest.approx([10000 * FINE_A])
    assert parser.tally.corrupt == 2
    assert any("made no sense" in note for note in parser.tally.notes)


def test_a_calibration_that_jumps_is_told() -> None:
    parser, _ = feed(calibration(0), data(2, 0, [20]), data(3, 2, [21020, REFERENCE[1]]))
    assert any("changed by more than 2%" in note for note in parser.tally.notes)


@pytest.mark.parametrize("missing", [1, 5, 14])
def test_missing_packets_move_the_index_and_are_counted(missing: int) -> None:
    parser, found = feed(calibration(0), data(2, 0, [20] * 7), data(3 + missing, 0, [20] * 7))
    assert found.index.tolist() == [*range(7), *range(7 * (1 + missing), 7 * (2 + missing))]
    assert (parser.tally.lost, parser.tally.ambiguous) == (7 * missing, 1)


def test_a_packet_that_comes_twice_counts_once() -> None:
    parser, found = feed(calibration(0), data(2, 0, [20] * 7), data(2, 0, [20] * 7), data(3, 0, [22] * 7))
    assert found.index.tolist() == list(range(14))
    assert (parser.tally.duplicates, parser.tally.lost) == (1, 0)


def test_fifteen_missing_packets_are_no_duplicate() -> None:
    parser, found = feed(calibration(0), data(2, 0, [20] * 7), data(2, 0, [22] * 7))
    assert found.index[-1] == 7 * 17 - 1
    assert (parser.tally.duplicates, parser.tally.lost) == (0, 7 * 15)


def test_a_bad_checksum_costs_its_packet_and_the_next_one_is_found() -> None:
    spoiled = bytearray(data(3, 0, [24] * 7))
    spoiled[10] ^= 0x40
    frames = [calibration(0), data(2, 0, [20] * 7), bytes(spoiled), data(4, 0, [26] * 7), data(5, 0, [28] * 7)]
    parser, found = feed(*frames)
    assert found.index.tolist() == [*range(7), *range(14, 28)]
    assert (parser.tally.corrupt, parser.tally.lost, parser.tally.skipped_bytes) == (1, 7, len(spoiled))


def test_rubbish_between_packets_is_skipped_and_counted() -> None:
    rubbish = bytes(random.Random(4).randrange(1, 256) for _ in range(300))
    parser, found = feed(calibration(0), data(2, 0, [20]), rubbish, *(data(3 + k, 0, [20]) for k in range(20)))
    assert parser.tally.corrupt == 1
    assert parser.tally.skipped_bytes >= 300
    assert found.index.size + parser.tally.lost == 21
    assert found.power_w == pytest.approx(0.0)


def test_empty_packets_and_status_packets_are_no_data() -> None:
    parser, found = feed(calibration(0), b"\x00\x00", frame_packet(b"\x10" + bytes(57)), data(2, 0, [20]))
    assert found.index.tolist() == [0]
    assert parser.tally.corrupt == parser.tally.skipped_bytes == 0


@pytest.mark.parametrize(("flags", "word"), [(0x30, "cut the output off"), (0x00, "not at its voltage")])
def test_a_cut_off_or_missing_output_makes_samples_suspect(flags: int, word: str) -> None:
    parser, found = feed(calibration(0), data(2, 0, [20]), data(3, 0, [20], flags=flags))
    assert found.suspect is not None
    assert found.suspect.tolist() == [False, True]
    assert any(word in note for note in parser.tally.notes)


def test_a_voltage_far_from_the_setting_is_suspect() -> None:
    parser, found = feed(calibration(0), data(2, 0, [20]), data(3, 0, [20], volts=VOLTS * 8 // 10))
    assert found.suspect is not None
    assert found.suspect.tolist() == [False, True]
    assert any("away from the 3.85 V" in note for note in parser.tally.notes)
    assert feed(calibration(0), data(2, 0, [20], volts=VOLTS * 95 // 100))[1].suspect is None


def test_the_stream_tells_which_voltage_scale_it_has() -> None:
    _, found = feed(calibration(0), data(2, 0, [20], volts=61600))
    assert found.voltage_v == pytest.approx([3.85])
    assert found.suspect is None


def test_clipped_samples_and_changes_of_range_are_counted() -> None:
    parser, found = feed(calibration(0), data(2, 0, [20, 32767, 14431, 20, 22]))
    assert (parser.tally.clipped, parser.tally.range_switches) == (1, 2)
    assert found.suspect is not None
    assert found.suspect.tolist() == [False, True, False, False, False]


def test_a_status_packet_gives_its_fields_in_units() -> None:
    fields = [0x10, 18, 17, 0, 0, 0, 0, 0, 0, 0, 0, 185, 30, 0, 0, 0, 7536, 5, 1, 2, 0, 512]
    fields += [0] * 5 + [3, 60, 2] + [0] * 11
    body = struct.pack(">BBBhhhHhhhHBBBxBbHBHHHHBbbHHBBBbbbbbbbbbBH", *fields)
    status = parse_status(body)
    assert status is not None
    assert (status.firmware, status.serial, status.rate_hz, status.passthrough) == (18, 7536, 5000.0, 2)
    assert status.setting_v == 3.85
    assert (status.power_up_limit_a, status.run_limit_a) == pytest.approx((8.0, 8 * 511 / 1023))
    assert parse_status(body[:-1]) is None
    assert parse_status(b"\x11" + body[1:]) is None


def collect(stream: bytes, cuts: list[int]) -> tuple[list[float], list[int], list[bool], object]:
    parser = LvpmParser(3.85)
    edges = [0, *sorted(c % (len(stream) + 1) for c in cuts), len(stream)]
    parts = [parser.feed(stream[a:b]) for a, b in pairwise(edges)]
    found = Samples.join(parts)
    suspect = np.zeros(found.index.size, bool) if found.suspect is None else found.suspect
    return found.power_w.tolist(), found.index.tolist(), suspect.tolist(), parser.tally


def stream(seed: int, damage: int) -> bytes:
    rng = random.Random(seed)
    frames = [calibration(0)]
    for k in range(2, 30):
        mains = [rng.randrange(-100, 20000) for _ in range(rng.choice([1, 3, 7]))]
        frames.append(data(k, rng.choice([0, 0, 0, 0, 1, 2, 3]), mains, flags=rng.choice([0x20] * 9 + [0x30])))
    out = bytearray(b"".join(frames))
    for _ in range(damage):
        at = rng.randrange(len(out))
        out[at : at + rng.choice([0, 1])] = bytes(rng.randrange(256) for _ in range(rng.choice([0, 1])))
    return bytes(out)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 6), st.lists(st.integers(0, 5000), max_size=12))
def test_how_bytes_are_split_makes_no_difference(seed: int, damage: int, cuts: list[int]) -> None:
    whole = stream(seed, damage)
    assert collect(whole, cuts) == collect(whole, [])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_damage_never_goes_unseen(seed: int, damage: int) -> None:
    """Whatever is damaged: the samples are those of the whole stream, as far as they come, or something is counted."""
    whole, broken = collect(stream(seed, 0), []), collect(stream(seed, damage), [])
    size = len(broken[1])
    if (broken[0], broken[1]) != (whole[0][:size], whole[1][:size]):
        assert broken[3] != whole[3]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=80), st.integers(0, 10**6).map(lambda s: stream(s, 8)[:90])), max_size=8))
def test_any_bytes_are_taken(parts: list[bytes]) -> None:
    parser = LvpmParser(3.85)
    last = -1
    for part in parts:
        found = parser.feed(part)
        assert np.all(np.diff(found.index) > 0)
        assert found.index.size == 0 or found.index[0] > last
        last = int(found.index[-1]) if found.index.size else last
    assert len(parser._buffer) < 520
