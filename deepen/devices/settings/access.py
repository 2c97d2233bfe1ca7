"""Access to the places on a device that hold settings: reading and writing them as text.

The meaning of settings is defined in :mod:`deepen.devices.settings.catalogue`; this module reads a value and writes it
back exactly as it was. A :class:`SettingLocation` is plain data, so that a journal on the host can name it and another
process can restore it.

Sources: kernel ``admin-guide/pm/cpufreq`` and ``core-api/cpu_hotplug`` (files below ``/sys``); Android's ``settings``,
``cmd connectivity airplane-mode`` and ``cmd power`` (AOSP ``SettingsService``, ``ConnectivityService``,
``PowerManagerShellCommand``); NVIDIA Jetson Linux Developer Guide ("once you set a power mode, the module stays in that
mode until you change it; the mode persists across power cycles"; ``jetson_clocks --store FILE``, ``--restore FILE``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from deepen.devices.state.shell_files import Shell, format_one_line
from deepen.errors import ConfigError

__all__ = ["LOCATION_KINDS", "SettingLocation", "SettingValue", "is_same_value", "read_setting", "write_setting"]


@dataclass(frozen=True, slots=True)
class SettingLocation:
    """The place of a setting on a device.

    Attributes:
        kind: One of ``LOCATION_KINDS``.
        address: Its address among that kind: a path, ``system/screen_brightness``, or empty if there is only one.
    """

    kind: str
    address: str = ""

    def __post_init__(self) -> None:
        if self.kind not in LOCATION_KINDS or not LOCATION_KINDS[self.kind].address.fullmatch(self.address):
            raise ConfigError(f"'{self.kind}:{self.address[:80]}' is no place a setting can be in")

    @property
    def volatile(self) -> bool:
        """True if a restart of the device undoes a change."""
        return LOCATION_KINDS[self.kind].volatile

    def __str__(self) -> str:
        return f"{self.kind}:{self.address}" if self.address else self.kind


@dataclass(frozen=True, slots=True)
class SettingValue:
    """A value read from a setting.

    Attributes:
        text: The value; ``None`` if it could not be read.
        cause: Reason it could not be read; empty if it could.
    """

    text: str | None
    cause: str = ""


def read_setting(shell: Shell, place: SettingLocation) -> SettingValue:
    """Read a setting.

    Raises:
        LinkError: If the device is gone.
    """
    return LOCATION_KINDS[place.kind].read(shell, place.address)


def write_setting(shell: Shell, place: SettingLocation, text: str) -> str:
    """Write a setting.

    Returns:
        Reason it was refused; empty if it was accepted. Only reading it back shows the value it has now.

    Raises:
        LinkError: If the device is gone.
    """
    return LOCATION_KINDS[place.kind].write(shell, place.address, text)


def is_same_value(first: str | None, second: str | None) -> bool:
    """Return whether two values mean the same: equal texts, or equal numbers."""
    if first is None or second is None:
        return False
    try:
        return float(first) == float(second)
    except ValueError:
        return first == second


# ---- files of the kernel ------------------------------------------------------------------------------------------


def _read_file(shell: Shell, path: str) -> SettingValue:
    files = shell.read(path, root=True)
    if path in files.content:
        return SettingValue(files.text(path))
    return SettingValue(None, files.refused.get(path, "it is empty"))


def _write_file(shell: Shell, path: str, text: str) -> str:
    return shell.write(path, text)


# ---- Android ------------------------------------------------------------------------------------------------------

_ABSENT = "null"
"""Output of ``settings get`` for a key that is not set; restoring it means deleting the key."""


def _read_android_setting(shell: Shell, address: str) -> SettingValue:
    namespace, _, key = address.partition("/")
    done = shell.run(["settings", "get", namespace, key])
    text = done.stdout.decode("utf-8", "replace").strip()
    if done.status or not text:
        return SettingValue(None, shell.complaint(done))
    return SettingValue(text)


def _write_android_setting(shell: Shell, address: str, text: str) -> str:
    namespace, _, key = address.partition("/")
    if text == _ABSENT:
        done = shell.run(["settings", "delete", namespace, key])
    else:
        done = shell.run(["settings", "put", namespace, key, text])
    # Some builds print the exception and end with status 0.
    return shell.complaint(done) if done.status or b"xception" in done.stderr + done.stdout else ""


def _read_airplane(shell: Shell, address: str) -> SettingValue:
    return _read_android_setting(shell, "global/airplane_mode_on")


def _write_airplane(shell: Shell, address: str, text: str) -> str:
    done = shell.run(["cmd", "connectivity", "airplane-mode", "enable" if text == "1" else "disable"])
    if done.status == 0 and b"nknown command" not in done.stdout + done.stderr and _reads_airplane_as(shell, text):
        return ""
    # Before Android 11: the setting alone has no effect; the broadcast that applies it needs root since Android 7.
    put = _write_android_setting(shell, "global/airplane_mode_on", text)
    state = "true" if text == "1" else "false"
    argv = ["am", "broadcast", "-a", "android.intent.action.AIRPLANE_MODE", "--ez", "state", state]
    announced = shell.run(argv, root=True)
    if put or announced.status or b"xception" in announced.stdout + announced.stderr:
        return put or shell.complaint(announced)
    return ""


def _reads_airplane_as(shell: Shell, text: str) -> bool:
    return is_same_value(_read_airplane(shell, "").text, text)


FIXED_PERFORMANCE_AT_START = "false"
"""Fixed performance mode after a start of the device: it cannot be read, so this value is restored."""


def _read_fixed_performance(shell: Shell, address: str) -> SettingValue:
    return SettingValue(None, "Android sets it but does not tell it")


def _write_fixed_performance(shell: Shell, address: str, text: str) -> str:
    done = shell.run(["cmd", "power", "set-fixed-performance-mode-enabled", text])
    bad = done.status or re.search(rb"Failed|nknown|xception", done.stdout + done.stderr)
    return shell.complaint(done) if bad else ""


# ---- Jetson -------------------------------------------------------------------------------------------------------


def _read_power_mode(shell: Shell, address: str) -> SettingValue:
    done = shell.run(["nvpmodel", "-q"], root=True)
    match = re.search(rb"NV Power Mode: .*\n\s*(\d+)\s*$", done.stdout.rstrip() + b"\n", re.MULTILINE)
    if done.status or not match:
        return SettingValue(None, shell.complaint(done))
    return SettingValue(match.group(1).decode())


def _write_power_mode(shell: Shell, address: str, text: str) -> str:
    # Some modes ask "REBOOT required ... (YES/NO)": no input means NO, and reading back shows the old mode.
    done = shell.run(["nvpmodel", "-m", text], root=True, timeout_s=60.0)
    out = done.stdout + done.stderr
    if done.status or b"NVPM ERROR" in out:
        return shell.complaint(done)
    if re.search(rb"reboot", out, re.IGNORECASE):
        return f"this mode needs a restart of the device: {format_one_line(out)}"
    return ""


def _read_jetson_clocks(shell: Shell, address: str) -> SettingValue:
    done = shell.run(["jetson_clocks", "--show"], root=True)
    rows = re.findall(rb"^cpu\d+:.*?MinFreq=(\d+) MaxFreq=(\d+)", done.stdout, re.MULTILINE)
    if done.status or not rows:
        return SettingValue(None, shell.complaint(done))
    return SettingValue("on" if all(low == high for low, high in rows) else "off")


def _write_jetson_clocks(shell: Shell, address: str, text: str) -> str:
    """Switch the clocks to their highest, or restore those stored in the file ``address`` on the device."""
    if text == "on":
        done = shell.run(["jetson_clocks", "--store", address], root=True, timeout_s=60.0)
        if done.status:
            return shell.complaint(done)
        done = shell.run(["jetson_clocks"], root=True, timeout_s=60.0)
        return shell.complaint(done) if done.status else ""
    done = shell.run(["jetson_clocks", "--restore", address], root=True, timeout_s=60.0)
    if done.status:
        return shell.complaint(done)
    shell.run(["rm", "-f", "--", address], root=True)
    return ""


@dataclass(frozen=True, slots=True)
class _LocationKind:
    """A kind of place: its functions to read and write, the form of its addresses, and whether a restart undoes it."""

    read: Callable[[Shell, str], SettingValue]
    write: Callable[[Shell, str, str], str]
    address: re.Pattern[str]
    volatile: bool


_STORE = re.compile(r"/tmp/deepen-[0-9a-f]+\.conf")  # noqa: S108 - on the device, under a name nobody can foresee

LOCATION_KINDS: dict[str, _LocationKind] = {
    "file": _LocationKind(_read_file, _write_file, re.compile(r"/sys/(?!.*\.\.)[A-Za-z0-9_.,:@+/-]+"), True),
    "setting": _LocationKind(
        _read_android_setting, _write_android_setting, re.compile(r"(system|global|secure)/[A-Za-z0-9_.]+"), False
    ),
    "airplane": _LocationKind(_read_airplane, _write_airplane, re.compile(""), False),
    "fixed_performance": _LocationKind(_read_fixed_performance, _write_fixed_performance, re.compile(""), True),
    "nvpmodel": _LocationKind(_read_power_mode, _write_power_mode, re.compile(""), False),
    "jetson_clocks": _LocationKind(_read_jetson_clocks, _write_jetson_clocks, _STORE, True),
}
"""Kinds of places."""
