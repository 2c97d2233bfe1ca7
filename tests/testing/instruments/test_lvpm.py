"""The LVPM emulator, byte by byte."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from deepen.testing.instruments.base import Emulator
from deepen.testing.instruments.lvpm import STATUS, LvpmEmulator, frame_lvpm_packet
from deepen.testing.instruments.signal import BlockSignal, StepSignal

STATUS_REQUEST = bytes.fromhex("04 01 00 00 05")
START = bytes.fromhex("08 02 ff ff ff ff 03 e8 f1")
STOP = bytes.fromhex("03 03 00 06")


def streaming(signal, volts: float = 4.0, **options) -> LvpmEmulator:
    unit = LvpmEmulator(signal, volts=volts, **options)
    assert unit.receive(START, 1000.0) == b""
    return unit


def test_it_is_an_emulator() -> None:
    assert isinstance(LvpmEmulator(StepSignal([], [1.0])), Emulator)


def test_packets_are_framed_by_length_and_sum() -> None:
    assert frame_lvpm_packet(b"\x01\x00\x00") == STATUS_REQUEST
    assert frame_lvpm_packet(b"\x02\xff\xff\xff\xff\x03\xe8") == START
    assert frame_lvpm_packet(b"\x03\x00") == STOP


def test_the_status_is_58_bytes_with_41_fields(lvpm_reading) -> None:
    assert len(STATUS) == 41
    assert "".join(STATUS.values()) == "BBBhhhHhhhHBBBxBbHBHHHHBbbHHBBBbbbbbbbbbBH"
    unit = LvpmEmulator(StepSignal([], [0.8]), status={"serial": 4711, "main_fine_resistor": -3})
    unit.receive(
        frame_lvpm_packet(b"\x01\x01\xc8") + frame_lvpm_packet(b"\x01\x0a\xff") + frame_lvpm_packet(b"\x01\x0b\x01"),
        0.0,
    )
    answer = unit.receive(STATUS_REQUEST, 1.0)
    assert len(answer) == 60
    (fields,) = lvpm_reading(answer).statuses
    named = dict(zip(STATUS, fields, strict=True))
    assert named["packet_type"] == 0x10
    assert named["serial"] == 4711
    assert named["main_fine_resistor"] == -3
    assert 2.0 + 0.01 * named["voltage_setting"] == 4.0
    assert named["voltage1"] * 0.000125 == 4.0
    assert named["sample_rate"] * 1000 == 5000
    assert named["run_limit"] == 0x1FF
    assert unit.limit_a == pytest.approx(8 * (1023 - 0x1FF) / 1023)
    assert (named["main_coarse"] & ~1, named["main_coarse"] & 1) == (1406, 1)  # 0.2 A * 20000 / 2.88 + 18, even


def test_the_first_packets_calibrate() -> None:
    unit = streaming(StepSignal([], [0.08]), records=2)
    data = unit.advance(1000.0004)
    zero = bytes.fromhex("20 01 00 00  00 18 00 00 00 00 00 00  00 12 00 00 00 00 00 00  00")
    reference = bytes.fromhex("21 02 00 00  5d d8 00 00 00 00 00 00  4e 32 00 00 00 00 00 00  00")
    sample = bytes.fromhex("38 92 00 00 00 00 7d 00")  # 20 mA * 24000 / 33.2 mA + 24 = 14482 (even); 4 V / 125 uV
    main = int.from_bytes(sample[:2], "big")
    assert abs((main - 24) * 0.0332 / 24000 - 0.02) < 0.0332 / 24000
    assert data == frame_lvpm_packet(zero) + frame_lvpm_packet(reference) + frame_lvpm_packet(
        b"\x22\x00\x00\x00" + sample * 2 + b"\x00"
    )


def test_both_ranges_read_back(lvpm_reading) -> None:
    amperes = np.concatenate([np.linspace(0.0, 0.0399, 70), np.linspace(0.0401, 4.5, 70)])
    unit = streaming(StepSignal(1000.0 + 2e-4 * np.arange(1, 140), 4.0 * amperes))
    read = lvpm_reading(unit.advance(1000.028))
    assert read.coarse == [False] * 70 + [True] * 70
    assert read.volts == [4.0] * 140
    errors = np.abs(np.array(read.amperes) - amperes)
    assert errors[:70].max() <= 1.01 * 0.0332 / 24000
    assert errors[70:].max() <= 1.01 * 2.88 / 20000


def test_the_energy_read_is_the_true_energy(lvpm_reading) -> None:
    unit = streaming(BlockSignal(0.1, 2.0, [(1000.5, 1001.5), (1002.0, 1002.01)]))
    read = lvpm_reading(unit.advance(1002.8))
    assert len(read.amperes) == 14_000
    energy = float(np.dot(read.amperes, read.volts)) / 5000
    assert unit.energy_j(1000.0, 1002.8) == pytest.approx(0.1 * 1.79 + 2.0 * 1.01)
    assert energy == pytest.approx(unit.energy_j(1000.0, 1002.8), rel=1e-3)


def test_the_sequence_counts_every_packet_and_calibration_comes_again(lvpm_reading) -> None:
    at_once, in_parts = (streaming(StepSignal([], [1.0])) for _ in range(2))
    whole = at_once.advance(1003.0)
    moments = [*(1000.0 + 0.0007 * np.arange(1, 4285)).tolist(), 1003.0]
    assert b"".join(in_parts.advance(moment) for moment in moments) == whole
    read = lvpm_reading(whole)
    assert read.sequence == [k % 16 for k in range(len(read.sequence))]
    zeros = [k for k, kind in enumerate(read.kinds) if kind == 1]
    references = [k for k, kind in enumerate(read.kinds) if kind == 2]
    assert zeros == [0, 2 + 714, 4 + 2 * 714]  # 1000 ms of packets of 7 samples at 5 kHz
    assert references == [k + 1 for k in zeros]
    assert len(read.amperes) == 14_994


@pytest.mark.parametrize("after_s", [0.5, np.inf])
def test_calibration_may_be_late_or_missing(after_s: float, lvpm_reading) -> None:
    unit = streaming(StepSignal([], [1.0]), calibrates_after_s=0.5)
    if after_s == np.inf:
        unit.uncalibrate()
    read = lvpm_reading(unit.advance(1001.4))
    assert read.kinds.index(0) == 0
    first = min(k for k, kind in enumerate([*read.kinds, 1]) if kind)
    assert first == (358 if after_s == 0.5 else 1000)
    assert len(read.amperes) == 7 * (1000 - first)


def test_a_limited_number_of_samples_ends_by_itself(lvpm_reading) -> None:
    unit = LvpmEmulator(StepSignal([], [1.0]), volts=4.0)
    unit.receive(frame_lvpm_packet(b"\x02" + struct.pack(">IH", 17, 1000)), 1000.0)
    read = lvpm_reading(unit.advance(1010.0))
    assert len(read.amperes) == 17
    assert len(read.kinds) == 5
    assert unit.advance(1020.0) == b""


def test_stop_ends_the_stream() -> None:
    unit = streaming(StepSignal([], [1.0]))
    unit.advance(1000.01)
    unit.receive(STOP, 1000.01)
    assert unit.advance(1001.0) == b""
    assert unit.commands == [START[1:-1], STOP[1:-1]]


def test_voltage_above_what_a_signed_word_holds(lvpm_reading) -> None:
    read = lvpm_reading(streaming(StepSignal([], [1.0]), volts=4.5).advance(1000.01))
    assert set(read.volts) == {4.5}


def test_too_much_current_cuts_the_output(lvpm_reading) -> None:
    unit = streaming(StepSignal([1000.007], [1.0, 12.0]))
    unit.receive(frame_lvpm_packet(b"\x01\x0b\x02"), 1000.0)  # raw 512: 4 A, but 12 W at 4 V are 3 A
    assert unit.limit_a == pytest.approx(3.9961, abs=1e-4)
    assert not unit.tripped_s
    unit.receive(frame_lvpm_packet(b"\x01\x0b\x03"), 1000.0)  # raw 768: 2 A
    read = lvpm_reading(unit.advance(1000.014))
    assert unit.tripped_s == [pytest.approx(1000.0072)]
    assert read.amperes[34] == pytest.approx(0.25, abs=2e-4)
    assert read.amperes[35] == pytest.approx(3.0, abs=2e-4)
    assert max(map(abs, read.amperes[36:])) < 1e-5
    assert max(read.volts[36:]) == 0
    assert unit.energy_j(1000.0, 1001.0) == pytest.approx(7e-3 + 12 * 0.2e-3)


def test_the_inrush_of_a_high_step_trips_and_a_ramp_does_not() -> None:
    def raw(volts: float) -> bytes:
        return frame_lvpm_packet(bytes([1, 1, round(100 * (volts - 2.0))]))

    jumped, ramped = (LvpmEmulator(StepSignal([], [1.0]), trip_step_v=0.1) for _ in range(2))
    jumped.receive(raw(4.2), 1.0)
    assert (jumped.supply.volts, jumped.tripped_s) == (0.0, [1.0])
    for k in range(13):
        ramped.receive(raw(3.0 + 0.1 * k), 1.0 + 0.1 * k)
    assert (ramped.supply.volts, ramped.tripped_s) == (pytest.approx(4.2), [])
    ramped.receive(frame_lvpm_packet(b"\x01\x01\x00"), 3.0)
    assert ramped.supply.volts == 0


def test_what_it_does_not_understand_it_refuses() -> None:
    unit = LvpmEmulator(StepSignal([], [1.0]))
    bad = STATUS_REQUEST[:-1] + b"\x06"
    odd = frame_lvpm_packet(b"\x01\x77\x00")
    assert unit.receive(b"\x00" + bad + odd + STATUS_REQUEST[:2], 0.0) == b""
    assert unit.refused == [bad, odd]
    assert len(unit.receive(STATUS_REQUEST[2:], 0.0)) == 60
    unit.receive(frame_lvpm_packet(b"\x01\x1b\x01") + frame_lvpm_packet(b"\x01\x10\x02"), 0.0)
    assert unit.status["usb_passthrough"] == 2
    assert len(unit.refused) == 2


def test_lost_and_spoilt_packets(lvpm_reading) -> None:
    unit = streaming(StepSignal([], [1.0]))
    unit.advance(1000.014)
    lost, spoilt = unit.wire.lose(3), unit.wire.corrupt_checksums(2)
    data = unit.advance(1000.028)
    read = lvpm_reading(data)
    assert read.bad == 2
    assert (lost.samples, spoilt.samples) == (21, 14)
    assert read.sequence == [1, 2, 3, 4, 5]  # 0 to 11 were sent, 12 to 14 are lost, 15 and 0 are spoilt


def test_samples_in_bytes_of_packets_of_two_lengths() -> None:
    unit = streaming(StepSignal([], [1.0]))
    data = unit.advance(1000.0042)  # calibration of 23 bytes twice, then 3 packets of 63 bytes
    assert len(data) == 2 * 23 + 3 * 63
    spans = [(0, 46), (45, 46), (45, 47), (46, 109), (108, 110), (0, len(data)), (50, 50)]
    assert [unit.samples_in(*span) for span in spans] == [0, 0, 7, 7, 14, 21, 0]
