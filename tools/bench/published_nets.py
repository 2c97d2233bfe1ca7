"""Accuracy on whole networks that others measured, predicted from few of them, from smaller ones, and from layers.

    python tools/bench/published_nets.py --data DIR [--seeds 20] [--only few planned larger layers] [--json]

DIR holds ``pi5_nasbench201`` and ``layers_and_nets_cpu``. Four tables:

- few: a predictor without a base is calibrated with 50 networks drawn by chance, and predicts all the others. Beside it
  the published recipe on the same networks: least squares of energy on counts of operations, weighted by 1 / y^2.
- planned: the same with the 50 that ``deepen dataset plan`` chooses among 1,000 drawn by chance.
- larger: calibrated with all networks of at most two 3x3 convolutions per cell, tested on those with four and more; the
  published recipe beside it, and what constant power at the true latency would reach (nothing that predicts power by
  structure can be much better: the noise ceiling).
- layers: trained on random layers alone, tested on whole networks; beside it one straight line of log energy on log
  multiply-accumulates per kind of layer, summed.

Median over the seeds, with the worst; errors in percent.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen import predictors
from deepen.datasets.importers.registry import get_importer
from deepen.predictors.active_learning import propose_kernels
from deepen.predictors.evaluation import compute_metrics
from deepen.predictors.fitting.calibration_cases import CalibrationCases, make_calibration_cases
from deepen.predictors.kernel_counts import KernelCounts
from deepen.predictors.measured_rows import select_usable_rows
from deepen.records import EnergyRecord
from deepen.spaces.nasbench201_networks import EDGES, parse_cell

Floats = NDArray[np.float64]

RUNTIMES = {"litert": "tflite-cpu", "onnx": "onnxruntime"}
TARGETS = {
    ("few", "litert"): (95.0, 4.0), ("few", "onnx"): (97.0, 3.5), ("planned", "litert"): (95.0, 4.0),
    ("planned", "onnx"): (97.0, 3.5), ("larger", "litert"): (99.0, None), ("larger", "onnx"): (95.0, None),
    ("layers", "cpu"): (None, 10.0),
}  # fmt: skip
"""Table and data -> share within 10 % and mean absolute error to reach."""
CALIBRATED_FROM = 50
POOL = 1000
SMALLER, LARGER = 2, 4
LAYERS = ("layers_conv2d", "layers_linear", "layers_maxpool2d", "layers_relu")
"""What the networks are made of."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=("few", "planned", "larger", "layers"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    wanted = args.only or ("few", "planned", "larger", "layers")
    rows: list[dict[str, Any]] = []
    if set(wanted) & {"few", "planned", "larger"}:
        for framework, cases in _networks(args.data / "pi5_nasbench201").items():
            if "few" in wanted:
                rows += _few(framework, cases, args.seeds)
            if "planned" in wanted:
                rows.append(_planned(framework, cases, args.seeds))
            if "larger" in wanted:
                rows += _larger(framework, cases)
    if "layers" in wanted:
        rows += _layers(args.data / "layers_and_nets_cpu")
    if args.json:
        json.dump(rows, sys.stdout, indent=1)
        return
    print(f"{'table':8} {'data':7} {'recipe':42} {'acc10':>6} {'worst':>6} {'mape':>6} {'worst':>6}  to reach")
    for row in rows:
        acc, mape = TARGETS.get((row["table"], row["data"]), (None, None))
        goal = " ".join(filter(None, (f"acc10 {acc:.0f}" if acc else "", f"mape {mape:g}" if mape else "")))
        print(
            f"{row['table']:8} {row['data']:7} {row['recipe']:42} {row['acc10']:6.1f} {row['acc10_worst']:6.1f} "
            f"{row['mape']:6.2f} {row['mape_worst']:6.2f}  {goal if row['recipe'].startswith('deepen') else ''}"
        )


def _summary(table: str, data: str, recipe: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    acc, mape = (np.array([run[key] for run in runs]) for key in ("acc10", "mape"))
    return {
        "table": table, "data": data, "recipe": recipe, "seeds": len(runs), "n": runs[0]["n"],
        "acc10": float(np.median(acc)), "acc10_worst": float(acc.min()),
        "mape": float(np.median(mape)), "mape_worst": float(mape.max()),
    }  # fmt: skip


# --- networks of NAS-Bench-201 on a Raspberry Pi 5 ------------------------------------------------------------------


def _networks(folder: Path) -> dict[str, CalibrationCases]:
    """Measured networks of each framework that compute something."""
    records = get_importer("pi5-nasbench201").read(folder).records
    found = {}
    for framework, runtime in RUNTIMES.items():
        kept = [r for r in records if r.runtime == runtime and _computes(_cell(r))]
        found[framework] = make_calibration_cases(select_usable_rows(kept))
    return found


def _cell(record: EnergyRecord) -> tuple[str, ...]:
    return parse_cell(record.name[record.name.index("|") :])


def _computes(cell: tuple[str, ...]) -> bool:
    """Return whether the cell's output depends on its input."""
    reached = {0}
    for (source, target), operation in zip(EDGES, cell, strict=True):
        if source in reached and operation != "none":
            reached.add(target)
    return 3 in reached


def _predict(cases: CalibrationCases, train: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], Floats]:
    predictor = predictors.calibrate_predictor(None, [cases.records[int(i)] for i in train])
    return lambda rows: predictor.predict_counts(cases.kernels.take(rows)).energy_j


def _published(cases: CalibrationCases, train: NDArray[np.int64], rows: NDArray[np.int64]) -> Floats:
    """Least squares on counts of live operations and additions, weighted by 1 / y^2."""
    design = np.array([_operations(_cell(r)) for r in cases.records])
    y = cases.energy_j[train]
    solution = np.linalg.lstsq(design[train] / y[:, None], np.ones(train.size), rcond=None)[0]
    return np.asarray(design[rows] @ solution)


def _operations(cell: tuple[str, ...]) -> list[float]:
    """Counts of operations on a path from input to output without ``none``, of additions, and a one."""
    ahead, behind = {0}, {3}
    for (source, target), operation in zip(EDGES, cell, strict=True):
        if source in ahead and operation != "none":
            ahead.add(target)
    for (source, target), operation in reversed(list(zip(EDGES, cell, strict=True))):
        if target in behind and operation != "none":
            behind.add(source)
    live = [
        (edge, operation)
        for edge, operation in zip(EDGES, cell, strict=True)
        if operation != "none" and edge[0] in ahead and edge[1] in behind
    ]
    kinds = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    adds = sum(max(0, sum(edge[1] == node for edge, _ in live) - 1) for node in (1, 2, 3))
    return [*(float(sum(o == kind for _, o in live)) for kind in kinds), float(adds), 1.0]


def _few(framework: str, cases: CalibrationCases, seeds: int) -> list[dict[str, Any]]:
    ours, theirs = [], []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(cases.records))
        train, test = order[:CALIBRATED_FROM], order[CALIBRATED_FROM:]
        ours.append(compute_metrics(cases.energy_j[test], _predict(cases, train)(test)))
        theirs.append(compute_metrics(cases.energy_j[test], _published(cases, train, test)))
    return [
        _summary("few", framework, "counts of operations, 1/y^2", theirs),
        _summary("few", framework, f"deepen, {CALIBRATED_FROM} by chance", ours),
    ]


def _planned(framework: str, cases: CalibrationCases, seeds: int) -> dict[str, Any]:
    runs = []
    for seed in range(seeds):
        pool = np.random.default_rng(1000 + seed).permutation(len(cases.records))[:POOL]
        chosen = propose_kernels(cases.kernels.take(pool), CALIBRATED_FROM)
        train = pool[[p.index for p in chosen]]
        test = np.setdiff1d(np.arange(len(cases.records)), train)
        runs.append(compute_metrics(cases.energy_j[test], _predict(cases, train)(test)))
    return _summary("planned", framework, f"deepen, {CALIBRATED_FROM} planned", runs)


def _larger(framework: str, cases: CalibrationCases) -> list[dict[str, Any]]:
    convolutions = np.array([_cell(r).count("nor_conv_3x3") for r in cases.records])
    train, test = np.flatnonzero(convolutions <= SMALLER), np.flatnonzero(convolutions >= LARGER)
    measured = cases.energy_j[test]
    power = measured / cases.latency_s[test]
    ceiling = max(
        (compute_metrics(measured, f * np.median(power) * cases.latency_s[test]) for f in np.linspace(0.85, 1.15, 121)),
        key=lambda m: m["acc10"],
    )
    return [
        _summary("larger", framework, "counts of operations, 1/y^2",
                 [compute_metrics(measured, _published(cases, train, test))]),
        _summary("larger", framework, "deepen", [compute_metrics(measured, _predict(cases, train)(test))]),
        _summary("larger", framework, "(ceiling: true latency, best power)", [ceiling]),
    ]  # fmt: skip


# --- layers and networks on a server CPU ----------------------------------------------------------------------------


def _layers(folder: Path) -> list[dict[str, Any]]:
    records = get_importer("layers-and-nets").read(folder).records
    train = [r for r in records if r.kind == "kernel" and r.id.startswith(LAYERS)]
    nets = [r for r in records if r.kind == "model"]
    measured = np.array([r.energy_j for r in nets])
    predictor = predictors.train_predictor(train)
    lines = _lines(train)
    ours = predictor.predict_counts(KernelCounts.from_records(nets)).energy_j
    theirs = np.array(
        [sum(k.get("multiplicity", 1.0) * lines(k["family"], k["features"]) for k in net.kernels) for net in nets]
    )
    return [
        _summary("layers", "cpu", "log energy on log work per kind, summed", [compute_metrics(measured, theirs)]),
        _summary("layers", "cpu", "deepen, trained on random layers", [compute_metrics(measured, ours)]),
    ]


def _lines(records: Sequence[EnergyRecord]) -> Callable[[str, Any], float]:
    """One line of log energy on log work for each family: multiply-accumulates, or operations where there are none."""

    def work(features: Any) -> float:
        return float(np.log(max(features["macs"], features["ops"], 1.0)))

    fits = {}
    for family in {r.family for r in records}:
        rows = [r for r in records if r.family == family]
        fits[family] = np.polyfit([work(r.features) for r in rows], np.log([r.energy_j for r in rows]), 1)
    return lambda family, features: float(np.exp(np.polyval(fits[family], work(features)))) if family in fits else 0.0


if __name__ == "__main__":
    main()
