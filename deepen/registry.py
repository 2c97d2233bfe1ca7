"""Things by name that are imported when they are asked for: ours, and those that other packages add.

A target is ``module:attribute``. Another package adds one with an entry point of the registry's group; it cannot take
the place of one of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

from deepen.errors import ConfigError, DeepenError, make_unknown_name_error

__all__ = ["Registry", "import_target", "make_lazy_names"]

_Item = TypeVar("_Item")


def import_target(target: str) -> Any:
    """Import ``module:attribute``, or a module where no attribute is named.

    Raises:
        ImportError: If the module is not installed or cannot be imported.
        AttributeError: If it has no such attribute.
    """
    module, _, attribute = target.partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


class Registry(Mapping[str, str], Generic[_Item]):
    """Name -> target: ours in their order, then those of the entry-point group.

    Looking and listing import nothing.
    """

    def __init__(self, kind: str, ours: Mapping[str, str], group: str = "") -> None:
        """Say what is registered.

        Args:
            kind: What a name stands for, for messages: ``runtime``.
            ours: Name -> ``module:attribute``.
            group: Entry-point group through which other packages add to it; empty for none.
        """
        self.kind = kind
        self.ours = dict(ours)
        self.group = group

    def __getitem__(self, name: str) -> str:
        """Target of a name."""
        return self.ours[name] if name in self.ours else {e.name: e.value for e in self._list_entry_points()}[name]

    def __iter__(self) -> Iterator[str]:
        """Names: ours in their order, then those of other packages."""
        return iter(dict.fromkeys((*self.ours, *(e.name for e in self._list_entry_points()))))

    def __len__(self) -> int:
        """Number of names."""
        return len(tuple(iter(self)))

    def check_name(self, name: str, others: Iterable[str] = ()) -> None:
        """Refuse a name that is not registered.

        Args:
            name: The name.
            others: Further names that would have been taken in its place, for the message.

        Raises:
            ConfigError: With the nearest names.
        """
        if name not in self:
            raise make_unknown_name_error(self.kind, name, [*self, *others])

    def load(self, name: str, others: Iterable[str] = ()) -> _Item:
        """Import what a name stands for.

        Args:
            name: The name.
            others: Further names that would have been taken in its place, for the message.

        Raises:
            ConfigError: If there is none of that name (with the nearest names), or its module cannot be imported.
        """
        self.check_name(name, others)
        target = self[name]
        try:
            return cast(_Item, import_target(target))
        except DeepenError:
            raise
        except Exception as error:
            if name not in self.ours:
                raise self._make_plugin_error(name, target, error) from error
            if not isinstance(error, ModuleNotFoundError):
                raise
            missing = f"the Python module '{error.name}' is missing"
            raise ConfigError(f"'{name}' cannot be loaded: {missing}; reinstall deepen") from error

    def _list_entry_points(self) -> Iterable[Any]:
        if not self.group:
            return ()
        from importlib.metadata import entry_points

        return entry_points(group=self.group)

    def _make_plugin_error(self, name: str, target: str, error: Exception) -> ConfigError:
        """Name a plug-in that cannot be imported, and the package it came with."""
        owner = next((e.dist for e in self._list_entry_points() if e.name == name), None)
        package = "" if owner is None else str(owner.metadata["Name"])
        why = f"{type(error).__name__}: {error}"
        cure = f"pip uninstall {package}" if package else "remove the package that adds it"
        return ConfigError(
            f"the plug-in {self.kind} '{name}' cannot be loaded from {target[:80]} ({why[:160]}); "
            f"correct it, or do without: {cure}"
        )


def make_lazy_names(
    namespace: dict[str, Any], targets: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` of a package whose public names are imported on first use (PEP 562).

    Args:
        namespace: The package's ``globals()``, with ``__all__``.
        targets: Public name -> ``module`` that has it, or ``module:`` for the module itself.
    """

    def load_name(name: str) -> Any:
        if name not in targets:
            raise AttributeError(f"module '{namespace['__name__']}' has no attribute {name!r}")
        target = targets[name]
        namespace[name] = import_target(target if target.endswith(":") else f"{target}:{name}")
        return namespace[name]

    return load_name, lambda: sorted(namespace["__all__"])
