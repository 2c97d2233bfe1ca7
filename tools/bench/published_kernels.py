"""Accuracy on kernels that others measured, beside the published recipe on the same splits.

    python tools/bench/published_kernels.py --data DIR [--seeds 10] [--only p40-conv gpu-conv ...] [--borrow] [--json]

DIR holds ``deepen2023/kernels_p40pro_cpu`` and ``deepen2023/kernels_gpu_conv``. For each seed, 70 % of the rows of each
family are drawn to train on (the default recipe, and the DeepEn2023 forests on their features), the rest is predicted.
Median over the seeds, with the least and the greatest value.

The folder of the processor describes a part of its convolutions only; ``conv_GPU.json`` describes some more of them.
With ``--borrow`` these are trained on as well, never tested on, so that the splits stay what they are.

``--ceiling`` also shows what no predictor can beat where the data repeat themselves almost: of three configurations
that differ in the number of input or output channels alone, by less than 40 % from first to last, the middle one is
compared with the line (log energy over log channels) through the other two. Divided by ``sqrt(1 + t^2 + (1 - t)^2)``,
for the scatter of all three, that is the noise of one row, plus the curvature of the truth, so an upper limit. Rounding
is counted by itself: a true energy anywhere within the step of the written value is as likely, and the share within
10 % of the written one is what is left even without noise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepen import predictors
from deepen.datasets.importers.registry import get_importer
from deepen.kernels.features import build_feature_matrix
from deepen.predictors.evaluation import compute_metrics
from deepen.predictors.evaluation.cross_validation import evaluate_baselines
from deepen.records import EnergyRecord

SOURCES = {"p40": ("deepen2023", "kernels_p40pro_cpu"), "gpu": ("deepen2023-gpu", "kernels_gpu_conv")}
GROUPS = {
    "p40-conv": ("p40", lambda family: family == "conv-bn-relu", (95.0, 6.0)),
    "p40-dwconv": ("p40", lambda family: family == "dwconv-bn-relu", (80.0, 8.0)),
    "p40-others": ("p40", lambda family: family not in ("conv-bn-relu", "dwconv-bn-relu"), (65.0, None)),
    "gpu-conv": ("gpu", lambda family: family == "conv-bn-relu", (75.0, 25.0)),
}
"""Group -> source, families, target (share within 10 %, RMSPE; percent)."""
TRAIN = 0.7
SPAN = float(np.log(1.4))


def read(data: Path, source: str, borrow: bool) -> tuple[list[EnergyRecord], list[EnergyRecord]]:
    """Import one of the sources: its own records, and those that another source describes."""
    name, folder = SOURCES[source]
    own = list(get_importer(name).read(data / "deepen2023" / folder).records)
    if not (borrow and get_importer(name).accepts_configurations):
        return own, []
    configurations = [data / "deepen2023" / "kernels_gpu_conv" / "conv_GPU.json"]
    ids = {record.id for record in own}
    both = get_importer(name).read(data / "deepen2023" / folder, configurations).records
    return own, [record for record in both if record.id not in ids]


def split(records: Sequence[EnergyRecord], seed: int) -> tuple[list[EnergyRecord], list[EnergyRecord]]:
    """Draw 70 % of each family."""
    rng = np.random.default_rng(seed)
    train: list[EnergyRecord] = []
    test: list[EnergyRecord] = []
    for family in sorted({r.family for r in records}):
        own = [r for r in records if r.family == family]
        order = rng.permutation(len(own))
        cut = round(TRAIN * len(own))
        train += [own[i] for i in order[:cut]]
        test += [own[i] for i in order[cut:]]
    return train, test


def score(
    records: Sequence[EnergyRecord], borrowed: Sequence[EnergyRecord], only: Sequence[str], seed: int
) -> dict[str, dict[str, Any]]:
    """Figures of the groups for one split of one source."""
    train, test = split(records, seed)
    train += borrowed
    predictor = predictors.train_predictor(train, seed=seed)
    found = {}
    for name in only:
        belongs = GROUPS[name][1]
        own = [r for r in test if belongs(r.family)]
        given = [r for r in train if belongs(r.family)]
        measured = np.array([r.energy_j for r in own])
        answer = predictor.energies([r.family for r in own], build_feature_matrix([r.features for r in own]))
        inside = np.abs(np.log(measured / answer.energy_j)) <= answer.half_width
        published = evaluate_baselines(given, own, ("deepen2023",))["deepen2023"]["overall"]
        found[name] = {
            "ours": compute_metrics(measured, answer.energy_j) | {"in_interval": 100.0 * float(inside.mean())},
            "published": published,
            "rows": [len(given), len(own)],
        }
    return found


def noise(records: Sequence[EnergyRecord]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Deviations of rows from the line through their neighbours, in log energy, scaled to one row's noise."""
    found = []
    for first, middle, last, t in _triples(records):
        gap = np.log(middle) - (1.0 - t) * np.log(first) - t * np.log(last)
        found.append(gap / np.sqrt(1.0 + t**2 + (1.0 - t) ** 2))
    return np.array(found)


def _triples(records: Sequence[EnergyRecord]) -> Iterator[tuple[float, float, float, float]]:
    for channels in ("c_in", "c_out"):
        lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for r in records:
            if channels in r.params and r.params.get("groups", 1) == 1:
                rest = {k: v for k, v in r.params.items() if k != channels}
                lines[json.dumps([r.family, rest], sort_keys=True)].append(
                    (float(np.log(r.params[channels])), r.energy_j)
                )
        for line in lines.values():
            line.sort()
            for a, b, c in zip(line, line[1:], line[2:], strict=False):
                if a[0] < b[0] < c[0] and c[0] - a[0] <= SPAN:
                    yield a[1], b[1], c[1], (b[0] - a[0]) / (c[0] - a[0])


def rounding(records: Sequence[EnergyRecord]) -> float:
    """Share of rows, percent, that are within 10 % of the true energy, given their rounding step."""
    half = np.array([r.uncertainty_j for r in records]) * np.sqrt(3.0)
    energy = np.array([r.energy_j for r in records])
    return 100.0 * float(np.mean(np.minimum(0.1 * energy / np.maximum(half, 1e-15), 1.0)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with deepen2023/")
    parser.add_argument("--seeds", type=int, default=10, help="number of splits (default: 10)")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups (default: all)")
    parser.add_argument("--borrow", action="store_true", help="train also on rows that another source describes")
    parser.add_argument("--ceiling", action="store_true", help="show the noise of near repeats, too")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in given.only}
    ceilings = {}
    for source in sorted({GROUPS[name][0] for name in given.only}):
        records, borrowed = read(given.data, source, given.borrow)
        mine = [name for name in given.only if GROUPS[name][0] == source]
        if given.ceiling:
            for name in mine:
                own = [r for r in records if GROUPS[name][1](r.family)]
                ceilings[name] = noise(own), rounding(own)
        for seed in range(given.seeds):
            for name, values in score(records, borrowed, mine, seed).items():
                figures[name].append(values)
            print(f"{source}: {seed + 1} of {given.seeds} splits", file=sys.stderr)
    report = {name: summary(values) | ceiling(ceilings.get(name)) for name, values in figures.items()}
    print(json.dumps(report, indent=1) if given.json else table(report))
    return 0


def summary(splits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and greatest over the splits."""
    found: dict[str, Any] = {"rows": splits[0]["rows"], "splits": len(splits)}
    for who, names in (("ours", ("acc10", "rmspe", "mape", "in_interval")), ("published", ("acc10", "rmspe", "mape"))):
        found[who] = {
            n: [float(f(v)) for v in [[s[who][n] for s in splits]] for f in (np.median, np.min, np.max)] for n in names
        }
    return found


def ceiling(limits: tuple[np.ndarray[Any, np.dtype[np.float64]], float] | None) -> dict[str, Any]:
    """Share within 10 % of a predictor without error of its own: with the scatter of near repeats, with rounding."""
    if limits is None:
        return {}
    deviations, rounded = limits
    if not deviations.size:
        return {"rounding": rounded}
    within = 100.0 * float(np.mean(np.abs(deviations) <= np.log(1.1)))
    near = {"triples": int(deviations.size), "sd": 100.0 * float(deviations.std()), "acc10": within}
    return {"ceiling": near, "rounding": rounded}


def table(report: dict[str, Any]) -> str:
    """A table in Markdown."""
    lines = [
        "| group | rows (train/test) | within 10 %: published | ours | target | RMSPE: published | ours | target "
        "| in 90 % interval | noise of near repeats (sd; within 10 %) | within 10 % after rounding alone |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in report.items():
        acc, rmspe = GROUPS[name][2]
        cells = [name, "/".join(str(n) for n in found["rows"])]
        for metric, target in (("acc10", acc), ("rmspe", rmspe)):
            cells += [_range(found["published"][metric]), _range(found["ours"][metric])]
            cells.append("-" if target is None else f"{target:.0f}")
        limit = found.get("ceiling")
        cells.append(_range(found["ours"]["in_interval"]))
        cells.append(f"{limit['sd']:.1f} %; {limit['acc10']:.0f} % ({limit['triples']})" if limit else "-")
        cells.append(f"{found['rounding']:.1f}" if "rounding" in found else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _range(values: Sequence[float]) -> str:
    return f"{values[0]:.1f} ({values[1]:.1f} to {values[2]:.1f})"


if __name__ == "__main__":
    sys.exit(main())
