"""Every parser against bytes nobody would send: no crash, no hang, no number that is none.

A seeded part of what ``tools/bench/fuzz_parsers.py`` does with a million inputs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepen.meters.onboard import odpm, rpi_pmic
from deepen.meters.stream.types import MOST_NOTES, Samples, StreamCounts
from tests.support.fuzz import FuzzCorpus, FuzzReport, FuzzTarget, fuzz_in_batches, fuzz_with_coverage
from tests.support.fuzz_files import make_file_targets
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


def fuzz(target: FuzzTarget, count: int, traced: int) -> FuzzReport:
    rng = random.Random(target.name)
    report, corpus = FuzzReport(target.name), FuzzCorpus(target.seeds, target.tokens, rng)
    fuzz_with_coverage(target, corpus, report, traced, rng)
    fuzz_in_batches(target, corpus, report, count - traced, rng)
    return report


@pytest.mark.parametrize("name", STREAMS)
def test_no_stream_breaks_a_parser(name: str) -> None:
    report = fuzz(STREAMS[name], 600, 60)
    assert report.failures == []
    assert report.inputs == 600
    assert report.steps > 15


@pytest.mark.parametrize("name", TEXTS)
def test_no_answer_breaks_a_reader(name: str) -> None:
    assert fuzz(TEXTS[name], 400, 40).failures == []


@pytest.mark.parametrize("name", FILES)
def test_no_file_breaks_a_reader(name: str, tmp_path: Path) -> None:
    targets = {t.name: t for t in make_file_targets(tmp_path)}
    assert set(targets) == set(FILES)
    assert fuzz(targets[name], 150, 30).failures == []


class Broken:
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
        ("raises", "IndexError"),
        ("is infinite", "not finite"),
        ("goes back", "go"),
        ("depends on splits", "split"),
        ("keeps everything", "bytes are kept"),
    ],
)
def test_a_parser_with_a_defect_is_found_out(defect: str, said: str) -> None:
    seeds = [bytes(range(256))]
    tokens = [b"\x00", b"\x07", b"\x03"]
    target = StreamTarget(defect, lambda: Broken(defect), seeds, tokens, [Path(__file__)], batch=20, most_kept=2000)
    report = FuzzReport(defect)
    fuzz_in_batches(
        target, FuzzCorpus(seeds, tokens, random.Random(1)), report, 2000, random.Random(1), most_failures=1
    )
    assert said in report.failures[0][0]


def test_a_failure_comes_with_few_of_its_inputs() -> None:
    def picky(data: bytes) -> None:
        assert b"bad" not in data

    target = CallTarget("picky", picky, [b"good"], [b"bad"], [Path(__file__)])
    report = FuzzReport("picky")
    fuzz_in_batches(
        target,
        FuzzCorpus(target.seeds, target.tokens, random.Random(2)),
        report,
        500,
        random.Random(2),
        most_failures=1,
    )
    (what, data) = report.failures[0]
    assert what.startswith("AssertionError")
    assert b"bad" in data
    assert len(data) < 600


def test_inputs_that_reach_new_code_are_kept() -> None:
    def steps(data: bytes) -> int:
        found = 0
        if data[:1] == b"d":
            found += 1
            if data[1:2] == b"e":
                found += 1
                if data[2:3] == b"e":
                    found += 1
        return found

    target = CallTarget("steps", steps, [b"xxxx"], [b"d", b"e", b"p"], [Path(__file__)])
    report, rng = FuzzReport("steps"), random.Random(3)
    corpus = FuzzCorpus(target.seeds, target.tokens, rng)
    fuzz_with_coverage(target, corpus, report, 3000, rng)
    assert report.kept >= 2
    assert any(data[:2] == b"de" for data in corpus.inputs)


def test_the_same_seed_makes_the_same_inputs() -> None:
    def made() -> list[bytes]:
        corpus = FuzzCorpus([b"a,1,2\n" * 20], [b","], random.Random(9))
        return [corpus.generate_input() for _ in range(200)]

    first = made()
    assert first == made()
    assert len(set(first)) > 150


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
