#!/usr/bin/env python3
"""Full-cycle energy of training runs measured by others: Zeus traces (4 GPUs) and EC-NAS (91 networks, 3 repeats).

The folder is that of the public data sets, which are not part of the project.

Example:
    .venv/bin/python tools/bench/lifecycle_examples.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import tarfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from deepen.scoring.lifecycle import Lifecycle, LifecycleCandidates, LifecycleConditions, analyse_lifecycle
from deepen.scoring.lifecycle.greenness import J_PER_KWH

IMAGES = 10_000  # of CIFAR-10's validation part; EC-NAS' predict_time is for one pass over it
PUE = 1.59  # contained in EC-NAS' kilowatt-hours, not in its joules


def zeus(folder: Path, network: str = "resnet50", gpu: str = "v100") -> LifecycleCandidates:
    """One network trained to every target metric at the cheapest setting; all cost the same to use.

    The energy of a training is epochs x time per epoch x mean power, at the batch size and power limit that need the
    least. Inference energy is not part of the traces: a forward pass is taken as a third of a training step
    (one forward and two backward products of the same size), over the images of an epoch.
    """
    power: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    with (folder / f"summary_power_{gpu}.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["network"] == network:
                joules = float(row["time_per_epoch"]) * float(row["average_power"])
                power[row["batch_size"], row["optimizer"]].append((row["power_limit"], joules))
    epochs: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    with (folder / "summary_train.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["network"] == network and 0 < float(row["target_epoch"] or -1) < math.inf:  # it got there
                epochs[row["target_metric"]][row["batch_size"], row["optimizer"]].append(float(row["target_epoch"]))
    found: list[tuple[str, float, float, float]] = []
    for target, settings in epochs.items():
        best: tuple[float, float, str] | None = None
        for setting, runs in settings.items():
            for limit, joules in power.get(setting, []):
                energy = statistics.mean(runs) * joules
                spread = statistics.stdev(runs) * joules if len(runs) > 1 else 0.0
                if best is None or energy < best[0]:
                    best = energy, spread, f"batch {setting[0]}, {limit} W"
        if best is not None and 0 < float(target) <= 1:
            found.append((f"to {float(target):.2f} ({best[2]})", float(target), best[0], best[1]))
    found.sort(key=lambda f: f[1])
    names, accuracy, training, spread_j = zip(*found, strict=True)
    parts, u = np.zeros((len(found), 3)), np.zeros((len(found), 3))
    parts[:, 0], u[:, 0] = training, spread_j
    images = {"resnet50": 1_281_167, "shufflenetv2": 50_000}[network]
    epoch_j = min(joules for entries in power.values() for _, joules in entries)
    inference = np.full(len(found), epoch_j / 3 / images)
    return LifecycleCandidates(tuple(names), np.array(accuracy), parts, inference, parts_u_j=u, sources=("modelled",))


def ec_nas(archive: Path) -> tuple[LifecycleCandidates, float, float]:
    """EC-NAS 4V: networks trained for 4 epochs, repeats as uncertainty; and the mean PUE and CV found in the data."""
    runs: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    ratios = []
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if parts[-1] != "results.json":
                continue
            file = tar.extractfile(member)
            if file is None:
                continue
            data = json.load(file)
            usage = data["avg_power_usages:"]
            joules = sum(v for kind in usage.values() for per_epoch in kind["avg_energy_usages (J)"] for v in per_epoch)
            watts = sum(v for kind in usage.values() for per_epoch in kind["avg_power_usages (W)"] for v in per_epoch)
            ratios.append(data["total_energy (kWh)"] * J_PER_KWH / joules)
            last = data["evaluation_results"][-1]
            energy_j = last["energy (kWh)"] * J_PER_KWH
            runs[parts[-3]].append((energy_j, last["validation_accuracy"], last["predict_time"] * watts / IMAGES))
    names = tuple(sorted(runs))
    values = [np.array(runs[name]) for name in names]
    mean = np.array([v.mean(axis=0) for v in values])
    u = np.array([v.std(axis=0, ddof=1) / np.sqrt(len(v)) for v in values])
    cv = float(np.mean([v[:, 0].std(ddof=1) / v[:, 0].mean() for v in values]))
    once, once_u = np.zeros((len(names), 3)), np.zeros((len(names), 3))
    once[:, 0], once_u[:, 0] = mean[:, 0], u[:, 0]
    found = LifecycleCandidates(tuple(n[:8] for n in names), mean[:, 1], once, mean[:, 2], u[:, 1], once_u, u[:, 2])
    found = replace(found, pue_included=np.full(len(names), PUE))
    return found, float(np.mean(ratios)), cv


def show(title: str, result: Lifecycle) -> None:
    """Print regimes, how sure they are, and what is best at no usage."""
    print(f"\n{title}: {len(result.candidates)} candidates ({result.source})")
    for r in result.regimes:
        i = result.candidates.index(r.candidate)
        facts = f"{100 * result.candidates.accuracy[i]:.1f} %, {result.candidates.training_j[i] / 3.6e6:.3g} kWh"
        sure = "" if np.isnan(r.confidence) else f"; best in {100 * r.confidence:.0f} % of draws"
        if r.start_spread is not None:
            sure += f"; starts at {r.start_spread.low:.2g} to {r.start_spread.high:.2g}"
        print(f"  {r.words}  ({facts}{sure})")
    print(f"  best at no usage: {len(result.never_best())}")


def main() -> None:
    """Run both examples."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    given = parser.parse_args()
    for network, gpu in (("shufflenetv2", "v100"), ("shufflenetv2", "a40"), ("resnet50", "v100")):
        candidates = zeus(given.data / "training_traces", network, gpu)
        for tau in (1.0, 4.0):
            show(
                f"{network} on {gpu}, trained to each target, tau {tau:g}",
                analyse_lifecycle(candidates, LifecycleConditions(tau=tau)),
            )
    candidates, ratio, cv = ec_nas(given.data / "ec_nas" / "train_results_4V.tar.gz")
    print(f"\nEC-NAS 4V: kWh over joules {ratio:.4f} (PUE {PUE}), repeat CV {100 * cv:.1f} %")
    for tau in (1.0, 4.0):
        show(f"EC-NAS 4V, tau {tau:g}", analyse_lifecycle(candidates, LifecycleConditions(tau=tau, training_pue=PUE)))


if __name__ == "__main__":
    main()
