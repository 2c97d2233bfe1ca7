"""Catalogue of the settings a user can ask for by name, and their places on a device.

Each definition turns a wanted value into steps (places and the texts to write there), or into the reason the device
does not have the setting. Nothing is written here (see :mod:`deepen.devices.settings.apply_and_restore`).

Sources: kernel ``admin-guide/pm/cpufreq``, ``core-api/cpu_hotplug``, ``hwmon/sysfs-interface`` (``pwm1`` 0 to 255,
``pwm1_enable`` 1 for manual); Android ``Settings.System`` and ``Settings.Global`` as used by devlib's
``AndroidTarget``; ``cmd power set-fixed-performance-mode-enabled`` (developer.android.com, ADPF: Android 11 and newer);
charging nodes:
``input_suspend`` and ``batt_slate_mode`` with their values from LineageOS's ``lineage_health`` configurations,
``charging_enabled`` from devlib; Jetson ``pwm-fan`` as used by jetson_stats.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deepen.devices.settings.access import SettingLocation
from deepen.devices.settings.gpu_clocks import list_gpu_clock_files, plan_gpu_clock, plan_gpu_governor
from deepen.devices.settings.setting_plan import PlanningContext, SettingPlan, SettingStep
from deepen.devices.state.cpu_policies import POLICY_FILES, get_policy_path, parse_core_list, parse_cpu_policies
from deepen.devices.state.shell_files import format_one_line
from deepen.devices.types import CpuPolicy
from deepen.errors import ConfigError, make_unknown_name_error

__all__ = [
    "CHARGING_NODES",
    "SETTING_DEFINITIONS",
    "PlanningContext",
    "SettingDefinition",
    "SettingPlan",
    "SettingStep",
    "check_settings",
]

CHARGING_NODES: dict[str, tuple[str, str]] = {
    "/sys/class/power_supply/battery/input_suspend": ("1", "0"),
    "/sys/class/power_supply/battery/charging_enabled": ("0", "1"),
    "/sys/class/power_supply/battery/batt_slate_mode": ("1", "0"),
}
"""Files that control charging on some devices -> (text that stops it, text that resumes it). Where only the charging
stops and not the input, USB may still feed the phone: cut USB as well when an external meter measures."""

_CPU = "/sys/devices/system/cpu"
_FAN_NAMES = ("pwmfan", "pwm-fan", "pwm_fan")
_OLD_FAN = "/sys/devices/pwm-fan"
_AWAKE_MS = "2147483647"  # the largest value of Android's timeout
_NEAR = 0.05
_ROOT = "give deepen root on the device (adb root, a rooted build, or sudo without a password)"


@dataclass(frozen=True, slots=True)
class SettingDefinition:
    """A setting a user can ask for.

    Attributes:
        name: Its name in ``[prepare]`` and ``--set``.
        title: A description in one line.
        parse: Checks a value from TOML or the command line; raises ``ValueError`` with the values allowed.
        plan: Turns a value into steps.
        cure: Cure if the device has the setting but refuses to change it.
    """

    name: str
    title: str
    parse: Callable[[Any], Any]
    plan: Callable[[PlanningContext, Any], SettingPlan]
    cure: str


# ---- values -------------------------------------------------------------------------------------------------------


def _parse_flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "on", "1", "yes"):
        return True
    if str(value).lower() in ("false", "off", "0", "no"):
        return False
    raise ValueError("true or false")


def _parse_byte(value: Any) -> int:
    if value == "max":
        return 255
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,3}", str(value)) or int(value) > 255:
        raise ValueError("0 to 255, or max")
    return int(value)


def _parse_governor(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", value):
        raise ValueError("the name of a governor")
    return value


def _parse_power_mode(value: Any) -> str:
    if isinstance(value, bool) or not re.fullmatch(r"[A-Za-z0-9_.+-]{1,32}", str(value)):
        raise ValueError("the number or name of a power mode")
    return str(value)


def _parse_cores(value: Any) -> tuple[int, ...]:
    cores = (
        parse_core_list(value) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    )
    if not cores or not all(isinstance(c, int) and not isinstance(c, bool) and 0 <= c < 4096 for c in cores):
        raise ValueError("a list of cores, for example [0, 1] or 0-3")
    return tuple(sorted(set(cores)))


def _parse_clock(value: Any) -> Any:
    if value in ("max", "min"):
        return value
    if isinstance(value, Mapping) and value and all(re.fullmatch(r"policy\d+", str(k)) for k in value):
        return {str(k): _parse_clock(v) for k, v in value.items()}
    try:
        hz = float(value)
    except (TypeError, ValueError):
        hz = math.nan
    if isinstance(value, bool) or not 1e7 <= hz < 1e11:
        raise ValueError("hertz, max, min, or a table of policy = hertz")
    return hz


def _parse_single_clock(value: Any) -> Any:
    if isinstance(value, Mapping):
        raise ValueError("hertz, max or min")
    return _parse_clock(value)


# ---- plans --------------------------------------------------------------------------------------------------------


def _read_policies(context: PlanningContext) -> tuple[CpuPolicy, ...]:
    return parse_cpu_policies(context.shell.read(*POLICY_FILES, root=True))


_NO_CPUFREQ = "the device shows no cpufreq (a virtual machine, or a kernel that hides it)"


def _plan_governor(context: PlanningContext, wanted: str) -> SettingPlan:
    policies = _read_policies(context)
    lacking = [p for p in policies if p.governors and wanted not in p.governors]
    if not policies:
        return SettingPlan(cause=_NO_CPUFREQ)
    if lacking:
        return SettingPlan(
            cause=f"{lacking[0].name} has no governor {wanted}; it has {', '.join(lacking[0].governors)}"
        )
    return SettingPlan(
        tuple(
            SettingStep(SettingLocation("file", get_policy_path(p.name, "scaling_governor")), wanted) for p in policies
        )
    )


def _target_hz(policy: CpuPolicy, wanted: Any) -> float:
    if wanted == "max":
        return policy.hardware_max_hz
    if wanted == "min":
        return policy.hardware_min_hz
    if not policy.steps_hz:
        return float(wanted)
    return min(policy.steps_hz, key=lambda hz: abs(hz - wanted))


def _plan_frequency(context: PlanningContext, wanted: Any) -> SettingPlan:
    policies = _read_policies(context)
    if not policies:
        return SettingPlan(cause=_NO_CPUFREQ)
    if isinstance(wanted, Mapping):
        missing = sorted(set(wanted) - {p.name for p in policies})
        if missing:
            return SettingPlan(cause=f"no {', '.join(missing)}; there are {', '.join(p.name for p in policies)}")
        chosen = [(p, wanted[p.name]) for p in policies if p.name in wanted]
    else:
        chosen = [(p, wanted) for p in policies]
    steps: list[SettingStep] = []
    for policy, value in chosen:
        hz = _target_hz(policy, value)
        low, high = policy.hardware_min_hz, policy.hardware_max_hz
        off = not math.isfinite(hz) or hz < low * (1 - _NEAR) or hz > high * (1 + _NEAR)
        if off or (isinstance(value, float) and abs(hz / value - 1) > _NEAR):
            spans = f"{low / 1e9:g} to {high / 1e9:g} GHz"
            return SettingPlan(
                cause=f"{policy.name} has no clock near {value} Hz; it has {spans}, so name one for each policy"
            )
        limits = ["scaling_max_freq", "scaling_min_freq"]
        # A lower limit above the upper one is refused, so the limit that makes room is set first.
        order = limits if not hz < policy.min_hz else limits[::-1]
        steps += [
            SettingStep(SettingLocation("file", get_policy_path(policy.name, name)), str(round(hz / 1e3)))
            for name in order
        ]
    return SettingPlan(tuple(steps))


def _plan_online_cores(context: PlanningContext, wanted: tuple[int, ...]) -> SettingPlan:
    files = context.shell.read(f"{_CPU}/cpu*/online", f"{_CPU}/present", root=True)
    present = parse_core_list(files.text(f"{_CPU}/present"))
    switches = {c: f"{_CPU}/cpu{c}/online" for c in present if f"{_CPU}/cpu{c}/online" in files.content}
    absent = sorted(set(wanted) - set(present))
    if absent:
        return SettingPlan(
            cause=f"there is no core {', '.join(map(str, absent))}; present are {files.text(f'{_CPU}/present')}"
        )
    fixed = [c for c in present if c not in switches and c not in wanted]
    if fixed:
        return SettingPlan(
            cause=f"core {', '.join(map(str, fixed))} cannot be switched off; name it among those online"
        )
    order = [c for c in switches if c in wanted] + [c for c in switches if c not in wanted]
    return SettingPlan(tuple(SettingStep(SettingLocation("file", switches[c]), str(int(c in wanted))) for c in order))


def _plan_fan(context: PlanningContext, wanted: int) -> SettingPlan:
    shell = context.shell
    patterns = [f"/sys/class/hwmon/hwmon*/{name}" for name in ("name", "pwm1", "pwm1_enable")]
    files = shell.read(*patterns, f"{_OLD_FAN}/target_pwm", f"{_OLD_FAN}/temp_control", root=True)
    steps = []
    if f"{_OLD_FAN}/temp_control" in files.content:
        steps.append(SettingStep(SettingLocation("file", f"{_OLD_FAN}/temp_control"), "0"))
    if f"{_OLD_FAN}/target_pwm" in files.content:
        steps.append(SettingStep(SettingLocation("file", f"{_OLD_FAN}/target_pwm"), str(wanted)))
    for path, name in files.matching("/sys/class/hwmon/hwmon*/name").items():
        folder = path.rpartition("/")[0]
        if name in _FAN_NAMES and f"{folder}/pwm1" in files.content:
            if f"{folder}/pwm1_enable" in files.content:
                steps.append(SettingStep(SettingLocation("file", f"{folder}/pwm1_enable"), "1"))
            steps.append(SettingStep(SettingLocation("file", f"{folder}/pwm1"), str(wanted)))
    return SettingPlan(tuple(steps), "" if steps else "the device shows no fan it could set")


def _plan_power_mode(context: PlanningContext, wanted: str) -> SettingPlan:
    number = wanted
    if not wanted.isdecimal():
        done = context.shell.run(["nvpmodel", "-p", "--verbose"], root=True)
        modes = dict(re.findall(r"POWER_MODEL: ID=(\d+) NAME=(\S+)", done.stdout.decode("utf-8", "replace")))
        numbers = [n for n, name in modes.items() if name.lower() == wanted.lower()]
        if not numbers:
            listed = ", ".join(f"{n} {name}" for n, name in modes.items()) or format_one_line(done.stderr) or "none"
            return SettingPlan(
                cause=f"no power mode {wanted}; nvpmodel lists {listed}", cure="name one of those; see nvpmodel -p"
            )
        number = numbers[0]
    # A mode switches cores and moves the limits of clocks; those that the user had set are restored after it.
    online = context.shell.read(f"{_CPU}/cpu*/online", root=True).matching(f"{_CPU}/cpu*/online")
    names = ("scaling_governor", "scaling_max_freq", "scaling_min_freq")
    moved = [get_policy_path(p.name, name) for p in _read_policies(context) for name in names]
    guards = [
        SettingStep(SettingLocation("file", path), None) for path in [*moved, *online, *list_gpu_clock_files(context)]
    ]
    return SettingPlan((*guards, SettingStep(SettingLocation("nvpmodel"), number)))


def _plan_jetson_clocks(context: PlanningContext, wanted: bool) -> SettingPlan:
    # On the device, where a restart clears both the file and the clocks; the name is unpredictable for others there.
    place = SettingLocation("jetson_clocks", f"/tmp/deepen-{secrets.token_hex(8)}.conf")  # noqa: S108
    return SettingPlan((SettingStep(place, "on" if wanted else "off"),))


def _plan_android_settings(*pairs: tuple[str, str]) -> SettingPlan:
    return SettingPlan(tuple(SettingStep(SettingLocation("setting", address), text) for address, text in pairs))


def _plan_brightness(context: PlanningContext, wanted: int) -> SettingPlan:
    return _plan_android_settings(("system/screen_brightness_mode", "0"), ("system/screen_brightness", str(wanted)))


def _plan_stay_awake(context: PlanningContext, wanted: bool) -> SettingPlan:
    if not wanted:
        return _plan_android_settings(("global/stay_on_while_plugged_in", "0"))
    # 7 is AC, USB and wireless; on an external supply nothing is plugged in, and only the timeout keeps it awake.
    return _plan_android_settings(("global/stay_on_while_plugged_in", "7"), ("system/screen_off_timeout", _AWAKE_MS))


def _plan_airplane(context: PlanningContext, wanted: bool) -> SettingPlan:
    if wanted and context.network:
        cause = "the link itself runs over the device's network, which airplane mode would cut"
        return SettingPlan(cause=cause, cure="connect over USB, or switch the other radios off by hand")
    return SettingPlan((SettingStep(SettingLocation("airplane"), str(int(wanted))),))


def _plan_fixed_performance(context: PlanningContext, wanted: bool) -> SettingPlan:
    if 0 < context.identity.sdk < 30:
        return SettingPlan(cause=f"it came with Android 11 (API level 30); the device has {context.identity.sdk}")
    return SettingPlan((SettingStep(SettingLocation("fixed_performance"), str(wanted).lower()),))


def _plan_charging(context: PlanningContext, wanted: bool) -> SettingPlan:
    files = context.shell.read(*CHARGING_NODES, root=True)
    for path, (stop, go) in CHARGING_NODES.items():
        if path in files.content:
            return SettingPlan((SettingStep(SettingLocation("file", path), go if wanted else stop),))
    closed = [f"{path}: {why}" for path, why in files.unreadable.items()]
    cure = "cut the USB supply at the hub, or feed the phone from the meter alone"
    if closed:
        return SettingPlan(cause="; ".join(closed), cure=f"{_ROOT}, {cure}")
    return SettingPlan(cause="the device has none of the files that are known to stop charging", cure=cure)


def _restrict_to_kind(
    kind: str, name: str, plan: Callable[[PlanningContext, Any], SettingPlan]
) -> Callable[[PlanningContext, Any], SettingPlan]:
    def planned(context: PlanningContext, wanted: Any) -> SettingPlan:
        if context.identity.kind != kind:
            return SettingPlan(cause=f"only {name} have it")
        return plan(context, wanted)

    return planned


_LIST = [
    SettingDefinition("power_mode", "nvpmodel's power mode", _parse_power_mode, _restrict_to_kind("jetson", "Jetsons",
        _plan_power_mode), _ROOT),
    SettingDefinition("cores_online", "cores switched on", _parse_cores, _plan_online_cores, _ROOT),
    SettingDefinition("governor", "what chooses the processor's clock", _parse_governor, _plan_governor,
        f"{_ROOT}, or use fixed_performance"),
    SettingDefinition("frequency_hz", "the processor's clock", _parse_clock, _plan_frequency,
        f"{_ROOT}, or use fixed_performance"),
    SettingDefinition("gpu_governor", "what chooses the GPU's clock", _parse_governor, plan_gpu_governor, _ROOT),
    SettingDefinition("gpu_frequency_hz", "the GPU's clock", _parse_single_clock, plan_gpu_clock, _ROOT),
    SettingDefinition("jetson_clocks", "all clocks at their highest", _parse_flag, _restrict_to_kind("jetson",
        "Jetsons", _plan_jetson_clocks), _ROOT),
    SettingDefinition("fan", "speed of the fan", _parse_byte, _plan_fan,
        f"{_ROOT}; stop what else drives the fan (nvfancontrol)"),
    SettingDefinition("charging", "charging the battery", _parse_flag, _restrict_to_kind("android", "phones",
        _plan_charging),
         f"{_ROOT}, cut the USB supply at the hub, or feed the phone from the meter alone"),
    SettingDefinition("stay_awake", "the screen's time-out", _parse_flag, _restrict_to_kind("android", "phones",
        _plan_stay_awake),
         "allow USB debugging (security settings) in the developer options"),
    SettingDefinition("brightness", "brightness of the screen", _parse_byte, _restrict_to_kind("android", "phones",
        _plan_brightness),
         "allow USB debugging (security settings) in the developer options"),
    SettingDefinition("fixed_performance", "clocks at a level the device can sustain", _parse_flag,
        _restrict_to_kind("android", "phones", _plan_fixed_performance),
         "nothing: the device has no such mode; watch its temperature instead"),
    SettingDefinition("airplane", "radios switched off", _parse_flag, _restrict_to_kind("android", "phones",
        _plan_airplane),
         "connect over USB, or switch it on by hand in the quick settings"),
]  # fmt: skip

SETTING_DEFINITIONS: dict[str, SettingDefinition] = {knob.name: knob for knob in _LIST}
"""Settings in the order in which they are applied; they are restored in the reverse order."""


def check_settings(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Check the values of settings given by name.

    Returns:
        The values, in the order in which they are set.

    Raises:
        ConfigError: If there is no such setting, or a value is not allowed.
    """
    for name in wanted:
        if name not in SETTING_DEFINITIONS:
            raise make_unknown_name_error("setting", name, SETTING_DEFINITIONS)
    checked = {}
    for name, knob in SETTING_DEFINITIONS.items():
        if name in wanted:
            try:
                checked[name] = knob.parse(wanted[name])
            except ValueError as error:
                raise ConfigError(f"setting '{name}' takes {error}, not {wanted[name]!r}") from error
    return checked
