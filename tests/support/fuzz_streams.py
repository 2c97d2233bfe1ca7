"""Targets of fuzzing: every parser of an instrument's stream, with streams of the emulators as seeds.

What must hold for any bytes: no exception; positions strictly increase; powers are finite; counts are not negative; the
result does not depend on how the bytes are split; what is kept between calls stays small.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import numpy as np

from deepen.meters.instruments.joulescope.parser import INPUT, POWER, JoulescopeParser, frame_block
from deepen.meters.instruments.lpm01a import timestamps
from deepen.meters.instruments.lpm01a.parser import Lpm01aAsciiParser, Lpm01aBinaryParser
from deepen.meters.instruments.monsoon import hvpm, lvpm_parser
from deepen.meters.instruments.monsoon.hvpm_parser import HvpmChannelCalibration, HvpmParser
from deepen.meters.instruments.monsoon.lvpm_parser import LvpmParser, frame_packet
from deepen.meters.instruments.powersensor3.config import RECORD, SensorConfig
from deepen.meters.instruments.powersensor3.parser import PowerSensor3Parser
from deepen.meters.instruments.ppk2 import parser
from deepen.meters.instruments.ppk2.calibration import Ppk2Calibration
from deepen.meters.instruments.profile_file import ProfileTable
from deepen.meters.instruments.text_lines import line_format
from deepen.meters.instruments.text_lines.parser import LineParser
from deepen.meters.ports.usb_port import ANSWER, BULK, UsbFrameDecoder
from deepen.meters.ports.usb_port import frame_usb_packet as usb_frame
from deepen.meters.stream.types import MOST_NOTES, Parser, Samples, StreamCounts
from deepen.testing.instruments import hvpm as emulated_hvpm
from deepen.testing.instruments import joulescope, line, lpm01a, lvpm, powersensor3, ppk2
from deepen.testing.instruments.signal import StepSignal

__all__ = ["StreamTarget", "make_stream_targets"]

MOST_KEPT = 8 << 20
"""Bytes a parser may keep between calls: some seconds of samples that wait for a calibration or a time stamp."""


@dataclass(slots=True)
class StreamTarget:
    """A parser of a stream.

    Attributes:
        name: What it is.
        make: Makes a parser.
        seeds: Valid streams.
        tokens: What streams are made of.
        share: Weight among the targets.
        most_kept: Bytes a parser may keep between calls.
    """

    name: str
    make: Callable[[], Parser]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    share: float = 1.0
    most_kept: int = MOST_KEPT

    def check(self, inputs: Sequence[bytes], rng: random.Random) -> None:
        """Feed one stream to two parsers, split differently, and compare.

        Raises:
            AssertionError: If something does not hold.
        """
        stream = b"".join(inputs)
        most = rng.choice((1, 7, 64, 600)) if len(stream) < 2000 else rng.choice((64, 600, 600, 5000, 5000, 5000))
        whole = _feed_parser(self.make(), [stream], self.most_kept)
        split = _feed_parser(self.make(), _split_stream(stream, most, rng), self.most_kept)
        for key, value in whole.items():
            same = np.array_equal(value, split[key]) if isinstance(value, np.ndarray) else value == split[key]
            assert same, f"{key} depends on how the bytes are split"


def _split_stream(stream: bytes, most: int, rng: random.Random) -> list[bytes]:
    """A stream in pieces of at most so many bytes."""
    found, at = [], 0
    while at < len(stream):
        size = rng.randrange(1, most + 1)
        found.append(stream[at : at + size])
        at += size
    return found


def _feed_parser(parser: Parser, pieces: Sequence[bytes], most_kept: int) -> dict[str, Any]:
    """Feed pieces; returns all there is to compare."""
    parts: list[Samples] = []
    doubts: list[tuple[int, int]] = []
    last = -1
    fresh = _estimate_kept_bytes(parser)
    for piece in pieces:
        samples = parser.feed(piece)
        told = getattr(parser, "doubts", [])
        doubts += told
        told.clear()
        if not samples.index.size:
            continue
        assert samples.index.dtype == np.int64, "positions are no int64"
        assert int(samples.index[0]) > last, "positions go back"
        assert bool((np.diff(samples.index) > 0).all()), "positions do not increase"
        last = int(samples.index[-1])
        for column in (samples.current_a, samples.voltage_v, samples.power_w):
            if column is not None:
                assert column.shape == samples.index.shape, "columns differ in length"
                assert bool(np.isfinite(column).all()), "a value is not finite"
        parts.append(samples)
    assert _estimate_kept_bytes(parser) - fresh < most_kept, f"{_estimate_kept_bytes(parser) - fresh} bytes are kept"
    assert all(a < b for a, b in doubts), "a doubtful stretch is empty"
    return {
        **_join_samples(parts),
        **_check_counts(parser.tally),
        "doubts": doubts,
        "received": getattr(parser, "received", None),
    }


def _join_samples(parts: Sequence[Samples]) -> dict[str, Any]:
    n = sum(p.index.size for p in parts)
    suspect = [np.zeros(p.index.size, bool) if p.suspect is None else p.suspect for p in parts]
    logic = [np.zeros(p.index.size, np.uint8) if p.logic is None else p.logic for p in parts]
    none: list[Any] = [np.empty(0)]
    return {
        "number of samples": n,
        "positions": np.concatenate([p.index for p in parts] or none),
        "powers": np.concatenate([p.power_w for p in parts] or none),
        "suspects": np.concatenate(suspect or none),
        "inputs": np.concatenate(logic or none),
    }


def _check_counts(tally: StreamCounts) -> dict[str, Any]:
    found = {f.name: getattr(tally, f.name) for f in fields(tally)}
    assert all(v >= 0 for k, v in found.items() if k != "notes"), f"a count is negative: {found}"
    assert len(tally.notes) <= MOST_NOTES + 1, "notes have no end"
    return {**found, "notes": sorted(tally.notes)}  # their order tells nothing


def _estimate_kept_bytes(thing: Any, depth: int = 0) -> int:
    """Bytes an object keeps, roughly."""
    if isinstance(thing, np.ndarray):
        return int(thing.nbytes)
    if isinstance(thing, bytes | bytearray | str):
        return sys.getsizeof(thing)
    if depth > 4:
        return 64
    if isinstance(thing, Mapping):
        return 64 + sum(_estimate_kept_bytes(v, depth + 1) for v in thing.values())
    if isinstance(thing, (list, tuple, set)) or type(thing).__name__ == "deque":
        return 64 + sum(_estimate_kept_bytes(v, depth + 1) for v in thing)
    inside = getattr(thing, "__dict__", None) or {
        k: getattr(thing, k) for k in getattr(type(thing), "__slots__", ()) if hasattr(thing, k)
    }
    return 64 + sum(_estimate_kept_bytes(v, depth + 1) for v in inside.values())


def make_stream_targets() -> list[StreamTarget]:
    """All parsers of streams."""
    rng = random.Random(1)
    return [
        _make_lvpm_target(rng),
        *_make_usb_targets(rng),
        _make_ppk2_target(),
        _make_powersensor3_target(),
        *_make_lpm01a_targets(),
        *_make_line_targets(),
        _make_joulescope_target(rng),
    ]


def _make_random_load(least_w: float, most_w: float) -> StepSignal:
    rng = np.random.default_rng(3)
    edges = 1000.0 + np.cumsum(rng.uniform(0.002, 0.03, 300))
    return StepSignal(edges, rng.uniform(least_w, most_w, edges.size + 1))


def _record_stream(emulator: Any, start: bytes, seconds: float) -> bytes:
    """What an emulator streams from a start command on."""
    answer: bytes = emulator.receive(start, 1000.0)
    streamed: bytes = emulator.advance(1000.0 + seconds)
    return answer + streamed


def _make_lvpm_target(rng: random.Random) -> StreamTarget:
    start = frame_packet(b"\x02\xff\xff\xff\xff\x03\xe8")
    seeds = [
        _record_stream(lvpm.LvpmEmulator(_make_random_load(0.01, 3.0), volts=v, records=n, noise_a=1e-3), start, 0.1)
        for v, n in ((4.0, 7), (2.5, 3))
    ]
    bodies = [
        bytes([0x20 | k % 16, kind]) + rng.randbytes(2 + 8 * n + 1) for k in range(8) for kind, n in ((0, 7), (1, 2))
    ]
    bodies += [b"\x20\x02" + rng.randbytes(2 + 8 * n + 1) for n in (0, 1, 2, 5)] + [rng.randbytes(13), b"\x10" * 58]
    tokens = [*map(frame_packet, bodies), b"\0", lvpm_parser.frame_packet(b"\x31\x00" + bytes(2 + 8 * 30 + 1))]
    return StreamTarget("lvpm", lambda: LvpmParser(4.0), seeds, tokens)


def _make_usb_targets(rng: random.Random) -> list[StreamTarget]:
    start = struct.pack("<BBHHH", 0x40, 0x02, 1250, 0, 4) + b"\xff" * 4
    seeds = [
        _record_stream(
            emulated_hvpm.HvpmEmulator(_make_random_load(0.01, 3.0), model=model, volts=4.0, invalid_every=50),
            start,
            0.15,
        )
        for model in ("HVPM", "LVPM")
    ]
    packets = [
        struct.pack("<HBB", rng.randrange(4), 0x20 | k % 16, n)
        + b"".join(rng.randbytes(17) + bytes([kind]) for _ in range(n))
        for k in range(8)
        for n, kind in ((3, 0), (1, 0x10), (2, 0x30), (3, 0x20))
    ]
    packets += [b"", b"\0\0\x20\x03", struct.pack("<HBB", 65535, 0x3F, 255) + rng.randbytes(200)]
    tokens = [usb_frame(rng.choice((BULK, BULK, BULK, ANSWER)), p) for p in packets]
    channel = HvpmChannelCalibration(0.0365, 6.4, 15.0, 15.0)
    return [
        StreamTarget("hvpm", lambda: HvpmParser(hvpm.HVPM, channel, 4.0), seeds, tokens),
        StreamTarget("hvpm (LVPM)", lambda: HvpmParser(hvpm.LVPM, channel, 4.0), seeds, tokens, 0.5),
        StreamTarget("usb frames", _FrameParser, seeds, tokens, 0.5),
    ]


class _FrameParser:
    """The unframer as a parser: a sample is a frame, its power the sum of its bytes."""

    def __init__(self) -> None:
        self.tally = StreamCounts()
        self._frames = UsbFrameDecoder()
        self._next = 0

    def feed(self, data: bytes) -> Samples:
        found = self._frames.feed(data)
        first, self._next = self._next, self._next + len(found)
        self.tally.corrupt, self.tally.skipped_bytes = self._frames.corrupt, self._frames.skipped
        power = np.array([sum(payload) + kind for kind, payload in found], np.float64)
        return Samples(np.arange(first, self._next, dtype=np.int64), power)


def _make_ppk2_target() -> StreamTarget:
    unit = ppk2.Ppk2Emulator(_make_random_load(1e-4, 1.0), noise_a=1e-6)
    calibration = Ppk2Calibration.parse(unit.metadata().decode())
    assert calibration is not None
    table = calibration.current_a(3.3)
    known: Any = SimpleNamespace(
        values=calibration.values, nominal=("R3",), ranges=calibration.ranges, current_a=lambda volts: table
    )
    seeds = [
        _record_stream(ppk2.Ppk2Emulator(_make_random_load(1e-4, 1.0), noise_a=n, counter=c), b"\x0c\x01\x06", 0.01)
        for n, c in ((1e-6, 0), (0, 60))
    ]
    words = [
        struct.pack("<I", k << 18 | r << 14 | adc | 0xA5 << 24)
        for k in (0, 1, 63)
        for r in (0, 4, 7)
        for adc in (0, 0x3FFF)
    ]
    tokens = [*words, *(w * 3 for w in words[:4])]
    return StreamTarget("ppk2", lambda: parser.Ppk2Parser(known, 3.3), seeds, tokens, 1.5)


def _make_powersensor3_target() -> StreamTarget:
    unit = powersensor3.PowerSensor3Emulator(_make_random_load(1.0, 60.0), noise_a=0.03, noise_v=0.04)
    records = [RECORD.unpack(unit.config[k : k + RECORD.size]) for k in range(0, len(unit.config), RECORD.size)]
    sensors = [SensorConfig(a.decode().strip("\0"), b.decode().strip("\0"), r, s, use) for a, b, r, s, use in records]
    seeds = [
        _record_stream(powersensor3.PowerSensor3Emulator(_make_random_load(1.0, 60.0), noise_a=n), b"SM", 0.02)
        for n in (0.0, 0.03)
    ]
    tokens = [
        b"\xff\x3f",
        *(bytes((0xF0 | k >> 6, 0x40 | k & 63)) for k in (0, 50, 100, 1023)),
        seeds[0][:18],
        seeds[0][:36],
    ]
    return StreamTarget("powersensor3", lambda: PowerSensor3Parser(sensors, (0,)), seeds, tokens, 1.5)


def _make_lpm01a_targets() -> list[StreamTarget]:
    found = []
    makers: list[tuple[str, Any]] = [("ASCII", Lpm01aAsciiParser), ("binary", Lpm01aBinaryParser)]
    for name, make_parser in makers:
        binary = name == "binary"
        board = lpm01a.Lpm01aBoard(_make_random_load(0.001, 0.1))
        for k in range(40):
            board.logic.pulse(1000.0 + 0.05 * k, 1000.02 + 0.05 * k, 7)
        mode = b"bin_hexa" if binary else b"ascii_dec"
        start = b"htc\r\npwr on\r\nfreq 100\r\noutput current\r\nformat " + mode + b"\r\nstart\r\n"
        text = b"\xf0\xf2event 7 ris\xff\xff", b"\xf0\xf1oops\xff\xff", b"\xf0\xf5\xff\xff", b"\xf0\xf6\xff\xff"
        stamps = [
            b"\xf0\xf3" + k.to_bytes(4, "big") + b"\x03\xff\xff" for k in (0, 20, 1000, 2000, 1 << 31, (1 << 31) - 1)
        ]
        lines = [b"TimeStamp: 00%ds 000ms, buff 9%d%%\r\n" % (k, k) for k in range(4)]
        lines += [
            b"event 3 ris\r\n",
            b"error: overcurrent\r\n",
            b"6409-07\r\n",
            b"9999+99\r\n",
            b"0000-99\r\n",
            b"end\r\n",
        ]
        tokens = [*stamps, *text, b"\x52\xa0" * 20, b"\xf0\xf4\xff\xff"] if binary else lines
        scale = timestamps.Lpm01aScale(100.0, "current", 3.3, 0.05)
        found.append(
            StreamTarget(
                f"lpm01a ({name})",
                lambda make=make_parser, scale=scale: make(scale),  # type: ignore[misc]
                [_record_stream(board, start, 2.5), *tokens[:3]],
                tokens,
            )
        )
    return found


_FORMATS: dict[str, dict[str, Any]] = {
    "counter": {"columns": ["counter", "power"], "units": {"power": "mW"}, "counter_modulus": 256},
    "total": {"columns": ["time", "energy_total"], "units": {"time": "ms", "energy_total": "Wh"}, "separator": ";"},
    "pattern": {
        "pattern": "I=(?P<current>[^ ]+) U=(?P<voltage>[^ ]+)",
        "units": {"current": "uA", "voltage": "mV"},
        "ignore": "^#",
        "decimal": ",",
    },
}


def _make_line_targets() -> list[StreamTarget]:
    templates = {
        "counter": "{counter},{power:.3f}\r\n",
        "total": "{ms:.0f};{total:.6f}\n",
        "pattern": "I={current:.1f} U={voltage:.1f}\n",
    }
    tokens = [
        b"\n",
        b"\r\n",
        b"1,2\n",
        b"300;1.5\n",
        b"I=1,5 U=5000\n",
        b"# note\n",
        b"-",
        b"e9",
        b"\xff",
        b"7" * 1100,
        b",,",
    ]
    found = []
    for name, template in templates.items():
        printer = line.LinePrinter(
            _make_random_load(0.1, 5.0), template, rate_hz=100.0, modulus=256 if name == "counter" else 0
        )
        form = line_format.LineFormat.read(ProfileTable("fuzz", dict(_FORMATS[name])))
        seeds = [_record_stream(printer, b"start\n", 1.0)]
        if name == "pattern":
            seeds.append(seeds[0].replace(b".", b","))
        found.append(
            StreamTarget(
                f"line ({name})",
                lambda form=form: LineParser(form, 100.0, max_w=4.0),  # type: ignore[misc]
                seeds,
                tokens,
            )
        )
    return found


def _make_joulescope_target(rng: random.Random) -> StreamTarget:
    seeds = [
        _record_stream(joulescope.JoulescopeEmulator(_make_random_load(0.1, 5.0), elements=n, rate_hz=1e5), b"1", 0.003)
        for n in (20, 50)
    ]
    power = struct.pack("<4f", 1.0, float("nan"), float("inf"), -2.0)
    tokens = [frame_block(POWER, k, d, power) for k in (0, 40, 5000, 1 << 63) for d in (0, 1, 10)]
    tokens += [frame_block(INPUT + k, 10 * n, 10, rng.randbytes(3)) for k in (0, 3, 5) for n in (0, 4, 500)]
    tokens += [frame_block(POWER, 5000, 10, b"abc"), frame_block(0x33, 1, 1, b""), b"JS", b"JS" + b"\xff" * 18]
    return StreamTarget(
        "joulescope",
        lambda: JoulescopeParser(1000.0, (0, 3)),
        seeds,
        tokens,
    )
