"""A detached measurement from its start to the record, and collecting one whose host has died."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepen.clock.host_clock import Deadline, monotonic_s, utc_now
from deepen.devices import open_device
from deepen.devices.background_jobs import (
    create_job,
    fetch_job_output,
    query_job_state,
    start_detached,
    start_gate_process,
    try_discard_job,
)
from deepen.devices.links.remote import RemoteLink
from deepen.devices.model_files import hash_model
from deepen.devices.protocols import Device
from deepen.devices.runtimes.worker_process import WorkerRuntime
from deepen.devices.types import SettingStatus
from deepen.errors import ConfigError, DeepenError, LinkError
from deepen.graph.read_options import ReadOptions, ShapesOrOptions
from deepen.measure.alignment.load_pattern import Sync, choose_sync_pulses
from deepen.measure.api import open_device_and_meter
from deepen.measure.blocks import STREAM_BLOCK_S, choose_runs_per_block, warm_up_model
from deepen.measure.conditions.device_conditions import (
    DeviceConditions,
    MessageHandler,
    anonymise_serial,
    get_device_serial,
    lock_device,
    log_device_message,
)
from deepen.measure.conditions.runtime_choice import AUTO
from deepen.measure.detached.cable import METERS_WITH_USB, DeviceCable, choose_cable, wait_until_reachable
from deepen.measure.detached.plan import check_replies, estimate_duration_s, make_steps, make_worker_requests
from deepen.measure.detached.result import make_detached_record
from deepen.measure.detached.store import PendingRun, list_pending_runs, read_host_boot_id, save_pending_run
from deepen.measure.input_values import GivenInput, choose_model_inputs, fit_given_values
from deepen.measure.reshaped_model import open_reshaped_model
from deepen.measure.workload import load_workload, make_workload
from deepen.meters import open_meter
from deepen.meters.record import record_folder
from deepen.meters.stream.meter import StreamMeter
from deepen.records import EnergyRecord, StoppingRule

if TYPE_CHECKING:
    from deepen.clock.round_trips import RoundTrip

__all__ = ["collect_detached", "profile_detached"]

SETTLE_S = 3.0
"""Time between the cut and the rest in which idle power is measured, seconds."""
IDLE_S = 2.0
HOLD_S = 900.0
"""Longest time a run waits for its link to be cut, seconds."""
BACK_S = 900.0
"""Longest time a device may take to come back, seconds."""

_TRIPS = 20
_LONGEST_PATTERN_S = 20.0
_LEAST_BLOCKS = 10
_MOST_BLOCKS = 20_000
_SLOWER = 1.3  # than while the link was there, and its trace still covers the run
_MARGIN_S = 3.0
_LOAD_S = 300.0
_LOOK_S = 0.5


def profile_detached(
    path: str | Path,
    *,
    device: str | Device,
    meter: str | None,
    threads: int = 1,
    seconds: float = 10.0,
    shapes: ShapesOrOptions = None,
    runtime: str = AUTO,
    delegate: str = "",
    seed: int = 0,
    sync: Sync = "auto",
    cable: DeviceCable | None = None,
    prepare: bool = True,
    settings: Mapping[str, Any] | None = None,
    tell: MessageHandler = log_device_message,
    settle_s: float = SETTLE_S,
    idle_s: float = IDLE_S,
    back_s: float = BACK_S,
    inputs: Mapping[str, GivenInput] | None = None,
) -> EnergyRecord:
    """Measure a model on a device whose link is cut.

    1. Device, meter, conditions and runtime are opened as for a session; a cable is chosen that can be cut.
    2. The model is tried out over the link: its run time decides how long blocks, warm-up and sync pattern are.
    3. Round trips and the device's state are taken, and the run is saved on this host's disk.
    4. A run of fixed length is started on the device, power is recorded to disk, and the link is cut.
    5. When the link is back, the device's time stamps are collected; round trips before and after, and the sync
       pattern the run plays, put them and the trace on one clock.

    Whatever ends this process meanwhile: the device ends its run by itself, and :func:`collect_detached` gets the
    result as far as the trace was recorded.

    Args:
        path: Model file.
        device: ``adb:...``, ``ssh:...`` or a profile that names one; or such a device that is open, which is closed.
        meter: ``NAME[:PORT][?key=value]`` of an instrument; ``None`` for what the device's profile prefers.
        threads: Intra-operator threads.
        seconds: Time spent in blocks, about.
        shapes: Shapes of inputs, or all that can be said of a model, as for :func:`deepen.measure.profile`.
        runtime: A runtime with the portable runner, in Python or in C; ``auto`` for the first of the device's profile.
        delegate: Accelerator of that engine; empty for the CPU.
        seed: Seed of the input values.
        sync: ``pulses`` must be found in the trace; ``auto`` plays them and says so where they are not; ``none``.
        cable: Way to cut the link; ``None`` to choose by the kind of link and meter.
        prepare: Whether the settings of the device's profile are set for the time.
        settings: Settings to set besides.
        tell: Called with messages and requests to the user.
        settle_s: Time between the cut and the first rest, seconds.
        idle_s: Length of each rest in which idle power is measured, seconds.
        back_s: Longest time the device may take to come back, seconds.
        inputs: Values of inputs, by name, as for :func:`deepen.measure.profile`.

    Raises:
        ConfigError: If the device, the meter or the runtime cannot do this.
        RunError: If the model cannot be run.
        MeasureError: If the device slept, or too much has to be rejected.
        LinkError: If the device does not come back (then it can be collected later) or its run was ended.
        MeterError: If the meter fails.
    """
    source_file = _check_model_file(path)
    chosen = choose_model_inputs(source_file, ReadOptions.from_shapes(shapes), inputs, seed)
    with ExitStack() as stack:
        model = stack.enter_context(open_reshaped_model(source_file, chosen.shapes))
        # 1. Device, meter, runtime and the way to cut the link.
        setup = stack.enter_context(
            open_device_and_meter(
                device,
                meter,
                prepare=prepare,
                settings=settings,
                runtime=runtime,
                delegate=delegate,
                model_suffix=model.suffix,
                tell=tell,
                open_source=_open_instrument,
            )
        )
        opened, source, engine, conditions = setup.device, setup.meter, setup.runtime, setup.conditions
        assert isinstance(source, StreamMeter)
        link = _require_remote_link(opened)
        used = cable or choose_cable(link, source.id, _is_charging_off(conditions), tell)
        worker = opened.runtime(engine)
        if not isinstance(worker, WorkerRuntime):
            raise ConfigError(
                f"runtime '{engine}' cannot run detached: it stamps no blocks",
                cure="use onnxruntime, litert, crunner or crunner-litert",
            )
        # 2. A trial.
        workload = make_workload(
            model,
            runtime=engine,
            threads=threads,
            shapes=chosen.shapes,
            inputs=chosen.filled,
            input_warnings=chosen.warnings,
        )
        if chosen.given:
            stated = worker.load(model, threads=threads, shapes=chosen.shapes, seed=seed).inputs
            workload = replace(workload, inputs=fit_given_values(chosen.given, stated))
        loaded, workload = load_workload(worker, workload, seed)
        per_run_s = warm_up_model(loaded, min(0.5, seconds / 4))
        rule = StoppingRule(min_duration_s=0.0, max_duration_s=seconds, min_blocks=_LEAST_BLOCKS)
        runs = choose_runs_per_block(per_run_s, STREAM_BLOCK_S, source.update_s, rule)
        pulses = choose_sync_pulses(sync, per_run_s, source.update_s, longest_s=_LONGEST_PATTERN_S)
        steps = make_steps(
            runs=runs,
            blocks=min(_MOST_BLOCKS, max(_LEAST_BLOCKS, math.ceil(seconds / (runs * per_run_s)))),
            warm_runs=max(1, round(min(1.0, seconds / 4) / per_run_s)),
            settle_s=settle_s,
            idle_s=idle_s,
            pulses=pulses,
        )
        values = {name: found.values for name, found in workload.inputs.items()}
        argv, env, first = worker.plan_unattended_run(
            model, threads=threads, shapes=chosen.shapes, seed=seed, inputs=values
        )
        # 3. Clocks and state before; the run is saved.
        trips = worker.round_trips(_TRIPS)
        asked_s = monotonic_s()
        took_s = loaded.run(runs).duration_s
        longer = max(1.0, (monotonic_s() - asked_s) / max(took_s, 1e-9))  # a block takes, with what is not run time
        state = opened.state()
        worker.close()  # what runs beside the run would be measured with it
        work_s = estimate_duration_s(steps, longer * per_run_s)
        # The gate keeps the run waiting until the link, and the gate with it, is cut.
        held = start_gate_process(link)
        stack.callback(held.kill)
        requests = make_worker_requests(steps, first, hold_pid=held.pid or 0, hold_s=HOLD_S)
        pending = PendingRun(
            job=create_job(link),
            device=opened.profile.id,
            serial=conditions.serial,
            model=model.name,
            content=hash_model(source_file),
            workload={
                "runtime": engine, "threads": threads, "seconds": seconds,
                "shapes": {k: list(v) for k, v in chosen.shapes.items()},
                "id": workload.id,
                "inputs": {name: found.document() for name, found in workload.inputs.items()},
                "input_warnings": [str(w) for w in workload.input_warnings],
            },
            build=loaded.build,
            runs=runs,
            steps=steps,
            first=len(first) + 1,
            pulses=pulses,
            trips=tuple(trips),
            state={
                "temperature_c": state.temperature_c if math.isfinite(state.temperature_c) else None,
                "counters": dict(state.thermal.counters) if state.thermal else {},
            },
            settings=conditions.settings,
            started_at=utc_now(),
            host_boot=read_host_boot_id(),
        )  # fmt: skip
        save_pending_run(pending)
        stack.enter_context(pending.held())
        # 4. Start, record, cut.
        try:
            start_detached(link, pending.job, argv, env, requests, limit_s=HOLD_S + 3 * work_s + 60)
            _wait_until_model_loaded(link, pending)
            try:
                seconds = work_s * _SLOWER + _MARGIN_S
                tell(f"recording power for {seconds:.0f} s; nobody speaks with the device meanwhile")
                # Power is recorded before the link is cut: what the device does first is not missed.
                begun = partial(used.cut, link, held)
                if record_folder(source, pending.trace, seconds, begun=begun).interrupted:
                    raise KeyboardInterrupt
            finally:
                used.mend()
        except BaseException:
            _abandon_run(link, pending)
            raise
        # 5. Collect.
        _wait_for_device(link, pending, back_s)
        return _collect_record(opened, pending, pending.trace, work_s, conditions)


def collect_detached(
    path: str | Path,
    *,
    device: str | Device,
    trace: str | Path | None = None,
    tell: MessageHandler = log_device_message,
) -> EnergyRecord:
    """Collect a detached run whose host has died, or whose device had not come back.

    Args:
        path: Model file, as it was measured.
        device: The device, as it was measured.
        trace: A power trace recorded by other means on this machine since it was started; ``None`` for its own.
        tell: Called with messages.

    Raises:
        ConfigError: If there is nothing to collect.
        LinkError: If the device is gone.
        MeasureError: If the trace does not cover the run.
    """
    from deepen.devices.settings.apply_and_restore import apply_settings_temporarily

    model = _check_model_file(path)
    content = hash_model(model)
    with ExitStack() as stack:
        opened = open_device(device) if isinstance(device, str) else device
        stack.callback(opened.close)
        link = _require_remote_link(opened)
        stack.enter_context(lock_device(opened, device if isinstance(device, str) else opened.profile.id))
        if get_device_serial(opened):  # what the run that died had set
            stack.enter_context(apply_settings_temporarily(link, {}))
        pending = _find_pending_run(opened, model, content)
        tell(f"collecting the run of {pending.model} started at {pending.started_at}")
        work_s = estimate_duration_s(pending.steps, STREAM_BLOCK_S / pending.runs)
        recorded = Path(trace) if trace is not None else pending.trace
        if not recorded.exists():
            raise ConfigError(
                f"no power was recorded for the run of {pending.model} started at {pending.started_at}: name a trace "
                f"with --trace, or remove {pending.folder}"
            )
        asked = tuple(SettingStatus(name, **facts) for name, facts in pending.settings.items())
        conditions = DeviceConditions(pending.serial, asked)
        return _collect_record(opened, pending, recorded, work_s, conditions, keep_failed=trace is not None)


def _check_model_file(path: str | Path) -> Path:
    model = Path(path)
    if not model.is_file():
        raise ConfigError(f"{model}: no such file", cure="name a readable ONNX or TFLite file")
    return model


def _find_pending_run(opened: Device, model: Path, content: str) -> PendingRun:
    known = [p for p in list_pending_runs() if not p.in_progress]
    serial = anonymise_serial(get_device_serial(opened))
    found = [p for p in known if p.content == content and (p.serial, p.device) == (serial, opened.profile.id)]
    if not found:
        others = ", ".join(f"{p.model} on {p.device} {p.serial}".strip() for p in known) or "none"
        raise ConfigError(
            f"no detached run of {model.name} on this device waits to be collected", cure=f"there are: {others}"
        )
    return found[-1]


def _require_remote_link(device: Device) -> RemoteLink:
    link = device.link
    if not isinstance(link, RemoteLink):
        raise ConfigError(f"{link.description} has no link that could be cut", cure="name a device with adb: or ssh:")
    return link


def _open_instrument(spec: str, device: Device) -> StreamMeter:
    """Open the instrument beside a device that can be left alone; a Monsoon cuts the USB cable while it samples."""
    _require_remote_link(device)
    if not spec:
        raise ConfigError(
            "a detached run needs an instrument that measures the device from outside", cure="name it: --meter"
        )
    name = spec.partition(":")[0].partition("?")[0]
    if name in METERS_WITH_USB and "usb=" not in spec.partition("?")[2]:
        spec += ("&" if "?" in spec else "?") + "usb=auto"
    opened = open_meter(spec, power=device.profile.power)
    if not isinstance(opened, StreamMeter):
        opened.close()
        raise ConfigError(
            f"meter '{opened.id}' cannot measure a detached run",
            cure="use an instrument that streams ('deepen meter list')",
        )
    return opened


def _is_charging_off(conditions: DeviceConditions) -> bool:
    found = conditions.settings.get("charging")
    return found is not None and found["ok"] and found["wanted"] == "false"


def _wait_until_model_loaded(link: RemoteLink, pending: PendingRun) -> None:
    """Wait until a run has loaded its model: then it waits for the link to be cut.

    Raises:
        RunError: If the model cannot be run there.
        LinkError: If the run has ended, or is not ready in time.
    """
    deadline = Deadline(_LOAD_S)
    while not deadline.expired:
        state = query_job_state(link, pending.job).kind
        found = fetch_job_output(link, pending.job)
        check_replies(found.replies, pending.first)
        if len(found.replies) >= pending.first - 1:
            return
        if state != "running":
            words = f" ({found.words.splitlines()[-1][:200]})" if found.words else ""
            raise LinkError(
                f"{link.name}: the detached run ended before it had loaded the model{words}", cure="try again"
            )
        time.sleep(_LOOK_S)
    raise LinkError(
        f"{link.name}: the detached run did not load the model within {_LOAD_S:.0f} s", cure="use a smaller one"
    )


def _abandon_run(link: RemoteLink, pending: PendingRun) -> None:
    """End the run on the device, if it can be reached; else it ends by itself."""
    try_discard_job(link, pending.job)
    pending.forget()


def _wait_for_device(link: RemoteLink, pending: PendingRun, patience_s: float) -> None:
    try:
        wait_until_reachable(link, patience_s)
    except LinkError as error:
        raise LinkError(
            f"{error}", cure=f"then collect the run: deepen profile {pending.model} --device ... --collect"
        ) from error


def _collect_record(
    device: Device,
    pending: PendingRun,
    trace: Path,
    work_s: float,
    conditions: DeviceConditions,
    *,
    keep_failed: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> EnergyRecord:
    """Wait for the end of a run that can be reached, make the record, and remove the run on both sides.

    What is wrong with the run and its own trace will stay wrong, and they are removed as well; where the link fails,
    or with ``keep_failed`` (another trace was named, and it may be the wrong one), they are kept.
    """
    link = _require_remote_link(device)
    deadline = Deadline(3 * work_s + 120)
    while (state := query_job_state(link, pending.job)).kind == "running" and not deadline.expired:
        sleep(min(1.0, deadline.remaining_s))
    if state.kind == "absent":
        pending.forget()
        raise LinkError(f"{link.name} knows nothing of the run started at {pending.started_at}", cure="run it again")
    found = fetch_job_output(link, pending.job)
    after: list[RoundTrip] = []
    if pending.host_boot == read_host_boot_id():
        worker = device.runtime(str(pending.workload["runtime"]))
        try:
            assert isinstance(worker, WorkerRuntime)  # it was one when the run began
            after = worker.round_trips(_TRIPS)
        finally:
            worker.close()
    try:
        record = make_detached_record(device, pending, found, after, trace, conditions)
    except DeepenError as error:
        if not error.retryable and not keep_failed:
            try_discard_job(link, pending.job)
            pending.forget()
        raise
    try_discard_job(link, pending.job)
    pending.forget()
    return record
