"""Readings of the protocols for tests of emulators, from the description of the protocol alone, one value at a time."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest

from deepen.testing.clock import VirtualClock


@dataclass
class LvpmReading:
    """What an LVPM's stream says."""

    amperes: list[float] = field(default_factory=list)
    volts: list[float] = field(default_factory=list)
    coarse: list[bool] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    statuses: list[tuple[int, ...]] = field(default_factory=list)
    bad: int = 0


def read_lvpm(data: bytes) -> LvpmReading:
    found = LvpmReading()
    zero = reference = None
    while data:
        size = data[0]
        body, check = data[1:size], data[size]
        data = data[size + 1 :]
        if (size + sum(body)) % 256 != check:
            found.bad += 1
            continue
        if body[0] == 0x10:
            found.statuses.append(struct.unpack(">BBBhhhHhhhHBBBxBbHBHHHHBbbHHBBBbbbbbbbbbBH", body))
            continue
        assert body[0] >> 4 == 2
        found.sequence.append(body[0] & 15)
        found.kinds.append(body[1])
        records = [struct.unpack(">hhhH", body[k : k + 8]) for k in range(4, len(body) - 8, 8)]
        mains = [r[0] for r in records]
        if body[1] == 1:
            zero = mains[:2]
        elif body[1] == 2:
            reference = mains[:2]
        elif zero and reference:
            for main, _, _, voltage in records:
                coarse = main & 1
                full = 2.88 if coarse else 0.0332
                value = main & ~1
                found.amperes.append((value - zero[coarse]) * full / (reference[coarse] - zero[coarse]))
                found.coarse.append(bool(coarse))
                found.volts.append(voltage * 0.000125)
    return found


@dataclass
class Ppk2Reading:
    """What a PPK2's stream says."""

    amperes: list[float] = field(default_factory=list)
    ranges: list[int] = field(default_factory=list)
    counters: list[int] = field(default_factory=list)
    logic: list[int] = field(default_factory=list)


def read_ppk2(data: bytes, metadata: str, volts: float) -> Ppk2Reading:
    values = {k: float(v) for k, _, v in (line.partition(": ") for line in metadata.splitlines()) if v}
    found = Ppk2Reading()
    for (word,) in struct.iter_unpack("<I", data):
        k = min(word >> 14 & 7, 4)
        r, gs, gi, o, s, i, ug = (values[f"{name}{k}"] for name in ("R", "GS", "GI", "O", "S", "I", "UG"))
        reading = ((word & 0x3FFF) * 4 - o) * (1.8 / 163840) / r
        found.amperes.append(ug * (reading * (gs * reading + gi) + s * volts + i))
        found.ranges.append(k)
        found.counters.append(word >> 18 & 63)
        found.logic.append(word >> 24)
    return found


@dataclass
class PowerSensorReading:
    """What a PowerSensor3's stream says."""

    stamps_us: list[int] = field(default_factory=list)
    levels: list[list[int]] = field(default_factory=list)
    marked: list[bool] = field(default_factory=list)


def read_powersensor3(data: bytes) -> PowerSensorReading:
    found = PowerSensorReading()
    for high, low in struct.iter_unpack("BB", data):
        assert high & 0x80
        assert not low & 0x80
        sensor, marker, level = high >> 4 & 7, bool(low & 0x40), (high & 15) << 6 | low & 0x3F
        if sensor == 7 and marker:
            found.stamps_us.append(level)
            found.levels.append([])
            continue
        assert sensor == len(found.levels[-1])
        found.levels[-1].append(level)
        if sensor == 0:
            found.marked.append(marker)
        else:
            assert not marker
    return found


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def lvpm_reading():
    return read_lvpm


@pytest.fixture
def ppk2_reading():
    return read_ppk2


@pytest.fixture
def powersensor3_reading():
    return read_powersensor3
