"""Otii through the maker's package, in conversation with a server on a loopback socket."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import pytest

from deepen.errors import ConfigError, MeterError
from deepen.meters.instruments import otii
from deepen.meters.registry import open_meter
from deepen.meters.types import MeterContext
from deepen.testing.instruments.otii import OtiiServer
from deepen.testing.instruments.signal import StepSignal

pytestmark = pytest.mark.serial  # its server counts samples by the clock of the wall
pytest.importorskip("otii_tcp_client", reason="the Otii client is not installed (pip install 'deepen[otii]')")


def record(server: OtiiServer, options: str = "voltage_v=3.7", seconds: float = 0.4) -> Any:
    meter = open_meter(f"otii:127.0.0.1:{server.port}?{options}")
    try:
        meter.start()
        time.sleep(seconds)
        return meter.stop()
    finally:
        meter.close()


def test_a_recording_is_power_at_the_times_of_its_current() -> None:
    with OtiiServer(StepSignal([], [0.25])) as server:
        before = time.monotonic()
        trace = record(server)
        after = time.monotonic()
    assert trace.power_w == pytest.approx(0.25)
    assert (trace.source, trace.rate_hz, trace.dropped) == ("simulated", 4000.0, 0)
    assert before < trace.t_s[0] < trace.t_s[-1] < after
    assert np.diff(trace.t_s) == pytest.approx(1 / 4000)
    assert trace.clock is not None
    assert trace.clock.method == "ping"
    assert server.state["channels"] == {"mc": True, "mv": True}


def test_the_stated_error_of_the_clock_covers_the_delay_of_the_server() -> None:
    edge = time.monotonic() + 1.0
    with OtiiServer(StepSignal([edge], [0.1, 1.0])) as server:
        server.delay_s = 0.05
        trace = record(server, seconds=1.3)
    seen = trace.t_s[int(np.argmax(trace.power_w > 0.5))]
    assert trace.clock is not None
    assert abs(seen - edge) < 3 * trace.clock.error_s + 1e-3


def test_voltage_and_limit_are_set_and_the_output_is_left_as_asked() -> None:
    with OtiiServer(StepSignal([], [0.1])) as server:
        record(server, "voltage_v=4.1&current_limit_a=0.8&leave=off", 0.1)
    assert (server.state["voltage"], server.state["max_current"], server.state["main"]) == (4.1, 0.8, False)
    with OtiiServer(StepSignal([], [0.1])) as server:
        record(server, "voltage_v=4.1", 0.1)
    assert server.state["main"] is True


def test_a_voltage_that_is_set_already_is_not_set_again() -> None:
    with OtiiServer(StepSignal([], [0.1]), volts=3.7) as server:
        record(server, "voltage_v=3.7", 0.1)
        record(server, "", 0.1)
    assert "arc_set_main_voltage" not in [c for c, _ in server.commands]


@pytest.mark.parametrize(
    "option",
    [
        "voltage_v=5.1",
        "voltage_v=0.1",
        "voltage_v=x",
        "current_limit_a=6",
        "inputs=3",
        "leave=x",
        "source=x",
        "power=1",
    ],
)
def test_wrong_options_are_refused_before_anything_is_set(option: str) -> None:
    with OtiiServer(StepSignal([], [0.1])) as server, pytest.raises(ConfigError, match=option.partition("=")[0]):
        open_meter(f"otii:127.0.0.1:{server.port}?{option}")
    assert not any(c.startswith("arc_set") for c, _ in server.commands)


def test_an_output_that_is_off_needs_a_voltage() -> None:
    with OtiiServer(StepSignal([], [0.1])) as server, pytest.raises(ConfigError, match=r"is off.*voltage_v=3\.7"):
        open_meter(f"otii:127.0.0.1:{server.port}")


def test_an_ace_may_give_more_and_states_its_accuracy() -> None:
    with OtiiServer(StepSignal([], [0.1]), devices=(("Ace1", "Bench", "Ace"),)) as server:
        trace = record(server, "voltage_v=12&source=simulated", 0.1)
    assert trace.accuracy.gain == pytest.approx(5e-4 / 3**0.5)
    assert trace.accuracy.offset_w == pytest.approx(25e-9 * 12 / 3**0.5)


def test_digital_inputs_become_logic() -> None:
    edges = {"i1": [(0.1, True), (0.2, False)], "i2": [(0.15, True)]}
    with OtiiServer(StepSignal([], [0.1]), edges=edges) as server:
        trace = record(server, "voltage_v=3.7&inputs=1,2")
    assert trace.logic is not None
    at = (trace.t_s - trace.clock.host_s) if trace.clock else trace.t_s
    picked = [int(trace.logic[int(np.searchsorted(at, t))]) for t in (0.05, 0.12, 0.17, 0.25)]
    assert picked == [0, 2, 6, 4]


def test_values_that_are_no_number_are_gaps_and_losses() -> None:
    with OtiiServer(StepSignal([], [0.1])) as server:
        server.hole = (400, 500)
        trace = record(server, "voltage_v=3.7&max_loss=0.5")
        assert trace.dropped == 100
        assert [round((b - a) * 4000) for a, b in trace.gaps] == [101]
        with pytest.raises(MeterError, match="100 samples were lost"):
            record(server)


def test_a_recording_that_is_far_too_short_is_refused() -> None:
    with OtiiServer(StepSignal([], [0.1])) as server:
        server.missing = 0.8
        with pytest.raises(MeterError, match="samples were lost"):
            record(server, seconds=0.8)


@pytest.mark.parametrize(
    "command", ["arc_add_to_project", "project_start_recording", "recording_get_channel_data", "otii_get_devices"]
)
def test_a_refusal_of_the_server_is_told(command: str) -> None:
    with OtiiServer(StepSignal([], [0.1])) as server:
        server.refuse[command] = "the cat is on it"
        with pytest.raises(MeterError, match=r"the cat is on it.*otii_server"):
            record(server, seconds=0.05)


def test_a_connection_that_breaks_is_told() -> None:
    with OtiiServer(StepSignal([], [0.1])) as server:
        meter = open_meter(f"otii:127.0.0.1:{server.port}?voltage_v=3.7")
        meter.start()
        server.hang_up()
        with pytest.raises(MeterError, match="fetching the recording failed"):
            meter.stop()
        meter.close()


def test_nothing_that_answers_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otii, "CONNECT_S", 0)
    with OtiiServer(StepSignal([], [0.1])) as server:
        free = server.port
    with pytest.raises(MeterError, match=f"connecting to 127.0.0.1:{free} failed.*start the Otii program"):
        open_meter(f"otii:127.0.0.1:{free}")


def test_a_missing_licence_names_the_cure() -> None:
    with (
        OtiiServer(StepSignal([], [0.1]), licensed=False) as server,
        pytest.raises(MeterError, match="reserve an Automation Toolbox licence"),
    ):
        open_meter(f"otii:127.0.0.1:{server.port}")


def test_a_licence_is_reserved_and_returned() -> None:
    with OtiiServer(StepSignal([], [0.1])) as server:
        record(server, seconds=0.05)
    said = [(c, d) for c, d in server.commands if "license" in c]
    assert said == [
        ("otii_get_licenses", {}),
        ("otii_reserve_license", {"license_id": 1}),
        ("otii_return_license", {"license_id": 1}),
    ]


def test_logging_in_takes_the_names_the_package_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    with OtiiServer(StepSignal([], [0.1]), logged_in=False) as server:
        with pytest.raises(MeterError, match="OTII_USERNAME"):
            record(server, seconds=0.05)
        monkeypatch.setenv("OTII_USERNAME", "somebody")
        monkeypatch.setenv("OTII_PASSWORD", "something")
        record(server, seconds=0.05)
    said = [(c, d) for c, d in server.commands if c in ("otii_login", "otii_logout")]
    assert said == [("otii_login", {"username": "somebody", "password": "something"}), ("otii_logout", {})]


def test_one_of_several_must_be_named() -> None:
    devices = (("A1", "left", "Simulator"), ("A2", "right", "Simulator"))
    with OtiiServer(StepSignal([], [0.1]), devices=devices) as server:
        with pytest.raises(MeterError, match=r"there are 2 here.*\?device=A1"):
            record(server)
        record(server, "voltage_v=3.7&device=right", 0.05)
        with pytest.raises(MeterError, match="no instrument 'middle'"):
            record(server, "device=middle")
    assert {d["device_id"] for c, d in server.commands if c == "arc_add_to_project"} == {"A2"}


def test_a_port_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        open_meter("otii:here:there")


def test_starting_twice_and_stopping_early_are_refused() -> None:
    with OtiiServer(StepSignal([], [0.1])) as server:
        meter = open_meter(f"otii:127.0.0.1:{server.port}?voltage_v=3.7")
        with pytest.raises(MeterError, match="before it was started"):
            meter.stop()
        meter.start()
        with pytest.raises(MeterError, match="recording already"):
            meter.start()
        meter.close()
        meter.close()
    assert server.commands[-1][0] != "project_start_recording"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("otii_tcp_client")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert r"deepen[otii]" in otii.DRIVER.probe(MeterContext()).cure
    with pytest.raises(MeterError, match=r"deepen\[otii\]"):
        open_meter("otii")
