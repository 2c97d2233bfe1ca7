"""Registry of drivers, and opening of the power source that ``--meter`` names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from deepen import catalog
from deepen.errors import ConfigError, MeterError
from deepen.meters.sensor_files import SensorFiles
from deepen.meters.types import Availability, Driver, MachinePower, Meter, MeterContext, MeterSpec
from deepen.registry import Registry

__all__ = ["DRIVERS", "explain_unavailable", "list_meters", "load_driver", "open_meter"]

DRIVERS: Registry[Driver] = Registry(
    "meter",
    {
        "rapl": "deepen.meters.onboard.rapl:DRIVER",
        "ina3221": "deepen.meters.onboard.ina3221:DRIVER",
        "rpi-pmic": "deepen.meters.onboard.rpi_pmic:DRIVER",
        "odpm": "deepen.meters.onboard.odpm:DRIVER",
        "nvml": "deepen.meters.onboard.nvml:DRIVER",
        "battery": "deepen.meters.onboard.battery:DRIVER",
        "hwmon": "deepen.meters.onboard.hwmon:DRIVER",
        "lpm01a": "deepen.meters.instruments.lpm01a.driver:DRIVER",
        "ppk2": "deepen.meters.instruments.ppk2.driver:DRIVER",
        "powersensor3": "deepen.meters.instruments.powersensor3.driver:DRIVER",
        "lvpm": "deepen.meters.instruments.monsoon.lvpm:DRIVER",
        "hvpm": "deepen.meters.instruments.monsoon.hvpm:DRIVER",
        "joulescope": "deepen.meters.instruments.joulescope.driver:DRIVER",
        "otii": "deepen.meters.instruments.otii:DRIVER",
        "scpi": "deepen.meters.instruments.scpi:DRIVER",
        "line": "deepen.meters.instruments.text_lines.driver:DRIVER",
        "cpu-model": "deepen.meters.cpu_model:DRIVER",
    },
    group="deepen.meters",
)
"""Driver name -> ``module:attribute``, in the order in which sources are tried; those of other packages come last."""


def load_driver(name: str) -> Driver:
    """Import a driver.

    Raises:
        ConfigError: If there is none of that name; the message has the nearest names.
    """
    return DRIVERS.load(name, catalog.list_names("devices", "meters"))


def _probe_driver(name: str, context: MeterContext) -> Availability:
    """Probe one source; one whose plug-in is broken counts as unavailable, without affecting the others."""
    try:
        return load_driver(name).probe(context)
    except ConfigError as error:
        if name in DRIVERS.ours:
            raise
        return Availability(name, False, "", "measured", cause=str(error))


def list_meters(context: MeterContext | None = None) -> list[Availability]:
    """Probe which sources are available here, in the order in which they are tried."""
    return [_probe_driver(name, context or MeterContext()) for name in DRIVERS]


def explain_unavailable(found: Iterable[Availability]) -> list[tuple[str, str, str]]:
    """Collect the reasons why sources are unavailable, grouped by reason.

    Returns:
        ``(names, cause, cure)``; a cure for several sources has ``NAME`` in place of their names.
    """
    groups: dict[tuple[str, str], list[Availability]] = {}
    for source in found:
        if not source.available:
            groups.setdefault((source.cause, source.cure.replace(source.name, "NAME")), []).append(source)
    return [
        (", ".join(s.name for s in group), cause, cure if len(group) > 1 else group[0].cure)
        for (cause, cure), group in groups.items()
    ]


def _resolve_meter_spec(text: str) -> MeterSpec:
    spec = MeterSpec.parse(text)
    if spec.name in DRIVERS or spec.name not in catalog.list_names("devices", "meters"):
        return spec
    data = catalog.load_toml("devices", "meters", spec.name)
    if not isinstance(data.get("meter"), str):
        raise ConfigError(
            f"meter profile '{spec.name}' has no field 'meter'", cure='write meter = "NAME[:PORT][?key=value]"'
        )
    base = MeterSpec.parse(data["meter"])
    return MeterSpec(base.name, spec.port or base.port, {**base.options, **spec.options})


def open_meter(
    spec: str | None = None,
    *,
    power: MachinePower | None = None,
    pid: Callable[[], int | None] | None = None,
    root: Path = Path("/"),
    link: SensorFiles | None = None,
) -> Meter:
    """Open a power source.

    Args:
        spec: ``NAME[:PORT][?key=value]`` or a profile in ``devices/meters``; ``None`` or empty for the best one here:
            RAPL, a discharging battery's gauge, else the model. NVML is used only when it is named, because workloads
            here run on the processor.
        power: Idle and full-load figures of the machine, for the modelled source.
        pid: Returns the worker's process id, so that the modelled source counts the worker alone.
        root: Folder that holds ``/sys`` and ``/proc``; another root is for tests.
        link: Files and commands of the device if it is not this machine.

    Raises:
        ConfigError: If the name or an option is unknown.
        MeterError: If the source does not answer; the message has the cure.
    """
    context = MeterContext(power, pid, root, link)
    if spec:
        parsed = _resolve_meter_spec(spec)
        return load_driver(parsed.name).open(parsed, context)
    reasons: list[str] = []
    for name in DRIVERS:
        try:
            candidate = load_driver(name)
        except ConfigError as error:
            reasons.append(str(error))
            continue
        if not candidate.automatic:
            continue
        found = candidate.probe(context)
        if found.available:
            return candidate.open(MeterSpec(name), context)
        reasons.append(f"{name}: {found.cause}")
    reason = "; ".join(reasons)
    if link is not None:
        raise MeterError(
            f"the device measures no power by itself ({reason})",
            cure="name the instrument it is connected to: --meter NAME:PORT ('deepen meter list')",
        )
    raise MeterError(f"no power source here ({reason})", cure="see 'deepen meter list'")
