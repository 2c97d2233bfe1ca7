"""The PPK2 emulator, byte by byte."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from deepen.testing.instruments.base import Emulator
from deepen.testing.instruments.ppk2 import THRESHOLDS_A, EmulatedPpk2Calibration, Ppk2Emulator
from deepen.testing.instruments.signal import BlockSignal, RampSignal, StepSignal

START, STOP, METADATA, ON, OFF = b"\x06", b"\x07", b"\x19", b"\x0c\x01", b"\x0c\x00"


def streaming(signal, **options) -> Ppk2Emulator:
    unit = Ppk2Emulator(signal, **options)
    assert unit.receive(ON + START, 1000.0) == b""
    return unit


def test_it_is_an_emulator() -> None:
    assert isinstance(Ppk2Emulator(StepSignal([], [1.0])), Emulator)


def test_a_sample_is_a_word_of_four_bytes() -> None:
    unit = streaming(
        StepSignal([], [0.0]), calibration=EmulatedPpk2Calibration(o=(40.0,) * 5, s=(0.0,) * 5, i=(0.0,) * 5)
    )
    unit.logic.set(1000.000015, 5, True)
    assert unit.advance(1000.00003) == struct.pack("<III", 10, 10 | 1 << 18 | 32 << 24, 10 | 2 << 18 | 32 << 24)


@pytest.mark.parametrize("span", range(5))
def test_each_range_reads_back_to_its_resolution(span: int, ppk2_reading) -> None:
    edges = [200e-9, *THRESHOLDS_A, 1.0]
    amperes = np.geomspace(edges[span] * 1.001, edges[span + 1] * 0.999, 500)
    times = 1000.0 + 1e-5 * np.arange(500)
    unit = streaming(StepSignal(times[1:], 3.3 * amperes))
    read = ppk2_reading(unit.advance(1000.005), unit.metadata().decode(), 3.3)
    assert read.ranges == [span] * 500
    resolution = 4 * 1.8 / 163840 / (1031.64, 101.65, 10.15, 0.94, 0.043)[span]
    slope = 1 + 2 * (0.0, 112.789, 18.0115, 2.5050, 0.0)[span] * amperes  # d current / d reading, at most
    assert (np.abs(read.amperes - amperes) <= 0.51 * resolution * slope + 1e-9).all()


def test_the_energy_read_is_the_true_energy(ppk2_reading) -> None:
    unit = streaming(BlockSignal(0.03, 0.9, [(1000.1, 1000.2), (1000.25, 1000.3)]))
    read = ppk2_reading(unit.advance(1000.5), unit.metadata().decode(), 3.3)
    assert len(read.amperes) == 50_000
    true_j = unit.energy_j(1000.0, 1000.5)
    assert true_j == pytest.approx(0.03 * 0.35 + 0.9 * 0.15)
    assert sum(read.amperes) * 3.3 * 1e-5 == pytest.approx(true_j, rel=2e-3)


def test_metadata_is_lines_up_to_end() -> None:
    lines = Ppk2Emulator(StepSignal([], [1.0]), regulator_v=3.7).receive(METADATA, 0.0).decode("ascii").split("\n")
    assert lines[-2:] == ["END", ""]
    values = dict(line.split(": ") for line in lines[:-2])
    assert {f"{name}{k}" for name in ("R", "GS", "GI", "O", "S", "I", "UG") for k in range(5)} < values.keys()
    assert values["VDD"] == "3700"
    assert values["R0"] == "1031.6400"
    assert float(values["I4"]) == -3.9e-3
    assert {"HW", "mode"} < values.keys()


def test_metadata_with_the_defects_of_real_units() -> None:
    unit = Ppk2Emulator(StepSignal([], [1.0]), defects={"R2": "0.0000", "S4": "-nan", "HW": ""})
    text = unit.metadata().decode()
    assert "R2: 0.0000\n" in text
    assert "S4: -nan\n" in text
    assert "HW" not in text
    unit.uncalibrate()
    assert unit.metadata().decode().count("-nan") == 35


def test_a_user_gain_is_stored() -> None:
    unit = Ppk2Emulator(StepSignal([], [1.0]))
    unit.receive(b"\x25\x03" + struct.pack("<f", 1.25), 0.0)
    assert b"UG3: 1.25\n" in unit.metadata()


def test_the_counter_runs_modulo_64_across_streams(ppk2_reading) -> None:
    unit = streaming(StepSignal([], [0.5]), counter=60)
    text = unit.metadata().decode()
    assert ppk2_reading(unit.advance(1000.0001), text, 3.3).counters == [60, 61, 62, 63, 0, 1, 2, 3, 4, 5]
    unit.receive(STOP, 1000.0001)
    assert unit.advance(1001.0) == b""
    unit.receive(START, 1001.0)
    assert ppk2_reading(unit.advance(1001.00002), text, 3.3).counters == [6, 7]
    unit.receive(b"\x20", 1002.0)
    assert not unit.powered
    unit.receive(START, 1003.0)
    assert ppk2_reading(unit.advance(1003.00002), text, 3.3).counters == [0, 1]


def test_power_and_voltage_follow_the_commands() -> None:
    unit = Ppk2Emulator(StepSignal([], [1.0]), external_v=4.2)
    assert unit.supply.volts == 0
    unit.receive(b"\x0d\x0b", 1.0)  # split inside a command
    unit.receive(b"\xb8" + ON, 1.0)
    assert unit.supply.volts == 3.0
    unit.receive(b"\x0d" + (799).to_bytes(2, "big") + b"\x0d" + (5001).to_bytes(2, "big"), 2.0)
    assert unit.supply.volts == 3.0
    assert len(unit.unknown) == 6
    unit.receive(b"\x11\x01", 3.0)
    assert (unit.mode, unit.supply.volts) == (1, 4.2)
    unit.receive(OFF, 4.0)
    assert unit.energy_j(0.0, 10.0) == pytest.approx(3.0)
    unit.receive(b"\x16\xee\x11\x07", 5.0)
    assert not unit.spike_filter
    assert unit.unknown[6:] == b"\xee\x11\x07"


def test_no_load_reads_nothing(ppk2_reading) -> None:
    unit = Ppk2Emulator(StepSignal([], [1.0]))
    unit.receive(START, 0.0)
    read = ppk2_reading(unit.advance(0.001), unit.metadata().decode(), 0.0)
    assert max(map(abs, read.amperes)) < 50e-9


def test_too_much_current_clips() -> None:
    words = np.frombuffer(streaming(StepSignal([], [1e3])).advance(1000.001), "<u4")
    assert (words & 0x3FFF == 0x3FFF).all()


def test_spikes_after_a_change_of_range_reach_across_calls() -> None:
    signal = RampSignal([1000.0, 1000.001], [0.0, 3.3])
    plain, spiked = streaming(signal), streaming(signal, spike=0.5)
    expected = np.frombuffer(plain.advance(1000.001), "<u4")
    found = np.frombuffer(b"".join(spiked.advance(1000.0 + k * 1e-5) for k in range(101)), "<u4")
    ranges = expected >> 14 & 7
    after = np.flatnonzero(np.diff(ranges)) + 1
    hit = np.unique(np.concatenate([after, after + 1]))
    ratio = (found & 0x3FFF) / (expected & 0x3FFF)
    assert ratio[hit] == pytest.approx(1.5, rel=0.01)
    assert np.delete(ratio, hit) == pytest.approx(1.0)


def test_noise_is_seeded() -> None:
    first, again, other = (streaming(StepSignal([], [0.5]), noise_a=1e-4, seed=s).advance(1000.01) for s in (1, 1, 2))
    assert first == again != other


def test_lost_frames_leave_a_hole_in_the_counter(ppk2_reading) -> None:
    unit = streaming(StepSignal([], [0.5]))
    unit.advance(1000.0001)
    toll = unit.wire.lose(7)
    unit.wire.jump(2)
    data = unit.advance(1000.0002)
    assert ppk2_reading(data, unit.metadata().decode(), 3.3).counters == [19, 20, 21]
    assert toll.samples == 7


def test_samples_in_bytes() -> None:
    unit = Ppk2Emulator(StepSignal([], [1.0]))
    assert [unit.samples_in(*span) for span in [(0, 0), (0, 1), (3, 5), (4, 8), (7, 13)]] == [0, 1, 2, 1, 3]
