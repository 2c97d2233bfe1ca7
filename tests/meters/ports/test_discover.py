"""Instruments are found by what USB says of them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from deepen.errors import MeterError
from deepen.meters.ports import discover
from deepen.meters.ports.discover import UsbId, check_availability, choose_port, find_instruments
from deepen.meters.types import DetectedInstrument

ONE = UsbId(0x1915, 0xC00A, interface=1)
SHARED = UsbId(0x0483, 0x5740, product="powersensor")


def usb(device: str, vid: int, pid: int, serial: str | None, location: str, product: str = "Toy") -> Any:
    return SimpleNamespace(
        device=device, vid=vid, pid=pid, serial_number=serial, location=location, product=product, description="d"
    )


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def plug(*ports: Any) -> None:
        monkeypatch.setattr(discover, "list_serial_ports", lambda: list(ports))
        monkeypatch.setattr(discover.os, "access", lambda path, mode: "denied" not in str(path))

    return plug


TWO_PORTS = (
    usb("/dev/ttyACM0", 0x1915, 0xC00A, "AB12", "1-4:1.3"),
    usb("/dev/ttyACM1", 0x1915, 0xC00A, "AB12", "1-4:1.1"),
)
OTHER = usb("/dev/ttyACM2", 0x0483, 0x5740, "S", "1-5:1.0", "STM32 Virtual ComPort")


def test_of_two_ports_of_one_instrument_the_one_that_measures_is_taken(plugged: Callable[..., None]) -> None:
    plugged(*TWO_PORTS, OTHER)
    assert find_instruments([ONE]) == (DetectedInstrument("/dev/ttyACM1", "AB12", "Toy"),)
    plugged(TWO_PORTS[0])  # older firmware has one port only
    assert find_instruments([ONE]) == (DetectedInstrument("/dev/ttyACM0", "AB12", "Toy"),)


def test_chips_that_others_use_too_are_told_by_their_name(plugged: Callable[..., None]) -> None:
    plugged(OTHER, usb("/dev/ttyACM3", 0x0483, 0x5740, None, "1-6:1.0", "PowerSensor3"))
    assert find_instruments([SHARED]) == (DetectedInstrument("/dev/ttyACM3", "", "PowerSensor3"),)


def test_instruments_without_serial_numbers_are_told_apart_by_their_place(plugged: Callable[..., None]) -> None:
    plugged(usb("/dev/b", 0x1915, 0xC00A, None, "1-2:1.1"), usb("/dev/a", 0x1915, 0xC00A, None, "1-3:1.1"))
    assert [f.port for f in find_instruments([ONE])] == ["/dev/a", "/dev/b"]


def test_the_only_instrument_needs_no_name(plugged: Callable[..., None]) -> None:
    plugged(*TWO_PORTS)
    assert choose_port("ppk2", "", [ONE]) == "/dev/ttyACM1"
    assert choose_port("ppk2", "ab12", [ONE]) == "/dev/ttyACM1"


def test_several_instruments_are_listed_to_choose_from(plugged: Callable[..., None]) -> None:
    plugged(*TWO_PORTS, usb("/dev/ttyACM5", 0x1915, 0xC00A, "CD34", "1-7:1.1"))
    with pytest.raises(MeterError, match=r"there are 2 here, /dev/ttyACM1 \(serial AB12\).*name one: ppk2:AB12"):
        choose_port("ppk2", "", [ONE])
    assert choose_port("ppk2", "CD34", [ONE]) == "/dev/ttyACM5"
    with pytest.raises(MeterError, match=r"serial number 'EF56'; here: /dev/ttyACM1 \(serial AB12\)"):
        choose_port("ppk2", "EF56", [ONE])


def test_with_none_plugged_in_the_error_says_how_to_name_a_port(plugged: Callable[..., None]) -> None:
    plugged()
    with pytest.raises(MeterError, match=r"name its port: ppk2:/dev/ttyACM0"):
        choose_port("ppk2", "", [ONE])
    with pytest.raises(MeterError, match=r"serial number 'AB12'; none is plugged in"):
        choose_port("ppk2", "AB12", [ONE])
    with pytest.raises(MeterError, match=r"name its port: line:"):
        choose_port("line", "", [])


@pytest.mark.parametrize("port", ["/dev/ttyUSB7", "socket://bench:5000", "loop://", "spy:///dev/ttyACM0%3Fall"])
def test_ports_are_taken_as_written(port: str, plugged: Callable[..., None]) -> None:
    plugged()
    assert choose_port("m", port, [ONE]) == port


def test_a_device_may_be_named_without_its_folder(plugged: Callable[..., None]) -> None:
    plugged()
    assert choose_port("m", "null", [ONE]) == "/dev/null"


def test_availability_says_what_is_there_and_what_to_do(plugged: Callable[..., None]) -> None:
    plugged(*TWO_PORTS)
    found = check_availability("ppk2", [ONE])
    assert found.available
    assert found.detail == "/dev/ttyACM1 (serial AB12)"
    assert found.found == (DetectedInstrument("/dev/ttyACM1", "AB12", "Toy"),)
    plugged(usb("/dev/denied", 0x1915, 0xC00A, "AB12", "1-4:1.1"))
    found = check_availability("ppk2", [ONE])
    assert not found.available
    assert "no permission" in found.cause
    assert "udevadm" in found.cure
    plugged()
    found = check_availability("ppk2", [ONE])
    assert (found.available, found.cause) == (False, "none is plugged in")
    assert "ppk2:PORT" in found.cure
    found = check_availability("line", [])
    assert not found.available
    assert "--meter line:/dev/ttyUSB0" in found.cure


def test_without_the_package_availability_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "serial", None)
    found = check_availability("ppk2", [ONE])
    assert not found.available
    assert found.cure == "pip install 'deepen[serial]'"
