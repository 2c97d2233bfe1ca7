#!/usr/bin/env python3
"""Time tables: fronts and hypervolumes of many points, filling NAS-Bench-201 from a warm predictor, single queries.

Example:
    .venv/bin/python tools/bench/table_speed.py
    .venv/bin/python tools/bench/table_speed.py --predictor phone.deepen --points 1000000
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import arguments, report

from deepen.predictors import load_predictor
from deepen.search import TabularBenchmark, build_table, open_space, read_table, write_table
from deepen.search.pareto import compute_contributions, compute_hypervolume, find_pareto_front
from deepen.testing.synthetic import train_synthetic_predictor


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
    parser.add_argument("--points", type=int, default=100_000, help="points of fronts and hypervolumes (100000)")
    parser.add_argument(
        "--predictor", help="predictor to fill the table with (default: one trained on made-up kernels)"
    )
    given = parser.parse_args()
    times = given.times
    rng = np.random.default_rng(0)
    rows: list[tuple[str, list[float], str, float | None]] = []
    for m in (2, 3):
        cloud = rng.random((given.points, m))
        edge = np.sort(cloud[:, 0])
        curve = np.column_stack([edge, 1 - edge, *([rng.random(given.points)] * (m - 2))])
        for kind, points in (("a cloud", cloud), ("all on the front", curve)):
            if m > 2 and kind != "a cloud":
                continue
            reference = np.full(m, 1.1)
            rows += [
                (f"front, {m} objectives, {kind}", timed(lambda p=points: find_pareto_front(p), times), "s", 1.0),  # type: ignore[misc]
                (f"hypervolume, {m} objectives, {kind}",
                 timed(lambda p=points, r=reference: compute_hypervolume(p, r), times), "s", 1.0),  # type: ignore[misc]
                (f"contributions, {m} objectives, {kind}",
                 timed(lambda p=points, r=reference: compute_contributions(p, r), times), "s", None),  # type: ignore[misc]
            ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(given.predictor) if given.predictor else train_synthetic_predictor(Path(folder) / "made.deepen")
        predictor, space = load_predictor(path), open_space("nasbench201?classes=100")
        table = build_table(space, predictor)
        rows.append(("predict 15,625 networks", timed(lambda: build_table(space, predictor), times), "s", 5.0))
        place = Path(folder) / "table"
        rows.append(("write the table", timed(lambda: write_table(table, place), times), "s", None))
        rows.append(("read the table", timed(lambda: read_table(place), times), "s", None))
    bench = TabularBenchmark(table)
    archs, hashes = table.keys["arch"].tolist(), list(table.hashes)

    def every(what: str) -> list[float]:
        found = []
        for _ in range(times):
            start = time.monotonic()
            if what == "arch":
                for arch in archs:
                    bench.query(arch)
            else:
                for key in hashes:
                    bench.query(hash=key)
            found.append(1e6 * (time.monotonic() - start) / len(archs))
        return found

    rows.append(("query by architecture", every("arch"), "us", 20.0))
    rows.append(("query by hash", every("hash"), "us", 20.0))
    report(f"{given.points} points", rows)


if __name__ == "__main__":
    main()
