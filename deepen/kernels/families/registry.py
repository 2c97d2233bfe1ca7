"""Family definitions by name, in the order in which their readers are tried."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from deepen.errors import ConfigError
from deepen.kernels.families.definition import FamilyDefinition
from deepen.registry import import_target

__all__ = ["get_family_definition", "load_family_definitions", "map_operators_to_readers"]

_MODULES = (
    "multi_node", "attention", "quantised", "convolution", "matrix_product", "recurrent", "normalisation", "pooling",
    "elementwise_unary", "elementwise_binary", "concat_split", "data_movement",
    "rotary_embedding",
)  # fmt: skip
"""Modules in reading order: families of many nodes before the families of their parts."""


@cache
def load_family_definitions() -> Mapping[str, FamilyDefinition]:
    """Load the definition of every family, by name, in reading order."""
    found: dict[str, FamilyDefinition] = {}
    for name in _MODULES:
        for item in import_target(f"deepen.kernels.families.{name}:FAMILY_DEFINITIONS"):
            found[item.family] = item
    return found


def get_family_definition(family: str) -> FamilyDefinition:
    """Anatomy of a family.

    Raises:
        ConfigError: If the family has none (``other``, or a TOML file without code).
    """
    found = load_family_definitions().get(family)
    if found is None:
        raise ConfigError(f"kernel family '{family}' has no anatomy and cannot be built; pick another family")
    return found


@cache
def map_operators_to_readers() -> Mapping[str, tuple[FamilyDefinition, ...]]:
    """Operator type (without domain) -> anatomies whose family's ``ops`` name it, in reading order."""
    from deepen.kernels.families.catalog import load_families

    families = load_families()
    found: dict[str, list[FamilyDefinition]] = {}
    for name, item in load_family_definitions().items():
        for op in families[name].ops if name in families else ():
            found.setdefault(op, []).append(item)
    return {op: tuple(items) for op, items in found.items()}
