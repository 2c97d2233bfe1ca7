"""Measure with one call: open the device, the meter and a session, and close all of them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepen.devices import open_device
from deepen.devices.protocols import Device
from deepen.errors import ConfigError
from deepen.graph.read_options import ReadOptions, ShapesOrOptions
from deepen.measure.alignment.load_pattern import Sync
from deepen.measure.blocks import STREAM_BLOCK_S
from deepen.measure.conditions.device_conditions import (
    COOL_S,
    DeviceConditions,
    MessageHandler,
    apply_device_conditions,
    lock_device,
    log_device_message,
)
from deepen.measure.conditions.remote_sensors import access_device_files
from deepen.measure.conditions.runtime_choice import AUTO, choose_runtime
from deepen.measure.input_values import GivenInput, choose_model_inputs, fit_given_values
from deepen.measure.reshaped_model import open_reshaped_model
from deepen.measure.session import Session
from deepen.measure.workload import make_workload
from deepen.meters import open_meter
from deepen.meters.stream.meter import StreamMeter
from deepen.meters.types import Meter
from deepen.records import EnergyRecord, StoppingRule

__all__ = ["MeasuringSetup", "open_device_and_meter", "open_session", "profile"]


@dataclass(frozen=True, slots=True)
class MeasuringSetup:
    """An open device under its conditions, with a meter.

    Attributes:
        device: The device.
        meter: The meter.
        runtime: Name of the runtime to measure with.
        conditions: Settings the device was brought under.
    """

    device: Device
    meter: Meter
    runtime: str
    conditions: DeviceConditions


def _open_device_meter(spec: str, device: Device) -> Meter:
    return open_meter(spec or None, power=device.profile.power, pid=device.worker_pid, link=access_device_files(device))


@contextmanager
def open_device_and_meter(
    device: str | Device,
    meter: str | None,
    *,
    claim: Callable[[Device], AbstractContextManager[object]] | None = None,
    prepare: bool = True,
    settings: Mapping[str, Any] | None = None,
    cool_s: float = COOL_S,
    runtime: str = AUTO,
    delegate: str = "",
    model_suffix: str = ".onnx",
    tell: MessageHandler = log_device_message,
    open_source: Callable[[str, Device], Meter] = _open_device_meter,
) -> Iterator[MeasuringSetup]:
    """Open a device and a meter and bring the device into its conditions; all of it is undone at the end.

    The arguments are those of :func:`open_session`; ``open_source`` opens the meter that is named or, else, the one
    the device's profile prefers (empty where it prefers none).

    Raises:
        ConfigError: If a name is unknown.
        LinkError, MeterError: If the device or the meter does not answer, or somebody else uses it.
    """
    with ExitStack() as stack:
        opened = open_device(device) if isinstance(device, str) else device
        stack.callback(opened.close)
        name = device if isinstance(device, str) else opened.profile.id
        stack.enter_context(lock_device(opened, name) if claim is None else claim(opened))
        engine = choose_runtime(opened, runtime, delegate=delegate, suffix=model_suffix, tell=tell)
        source = open_source(meter or opened.profile.meter, opened)
        stack.callback(source.close)
        conditions = stack.enter_context(
            apply_device_conditions(opened, prepare=prepare, wanted=settings, cool_s=cool_s, tell=tell)
        )
        yield MeasuringSetup(opened, source, engine, conditions)


@contextmanager
def open_session(
    device: str | Device = "local",
    meter: str | None = None,
    *,
    claim: Callable[[Device], AbstractContextManager[object]] | None = None,
    prepare: bool = True,
    settings: Mapping[str, Any] | None = None,
    cool_s: float = COOL_S,
    runtime: str = AUTO,
    delegate: str = "",
    model_suffix: str = ".onnx",
    tell: MessageHandler = log_device_message,
    **options: Any,
) -> Iterator[Session]:
    """Open a session on a device with a meter, and close all three at the end.

    In between the device is brought into the conditions its profile wants (see
    :func:`deepen.measure.conditions.device_conditions.apply_device_conditions`): settings an interrupted run has left
    are given back, the profile's are set and read back, it cools down; at the end all settings are given back, however
    the session ends. On this machine nothing is changed unless ``settings`` names it.

    Args:
        device: As ``--device``, or a device that is open; it is closed all the same.
        meter: As ``--meter``; ``None`` for what the device's profile prefers, else the best source here.
        claim: Called with the opened device, and what it returns is held until the device is closed: a place to check
            which device it is and to keep others away from it; ``None`` to hold it by its serial number.
        prepare: Whether the profile's settings are set and the device is waited for until it is cool.
        settings: Settings to set besides, see ``deepen.devices.settings.catalogue.SETTING_DEFINITIONS``.
        cool_s: Longest wait for it to cool down, seconds.
        runtime: Inference engine; ``auto`` for the first of the device's profile that works.
        delegate: Accelerator of that engine; empty for the CPU.
        model_suffix: Files ``auto`` chooses an engine for.
        tell: Called with messages about the device: a setting refused, a wait until it is cool.
        **options: Passed to :class:`Session`.

    Raises:
        ConfigError: If a name is unknown.
        LinkError, MeterError: If the device or the meter does not answer, or somebody else uses it.
    """
    with open_device_and_meter(
        device,
        meter,
        claim=claim,
        prepare=prepare,
        settings=settings,
        cool_s=cool_s,
        runtime=runtime,
        delegate=delegate,
        model_suffix=model_suffix,
        tell=tell,
    ) as setup:
        if isinstance(setup.meter, StreamMeter):
            options.setdefault("block_s", STREAM_BLOCK_S)
        with Session(
            setup.device, setup.meter, runtime=setup.runtime, conditions=setup.conditions, **options
        ) as session:
            yield session


def profile(
    path: str | Path,
    *,
    device: str | Device = "local",
    meter: str | None = None,
    threads: int = 1,
    seconds: float = 2.0,
    shapes: ShapesOrOptions = None,
    runtime: str = AUTO,
    delegate: str = "",
    prepare: bool = True,
    settings: Mapping[str, Any] | None = None,
    cool_s: float = COOL_S,
    seed: int = 0,
    sync: Sync = "auto",
    tell: MessageHandler = log_device_message,
    inputs: Mapping[str, GivenInput] | None = None,
) -> EnergyRecord:
    """Measure the energy of one inference of a model.

    Inputs that are not random numbers are filled so that the model does its work: lengths with the full length, masks
    with ones, indices in range (:mod:`deepen.measure.input_values`); the record says how.

    Args:
        path: ONNX file, or ``.tflite`` file where the device has a runtime for those.
        device: ``local``, ``adb:SERIAL``, ``adb:HOST:PORT``, ``ssh:USER@HOST[:PORT]`` or the name of a profile; or a
            device that is open, which is closed at the end.
        meter: ``NAME[:PORT][?key=value]`` or a meter profile; ``None`` for the best source here.
        threads: Intra-operator threads.
        seconds: Time to measure, after warm-up; it ends earlier than twice this once the spread is below 1 %.
        shapes: Shapes of inputs, by input name: for those that leave dimensions open, or instead of those of the file;
            or all that can be said of a model (:class:`deepen.graph.ReadOptions`).
        runtime: Inference engine; ``auto`` for the first of the device's profile that runs such files.
        delegate: Accelerator of that engine (``gpu``, ``nnapi``, ``xnnpack`` ...); empty for the CPU. Where it does not
            take the model, that is an error: the CPU is not measured in its place.
        prepare: Whether the settings of the device's profile are set (and given back at the end), and the device is
            waited for until it is cool; this machine is never changed by it.
        settings: Settings to set besides, see ``deepen.devices.settings.catalogue.SETTING_DEFINITIONS``.
        cool_s: Longest wait for it to cool down, seconds.
        seed: Seed of the input values.
        sync: Way from an external meter's time to the host's: ``auto``, ``pulses`` or ``none`` (see :class:`Session`).
        tell: Called with messages about the device.
        inputs: Values of inputs, by name: a number for all elements, an array, or the path of a file ``.npy``.

    Returns:
        Net and gross energy per inference with uncertainty, latency, idle power, blocks and warnings.

    Raises:
        ConfigError: If a name, the file, a shape or a given value is wrong.
        GraphError: If an input has no static shape.
        RunError: If the model cannot be run.
        MeasureError: If the machine is too busy to measure.
        LinkError, MeterError: If the device or the meter does not answer.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{file}: no such file", cure="name a readable ONNX or TFLite file")
    rule = StoppingRule(min_duration_s=seconds, max_duration_s=2 * seconds, min_blocks=5, rel_std=0.01)
    warmup_s = min(0.5, seconds / 4)
    options: dict[str, Any] = {"threads": threads, "seed": seed, "sync": sync, "reference_every_s": None}
    chosen = choose_model_inputs(file, ReadOptions.from_shapes(shapes), inputs, seed)
    with (
        open_reshaped_model(file, chosen.shapes) as model,
        open_session(
            device,
            meter,
            prepare=prepare,
            settings=settings,
            cool_s=cool_s,
            runtime=runtime,
            delegate=delegate,
            model_suffix=file.suffix,
            tell=tell,
            **options,
        ) as session,
    ):
        workload = make_workload(
            model,
            runtime=session.runtime,
            threads=threads,
            shapes=chosen.shapes,
            warmup_s=warmup_s,
            rule=rule,
            inputs=chosen.filled,
            input_warnings=chosen.warnings,
        )
        if chosen.given:  # of a model that only the runtime can read
            fitted = fit_given_values(chosen.given, session.list_inputs(workload))
            workload = replace(workload, inputs=fitted)
        return session.measure(workload, idle_after=True)
