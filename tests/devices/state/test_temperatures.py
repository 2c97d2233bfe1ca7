"""Temperatures, throttling, the clocks of a run, and cooling down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.devices.state.cool_down import (
    compute_clock_shares,
    read_clock_times,
    summarise_temperatures,
    wait_for_cool_down,
)
from deepen.devices.state.identity import identify_device
from deepen.devices.state.shell_files import FileContents, Shell
from deepen.devices.state.temperatures import (
    find_processor_temperature,
    parse_thermal_files,
    parse_thermalservice,
    parse_throttled,
    read_thermal,
)
from deepen.devices.types import TemperatureReading, ThermalState
from deepen.testing.clock import VirtualClock
from deepen.testing.fake_boards import make_fake_board, make_fake_jetson, make_fake_phone
from deepen.testing.shell import FakeShell

# The form of Android 10: without a HAL that tells temperatures now, and with thresholds after them.
OLD = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 1
\tkilled: false
\tbroadcasts count: -1
ThermalStatusListeners:
\tcallbacks: 3
Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=47.0, mType=3, mName=quiet-therm-adc, mStatus=2}
\tTemperature{mValue=58.7, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=3.95, mType=6, mName=vbat, mStatus=6}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: no
Current temperatures from HAL:
Current cooling devices from HAL:
Temperature static thresholds from HAL:
\tTemperatureThreshold{mType=3, mName=quiet-therm-adc, mHotThrottlingThresholds=[NaN, 43.0, 45.0, 47.0, 49.0]}
"""


def ask(shell: FakeShell) -> ThermalState:
    asked = Shell(shell)
    return read_thermal(asked, identify_device(asked).kind)


def test_a_phone_tells_live_temperatures_of_each_kind() -> None:
    found = ask(make_fake_phone())
    told = [(s.name, s.kind, s.temperature_c) for s in found.sensors if s.origin == "thermalservice"]
    assert told == [("BIG", "cpu", 41.5), ("battery", "battery", 29.5), ("VIRTUAL-SKIN", "skin", 33.2)]
    zones = [(s.name, s.kind, s.temperature_c) for s in found.sensors if s.origin == "thermal zone"]
    assert zones == [("BIG", "cpu", 36.0), ("G3D", "gpu", 35.0), ("battery", "battery", 29.5)]
    assert (found.status, found.throttled) == (0, ())
    assert set(found.ignored) == {"GPU: 0.0 °C (thermalservice)", "broken: -274000 (thermal zone)"}
    assert find_processor_temperature(found) == 41.5
    assert found.hottest() == 41.5
    assert math.isnan(found.hottest("npu"))


def test_cached_temperatures_are_said_to_be_old_and_volts_are_no_temperatures() -> None:
    found = parse_thermalservice(OLD)
    assert [(s.name, s.kind) for s in found.sensors] == [("quiet-therm-adc", "skin"), ("CPU0", "cpu")]
    assert found.status == 2
    assert found.throttled == ("thermal status 2 (moderate)", "quiet-therm-adc: moderate")
    assert any("as old as its last event" in words for words in found.unreadable)


def test_a_status_overridden_for_a_test_is_not_believed() -> None:
    found = parse_thermalservice(OLD.replace("IsStatusOverride: false", "IsStatusOverride: true"))
    assert found.status is None
    assert any("overridden" in words for words in found.unreadable)


@given(st.text(max_size=400))
def test_any_answer_of_thermalservice_is_taken_apart(text: str) -> None:
    for words in (text, OLD.replace("58.7", text), OLD.replace("CPU0", text)):
        found = parse_thermalservice(words)
        assert all(1 <= s.temperature_c <= 150 for s in found.sensors)


def test_a_phone_without_thermalservice_says_so() -> None:
    phone = make_fake_phone()
    del phone.programs["dumpsys"]
    found = ask(phone)
    assert found.status is None
    assert any("thermalservice does not answer" in words for words in found.unreadable)
    assert find_processor_temperature(found) == 36.0


def test_a_device_that_shows_nothing_says_so() -> None:
    found = parse_thermal_files(FileContents({}, {"/sys/class/thermal/thermal_zone*/temp": "Permission denied"}))
    assert found.unreadable[0] == "/sys/class/thermal/thermal_zone*/temp: Permission denied"
    assert "no temperature" in found.unreadable[1]
    assert math.isnan(find_processor_temperature(found))


def test_cooling_devices_that_work_mean_throttling() -> None:
    phone = make_fake_phone()
    phone.files["/sys/class/thermal/cooling_device0/cur_state"] = "3"
    phone.files["/sys/class/thermal/cooling_device1/type"] = "pwm-fan"
    phone.files["/sys/class/thermal/cooling_device1/cur_state"] = "2"  # a fan slows nothing down
    assert ask(phone).throttled == ("thermal-cpufreq-0 at state 3",)


def test_a_jetson_tells_its_zones_and_counts_over_current() -> None:
    found = ask(make_fake_jetson())
    assert {s.kind for s in found.sensors} == {"cpu", "gpu", "soc"}
    assert found.counters == {
        "/sys/class/hwmon/hwmon3/oc1_event_cnt": 0,
        "/sys/class/hwmon/hwmon3/oc3_event_cnt": 2,
    }


def test_a_raspberry_pi_tells_what_is_and_what_has_been() -> None:
    found = ask(make_fake_board())
    assert found.throttled == ()
    assert found.counters["under-voltage since the start"] == 1
    assert found.counters["throttled since the start"] == 1
    assert found.counters["at the soft temperature limit since the start"] == 0
    assert parse_throttled("throttled=0x50005")[0] == ("under-voltage", "throttled")
    assert parse_throttled("throttled=0x0\n") == ((), dict.fromkeys(found.counters, 0))
    with pytest.raises(ValueError, match="not an answer"):
        parse_throttled("VCHI initialization failed")
    board = make_fake_board()
    del board.programs["vcgencmd"]
    assert any("vcgencmd" in words for words in ask(board).unreadable)


# ---- over a run ----------------------------------------------------------------------------------------------------


def reading(temperature_c: float, *, throttled: tuple[str, ...] = (), **counters: int) -> ThermalState:
    return ThermalState((TemperatureReading("cpu", "cpu", temperature_c, "thermal zone"),), None, throttled, counters)


def test_what_heat_did_to_a_run() -> None:
    found = summarise_temperatures(
        [reading(40, oc=2), reading(71, throttled=("cpu0 at state 1",), oc=3), reading(65, oc=5, new=1)]
    )
    assert (found.hottest_c, found.rise_c) == (71, 25)
    assert found.throttled == ("cpu0 at state 1", "oc: 3 more")
    assert summarise_temperatures([reading(40)]).throttled == ()
    with pytest.raises(ValueError, match="at least one"):
        summarise_temperatures([])


def test_clocks_of_a_run_from_two_readings() -> None:
    phone = make_fake_phone()
    before = read_clock_times(Shell(phone))
    assert before["policy4"] == {4e8: 0.0, 1.4e9: 1.0, 2.253e9: 2.0}
    phone.files["/sys/devices/system/cpu/cpufreq/policy4/stats/time_in_state"] = "400000 0\n1400000 400\n2253000 300"
    shares = compute_clock_shares(before, read_clock_times(Shell(phone)))
    assert shares == {"policy4": {1.4e9: 0.75, 2.253e9: 0.25}}  # the others did not run
    assert compute_clock_shares(read_clock_times(Shell(phone)), before) == {}  # a counter that fell has been reset


# ---- cooling down --------------------------------------------------------------------------------------------------


def falling(clock: VirtualClock, start_c: float, floor_c: float, tau_s: float) -> Callable[[], ThermalState]:
    begin = clock.now()
    return lambda: reading(floor_c + (start_c - floor_c) * math.exp(-(clock.now() - begin) / tau_s))


def wait(clock: VirtualClock, read: Callable[[], ThermalState], limits: dict[str, float], **options: Any) -> Any:
    return wait_for_cool_down(read, limits, now=clock.now, sleep=clock.sleep, **options)


def test_waiting_ends_at_the_limit() -> None:
    clock = VirtualClock()
    found = wait(clock, falling(clock, 70, 30, 60), {"cpu": 40.0})
    assert found.reached
    assert found.waited_s == pytest.approx(60 * math.log(4), abs=5.0)
    assert (find_processor_temperature(found.start), found.cause) == (70, "")
    assert find_processor_temperature(found.end) <= 40


def test_a_cool_device_is_not_waited_for() -> None:
    clock = VirtualClock()
    found = wait(clock, lambda: reading(30), {"cpu": 40.0})
    assert (found.reached, found.waited_s) == (True, 0)


def test_the_end_of_the_patience_is_reached_whatever_rounding_leaves() -> None:
    clock = VirtualClock(1000.004)  # twelve waits of 5 s end 1e-13 s before 60 s, which this clock cannot add
    found = wait(clock, lambda: reading(70), {"cpu": 40.0}, patience_s=60.0)
    assert not found.reached
    assert found.waited_s == pytest.approx(60.0, abs=0.1)


def test_a_device_that_cools_no_further_is_given_up() -> None:
    clock = VirtualClock()
    found = wait(clock, falling(clock, 60, 45, 60), {"cpu": 40.0}, patience_s=3600.0)
    assert not found.reached
    assert found.waited_s < 900
    assert "falls no further" in found.cause


def test_patience_ends() -> None:
    clock = VirtualClock()
    found = wait(clock, falling(clock, 90, 20, 2000), {"cpu": 40.0}, patience_s=300.0)
    assert not found.reached
    assert found.waited_s == pytest.approx(300)
    assert "after 300 s" in found.cause


def test_an_unknown_temperature_is_not_a_low_one() -> None:
    clock = VirtualClock()
    found = wait(clock, lambda: reading(30), {"skin": 35.0})
    assert (found.reached, found.waited_s) == (False, 0)
    assert found.cause == "skin is not readable, 35 °C wanted: waiting cannot help"


def test_throttling_is_waited_for_although_the_device_is_cool() -> None:
    clock = VirtualClock()

    def readings() -> Iterator[ThermalState]:
        for _ in range(50):
            yield reading(30, throttled=("thermal status 1 (light)",))
        while True:
            yield reading(30)

    source = readings()
    found = wait(clock, lambda: next(source), {"cpu": 40.0})
    assert found.reached
    assert found.waited_s == pytest.approx(250)
    stuck = wait(clock, lambda: reading(30, throttled=("thermal status 1 (light)",)), {}, patience_s=60.0)
    assert "slowed down: thermal status 1 (light)" in stuck.cause
    low = wait(clock, lambda: reading(30, throttled=("under-voltage",)), {})
    assert low.reached  # waiting does not mend a supply; the reading says it
