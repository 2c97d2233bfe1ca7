"""A phone or board behind a link, as a device."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deepen.devices.local import RUNTIMES, open_runtime
from deepen.devices.profiles import find_profile_name, load_profile
from deepen.devices.settings.apply_and_restore import preview_settings
from deepen.devices.state.cool_down import CoolDownResult, wait_for_cool_down
from deepen.devices.state.identity import Identity, identify_device, recognise_profile
from deepen.devices.state.read_state import read_device_state
from deepen.devices.state.shell_files import Shell
from deepen.devices.state.temperatures import read_thermal
from deepen.devices.types import DeviceProfile, DeviceState, SettingStatus

if TYPE_CHECKING:
    from deepen.devices.protocols import Link, Runtime

__all__ = ["RemoteDevice", "check_cpu_mask"]

_BUSY_LOAD = 0.5
_ON_PHONES = ("crunner", "crunner-litert", "benchmark_model", "perf_test", "onnxruntime", "litert")
_ON_BOARDS = ("onnxruntime", "litert", "crunner", "crunner-litert", "benchmark_model", "perf_test", "trtexec")


def check_cpu_mask(shell: Shell, cores: Sequence[int]) -> SettingStatus:
    """Check a set of cores by pinning a process to them and reading its allowed cores back.

    Nothing has to be restored: the affinity is that process's own.

    Raises:
        LinkError: If the device is gone.
    """
    wanted = ",".join(map(str, cores))
    mask = format(sum(1 << core for core in set(cores)), "x")
    done = shell.run(["taskset", mask, "grep", "Cpus_allowed:", "/proc/self/status"])
    mask_match = re.search(rb"Cpus_allowed:\s*([0-9a-f,]+)", done.stdout)
    if done.status or not mask_match:
        cure = "name cores that are online, or switch them on (cores_online)"
        return SettingStatus("cpu_mask", wanted, "", False, shell.complaint(done), cure)
    allowed = int(mask_match.group(1).replace(b",", b""), 16)
    actual = ",".join(str(core) for core in range(allowed.bit_length()) if allowed >> core & 1)
    ok = allowed == int(mask, 16)
    cause, cure = (
        ("", "") if ok else ("some of these cores are off or closed to this user", "name cores that are online")
    )
    return SettingStatus("cpu_mask", wanted, actual, ok, cause, cure)


class RemoteDevice:
    """A device reached over a link."""

    def __init__(self, link: Link, profile_name: str = "") -> None:
        """Identify the device and find its profile.

        Args:
            link: Link that reaches it; closed with the device.
            profile_name: Name of its profile; empty to recognise the device by its identity.

        Raises:
            LinkError: If the device is gone.
            ConfigError: If there is no such profile, or it is wrong.
        """
        self._link = link
        self.shell = Shell(link)
        self._runtimes: list[Runtime] = []
        try:
            self.identity: Identity = identify_device(self.shell)
            name = profile_name or find_profile_name(self.identity)
            self._profile = load_profile(name) if name else self._unknown()
        except BaseException:
            link.close()
            raise

    def _unknown(self) -> DeviceProfile:
        """Make a profile for a device without one: it holds the device's own statements, and allows every runtime."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.identity.model.lower()).strip("-")
        kind = "adb" if self.identity.kind == "android" else "ssh"
        # Best first: a board usually has a Python, a phone does not, and the C runner needs none.
        first = _ON_PHONES if kind == "adb" else _ON_BOARDS
        runtimes = (*first, *(name for name in RUNTIMES if name not in first))
        return DeviceProfile(id=slug or "unknown", title=self.identity.model, link=kind, runtimes=runtimes)

    @property
    def profile(self) -> DeviceProfile:
        """Its profile."""
        return self._profile

    @property
    def link(self) -> Link:
        """The link that reaches it."""
        return self._link

    def state(self) -> DeviceState:
        """Read temperatures, throttling, clocks and load.

        Raises:
            LinkError: If it is gone.
        """
        return read_device_state(self.shell, self.identity)

    def cool_down(self, **options: float) -> CoolDownResult:
        """Wait until it is within the profile's limits; options are those of ``wait_for_cool_down``.

        Raises:
            LinkError: If it is gone.
        """
        return wait_for_cool_down(
            lambda: read_thermal(self.shell, self.identity.kind),
            self._profile.cool_to_c,
            **options,  # type: ignore[arg-type]  # all are seconds or kelvin
        )

    def prepare(self) -> tuple[SettingStatus, ...]:
        """Check the settings that make results repeatable; nothing is changed.

        Raises:
            LinkError: If it is gone.
        """
        state = self.state()
        found = [self._check_profile()]
        if self._profile.cpu_mask:
            found.append(check_cpu_mask(self.shell, self._profile.cpu_mask))
        found += preview_settings(self._link, self._profile.wanted)
        found += [self._check_heat(state), self._check_load(state)]
        return tuple(found)

    def _check_profile(self) -> SettingStatus:
        rule, who = self._profile.identify, self.identity
        wanted = self._profile.title or self._profile.id
        if not (rule.models or rule.codenames or rule.device_tree):
            return SettingStatus(
                "profile", wanted, who.model, True, "the profile does not say how to recognise its device"
            )
        if recognise_profile(who, [(self._profile.id, rule)]):
            return SettingStatus("profile", wanted, who.model, True)
        cure = "name the right profile ('deepen device list'): it says with which voltage the device may be fed"
        return SettingStatus("profile", wanted, who.model, False, "the device says it is another one", cure)

    def _check_heat(self, state: DeviceState) -> SettingStatus:
        limit, now = self._profile.max_temperature_c, state.temperature_c
        wanted = f"at most {limit:g} °C, not throttled" if math.isfinite(limit) else "not throttled"
        thermal = state.thermal
        causes = list(thermal.throttled) if thermal else []
        if math.isnan(now):
            causes.append("no processor temperature can be read, so overheating cannot be seen")
        elif now > limit:
            causes.append("the processor is too hot")
        cure = "let it cool down, or improve its cooling" if causes else ""
        reading = "" if math.isnan(now) else f"{now:.1f} °C"
        return SettingStatus("temperature", wanted, reading, not causes, "; ".join(causes), cure)

    def _check_load(self, state: DeviceState) -> SettingStatus:
        wanted = f"below {_BUSY_LOAD}"
        if math.isnan(state.load):
            return SettingStatus("load", wanted, "", True, "the device does not tell its load to this user")
        ok = state.load < _BUSY_LOAD
        cause, cure = ("", "") if ok else ("other programs use the processor", "close them, or restart the device")
        return SettingStatus("load", wanted, f"{state.load:.2f}", ok, cause, cure)

    def runtime(self, name: str = "onnxruntime", cpu_mask: Sequence[int] | None = None) -> Runtime:
        """Open a runtime on the device.

        Args:
            name: Name of the runtime.
            cpu_mask: Cores to run on; ``None`` for the profile's, else the runtime's choice.

        Raises:
            ConfigError: If there is no such runtime or the profile does not list it.
        """
        opened = open_runtime(self._link, self._profile, name, cpu_mask)
        self._runtimes.append(opened)
        return opened

    def worker_pid(self) -> int | None:
        """Return None: its processes are not the host's."""
        return None

    def close(self) -> None:
        """End every worker and release the link."""
        while self._runtimes:
            self._runtimes.pop().close()
        self._link.close()
