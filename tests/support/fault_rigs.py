"""Instruments to try faults on: an emulator, the driver for it, and the load it is made for; and faults by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepen.meters.instruments.joulescope.driver import JoulescopeInstrument
from deepen.meters.instruments.lpm01a.driver import Lpm01aInstrument
from deepen.meters.instruments.monsoon.hvpm import HvpmInstrument
from deepen.meters.instruments.monsoon.lvpm import LvpmInstrument
from deepen.meters.instruments.powersensor3.driver import PowerSensor3Instrument
from deepen.meters.instruments.ppk2.driver import Ppk2Instrument
from deepen.meters.instruments.text_lines.driver import LineInstrument
from deepen.testing.instruments import hvpm, joulescope, line, lpm01a, lvpm, powersensor3, ppk2
from deepen.testing.instruments.faults import (
    FAULT_MAKERS,
    BadChecksum,
    ClockPause,
    CorruptBytes,
    CounterJump,
    DuplicateBytes,
    Fault,
    LoseBytes,
    LoseFrames,
    SplitReads,
    Stall,
    VoltageDroop,
)
from deepen.testing.instruments.virtual import VirtualPort

__all__ = ["FaultRig", "make_fault", "make_fault_rigs"]


@dataclass(frozen=True, slots=True)
class FaultRig:
    """An instrument to record with.

    Attributes:
        emulator: Makes the emulator: ``emulator(signal, seed)``.
        make: The driver's instrument at a port.
        options: Options of its specification.
        least_w: Least power of the load, watts.
        most_w: Largest power of the load, watts.
        seconds: Length of a recording.
        piece: Bytes of the largest piece where reads are split; 7 would never do for a fast stream.
        resolution_w: What the last digit of a value stands for, watts.
        port: Class of port.
        blind: Fault -> beginning of the standing warning: what no reader of the protocol can see.
    """

    emulator: Callable[[Any, int], Any]
    make: Callable[..., Any]
    options: Mapping[str, str]
    least_w: float
    most_w: float
    seconds: float = 3.0
    piece: int = 7
    resolution_w: float = 0.0
    port: type[VirtualPort] = VirtualPort
    blind: Mapping[str, str] = field(default_factory=dict)


_LINES: dict[str, tuple[str, str, str]] = {
    "counter": ("{counter},{power:.6f}\n", 'columns = ["counter", "power"]', 'power = "W"'),
    "time": ("{ms:.0f},{power:.6f}\n", 'columns = ["time", "power"]', 'time = "ms", power = "W"'),
    "plain": ("{power:.6f}\n", 'columns = ["power"]', 'power = "W"'),
    "total": (
        "n={counter} E={total:.7f}\n",
        'pattern = "n=(?P<counter>[0-9]+) E=(?P<energy_total>[^ ]+)"',
        'energy_total = "J"',
    ),
    "wrapping": (
        "{counter},{current:.6f},{voltage:.4f}\n",
        'columns = ["counter", "current", "voltage"]\ncounter_modulus = 256',
        'current = "A", voltage = "V"',
    ),
}
"""Kinds of lines: what is printed, columns or pattern, units."""

_PROFILE = """[line]
rate_hz = 200.0
sampling = "mean"
line_end = "\\n"
start = ["start"]
stop = ["stop"]
{columns}
units = {{ {units} }}
"""


def make_fault_rigs(folder: Path) -> dict[str, FaultRig]:
    """All rigs by name.

    Args:
        folder: Where profiles of the line meter are written.
    """
    monsoon: dict[str, Any] = {"options": {"voltage_v": "3.85"}, "least_w": 0.05, "most_w": 3.0}
    board: dict[str, Any] = {"make": Lpm01aInstrument, "least_w": 0.004, "most_w": 0.1, "emulator": _make_lpm01a_board}
    unseen = {"voltage droop": "voltage:"}
    found = {
        "lvpm": FaultRig(
            lambda s, k: lvpm.LvpmEmulator(s, noise_a=1e-3, ppm=_choose_clock_error(k), seed=k),
            LvpmInstrument,
            **monsoon,
        ),
        "hvpm": FaultRig(
            lambda s, k: hvpm.HvpmEmulator(s, noise_a=1e-3, ppm=_choose_clock_error(k), seed=k),
            HvpmInstrument,
            **monsoon,
        ),
        "hvpm (LVPM)": FaultRig(
            lambda s, k: hvpm.HvpmEmulator(s, model="LVPM", noise_a=1e-3, ppm=_choose_clock_error(k), seed=k),
            HvpmInstrument,
            **monsoon,
        ),
        "ppk2": FaultRig(
            lambda s, k: ppk2.Ppk2Emulator(s, noise_a=2e-3, ppm=_choose_clock_error(k), seed=k),
            Ppk2Instrument,
            {"voltage_v": "3.3"},
            0.3,
            1.5,
            seconds=1.2,
            piece=997,
            blind=unseen,
        ),
        "ppk2 (ranges)": FaultRig(
            lambda s, k: ppk2.Ppk2Emulator(s, noise_a=5e-5, ppm=_choose_clock_error(k), seed=k),
            Ppk2Instrument,
            {"voltage_v": "3.3"},
            1e-3,
            0.15,
            seconds=1.2,
            piece=997,
            blind=unseen,
        ),
        "powersensor3": FaultRig(
            lambda s, k: powersensor3.PowerSensor3Emulator(
                s, noise_a=0.03, noise_v=0.04, ppm=_choose_clock_error(k), seed=k
            ),
            PowerSensor3Instrument,
            {},
            5.0,
            60.0,
            seconds=1.5,
            piece=997,
        ),
        "lpm01a (ASCII)": FaultRig(options={"voltage_v": "3.3"}, **board),
        "lpm01a (ASCII, current)": FaultRig(options={"voltage_v": "3.3", "output": "current"}, blind=unseen, **board),
        "lpm01a (ASCII, 5 kHz)": FaultRig(options={"voltage_v": "3.3", "rate_hz": "5000"}, piece=31, **board),
        "lpm01a (binary)": FaultRig(options={"voltage_v": "3.3", "rate_hz": "10000"}, **board),
        "lpm01a (binary, current)": FaultRig(
            options={"voltage_v": "3.3", "rate_hz": "20000", "output": "current"}, blind=unseen, **board
        ),
        "joulescope": FaultRig(
            lambda s, k: joulescope.JoulescopeEmulator(s, rate_hz=20_000.0, ppm=_choose_clock_error(k)),
            JoulescopeInstrument,
            {"rate_hz": "20000"},
            0.05,
            3.0,
            resolution_w=4e-7,
            port=joulescope.JoulescopeEmulatorPort,
        ),
    }
    damaged = {name: "unchecked:" for name in FAULT_MAKERS if "byte" in name}
    for kind, (template, columns, units) in _LINES.items():
        path = folder / f"{kind}.toml"
        path.write_text(_PROFILE.format(columns=columns, units=units))
        found[f"line ({kind})"] = FaultRig(
            _make_line_printer(template, 256 if kind == "wrapping" else 0),
            LineInstrument,
            {"profile": str(path)},
            0.5,
            5.0,
            resolution_w=1e-5,
            blind=damaged,
        )
    return found


def _choose_clock_error(seed: int) -> float:
    return (40.0, -40.0)[seed % 2]


def _make_lpm01a_board(signal: Any, seed: int) -> Any:
    return lpm01a.Lpm01aBoard(signal, ppm=_choose_clock_error(seed))


def _make_line_printer(template: str, modulus: int) -> Callable[[Any, int], Any]:
    return lambda s, k: line.LinePrinter(s, template, rate_hz=200.0, modulus=modulus, ppm=_choose_clock_error(k))


def make_fault(rig: FaultRig, name: str, at_s: float, seed: int) -> Fault:
    """A fault by its name; the seed decides its size and its place in a frame (0: as in ``FAULT_MAKERS``)."""
    if name == "split reads":
        return SplitReads(most=rig.piece + 2 * seed, seed=seed)
    if seed == 0:
        return FAULT_MAKERS[name](at_s)
    varied: dict[str, Callable[[], Fault]] = {
        "lost byte": lambda: LoseBytes(at_s, 1, skip=3 * seed),
        "lost bytes": lambda: LoseBytes(at_s, 101 + seed, skip=3 + seed),
        "duplicated byte": lambda: DuplicateBytes(at_s, 1, skip=3 * seed),
        "duplicated bytes": lambda: DuplicateBytes(at_s, 36 + 5 * seed, skip=2 + seed),
        "corrupted byte": lambda: CorruptBytes(at_s, 1, skip=3 * seed + 1, seed=seed),
        "corrupted bytes": lambda: CorruptBytes(at_s, 40 + 7 * seed, skip=seed, seed=seed),
        "bad checksums": lambda: BadChecksum(at_s, seed),
        "lost frames": lambda: LoseFrames(at_s, (1, 2, 5, 16, 64, 200, 1000)[seed % 7]),
        "counter jump": lambda: CounterJump(at_s, (5, 1, 2, 15, 63, 300, 17)[seed % 7]),
        "stall with loss": lambda: Stall(at_s, 0.02 * seed),
        "stall with burst": lambda: Stall(at_s, 0.05 * seed, lossy=False),
        "clock step": lambda: ClockPause(at_s, 0.011 * seed),
        "voltage droop": lambda: VoltageDroop(at_s, 0.2 * seed, 0.1 * seed),
    }
    return varied.get(name, lambda: FAULT_MAKERS[name](at_s))()
