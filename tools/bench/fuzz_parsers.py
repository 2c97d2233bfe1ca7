#!/usr/bin/env python3
"""Fuzz every parser: streams of instruments, their answers, on-board sensors, trace files.

hypothesis draws lists of damaged inputs (``tests.support.fuzz_inputs``); ``fuzz_streams``, ``fuzz_texts`` and
``fuzz_files`` say what must hold for each. Prints a line per parser (examples, inputs, size, processor time) and the
shortest inputs found for each failure.

Example:
    .venv/bin/python tools/bench/fuzz_parsers.py --examples 20000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from common import conditions

from tests.support.fuzz_files import make_file_targets
from tests.support.fuzz_inputs import FuzzTarget, fuzz_target
from tests.support.fuzz_streams import make_stream_targets
from tests.support.fuzz_texts import make_text_targets

HANG_S = 30
"""Seconds after which an example hangs."""


class CountedTarget:
    """A target that counts what it is given, and in which no example may hang.

    Attributes:
        inputs: Inputs run.
        size: Their bytes.
    """

    def __init__(self, target: FuzzTarget) -> None:
        """Count for a target."""
        self.name, self.seeds, self.tokens, self.share = target.name, target.seeds, target.tokens, target.share
        self.inputs = self.size = 0
        self._target = target

    def check(self, inputs: Sequence[bytes], rng: random.Random) -> None:
        """Run inputs.

        Raises:
            Exception: Of any kind, where something that must hold does not.
        """
        self.inputs += len(inputs)
        self.size += sum(map(len, inputs))
        signal.alarm(HANG_S)
        try:
            self._target.check(inputs, rng)
        finally:
            signal.alarm(0)


def hang(*_: object) -> None:
    """Say that an example takes too long."""
    raise TimeoutError(f"an example took more than {HANG_S} s")


def main() -> int:
    """Fuzz; the exit status is 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100_000, help="lists of up to 8 inputs, in all")
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
    print(f"{'parser':22s} {'examples':>9s} {'inputs':>9s} {'MB':>6s} {'s':>6s}  failure")
    signal.signal(signal.SIGALRM, hang)
    weight = sum(t.share for t in targets)
    total = size = failures = 0
    began = time.process_time()
    for target in map(CountedTarget, targets):
        start, failure = time.process_time(), ""
        examples = max(round(args.examples * target.share / weight), 1)
        try:
            fuzz_target(target, examples, seed=args.seed)
        except Exception as error:
            failure, failures = "".join(traceback.format_exception(error)), failures + 1
        total, size = total + target.inputs, size + target.size
        print(
            f"{target.name:22s} {examples:9d} {target.inputs:9d} {target.size / 1e6:6.1f} "
            f"{time.process_time() - start:6.1f}  {'FAILED' if failure else 'none'}",
            flush=True,
        )
        print(failure, end="")
    took = time.process_time() - began
    print(f"{total} inputs, {size / 1e6:.0f} MB, {took:.0f} s of processor time, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
