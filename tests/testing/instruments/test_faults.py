"""Faults strike when and where they are planned, and know what they did."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from deepen.testing.instruments.base import Emulator
from deepen.testing.instruments.faults import (
    FAULT_MAKERS,
    BadChecksum,
    ClockPause,
    CorruptBytes,
    CounterJump,
    DuplicateBytes,
    Fault,
    FaultyLine,
    LoseBytes,
    LoseFrames,
    NoCalibration,
    SplitReads,
    Stall,
    Unplug,
    VoltageDroop,
)
from deepen.testing.instruments.lvpm import LvpmEmulator, frame_lvpm_packet
from deepen.testing.instruments.powersensor3 import PowerSensor3Emulator
from deepen.testing.instruments.ppk2 import Ppk2Emulator
from deepen.testing.instruments.signal import StepSignal

START = {"ppk2": b"\x0c\x01\x06", "powersensor3": b"S", "lvpm": frame_lvpm_packet(b"\x02\xff\xff\xff\xff\x03\xe8")}
FRAME = {"ppk2": 4, "powersensor3": 18}


def emulator(name: str) -> Emulator:
    signal = StepSignal([1000.7], [1.0, 2.0])
    return {"ppk2": Ppk2Emulator, "powersensor3": PowerSensor3Emulator, "lvpm": lambda s: LvpmEmulator(s, volts=4.0)}[
        name
    ](signal)


def play(name: str, *faults: Fault, until_s: float = 1001.0, step_s: float = 0.01) -> bytes:
    line = FaultyLine(emulator(name), faults)
    out = line.receive(START[name], 1000.0)
    moments = np.arange(1, round((until_s - 1000.0) / step_s) + 1) * step_s + 1000.0
    return out + b"".join(line.advance(t) for t in moments.tolist())


@pytest.fixture(scope="module")
def clean() -> dict[str, bytes]:
    return {name: play(name) for name in START}


def test_without_faults_nothing_changes(clean) -> None:
    for name in START:
        unit = emulator(name)
        unit.receive(START[name], 1000.0)
        assert unit.advance(1001.0) == clean[name]


@pytest.mark.parametrize("name", START)
@pytest.mark.parametrize("kind", FAULT_MAKERS)
def test_a_fault_does_not_depend_on_how_time_passes(kind: str, name: str) -> None:
    found = []
    for step_s in (1.0, 0.1, 0.0037):
        fault = FAULT_MAKERS[kind](0.25)
        assert isinstance(fault, Fault)
        found.append((play(name, fault, until_s=1001.0, step_s=step_s), fault.lost, fault.damaged))
    at_once, *others = found
    for data, lost, damaged in others:
        cut = min(len(data), len(at_once[0]))  # the last step is not a whole one
        assert data[:cut] == at_once[0][:cut]
        assert len(at_once[0]) - cut < 8000
        if kind != "endless stall":
            assert (lost, damaged) == at_once[1:]


@pytest.mark.parametrize("name", START)
@pytest.mark.parametrize("kind", sorted(set(FAULT_MAKERS) - {"split reads"}))
def test_every_fault_changes_the_stream_or_has_no_meaning_there(kind: str, name: str, clean) -> None:
    meaningless = {("bad checksums", "ppk2"), ("bad checksums", "powersensor3")}
    elsewhere = {("missing calibration", "ppk2"), ("missing calibration", "powersensor3")}  # in the conversation
    same = {("stall with burst", name)}
    changed = play(name, FAULT_MAKERS[kind](0.25)) != clean[name]
    assert changed == ((kind, name) not in meaningless | elsewhere | same)


@pytest.mark.parametrize("name", FRAME)
@pytest.mark.parametrize(("count", "skip"), [(1, 0), (1, 2), (4, 3), (101, 3), (5000, 0)])
def test_lost_bytes(name: str, count: int, skip: int, clean) -> None:
    fault = LoseBytes(0.5, count, skip)
    data = play(name, fault)
    half = len(clean[name]) // 2
    assert data == clean[name][: half + skip] + clean[name][half + skip + count :]
    frames = {(half + skip + k) // FRAME[name] for k in range(count)}
    assert fault.lost == len(frames)


@pytest.mark.parametrize("name", FRAME)
def test_corrupted_bytes_are_really_changed(name: str, clean) -> None:
    fault = CorruptBytes(0.5, 30, skip=1, seed=2)
    data = np.frombuffer(play(name, fault), np.uint8)
    where = np.flatnonzero(data != np.frombuffer(clean[name], np.uint8))
    half = len(clean[name]) // 2
    assert where.tolist() == list(range(half + 1, half + 31))
    assert fault.damaged == len({k // FRAME[name] for k in where.tolist()})
    assert fault.lost == 0


@pytest.mark.parametrize("name", FRAME)
def test_duplicated_bytes(name: str, clean) -> None:
    half = len(clean[name]) // 2
    fault = DuplicateBytes(0.5, 7, skip=2)
    assert play(name, fault) == clean[name][: half + 9] + clean[name][half + 2 :]
    assert fault.doubled == 7


def test_two_faults_at_one_moment_both_strike(clean) -> None:
    first, second = LoseBytes(0.5), LoseBytes(0.5)
    data = play("ppk2", first, second)
    assert len(data) == len(clean["ppk2"]) - 2
    assert (first.lost, second.lost) == (1, 1)


def test_lost_frames_and_counter_jumps(ppk2_reading) -> None:
    text = Ppk2Emulator(StepSignal([], [1.0])).metadata().decode()
    loss, jump = LoseFrames(0.25, 5), CounterJump(0.5, 9)
    counters = ppk2_reading(play("ppk2", loss, jump), text, 3.3).counters
    steps = {k: (b - a) % 64 for k, (a, b) in enumerate(pairwise(counters)) if (b - a) % 64 != 1}
    assert steps == {24_999: 6, 49_994: 10}
    assert (loss.lost, jump.lost) == (5, 0)


def test_bad_checksums(lvpm_reading) -> None:
    fault = BadChecksum(0.5, 3)
    read = lvpm_reading(play("lvpm", fault))
    assert read.bad == 3
    assert fault.damaged == 21


def test_a_stall_swallows_or_holds_back(clean) -> None:
    lossy, holding = Stall(0.5, 0.1), Stall(0.5, 0.1, lossy=False)
    tenth = len(clean["ppk2"]) // 10
    assert play("ppk2", lossy) == clean["ppk2"][: 5 * tenth] + clean["ppk2"][6 * tenth :]
    assert lossy.lost == tenth // 4
    line = FaultyLine(emulator("ppk2"), [holding])
    line.receive(START["ppk2"], 1000.0)
    assert len(line.advance(1000.55)) == 5 * tenth
    assert line.advance(1000.59) == b""
    assert len(line.advance(1000.61)) == tenth + tenth // 10
    assert line.lost == 0


def test_a_stall_swallows_answers_too() -> None:
    line = FaultyLine(emulator("ppk2"), [Stall(0.1, math.inf)])
    line.receive(START["ppk2"], 1000.0)
    line.advance(1000.2)
    assert line.receive(b"\x19", 1000.3) == b""


def test_after_the_cable_is_pulled_nothing_comes(clean) -> None:
    line = FaultyLine(emulator("ppk2"), [Unplug(0.5)])
    line.receive(START["ppk2"], 1000.0)
    assert line.advance(1001.0) == clean["ppk2"][: len(clean["ppk2"]) // 2]
    assert line.unplugged
    assert line.receive(b"\x19", 1002.0) == b""


def test_a_paused_clock_loses_samples_in_silence(ppk2_reading, clean) -> None:
    fault = ClockPause(0.5, 0.05)
    data = play("ppk2", fault)
    assert (len(clean["ppk2"]) - len(data)) // 4 == fault.lost == 5000
    counters = ppk2_reading(data, Ppk2Emulator(StepSignal([], [1.0])).metadata().decode(), 3.3).counters
    assert {(b - a) % 64 for a, b in pairwise(counters)} == {1}


def test_a_droop_shows_in_the_voltage(lvpm_reading) -> None:
    read = lvpm_reading(play("lvpm", VoltageDroop(0.25, 0.5, 0.4)))
    volts = np.array(read.volts)
    assert set(volts[:1250]) == {4.0}
    assert set(volts[1251:3749]) == {3.6}
    assert set(volts[3751:]) == {4.0}


def test_no_calibration_from_the_first_byte(lvpm_reading) -> None:
    assert set(lvpm_reading(play("lvpm", NoCalibration())).kinds) == {0}


def test_split_reads_cut_anywhere() -> None:
    line = FaultyLine(emulator("ppk2"), [SplitReads(most=5, seed=1)])
    sizes = [line.piece(1000) for _ in range(200)]
    assert set(sizes) == {1, 2, 3, 4, 5}
    assert line.piece(1) == 1
    assert FaultyLine(emulator("ppk2")).piece(1000) == 1000


def test_planned_moments_count_from_the_first_start() -> None:
    line = FaultyLine(emulator("ppk2"), [LoseFrames(0.5, 3)])
    line.advance(1005.0)
    line.receive(START["ppk2"], 1010.0)
    line.receive(b"\x07", 1010.2)
    line.receive(START["ppk2"], 1010.3)
    line.advance(1010.45)
    assert line.lost == 0
    line.advance(1010.6)
    assert line.lost == 3
