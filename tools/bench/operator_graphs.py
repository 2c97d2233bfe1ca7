#!/usr/bin/env python3
"""Draw graphs over the operators of ONNX Runtime, and compare deepen's shapes and work with the runtime's.

Example:
    .venv/bin/python tools/bench/operator_graphs.py --graphs 500 --seed 1
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.operator_graphs import GraphCheck, check_seed, list_operators


def main() -> int:
    """Run the graphs; the exit status is 1 if any differs silently."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--graphs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tries", type=int, default=40_000, help="graphs drawn at most")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    names, rng = list_operators(), random.Random(args.seed)
    checks: list[GraphCheck] = []
    lost = tries = 0
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, spawn)
    while len(checks) < args.graphs and tries < args.tries:
        drawn = [names[tries % len(names)]] + [rng.choice(names) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
        try:
            check = pool.submit(check_seed, f"{args.seed} {tries}", drawn).result()
        except BrokenProcessPool:
            lost, check, pool = lost + 1, None, ProcessPoolExecutor(1, spawn)
        tries += 1
        if check is not None:
            checks.append(check)
    pool.shutdown()
    reached = {n for c in checks for n in c.operators}
    result = {
        "graphs": len(checks),
        "drawn": tries,
        "aborts_of_the_runtime": lost,
        **Counter(c.outcome for c in checks),
        "operators": len(names),
        "reached": len(reached),
        "never_reached": sorted(set(names) - reached),
        "violations": [f"{' '.join(c.operators)}: {c.detail}" for c in checks if c.outcome == "violation"],
    }
    print(json.dumps(result) if args.json else "\n".join(f"{k:22} {v}" for k, v in result.items()))
    return int(bool(result["violations"]))


if __name__ == "__main__":
    sys.exit(main())
