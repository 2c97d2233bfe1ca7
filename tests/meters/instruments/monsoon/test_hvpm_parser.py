from __future__ import annotations

import random
import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepen.meters.instruments.monsoon.hvpm import HVPM, LVPM
from deepen.meters.instruments.monsoon.hvpm_parser import HELD, HvpmChannelCalibration, HvpmParser
from deepen.meters.ports.usb_port import ANSWER, BULK, UsbFrameDecoder, frame_usb_packet
from deepen.meters.stream.types import Samples

CHANNEL = HvpmChannelCalibration(fine_a=0.0365, coarse_a=6.4, fine_offset=15, coarse_offset=10)
VOLTS = 15400  # 3.85 V
ZERO, REFERENCE = (1500, 2000), (31510, 50015)  # coarse, fine


def measured(coarse: int, fine: int, kind: int = 0x00, volts: int = VOLTS) -> bytes:
    words = [coarse & 0xFFFF, fine & 0xFFFF, 0, 0, 0, 0, volts, 0]
    return struct.pack(">8H", *words) + bytes([0, kind])


ZERO_CAL, REFERENCE_CAL = measured(*ZERO, kind=0x10), measured(*REFERENCE, kind=0x30)


def packet(sequence: int, *measurements: bytes, dropped: int = 0, flags: int = 0x20) -> bytes:
    head = struct.pack("<HBB", dropped, flags | sequence & 15, len(measurements))
    return frame_usb_packet(BULK, head + b"".join(measurements))


def feed(*frames: bytes, setting_v: float = 3.85) -> tuple[HvpmParser, Samples]:
    parser = HvpmParser(HVPM, CHANNEL, setting_v)
    return parser, parser.feed(b"".join(frames))


def test_the_layout_of_a_packet_is_that_of_the_makers_library() -> None:
    """As ``swizzlePacket`` reads it: words swapped, then the type is in the first gain byte."""
    raw = packet(5, measured(1, 2), REFERENCE_CAL, dropped=7)[2:-2]
    assert len(raw) == 4 + 2 * 18
    swapped = raw[:4] + b"".join(raw[k + 1 : k + 2] + raw[k : k + 1] for k in range(4, len(raw), 2))
    fields = struct.unpack("<HBB" + "8HBB" * 2, swapped)
    assert fields[:3] == (7, 0x25, 2)
    assert (fields[3], fields[4], fields[9]) == (1, 2, VOLTS)
    assert fields[11] & 0x30 == 0x00
    assert fields[21] & 0x30 == 0x30


def test_currents_follow_offsets_calibration_and_range() -> None:
    first = packet(0, ZERO_CAL, REFERENCE_CAL)
    _, found = feed(first, packet(1, measured(1600, 26015), measured(16510, 64000), measured(1510, 63999)))
    assert found.current_a == pytest.approx([24000 / 48000 * 0.0365, 15000 / 30000 * 6.4, 61984 / 48000 * 0.0365])
    assert found.voltage_v == pytest.approx([3.85] * 3)
    assert found.power_w == pytest.approx(np.asarray(found.current_a) * 3.85)
    assert found.index.tolist() == [2, 3, 4]


def test_currents_of_a_flashed_lvpm_are_signed() -> None:
    parser = HvpmParser(LVPM, HvpmChannelCalibration(0.035946, 3.1034), 3.85)
    calibration = packet(0, measured(-20, -40, 0x10), measured(9980, 19960, 0x30))
    volts = VOLTS * 2
    found = parser.feed(calibration + packet(1, measured(-520, -1040, volts=volts), measured(4980, 30000, volts=volts)))
    assert found.current_a == pytest.approx([-1000 / 20000 * 0.035946, 5000 / 10000 * 3.1034])
    assert found.voltage_v == pytest.approx([3.85] * 2)


def test_the_last_five_calibrations_are_averaged() -> None:
    zeros = [measured(0, 2000 + k, 0x10) for k in (500, 0, 1, 2, 3, 4)]
    _, found = feed(
        *(packet(k, z) for k, z in enumerate(zeros)), packet(6, REFERENCE_CAL), packet(7, measured(0, 26017))
    )
    assert found.current_a == pytest.approx([(26017 - 2017) / (50015 - 2017) * 0.0365])


def test_calibrations_and_invalid_measurements_take_their_place() -> None:
    first = packet(0, ZERO_CAL, REFERENCE_CAL, measured(1510, 2015))
    second = packet(1, measured(0, 0, 0x20), measured(1510, 2015), ZERO_CAL)
    parser, found = feed(first, second, packet(2, REFERENCE_CAL, measured(1510, 2015)))
    assert found.index.tolist() == [2, 4, 7]
    assert (parser.tally.paused, parser.tally.lost) == (2, 1)
    assert found.power_w == pytest.approx(0.0, abs=1e-5)


def test_measurements_that_come_before_the_calibration_are_converted_once_it_is_there() -> None:
    parser, found = feed(packet(0, measured(1510, 26015)))
    assert (found.index.size, parser.tally.uncalibrated) == (0, 1)
    found = parser.feed(packet(1, ZERO_CAL, REFERENCE_CAL, measured(1510, 26015)))
    assert found.index.tolist() == [0, 3]
    assert parser.tally.uncalibrated == 0


def test_without_calibration_memory_stays_bounded_and_it_is_told() -> None:
    parser = HvpmParser(HVPM, CHANNEL, 3.85)
    for k in range(HELD // 3 + 100):
        parser.feed(packet(k, *[measured(0, 0)] * 3))
    assert HELD - 3 < parser._records.count <= HELD
    assert any("calibration was missing" in note for note in parser.tally.notes)


def test_a_calibration_that_makes_no_sense_is_left_out_and_told() -> None:
    bad = measured(1500, 60000, 0x10)
    parser, found = feed(
        packet(0, ZERO_CAL, REFERENCE_CAL), *(packet(1 + k, bad) for k in range(5)), packet(6, measured(1510, 2015))
    )
    assert parser.tally.corrupt > 0
    assert any("made no sense" in note for note in parser.tally.notes)
    assert found.index.size == 1


@pytest.mark.parametrize(
    ("sequence", "dropped", "lost", "ambiguous"),
    [
        (2, 0, 0, 0),
        (5, 0, 9, 1),  # lost after the instrument: only the sequence tells
        (5, 3, 9, 0),  # dropped by the instrument, which counts both
        (2, 3, 9, 0),  # dropped before they had a sequence number
        (5, 19, 57, 0),  # the sequence has wrapped, the count of drops has not
        (6, 3, 12, 1),  # some of both
    ],
)
def test_both_counters_tell_of_losses(sequence: int, dropped: int, lost: int, ambiguous: int) -> None:
    zero = measured(1510, 2015)
    parser, found = feed(
        packet(0, ZERO_CAL, REFERENCE_CAL, zero), packet(1, *[zero] * 3), packet(sequence, *[zero] * 3, dropped=dropped)
    )
    assert (parser.tally.lost, parser.tally.ambiguous) == (lost, ambiguous)
    assert found.index[-1] == 8 + lost


def test_the_count_of_drops_wraps() -> None:
    zero = measured(1510, 2015)
    parser, _ = feed(packet(0, ZERO_CAL, REFERENCE_CAL, zero, dropped=0xFFFE), packet(4, *[zero] * 3, dropped=1))
    assert (parser.tally.lost, parser.tally.ambiguous) == (9, 0)


def test_a_packet_that_comes_twice_counts_once() -> None:
    again = packet(1, measured(1510, 2015))
    parser, found = feed(packet(0, ZERO_CAL, REFERENCE_CAL), again, again)
    assert (found.index.size, parser.tally.duplicates, parser.tally.lost) == (1, 1, 0)


@pytest.mark.parametrize(("flags", "word"), [(0x30, "cut the output off"), (0x00, "not at its voltage")])
def test_flags_make_samples_suspect(flags: int, word: str) -> None:
    parser, found = feed(packet(0, ZERO_CAL, REFERENCE_CAL, measured(0, 0)), packet(1, measured(0, 0), flags=flags))
    assert found.suspect is not None
    assert found.suspect.tolist() == [False, True]
    assert any(word in note for note in parser.tally.notes)


def test_a_voltage_far_from_the_setting_and_a_full_scale_current_are_suspect() -> None:
    parser, found = feed(
        packet(0, ZERO_CAL, REFERENCE_CAL, measured(0, 0)),
        packet(1, measured(0, 0, volts=12000), measured(0xFFFF, 65000)),
    )
    assert found.suspect is not None
    assert found.suspect.tolist() == [False, True, True]
    assert (parser.tally.clipped, parser.tally.range_switches) == (1, 1)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x00\x00\x20", b"\x00\x00\x20\x00", b"\x00\x00\x20\x04" + bytes(80), b"\x00\x00\x20\x03" + bytes(53)],
)
def test_packets_of_another_shape_are_refused(payload: bytes) -> None:
    parser, found = feed(frame_usb_packet(BULK, payload))
    assert (found.index.size, parser.tally.corrupt) == (0, 1)


def test_bytes_after_the_measurements_are_left_out() -> None:
    """The maker's native backend pads packets to 64 bytes."""
    padded = frame_usb_packet(BULK, packet(1, measured(1510, 2015))[2:-2] + bytes(42))
    parser, found = feed(packet(0, ZERO_CAL, REFERENCE_CAL), padded)
    assert (found.index.size, parser.tally.corrupt) == (1, 0)


def stream(seed: int, damage: int) -> bytes:
    rng = random.Random(seed)
    frames = [packet(0, ZERO_CAL, REFERENCE_CAL)]
    for k in range(1, 25):
        kinds = [rng.choice([0, 0, 0, 0, 0, 0x10, 0x20, 0x30]) for _ in range(rng.choice([1, 2, 3]))]
        values = [
            ZERO_CAL
            if kind == 0x10
            else REFERENCE_CAL
            if kind == 0x30
            else measured(rng.randrange(65536), rng.randrange(65536), kind)
            for kind in kinds
        ]
        frames.append(packet(k, *values, flags=rng.choice([0x20] * 9 + [0x30])))
        frames += [frame_usb_packet(ANSWER, b"\x01\x02\x03\x04")] * rng.choice([0, 0, 1])
    out = bytearray(b"".join(frames))
    for _ in range(damage):
        at = rng.randrange(len(out))
        out[at : at + rng.choice([0, 1])] = bytes(rng.randrange(256) for _ in range(rng.choice([0, 1])))
    return bytes(out)


def collect(stream: bytes, cuts: list[int]) -> tuple[list[float], list[int], list[bool], object]:
    parser = HvpmParser(HVPM, CHANNEL, 3.85)
    edges = [0, *sorted(c % (len(stream) + 1) for c in cuts), len(stream)]
    found = Samples.join([parser.feed(stream[a:b]) for a, b in pairwise(edges)])
    suspect = np.zeros(found.index.size, bool) if found.suspect is None else found.suspect
    return found.power_w.tolist(), found.index.tolist(), suspect.tolist(), parser.tally


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 6), st.lists(st.integers(0, 3000), max_size=12))
def test_how_bytes_are_split_makes_no_difference(seed: int, damage: int, cuts: list[int]) -> None:
    whole = stream(seed, damage)
    assert collect(whole, cuts) == collect(whole, [])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_damage_never_goes_unseen(seed: int, damage: int) -> None:
    whole, broken = collect(stream(seed, 0), []), collect(stream(seed, damage), [])
    size = len(broken[1])
    if (broken[0], broken[1]) != (whole[0][:size], whole[1][:size]):
        assert broken[3] != whole[3]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(st.binary(max_size=80), st.binary(max_size=64).map(lambda b: frame_usb_packet(BULK, b))), max_size=12
    )
)
def test_any_bytes_are_taken(parts: list[bytes]) -> None:
    parser = HvpmParser(HVPM, CHANNEL, 3.85)
    last = -1
    for part in parts:
        found = parser.feed(part)
        assert np.all(np.diff(found.index) > 0)
        assert found.index.size == 0 or found.index[0] > last
        last = int(found.index[-1]) if found.index.size else last


@given(st.lists(st.binary(max_size=64), max_size=6), st.lists(st.integers(0, 500), max_size=6))
def test_frames_survive_any_split(payloads: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(frame_usb_packet(BULK, p) for p in payloads)
    unframer = UsbFrameDecoder()
    edges = [0, *sorted(c % (len(whole) + 1) for c in cuts), len(whole)]
    found = [f for a, b in pairwise(edges) for f in unframer.feed(whole[a:b])]
    assert found == [(BULK, p) for p in payloads]
    assert (unframer.corrupt, unframer.skipped) == (0, 0)
