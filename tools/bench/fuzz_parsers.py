#!/usr/bin/env python3
"""Fuzz every parser: streams of instruments, their answers, on-board sensors, trace files.

Coverage-guided at first (inputs that reach new code are kept), then at full speed; see ``tests.support.fuzz`` for how,
``fuzz_streams``, ``fuzz_texts`` and ``fuzz_files`` for what must hold. Prints a line per parser (inputs, size, inputs
kept, steps from line to line, share of lines reached, slowest batch) and every failure with its input.

Example:
    .venv/bin/python tools/bench/fuzz_parsers.py --inputs 1000000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from common import conditions

from tests.support.fuzz import FuzzCorpus, FuzzReport, FuzzTarget, fuzz_in_batches, fuzz_with_coverage
from tests.support.fuzz_files import make_file_targets
from tests.support.fuzz_streams import make_stream_targets
from tests.support.fuzz_texts import make_text_targets

HANG_S = 30
"""Seconds after which a batch hangs."""


def hang(*_: object) -> None:
    """Say that a batch takes too long."""
    raise TimeoutError(f"a batch took more than {HANG_S} s")


def main() -> int:
    """Fuzz; the exit status is 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="inputs in all")
    parser.add_argument("--explore", type=int, default=1500, help="of them, with coverage, for each parser")
    parser.add_argument("--only", action="append", help="parsers; all by default")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        targets: list[FuzzTarget] = [*make_stream_targets(), *make_text_targets(), *make_file_targets(Path(folder))]
        known = {t.name: t for t in targets}
        if missing := set(args.only or ()) - set(known):
            parser.error(f"no parser {missing.pop()!r}; there are {', '.join(known)}")
        return fuzz(args, [known[n] for n in args.only or known])


def fuzz(args: argparse.Namespace, targets: list[FuzzTarget]) -> int:
    """Fuzz some targets; returns the exit status."""
    print("# " + conditions())
    columns = ("parser", "inputs", "MB", "kept", "steps", "lines", "us/byte", "s")
    print("{:22s} {:>9s} {:>6s} {:>5s} {:>6s} {:>6s} {:>8s} {:>6s}  failures".format(*columns))
    signal.signal(signal.SIGALRM, hang)
    weight = sum(t.share for t in targets)
    reports = []
    began = time.process_time()
    for target in targets:
        rng = random.Random(f"{args.seed} {target.name}")
        start = time.process_time()
        report, corpus = FuzzReport(target.name), FuzzCorpus(target.seeds, target.tokens, rng)
        count = max(round(args.inputs * target.share / weight), 1)
        signal.alarm(HANG_S * 20)
        fuzz_with_coverage(target, corpus, report, min(args.explore, count), rng)
        left = count - report.inputs
        while left > 0 and len(report.failures) < 5:
            signal.alarm(HANG_S)
            part = min(left, target.batch)
            fuzz_in_batches(target, corpus, report, part, rng)
            left -= part
        signal.alarm(0)
        reports.append(report)
        took = time.process_time() - start
        print(
            f"{report.name:22s} {report.inputs:9d} {report.size / 1e6:6.1f} {report.kept:5d} {report.steps:6d} "
            f"{100 * report.lines:5.0f}% {1e6 * report.slowest_s:8.2f} {took:6.1f}  {len(report.failures)}",
            flush=True,
        )
        for what, data in report.failures:
            print(f"    {what}\n      {data[:300]!r}{'...' if len(data) > 300 else ''}")
    failures = sum(len(r.failures) for r in reports)
    total, size = sum(r.inputs for r in reports), sum(r.size for r in reports)
    took = time.process_time() - began
    print(f"{total} inputs, {size / 1e6:.0f} MB, {took:.0f} s of processor time, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
