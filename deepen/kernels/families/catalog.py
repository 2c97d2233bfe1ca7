"""Kernel families: names, operators and parameters.

A family is one TOML file in ``kernels/families``; the code that reads a family's parameters off a graph and builds it
again is in :mod:`deepen.kernels.families`, under the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

from deepen import catalog
from deepen.errors import ConfigError, make_unknown_name_error
from deepen.graph.types import DTYPE_BYTES

__all__ = ["FamilyParameter", "KernelFamily", "check_params", "complete_params", "get_family", "load_families"]

_TYPES = ("int", "ints", "shape", "shapes", "bool", "str", "dtype")


@dataclass(frozen=True, slots=True)
class FamilyParameter:
    """Type, default and allowed values of one parameter of a family.

    Attributes:
        name: Name inside ``Kernel.params``.
        type: ``int``, ``ints`` (list), ``shape`` (list of sizes), ``shapes`` (list of shapes), ``bool``,
            ``str``, ``dtype``.
        about: One line for a reader.
        default: Value used where a configuration leaves it out; ``None`` where it must be given.
        min: Least value of an integer or of each member of a list.
        choices: Allowed values of a string or an integer; empty for any.
    """

    name: str
    type: str
    about: str
    default: Any = None
    min: int | None = None
    choices: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True)
class KernelFamily:
    """One kernel family.

    Attributes:
        name: Canonical name, for example ``conv-bn-relu``.
        title: Readable name.
        about: Description of the family.
        ops: Operator types it is made of, from ONNX and from runtimes.
        params: Parameter names, in order.
        features: Names of the features its regressor uses.
        sampling: The ``[sampling]`` table of its file.
        schema: Parameter name -> :class:`FamilyParameter`.
    """

    name: str
    title: str
    about: str
    ops: tuple[str, ...]
    params: tuple[str, ...]
    features: tuple[str, ...]
    sampling: Mapping[str, Any]
    schema: Mapping[str, FamilyParameter] = field(default_factory=dict)


def _parse_param(family_name: str, name: str, table: Mapping[str, Any]) -> FamilyParameter:
    kind = table.get("type")
    unknown = set(table) - {"type", "about", "default", "min", "choices"}
    if kind not in _TYPES or unknown or not table.get("about"):
        raise ConfigError(
            f"kernels/families/{family_name}.toml: '{name}' needs an about line and a type ({', '.join(_TYPES)})"
            + (f" and has the unknown field {', '.join(sorted(unknown))}" if unknown else "")
        )
    return FamilyParameter(
        name, str(kind), str(table["about"]), table.get("default"), table.get("min"), tuple(table.get("choices", ()))
    )


def _parse_family(name: str, table: Mapping[str, Any]) -> KernelFamily:
    missing = [key for key in ("title", "about", "ops", "params", "features", "sampling") if key not in table]
    if missing:
        raise ConfigError(f"kernels/families/{name}.toml: lacks {', '.join(missing)}; add what is missing")
    schema = {key: _parse_param(name, key, value) for key, value in table["params"].items()}
    return KernelFamily(
        name=name,
        title=str(table["title"]),
        about=str(table["about"]),
        ops=tuple(table["ops"]),
        params=tuple(schema),
        features=tuple(table["features"]),
        sampling=MappingProxyType(dict(table["sampling"])),
        schema=MappingProxyType(schema),
    )


@cache
def load_families() -> Mapping[str, KernelFamily]:
    """Read every family of ``kernels/families``.

    Returns:
        Family by name, sorted by name.

    Raises:
        ConfigError: If a file is not TOML or lacks something.
    """
    names = catalog.list_names("kernels", "families")
    found = {name: _parse_family(name, catalog.load_toml("kernels", "families", name)) for name in names}
    if not found:
        raise ConfigError(f"no kernel family under {catalog.find_path('kernels', 'families')}; check DEEPEN_CATALOG")
    return MappingProxyType(found)


def get_family(name: str) -> KernelFamily:
    """Look a family up.

    Raises:
        ConfigError: If there is none of that name (with the nearest names).
    """
    families = load_families()
    if name not in families:
        raise make_unknown_name_error("kernel family", name, families)
    return families[name]


def _to_json_value(value: Any) -> Any:
    """Turn tuples and numpy scalars into what JSON would give back."""
    if isinstance(value, str | bool) or value is None:
        return value
    if isinstance(value, list | tuple):
        return [_to_json_value(v) for v in value]
    if hasattr(value, "item"):
        return value.item()
    return value


def complete_params(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Put parameters in canonical form: file order, defaults filled in, tuples as lists.

    Args:
        name: Family name.
        params: Some or all parameters.

    Raises:
        ConfigError: If a parameter is unknown to the family, or one without default is missing.
    """
    spec = get_family(name)
    unknown = [key for key in params if key not in spec.schema]
    if unknown:
        raise make_unknown_name_error(f"parameter of {name}", unknown[0], spec.params)
    done = {}
    for key, param in spec.schema.items():
        if key in params:
            done[key] = _to_json_value(params[key])
        elif param.default is not None:
            done[key] = _to_json_value(param.default)
        else:
            raise ConfigError(f"{name}: parameter '{key}' is missing ({param.about}); give it")
    return done


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _find_param_problem(param: FamilyParameter, value: Any) -> str | None:
    least = param.min
    if param.choices and value not in param.choices:
        return f"must be one of {', '.join(map(str, param.choices))}"
    match param.type:
        case "int":
            if not _is_int(value):
                return "must be an integer"
            return f"must be at least {least}" if least is not None and value < least else None
        case "bool":
            return None if isinstance(value, bool) else "must be true or false"
        case "dtype":
            return None if value in DTYPE_BYTES else f"must be one of {', '.join(DTYPE_BYTES)}"
        case "str":
            return None if isinstance(value, str) else "must be a string"
        case "shapes":
            if not isinstance(value, list) or not all(isinstance(s, list) for s in value):
                return "must be a list of shapes"
            flat = [v for shape in value for v in shape]
        case _:
            if not isinstance(value, list):
                return "must be a list of integers"
            flat = value
    if not all(_is_int(v) for v in flat):
        return "must hold integers only"
    if least is None and param.type in ("shape", "shapes"):
        least = 1
    return f"must hold values of at least {least}" if least is not None and any(v < least for v in flat) else None


def check_params(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Complete parameters and check each against its type, least value and choices.

    Raises:
        ConfigError: Naming the parameter and what it must be.
    """
    done = complete_params(name, params)
    for key, value in done.items():
        problem = _find_param_problem(get_family(name).schema[key], value)
        if problem:
            raise ConfigError(f"{name}: parameter '{key}' {problem}, not {value!r}")
    return done
