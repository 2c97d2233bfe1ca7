"""Clocks of GPUs: found by their names, set, read back, given back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepen.devices.settings.apply_and_restore import (
    apply_settings,
    apply_settings_temporarily,
    preview_settings,
    restore_settings,
)
from deepen.devices.settings.catalogue import check_settings
from deepen.errors import ConfigError
from deepen.testing.fake_boards import make_fake_board, make_fake_jetson, make_fake_phone, make_gpu_clock_files
from deepen.testing.shell import FakeShell

GPU = "/sys/class/devfreq/17000000.gpu"
EMC = "/sys/class/devfreq/31b0000.emc"
KGSL = "/sys/class/kgsl/kgsl-3d0/devfreq"
STEPS = (180_000_000, 345_000_000, 585_000_000)


def limits(shell: FakeShell, folder: str) -> tuple[str, str]:
    return shell.files[f"{folder}/min_freq"], shell.files[f"{folder}/max_freq"]


@pytest.mark.parametrize(
    ("wanted", "hz"),
    [("max", "1300500000"), ("min", "306000000"), (612e6, "612000000"), ("600e6", "612000000")],
)
def test_the_gpu_clock_is_set_read_back_and_given_back(wanted: Any, hz: str, tmp_path: Path) -> None:
    jetson = make_fake_jetson()
    before = dict(jetson.files)
    with apply_settings_temporarily(
        jetson, {"gpu_governor": "performance", "gpu_frequency_hz": wanted}, folder=tmp_path
    ) as preparation:
        assert all(s.ok for s in preparation.settings), preparation.settings
        assert limits(jetson, GPU) == (hz, hz)
        assert jetson.files[f"{GPU}/governor"] == "performance"
        assert jetson.files[f"{EMC}/governor"] == "userspace"  # the memory's clock is none of it
        assert limits(jetson, EMC) == ("204000000", "3199000000")
        assert all(s.ok for s in preparation.check())
    assert jetson.files == before


@pytest.mark.parametrize("pinned", [STEPS[0], STEPS[2]])
def test_limits_are_moved_in_an_order_the_kernel_takes(pinned: int, tmp_path: Path) -> None:
    phone = make_fake_phone()
    phone.files.update(make_gpu_clock_files(KGSL, STEPS, "msm-adreno-tz"))
    phone.files.update({f"{KGSL}/min_freq": str(pinned), f"{KGSL}/max_freq": str(pinned)})
    with apply_settings_temporarily(phone, {"gpu_frequency_hz": 345e6}, folder=tmp_path) as preparation:
        assert preparation.settings[0].ok
        assert limits(phone, KGSL) == ("345000000", "345000000")
    assert limits(phone, KGSL) == (str(pinned), str(pinned))


@pytest.mark.parametrize("name", ["3d00000.qcom,kgsl-3d0", "13000000.mali", "57000000.gpu", "17000000.gv11b"])
def test_one_gpu_under_two_names_is_set_once(name: str, tmp_path: Path) -> None:
    phone = make_fake_phone()
    phone.files.update(make_gpu_clock_files(f"/sys/class/devfreq/{name}", STEPS, "simple_ondemand"))
    phone.files.update(make_gpu_clock_files(KGSL, STEPS, "simple_ondemand"))
    with apply_settings_temporarily(phone, {"gpu_frequency_hz": "min"}, folder=tmp_path) as preparation:
        assert preparation.settings[0].ok
        assert limits(phone, f"/sys/class/devfreq/{name}") == ("180000000", "180000000")
        assert limits(phone, KGSL) == ("180000000", "585000000")


def test_what_cannot_be_set_is_said(tmp_path: Path) -> None:
    (none,) = preview_settings(make_fake_board(), {"gpu_frequency_hz": "max"})
    assert not none.ok
    assert "shows no GPU clock" in none.cause
    (far,) = preview_settings(make_fake_jetson(), {"gpu_frequency_hz": 2e9})
    assert "17000000.gpu has no clock near 2000 MHz; it has 306, 612, 1300.5 MHz" in far.cause
    (lacking,) = preview_settings(make_fake_jetson(), {"gpu_governor": "schedutil"})
    assert "17000000.gpu has no governor schedutil; it has nvhost_podgov, userspace" in lacking.cause
    silent = make_fake_jetson()
    del silent.files[f"{GPU}/available_frequencies"]
    (unlisted,) = preview_settings(silent, {"gpu_frequency_hz": "max"})
    assert (unlisted.cause, unlisted.cure) == ("17000000.gpu does not list its clocks", "name one in hertz")
    with apply_settings_temporarily(silent, {"gpu_frequency_hz": 612e6}, folder=tmp_path) as preparation:
        assert preparation.settings[0].ok
    with apply_settings_temporarily(
        make_fake_jetson(way=""), {"gpu_frequency_hz": "max"}, folder=tmp_path
    ) as preparation:
        assert not preparation.settings[0].ok
        assert "root" in preparation.settings[0].cure


@pytest.mark.parametrize("value", [{"policy0": 1e9}, "fast", True, 5])
def test_values_that_are_no_clock(value: Any) -> None:
    with pytest.raises(ConfigError, match="gpu_frequency_hz"):
        check_settings({"gpu_frequency_hz": value})


def test_a_power_mode_gives_the_gpu_back_too(tmp_path: Path) -> None:
    jetson = make_fake_jetson()
    before = limits(jetson, GPU)
    with apply_settings_temporarily(jetson, {"power_mode": "MAXN"}, folder=tmp_path):
        assert limits(jetson, GPU) == (before[0], "612000000")
    assert limits(jetson, GPU) == before


def test_it_is_given_back_after_a_crash(tmp_path: Path) -> None:
    jetson = make_fake_jetson()
    before = dict(jetson.files)
    apply_settings(jetson, {"gpu_frequency_hz": "max"}, folder=tmp_path).close()  # and the host dies
    assert jetson.files != before
    assert all(s.ok for s in restore_settings(jetson, folder=tmp_path))
    assert jetson.files == before


def test_numbers_that_are_none_are_not_believed(tmp_path: Path) -> None:
    jetson = make_fake_jetson()
    jetson.files[f"{GPU}/available_frequencies"] = "0 $(id) 1e9 -5 612000000\n"
    with apply_settings_temporarily(jetson, {"gpu_frequency_hz": "max"}, folder=tmp_path) as preparation:
        assert preparation.settings[0].ok
        assert limits(jetson, GPU) == ("612000000", "612000000")
