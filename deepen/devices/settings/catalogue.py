"""Settings a user asks for by name, and the places on a device they mean.

Each knob turns a wanted value into steps: places and the texts to write there, or says why the device has no such
thing. Nothing is written here (see :mod:`deepen.devices.settings.apply_and_restore`).

Sources: kernel ``admin-guide/pm/cpufreq``, ``core-api/cpu_hotplug``, ``hwmon/sysfs-interface`` (``pwm1`` 0 to 255,
``pwm1_enable`` 1 for manual); Android ``CampaignSettings.System`` and ``CampaignSettings.Global`` as used by devlib's
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

from deepen.devices.settings.access import Place
from deepen.devices.settings.gpu_clocks import gpu_guards, plan_gpu_clock, plan_gpu_governor
from deepen.devices.settings.setting_plan import Context, Plan, Step
from deepen.devices.state.cpu_policies import POLICY_FILES, cores_in, policies_of, policy_path
from deepen.devices.state.shell_files import one_line
from deepen.devices.types import CpuPolicy
from deepen.errors import ConfigError, make_unknown_name_error

__all__ = ["CHARGING_NODES", "KNOBS", "Context", "Knob", "Plan", "Step", "check_wanted"]

CHARGING_NODES: dict[str, tuple[str, str]] = {
    "/sys/class/power_supply/battery/input_suspend": ("1", "0"),
    "/sys/class/power_supply/battery/charging_enabled": ("0", "1"),
    "/sys/class/power_supply/battery/batt_slate_mode": ("1", "0"),
}
"""Files that stop charging on some devices -> (text that stops it, text that lets it go on). Where only the charging
stops and not the input, USB may still feed the phone: cut it as well when an external meter measures."""

_CPU = "/sys/devices/system/cpu"
_FAN_NAMES = ("pwmfan", "pwm-fan", "pwm_fan")
_OLD_FAN = "/sys/devices/pwm-fan"
_AWAKE_MS = "2147483647"  # the largest value Android's timeout takes
_NEAR = 0.05
_ROOT = "give deepen root on the device (adb root, a rooted build, or sudo without a password)"


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting a user can ask for.

    Attributes:
        name: What it is called in ``[prepare]`` and ``--set``.
        title: One line for people.
        parse: Checks a value from TOML or the command line; raises ``ValueError`` with what is allowed.
        plan: Turns it into steps.
        cure: What helps where the device has it and does not let it be set.
    """

    name: str
    title: str
    parse: Callable[[Any], Any]
    plan: Callable[[Context, Any], Plan]
    cure: str


# ---- values -------------------------------------------------------------------------------------------------------


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "on", "1", "yes"):
        return True
    if str(value).lower() in ("false", "off", "0", "no"):
        return False
    raise ValueError("true or false")


def _byte(value: Any) -> int:
    if value == "max":
        return 255
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,3}", str(value)) or int(value) > 255:
        raise ValueError("0 to 255, or max")
    return int(value)


def _word(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", value):
        raise ValueError("the name of a governor")
    return value


def _mode(value: Any) -> str:
    if isinstance(value, bool) or not re.fullmatch(r"[A-Za-z0-9_.+-]{1,32}", str(value)):
        raise ValueError("the number or name of a power mode")
    return str(value)


def _cores(value: Any) -> tuple[int, ...]:
    cores = cores_in(value) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not cores or not all(isinstance(c, int) and not isinstance(c, bool) and 0 <= c < 4096 for c in cores):
        raise ValueError("a list of cores, for example [0, 1] or 0-3")
    return tuple(sorted(set(cores)))


def _clock(value: Any) -> Any:
    if value in ("max", "min"):
        return value
    if isinstance(value, Mapping) and value and all(re.fullmatch(r"policy\d+", str(k)) for k in value):
        return {str(k): _clock(v) for k, v in value.items()}
    try:
        hz = float(value)
    except (TypeError, ValueError):
        hz = math.nan
    if isinstance(value, bool) or not 1e7 <= hz < 1e11:
        raise ValueError("hertz, max, min, or a table of policy = hertz")
    return hz


def _one_clock(value: Any) -> Any:
    if isinstance(value, Mapping):
        raise ValueError("hertz, max or min")
    return _clock(value)


# ---- plans --------------------------------------------------------------------------------------------------------


def _policies(context: Context) -> tuple[CpuPolicy, ...]:
    return policies_of(context.shell.read(*POLICY_FILES, root=True))


_NO_CPUFREQ = "the device shows no cpufreq (a virtual machine, or a kernel that hides it)"


def _governor(context: Context, wanted: str) -> Plan:
    policies = _policies(context)
    lacking = [p for p in policies if p.governors and wanted not in p.governors]
    if not policies:
        return Plan(cause=_NO_CPUFREQ)
    if lacking:
        return Plan(cause=f"{lacking[0].name} has no governor {wanted}; it has {', '.join(lacking[0].governors)}")
    return Plan(tuple(Step(Place("file", policy_path(p.name, "scaling_governor")), wanted) for p in policies))


def _target_hz(policy: CpuPolicy, wanted: Any) -> float:
    if wanted == "max":
        return policy.hardware_max_hz
    if wanted == "min":
        return policy.hardware_min_hz
    if not policy.steps_hz:
        return float(wanted)
    return min(policy.steps_hz, key=lambda hz: abs(hz - wanted))


def _frequency(context: Context, wanted: Any) -> Plan:
    policies = _policies(context)
    if not policies:
        return Plan(cause=_NO_CPUFREQ)
    if isinstance(wanted, Mapping):
        missing = sorted(set(wanted) - {p.name for p in policies})
        if missing:
            return Plan(cause=f"no {', '.join(missing)}; there are {', '.join(p.name for p in policies)}")
        chosen = [(p, wanted[p.name]) for p in policies if p.name in wanted]
    else:
        chosen = [(p, wanted) for p in policies]
    steps: list[Step] = []
    for policy, value in chosen:
        hz = _target_hz(policy, value)
        low, high = policy.hardware_min_hz, policy.hardware_max_hz
        off = not math.isfinite(hz) or hz < low * (1 - _NEAR) or hz > high * (1 + _NEAR)
        if off or (isinstance(value, float) and abs(hz / value - 1) > _NEAR):
            spans = f"{low / 1e9:g} to {high / 1e9:g} GHz"
            return Plan(
                cause=f"{policy.name} has no clock near {value} Hz; it has {spans}, so name one for each policy"
            )
        limits = ["scaling_max_freq", "scaling_min_freq"]
        # A lower limit above the upper one is refused, so the limit that makes room goes first.
        order = limits if not hz < policy.min_hz else limits[::-1]
        steps += [Step(Place("file", policy_path(policy.name, name)), str(round(hz / 1e3))) for name in order]
    return Plan(tuple(steps))


def _online(context: Context, wanted: tuple[int, ...]) -> Plan:
    files = context.shell.read(f"{_CPU}/cpu*/online", f"{_CPU}/present", root=True)
    present = cores_in(files.text(f"{_CPU}/present"))
    switches = {c: f"{_CPU}/cpu{c}/online" for c in present if f"{_CPU}/cpu{c}/online" in files.content}
    absent = sorted(set(wanted) - set(present))
    if absent:
        return Plan(
            cause=f"there is no core {', '.join(map(str, absent))}; present are {files.text(f'{_CPU}/present')}"
        )
    fixed = [c for c in present if c not in switches and c not in wanted]
    if fixed:
        return Plan(cause=f"core {', '.join(map(str, fixed))} cannot be switched off; name it among those online")
    order = [c for c in switches if c in wanted] + [c for c in switches if c not in wanted]
    return Plan(tuple(Step(Place("file", switches[c]), str(int(c in wanted))) for c in order))


def _fan(context: Context, wanted: int) -> Plan:
    shell = context.shell
    patterns = [f"/sys/class/hwmon/hwmon*/{name}" for name in ("name", "pwm1", "pwm1_enable")]
    files = shell.read(*patterns, f"{_OLD_FAN}/target_pwm", f"{_OLD_FAN}/temp_control", root=True)
    steps = []
    if f"{_OLD_FAN}/temp_control" in files.content:
        steps.append(Step(Place("file", f"{_OLD_FAN}/temp_control"), "0"))
    if f"{_OLD_FAN}/target_pwm" in files.content:
        steps.append(Step(Place("file", f"{_OLD_FAN}/target_pwm"), str(wanted)))
    for path, name in files.matching("/sys/class/hwmon/hwmon*/name").items():
        folder = path.rpartition("/")[0]
        if name in _FAN_NAMES and f"{folder}/pwm1" in files.content:
            if f"{folder}/pwm1_enable" in files.content:
                steps.append(Step(Place("file", f"{folder}/pwm1_enable"), "1"))
            steps.append(Step(Place("file", f"{folder}/pwm1"), str(wanted)))
    return Plan(tuple(steps), "" if steps else "the device shows no fan it could set")


def _power_mode(context: Context, wanted: str) -> Plan:
    number = wanted
    if not wanted.isdecimal():
        done = context.shell.run(["nvpmodel", "-p", "--verbose"], root=True)
        modes = dict(re.findall(r"POWER_MODEL: ID=(\d+) NAME=(\S+)", done.stdout.decode("utf-8", "replace")))
        numbers = [n for n, name in modes.items() if name.lower() == wanted.lower()]
        if not numbers:
            told = ", ".join(f"{n} {name}" for n, name in modes.items()) or one_line(done.stderr) or "none"
            return Plan(
                cause=f"no power mode {wanted}; nvpmodel lists {told}", cure="name one of those; see nvpmodel -p"
            )
        number = numbers[0]
    # A mode switches cores and moves the limits of clocks; where the user had set those, they are put back after it.
    online = context.shell.read(f"{_CPU}/cpu*/online", root=True).matching(f"{_CPU}/cpu*/online")
    names = ("scaling_governor", "scaling_max_freq", "scaling_min_freq")
    moved = [policy_path(p.name, name) for p in _policies(context) for name in names]
    guards = [Step(Place("file", path), None) for path in [*moved, *online, *gpu_guards(context)]]
    return Plan((*guards, Step(Place("nvpmodel"), number)))


def _jetson_clocks(context: Context, wanted: bool) -> Plan:
    # On the device, where a restart clears both the file and the clocks; the name cannot be foreseen by others there.
    place = Place("jetson_clocks", f"/tmp/deepen-{secrets.token_hex(8)}.conf")  # noqa: S108
    return Plan((Step(place, "on" if wanted else "off"),))


def _settings(*pairs: tuple[str, str]) -> Plan:
    return Plan(tuple(Step(Place("setting", address), text) for address, text in pairs))


def _brightness(context: Context, wanted: int) -> Plan:
    return _settings(("system/screen_brightness_mode", "0"), ("system/screen_brightness", str(wanted)))


def _stay_awake(context: Context, wanted: bool) -> Plan:
    if not wanted:
        return _settings(("global/stay_on_while_plugged_in", "0"))
    # 7 is AC, USB and wireless; on an external supply nothing is plugged in, and only the timeout keeps it awake.
    return _settings(("global/stay_on_while_plugged_in", "7"), ("system/screen_off_timeout", _AWAKE_MS))


def _airplane(context: Context, wanted: bool) -> Plan:
    if wanted and context.network:
        cause = "the link itself runs over the device's network, which airplane mode would cut"
        return Plan(cause=cause, cure="connect over USB, or switch the other radios off by hand")
    return Plan((Step(Place("airplane"), str(int(wanted))),))


def _fixed(context: Context, wanted: bool) -> Plan:
    if 0 < context.identity.sdk < 30:
        return Plan(cause=f"it came with Android 11 (API level 30); the device has {context.identity.sdk}")
    return Plan((Step(Place("fixed_performance"), str(wanted).lower()),))


def _charging(context: Context, wanted: bool) -> Plan:
    files = context.shell.read(*CHARGING_NODES, root=True)
    for path, (stop, go) in CHARGING_NODES.items():
        if path in files.content:
            return Plan((Step(Place("file", path), go if wanted else stop),))
    closed = [f"{path}: {why}" for path, why in files.refused.items() if "No such" not in why]
    cure = "cut the USB supply at the hub, or feed the phone from the meter alone"
    if closed:
        return Plan(cause="; ".join(closed), cure=f"{_ROOT}, {cure}")
    return Plan(cause="the device has none of the files that are known to stop charging", cure=cure)


def _only(kind: str, name: str, plan: Callable[[Context, Any], Plan]) -> Callable[[Context, Any], Plan]:
    def planned(context: Context, wanted: Any) -> Plan:
        if context.identity.kind != kind:
            return Plan(cause=f"only {name} have it")
        return plan(context, wanted)

    return planned


_LIST = [
    Knob("power_mode", "nvpmodel's power mode", _mode, _only("jetson", "Jetsons", _power_mode), _ROOT),
    Knob("cores_online", "cores switched on", _cores, _online, _ROOT),
    Knob("governor", "what chooses the processor's clock", _word, _governor, f"{_ROOT}, or use fixed_performance"),
    Knob("frequency_hz", "the processor's clock", _clock, _frequency, f"{_ROOT}, or use fixed_performance"),
    Knob("gpu_governor", "what chooses the GPU's clock", _word, plan_gpu_governor, _ROOT),
    Knob("gpu_frequency_hz", "the GPU's clock", _one_clock, plan_gpu_clock, _ROOT),
    Knob("jetson_clocks", "all clocks at their highest", _flag, _only("jetson", "Jetsons", _jetson_clocks), _ROOT),
    Knob("fan", "speed of the fan", _byte, _fan, f"{_ROOT}; stop what else drives the fan (nvfancontrol)"),
    Knob("charging", "charging the battery", _flag, _only("android", "phones", _charging),
         f"{_ROOT}, cut the USB supply at the hub, or feed the phone from the meter alone"),
    Knob("stay_awake", "the screen's time-out", _flag, _only("android", "phones", _stay_awake),
         "allow USB debugging (security settings) in the developer options"),
    Knob("brightness", "brightness of the screen", _byte, _only("android", "phones", _brightness),
         "allow USB debugging (security settings) in the developer options"),
    Knob("fixed_performance", "clocks at a level the device can sustain", _flag, _only("android", "phones", _fixed),
         "nothing: the device has no such mode; watch its temperature instead"),
    Knob("airplane", "radios switched off", _flag, _only("android", "phones", _airplane),
         "connect over USB, or switch it on by hand in the quick settings"),
]  # fmt: skip

KNOBS: dict[str, Knob] = {knob.name: knob for knob in _LIST}
"""Knobs in the order they are set; they are restored in the opposite order."""


def check_wanted(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Check settings asked for by name.

    Returns:
        The values, in the order in which they are set.

    Raises:
        ConfigError: If there is no such setting, or a value is not one it can have.
    """
    for name in wanted:
        if name not in KNOBS:
            raise make_unknown_name_error("setting", name, KNOBS)
    checked = {}
    for name, knob in KNOBS.items():
        if name in wanted:
            try:
                checked[name] = knob.parse(wanted[name])
            except ValueError as error:
                raise ConfigError(f"setting '{name}' takes {error}, not {wanted[name]!r}") from error
    return checked
