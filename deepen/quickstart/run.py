"""Runs the stages of a quickstart, one after the other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from deepen.clock.host_clock import Deadline, monotonic_s
from deepen.extras import require_packages
from deepen.quickstart.models import measure_models
from deepen.quickstart.plan import LEAST_S_PER_KERNEL, plan_items
from deepen.quickstart.results import (
    ModelResult,
    QuickstartOptions,
    QuickstartProgress,
    QuickstartResult,
    make_result_document,
)
from deepen.quickstart.targets import TargetModel, list_reference_models, load_target_model
from deepen.records import StoppingRule

if TYPE_CHECKING:
    from deepen.campaign import CampaignProgress, CampaignReport
    from deepen.datasets import Dataset
    from deepen.measure import Session
    from deepen.predictors import Predictor

__all__ = ["run_quickstart"]

MODEL_SHARE = 0.23
"""Share of the minutes spent on measuring the models."""

TRAIN_SHARE, TRAIN_LEAST_S, TRAIN_MOST_S = 0.04, 12.0, 60.0
"""Time kept for training and predicting: a share of the minutes, within limits in seconds."""

BLOCK_S = 0.012
"""Least length of a block: short, because many kernels improve a regressor more than a few measured for longer."""

KERNEL_RULE = StoppingRule(min_duration_s=0.036, max_duration_s=0.12, min_blocks=3, rel_std=0.04)
WARMUP_S = 0.02
NETWORK_RULE = StoppingRule(min_duration_s=0.4, max_duration_s=1.2, min_blocks=5, rel_std=0.01)


def run_quickstart(
    options: QuickstartOptions, on_progress: Callable[[QuickstartProgress], None] = lambda progress: None
) -> QuickstartResult:
    """Measure kernels, train, predict, measure the models, compare.

    1. Split the models; the kernels of the reference models are kept out of the training data.
    2. Open device, meter and datasets; existing records must be of the same device and meter.
    3. Measure kernels and calibration networks. Ctrl-C ends this stage; the next two use the records so far.
    4. Train a predictor.
    5. Predict the models.
    6. Measure the models, unless stage 3 was interrupted.
    7. Write the results.

    Running again on the same folder keeps every record and adds to them.

    Args:
        options: Options of the quickstart.
        on_progress: Called with every step of the progress.

    Raises:
        ConfigError: If a device, meter or model cannot be used.
        DatasetError: If the folder holds records of another device, meter or feature version.
        StorageError: If the folder cannot be written.
        LinkError, MeterError: If the device or the meter stops answering.
    """
    from deepen.campaign.build import check_session
    from deepen.datasets import Dataset
    from deepen.measure import open_session
    from deepen.storage.atomic import write_file_atomically

    # 1
    require_packages("a quickstart", "lightgbm", "scipy", "sklearn", "threadpoolctl")
    clock = Deadline(60 * options.minutes)
    started_s = monotonic_s()
    on_progress(QuickstartProgress("splitting the models", eta_s=clock.remaining_s))
    reference = [load_target_model(path, {}) for path in list_reference_models()]
    targets = _number_duplicates([*reference, *(load_target_model(path, options.shapes) for path in options.models)])
    unseen = frozenset().union(*(target.keys for target in reference))
    # 2
    with (
        open_session(
            options.device,
            options.meter,
            threads=options.threads,
            seed=options.seed,
            reference_every_s=20.0,
            block_s=BLOCK_S,
            tell=lambda text: on_progress(QuickstartProgress(text, eta_s=clock.remaining_s)),
        ) as session,
        Dataset.open(options.out / "kernels", create=True) as kernels,
        Dataset.open(options.out / "models", create=True) as models,
    ):
        for dataset in (kernels, models):
            check_session(dataset, session, options.threads)
        # 3
        report = _measure_kernels(options, targets, unseen, session, kernels, clock, on_progress)
        if report.interrupted and not kernels.keys():
            raise KeyboardInterrupt  # without records, there is nothing to train on
        # 4
        on_progress(QuickstartProgress("training", f"{len(kernels)} records", eta_s=clock.remaining_s))
        predictor = _train_predictor(kernels, options)
        # 5
        on_progress(QuickstartProgress("predicting", eta_s=clock.remaining_s))
        results = _predict_models(targets, predictor, kernels.keys())
        # 6
        interrupted = report.interrupted
        if not interrupted:
            results, interrupted = measure_models(targets, results, session, models, clock, on_progress)
        # 7
        found = QuickstartResult(
            models=results,
            out=options.out,
            device=session.device.profile.id,
            meter=session.meter.id,
            measured_source=session.meter.source,
            learnt_from=predictor.learnt_from,
            runtime_build=str(predictor.card["runtime_build"]),
            kernels_measured=len(kernels.keys()),
            networks_measured=len(kernels.model_names()),
            drift=_compute_drift_span(session.drift),
            elapsed_s=monotonic_s() - started_s,
            interrupted=interrupted,
            failed=report.failed,
            warnings=tuple(str(warning) for warning in predictor.card.get("warnings", ())),
        )
    write_file_atomically(
        options.out / "result.json", (json.dumps(make_result_document(found), indent=2) + "\n").encode()
    )
    return found


def _number_duplicates(targets: Sequence[TargetModel]) -> list[TargetModel]:
    """Number models of the same name."""
    seen: Counter[str] = Counter()
    apart = []
    for target in targets:
        seen[target.name] += 1
        number = seen[target.name]
        apart.append(target if number == 1 else replace(target, name=f"{target.name}-{number}"))
    return apart


def _measure_kernels(
    options: QuickstartOptions,
    targets: Iterable[TargetModel],
    unseen: Collection[str],
    session: Session,
    kernels: Dataset,
    clock: Deadline,
    on_progress: Callable[[QuickstartProgress], None],
) -> CampaignReport:
    from deepen.campaign import CampaignPlan, CampaignSettings, run_plan

    total_s = 60 * options.minutes
    later_s = MODEL_SHARE * total_s + min(max(TRAIN_SHARE * total_s, TRAIN_LEAST_S), TRAIN_MOST_S)
    budget_s = max(1.0, clock.remaining_s - later_s)
    count = len(kernels.keys()) + max(200, int(budget_s / LEAST_S_PER_KERNEL))
    plan = CampaignPlan.make(plan_items(options, targets, unseen, count), options.seed)

    def report_progress(state: CampaignProgress) -> None:
        detail = state.last if not state.error else f"{state.last}: {state.error}"
        on_progress(QuickstartProgress("measuring kernels", detail, state.done, state.total, clock.remaining_s))

    settings = CampaignSettings(
        runtime=session.runtime,
        threads=options.threads,
        warmup_s=WARMUP_S,
        kernel_rule=KERNEL_RULE,
        model_rule=NETWORK_RULE,
    )
    return run_plan(plan, session, kernels, budget_s=budget_s, on_progress=report_progress, settings=settings)


def _train_predictor(kernels: Dataset, options: QuickstartOptions) -> Predictor:
    from deepen.predictors import train_predictor

    predictor = train_predictor(kernels, seed=options.seed)
    predictor.save(options.out / "quickstart.deepen")
    return predictor


def _predict_models(
    targets: Iterable[TargetModel], predictor: Predictor, measured: Collection[str]
) -> tuple[ModelResult, ...]:
    results = []
    for target in targets:
        seen = sum(kernel.key in measured for kernel in target.split.kernels)
        prediction = predictor.predict(target.split, name=str(target.path), warnings=target.warnings)
        results.append(ModelResult(target.name, prediction, seen / max(1, len(target.split.kernels))))
    return tuple(results)


def _compute_drift_span(drift: Sequence[tuple[float, float]]) -> float:
    shares = [share for _, share in drift]
    return max(shares) - min(shares) if shares else 0.0
