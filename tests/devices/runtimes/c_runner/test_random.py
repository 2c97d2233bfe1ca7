"""Inputs made by the C runner have the bits of those made by runner.py, that is, by numpy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

ZEROS, BOOL, F16, BF16, F32, F64 = range(6)


def made(check: Path, seed: int, *wanted: tuple[int, int]) -> list[bytes]:
    argv = [str(check), "random", str(seed), *(str(x) for pair in wanted for x in pair)]
    done = subprocess.run(argv, capture_output=True, check=True)
    return [bytes.fromhex(line) for line in done.stdout.decode().split("\n")[:-1]]


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31, 2**32 - 1, 2**32, 2**40 + 3, 2**63 - 1])
def test_floats_are_those_of_numpy(check: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    doubles, singles, halves = (rng.uniform(-1, 1, n) for n in (1000, 1001, 20_000))
    brains = rng.uniform(-1, 1, 999)
    found = made(check, seed, (F64, 1000), (F32, 1001), (F16, 20_000), (BF16, 999))
    assert found[0] == doubles.tobytes()
    assert found[1] == singles.astype(np.float32).tobytes()
    assert found[2] == halves.astype(np.float16).tobytes()
    assert found[3] == (brains.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()


def test_integers_and_booleans_use_no_random_numbers(check: Path) -> None:
    found = made(check, 5, (ZEROS, 3), (BOOL, 4), (F32, 2), (F32, 0))
    assert found[0] == bytes(12)
    assert found[1] == b"\x01" * 4
    assert found[2] == np.random.default_rng(5).uniform(-1, 1, 2).astype(np.float32).tobytes()
    assert found[3] == b""
