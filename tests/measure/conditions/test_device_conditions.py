"""Devices brought into their profile's conditions around a session, and given back, whatever happens in between."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from deepen.devices import DeviceState
from deepen.devices.local import LocalDevice
from deepen.devices.remote import RemoteDevice
from deepen.devices.settings.restore_journal import list_open_journals
from deepen.devices.state.cool_down import CoolDownResult, select_heat_throttling
from deepen.devices.types import TemperatureReading, ThermalState
from deepen.errors import ConfigError, LinkError, RunError
from deepen.measure import api, make_workload, open_session
from deepen.measure.conditions.device_conditions import (
    anonymise_serial,
    apply_device_conditions,
    describe_unset_settings,
    lock_device,
)
from deepen.measure.conditions.thermal_watch import ThermalHistory, ThermalWatch
from deepen.records import MeasurementWarning, StoppingRule
from deepen.testing.bench import SimulatedBench
from deepen.testing.device import RunCost
from deepen.testing.fake_boards import make_fake_phone
from deepen.testing.shell import FakeShell, HostDied

GOVERNOR = "/sys/devices/system/cpu/cpufreq/policy4/scaling_governor"


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    """Journals and locks of this test alone."""
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("DEEPEN_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "state" / "devices"


class ConditionedPhone(RemoteDevice):
    """A Pixel 6 whose shell is played from tables, and whose runtime is that of a bench."""

    def __init__(self, shell: FakeShell, bench: SimulatedBench) -> None:
        super().__init__(shell, "pixel-6")
        self.bench = bench
        self.waits: list[float] = []
        self.warm = False

    def runtime(self, name="onnxruntime", cpu_mask=None):
        self.bench.runtime.closed = False  # each session opens it anew
        return self.bench.runtime

    def cool_down(self, **options):
        self.waits.append(options["patience_s"])
        thermal = ThermalState((TemperatureReading("BIG", "cpu", 60.0, "zone"),))
        warm = self.warm and options["patience_s"] < 30
        return CoolDownResult(
            not warm, 12.0 if self.warm and not warm else 0.0, thermal, thermal, "cpu is 60.0 °C, 40 °C wanted" * warm
        )


@pytest.fixture
def bench():
    return SimulatedBench(lambda path: RunCost())


@pytest.fixture
def phone(bench):
    return ConditionedPhone(make_fake_phone(), bench)


@pytest.fixture
def session(bench, phone, monkeypatch):
    """Open a session on the phone; news go to the list it is given."""
    monkeypatch.setattr(api, "open_meter", lambda *args, **options: bench.meter)

    def opened(news: list[str] | None = None, **options: Any):
        told = [] if news is None else news
        return open_session(
            phone, "m", runtime="onnxruntime", clock=bench.clock.as_clock(), tell=told.append, **options
        )

    return opened


def content(shell: FakeShell) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    return dict(shell.files), dict(shell.settings), dict(shell.tools)


def test_a_phone_is_measured_under_its_profiles_settings_and_given_back(session, phone, model, own_state) -> None:
    shell: Any = phone.link
    before, news = content(shell), []
    with session(news) as opened:
        assert shell.settings["global/airplane_mode_on"] == "1"
        assert shell.settings["system/screen_brightness"] == "0"
        record = opened.measure(make_workload(model))
    assert content(shell) == before
    assert list_open_journals(own_state) == []
    assert record.serial == "1A2B3C"
    assert record.device == "pixel-6"
    assert record.settings["airplane"] == {"wanted": "true", "actual": "1", "ok": True, "cause": ""}
    assert set(record.settings) == {"stay_awake", "brightness", "airplane", "fixed_performance"}
    assert (record.temperature_before_c, record.temperature_max_c) == (41.5, 41.5)
    assert (record.throttled, record.warnings) == ((), ())
    assert news == []
    assert phone.waits == [0.0]


def test_what_cannot_be_set_is_told_in_one_line_and_recorded(session, phone, model) -> None:
    shell: Any = phone.link
    shell.way = ""
    news: list[str] = []
    with session(news, settings={"governor": "performance"}) as opened:
        record = opened.measure(make_workload(model))
    assert news == ["not set: governor (schedutil, wanted performance)"]
    assert record.settings["governor"]["ok"] is False
    assert "ermission denied" in record.settings["governor"]["cause"]
    assert record.settings["brightness"]["ok"] is True
    assert describe_unset_settings(record.settings) == news[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RunError("no"), LinkError("gone"), ValueError("a bug")])
def test_an_error_inside_gives_everything_back(session, phone, error, own_state) -> None:
    before = content(phone.link)
    with pytest.raises(type(error)), session(settings={"governor": "performance"}):
        assert phone.link.files[GOVERNOR] == "performance"
        raise error
    assert content(phone.link) == before
    assert list_open_journals(own_state) == []


def test_a_meter_that_is_not_there_changes_nothing(session, phone, monkeypatch) -> None:
    monkeypatch.setattr(api, "open_meter", lambda *args, **options: (_ for _ in ()).throw(ConfigError("no meter")))
    before, ran = content(phone.link), []
    shell: Any = phone.link
    shell.programs["settings"] = lambda argv, root: ran.append(argv)
    with pytest.raises(ConfigError, match="no meter"), session():
        pass
    assert content(shell) == before
    assert ran == []


@pytest.mark.parametrize("after", [5, 25, 40, 55, 70, 85])
def test_what_a_killed_host_left_is_given_back_by_the_next_session(session, phone, own_state, after) -> None:
    shell: Any = phone.link
    before = content(shell)
    shell.die_after = len(shell.ran) + after
    with pytest.raises(HostDied), session(settings={"governor": "performance"}):
        while True:
            shell.run(["true"], timeout_s=1)
    left = sum(count for _, _, count in list_open_journals(own_state))
    assert left > 0 or content(shell) == before  # what is changed is in the journal
    shell.die_after = None
    news: list[str] = []
    with session(news):
        assert shell.settings["global/airplane_mode_on"] == "1"
    assert content(shell) == before
    assert list_open_journals(own_state) == []
    assert len([text for text in news if "left over from a run that was interrupted" in text]) == left


def test_unprepared_means_untouched_but_for_what_is_named(session, phone, model) -> None:
    before = content(phone.link)
    with session(prepare=False) as opened:
        assert content(phone.link) == before
        record = opened.measure(make_workload(model))
    assert (record.settings, phone.waits, record.serial) == ({}, [], "1A2B3C")
    with session(prepare=False, settings={"brightness": "7"}) as opened:
        assert phone.link.settings["system/screen_brightness"] == "7"
        assert set(opened.measure(make_workload(model)).settings) == {"brightness"}
    assert content(phone.link) == before


def test_a_device_that_goes_at_the_end_takes_no_record_with_it(session, phone, model, own_state) -> None:
    news: list[str] = []
    with session(news) as opened:
        record = opened.measure(make_workload(model))
        phone.link.lost_after = len(phone.link.ran)
    assert record.energy_j > 0
    assert "settings are still changed" in news[-1]
    assert "deepen device prepare DEVICE --restore" in news[-1]
    ((_, _, count),) = list_open_journals(own_state)
    assert count > 0


def test_a_setting_something_else_changes_meanwhile_is_flagged(session, bench, phone, model) -> None:
    rule = StoppingRule(0.05, 0.1, 5, 0.5)
    with session(settings={"governor": "performance"}) as opened:
        assert opened.measure(make_workload(model, rule=rule)).warnings == ()
        phone.link.files[GOVERNOR] = "powersave"
        bench.clock.sleep(61.0)
        record = opened.measure(make_workload(model, rule=rule))
    assert record.settings["governor"]["ok"] is False
    assert any(w.startswith("settings: governor was performance and is") for w in record.warnings)


def test_one_session_at_a_time_for_each_device(session, bench, phone) -> None:
    with session():
        other = ConditionedPhone(phone.link, bench)
        with pytest.raises(LinkError, match="in use by this process itself"), open_session(other, "m"):
            pass
        spec = "ssh:pi@board?key=/home/me/.ssh/id&work=/data"
        with pytest.raises(LinkError, match=r"^device ssh:pi@board is in use"), lock_device(phone, spec):
            pass


def test_a_warm_device_is_waited_for_and_the_wait_is_told(session, phone, model) -> None:
    phone.warm = True
    news: list[str] = []
    with session(news) as opened:
        record = opened.measure(make_workload(model))
    assert phone.waits == [0.0, 600.0]
    assert news == ["waiting until it has cooled down to cpu 40 °C, 10 min at most", "cooled down in 12 s"]
    assert record.warnings == ()
    with session(news, cool_s=20.0) as opened:
        record = opened.measure(make_workload(model))
    assert news[-1] == "too warm to begin: cpu is 60.0 °C, 40 °C wanted"
    assert "temperature: too warm to begin: cpu is 60.0 °C, 40 °C wanted" in record.warnings


def test_a_machine_id_is_not_published() -> None:
    assert anonymise_serial("1A2B3C") == "1A2B3C"
    hidden = anonymise_serial("3d1219c7c4c5404aaa1f6d2a48adfda4")
    assert hidden.startswith("machine-")
    assert "3d1219" not in hidden
    assert hidden == anonymise_serial("3d1219c7c4c5404aaa1f6d2a48adfda4")
    assert hidden != anonymise_serial("4d1219c7c4c5404aaa1f6d2a48adfda4")


def test_a_phone_without_a_serial_number_is_measured_and_says_what_was_not_set(session, bench, model) -> None:
    shell = make_fake_phone()
    shell.properties.pop("ro.serialno")
    before = content(shell)
    nameless = ConditionedPhone(shell, bench)
    with apply_device_conditions(nameless) as conditions:
        assert content(shell) == before
        assert {s["ok"] for s in conditions.settings.values()} == {False}
        assert "no serial number" in conditions.settings["airplane"]["cause"]
    with (
        pytest.raises(ConfigError, match="no serial number"),
        apply_device_conditions(nameless, wanted={"brightness": 1}),
    ):
        pass


# This machine


def test_this_machine_is_not_touched_unless_a_setting_is_named(monkeypatch) -> None:
    from deepen.devices.settings import apply_and_restore as preparing

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("this machine was about to be changed")

    monkeypatch.setattr(preparing, "apply_settings_temporarily", refuse)
    device = LocalDevice()
    object.__setattr__(device.profile, "governor", "performance")
    with apply_device_conditions(device) as conditions:
        assert (conditions.settings, conditions.warnings, conditions.serial) == ({}, [], "")
    with (
        pytest.raises(AssertionError, match="about to be changed"),
        apply_device_conditions(device, wanted={"governor": "performance"}),
    ):
        pass  # fmt: skip


# Heat


def test_throttling_and_the_highest_temperature_between_blocks_are_seen() -> None:
    temperatures = iter([40.0, 55.0, 48.0])
    words = iter([(), ("thermal-cpufreq-0 at state 3",), ()])
    now = [0.0]

    class HotDevice:
        def state(self) -> DeviceState:
            thermal = ThermalState(throttled=next(words))
            return DeviceState("x", "arm64", 1, (0,), temperature_c=next(temperatures), thermal=thermal)

    watch = ThermalWatch(HotDevice(), lambda: now[0])  # type: ignore[arg-type]
    for now[0] in (3.0, 9.0, 10.0, 15.0):
        watch.read_if_due()  # takes one reading, at 10 s
    seen = watch.end()
    assert (seen.before.temperature_c, seen.hottest_c, seen.after.temperature_c) == (40.0, 55.0, 48.0)
    assert seen.throttled == ("thermal-cpufreq-0 at state 3",)
    assert [str(w) for w in seen.warnings(50.0)] == [
        "temperature: it went from 40 to 48 °C meanwhile",
        "temperature: 55 °C is above the profile's 50 °C",
        "throttled: thermal-cpufreq-0 at state 3",
    ]
    assert seen.warnings(math.inf)[1:] == [MeasurementWarning("throttled", "thermal-cpufreq-0 at state 3")]


def test_many_causes_are_shortened_and_a_weak_supply_is_not_heat() -> None:
    state = DeviceState("x", "arm64", 1, (0,))
    seen = ThermalHistory(state, state, math.nan, ("a", "b", "c", "d"))
    assert seen.warnings(80.0) == [MeasurementWarning("throttled", "a; b and 2 more")]
    assert select_heat_throttling(("under-voltage", "throttled")) == ("throttled",)


def test_a_long_measurement_looks_at_the_device_now_and_then(bench, model) -> None:
    looks: list[float] = []
    state = bench.device.state

    def looked():
        looks.append(bench.clock.now())
        return state()

    bench.device.state = looked
    with bench.session(reference_every_s=None) as opened:
        looks.clear()
        opened.measure(make_workload(model, rule=StoppingRule(60.0, 90.0, 5, 0.5)))
    assert 6 <= len(looks) <= 9
    assert all(b - a >= 10 for a, b in itertools.pairwise(looks[:-1]))


def test_paths_of_models_are_checked_before_the_device_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        api.profile(tmp_path / "absent.onnx", device="adb:nowhere")
