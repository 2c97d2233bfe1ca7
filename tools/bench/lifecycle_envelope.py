#!/usr/bin/env python3
"""Time the full-cycle ranking of many candidates, and check it against brute force.

Example:
    .venv/bin/python tools/bench/lifecycle_envelope.py
    .venv/bin/python tools/bench/lifecycle_envelope.py --candidates 1000000 --times 3
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import arguments, report

from deepen.scoring.lifecycle import LifecycleCandidates, analyse_lifecycle, find_lower_envelope, read_candidates


def made(kind: str, n: int, u: float) -> LifecycleCandidates:
    """Candidates as a cloud, or all of them best somewhere (the worst case), with a relative uncertainty."""
    generator = np.random.default_rng(0)
    parts = np.zeros((n, 3))
    if kind == "cloud":
        parts[:, 0], inference = generator.lognormal(18, 2, n), generator.lognormal(-5, 1, n)
        accuracy = generator.uniform(0.5, 0.9, n)
    else:
        parts[:, 0] = np.geomspace(1e3, 1e12, n)
        inference, accuracy = 1e9 / parts[:, 0], np.full(n, 0.7)
    names = tuple(f"c{i}" for i in range(n))
    return LifecycleCandidates(names, accuracy, parts, inference, np.zeros(n), u * parts, u * inference)


def timed(function: Callable[[], object], times: int) -> list[float]:
    """Wall times in seconds, after one run that does not count."""
    function()
    found = []
    for _ in range(times):
        start = time.monotonic()
        function()
        found.append(time.monotonic() - start)
    return found


def main() -> None:
    """Run all cases and print a table."""
    parser = arguments(str(__doc__).splitlines()[0], 5)
    parser.add_argument("--candidates", type=int, default=100_000, help="candidates (100000)")
    given = parser.parse_args()
    n, times = given.candidates, given.times
    rows: list[tuple[str, list[float], str, float | None]] = []
    for kind, title in (("cloud", "a cloud"), ("curve", "all best somewhere")):
        exact, doubtful = made(kind, n, 0.0), made(kind, n, 0.05)
        a, b = exact.training_j, exact.inference_j
        rows.append((f"lower envelope, {title}", timed(lambda a=a, b=b: find_lower_envelope(a, b), times), "s", 1.0))  # type: ignore[misc]
        rows.append((f"analyse, {title}", timed(lambda c=exact: analyse_lifecycle(c), times), "s", 1.0))  # type: ignore[misc]
        if kind == "cloud":
            rows.append(
                (f"analyse with uncertainty, {title}", timed(lambda c=doubtful: analyse_lifecycle(c), times), "s", None)
            )  # type: ignore[misc]
        found = analyse_lifecycle(exact)
        cost = exact.training_j / exact.accuracy, exact.inference_j / exact.accuracy
        for x in np.geomspace(1, 1e15, 100):
            best = int(found.envelope.at(x))
            if cost[0][best] + cost[1][best] * x > (cost[0] + cost[1] * x).min() * (1 + 1e-12):
                raise SystemExit(f"error: {title}: not the best one at {x:g} inferences")
        print(f"{title}: {len(found.regimes)} regimes, the best one of brute force at 100 intensities")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "candidates.csv"
        cloud = made("cloud", n, 0.0)
        lines = zip(cloud.names, cloud.accuracy, cloud.training_j, cloud.inference_j, strict=True)
        text = "".join(f"{name},{acc:.6f},{t:.6g},{i:.6g}\n" for name, acc, t, i in lines)
        file.write_text("name,accuracy,training_J,inference_J\n" + text, encoding="utf-8")
        rows.append(("read from CSV", timed(lambda: read_candidates(file), times), "s", None))
    report(f"{n} candidates", rows)


if __name__ == "__main__":
    main()
