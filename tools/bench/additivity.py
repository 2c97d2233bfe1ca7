#!/usr/bin/env python3
"""Compares the sum of a model's kernels, each measured alone, with the model measured whole.

The exact kernels of each model are measured, so no regression takes part: what is left is context (caches, calls)
and the noise of the machine. Model and kernels are measured in turns, several times, and medians are compared.

Examples:
    tools/bench/additivity.py
    tools/bench/additivity.py --rounds 7 resnet50 shufflenet
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import Counter
from pathlib import Path

from deepen.campaign import CampaignSettings, ItemPreparer, KernelItem
from deepen.cli.output import format_table
from deepen.errors import DeepenError
from deepen.measure import Session, make_workload, open_session
from deepen.quickstart import list_reference_models
from deepen.quickstart.targets import TargetModel, load_target_model
from deepen.records import StoppingRule
from deepen.units import format_si

KERNEL_RULE = StoppingRule(min_duration_s=0.036, max_duration_s=0.12, min_blocks=3, rel_std=0.04)
MODEL_RULE = StoppingRule(min_duration_s=0.5, max_duration_s=1.0, min_blocks=3, rel_std=0.01)


def compare(target: TargetModel, session: Session, folder: Path, rounds: int, copies: int | None) -> tuple[object, ...]:
    """Measure a model and its kernels in turns.

    Returns:
        Name, kernels, distinct kernels, median energy of the whole and its spread, sum of kernels over whole, and how
        many distinct kernels could not be measured alone.
    """
    prepare = ItemPreparer(folder, CampaignSettings(kernel_rule=KERNEL_RULE, warmup_s=0.02, copies=copies))
    counts = Counter(kernel.key for kernel in target.split.kernels)
    distinct = {kernel.key: kernel for kernel in target.split.kernels}
    whole: list[float] = []
    alone: dict[str, list[float]] = {key: [] for key in distinct}
    missing = set()
    with session.hold(make_workload(target.path, warmup_s=0.1, rule=MODEL_RULE)) as measure:
        for _ in range(rounds):
            whole.append(measure(False).energy_j)
            for key, kernel in distinct.items():
                try:
                    prepared = prepare(KernelItem(kernel.family, kernel.params))
                except DeepenError:
                    missing.add(key)
                    continue
                try:
                    alone[key].append(session.measure(prepared.workload).energy_j / prepared.copies)
                finally:
                    prepared.discard()
            whole.append(measure(False).energy_j)
    total = sum(counts[key] * statistics.median(values) for key, values in alone.items() if values)
    median = statistics.median(whole)
    spread = statistics.stdev(whole) / median
    return (
        target.name,
        len(target.split.kernels),
        len(distinct),
        format_si(median, "J"),
        f"{100 * spread:.1f} %",
        f"{total / median:.3f}",
        len(missing),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names of the nine (default: all but the two largest)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, help="copies of a kernel per run (default: as a campaign chooses)")
    options = parser.parse_args()
    targets = [load_target_model(path, {}) for path in list_reference_models()]
    names = options.models or [t.name for t in targets if t.name not in ("vgg19", "zfnet512")]
    rows = []
    with open_session() as session, tempfile.TemporaryDirectory() as folder:
        for target in targets:
            if target.name in names:
                rows.append(compare(target, session, Path(folder), options.rounds, options.copies))
        print(f"{session.meter.id}, {session.meter.source}; {options.rounds} rounds")
    header = ("model", "kernels", "distinct", "whole", "its spread", "sum / whole", "not measured alone")
    print(format_table(header, rows, right=(1, 2, 3, 4, 5, 6)))


if __name__ == "__main__":
    main()
