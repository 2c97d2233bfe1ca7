"""``deepen dataset build``: sample kernels, plan, measure, resume."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepen.campaign.parallel_executor import Fleet, RetryPolicy
from deepen.campaign.plan import CampaignPlan, KernelItem
from deepen.campaign.prepare_item import CampaignSettings, ItemPreparer, PrepareFunction
from deepen.campaign.progress_log import load_stations, log_progress, save_stations
from deepen.campaign.run import CampaignProgress, CampaignReport, open_work_folder, run_tasks
from deepen.campaign.station import DeviceWithMeter, Station, StationIdentity
from deepen.campaign.tasks import ConditionGrid
from deepen.datasets import Dataset
from deepen.datasets.database import locate_companion_folder, locate_database
from deepen.errors import ConfigError, DatasetError
from deepen.kernels.splitting.runtime_names import resolve_splitter
from deepen.measure.conditions.runtime_choice import AUTO, resolve_runtime_name
from deepen.storage.atomic import make_folder

if TYPE_CHECKING:
    from deepen.graph import ReadOptions
    from deepen.measure import Session
    from deepen.measure.alignment.load_pattern import Sync
    from deepen.measure.input_values import GivenInput

__all__ = ["DEFAULT_COUNT", "build_dataset", "check_conditions", "check_session", "plan_kernels", "read_kernel_keys"]

DEFAULT_COUNT = 400
"""Kernels measured where neither a number nor a time is given."""

_PER_MINUTE = 600
"""More kernels than any machine measures in a minute, so that a time budget never runs out of plan."""

_MOST = 20_000


def read_kernel_keys(
    models: Collection[Path], runtime: str = "onnxruntime", options: ReadOptions | None = None
) -> frozenset[str]:
    """Keys of the kernels of model files, to keep them out of a sample.

    Args:
        models: The files.
        runtime: Runtime they are split for.
        options: What the user says of them.

    Raises:
        GraphError: If a file cannot be taken as a model.
    """
    from deepen.graph import load_graph
    from deepen.kernels.splitting.split import split_graph

    return frozenset(
        kernel.key for path in models for kernel in split_graph(load_graph(path, options), runtime).kernels
    )


def plan_kernels(
    path: Path, families: Sequence[str] | None, count: int, seed: int, exclude: Collection[str], max_macs: int | None
) -> CampaignPlan:
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
        plan = CampaignPlan.load(path)
        if plan.spec == spec:
            return plan
    from deepen.kernels.sampling.sampler import sample_kernels

    chosen = sample_kernels(spec["families"], count, seed, exclude, max_macs)
    if not chosen:
        raise ConfigError(
            "there is no kernel to measure: every configuration of these families is excluded or too large"
        )
    return CampaignPlan.make((KernelItem(kernel.family, kernel.params) for kernel in chosen), seed, spec)


def check_session(dataset: Dataset, session: Session, threads: int) -> None:
    """Refuse to mix devices, power sources, labels or thread counts in one dataset.

    Raises:
        DatasetError: Naming what differs.
    """
    facts = StationIdentity(session.device.profile.id, session.meter.id, session.meter.source)
    check_conditions(dataset, [facts], ConditionGrid(threads=(threads,)))


def check_conditions(dataset: Dataset | None, facts: Sequence[StationIdentity], matrix: ConditionGrid) -> None:
    """Refuse to mix power sources or labels in one dataset, and devices, runtimes or threads other than asked for.

    Args:
        dataset: The dataset to be continued; ``None`` for a new one.
        facts: Identities of the stations.
        matrix: Conditions they will measure under.

    Raises:
        ConfigError: If the stations differ among themselves in what must be the same.
        DatasetError: Naming what differs from the dataset.
    """
    where = "" if dataset is None else dataset.path
    meters: dict[str, str] = {}
    for found in facts:
        if found.source != facts[0].source:
            raise ConfigError(f"these meters give {facts[0].source} and {found.source} energies; do not mix them")
        if meters.setdefault(found.profile, found.meter) != found.meter:
            raise ConfigError(
                f"two devices '{found.profile}' have different meters ({meters[found.profile]}, {found.meter}); give "
                "both the same kind, or measure into two datasets"
            )
    for record in () if dataset is None else dataset:
        known = record.device in meters
        for what, there, here in (
            ("device", record.device, [record.device] if known else list(meters)),
            ("power source", record.meter, [meters[record.device]] if known else list(meters.values())),
            ("label", record.source, [facts[0].source]),
            ("runtime", record.runtime, list(matrix.runtimes)),
            ("thread count", record.threads, list(matrix.threads)),
        ):
            if there not in here:
                raise DatasetError(
                    f"{where}: was measured with {what} {there}, not {', '.join(map(str, here))}; "
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
    pairs: Sequence[DeviceWithMeter] = (),
    seed: int = 0,
    threads: int | Sequence[int] = 1,
    runtimes: Sequence[str] = (AUTO,),
    delegate: str = "",
    sync: Sync = "auto",
    repeats: int = 1,
    prepare: bool = True,
    settings: Mapping[str, Any] | None = None,
    exclude: Sequence[Path] = (),
    exclude_options: ReadOptions | None = None,
    max_macs: int | None = None,
    inputs: Mapping[str, GivenInput] | None = None,
    on_progress: Callable[[CampaignProgress], None] | None = None,
    patience: RetryPolicy | None = None,
) -> CampaignReport:
    """Measure sampled kernels into a dataset; running it again resumes.

    Devices of the same profile share the kernels; devices of different profiles measure all of them each.

    1. Arguments are checked before anything is opened.
    2. The plan stored beside the dataset is continued, or a new one is sampled.
    3. Stations know who was there in earlier runs, so that a device that is gone is waited for.
    4. An existing dataset is opened before the stations: another writer is found before sessions disturb it. A new one
       is made only after the stations have answered and fit together.
    5. The tasks without a record are measured by the fleet.

    Args:
        out: The dataset, a folder or a file ``NAME.db``; made where absent. The plan is kept in the folder, or in
            ``NAME.files``, as ``plan.json``.
        families: Families to sample; all where not given.
        count: Number of kernels; :data:`DEFAULT_COUNT` where no time is given either.
        minutes: Time to spend; the sample is cut where it ends.
        device: As ``--device``.
        meter: As ``--meter``; the best source where not given.
        pairs: Devices with their meters, measured on side by side; instead of ``device`` and ``meter``.
        seed: Seed of sample, order and inputs.
        threads: Intra-operator threads; several to measure every kernel with each.
        runtimes: Inference engines; every kernel is measured by each. ``auto`` alone is the one the dataset was begun
            with, else the first that works of those the device's profile lists.
        delegate: Accelerator of these engines; empty for the CPU.
        sync: Way from external meters' time to the host's (see :class:`deepen.measure.Session`).
        repeats: Records of each kernel under each condition.
        prepare: Whether the settings of a device's profile are set; those of this machine never are.
        settings: Settings to set besides, on every device.
        exclude: Model files whose kernel configurations are left out.
        exclude_options: What the user says of these files: shapes and the like.
        max_macs: Largest kernel, multiply-accumulates.
        inputs: Values of inputs, by name, for every kernel that has one of that name.
        on_progress: Called at the start, after every kernel, and with messages of a device.
        patience: Limits for a device that is gone, too hot, or drifts.

    Raises:
        ConfigError: If an argument is wrong.
        DatasetError: If the folder holds a dataset measured otherwise.
        LinkError, MeterError: If a device or a meter that was never seen before does not answer.
        StorageError: If the disk refuses.
    """
    # 1. Arguments.
    if count is not None and count < 1:
        raise ConfigError(f"the number of kernels must be at least 1, not {count}")
    if minutes is not None and not 0 < minutes < 1e6:
        raise ConfigError(f"the time must be a positive number of minutes, not {minutes:g}")
    counts = (threads,) if isinstance(threads, int) else tuple(threads)
    names = _resolve_runtime_names(out, runtimes, delegate)
    ConditionGrid(names, counts, repeats)  # refuses what makes no sense before anything is opened
    if count is None:
        count = DEFAULT_COUNT if minutes is None else min(_MOST, max(1, int(minutes * _PER_MINUTE)))
    # 2. Plan.
    kept = locate_companion_folder(out)
    plan_path = kept / "plan.json"
    plan = plan_kernels(plan_path, families, count, seed, read_kernel_keys(exclude, options=exclude_options), max_macs)
    # 3. Stations.
    known = load_stations(kept)
    options: dict[str, Any] = {} if prepare else {"prepare": False}
    options |= {"settings": dict(settings)} if settings else {}
    options |= {"sync": sync} if sync != "auto" else {}
    options |= {"delegate": delegate} if delegate and names == (AUTO,) else {}
    stations = [
        Station(pair, known=known.get(pair.name), runtime=names[0], threads=counts[0], seed=seed, **options)
        for pair in pairs or (DeviceWithMeter(device, meter),)
    ]
    with ExitStack() as stack:
        # 4. Dataset and devices.
        there = locate_database(out).exists()
        dataset = stack.enter_context(Dataset.open(out, create=True)) if there else None
        preparers: dict[str, PrepareFunction] = {}
        fleet = stack.enter_context(Fleet(stations, preparers, retries=CampaignSettings().retries, patience=patience))
        fleet.start()
        matrix = ConditionGrid(_resolve_auto_runtime(names, stations), counts, repeats)
        how = CampaignSettings(runtime=matrix.runtimes[0], threads=counts[0], inputs=inputs or {})
        facts = [station.facts for station in stations if station.facts]
        check_conditions(dataset, facts, matrix)
        dataset = dataset or stack.enter_context(Dataset.open(out, create=True))
        make_folder(kept)
        plan.save(plan_path)
        save_stations(kept, stations)
        folder = stack.enter_context(open_work_folder(kept))
        stack.callback(fleet.close)  # before the folder its threads write in is removed
        for number, station in enumerate(stations):
            make_folder(folder / str(number))
            preparers[station.name] = ItemPreparer(folder / str(number), how)

        # 5. Measure.
        def tell(state: CampaignProgress) -> None:
            log_progress(kept, state)
            if on_progress is not None:
                on_progress(state)

        return run_tasks(
            matrix.tasks(plan, fleet.profiles, seed),
            fleet,
            dataset,
            budget_s=None if minutes is None else 60 * minutes,
            on_progress=tell,
            drift=lambda: fleet.drift,
        )


def _resolve_runtime_names(out: Path, runtimes: Sequence[str], delegate: str) -> tuple[str, ...]:
    """Runtimes by name; ``auto`` stays where no dataset says what it was begun with.

    Raises:
        ConfigError: If one is unknown, has no such accelerator, or is one kernels cannot be made for.
        DatasetError: If the dataset is damaged.
    """
    if tuple(runtimes) != (AUTO,):
        if AUTO in runtimes:
            raise ConfigError("the runtime 'auto' goes alone; name all of them, or none")
        names = tuple(resolve_runtime_name(name, delegate) for name in runtimes)
        _check_runtimes(names)
        return names
    begun = {record.runtime for record in Dataset.open(out)} if locate_database(out).exists() else set()
    return (begun.pop(),) if len(begun) == 1 else (AUTO,)


def _resolve_auto_runtime(names: tuple[str, ...], stations: Sequence[Station]) -> tuple[str, ...]:
    """Get the runtime ``auto`` has become on the devices that are there.

    Raises:
        ConfigError: If they would be measured by different runtimes, or none is there.
    """
    if names != (AUTO,):
        return names
    found = {s.name: s.runtime for s in stations if s.is_open}
    chosen = tuple(dict.fromkeys(found.values()))
    if len(chosen) != 1:
        told = ", ".join(f"{name}: {runtime}" for name, runtime in found.items()) or "no device is there"
        raise ConfigError(f"name the runtime to measure with by --runtime ({told})")
    _check_runtimes(chosen)
    return chosen


def _check_runtimes(runtimes: Sequence[str]) -> None:
    """Refuse runtimes that do not run what kernels are built as: ONNX models, split as ONNX Runtime fuses them."""
    for name in runtimes:
        if resolve_splitter(name) != "onnxruntime":
            raise ConfigError(
                f"kernels are made as ONNX models and as ONNX Runtime fuses them, which '{name}' does not run like "
                "that; use onnxruntime, crunner or perf_test"
            )
