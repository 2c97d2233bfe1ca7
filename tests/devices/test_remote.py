"""A phone or board behind a link, as a device: who it is, its state, what decides whether results repeat."""

from __future__ import annotations

import math

import pytest

from deepen.devices import Device
from deepen.devices.remote import RemoteDevice, check_cpu_mask
from deepen.devices.state.cpu_policies import parse_core_list
from deepen.devices.state.identity import Identity, identify_device, recognise_profile
from deepen.devices.state.shell_files import Shell
from deepen.devices.types import CompletedCommand, RecognitionRule
from deepen.errors import ConfigError
from deepen.testing.fake_boards import make_fake_board, make_fake_jetson, make_fake_phone


def test_a_phone_says_who_it_is() -> None:
    found = identify_device(Shell(make_fake_phone()))
    assert (found.kind, found.model, found.codename, found.serial) == ("android", "Pixel 6", "oriole", "1A2B3C")
    assert (found.sdk, found.machine, found.boot_id) == (33, "aarch64", "boot-0")
    assert found.key.startswith("Pixel-6-1A2B3C-")


def test_boards_say_who_they_are() -> None:
    assert identify_device(Shell(make_fake_jetson())).kind == "jetson"
    assert identify_device(Shell(make_fake_board())).kind == "raspberry-pi"
    plain = make_fake_board()
    del plain.files["/proc/device-tree/model"], plain.files["/proc/device-tree/serial-number"]
    found = identify_device(Shell(plain))
    assert (found.kind, found.model, found.serial) == ("linux", "board", "")
    with pytest.raises(ConfigError, match="board reports no serial number"):
        _ = found.key
    plain.files["/etc/machine-id"] = "0123"
    assert identify_device(Shell(plain)).serial == "0123"


def test_a_device_is_recognised_by_exactly_one_profile() -> None:
    phone = Identity("android", model="Pixel 6", codename="oriole")
    rules = [("six", RecognitionRule(("Pixel 6",))), ("seven", RecognitionRule(codenames=("panther",)))]
    assert recognise_profile(phone, rules) == "six"
    assert recognise_profile(phone, [*rules, ("again", RecognitionRule(codenames=("oriole",)))]) == ""
    board = Identity("linux", model="x", facts={"device_tree": "Raspberry Pi 4 Model B Rev 1.4"})
    assert recognise_profile(board, [("pi", RecognitionRule(device_tree="Raspberry Pi 4"))]) == "pi"
    # A board that calls itself like a phone is none.
    assert recognise_profile(Identity("linux", model="Pixel 6"), rules) == ""
    assert recognise_profile(Identity("android"), [("none", RecognitionRule())]) == ""


@pytest.mark.parametrize(
    ("device", "profile"),
    [(make_fake_phone, "pixel-6"), (make_fake_board, "raspberry-pi-5"), (make_fake_jetson, "jetson-agx-orin")],
)
def test_a_device_finds_its_profile(device: object, profile: str) -> None:
    shell = device()  # type: ignore[operator]
    with_profile = RemoteDevice(shell)
    assert isinstance(with_profile, Device)
    assert with_profile.profile.id == profile
    assert next(s for s in with_profile.prepare() if s.name == "profile").ok


def test_a_device_nobody_has_described_has_a_profile_of_what_it_says() -> None:
    phone = make_fake_phone()
    phone.properties.update({"ro.product.model": "Nobody's X/1 $(id)", "ro.product.device": "x1"})
    found = RemoteDevice(phone).profile
    assert (found.id, found.title, found.supply_v) == ("nobody-s-x-1-id", "Nobody's X/1 $(id)", 0.0)


def test_a_profile_of_another_device_is_said() -> None:
    found = {s.name: s for s in RemoteDevice(make_fake_phone(), "pixel-7").prepare()}["profile"]
    assert (found.ok, found.actual) == (False, "Pixel 6")
    assert "voltage" in found.cure


def test_state_of_a_phone() -> None:
    state = RemoteDevice(make_fake_phone()).state()
    assert (state.cores, state.usable_cores, state.governor, state.load) == (8, tuple(range(8)), "schedutil", 0.1)
    assert [(p.name, p.cores) for p in state.policies] == [("policy0", (0, 1, 2, 3)), ("policy4", (4, 5)),
                                                           ("policy6", (6, 7))]  # fmt: skip
    assert state.policies[2].steps_hz == (5e8, 1.8e9, 2.802e9)
    assert state.frequency_hz == pytest.approx((4 * 3e8 + 2 * 4e8 + 2 * 5e8) / 8)
    assert state.temperature_c == 41.5
    assert state.thermal is not None
    assert (state.cpu_model, state.machine) == ("Pixel 6", "aarch64")


def test_state_is_read_in_few_commands() -> None:
    phone = make_fake_phone()
    device = RemoteDevice(phone)
    already = len(phone.ran)
    device.state()
    assert len(phone.ran) - already <= 3


def test_a_device_that_shows_nothing_has_an_empty_state() -> None:
    phone = make_fake_phone(closed=("/sys/*", "/sys/class/*/*/*", "/sys/devices/system/cpu/*/*/*", "/proc/*"))
    state = RemoteDevice(phone).state()
    assert state.policies == ()
    assert math.isnan(state.frequency_hz) and math.isnan(state.load)
    assert state.temperature_c == 41.5  # thermalservice needs no files


def test_looking_changes_nothing() -> None:
    phone = make_fake_phone()
    files, settings = dict(phone.files), dict(phone.settings)
    found = {s.name: s for s in RemoteDevice(phone).prepare()}
    assert (phone.files, phone.settings) == (files, settings)
    assert not found["brightness"].ok and found["brightness"].cure.startswith("deepen device prepare")
    assert found["load"].ok and found["temperature"].ok


def test_a_hot_a_throttled_and_a_busy_device_are_said() -> None:
    phone = make_fake_phone()
    phone.files["/sys/class/thermal/thermal_zone0/temp"] = "99000"
    phone.files["/sys/class/thermal/cooling_device0/cur_state"] = "2"
    phone.files["/proc/loadavg"] = "3.10 2 1 1/500 9"
    found = {s.name: s for s in RemoteDevice(phone).prepare()}
    assert not found["temperature"].ok and not found["load"].ok
    assert "thermal-cpufreq-0 at state 2" in found["temperature"].cause


def test_a_set_of_cores_is_tried() -> None:
    phone = make_fake_phone()
    allowed = {"mask": "f0"}

    def taskset(argv: list[str], root: bool) -> CompletedCommand:
        assert argv[1] == "f0"
        return CompletedCommand(0, f"Cpus_allowed:\t{allowed['mask']}\n".encode(), b"")

    phone.programs["taskset"] = taskset  # type: ignore[assignment]
    shell = Shell(phone)
    assert check_cpu_mask(shell, [4, 5, 6, 7]).ok
    allowed["mask"] = "00000000,00000030"
    found = check_cpu_mask(shell, [4, 5, 6, 7])
    assert (found.ok, found.actual) == (False, "4,5")
    phone.programs["taskset"] = lambda argv, root: CompletedCommand(1, b"", b"taskset: failed: Invalid argument\n")
    assert "Invalid argument" in check_cpu_mask(shell, [4, 5, 6, 7]).cause


def test_a_runtime_the_profile_does_not_list_is_refused() -> None:
    device = RemoteDevice(make_fake_phone(), "local")
    with pytest.raises(ConfigError, match="unknown runtime"):
        device.runtime("tflight")
    assert device.worker_pid() is None
    device.close()


@pytest.mark.parametrize(
    ("text", "cores"), [("0-3,6", (0, 1, 2, 3, 6)), ("0 1 2", (0, 1, 2)), ("", ()), ("x", ()), ("5", (5,)), ("3-1", ())]
)
def test_lists_of_cores(text: str, cores: tuple[int, ...]) -> None:
    assert parse_core_list(text) == cores
