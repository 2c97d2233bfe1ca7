"""Checks of this machine: the measurements it supports, the missing parts, and the exact cure for each."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

from deepen import catalog
from deepen.devices import open_device
from deepen.devices.protocols import Device
from deepen.doctor.device_checks import DoctorCheck, check_devices
from deepen.errors import DeepenError
from deepen.measure.conditions.drift_reference import write_empty_model
from deepen.measure.conditions.remote_sensors import access_device_files
from deepen.meters import MeterContext, explain_unavailable, list_meters

__all__ = ["DoctorCheck", "check_machine"]

_BASE_PACKAGES = ("click", "numpy", "onnx", "onnxruntime")
_EXTRA_PACKAGES = {"lightgbm": "train", "scikit-learn": "train", "scipy": "train", "pandas": "data", "pyarrow": "data"}
_MIN_PYTHON = (3, 11)


def _check_python() -> DoctorCheck:
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] < _MIN_PYTHON:
        return DoctorCheck(
            "python", "fail", found, "Python 3.11 or later is needed", "install it and make a new environment"
        )
    if sys.platform != "linux":
        return DoctorCheck(
            "python", "note", found, "measuring is tested on Linux only", "predict here, measure on Linux"
        )
    return DoctorCheck("python", "ok", found)


def _check_packages() -> Iterator[DoctorCheck]:
    for name in (*_BASE_PACKAGES, *_EXTRA_PACKAGES):
        try:
            yield DoctorCheck(f"package {name}", "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            extra = _EXTRA_PACKAGES.get(name)
            cure = f"pip install 'deepen[{extra}]'" if extra else f"pip install {name}"
            yield DoctorCheck(f"package {name}", "note" if extra else "fail", "", "not installed", cure)


def _check_folders() -> Iterator[DoctorCheck]:
    missing = [n for n in ("kernels", "devices", "predictors", "datasets") if not (catalog.find_root() / n).is_dir()]
    if missing:
        cause = f"no folder {', '.join(missing)} in {catalog.find_root()}"
        yield DoctorCheck(
            "catalog", "fail", str(catalog.find_root()), cause, "reinstall deepen, or correct DEEPEN_CATALOG"
        )
    else:
        yield DoctorCheck("catalog", "ok", str(catalog.find_root()))
    folder = Path(tempfile.gettempdir())
    if os.access(folder, os.W_OK):
        yield DoctorCheck("temporary folder", "ok", str(folder))
    else:
        yield DoctorCheck(
            "temporary folder", "fail", str(folder), "not writable", "set TMPDIR to a folder you can write to"
        )


def _check_cores(device: Device) -> DoctorCheck:
    state = device.state()
    found = f"{len(state.usable_cores)} of {state.cores} usable ({state.cpu_model or state.machine})"
    if len(state.usable_cores) < 2:
        cause = "the worker shares its only core with everything else, so results vary"
        return DoctorCheck("cores", "note", found, cause, "give this machine a second core")
    return DoctorCheck("cores", "ok", found)


def _check_runtime(device: Device) -> DoctorCheck:
    with tempfile.TemporaryDirectory(prefix="deepen-doctor-") as folder:
        try:
            runtime = device.runtime()
            loaded = runtime.load(write_empty_model(Path(folder) / "empty.onnx"))
            loaded.run(1)
            loaded.close()
            return DoctorCheck("runtime onnxruntime", "ok", loaded.build)
        except DeepenError as error:
            cure = error.cure or "pip install --force-reinstall onnxruntime"
            return DoctorCheck("runtime onnxruntime", "fail", "", error.cause, cure)


def _check_meters(device: Device) -> Iterator[DoctorCheck]:
    found = list_meters(MeterContext(power=device.profile.power, link=access_device_files(device)))
    for meter in found:
        if meter.available:
            yield DoctorCheck(f"meter {meter.name}", "ok", f"{meter.source}: {meter.detail}")
    for names, cause, cure in explain_unavailable(found):
        yield DoctorCheck(f"meter {names}", "note", "not available", cause, cure)
    if not any(m.available for m in found):
        yield DoctorCheck(
            "meters", "fail", "", "no power source at all", "add [power] to the profile in devices/profiles"
        )
    elif not any(m.available and m.source == "measured" for m in found):
        cause = "no sensor here: energy will be modelled from processor time"
        yield DoctorCheck("meters", "note", "cpu-model", cause, "see the cures above, or use a machine with RAPL")


def check_machine(device: Device | None = None) -> tuple[DoctorCheck, ...]:
    """Check all requirements of measuring.

    Args:
        device: Device to check; ``None`` for the local one, which is opened and closed again.
    """
    checks = [_check_python(), *_check_packages()]
    opened: Device | None = None
    try:
        checks += _check_folders()
        opened = device if device is not None else open_device("local")
        checks += [_check_cores(opened), _check_runtime(opened), *_check_meters(opened)]
        for setting in opened.prepare():
            status: Literal["ok", "note"] = "ok" if setting.ok else "note"
            found = setting.actual or "not readable"
            checks.append(DoctorCheck(setting.name, status, found, setting.cause, setting.cure))
        checks += check_devices()
    except DeepenError as error:
        checks.append(DoctorCheck("device local", "fail", "", str(error), "correct what the message names"))
    finally:
        if opened is not None and device is None:
            opened.close()
    return tuple(checks)
