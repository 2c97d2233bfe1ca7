"""``deepen dataset build``: sample kernels, plan, measure, resume."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepen.campaign.plan import KernelItem, Plan
from deepen.campaign.prepare import Settings
from deepen.campaign.run import CampaignProgress, CampaignReport, run
from deepen.datasets import Dataset
from deepen.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from deepen.measure import Session

__all__ = ["DEFAULT_COUNT", "build_dataset", "check_session", "model_keys", "plan_kernels"]

DEFAULT_COUNT = 400
"""Kernels measured where neither a number nor a time is given."""

_PER_MINUTE = 600
"""More kernels than any machine measures in a minute, so that a time budget never runs out of plan."""

_MOST = 20_000


def model_keys(models: Collection[Path], runtime: str = "onnxruntime") -> frozenset[str]:
    """Keys of the kernels of model files, to keep them out of a sample.

    Raises:
        GraphError: If a file cannot be taken as a model.
    """
    from deepen.graph import load
    from deepen.kernels.split import split

    return frozenset(kernel.key for path in models for kernel in split(load(path), runtime).kernels)


def plan_kernels(
    path: Path, families: Sequence[str] | None, count: int, seed: int, exclude: Collection[str], max_macs: int | None
) -> Plan:
    """Continue the plan stored beside a dataset where it was made from the same arguments, else make one.

    Args:
        path: The stored plan; may be absent.
        families: Families to sample; all where not given.
        count: Number of kernels.
        seed: Seed of the sample and of the order.
        exclude: Keys that must not occur.
        max_macs: Largest kernel.

    Raises:
        ConfigError: If a family is unknown or nothing is left to measure.
        DatasetError: If the stored plan is damaged.
    """
    spec: dict[str, Any] = {
        "families": None if families is None else sorted(families),
        "count": count,
        "seed": seed,
        "excluded": len(exclude),
        "excluded_sha256": hashlib.sha256("".join(sorted(exclude)).encode()).hexdigest(),
        "max_macs": max_macs,
    }
    if path.exists():
        plan = Plan.load(path)
        if plan.spec == spec:
            return plan
    from deepen.kernels.sample import sample

    chosen = sample(spec["families"], count, seed, exclude, max_macs)
    if not chosen:
        raise ConfigError(
            "there is no kernel to measure: every configuration of these families is excluded or too large"
        )
    return Plan.make((KernelItem(kernel.family, kernel.params) for kernel in chosen), seed, spec)


def check_session(dataset: Dataset, session: Session, threads: int) -> None:
    """Refuse to mix devices, power sources, labels or thread counts in one dataset.

    Raises:
        DatasetError: Naming what differs.
    """
    if not len(dataset):
        return
    card = dataset.card
    for what, there, here in (
        ("device", card.devices, session.device.profile.id),
        ("power source", card.meters, session.meter.id),
        ("label", tuple(card.sources), session.meter.source),
        ("thread count", card.threads, threads),
    ):
        if set(there) != {here}:
            raise DatasetError(
                f"{dataset.path}: was measured with {what} {', '.join(map(str, there))}, not {here}; "
                "choose another folder or the same settings"
            )


def build_dataset(
    out: Path,
    *,
    families: Sequence[str] | None = None,
    count: int | None = None,
    minutes: float | None = None,
    device: str = "local",
    meter: str | None = None,
    seed: int = 0,
    threads: int = 1,
    exclude: Sequence[Path] = (),
    max_macs: int | None = None,
    on_progress: Callable[[CampaignProgress], None] | None = None,
) -> CampaignReport:
    """Measure sampled kernels into a dataset; running it again resumes.

    Args:
        out: The dataset's folder; made where absent. The plan is kept in it as ``plan.json``.
        families: Families to sample; all where not given.
        count: Number of kernels; :data:`DEFAULT_COUNT` where no time is given either.
        minutes: Time to spend; the sample is cut where it ends.
        device: As ``--device``.
        meter: As ``--meter``; the best source where not given.
        seed: Seed of sample, order and inputs.
        threads: Intra-operator threads.
        exclude: Model files whose kernel configurations are left out.
        max_macs: Largest kernel, multiply-accumulates.
        on_progress: Called before the first and after every kernel.

    Raises:
        ConfigError: If an argument is wrong.
        DatasetError: If the folder holds a dataset measured otherwise.
        StorageError: If the disk refuses.
    """
    from deepen.measure import open_session

    if count is not None and count < 1:
        raise ConfigError(f"the number of kernels must be at least 1, not {count}")
    if minutes is not None and not 0 < minutes < 1e6:
        raise ConfigError(f"the time must be a positive number of minutes, not {minutes:g}")
    if count is None:
        count = DEFAULT_COUNT if minutes is None else min(_MOST, max(1, int(minutes * _PER_MINUTE)))
    plan_path = out / "plan.json"
    plan = plan_kernels(plan_path, families, count, seed, model_keys(exclude), max_macs)
    with ExitStack() as stack:
        # Whoever is writing there is found before the session disturbs it; a folder is made after all else is well.
        there = (out / "card.json").exists()
        dataset = stack.enter_context(Dataset.open(out, create=True)) if there else None
        session = stack.enter_context(open_session(device, meter, threads=threads, seed=seed))
        dataset = dataset or stack.enter_context(Dataset.open(out, create=True))
        check_session(dataset, session, threads)
        plan.save(plan_path)
        return run(
            plan,
            session,
            dataset,
            budget_s=None if minutes is None else 60 * minutes,
            on_progress=on_progress,
            settings=Settings(threads=threads),
        )
