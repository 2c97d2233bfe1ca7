"""Phones and boards for ``FakeShell``, with files and outputs in the form of recorded ones."""

from __future__ import annotations

from collections.abc import Sequence

from deepen.devices.types import CompletedCommand
from deepen.testing.shell import FakeShell, make_failing_program, make_printing_program

__all__ = ["make_fake_board", "make_fake_jetson", "make_fake_phone", "make_gpu_clock_files"]

_POLICY = "/sys/devices/system/cpu/cpufreq"


def _make_policy_files(name: str, cores: str, steps: Sequence[int], governor: str) -> dict[str, str]:
    low, high = str(min(steps)), str(max(steps))
    values = {
        "related_cpus": cores,
        "scaling_governor": governor,
        "scaling_available_governors": "ondemand powersave performance schedutil",
        "scaling_available_frequencies": " ".join(map(str, steps)),
        "scaling_cur_freq": low,
        "scaling_min_freq": low,
        "scaling_max_freq": high,
        "cpuinfo_min_freq": low,
        "cpuinfo_max_freq": high,
        "stats/time_in_state": "\n".join(f"{khz} {100 * i}" for i, khz in enumerate(steps)),
    }
    return {f"{_POLICY}/{name}/{key}": value for key, value in values.items()}


def _make_thermal_zone_files(*zones: tuple[str, int]) -> dict[str, str]:
    found = {}
    for i, (name, value) in enumerate(zones):
        found[f"/sys/class/thermal/thermal_zone{i}/type"] = name
        found[f"/sys/class/thermal/thermal_zone{i}/temp"] = str(value)
    return found


_COMMON = {
    "/proc/sys/kernel/random/boot_id": "boot-0",
    "/proc/loadavg": "0.10 0.20 0.30 1/500 999",
    "/proc/self/status": "Name:\tgrep\nCpus_allowed:\tff\nCpus_allowed_list:\t0-7",
    "/sys/devices/system/cpu/present": "0-7",
}

_THERMALSERVICE = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
Thermal Status: {status}
Cached temperatures:
\tTemperature{{mValue=31.0, mType=3, mName=skin-old, mStatus=0}}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{{mValue={cpu}, mType=0, mName=BIG, mStatus={status}}}
\tTemperature{{mValue=0.0, mType=1, mName=GPU, mStatus=0}}
\tTemperature{{mValue=29.5, mType=2, mName=battery, mStatus=0}}
\tTemperature{{mValue=33.2, mType=3, mName=VIRTUAL-SKIN, mStatus=0}}
\tTemperature{{mValue=3.95, mType=6, mName=vbat, mStatus=0}}
Current cooling devices from HAL:
\tCoolingDevice{{mValue=0, mType=2, mName=thermal-cpufreq-0}}
"""


def make_gpu_clock_files(folder: str, steps: Sequence[int], governor: str) -> dict[str, str]:
    """Files of a GPU's devfreq folder; clocks in hertz, ascending."""
    return {
        f"{folder}/governor": governor,
        f"{folder}/available_governors": f"{governor} userspace performance simple_ondemand",
        f"{folder}/cur_freq": str(steps[0]),
        f"{folder}/min_freq": str(steps[0]),
        f"{folder}/max_freq": str(steps[-1]),
        f"{folder}/available_frequencies": " ".join(map(str, steps)),
    }


def make_fake_phone(**changes: object) -> FakeShell:
    """Make a phone with three groups of cores, Android 13 and ``su``; keyword arguments replace fields."""
    shell = FakeShell(
        files={
            **_COMMON,
            **_make_policy_files("policy0", "0 1 2 3", (300000, 1200000, 1803000), "schedutil"),
            **_make_policy_files("policy4", "4 5", (400000, 1400000, 2253000), "schedutil"),
            **_make_policy_files("policy6", "6 7", (500000, 1800000, 2802000), "schedutil"),
            **_make_thermal_zone_files(("BIG", 36000), ("G3D", 35000), ("battery", 29500), ("broken", -274000)),
            "/sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0",
            "/sys/class/thermal/cooling_device0/cur_state": "0",
            "/sys/class/power_supply/battery/charging_enabled": "1",
        },
        properties={
            "ro.serialno": "1A2B3C",
            "ro.product.model": "Pixel 6",
            "ro.product.device": "oriole",
            "ro.build.version.sdk": "33",
            "ro.build.fingerprint": "google/oriole/oriole:13/TQ3A/1:user/release-keys",
        },
        settings={
            "system/screen_brightness_mode": "1",
            "system/screen_brightness": "128",
            "system/screen_off_timeout": "30000",
            "global/airplane_mode_on": "0",
        },
    )
    heat = {"status": 0, "cpu": "41.5"}
    shell.tools["fixed performance"] = "false"

    def dumpsys(argv: Sequence[str], root: bool) -> CompletedCommand:
        return (
            make_printing_program(_THERMALSERVICE.format(**heat))
            if argv[1] == "thermalservice"
            else make_failing_program("Can't find service")
        )

    def cmd(argv: Sequence[str], root: bool) -> CompletedCommand:
        if argv[1:3] == ["power", "set-fixed-performance-mode-enabled"]:
            shell.tools["fixed performance"] = argv[3]
            return make_printing_program()
        if argv[1:3] == ["connectivity", "airplane-mode"]:
            shell.settings["global/airplane_mode_on"] = "1" if argv[3] == "enable" else "0"
            return make_printing_program()
        return make_failing_program("cmd: Can't find service")

    shell.programs.update(dumpsys=dumpsys, cmd=cmd)
    for name, value in changes.items():
        setattr(shell, name, value)
    return shell


def make_fake_jetson(**changes: object) -> FakeShell:
    """Make a Jetson with ``sudo``, ``nvpmodel`` and ``jetson_clocks``; keyword arguments replace fields.

    1. Files: the board, two groups of cores, GPU and memory clocks, temperatures, fan and throttling counters.
    2. ``nvpmodel`` lists, reports and sets power modes; setting one resets the limits of all clocks.
    3. ``jetson_clocks`` shows, stores and restores the limits, or raises them to the maximum.
    """
    # 1. Files.
    steps = (115200, 729600, 1420800, 2201600)
    shell = FakeShell(
        files={
            **_COMMON,
            "/proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit",
            "/proc/device-tree/serial-number": "1421221000000",
            **_make_policy_files("policy0", "0 1 2 3", steps, "schedutil"),
            **_make_policy_files("policy4", "4 5 6 7", steps, "schedutil"),
            **make_gpu_clock_files(
                "/sys/class/devfreq/17000000.gpu", (306000000, 612000000, 1300500000), "nvhost_podgov"
            ),
            **make_gpu_clock_files("/sys/class/devfreq/31b0000.emc", (204000000, 3199000000), "userspace"),
            **{f"/sys/devices/system/cpu/cpu{i}/online": "1" for i in range(1, 8)},
            **_make_thermal_zone_files(("cpu-thermal", 47000), ("gpu-thermal", 45000), ("tj-thermal", 47500)),
            "/sys/class/hwmon/hwmon2/name": "pwmfan",
            "/sys/class/hwmon/hwmon2/pwm1": "66",
            "/sys/class/hwmon/hwmon3/name": "soctherm_oc",
            "/sys/class/hwmon/hwmon3/oc1_event_cnt": "0",
            "/sys/class/hwmon/hwmon3/oc3_event_cnt": "2",
        },
        way="sudo",
    )
    modes = {"0": "MAXN", "1": "MODE_15W", "2": "MODE_30W"}
    shell.tools["power mode"] = "2"
    stored: dict[str, dict[str, str]] = {}

    def limits() -> dict[str, str]:
        return {p: t for p, t in shell.files.items() if p.endswith(("scaling_min_freq", "scaling_max_freq"))}

    # 2. Power modes.
    def nvpmodel(argv: Sequence[str], root: bool) -> CompletedCommand:
        if argv[1] == "-p":
            return make_printing_program(
                "".join(f"NVPM VERB: POWER_MODEL: ID={n} NAME={name}\n" for n, name in modes.items())
            )
        if argv[1] == "-q":
            return make_printing_program(
                f"NV Power Mode: {modes[shell.tools['power mode']]}\n{shell.tools['power mode']}\n"
            )
        if not root:
            return make_failing_program("NVPM ERROR: this operation requires root")
        if argv[2] not in modes:
            return make_failing_program(f"NVPM ERROR: power mode {argv[2]} does not exist")
        shell.tools["power mode"] = argv[2]
        for path in limits():  # a mode sets limits of its own
            name = "cpuinfo_max_freq" if path.endswith("max_freq") else "cpuinfo_min_freq"
            shell.files[path] = shell.files[f"{path.rpartition('/')[0]}/{name}"]
        shell.files["/sys/class/devfreq/17000000.gpu/max_freq"] = "612000000"
        return make_printing_program()

    # 3. Clocks at their highest.
    def jetson_clocks(argv: Sequence[str], root: bool) -> CompletedCommand:
        if not root:
            return make_failing_program("Please run as root")
        if argv[1:2] == ["--show"]:
            rows = []
            for i in range(8):
                low, high = (shell.files[f"{_POLICY}/policy{i // 4 * 4}/scaling_{end}_freq"] for end in ("min", "max"))
                clocks = f"MinFreq={low} MaxFreq={high} CurrentFreq={low}"
                rows.append(f"cpu{i}: Online=1 Governor=schedutil {clocks} IdleStates: WFI=1 c7=1\n")
            return make_printing_program(
                "SOC family:tegra234  Machine:Jetson\n" + "".join(rows) + "NV Power Mode: MODE_30W\n"
            )
        if argv[1:2] == ["--store"]:
            stored[argv[2]] = limits()
            shell.files[argv[2]] = "stored"
            return make_printing_program()
        if argv[1:2] == ["--restore"]:
            if argv[2] not in stored or argv[2] not in shell.files:
                return make_failing_program(f"Error: {argv[2]} file not found!")
            shell.files.update(stored[argv[2]])
            return make_printing_program()
        for path in limits():
            shell.files[path] = shell.files[f"{path.rpartition('/')[0]}/cpuinfo_max_freq"]
        return make_printing_program()

    shell.programs.update(nvpmodel=nvpmodel, jetson_clocks=jetson_clocks)
    for name, value in changes.items():
        setattr(shell, name, value)
    return shell


def make_fake_board(**changes: object) -> FakeShell:
    """Make a Raspberry Pi 5 with ``sudo`` and ``vcgencmd``; keyword arguments replace fields."""
    shell = FakeShell(
        files={
            **_COMMON,
            "/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0",
            "/proc/device-tree/serial-number": "10000000abcdef01",
            "/sys/devices/system/cpu/present": "0-3",
            "/proc/self/status": "Name:\tgrep\nCpus_allowed_list:\t0-3",
            **_make_policy_files("policy0", "0 1 2 3", (1500000, 2000000, 2400000), "ondemand"),
            **_make_thermal_zone_files(("cpu-thermal", 52300)),
        },
        way="sudo",
    )
    shell.programs["vcgencmd"] = lambda argv, root: make_printing_program("throttled=0x50000\n")
    for name, value in changes.items():
        setattr(shell, name, value)
    return shell
