#!/usr/bin/env python3
"""Effect of missing rows and wrong values on device scores: our relative score beside the sum of inferences per joule.

Example:
    .venv/bin/python tools/bench/score_robustness.py ../shared/data/deepen2023/app_measurements.csv
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from deepen.robust_statistics import compute_spearman
from deepen.scoring import AppTable, compute_relative_scores, read_app_rows, sum_inferences_per_joule


def ours(table: AppTable) -> np.ndarray:
    """Relative scores, shape (devices,)."""
    return np.array([s.score for s in compute_relative_scores(table, resamples=20).scores])


def total(table: AppTable) -> np.ndarray:
    """Sums of inferences per joule, shape (devices,)."""
    return np.array([s.value for s in sum_inferences_per_joule(table)])


def damaged(table: AppTable, kind: str, generator: np.random.Generator) -> AppTable:
    """A copy with rows taken away, or values wrong by a factor."""
    energy_j = table.energy_j.copy()
    known = np.argwhere(~np.isnan(energy_j))
    if kind.startswith("missing"):
        share = float(kind.split()[1]) / 100
        for i, k in known[generator.random(len(known)) < share]:
            energy_j[i, k] = np.nan
    elif kind == "network missing":
        device = generator.integers(len(table.devices))
        gone = generator.choice(sorted(set(table.groups)), 4, replace=False)
        energy_j[device, np.isin(table.groups, gone)] = np.nan
    else:
        count, _, factor = kind.split()
        for i, k in known[generator.choice(len(known), int(count), replace=False)]:
            energy_j[i, k] *= float(factor)
    return replace(table, energy_j=energy_j)


def main() -> None:
    """Simulate, and print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("rows", type=Path, help="CSV of application measurements")
    parser.add_argument("-n", "--times", type=int, default=50, help="simulations of each kind (50)")
    given = parser.parse_args()
    table = read_app_rows(given.rows)
    print("| what goes wrong | rank correlation with the whole data, worst of all | best device stays best |")
    print("| --- | --- | --- |")
    before = {"relative": ours(table), "sum": total(table)}
    for kind in ("missing 10", "missing 30", "network missing", "1 by 0.001", "1 by 1000", "5 by 0.01", "5 by 100"):
        cells: dict[str, list[float]] = {"relative": [], "sum": []}
        same = {"relative": 0, "sum": 0}
        for seed in range(given.times):
            changed = damaged(table, kind, np.random.default_rng(seed))
            for name, function in (("relative", ours), ("sum", total)):
                after = function(changed)
                cells[name].append(compute_spearman(before[name], after))
                same[name] += int(after.argmax() == before[name].argmax())
        worst = ", ".join(f"{n} {np.median(c):.2f} (worst {min(c):.2f})" for n, c in cells.items())
        stays = ", ".join(f"{n} {100 * s / given.times:.0f} %" for n, s in same.items())
        print(f"| {kind} | {worst} | {stays} |")


if __name__ == "__main__":
    main()
