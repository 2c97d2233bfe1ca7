#!/usr/bin/env python3
"""Causes every fault on every meter, and looks for wrong energies without a warning.

Each run is a recording of 1 to 3 seconds in virtual time with one fault at one moment; windows inside, across, before
and after it are integrated and compared with the emulator's true energy (``tests.support.fault_acceptance``). A cell
counts the runs by their worst window:

    r  right within the stated uncertainty          e  the meter refused (error)
    g  wrong, in a gap of the trace                 b  wrong, undetectable in the protocol: every recording with
    t  wrong, with a new warning or reported loss      this meter has a warning
    !  wrong without a warning

Example:
    .venv/bin/python tools/bench/fault_matrix.py --seeds 4 --rig ppk2
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from common import conditions

from tests.support.fault_acceptance import FAULTS, RecordingVerdict, judge_recording, record_with_fault
from tests.support.fault_rigs import make_fault, make_fault_rigs

LETTERS = {"right": "r", "gap": "g", "told": "t", "blind": "b", "wrong": "!", "error": "e"}


def main() -> int:
    """Run the matrix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rig", action="append", help="one of the rigs; all by default")
    parser.add_argument("--fault", action="append", help="one of the faults; all by default")
    parser.add_argument("--moment", action="append", type=float, help="share of the recording (0, 0.4, 0.75)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds: load, noise, and where in a frame it strikes")
    parser.add_argument("--verbose", action="store_true", help="show every window that is not right")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        known = make_fault_rigs(Path(folder))
        if missing := set(args.rig or ()) - set(known):
            parser.error(f"no rig {missing.pop()!r}; there are {', '.join(known)}")
        return matrix(args, {name: rig for name, rig in known.items() if name in (args.rig or known)})


def matrix(args: argparse.Namespace, chosen: dict) -> int:
    """Run and print it; returns the exit status."""
    faults = args.fault or FAULTS
    print("# " + conditions())
    wrong = runs = 0
    for name, rig in chosen.items():
        began = time.process_time()
        cells: dict[str, Counter[str]] = {fault: Counter() for fault in faults}
        for seed in range(args.seeds):
            clean = record_with_fault(rig, None, seed=seed)
            if clean.trace is None:
                print(f"{name}: without a fault: {clean.error}")
                return 1
            for fault in faults:
                for share in args.moment or (0.0, 0.4, 0.75):
                    moment = share * rig.seconds
                    done = record_with_fault(rig, make_fault(rig, fault, moment, seed), seed=seed)
                    verdict = judge_recording(rig, fault, done, clean.trace.warnings)
                    cells[fault][LETTERS[verdict.way]] += 1
                    runs += 1
                    wrong += verdict.way == "wrong"
                    if verdict.way == "wrong" or (args.verbose and verdict.way != "right"):
                        print(f"  {name}, {fault} at {moment:g} s, seed {seed}: {describe(verdict)}")
        told = {f: "".join(f"{n}{c}" for c, n in sorted(cell.items())) for f, cell in cells.items()}
        print(f"{name:26s} {time.process_time() - began:6.1f} s  " + "  ".join(f"{f}: {t}" for f, t in told.items()))
        sys.stdout.flush()
    print(f"{runs} runs, {wrong} wrong without a word")
    return 1 if wrong else 0


def describe(verdict: RecordingVerdict) -> str:
    """Describe a wrong verdict: error and uncertainty as shares of the true energy, and the warnings given."""
    off = [f"{k} {way} {e:+.1e} ({u:.0e})" for k, (way, e, u) in verdict.windows.items() if way != "right"]
    return f"{verdict.way}; {', '.join(off)}; {'; '.join(w[:90] for w in verdict.news)}"


if __name__ == "__main__":
    sys.exit(main())
