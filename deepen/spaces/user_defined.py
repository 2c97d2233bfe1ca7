"""A user's own space: a Python function that yields networks.

::

    def networks():
        for depth in (4, 8, 12):
            for width in (16, 32):
                yield {"depth": depth, "width": width}, make_onnx(depth, width)

Each item is a name or a dict of parameters, with an ONNX model (or the path of a file). The function is called again
whenever networks are needed, and has to yield the same ones in the same order.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepen.errors import ConfigError, DeepenError
from deepen.graph.types import Graph
from deepen.spaces.graph_hash import hash_graph
from deepen.spaces.space import SearchSpace

if TYPE_CHECKING:
    import onnx

__all__ = ["GeneratedSpace", "load_callable"]


def load_callable(text: str) -> Callable[[], Iterable[Any]]:
    """Load ``path/to/file.py:function`` (or ``module:function``). This runs the code of that file.

    Raises:
        ConfigError: If there is no such file or function, or the file fails.
    """
    place, _, function = text.rpartition(":")
    if not place or not function.isidentifier():
        raise ConfigError(f"'{text}' names no function; write path/to/file.py:function")
    try:
        if place.endswith(".py"):
            path = Path(place).resolve()
            spec = importlib.util.spec_from_file_location(f"_deepen_space_{path.stem}", path)
            if spec is None or spec.loader is None or not path.is_file():
                raise ConfigError(f"{place}: no such file; write path/to/file.py:function")
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except DeepenError:
        raise
    except Exception as error:
        raise ConfigError(f"{place} cannot be loaded: {type(error).__name__}: {error}; correct it") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ConfigError(f"{place} has no function '{function}'; name one that yields networks")
    return found  # type: ignore[no-any-return]


class GeneratedSpace(SearchSpace):
    """Search space of the networks that a function yields.

    Attributes:
        repeated: Architectures left out because they are the same network as an earlier one: name -> earlier name.
    """

    def __init__(self, source: str | Callable[[], Iterable[Any]], name: str | None = None) -> None:
        """Run the function once and index its networks.

        Args:
            source: ``path/to/file.py:function``, or the function.
            name: Name of the space; default: the source.

        Raises:
            ConfigError: If the function fails or yields something else.
            GraphError: If a network cannot be taken as a graph.
        """
        self._make = load_callable(source) if isinstance(source, str) else source
        self.name = name or (source if isinstance(source, str) else str(getattr(source, "__qualname__", "generated")))
        self._archs: list[str] = []
        self._keys: dict[str, str] = {}
        self._place: dict[str, int] = {}
        self.repeated: dict[str, str] = {}
        parameters: list[Mapping[str, Any]] = []
        first: dict[str, str] = {}
        for place, (arch, given, model) in enumerate(self._items()):
            if arch in self._keys or arch in self.repeated:
                raise ConfigError(f"{self.name} yields '{arch}' twice; give each network a name of its own")
            key = hash_graph(_make_graph(model))
            if key in first:
                self.repeated[arch] = first[key]
                continue
            first[key] = arch
            self._archs.append(arch)
            self._keys[arch] = key
            self._place[arch] = place
            parameters.append(given)
        if not self._archs:
            raise ConfigError(f"{self.name} yields no network")
        self._index(parameters)

    def _index(self, parameters: Sequence[Mapping[str, Any]]) -> None:
        names = list(dict.fromkeys(itertools.chain.from_iterable(parameters)))
        values = {name: list(dict.fromkeys(str(p.get(name)) for p in parameters)) for name in names}
        names = [name for name in names if len(values[name]) > 1]
        if not names:  # networks with names only: one position that names them all
            self.levels = (len(self._archs),)
            self._codes: dict[str, tuple[int, ...]] = {arch: (i,) for i, arch in enumerate(self._archs)}
        else:
            self.levels = tuple(len(values[name]) for name in names)
            self._codes = {
                arch: tuple(values[name].index(str(p.get(name))) for name in names)
                for arch, p in zip(self._archs, parameters, strict=True)
            }
        self._found: dict[tuple[int, ...], str] = {codes: arch for arch, codes in self._codes.items()}

    def _items(self) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
        try:
            for number, item in enumerate(self._make()):
                if not (isinstance(item, tuple | list) and len(item) == 2):
                    raise ConfigError(f"{self.name}: item {number} is no pair of name (or parameters) and ONNX model")
                label, model = item
                given = dict(label) if isinstance(label, Mapping) else {"name": str(label)}
                arch = ",".join(f"{k}={v}" for k, v in given.items()) if isinstance(label, Mapping) else str(label)
                if not arch or not arch.isprintable():
                    raise ConfigError(f"{self.name}: item {number} has no printable name")
                yield arch, given, model
        except DeepenError:
            raise
        except Exception as error:
            raise ConfigError(f"{self.name} failed: {type(error).__name__}: {error}; correct it") from error

    def canonical(self, arch: str) -> str:
        """See :class:`SearchSpace`."""
        arch = self.repeated.get(arch, arch)
        if arch not in self._keys:
            raise ConfigError(f"'{arch}' is no network of {self.name}; it has {', '.join(self._archs[:3])}, ...")
        return arch

    def encode(self, arch: str) -> tuple[int, ...]:
        """See :class:`SearchSpace`."""
        return self._codes[self.canonical(arch)]

    def decode(self, codes: Sequence[int]) -> str | None:
        """See :class:`SearchSpace`."""
        return self._found.get(tuple(int(c) for c in codes))

    def key(self, arch: str) -> str:
        """See :class:`SearchSpace`: a hash of structure and shapes."""
        return self._keys[self.canonical(arch)]

    def members(self) -> Sequence[str]:
        """See :class:`SearchSpace`."""
        return list(self._archs)

    def model(self, arch: str) -> onnx.ModelProto:
        """See :class:`SearchSpace`."""
        import onnx

        wanted = self._place[self.canonical(arch)]
        _, _, model = next(itertools.islice(self._items(), wanted, None), ("", {}, None))
        if model is None:
            raise ConfigError(f"{self.name} no longer yields '{arch}'; it has to yield the same networks every time")
        return onnx.load(str(model)) if isinstance(model, str | Path) else model

    def graphs(self, archs: Iterable[str]) -> Iterator[Graph]:
        """See :class:`SearchSpace`; the function runs once."""
        wanted = [self.canonical(arch) for arch in archs]
        if wanted == sorted(wanted, key=self._place.__getitem__):
            left = iter(wanted)
            current = next(left, None)
            for arch, _, model in self._items():
                while arch == current:
                    yield _make_graph(model)
                    current = next(left, None)
            if current is not None:
                raise ConfigError(f"{self.name} no longer yields '{current}'; it has to yield the same every time")
        else:
            for arch in wanted:
                yield _make_graph(self.model(arch))


def _make_graph(model: Any) -> Graph:
    from deepen.graph import load_graph, load_graph_from_proto

    return load_graph(model) if isinstance(model, str | Path) else load_graph_from_proto(model)
