#!/usr/bin/env python3
"""Predicts whole architectures with their family left out of training, and separates the error of the regressors.

Four stages on the machine at hand, each resumed where it stopped; run it again on the same folder to add measurements:

1. kernels sampled from the families the architectures need, and random networks, as a quickstart measures them;
2. every distinct kernel of every architecture, alone (used for the additivity column only, never for training);
3. the architectures themselves, in five rounds;
4. for each family of architectures: a predictor trained without any kernel configuration that occurs in the family,
   the family's models predicted with it and compared.

*sum / whole* is the sum of a model's kernels, each measured alone, over the measured whole; *predicted / sum* is the
sum of their predictions over that sum; *error* is the whole prediction (with the context of a model) against the whole.

Examples:
    tools/bench/architectures.py run --zoo ~/.cache/deepen/zoo --minutes 12
    tools/bench/architectures.py run --report
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import conditions

from deepen.campaign import CampaignPlan, CampaignSettings, KernelItem
from deepen.campaign import run_plan as run_campaign
from deepen.cli.output import format_table
from deepen.clock.host_clock import Deadline
from deepen.datasets import Dataset
from deepen.measure import open_session
from deepen.predictors import train_predictor
from deepen.predictors.evaluation import compute_metrics
from deepen.quickstart import list_reference_models
from deepen.quickstart.models import measure_models
from deepen.quickstart.plan import plan_items
from deepen.quickstart.results import ModelResult, QuickstartOptions, QuickstartProgress
from deepen.quickstart.run import BLOCK_S, KERNEL_RULE, NETWORK_RULE, WARMUP_S
from deepen.quickstart.targets import TargetModel, load_target_model
from deepen.records import EnergyRecord
from deepen.units import format_si

PACKAGED: dict[str, tuple[str, str, dict[str, tuple[int, ...]]]] = {
    "silero_vad": ("silero_vad", "data/silero_vad_16k_sequence.onnx", {"input": (4, 576)}),
    "ppocr_det": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 640, 640)}),
    "ppocr_rec": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 320)}),
    "ppocr_cls": ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
    "nudenet": ("nudenet", "320n.onnx", {"images": (1, 3, 320, 320)}),
}
"""Models inside Python packages (tools/models.txt): package, file, shapes of open inputs."""

FAMILIES = {
    "alexnet": ("bvlc_alexnet", "zfnet512"),
    "vgg": ("vgg19",),
    "resnet": ("resnet50", "resnet50-torch", "resnext50_32x4d"),
    "densenet": ("densenet121", "densenet121-torch"),
    "inception": ("inception_v1", "inception_v2", "googlenet"),
    "shufflenet": ("shufflenet", "shufflenet_v2"),
    "mobilenet": ("mobilenet_v2", "mobilenet_v3"),
    "efficientnet": ("efficientnet_b0", "efficientnetv2_s"),
    "transformer": ("vit_b_16", "bert_base"),
    "ppocr": ("ppocr_det", "ppocr_rec", "ppocr_cls"),
}
"""Architectures that share kernel configurations; any other is a family of its own."""


class Row(NamedTuple):
    """One architecture.

    Attributes:
        name: The model.
        family: What was left out of training.
        left_out: Kernel records that cost.
        measured_j: Median of the rounds.
        spread: Standard deviation of the rounds over their median; ``nan`` where unknown.
        additivity: Sum of measured kernels over the measured whole; ``nan`` where one was not measured.
        kernels: Sum of predicted kernels over the sum of measured ones; ``nan`` likewise.
        predicted_j: Predicted whole.
        inside: Whether the whole lies in the prediction's interval.
    """

    name: str
    family: str
    left_out: int
    measured_j: float
    spread: float
    additivity: float
    kernels: float
    predicted_j: float
    inside: bool

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted_j / self.measured_j - 1


def find_targets(zoo: Path | None) -> list[TargetModel]:
    """The nine of the onnx package, those inside other packages, and exports in a folder (without dynamo twins)."""
    found = [load_target_model(path, {}) for path in list_reference_models()]
    for name, (package, inside, shapes) in PACKAGED.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            print(f"{name}: package {package} is not installed (tools/models.txt); left out", file=sys.stderr)
            continue
        target = load_target_model(Path(spec.submodule_search_locations[0]) / inside, shapes)
        found.append(_renamed(target, name))
    names = {target.name for target in found}
    for path in sorted(zoo.glob("*.onnx")) if zoo else ():
        if not path.stem.endswith("-dynamo"):
            target = load_target_model(path, {})
            found.append(_renamed(target, f"{target.name}-torch") if target.name in names else target)
    return found


def _renamed(target: TargetModel, name: str) -> TargetModel:
    return TargetModel(name, target.path, target.shapes, target.split, target.weight_bytes, target.warnings)


def family_of(name: str) -> str:
    """The family an architecture belongs to."""
    return next((family for family, names in FAMILIES.items() if name in names), name)


def measure(run: Path, targets: Sequence[TargetModel], minutes: float, seed: int) -> None:
    """Stages 1 to 3; the minutes are split 45 : 30 : 25."""
    settings = CampaignSettings(warmup_s=WARMUP_S, kernel_rule=KERNEL_RULE, model_rule=NETWORK_RULE)
    options = QuickstartOptions(run, minutes=max(minutes, 0.2), seed=seed)
    exact = {k.key: KernelItem(k.family, k.params) for target in targets for k in target.split.kernels}
    with (
        open_session(reference_every_s=20.0, block_s=BLOCK_S) as session,
        Dataset.open(run / "kernels", create=True) as kernels,
        Dataset.open(run / "exact", create=True) as alone,
        Dataset.open(run / "models", create=True) as models,
    ):
        clock = Deadline(60 * minutes)
        count = len(kernels.keys()) + max(200, int(0.45 * 60 * minutes / 0.1))
        plan = CampaignPlan.make(plan_items(options, targets, frozenset(), count), seed)
        for dataset, items, share in ((kernels, plan, 0.45), (alone, CampaignPlan.make(exact.values(), seed), 0.30)):
            report = run_campaign(items, session, dataset, budget_s=share * 60 * minutes, settings=settings)
            print(
                f"{dataset.path.name}: {report.measured} measured, {len(report.failed)} failed, {report.remaining} left"
            )
            if report.interrupted:
                raise KeyboardInterrupt
        blank = tuple(ModelResult(target.name, None, 0.0) for target in targets)  # type: ignore[arg-type]
        measure_models(targets, blank, session, models, clock, _tell)


def _tell(progress: QuickstartProgress) -> None:
    print(f"\r{progress.done}/{progress.total} {progress.stage} {progress.detail:<30}", end="", file=sys.stderr)


def latest(records: Iterable[EnergyRecord]) -> dict[str, EnergyRecord]:
    """The last record of each name."""
    return {record.name: record for record in records}


def report(run: Path, targets: Sequence[TargetModel], seed: int) -> list[Row]:
    """Stage 4."""
    with Dataset.open(run / "kernels") as dataset:
        records = list(dataset.records())
    with Dataset.open(run / "exact") as dataset:
        alone = {_key(r): r.energy_j for r in dataset.records() if r.kind == "kernel"}
    with Dataset.open(run / "models") as dataset:
        whole = latest(dataset.records())
    by_family: dict[str, list[TargetModel]] = {}
    for target in targets:
        by_family.setdefault(family_of(target.name), []).append(target)
    rows = []
    for family, members in sorted(by_family.items()):
        held_out = frozenset().union(*(target.keys for target in members))
        kept = [r for r in records if r.kind != "kernel" or _key(r) not in held_out]
        predictor = train_predictor(kept, seed=seed)
        for target in members:
            record = whole.get(target.name)
            if record is None:
                print(f"{target.name}: not measured", file=sys.stderr)
                continue
            prediction = predictor.predict(target.split, name=str(target.path), warnings=target.warnings)
            counts = Counter({k.key: 0.0 for k in target.split.kernels})
            for kernel in target.split.kernels:
                counts[kernel.key] += kernel.multiplicity
            total = sum(n * alone.get(key, float("nan")) for key, n in counts.items())
            predicted = sum(k.energy_j for k in prediction.kernels)
            low, high = prediction.interval_j
            rows.append(
                Row(
                    target.name,
                    family,
                    len(records) - len(kept),
                    record.energy_j,
                    record.budget.get("repeats", float("nan")) * 5**0.5 / record.energy_j,
                    total / record.energy_j,
                    predicted / total,
                    prediction.energy_j,
                    low <= record.energy_j <= high,
                )
            )
            print(f"{target.name}: {100 * rows[-1].error:+.1f} %", file=sys.stderr)
    return rows


def _key(record: EnergyRecord) -> str:
    from deepen.kernels.types import hash_params

    return hash_params(record.family, record.params)


def show(rows: Sequence[Row]) -> None:
    """Print the table and the summary."""

    def ratio(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.3f}"

    cells = [
        (
            r.name,
            r.family,
            r.left_out,
            format_si(r.measured_j, "J"),
            "-" if np.isnan(r.spread) else f"{100 * r.spread:.1f} %",
            ratio(r.additivity),
            ratio(r.kernels),
            format_si(r.predicted_j, "J"),
            f"{100 * r.error:+.1f} %",
            "yes" if r.inside else "no",
        )
        for r in rows
    ]
    header = ("model", "left out", "records", "measured", "repeat", "sum / whole", "predicted / sum")
    header += ("predicted", "error", "in interval")
    print(conditions(), "\n")
    print(format_table(header, cells, right=(2, 3, 4, 5, 6, 7, 8)))
    found = compute_metrics(np.array([r.measured_j for r in rows]), np.array([r.predicted_j for r in rows]))
    errors = [abs(r.error) for r in rows]
    sums = [abs(r.additivity - 1) for r in rows if not np.isnan(r.additivity)]
    regress = [abs(r.kernels - 1) for r in rows if not np.isnan(r.kernels)]
    within = 100 * sum(e <= 0.15 for e in errors) / len(errors)
    print(
        f"\n{len(rows)} architectures: median error {100 * statistics.median(errors):.1f} % (target 7), "
        f"{within:.0f} % within 15 % (target 85), {found['acc10']:.0f} % within 10 %, worst {100 * max(errors):.1f} %, "
        f"in interval {100 * sum(r.inside for r in rows) / len(rows):.0f} %"
    )
    if sums:
        print(
            f"additivity alone: median {100 * statistics.median(sums):.1f} %; "
            f"regressors alone: median {100 * statistics.median(regress):.1f} % "
            f"({len(sums)} architectures with every kernel measured)"
        )


def main() -> None:
    """Measure what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the measurements")
    parser.add_argument("--zoo", type=Path, help="folder of ONNX files (tools/export_zoo writes some)")
    parser.add_argument("--minutes", type=float, default=12.0, help="time to measure (12)")
    parser.add_argument("--report", action="store_true", help="measure nothing, report what is there")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    targets = find_targets(given.zoo)
    if not given.report:
        measure(given.run, targets, given.minutes, given.seed)
        print(file=sys.stderr)
    show(report(given.run, targets, given.seed))


if __name__ == "__main__":
    main()
