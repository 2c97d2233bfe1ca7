"""Inputs nobody would send: strategies that damage valid ones, and the run of a parser on them under hypothesis.

An input is a valid one, or a window of it, after a few changes: bits flipped, bytes set, cut out, doubled, spliced from
another valid input, tokens of the protocol put in, numbers replaced; at times a row of tokens or plain chance.
hypothesis draws them, and shrinks a failing list of inputs to a short one.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

__all__ = ["FuzzTarget", "draw_damaged_inputs", "fuzz_target"]

_INTERESTING = (0, 1, 2, 9, 10, 13, 32, 44, 45, 46, 48, 57, 63, 64, 127, 128, 254, 255)
_NUMBERS = (b"0", b"-1", b"1e9", b"1e999", b"nan", b"inf", b"-0.0", b"99999999999999999999", b"1e-320", b"0x10", b"")
_DIGITS = b"0123456789"

LONGEST = 256
"""Bytes of a window into a valid input; now and then the whole input is taken."""

Change = Callable[[bytearray], None]


class FuzzTarget(Protocol):
    """Something that parses bytes.

    Attributes:
        name: Its name.
        seeds: Valid inputs.
        tokens: Pieces that inputs of the protocol consist of.
        share: Weight among the targets when a number of examples is shared out.
    """

    name: str
    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    share: float

    def check(self, inputs: Sequence[bytes], rng: random.Random) -> None:
        """Run inputs.

        Raises:
            Exception: Of any kind, where something that must hold does not.
        """


def draw_damaged_inputs(seeds: Sequence[bytes], tokens: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Strategy of one input: mostly a valid one with a few changes.

    Args:
        seeds: Valid inputs.
        tokens: Pieces that inputs of the protocol consist of.
    """
    known = [t for t in tokens if t] or [b"\0"]
    windows = st.builds(_cut_window, st.sampled_from([s for s in seeds if s]), _PLACE, st.sampled_from(range(8)))
    token = st.sampled_from(known)
    change = st.one_of(
        st.builds(_flip_bit, _PLACE, st.integers(0, 7)),
        st.builds(_set_byte, _PLACE, st.sampled_from(_INTERESTING)),
        st.builds(_add_to_byte, _PLACE, st.sampled_from((-1, 1, 16, -16))),
        st.builds(_insert, _PLACE, st.binary(min_size=1, max_size=8)),
        st.builds(_insert, _PLACE, token),
        st.builds(_overwrite, _PLACE, token, _LENGTH),
        st.builds(_delete, _PLACE, _LENGTH),
        st.builds(_truncate, _PLACE),
        st.builds(_duplicate, _PLACE, _LENGTH, st.sampled_from((1, 1, 1, 2, 8, 30))),
        st.builds(_splice, _PLACE, windows, _PLACE),
        st.builds(
            _replace_number, _PLACE, st.one_of(st.sampled_from(_NUMBERS), st.integers(0, 9999).map(b"%d".__mod__))
        ),
    )
    damaged = st.builds(_apply_changes, windows, st.lists(change, min_size=1, max_size=6))
    rest = st.one_of(windows, st.lists(token, min_size=1, max_size=12).map(b"".join), st.binary(max_size=200))
    return st.sampled_from([damaged] * 15 + [rest]).flatmap(lambda kind: kind)  # one_of would take equal ones once


_PLACE = st.integers(0, (1 << 16) - 1)
"""Place in an input of any length: taken modulo its length + 1."""

_LENGTH = st.sampled_from((1, 1, 2, 3, 4, 8, 18, 64))


def _cut_window(data: bytes, place: int, choice: int) -> bytes:
    """All of an input, always where it is short, else the less often the longer it is; or a part of it."""
    if len(data) <= LONGEST or choice == 7 or (len(data) <= 16 * LONGEST and choice > 3):
        return data
    at = 0 if choice % 2 else place % (len(data) - LONGEST)
    return data[at : at + LONGEST]


def _apply_changes(data: bytes, changes: Sequence[Change]) -> bytes:
    changed = bytearray(data)
    for change in changes:
        change(changed)
    return bytes(changed)


def _flip_bit(place: int, bit: int) -> Change:
    def change(data: bytearray) -> None:
        if data:
            data[place % len(data)] ^= 1 << bit

    return change


def _set_byte(place: int, value: int) -> Change:
    def change(data: bytearray) -> None:
        if data:
            data[place % len(data)] = value

    return change


def _add_to_byte(place: int, step: int) -> Change:
    def change(data: bytearray) -> None:
        if data:
            data[place % len(data)] = (data[place % len(data)] + step) & 0xFF

    return change


def _insert(place: int, piece: bytes) -> Change:
    def change(data: bytearray) -> None:
        at = place % (len(data) + 1)
        data[at:at] = piece

    return change


def _overwrite(place: int, piece: bytes, length: int) -> Change:
    def change(data: bytearray) -> None:
        at = place % (len(data) + 1)
        data[at : at + length] = piece

    return change


def _delete(place: int, length: int) -> Change:
    return _overwrite(place, b"", length)


def _truncate(place: int) -> Change:
    def change(data: bytearray) -> None:
        del data[place % (len(data) + 1) :]

    return change


def _duplicate(place: int, length: int, times: int) -> Change:
    def change(data: bytearray) -> None:
        at = place % (len(data) + 1)
        data[at:at] = data[at : at + length] * times

    return change


def _splice(place: int, other: bytes, start: int) -> Change:
    def change(data: bytearray) -> None:
        data[place % (len(data) + 1) :] = other[start % len(other) :]

    return change


def _replace_number(place: int, number: bytes) -> Change:
    """Replace the next run of digits."""

    def change(data: bytearray) -> None:
        at = place % (len(data) + 1)
        while at < len(data) and data[at] not in _DIGITS:
            at += 1
        end = at
        while end < len(data) and data[end] in _DIGITS:
            end += 1
        data[at:end] = number

    return change


def fuzz_target(target: FuzzTarget, examples: int, *, seed: int = 0, most_inputs: int = 8) -> None:
    """Run a parser on lists of damaged inputs; the same seed makes the same inputs. A warning is a failure, too.

    Args:
        target: The parser and what must hold for it.
        examples: Number of lists.
        seed: Seed of the inputs.
        most_inputs: Inputs in one list: for a stream, parts that follow each other.

    Raises:
        Exception: What did not hold, for the shortest inputs found; notes of the exception show them.
    """
    damaged = draw_damaged_inputs(target.seeds, target.tokens)

    @hypothesis.seed(f"{seed} {target.name}")
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs=st.lists(damaged, min_size=1, max_size=most_inputs), cuts=st.integers(0, 999))
    def holds(inputs: list[bytes], cuts: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            target.check(inputs, random.Random(cuts))

    for valid in target.seeds:
        holds = hypothesis.example(inputs=[valid], cuts=0)(holds)
    holds()
