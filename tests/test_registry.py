"""One registry: ours and those of other packages by name, imported when asked for."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import deepen
from deepen import predictors
from deepen.cli import COMMANDS
from deepen.datasets.importers import IMPORTERS
from deepen.devices.local import RUNTIMES
from deepen.devices.registry import LINKS
from deepen.errors import ConfigError, MeterError
from deepen.meters.registry import DRIVERS, list_meters
from deepen.registry import Registry, import_target, make_lazy_names
from deepen.search.optimisers import OPTIMISERS
from deepen.spaces import SPACES

GROUP = "deepen.things"
AddPlugins = Callable[[Mapping[str, str]], None]
NAMES = st.text("abcdef-", min_size=1, max_size=8)


@pytest.fixture
def add_plugins(monkeypatch: pytest.MonkeyPatch) -> AddPlugins:
    """Install entry points of other packages: name -> target; all are in every group."""

    def add(targets: Mapping[str, str]) -> None:
        monkeypatch.setattr(
            "importlib.metadata.entry_points",
            lambda group: EntryPoints(EntryPoint(name, target, group) for name, target in targets.items()),
        )

    return add


@given(st.dictionaries(NAMES, st.just("os:sep")), NAMES)
def test_names_keep_their_order_and_unknown_ones_are_refused(ours: dict[str, str], asked: str) -> None:
    registry = Registry[str]("thing", ours)
    assert list(registry) == list(ours)
    assert dict(registry) == ours
    if asked in ours:
        assert registry.load(asked) == import_target("os:sep")
    else:
        with pytest.raises(ConfigError, match="unknown thing"):
            registry.load(asked)


@given(st.lists(NAMES, unique=True), st.lists(NAMES, unique=True))
def test_plugins_come_last_and_replace_none_of_ours(ours: list[str], theirs: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        points = EntryPoints(EntryPoint(name, "os:linesep", GROUP) for name in theirs)
        patch.setattr("importlib.metadata.entry_points", lambda group: points.select(group=group))
        registry = Registry[str]("thing", dict.fromkeys(ours, "os:sep"), GROUP)
        assert list(registry) == [*ours, *(name for name in theirs if name not in ours)]
        assert {name: registry[name] for name in registry} == dict(registry)
        assert all(registry[name] == "os:sep" for name in ours)


def test_near_misses_are_named() -> None:
    registry = Registry[object]("thing", {"adb": "os:sep", "ssh": "os:sep"})
    with pytest.raises(ConfigError, match="did you mean adb"):
        registry.load("adbb")
    with pytest.raises(ConfigError, match="did you mean remote"):
        registry.load("remoet", others=["remote"])


@pytest.mark.parametrize(
    "source",
    ["import no_such_package", "raise RuntimeError('it broke\\nin two lines ' + 500 * 'x')", "x = ", "THING = 1"],
)
@pytest.mark.parametrize("attribute", ["THING.absent", "OTHER"])
def test_a_broken_plugin_is_named_in_one_line(
    source: str, attribute: str, add_plugins: AddPlugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme_plugin.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    add_plugins({"acme": f"acme_plugin:{attribute}"})
    with pytest.raises(ConfigError) as caught:
        Registry[object]("thing", {}, GROUP).load("acme")
    text = str(caught.value)
    assert "plug-in thing 'acme'" in text
    assert "acme_plugin" in text
    assert len(text) < 400
    assert len(text.splitlines()) == 1
    sys.modules.pop("acme_plugin", None)


def test_a_plugin_that_explains_itself_is_heard(
    add_plugins: AddPlugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "frank_plugin.py").write_text("from deepen.errors import MeterError\nraise MeterError('plug it in')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    add_plugins({"frank": "frank_plugin:DRIVER"})
    with pytest.raises(MeterError, match="plug it in"):
        Registry[object]("thing", {}, GROUP).load("frank")


def test_an_own_module_that_is_missing_is_an_installation_to_repair() -> None:
    with pytest.raises(ConfigError, match=r"'old' cannot be loaded: .*'deepen.no_such_module'.*; reinstall deepen"):
        Registry[object]("thing", {"old": "deepen.no_such_module:THING"}).load("old")


def test_a_broken_plugin_takes_no_other_meter_with_it(add_plugins: AddPlugins) -> None:
    add_plugins({"acme": "no_such_package:DRIVER"})
    found = list_meters()
    assert [source.name for source in found] == [*DRIVERS.ours, "acme"]
    assert not found[-1].available
    assert "no_such_package" in found[-1].cause


@pytest.mark.parametrize("registry", [DRIVERS, LINKS, RUNTIMES, OPTIMISERS, SPACES], ids=lambda r: r.kind)
def test_everything_registered_can_be_imported(registry: Registry[object]) -> None:
    assert all(registry.load(name) is not None for name in registry.ours)
    assert len({name.lower() for name in registry.ours}) == len(registry.ours)


def test_commands_and_importers_can_be_imported() -> None:
    assert all(import_target(f"{module}:command") for module, _ in COMMANDS.values())
    assert all(import_target(f"deepen.datasets.importers.{item.module}:read") for item in IMPORTERS.values())


def test_lazy_names_are_imported_once_and_others_refused() -> None:
    module = types.ModuleType("lazy_package")
    module.__dict__["__all__"] = ["sep", "posix_path"]
    names = make_lazy_names(module.__dict__, {"sep": "os", "posix_path": "posixpath:"})
    module.__dict__["__getattr__"], module.__dict__["__dir__"] = names
    assert module.sep == "/"
    assert module.posix_path.basename("a/b") == "b"
    assert {"sep", "posix_path"} <= set(module.__dict__)
    assert dir(module) == ["posix_path", "sep"]
    with pytest.raises(AttributeError, match="module 'lazy_package' has no attribute 'other'"):
        _ = module.other


@pytest.mark.parametrize("package", [deepen, predictors], ids=lambda package: package.__name__)
def test_the_lazy_faces_offer_what_they_list(package: types.ModuleType) -> None:
    assert all(hasattr(package, name) for name in package.__all__)
    assert dir(package) == sorted(package.__all__)
