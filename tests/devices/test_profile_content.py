"""Profiles of phones and boards: everything they say has a source, and nothing is wanted that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepen.devices import DeviceProfile, list_profile_names, load_profile
from deepen.devices.profiles import find_profile_name
from deepen.devices.settings.catalogue import SETTING_DEFINITIONS
from deepen.devices.state.identity import Identity
from deepen.devices.types import CoreCluster, DeviceFact, PowerRail, RecognitionRule
from deepen.errors import ConfigError

PHONES = [
    "oneplus-8-pro", "redmi-note-8", "huawei-mate-40-pro", "huawei-p40-pro", "huawei-p40-lite", "huawei-p40-lite-e",
    "redmi-k30-ultra", "moto-one-macro", "pixel-4", "pixel-5", "pixel-6", "pixel-7", "pixel-8",
]  # fmt: skip
BOARDS = [
    "raspberry-pi-4", "raspberry-pi-5", "jetson-nano", "jetson-tx2", "jetson-agx-xavier", "jetson-agx-orin",
    "jetson-orin-nano",
]  # fmt: skip
CORES = {"huawei-p40-lite": (2, 6), "jetson-agx-orin": (12,), "jetson-orin-nano": (6,), "pixel-8": (1, 4, 4)}


def test_the_named_phones_and_boards_are_there() -> None:
    assert set(PHONES) | set(BOARDS) == {name for name in list_profile_names() if load_profile(name).link != "local"}


@pytest.mark.parametrize("name", PHONES + BOARDS)
def test_a_profile_says_what_it_knows_and_from_whom(name: str) -> None:
    profile = load_profile(name)
    assert profile.id == name
    assert profile.title and profile.soc
    assert profile.link == ("adb" if name in PHONES else "ssh")
    known = {fact.name for fact in profile.facts}
    assert "soc" in known
    if profile.supply_v:
        (supply,) = [f for f in profile.facts if f.name == "supply_v"]
        assert supply.value.startswith(f"{profile.supply_v:g} V") or supply.value.startswith(f"{profile.supply_v} V")
    else:
        assert "supply" in known
    (soc,) = [f for f in profile.facts if f.name == "soc"]
    assert soc.value == profile.soc
    sources = [item.source for item in (*profile.facts, *profile.clusters, *profile.rails)]
    assert all(len(source) >= 20 for source in sources), sources  # written out, not a name of [sources]
    assert set(profile.prepare) <= set(SETTING_DEFINITIONS)
    assert 0 < profile.cool_to_c["cpu"] < profile.max_temperature_c < 100


@pytest.mark.parametrize("name", PHONES + BOARDS)
def test_cores_add_up(name: str) -> None:
    counts = tuple(cluster.count for cluster in load_profile(name).clusters)
    expected = CORES.get(name)
    assert counts == expected if expected else sum(counts) in (4, 6, 8)


@pytest.mark.parametrize("name", PHONES + BOARDS)
def test_a_device_is_recognised_as_its_profile_and_no_other(name: str) -> None:
    rule = load_profile(name).identify
    for model in rule.models:
        assert find_profile_name(Identity("android", model=model)) == name
    for codename in rule.codenames:
        assert find_profile_name(Identity("android", codename=codename)) == name
    if not (rule.models or rule.codenames or rule.device_tree):
        assert any("name the profile" in fact.value for fact in load_profile(name).facts)


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        ("Raspberry Pi 4 Model B Rev 1.4", "raspberry-pi-4"),
        ("Raspberry Pi 5 Model B Rev 1.0", "raspberry-pi-5"),
        ("NVIDIA Jetson Nano Developer Kit", "jetson-nano"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "jetson-orin-nano"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "jetson-agx-orin"),
        ("NVIDIA Jetson AGX Xavier Developer Kit", "jetson-agx-xavier"),
        ("Jetson-AGX", "jetson-agx-xavier"),
        ("NVIDIA Jetson TX2 Developer Kit", "jetson-tx2"),
        ("quill", "jetson-tx2"),
        ("NVIDIA Jetson Xavier NX Developer Kit", ""),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", ""),
    ],
)
def test_boards_are_recognised_by_their_device_tree(tree: str, name: str) -> None:
    assert find_profile_name(Identity("linux", model=tree, facts={"device_tree": tree})) == name


GOOD = """
id = "mine"
link = "adb"
address = "0A1B2C"
cool_to_c = { cpu = 40.0, skin = 35 }
[prepare]
brightness = 0
frequency_hz = { policy4 = 1.8e9 }
[identify]
models = ["Mine"]
[sources]
sheet = "the data sheet"
[[fact]]
name = "soc"
value = "chip"
source = "sheet"
[[cluster]]
core = "Cortex-X"
count = 4
max_hz = 2e9
source = "measured here"
[[rail]]
name = "VDD"
what = "all of it"
source = "sheet"
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Write the only profile of a catalog."""
    monkeypatch.setenv("DEEPEN_CATALOG", str(tmp_path))
    (tmp_path / "devices" / "profiles").mkdir(parents=True)
    return (tmp_path / "devices" / "profiles" / "mine.toml").write_text


def test_a_profile_of_ones_own(write) -> None:  # type: ignore[no-untyped-def]
    write(GOOD)
    profile = load_profile("mine")
    assert (profile.address, profile.prepare) == ("0A1B2C", {"frequency_hz": {"policy4": 1.8e9}, "brightness": 0})
    assert profile.facts == (DeviceFact("soc", "chip", "the data sheet"),)
    assert profile.clusters == (CoreCluster("Cortex-X", 4, 2e9, "measured here"),)
    assert profile.rails == (PowerRail("VDD", "all of it", "the data sheet"),)
    assert profile.cool_to_c == {"cpu": 40.0, "skin": 35.0}
    assert find_profile_name(Identity("android", model="Mine")) == "mine"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("brightness = 0", "brightnes = 0", r"\[prepare\]: unknown setting 'brightnes'; did you mean brightness"),
        ("brightness = 0", "brightness = 999", "takes 0 to 255"),
        ('source = "measured here"\n', "", r"each \[\[cluster\]\] has core, count, max_hz, source"),
        ('source = "measured here"', 'source = ""', "a source"),
        ('value = "chip"', 'value = ""', "needs a name, a value and a source"),
        ("max_hz = 2e9", "max_hz = 2.0", "max_hz in hertz"),
        ("count = 4", 'count = "x"', "invalid literal"),
        ("[[rail]]", "[rail]", r"write \[\[rail\]\]"),
        ("models", "model", r"\[identify\] takes codenames, device_tree, models"),
        ('models = ["Mine"]', 'device_tree = "("', "no regular expression"),
        ("cpu = 40.0", "cpu = 400.0", "cool_to_c needs 0 to 150"),
        ("cpu = 40.0", "chip = 40.0", "cool_to_c needs 0 to 150"),
        ("cool_to_c = { cpu = 40.0, skin = 35 }", "cool_to_c = 3", "correct devices/profiles/mine.toml"),
        ('link = "adb"', 'lnik = "adb"', "unknown field lnik"),
    ],
)
def test_a_wrong_profile_is_named(old: str, new: str, words: str, write) -> None:  # type: ignore[no-untyped-def]
    assert old in GOOD
    write(GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=words):
        load_profile("mine")


def test_the_governor_of_a_profile_is_wanted_unless_prepare_names_one() -> None:
    assert DeviceProfile("x", governor="performance").wanted == {"governor": "performance"}
    assert DeviceProfile("x", governor="performance", prepare={"governor": "powersave", "fan": 1}).wanted == {
        "governor": "powersave", "fan": 1
    }  # fmt: skip


def test_an_empty_rule_recognises_nothing() -> None:
    assert DeviceProfile("x").identify == RecognitionRule()
