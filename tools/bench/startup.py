#!/usr/bin/env python3
"""Times ``import deepen`` and ``deepen -h`` in a fresh process.

Example:
    .venv/bin/python tools/bench/startup.py -n 20
"""

from __future__ import annotations

import sys

from common import arguments, deepen_program, measure, report


def main() -> None:
    """Run and print."""
    times = arguments("Start-up time of deepen, medians over fresh processes.", 20).parse_args().times
    cases = [
        ("python -c pass", [sys.executable, "-c", "pass"], None),
        ("python -c 'import deepen'", [sys.executable, "-c", "import deepen"], 0.2),
        ("deepen -h", [deepen_program(), "-h"], 0.3),
        ("deepen predict -h", [deepen_program(), "predict", "-h"], None),
    ]
    rows = [(what, [run.wall_s for run in measure(command, times)], "s", target) for what, command, target in cases]
    report("Start-up (wall time, warm disk cache)", rows)


if __name__ == "__main__":
    main()
