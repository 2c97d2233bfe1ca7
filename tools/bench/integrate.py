#!/usr/bin/env python3
"""Integrate 10,000 windows over 360 million samples (an hour at 100 kS/s): samples per second, and peak memory.

Once with all samples in memory (the rate is that of integration alone), and once, in a process of its own, with a piece
at a time, made as it is asked for: its peak is what integrating an hour from disk needs beside the reader.

Example:
    .venv/bin/python tools/bench/integrate.py --in-memory 60000000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
from common import conditions

from deepen.measure import integrate_power
from deepen.records import Interval, PowerTrace

RATE_HZ = 1e5
CHUNK = 1 << 20


def piece(start: int, count: int) -> PowerTrace:
    """Samples ``start`` to ``start + count``: bursts of a millisecond, and noise; seeded by the place."""
    index = np.arange(start, start + count)
    noise = np.random.default_rng(start).normal(0.0, 0.02, count)
    power = np.where(index // 100 % 3 == 0, 1.0, 3.0) + noise
    return PowerTrace(index / RATE_HZ, power, RATE_HZ, "bench", "", "simulated")


def pieces(samples: int) -> Iterator[PowerTrace]:
    """The trace, a piece at a time."""
    for start in range(0, samples, CHUNK):
        yield piece(start, min(CHUNK, samples - start))


def windows(count: int, samples: int) -> list[Interval]:
    """Windows of 1 ms to 10 s, anywhere."""
    rng = np.random.default_rng(0)
    end = (samples - 1) / RATE_HZ
    lengths = np.minimum(10 ** rng.uniform(-3, 1, count), end / 2)
    starts = rng.uniform(0, end - lengths)
    return [Interval(float(a), float(a + d), "w") for a, d in zip(starts, lengths, strict=True)]


def peak_bytes() -> int:
    """Most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_memory(samples: int, count: int) -> dict[str, float]:
    """Integrate a trace that lies in memory."""
    parts = list(pieces(samples))
    wanted = windows(count, samples)
    wall, cpu = time.monotonic(), time.process_time()
    found = integrate_power(parts, wanted)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    return {
        "samples_per_s": samples / wall,
        "samples_per_cpu_s": samples / cpu,
        "energy_j": sum(w.gross_j for w in found),
    }


def streamed(samples: int, count: int) -> dict[str, float]:
    """Integrate a trace of which one piece at a time is in memory."""
    before = peak_bytes()
    found = integrate_power(pieces(samples), windows(count, samples))
    return {
        "peak_bytes": peak_bytes(),
        "peak_bytes_before": before,
        "chunk_bytes": CHUNK * 16,
        "energy_j": sum(w.gross_j for w in found),
    }


def main() -> None:
    """Run both and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=360_000_000, help="samples streamed")
    parser.add_argument("--in-memory", type=int, default=60_000_000, help="samples held in memory (16 bytes each)")
    parser.add_argument("--windows", type=int, default=10_000)
    parser.add_argument("--part", choices=["memory", "stream"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part == "memory":
        print(json.dumps(in_memory(given.in_memory, given.windows)))
        return
    if given.part == "stream":
        print(json.dumps(streamed(given.samples, given.windows)))
        return
    document: dict[str, object] = {"conditions": conditions(), "windows": given.windows}
    for part, samples in (("memory", given.in_memory), ("stream", given.samples)):
        argv = [sys.executable, __file__, "--part", part, "--samples", str(given.samples)]
        argv += ["--in-memory", str(given.in_memory), "--windows", str(given.windows)]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        document[part] = {"samples": samples, **json.loads(done.stdout)}
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
