"""Choice of the runtime on a device, where the user leaves it open or names an accelerator."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from deepen.devices.links.local import LocalLink
from deepen.devices.local import DELEGATES, RUNTIMES
from deepen.devices.protocols import Device
from deepen.errors import ConfigError, LinkError, RunError
from deepen.measure.conditions.device_conditions import MessageHandler, log_device_message
from deepen.measure.conditions.drift_reference import write_empty_model, write_reference_model
from deepen.measure.conditions.tflite_reference import write_empty_lite_model, write_reference_lite_model

__all__ = ["AUTO", "choose_runtime", "get_file_suffixes", "resolve_runtime_name", "write_session_model"]

AUTO = "auto"
"""Name that leaves the runtime to the device's profile."""

_ONNX = (".onnx", ".ort")
_WRITERS = {
    ("reference", ".onnx"): write_reference_model,
    ("reference", ".tflite"): write_reference_lite_model,
    ("empty", ".onnx"): write_empty_model,
    ("empty", ".tflite"): write_empty_lite_model,
}


def write_session_model(folder: Path, name: str, suffixes: tuple[str, ...]) -> Path:
    """Write one of the session's own models, unless it is there.

    Args:
        folder: Where.
        name: ``reference`` or ``empty``.
        suffixes: Files the runtime takes; it gets a ``.tflite`` file where it takes no ``.onnx``.
    """
    suffix = ".onnx" if ".onnx" in suffixes else ".tflite"
    path = folder / f"{name}{suffix}"
    return path if path.exists() else _WRITERS[name, suffix](path)


def get_file_suffixes(name: str) -> tuple[str, ...]:
    """Get the endings of the files a runtime takes.

    Raises:
        ConfigError: If there is no such runtime.
    """
    return tuple(getattr(RUNTIMES.load(name), "suffixes", _ONNX))


def resolve_runtime_name(runtime: str, delegate: str) -> str:
    """Resolve the name of a runtime with an accelerator, for example ``benchmark_model`` with ``gpu``.

    Raises:
        ConfigError: If there is no such runtime, or it has no such accelerator.
    """
    RUNTIMES.check_name(runtime)
    if delegate in ("", "cpu"):
        return runtime
    name = f"{runtime}-{delegate}"
    if DELEGATES.get(name) != runtime:
        own = [k.removeprefix(f"{v}-") for k, v in DELEGATES.items() if v == runtime]
        others = sorted({v for k, v in DELEGATES.items() if k == f"{v}-{delegate}"})
        cure = f"it has {', '.join(own)}" if own else "it has none"
        elsewhere = f"; '{delegate}' comes with {', '.join(others)}" if others else ""
        raise ConfigError(f"the runtime {runtime} has no delegate '{delegate}': {cure}{elsewhere}")
    return name


def choose_runtime(
    device: Device,
    asked: str = AUTO,
    *,
    delegate: str = "",
    suffix: str = ".onnx",
    tell: MessageHandler = log_device_message,
) -> str:
    """Name the runtime to measure with.

    ``auto`` takes the first runtime of the device's profile that takes such files and works: where several could, each
    is tried with a model of our own, in the profile's order, until one runs it. On this machine the first one is taken.

    Args:
        device: An open device.
        asked: Runtime by name, or ``auto``.
        delegate: Accelerator; empty or ``cpu`` for none.
        suffix: Ending of the model's file.
        tell: Called with the runtimes that were not taken, and the reasons.

    Raises:
        ConfigError: If there is none, or none works; the message says why not.
        LinkError: If the device is gone.
    """
    if asked != AUTO:
        return resolve_runtime_name(asked, delegate)
    candidates = list(_find_candidates(device, delegate, suffix.lower()))
    if not candidates:
        listed = ", ".join(device.profile.runtimes)
        what = f"{suffix} files" + (f" with the delegate '{delegate}'" if delegate else "")
        raise ConfigError(f"device '{device.profile.id}' has no runtime for {what}", cure=f"its profile lists {listed}")
    if len(candidates) == 1 or isinstance(device.link, LocalLink):
        return resolve_runtime_name(candidates[0], delegate)
    reasons: list[str] = []
    with tempfile.TemporaryDirectory(prefix="deepen-try-") as folder:
        for name in candidates:
            reason = _try_runtime(device, name, Path(folder))
            if not reason:
                if reasons:
                    tell(f"runtime {name} is taken, because {'; '.join(reasons)}")
                return resolve_runtime_name(name, delegate)
            reasons.append(f"{name} does not work: {reason}")
    raise ConfigError(f"no runtime of device '{device.profile.id}' works", cure="; ".join(reasons))


def _find_candidates(device: Device, delegate: str, suffix: str) -> Iterator[str]:
    for name in device.profile.runtimes:
        if name not in RUNTIMES or name in DELEGATES or suffix not in get_file_suffixes(name):
            continue
        if delegate in ("", "cpu") or DELEGATES.get(f"{name}-{delegate}") == name:
            yield name


def _try_runtime(device: Device, name: str, folder: Path) -> str:
    """Try a runtime on a device; return the reason it does not work, empty where it does.

    Raises:
        LinkError: If the device is gone.
    """
    runtime = device.runtime(name)
    try:
        runtime.load(write_session_model(folder, "empty", get_file_suffixes(name))).close()
    except (ConfigError, RunError) as error:
        return str(error)
    except LinkError as error:
        if not device.link.alive():
            raise
        return str(error)
    finally:
        runtime.close()
    return ""
