"""Measure with one call: open the device, the meter and a session, and close all of them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from deepen.devices import open_device
from deepen.devices.protocols import Device
from deepen.measure.device_files import device_files
from deepen.measure.session import Session, Sync
from deepen.measure.workload import make_workload
from deepen.meters import open_meter
from deepen.meters.stream.meter import StreamMeter
from deepen.records import EnergyRecord, StoppingRule

__all__ = ["open_session", "profile"]

STREAM_BLOCK_S = 0.1
"""Least length of a block under an external meter: half a millisecond of doubt about its edges counts for little."""


@contextmanager
def open_session(
    device: str | Device = "local",
    meter: str | None = None,
    *,
    claim: Callable[[Device], AbstractContextManager[object]] | None = None,
    **options: Any,
) -> Iterator[Session]:
    """Open a session on a device with a meter, and close all three at the end.

    Args:
        device: As ``--device``, or a device that is open; it is closed all the same.
        meter: As ``--meter``; ``None`` for what the device's profile prefers, else the best source here.
        claim: Called with the opened device, and what it returns is held until the device is closed: a place to check
            which device it is and to keep others away from it.
        **options: Passed to :class:`Session`.

    Raises:
        ConfigError: If a name is unknown.
        LinkError, MeterError: If the device or the meter does not answer.
    """
    with ExitStack() as stack:
        opened = open_device(device) if isinstance(device, str) else device
        stack.callback(opened.close)
        if claim is not None:
            stack.enter_context(claim(opened))
        chosen = meter or opened.profile.meter or None
        source = open_meter(chosen, power=opened.profile.power, pid=opened.worker_pid, link=device_files(opened))
        stack.callback(source.close)
        if isinstance(source, StreamMeter):
            options.setdefault("block_s", STREAM_BLOCK_S)
        yield stack.enter_context(Session(opened, source, **options))


def profile(
    path: str | Path,
    *,
    device: str | Device = "local",
    meter: str | None = None,
    threads: int = 1,
    seconds: float = 2.0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    runtime: str = "onnxruntime",
    seed: int = 0,
    sync: Sync = "auto",
) -> EnergyRecord:
    """Measure the energy of one inference of a model.

    Args:
        path: ONNX file.
        device: ``local``, ``adb:SERIAL``, ``adb:HOST:PORT``, ``ssh:USER@HOST[:PORT]`` or the name of a profile; or a
            device that is open, which is closed at the end.
        meter: ``NAME[:PORT][?key=value]`` or a meter profile; ``None`` for the best source here.
        threads: Intra-operator threads.
        seconds: Time to measure, after warm-up; it ends earlier than twice this once the spread is below 1 %.
        shapes: Shapes of inputs that leave dimensions open, by input name.
        runtime: Inference engine.
        seed: Seed of the input values.
        sync: How an external meter's time becomes the host's: ``auto``, ``pulses`` or ``none`` (see :class:`Session`).

    Returns:
        Net and gross energy per inference with uncertainty, latency, idle power, blocks and warnings.

    Raises:
        ConfigError: If a name, the file or a shape is wrong.
        RunError: If the model cannot be run.
        MeasureError: If the machine is too busy to measure.
        LinkError, MeterError: If the device or the meter does not answer.
    """
    rule = StoppingRule(min_duration_s=seconds, max_duration_s=2 * seconds, min_blocks=5, rel_std=0.01)
    warmup_s = min(0.5, seconds / 4)
    workload = make_workload(path, runtime=runtime, threads=threads, shapes=shapes, warmup_s=warmup_s, rule=rule)
    options: dict[str, Any] = {"threads": threads, "seed": seed, "runtime": runtime, "sync": sync}
    with open_session(device, meter, reference_every_s=None, **options) as session:
        return session.measure(workload, idle_after=True)
