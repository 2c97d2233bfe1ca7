"""Fuzzing of parsers: inputs made of valid ones, kept where they reach new code, and what must hold for every input.

A :class:`FuzzCorpus` mutates inputs (flips, cuts, copies, splices, tokens of the protocol, wrong numbers).
:func:`fuzz_with_coverage` runs them one by one under a trace of the parser's code and keeps those that take a step from
one line to another that none before took (coverage-guided, as AFL does: M. Zalewski, "Technical whitepaper for
afl-fuzz"). :func:`fuzz_in_batches` then runs many more at full speed, in batches.
"""

from __future__ import annotations

import dis
import random
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Protocol

__all__ = ["CodeCoverage", "FuzzCorpus", "FuzzReport", "FuzzTarget", "fuzz_in_batches", "fuzz_with_coverage"]

_INTERESTING = (0, 1, 2, 9, 10, 13, 32, 44, 45, 46, 48, 57, 63, 64, 127, 128, 254, 255)
_NUMBERS = (b"0", b"-1", b"1e9", b"1e999", b"nan", b"inf", b"-0.0", b"99999999999999999999", b"1e-320", b"0x10", b"")
_DIGITS = b"0123456789"


class FuzzTarget(Protocol):
    """Something that parses bytes.

    Attributes:
        name: What it is.
        seeds: Valid inputs.
        tokens: What the protocol is made of.
        modules: Files whose code is watched.
        share: Weight among the targets when a number of inputs is shared out.
        batch: Inputs run together.
    """

    name: str
    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    modules: Sequence[Path]
    share: float
    batch: int

    def check(self, inputs: Sequence[bytes], rng: random.Random) -> None:
        """Run inputs.

        Raises:
            Exception: Of any kind, where something that must hold does not.
        """


class FuzzCorpus:
    """Inputs worth mutating."""

    def __init__(self, seeds: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random, longest: int = 256) -> None:
        """Begin with valid inputs.

        Args:
            seeds: Valid inputs.
            tokens: What they are made of.
            rng: Source of chance.
            longest: Bytes of the longest input made.
        """
        self.inputs = [s for s in seeds if s]
        self._tokens = [t for t in tokens if t] or [b"\0"]
        self._rng = rng
        self._longest = longest

    def add_input(self, data: bytes) -> None:
        """Keep an input."""
        if data:
            self.inputs.append(data)

    def generate_input(self) -> bytes:
        """Make an input: mostly a valid one with a few mutations, at times a mixture of tokens or plain chance."""
        rng = self._rng
        kind = rng.random()
        if kind < 0.03:
            return rng.randbytes(rng.randrange(1, 200))
        if kind < 0.08:
            return b"".join(rng.choice(self._tokens) for _ in range(rng.randrange(1, 12)))
        data = bytearray(self._window(rng.choice(self.inputs)))
        if kind < 0.12:
            return bytes(data)
        for _ in range(1 + int(rng.expovariate(0.6))):
            self._mutate(data)
        return bytes(data[: 2 * self._longest])

    def _window(self, data: bytes) -> bytes:
        """An input, or a part of it where it is long."""
        if len(data) <= self._longest:
            return data
        at = 0 if self._rng.random() < 0.5 else self._rng.randrange(len(data) - self._longest)
        return data[at : at + self._longest]

    def _mutate(self, data: bytearray) -> None:
        rng = self._rng
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + 1 + int(rng.expovariate(0.1)))
        kind = rng.randrange(11)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.choice(_INTERESTING)
        elif kind == 2 and at < len(data):
            data[at] = (data[at] + rng.choice((-1, 1, 16, -16))) & 0xFF
        elif kind == 3:
            data[at:at] = rng.randbytes(1 + int(rng.expovariate(0.3)))
        elif kind == 4:
            del data[at:end]
        elif kind == 5:
            data[at:at] = data[at:end] * (1 if rng.random() < 0.9 else rng.randrange(2, 30))
        elif kind == 6:
            data[at:at] = rng.choice(self._tokens)
        elif kind == 7:
            data[at:end] = rng.choice(self._tokens)
        elif kind == 8:
            other = self._window(rng.choice(self.inputs))
            data[at:] = other[rng.randrange(len(other)) :]
        elif kind == 9:
            del data[at:]
        else:
            self._number(data, at)

    def _number(self, data: bytearray, at: int) -> None:
        """Replace a run of digits."""
        while at < len(data) and data[at] not in _DIGITS:
            at += 1
        end = at
        while end < len(data) and data[end] in _DIGITS:
            end += 1
        data[at:end] = (
            self._rng.choice(_NUMBERS) if self._rng.random() < 0.5 else bytes(self._rng.choices(_DIGITS, k=4))
        )


class CodeCoverage:
    """Steps from line to line in the code of some files, while it traces."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Watch files."""
        self.steps: set[tuple[CodeType, int, int]] = set()
        self._files = {str(f) for f in files}
        self._last: dict[FrameType, int] = {}
        self._before: Any = None

    def __enter__(self) -> CodeCoverage:
        """Begin."""
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        sys.settrace(self._before)
        self._last.clear()

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        self._last[frame] = 0
        return self._line

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.steps.add((frame.f_code, self._last.get(frame, 0), frame.f_lineno))
            self._last[frame] = frame.f_lineno
        elif event == "return":
            self._last.pop(frame, None)
        return self._line

    @property
    def lines(self) -> float:
        """Share of the lines in functions that were reached."""
        every = {(f, n) for f in self._files for n in _list_function_lines(Path(f))}
        found = {(code.co_filename, n) for code, _, n in self.steps}
        return len(found & every) / len(every) if every else 1.0


def _list_function_lines(path: Path) -> Iterator[int]:
    """Lines in the functions of a file."""

    def inside(code: CodeType, function: bool) -> Iterator[int]:
        function = function or bool(code.co_flags & 0x1)  # CO_OPTIMIZED: a function and no class or module
        if function:
            yield from (n for _, n in dis.findlinestarts(code) if n and n != code.co_firstlineno)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from inside(constant, function)

    return inside(compile(path.read_text(encoding="utf-8"), str(path), "exec"), False)


@dataclass(slots=True)
class FuzzReport:
    """What came of fuzzing one target.

    Attributes:
        name: The target.
        inputs: Inputs run.
        size: Their bytes.
        kept: Inputs that reached new code.
        steps: Different steps from line to line.
        lines: Share of the lines in functions that were reached while tracing.
        slowest_s: Longest processor time per byte of a batch of at least 4096 bytes, seconds.
        failures: What did not hold, with the input (shortest found).
    """

    name: str
    inputs: int = 0
    size: int = 0
    kept: int = 0
    steps: int = 0
    lines: float = 0.0
    slowest_s: float = 0.0
    failures: list[tuple[str, bytes]] = field(default_factory=list)


def fuzz_with_coverage(
    target: FuzzTarget, corpus: FuzzCorpus, report: FuzzReport, count: int, rng: random.Random, most_failures: int = 5
) -> None:
    """Run inputs one by one under a trace, and keep those that reach new code."""
    coverage = CodeCoverage(target.modules)
    reached = 0
    for k in range(count):
        made = k >= len(target.seeds)
        data = corpus.generate_input() if made else corpus.inputs[k]
        before = reached
        with coverage:
            failure = _find_failure(target, [data], rng)
        report.inputs += 1
        report.size += len(data)
        if failure is not None:
            report.failures.append((failure, data))
            if len(report.failures) >= most_failures:
                break
            continue
        reached = len(coverage.steps)
        if made and reached != before:
            corpus.add_input(data)
            report.kept += 1
    report.steps, report.lines = len(coverage.steps), coverage.lines


def fuzz_in_batches(
    target: FuzzTarget, corpus: FuzzCorpus, report: FuzzReport, count: int, rng: random.Random, most_failures: int = 5
) -> None:
    """Run inputs in batches at full speed, and find the input to blame where a batch fails."""
    while count > 0 and len(report.failures) < most_failures:
        inputs = [corpus.generate_input() for _ in range(min(count, target.batch))]
        size = sum(map(len, inputs))
        began = time.process_time()
        failure = _find_failure(target, inputs, rng)
        if size >= 4096:
            report.slowest_s = max(report.slowest_s, (time.process_time() - began) / size)
        report.inputs += len(inputs)
        report.size += size
        count -= len(inputs)
        if failure is not None:
            report.failures.append((failure, _minimise_inputs(target, inputs, rng)))


def _find_failure(target: FuzzTarget, inputs: Sequence[bytes], rng: random.Random) -> str | None:
    """What does not hold for inputs; a warning is a failure, too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            target.check(inputs, rng)
    except Exception as error:  # whatever it is, it is what is looked for
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def _minimise_inputs(target: FuzzTarget, inputs: Sequence[bytes], rng: random.Random) -> bytes:
    """The failing inputs with as many left out as can be, joined."""
    rest = list(inputs)
    for size in (len(rest) // 2, len(rest) // 8, 1):
        at = 0
        while size and at < len(rest):
            fewer = rest[:at] + rest[at + size :]
            if fewer and any(_find_failure(target, fewer, rng) is not None for _ in range(3)):
                rest = fewer
            else:
                at += size
    return b"".join(rest)
