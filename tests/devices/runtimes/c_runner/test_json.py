"""The C runner's JSON reader against Python's, on documents that are whole, damaged and hostile."""

from __future__ import annotations

import json
import random
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

REFUSED = "refused"
MAX_DEPTH = 16


def hexed(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").hex()


class Pairs(list):  # type: ignore[type-arg]
    """Members of an object, in order and with repetitions."""


def flat(value: Any, depth: int = 0) -> Any:
    """What check.c prints for a value."""
    if isinstance(value, str | bytes):
        return hexed(value) if isinstance(value, str) else [value.decode().split()[0], value.decode().split()[1]]
    if isinstance(value, list):
        if depth >= MAX_DEPTH:
            raise ValueError("too deep")
        if isinstance(value, Pairs):
            return ["object", *(x for k, v in value for x in (hexed(k), flat(v, depth + 1)))]
        return ["array", *(flat(v, depth + 1) for v in value)]
    return value


def refuse(name: str) -> None:
    raise ValueError(name)


def integer(text: str) -> bytes:
    return f"{'int' if -(2**63) <= int(text) < 2**63 else 'number'} {text}".encode()


def expected(document: bytes) -> Any:
    """What Python's reader makes of it: bytes that are no UTF-8 pass, NaN and lone surrogates do not."""
    try:
        value = json.loads(
            document.decode("utf-8", "surrogateescape"), object_pairs_hook=Pairs, parse_constant=refuse,
            parse_int=integer, parse_float=lambda text: f"number {text}".encode(),
        )  # fmt: skip
        return flat(value)
    except (ValueError, RecursionError):
        return REFUSED


def read(check: Path, documents: Iterable[bytes]) -> list[Any]:
    data = b"".join(struct.pack("<I", len(d)) + d for d in documents)
    done = subprocess.run([str(check), "json"], input=data, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return [line if line == REFUSED else json.loads(line) for line in done.stdout.decode().splitlines()]


SEEDS = [
    b'{"op": "load", "id": 3, "path": "/a/b c.onnx", "threads": 2, "level": "all", "cpus": [0, 7], "seed": 12,'
    b' "shapes": {"x": [1, 3, 224, 224], "y": []}}',
    b'{"op":"run","handle":1,"n":1000000,"id":"\\u00e9\\ud83d\\ude00\\n\\"\\\\\\/"}',
    b'[1, -0, 0.5, -1.25e+10, 1E-3, 9223372036854775807, -9223372036854775808, 9223372036854775808, true, false, null]',
    b' \t\r\n{"a": {"b": [[], {}, [[]]]}, "a": "\\udc80\\udcff", "": ""} ',
    "{\"naïve\": \"日本\", \"\U0001f600\": \"\x7f\"}".encode(),
    b'"' + b"x" * 300 + b'"',
]  # fmt: skip
PIECES = [b'"', b"\\", b"\\u", b"{", b"}", b"[", b"]", b":", b",", b"0", b"-", b".", b"e", b"\x00", b"\xff", b"\xc3",
          b"\\ud800", b"\\udc80", b"\\udfff", b"null", b"NaN", b"Infinity", b" ", b"\n", b"\x1f", b"\xef\xbb\xbf",
          b"[" * 20, b'{"a":' * 17, b"9" * 30]  # fmt: skip


def mutated(count: int) -> list[bytes]:
    rng = random.Random(20)
    made = []
    for _ in range(count):
        document = bytearray(rng.choice(SEEDS))
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(document))
            choice = rng.random()
            if choice < 0.4:
                document[at:at] = rng.choice(PIECES)
            elif choice < 0.6:
                del document[at : at + rng.randint(1, 8)]
            elif choice < 0.8 and at < len(document):
                document[at] = rng.randrange(256)
            else:
                del document[at:]
        made.append(bytes(document))
    return made


@pytest.mark.parametrize("document", SEEDS, ids=range(len(SEEDS)))
def test_whole_documents_are_read_as_python_reads_them(check: Path, document: bytes) -> None:
    assert expected(document) != REFUSED
    assert read(check, [document]) == [expected(document)]


def test_every_beginning_of_a_document_is_refused(check: Path) -> None:
    parts = [d[:n] for d in SEEDS for n in range(len(d.rstrip()))]
    assert read(check, parts) == [expected(p) for p in parts] == [REFUSED] * len(parts)


def test_damaged_documents_are_read_or_refused_as_python_does(check: Path) -> None:
    documents = mutated(30_000)
    found = read(check, documents)
    assert len(found) == len(documents)
    for document, have in zip(documents, found, strict=True):
        assert have == expected(document), document
    assert 1000 < found.count(REFUSED) < len(found) - 1000  # the damage is neither everything nor nothing


def test_random_bytes_are_survived(check: Path) -> None:
    rng = random.Random(21)
    alphabet = b'{}[]",:\\u0dc8tfn1-.e \xff\x00'
    documents = [bytes(rng.choice(alphabet) for _ in range(rng.randint(0, 40))) for _ in range(20_000)]
    assert read(check, documents) == [expected(d) for d in documents]


def test_limits_are_kept(check: Path) -> None:
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    deeper = b"[" + deep + b"]"
    many = b"[" + b",".join([b"1"] * 65_000) + b"]"
    more = b"[" + b",".join([b"1"] * 66_000) + b"]"
    found = read(check, [deep, deeper, many, more])
    assert found[0] == expected(deep)
    assert found[1] == REFUSED
    assert len(found[2]) == 65_001
    assert found[3] == REFUSED
