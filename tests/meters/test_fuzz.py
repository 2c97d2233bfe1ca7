"""Every parser against bytes nobody would send: no crash, no hang, no number that is none.

A seeded part of what ``tools/bench/fuzz_parsers.py`` does with a million inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepen.meters.onboard import odpm, rpi_pmic
from deepen.meters.stream.types import MOST_NOTES, Samples, StreamCounts
from tests.support.fuzz_files import make_file_targets
from tests.support.fuzz_inputs import fuzz_target
from tests.support.fuzz_streams import StreamTarget, make_stream_targets
from tests.support.fuzz_texts import CallTarget, make_text_targets

STREAMS = {t.name: t for t in make_stream_targets()}
TEXTS = {t.name: t for t in make_text_targets()}
FILES = [
    "deepen JSON",
    "deepen Parquet",
    "deepen CSV",
    "plain CSV",
    "Monsoon CSV",
    "PPK2 CSV",
    "Joulescope CSV",
    "MLPerf JSON",
    "MLPerf binary",
    "PTDaemon log",
    "deepen folder",
    "intervals",
]


@pytest.mark.parametrize("name", STREAMS)
def test_no_stream_breaks_a_parser(name: str) -> None:
    fuzz_target(STREAMS[name], 70)


@pytest.mark.parametrize("name", TEXTS)
def test_no_answer_breaks_a_reader(name: str) -> None:
    fuzz_target(TEXTS[name], 80)


@pytest.mark.parametrize("name", FILES)
def test_no_file_breaks_a_reader(name: str, tmp_path: Path) -> None:
    targets = {t.name: t for t in make_file_targets(tmp_path)}
    assert set(targets) == set(FILES)
    fuzz_target(targets[name], 40)


class BrokenParser:
    """A parser with a defect."""

    def __init__(self, defect: str) -> None:
        self.tally = StreamCounts()
        self._defect = defect
        self._next = 0
        self._all = b""

    def feed(self, data: bytes) -> Samples:
        self._all += data if self._defect == "keeps everything" else b""
        if self._defect == "raises" and b"\x00" in data:
            raise IndexError("list index out of range")
        n = len(data)
        first, self._next = self._next, self._next + n
        power = np.frombuffer(data, np.uint8).astype(np.float64)
        if self._defect == "is infinite":
            power = np.where(power == 7, np.inf, power)
        if self._defect == "goes back":
            first -= data[:1] == b"\x03"
        if self._defect == "depends on splits":
            self.tally.corrupt += 1
        return Samples(np.arange(first, first + n, dtype=np.int64), power)


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ("raises", "list index out of range"),
        ("is infinite", "not finite"),
        ("goes back", "go"),
        ("depends on splits", "split"),
        ("keeps everything", "bytes are kept"),
    ],
)
def test_a_parser_with_a_defect_is_found_out(defect: str, said: str) -> None:
    seeds = [bytes(range(256))]
    tokens = [b"\x00", b"\x07", b"\x03"]
    target = StreamTarget(defect, lambda: BrokenParser(defect), seeds, tokens, most_kept=500)
    with pytest.raises((AssertionError, IndexError), match=said):
        fuzz_target(target, 500)


def test_a_failure_comes_with_few_of_its_inputs() -> None:
    seen: list[bytes] = []

    def picky(data: bytes) -> None:
        seen.append(data)
        assert b"bad" not in data

    with pytest.raises(AssertionError):
        fuzz_target(CallTarget("picky", picky, [b"good" * 40], [b"bad"]), 300)
    assert b"bad" in seen[-1]
    assert len(seen[-1]) < 200


def test_a_warning_is_a_failure() -> None:
    with pytest.raises(RuntimeWarning, match="overflow"):
        fuzz_target(CallTarget("warns", lambda data: np.float32(1e38) * len(data), [b"x" * 20], [b"y"]), 50)


def test_the_same_seed_makes_the_same_inputs() -> None:
    def made(seed: int) -> list[bytes]:
        found: list[bytes] = []
        fuzz_target(CallTarget("collect", found.append, [b"a,1,2\n" * 20], [b","]), 60, seed=seed)
        return found

    first = made(9)
    assert first == made(9)
    assert first != made(10)
    assert len(set(first)) > 50


SEED = bytes(range(97, 123)) + b"=12345;"
"""A valid input in which no byte comes twice."""

OTHER = b"<<<<>>>>"


def is_cut_and_joined(data: bytes) -> bool:
    """The beginning of one valid input and the end of another."""
    return any(data == SEED[:k] + OTHER[j:] for k in range(4, len(SEED)) for j in range(len(OTHER) - 2))


DAMAGES: dict[str, Callable[[bytes], bool]] = {
    "valid": lambda data: data == SEED,
    "a byte changed": lambda data: len(data) == len(SEED) and sum(a != b for a, b in zip(data, SEED, strict=True)) == 1,
    "cut short": lambda data: 4 < len(data) < len(SEED) and SEED.startswith(data),
    "a part left out": lambda data: (
        4 < len(data) < len(SEED) and not SEED.startswith(data) and data.endswith(SEED[-4:])
    ),
    "a part twice": lambda data: len(data) > len(SEED) and data[:5] == SEED[:5] and data.count(b"k") > 1,
    "a part many times": lambda data: len(data) > 8 * len(SEED),
    "a token put in": lambda data: len(data) > len(SEED) and data.replace(b"TOKEN", b"", 1) == SEED,
    "tokens in a row": lambda data: data.startswith(b"TOKENTOKENTOKEN"),
    "a number beyond floats": lambda data: data.startswith(SEED[:5]) and b"=1e999;" in data,
    "no number": lambda data: data.startswith(SEED[:5]) and b"=nan;" in data,
    "plain chance": lambda data: len(data) > 20 and not any(SEED[k : k + 3] in data for k in range(30)),
    "two inputs joined": is_cut_and_joined,
}


def test_every_kind_of_damage_is_drawn() -> None:
    drawn: list[bytes] = []
    fuzz_target(CallTarget("damage", drawn.append, [SEED, OTHER], [b"TOKEN"]), 2500)
    assert [kind for kind, is_damage in DAMAGES.items() if not any(map(is_damage, drawn))] == []


def test_a_long_input_is_drawn_in_windows_and_whole() -> None:
    long = bytes(range(256)) * 16
    drawn: list[bytes] = []
    fuzz_target(CallTarget("long", drawn.append, [long], [b"\0"]), 300)
    assert any(256 <= len(data) < 600 for data in drawn)
    assert any(len(data) > 3000 for data in drawn)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (odpm.parse_hal_dump, "PowerStats HAL 2.0 energy meter ==\n" + "\n" * 200_000),
        (odpm.parse_hal_dump, "PowerStats HAL 2.0 energy meter ==\na" + " " * 200_000 + "x"),
        (odpm.parse_hal_dump, "=" * 200_000),
        (odpm.parse_powerstats, "ChannelId: 1, ChannelName: a, ChannelSubsystem: " + " " * 200_000 + "x"),
        (lambda text: odpm.parse_energy_value("", text), "CH0[a]:" + " " * 200_000 + "x"),
        (rpi_pmic.parse_pmic_adc, "\n" * 200_000),
    ],
)
def test_long_answers_are_read_in_time_that_grows_with_their_length(read: Callable[[str], Any], text: str) -> None:
    """With a pattern that goes over the same blanks again and again, each of these took minutes."""
    assert not read(text)


def test_notes_have_an_end() -> None:
    tally = StreamCounts()
    for k in range(1000):
        tally.note(f"event {k}")
    tally.note("event 3")
    assert len(tally.notes) == MOST_NOTES + 1
    assert tally.notes[-1] == "more notes were left out"
