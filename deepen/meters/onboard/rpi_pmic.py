"""Raspberry Pi 5: the power management chip's converters, through ``vcgencmd pmic_read_adc``.

The firmware prints one line per channel, ``VDD_CORE_A current(7)=0.75012000A`` or ``VDD_CORE_V volt(15)=0.72178200V``.
A rail's power is the product of the channels of the same name; their numbers do not correspond. ``EXT5V`` and ``BATT``
have no current. Loads on the 5 V input itself (USB, the pins, the fan) are in no rail, nor are the losses of the
converters, so the sum is less than the power of the supply. One reading keeps the firmware busy for about 23 ms
(ml-energy/zeus, ``device/machine/rpi.py``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from deepen.errors import ConfigError, MeterError
from deepen.meters.onboard.polling import make_polled_meter, parse_names
from deepen.meters.sensor_files import SensorFiles
from deepen.meters.types import Availability, Driver, Meter, MeterContext, MeterSpec

__all__ = ["DRIVER", "parse_pmic_adc"]

_ARGV = ("vcgencmd", "pmic_read_adc")
_POLL_S = 0.1

_CORE_STEP_A = 0.00893
"""Step of the core's current [derived: recorded readings are its multiples], far above those of the other rails."""

_LINE = re.compile(r"^[ \t]*(\S+)_([AV])[ \t]+(?:current|volt)\(\d+\)=(\S+?)\2[ \t\r]*$", re.MULTILINE)


def parse_pmic_adc(output: str) -> dict[str, tuple[float, float]]:
    """Parse the output of ``vcgencmd pmic_read_adc``.

    Returns:
        Rail -> (current in amperes, voltage in volts), for the rails that have both; ``nan`` for a value that is not a
        number.
    """
    channels: dict[tuple[str, str], float] = {}
    for rail, kind, value in _LINE.findall(output.replace("\x00", "\n")):
        try:
            channels[rail, kind] = float(value)
        except ValueError:
            channels[rail, kind] = math.nan
    return {r: (a, channels[r, "V"]) for (r, kind), a in channels.items() if kind == "A" and (r, "V") in channels}


def _read_rails(files: SensorFiles) -> dict[str, tuple[float, float]]:
    try:
        done = files.run(_ARGV)
    except FileNotFoundError as error:
        raise MeterError(
            "there is no vcgencmd here",
            subject="rpi-pmic",
            cure="run on a Raspberry Pi 5 with Raspberry Pi OS (sudo apt install raspi-utils)",
        ) from error
    except OSError as error:
        raise MeterError(f"vcgencmd {error.strerror or error}", subject="rpi-pmic", cure="try again") from error
    answer = " ".join(f"{done.stderr} {done.stdout}".split())
    if "vcio" in answer or "VCHI" in answer:
        raise MeterError(
            "no access to /dev/vcio", subject="rpi-pmic", cure="sudo usermod -aG video $USER, then log in again"
        )
    rails = parse_pmic_adc(done.stdout)
    if done.code != 0 or not rails:
        raise MeterError(
            f"vcgencmd pmic_read_adc reports no rail with current and voltage ({answer[:60] or 'no output'})",
            subject="rpi-pmic",
            cure="it takes a Raspberry Pi 5",
        )
    return rails


def _sum_power_w(rails: dict[str, tuple[float, float]], names: Sequence[str]) -> float:
    missing = [name for name in names if name not in rails]
    if missing:
        raise MeterError(f"rail {missing[0]} is missing from the reading", subject="rpi-pmic", cure="measure again")
    return sum(rails[name][0] * rails[name][1] for name in names)


def _probe(context: MeterContext) -> Availability:
    try:
        rails = _read_rails(context.files)
    except MeterError as error:
        return Availability("rpi-pmic", False, "", "measured", error.cause, error.cure)
    detail = f"{len(rails)} rails; without USB, the 5 V pins and the converters' losses"
    return Availability("rpi-pmic", True, detail, "measured")


def _open(spec: MeterSpec, context: MeterContext) -> Meter:
    spec.only()
    files = context.files
    rails = _read_rails(files)
    names = parse_names(spec)
    for name in names:
        if name not in rails:
            raise ConfigError(
                f"meter 'rpi-pmic:{spec.port}': there is no rail '{name}'", cure=f"found: {', '.join(rails)}"
            )
    chosen = names or list(rails)
    what = "+".join(names) if names else f"{len(chosen)} rails, without what hangs on the 5 V input"
    core_v = rails["VDD_CORE"][1] if "VDD_CORE" in chosen else 0.0
    return make_polled_meter(
        "rpi-pmic",
        f"rpi-pmic {what}",
        lambda: _sum_power_w(_read_rails(files), chosen),
        update_s=0.0,
        poll_s=_POLL_S,
        resolution_w=_CORE_STEP_A * core_v,
    )


DRIVER = Driver("rpi-pmic", "Raspberry Pi 5 power management chip", _probe, _open, automatic=True)
