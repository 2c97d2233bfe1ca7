#!/usr/bin/env python3
"""Compares optimisers with the exact front of a table: recall, hypervolume, regret, knee and extremes over seeds.

Example:
    .venv/bin/python tools/bench/semoa_recall.py ../shared/data/pi5_nasbench201
    .venv/bin/python tools/bench/semoa_recall.py pi5.table --optimiser semoa --optimiser nsga2 --least-accuracy 0.02
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from deepen.search import compute_exact_front, import_table, read_objectives, read_table
from deepen.search.compare import compare_optimisers
from deepen.search.pareto import find_extremes, find_knee


def main() -> None:
    """Run all optimisers and print what they found."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("table", type=Path, help="folder of a table, or of the HW-NAS-Bench-360 files")
    parser.add_argument("--optimiser", action="append", help="repeatable (semoa, random, sh-emoa, nsga2)")
    parser.add_argument("--queries", type=int, default=500, help="networks evaluated in a run (500)")
    parser.add_argument("--seeds", type=int, default=30, help="runs of each (30)")
    parser.add_argument("--runtime", default="litert", help="of HW-NAS-Bench-360: litert or onnx (litert)")
    parser.add_argument("--least-accuracy", type=float, default=0.0, help="leave out networks below (0)")
    given = parser.parse_args()
    if (given.table / "table.json").exists():
        table = read_table(given.table)
    else:
        table = import_table(given.table, "pi5-nasbench201", runtime=given.runtime)
    if given.least_accuracy:
        table = table.filter(accuracy=(given.least_accuracy, None))
    goals = read_objectives(table, ["energy_j", "accuracy"])
    truth = compute_exact_front(table, goals)
    points = truth.points
    print(f"{table.manifest.title}: {len(truth.archs)} networks, {len(truth.front)} on the front")
    for what, row in (
        ("knee", find_knee(points)),
        *zip(("cheapest", "most accurate"), find_extremes(points), strict=True),
    ):
        print(f"  {what}: {1e3 * points[row, 0]:.3f} mJ, {-100 * points[row, 1]:.2f} %  {truth.archs[int(row)]}")
    names = given.optimiser or ["semoa", "random", "sh-emoa", "nsga2"]
    started = time.monotonic()
    series, compared = compare_optimisers(table, goals, names, given.queries, given.seeds)
    print(f"{given.seeds} seeds of {given.queries} queries, {time.monotonic() - started:.0f} s; median, (least, most)")
    for s in series:
        regret = [r.quality.regret for r in s.results]
        middle = np.median([r.points[r.knee] for r in s.results], axis=0)
        print(
            f"  {s.optimiser:8} hypervolume {s.hypervolume:.5f}  regret {s.regret:.5f} ({min(regret):.5f}, "
            f"{max(regret):.5f})  recall {100 * s.recall:.0f} %  "
            f"knee {1e3 * middle[0]:.2f} mJ, {-100 * middle[1]:.1f} %"
        )
    for c in compared:
        print(f"  {c.optimiser} better than {c.against} in {c.better} of {c.seeds} seeds, Wilcoxon p = {c.p_value:.2g}")


if __name__ == "__main__":
    main()
