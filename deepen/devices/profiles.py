"""Read device profiles from ``devices/profiles`` and find the power figures of this machine's class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from deepen import catalog
from deepen.devices.settings.catalogue import check_settings
from deepen.devices.state.identity import Identity, recognise_profile
from deepen.devices.types import (
    CoreCluster,
    CpuPower,
    DeviceFact,
    DeviceProfile,
    DeviceState,
    PowerRail,
    RecognitionRule,
)
from deepen.errors import ConfigError

__all__ = ["detect_power", "find_profile_name", "list_profile_names", "load_profile"]

_FOLDER = "profiles"
_KEYS = {
    "id", "title", "soc", "link", "address", "meter", "runtimes", "supply_v", "cpu_mask", "governor",
    "max_temperature_c", "power", "match", "prepare", "cool_to_c", "sources", "cluster", "rail", "fact", "identify",
}  # fmt: skip
_IDENTIFY_KEYS = {"models", "codenames", "device_tree"}


def list_profile_names() -> list[str]:
    """List the names of the device profiles."""
    return catalog.list_names("devices", _FOLDER)


def _parse_power(name: str, data: Any) -> CpuPower:
    try:
        return CpuPower(
            id=name,
            idle_w=float(data["idle_w"]),
            full_w=float(data["full_w"]),
            cores=int(data["cores"]),
            source=str(data["source"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        what = "[power] needs idle_w, full_w, cores and source"
        raise ConfigError(f"device profile '{name}': {what} ({error})") from error


def _matches_rule(rule: Mapping[str, Any], state: DeviceState) -> bool:
    machines = rule.get("machine") or [state.machine]
    return state.machine in machines and re.search(str(rule.get("cpu", "")), state.cpu_model) is not None


def _parse_rows(name: str, data: Mapping[str, Any], table: str, keys: set[str]) -> list[dict[str, Any]]:
    """Parse an array of tables into rows with exactly these keys and their source in full.

    A source is written out in the row, or is a name in the table ``[sources]``.
    """
    rows = data.get(table, [])
    sources = data.get("sources", {})
    if not isinstance(rows, list) or not isinstance(sources, dict):
        raise ConfigError(f"device profile '{name}': write [[{table}]] for each {table}, and [sources] once")
    found = []
    for row in rows:
        if not isinstance(row, dict) or set(row) != keys:
            raise ConfigError(
                f"device profile '{name}': each [[{table}]] has {', '.join(sorted(keys))} and nothing else"
            )
        found.append({**row, "source": " ".join(str(sources.get(str(row["source"]), row["source"])).split())})
    return found


def _parse_identify(name: str, rule: Any) -> RecognitionRule:
    if not isinstance(rule, dict) or set(rule) - _IDENTIFY_KEYS:
        raise ConfigError(f"device profile '{name}': [identify] takes {', '.join(sorted(_IDENTIFY_KEYS))}")
    tree = str(rule.get("device_tree", ""))
    try:
        re.compile(tree)
    except re.error as error:
        raise ConfigError(
            f"device profile '{name}': identify.device_tree is no regular expression ({error})"
        ) from error
    return RecognitionRule(tuple(map(str, rule.get("models", ()))), tuple(map(str, rule.get("codenames", ()))), tree)


def _parse_prepare(name: str, wanted: Any) -> dict[str, Any]:
    if not isinstance(wanted, dict):
        raise ConfigError(f"device profile '{name}': [prepare] is a table of settings")
    try:
        return check_settings(wanted)
    except ConfigError as error:
        raise ConfigError(f"device profile '{name}', [prepare]: {error}") from error


def find_profile_name(identity: Identity) -> str:
    """Find the name of the profile that describes a device; empty if none or more than one does.

    Raises:
        ConfigError: If a profile is not readable.
    """
    rules = ((name, catalog.load_toml("devices", _FOLDER, name).get("identify")) for name in list_profile_names())
    return recognise_profile(
        identity, ((name, _parse_identify(name, rule)) for name, rule in rules if rule is not None)
    )


def detect_power(state: DeviceState) -> CpuPower:
    """Find the power figures of the class a machine belongs to, scaled to its number of cores.

    Args:
        state: Architecture, processor name and cores of the machine.

    Raises:
        ConfigError: If no profile matches (the shipped ``generic`` always does).
    """
    best: tuple[int, str, Mapping[str, Any]] | None = None
    for name in list_profile_names():
        data = catalog.load_toml("devices", _FOLDER, name)
        rule = data.get("match")
        if isinstance(rule, dict) and _matches_rule(rule, state):
            rank = int(rule.get("rank", 0))
            if best is None or rank > best[0]:
                best = (rank, name, data)
    if best is None:
        raise ConfigError("no profile in devices/profiles matches this machine; restore 'generic.toml' or add a class")
    return _parse_power(best[1], best[2].get("power")).scaled(state.cores)


def load_profile(name: str, state: DeviceState | None = None) -> DeviceProfile:
    """Read a device profile.

    Args:
        name: File name without suffix.
        state: State of the machine; given for the local link, so that power figures can be scaled to its cores
            or (``power = "detect"``) found.

    Raises:
        ConfigError: If there is no such profile or a field is wrong.
    """
    data = catalog.load_toml("devices", _FOLDER, name)
    extra = sorted(set(data) - _KEYS)
    if extra:
        known = ", ".join(sorted(_KEYS))
        raise ConfigError(f"device profile '{name}': unknown field {', '.join(extra)}; known: {known}")
    power: CpuPower | None = None
    if data.get("power") == "detect":
        power = None if state is None else detect_power(state)
    elif "power" in data:
        power = _parse_power(name, data["power"])
        power = power if state is None else power.scaled(state.cores)
    try:
        return DeviceProfile(
            id=str(data.get("id", name)),
            title=str(data.get("title", "")),
            soc=str(data.get("soc", "")) or (state.cpu_model if state else ""),
            link=str(data.get("link", "local")),
            meter=str(data.get("meter", "")),
            runtimes=tuple(str(r) for r in data.get("runtimes", ("onnxruntime",))),
            supply_v=float(data.get("supply_v", 0.0)),
            cpu_mask=tuple(int(c) for c in data.get("cpu_mask", ())),
            governor=str(data.get("governor", "")),
            max_temperature_c=float(data.get("max_temperature_c", float("inf"))),
            power=power,
            address=str(data.get("address", "")),
            prepare=_parse_prepare(name, data.get("prepare", {})),
            cool_to_c={str(k): float(v) for k, v in data.get("cool_to_c", {}).items()},
            clusters=tuple(
                CoreCluster(str(r["core"]), int(r["count"]), float(r["max_hz"]), r["source"])
                for r in _parse_rows(name, data, "cluster", {"core", "count", "max_hz", "source"})
            ),
            rails=tuple(
                PowerRail(str(r["name"]), str(r["what"]), r["source"])
                for r in _parse_rows(name, data, "rail", {"name", "what", "source"})
            ),
            facts=tuple(
                DeviceFact(str(r["name"]), str(r["value"]), r["source"])
                for r in _parse_rows(name, data, "fact", {"name", "value", "source"})
            ),
            identify=_parse_identify(name, data.get("identify", {})),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"device profile '{name}': {error}; correct devices/profiles/{name}.toml") from error
