"""Reading of meter profiles (``devices/meters/*.toml``), which describe an instrument to a generic driver."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepen import catalog
from deepen.errors import ConfigError
from deepen.meters.types import MeterSpec
from deepen.records import Accuracy

__all__ = ["ProfileTable", "get_unit_scale", "load_profile_table", "read_accuracy"]

_PREFIXES = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "\N{MICRO SIGN}": 1e-6,
    "\N{GREEK SMALL LETTER MU}": 1e-6,
    "m": 1e-3,
    "k": 1e3,
}
_BASES = {"power": ("W",), "current": ("A",), "voltage": ("V",), "energy": ("J", "Wh", "Ws"), "time": ("s",)}
_FACTORS = {"Wh": 3600.0}


def get_unit_scale(quantity: str, unit: str, where: str) -> float:
    """Return the SI units in one unit: 0.001 for ``mW``.

    Args:
        quantity: ``power``, ``current``, ``voltage``, ``energy`` or ``time``.
        unit: The unit in the profile.
        where: The profile and the table, for messages.

    Raises:
        ConfigError: If it is not a unit of the quantity.
    """
    for base in _BASES[quantity]:
        if unit.endswith(base) and unit[: -len(base)] in _PREFIXES:
            return _PREFIXES[unit[: -len(base)]] * _FACTORS.get(base, 1.0)
    known = ", ".join(f"{p}{_BASES[quantity][0]}" for p in ("", "m", "u", "n", "k"))
    raise ConfigError(f"{where}: '{unit}' is no unit of {quantity}", cure=f"use one of {known}")


class ProfileTable:
    """A table of a profile, read key by key; keys left over are refused.

    Attributes:
        where: The profile and the table, for messages.
    """

    def __init__(self, where: str, data: Mapping[str, Any]) -> None:
        """Take the table."""
        self.where = where
        self._data = dict(data)

    def text(self, key: str, default: str | None = None) -> str:
        """Take a text; required unless there is a default.

        Raises:
            ConfigError: If it is missing or not a text.
        """
        value = self._take(key, default)
        if not isinstance(value, str):
            raise ConfigError(f"{self.where}: {key} must be text", cure=f'write {key} = "..."')
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of texts, empty by default.

        Raises:
            ConfigError: If it is something else.
        """
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise ConfigError(f"{self.where}: {key} must be a list of texts", cure=f'write {key} = ["...", "..."]')
        return tuple(value)

    def number(self, key: str, default: float | None = None, *, above: float = 0.0) -> float:
        """Take a number above a limit; required unless there is a default.

        Raises:
            ConfigError: If it is missing, or not such a number.
        """
        given = key in self._data
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"{self.where}: {key} must be a number", cure=f"write {key} = 10.0")
        if given and not value > above:
            raise ConfigError(f"{self.where}: {key} must be above {above:g}, not {value:g}")
        return float(value)

    def pattern(self, key: str) -> re.Pattern[str] | None:
        """Take a regular expression; ``None`` if there is none.

        Raises:
            ConfigError: If it is not a valid one.
        """
        text = self.text(key, "")
        try:
            return re.compile(text) if text else None
        except re.error as error:
            raise ConfigError(f"{self.where}: {key} is no regular expression ({error})", cure="correct it") from error

    def table(self, key: str) -> ProfileTable:
        """Take a nested table, empty by default.

        Raises:
            ConfigError: If it is something else.
        """
        value = self._take(key, {})
        if not isinstance(value, dict):
            raise ConfigError(f"{self.where}: {key} must be a table", cure=f"write [...{key}]")
        return ProfileTable(f"{self.where}.{key}", value)

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the keys not taken yet."""
        return tuple(self._data)

    def end(self) -> None:
        """Refuse unknown keys.

        Raises:
            ConfigError: If a key is left.
        """
        if self._data:
            raise ConfigError(f"{self.where}: nothing is known of {', '.join(self._data)}", cure="correct the spelling")

    def _take(self, key: str, default: Any) -> Any:
        if key not in self._data and default is None:
            raise ConfigError(f"{self.where}: {key} is missing", cure="add it")
        return self._data.pop(key, default)


def load_profile_table(spec: MeterSpec, name: str) -> tuple[str, ProfileTable]:
    """Load a driver's table from the profile that a specification names.

    Args:
        spec: Its option ``profile`` is the name of a file in ``devices/meters``, or the path of a ``.toml`` file.
        name: Name of the table.

    Returns:
        Name of the profile, and the table.

    Raises:
        ConfigError: If there is no such profile, or it has no such table.
    """
    profile = spec.options.get("profile", "")
    if not profile:
        known = ", ".join(
            p for p in catalog.list_names("devices", "meters") if name in catalog.load_toml("devices", "meters", p)
        )
        raise ConfigError(
            f"meter '{spec.name}' needs a profile of the instrument",
            cure=f"add ?profile=FILE.toml, or ?profile=NAME of one in devices/meters: {known or 'none is there'}",
        )
    if profile.endswith(".toml"):
        data = _read_toml(Path(profile))
        profile = Path(profile).stem
    else:
        data = catalog.load_toml("devices", "meters", profile)
    if not isinstance(data.get(name), dict):
        raise ConfigError(f"meter profile '{profile}' has no table [{name}]", cure="it is for another driver")
    return profile, ProfileTable(f"meter profile '{profile}', [{name}]", data[name])


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read meter profile {file} ({error.strerror})", cure="correct its path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML ({error})", cure="correct the file") from error


def read_accuracy(table: ProfileTable) -> Accuracy:
    """Read the accuracy the maker states: limits in the profile become standard uncertainties (limit over sqrt(3)).

    Raises:
        ConfigError: If there are figures without a reference, or they are not numbers.
    """
    gain = table.number("reading", 0.0) / math.sqrt(3)
    offset_w = table.number("offset_w", 0.0) / math.sqrt(3)
    reference = table.text("reference", "")
    table.end()
    if (gain or offset_w) and not reference:
        raise ConfigError(f"{table.where}: figures need a source", cure='add reference = "..."')
    return Accuracy(gain, offset_w, reference)
