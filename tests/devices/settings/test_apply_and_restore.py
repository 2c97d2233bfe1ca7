"""Settings of a device: set, read back, given back, whatever happens in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deepen.devices import Link
from deepen.devices.settings.access import SettingLocation, is_same_value
from deepen.devices.settings.apply_and_restore import (
    apply_settings,
    apply_settings_temporarily,
    preview_settings,
    restore_settings,
    uses_device_network,
)
from deepen.devices.settings.catalogue import CHARGING_NODES, SETTING_DEFINITIONS, check_settings
from deepen.devices.settings.restore_journal import RestoreJournal, list_open_journals
from deepen.devices.state.identity import Identity, identify_device
from deepen.devices.state.shell_files import Shell
from deepen.devices.types import CompletedCommand, SettingStatus
from deepen.errors import ConfigError, LinkError, StorageError
from deepen.testing.fake_boards import make_fake_board, make_fake_jetson, make_fake_phone
from deepen.testing.shell import FakeShell, HostDied

PHONE: dict[str, Any] = {
    "governor": "performance",
    "frequency_hz": "max",
    "charging": False,
    "stay_awake": True,
    "brightness": 0,
    "fixed_performance": True,
    "airplane": True,
}
JETSON: dict[str, Any] = {"power_mode": "MAXN", "cores_online": [0, 1, 2, 3], "jetson_clocks": True, "fan": "max"}
GOVERNOR = "/sys/devices/system/cpu/cpufreq/policy4/scaling_governor"


def by_name(settings: Sequence[SettingStatus]) -> dict[str, SettingStatus]:
    return {s.name: s for s in settings}


def state(shell: FakeShell) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Everything a test device holds."""
    files = {path: text for path, text in shell.files.items() if not path.startswith("/tmp/deepen-")}
    return files, dict(shell.settings), dict(shell.tools)


def test_the_stand_in_is_a_link() -> None:
    assert isinstance(make_fake_phone(), Link)


def test_a_phone_is_set_read_back_and_given_back(tmp_path: Path) -> None:
    phone = make_fake_phone()
    before = state(phone)
    with apply_settings_temporarily(phone, PHONE, folder=tmp_path) as preparation:
        found = by_name(preparation.settings)
        assert list(found) == [name for name in SETTING_DEFINITIONS if name in PHONE]
        assert all(s.ok for s in found.values())
        assert {phone.files[f"/sys/devices/system/cpu/cpufreq/policy{n}/scaling_min_freq"] for n in (0, 4, 6)} == {
            "1803000", "2253000", "2802000"
        }  # fmt: skip
        assert phone.files[GOVERNOR] == "performance"
        assert phone.files["/sys/class/power_supply/battery/charging_enabled"] == "0"
        assert phone.settings["global/airplane_mode_on"] == "1"
        assert phone.settings["global/stay_on_while_plugged_in"] == "7"
        assert phone.tools["fixed performance"] == "true"
        assert (found["brightness"].actual, found["governor"].actual) == ("0", "performance")
        assert "could not be read back" in found["fixed_performance"].cause
        assert all(s.ok for s in preparation.check())
        assert found["governor"].details["before"][f"file:{GOVERNOR}"] == "schedutil"
        assert len(list(tmp_path.glob("*.jsonl"))) == 1
    assert state(phone) == before
    assert all(s.ok for s in preparation.restored)
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_was_absent_is_absent_again(tmp_path: Path) -> None:
    phone = make_fake_phone()
    assert "global/stay_on_while_plugged_in" not in phone.settings
    with apply_settings_temporarily(phone, {"stay_awake": True}, folder=tmp_path):
        assert "global/stay_on_while_plugged_in" in phone.settings
    assert "global/stay_on_while_plugged_in" not in phone.settings


def test_a_jetson_is_given_back_with_the_limits_its_user_had_set(tmp_path: Path) -> None:
    jetson = make_fake_jetson()
    limit = "/sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq"
    jetson.files[limit] = "1420800"  # switching the power mode moves it
    before = state(jetson)
    with apply_settings_temporarily(jetson, JETSON, folder=tmp_path) as preparation:
        found = by_name(preparation.settings)
        assert all(s.ok for s in found.values()), found
        assert jetson.tools["power mode"] == "0"
        assert jetson.files["/sys/devices/system/cpu/cpu7/online"] == "0"
        assert jetson.files["/sys/class/hwmon/hwmon2/pwm1"] == "255"
        assert jetson.files[limit] == "2201600"
    assert all(s.ok for s in preparation.restored)
    assert state(jetson) == before


@pytest.mark.parametrize(("low", "high", "wanted"), [(300000, 300000, "max"), (1803000, 1803000, "min")])
def test_limits_of_clocks_are_moved_in_an_order_the_kernel_takes(
    low: int, high: int, wanted: str, tmp_path: Path
) -> None:
    phone = make_fake_phone()
    folder = "/sys/devices/system/cpu/cpufreq/policy0"
    phone.files.update({f"{folder}/scaling_min_freq": str(low), f"{folder}/scaling_max_freq": str(high)})
    before = state(phone)
    with apply_settings_temporarily(phone, {"frequency_hz": wanted}, folder=tmp_path) as preparation:
        assert all(s.ok for s in preparation.settings)
    assert state(phone) == before


def test_a_clock_between_two_steps_is_the_nearest_one(tmp_path: Path) -> None:
    phone = make_fake_phone()
    with apply_settings_temporarily(phone, {"frequency_hz": {"policy4": 1.41e9}}, folder=tmp_path) as preparation:
        assert preparation.settings[0].ok
        assert phone.files["/sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq"] == "1400000"
        assert phone.files["/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq"] == "1803000"


# ---- what cannot be set is said ------------------------------------------------------------------------------------


def test_without_root_the_rest_is_set_and_the_reason_recorded(tmp_path: Path) -> None:
    phone = make_fake_phone(way="")
    before = state(phone)
    with apply_settings_temporarily(phone, PHONE, folder=tmp_path) as preparation:
        found = by_name(preparation.settings)
        for name in ("governor", "frequency_hz", "charging"):
            assert not found[name].ok
            assert "needs root, and the device gives none" in found[name].cause
            assert "root" in found[name].cure
        assert found["brightness"].ok and found["airplane"].ok
        assert {c.knob for c in preparation.changes} == {"brightness", "stay_awake", "airplane", "fixed_performance"}
    assert state(phone) == before


def test_a_write_that_is_taken_and_ignored_is_not_called_set(tmp_path: Path) -> None:
    phone = make_fake_phone(fixed=(GOVERNOR,))
    with apply_settings_temporarily(phone, {"governor": "performance"}, folder=tmp_path) as preparation:
        (found,) = preparation.settings
        assert not found.ok
        assert f"file:{GOVERNOR} took schedutil instead of performance" in found.cause
        assert "= schedutil" in found.actual and "= performance" in found.actual


def test_what_cannot_be_read_is_not_changed(tmp_path: Path) -> None:
    phone = make_fake_phone(way="", closed=(GOVERNOR,))
    node = "/sys/class/power_supply/battery/charging_enabled"
    phone.closed = (node,)
    with apply_settings_temporarily(phone, {"charging": False}, folder=tmp_path) as preparation:
        (found,) = preparation.settings
        assert (found.ok, found.cause) == (False, f"{node}: Permission denied")
    assert phone.files[node] == "1"


@pytest.mark.parametrize(
    ("device", "wanted", "words"),
    [
        (make_fake_phone, {"governor": "turbo"}, "policy0 has no governor turbo; it has ondemand"),
        (
            make_fake_phone,
            {"frequency_hz": 2.8e9},
            "policy0 has no clock near 2800000000.0 Hz; it has 0.3 to 1.803 GHz",
        ),
        (make_fake_phone, {"frequency_hz": {"policy9": 1e9}}, "no policy9; there are policy0, policy4, policy6"),
        (make_fake_phone, {"cores_online": [0, 9]}, "there is no core 9"),
        (make_fake_phone, {"cores_online": [1]}, "core 0, 2, 3, 4, 5, 6, 7 cannot be switched off"),
        (make_fake_phone, {"fan": 100}, "shows no fan"),
        (make_fake_phone, {"power_mode": 0}, "only Jetsons have it"),
        (make_fake_jetson, {"brightness": 0}, "only phones have it"),
        (make_fake_jetson, {"power_mode": "TURBO"}, "no power mode TURBO; nvpmodel lists 0 MAXN, 1 MODE_15W"),
        (make_fake_jetson, {"power_mode": 7}, "NVPM ERROR: power mode 7 does not exist"),
        (make_fake_board, {"fan": "max"}, "shows no fan"),
    ],
)
def test_what_a_device_does_not_have(device: Any, wanted: dict[str, Any], words: str, tmp_path: Path) -> None:
    shell = device()
    before = state(shell)
    with apply_settings_temporarily(shell, wanted, folder=tmp_path) as preparation:
        (found,) = preparation.settings
        assert not found.ok
        assert words in found.cause
        assert found.cure
    assert state(shell) == before


def test_an_old_android_has_no_fixed_performance_mode(tmp_path: Path) -> None:
    phone = make_fake_phone()
    phone.properties["ro.build.version.sdk"] = "29"
    with apply_settings_temporarily(phone, {"fixed_performance": True}, folder=tmp_path) as preparation:
        assert "Android 11" in preparation.settings[0].cause
    assert not [argv for argv in phone.ran if argv[0] == "cmd"]


def test_airplane_mode_is_refused_where_it_would_cut_the_link(tmp_path: Path) -> None:
    phone = make_fake_phone()
    phone.properties["service.adb.tcp.port"] = "5555"
    with apply_settings_temporarily(phone, {"airplane": True}, folder=tmp_path) as preparation:
        assert "would cut" in preparation.settings[0].cause
    assert phone.settings["global/airplane_mode_on"] == "0"
    assert not uses_device_network(Identity("android", facts={"service.adb.tcp.port": "-1"}))
    with apply_settings_temporarily(phone, {"airplane": True}, folder=tmp_path, network=False) as preparation:
        assert preparation.settings[0].ok


def test_airplane_mode_before_android_11_needs_a_broadcast_from_root(tmp_path: Path) -> None:
    phone = make_fake_phone()
    sent: list[tuple[list[str], bool]] = []

    def am(argv: Sequence[str], root: bool) -> CompletedCommand:
        sent.append((list(argv), root))
        return CompletedCommand(0, b"Broadcast completed: result=0\n", b"")

    phone.programs.update(am=am, cmd=lambda argv, root: CompletedCommand(255, b"", b"Unknown command: airplane-mode\n"))
    with apply_settings_temporarily(phone, {"airplane": True}, folder=tmp_path) as preparation:
        assert preparation.settings[0].ok
        assert phone.settings["global/airplane_mode_on"] == "1"
    assert phone.settings["global/airplane_mode_on"] == "0"
    assert [argv[-1] for argv, _ in sent] == ["true", "false"]
    assert all(root for _, root in sent)


@pytest.mark.parametrize("node", CHARGING_NODES)
def test_charging_is_stopped_with_the_text_each_file_wants(node: str, tmp_path: Path) -> None:
    stop, go = CHARGING_NODES[node]
    phone = make_fake_phone()
    del phone.files["/sys/class/power_supply/battery/charging_enabled"]
    phone.files[node] = go
    with apply_settings_temporarily(phone, {"charging": False}, folder=tmp_path) as preparation:
        assert preparation.settings[0].ok
        assert phone.files[node] == stop
    assert phone.files[node] == go


def test_clocks_that_were_high_before_cannot_be_lowered_and_that_is_said(tmp_path: Path) -> None:
    jetson = make_fake_jetson()
    jetson.run(["sudo", "-n", "--", "jetson_clocks"], timeout_s=1)
    with apply_settings_temporarily(jetson, {"jetson_clocks": False}, folder=tmp_path) as preparation:
        assert "file not found" in preparation.settings[0].cause
    with apply_settings_temporarily(jetson, {"jetson_clocks": True}, folder=tmp_path) as preparation:
        assert preparation.settings[0].ok
        assert not preparation.changes


def test_every_way_to_root(tmp_path: Path) -> None:
    for way in ("self", "su -c", "su 0", "sudo"):
        phone = make_fake_phone(way=way)
        assert Shell(phone).root == way
        with apply_settings_temporarily(phone, {"governor": "performance"}, folder=tmp_path) as preparation:
            assert preparation.settings[0].ok
    assert Shell(make_fake_phone(way="")).root == ""


def test_a_su_that_waits_for_somebody_is_no_root_and_a_lost_device_is_an_error() -> None:
    class WaitingShell(FakeShell):
        def run(self, argv: Sequence[str], **options: Any) -> CompletedCommand:
            if argv[0] == "su":
                raise LinkError("su did not end within 20 s and was killed")
            return super().run(argv, **options)

    assert Shell(WaitingShell(way="")).root == ""
    with pytest.raises(LinkError):
        _ = Shell(make_fake_phone(lost_after=1, way="")).root


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"govenor": "x"}, "did you mean governor"),
        ({"governor": "a b"}, "takes the name of a governor, not 'a b'"),
        ({"governor": "$(reboot)"}, "takes the name of a governor"),
        ({"brightness": 256}, "0 to 255"),
        ({"brightness": True}, "0 to 255"),
        ({"airplane": "perhaps"}, "true or false"),
        ({"frequency_hz": "fast"}, "hertz"),
        ({"frequency_hz": 1.8}, "hertz"),
        ({"frequency_hz": {"cpu0": 1e9}}, "hertz"),
        ({"cores_online": []}, "a list of cores"),
        ({"cores_online": "x"}, "a list of cores"),
        ({"power_mode": "0; reboot"}, "number or name"),
    ],
)
def test_wrong_values_are_refused_before_the_device_is_asked(wanted: dict[str, Any], words: str) -> None:
    phone = make_fake_phone()
    with pytest.raises(ConfigError, match=words.replace("(", "\\(").replace("$", "\\$")):
        apply_settings(phone, wanted)
    assert phone.ran == []


def test_values_from_the_command_line_mean_what_those_of_a_profile_mean() -> None:
    texts = {"brightness": "0", "airplane": "on", "cores_online": "0-2,4", "frequency_hz": "1.8e9", "fan": "max"}
    assert check_settings(texts) == {
        "cores_online": (0, 1, 2, 4), "frequency_hz": 1.8e9, "fan": 255, "brightness": 0, "airplane": True
    }  # fmt: skip


def test_a_device_without_a_serial_number_is_not_changed(tmp_path: Path) -> None:
    phone = make_fake_phone()
    phone.properties["ro.serialno"] = ""
    before = state(phone)
    with pytest.raises(ConfigError, match="reports no serial number"):
        apply_settings(phone, {"brightness": 0}, folder=tmp_path)
    assert state(phone) == before
    with apply_settings_temporarily(phone, {}, folder=tmp_path) as preparation:
        assert preparation.settings == ()


def test_a_journal_that_cannot_be_kept_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    phone = make_fake_phone()
    before = state(phone)
    with pytest.raises(StorageError, match="without it no setting is changed"):
        apply_settings(phone, {"brightness": 0}, folder=tmp_path / "file" / "journal")
    assert state(phone) == before


def test_planning_changes_nothing_and_says_how_to() -> None:
    phone = make_fake_phone()
    before = state(phone)
    found = by_name(preview_settings(phone, {"governor": "performance", "brightness": 128, "fan": 1}))
    assert state(phone) == before
    assert not found["governor"].ok
    assert found["governor"].cure == "deepen device prepare DEVICE --set governor=performance"
    assert "shows no fan" in found["fan"].cause
    assert "1" in found["brightness"].actual  # brightness is as wanted, but automatic


# ---- crashes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "wanted"), [(make_fake_phone, PHONE), (make_fake_jetson, JETSON)])
def test_a_host_killed_at_any_moment_leaves_nothing_that_cannot_be_given_back(
    make: Any, wanted: dict[str, Any], tmp_path: Path
) -> None:
    moment = 0
    while True:
        shell = make()
        before = state(shell)
        start = shell.files["/proc/sys/kernel/random/boot_id"]
        shell.die_after = moment
        folder = tmp_path / str(moment)
        try:
            with apply_settings_temporarily(shell, wanted, folder=folder):
                pass
        except HostDied:
            pass
        else:
            break  # it lived through all of it
        shell.die_after = None
        found = restore_settings(shell, folder=folder)
        assert all(s.ok for s in found), (moment, found)
        assert state(shell) == before, moment
        assert list(folder.glob("*")) == [] if folder.exists() else True
        assert start == shell.files["/proc/sys/kernel/random/boot_id"]
        moment += 1
    assert moment > 40


@pytest.mark.parametrize("moment", range(20, 75, 5))
def test_a_device_that_goes_is_given_back_when_it_returns(moment: int, tmp_path: Path) -> None:
    phone = make_fake_phone(lost_after=moment)
    before = make_fake_phone()
    try:
        with apply_settings_temporarily(phone, PHONE, folder=tmp_path):
            pass
    except LinkError as error:
        assert "the device is gone" in str(error)
        phone.lost_after = None
        if list_open_journals(tmp_path):
            assert "device prepare DEVICE --restore" in str(error) or moment > 55
        restore_settings(phone, folder=tmp_path)
    else:
        pytest.fail("it was to go before the end")
    assert state(phone) == state(before)


def test_the_next_run_repairs_what_an_interrupted_one_left(tmp_path: Path) -> None:
    phone = make_fake_phone()
    before = state(phone)
    preparation = apply_settings(phone, {"governor": "performance", "brightness": 0}, folder=tmp_path)
    preparation.close()  # as if the host had died here
    ((path, layer, left),) = list_open_journals(tmp_path)
    assert (layer.hold, layer.device, left) == (False, "Pixel 6 1A2B3C", 5)
    assert "1A2B3C" in path.name
    with apply_settings_temporarily(phone, {"brightness": 10}, folder=tmp_path) as second:
        found = [s for s in second.settings if "left over from a run that was interrupted" in s.cause]
        assert {s.name for s in found} == {"governor", "brightness"}
        assert phone.files[GOVERNOR] == "schedutil"
    assert state(phone) == before


def test_what_is_held_outlives_a_run_and_its_crash(tmp_path: Path) -> None:
    phone = make_fake_phone()
    before = state(phone)
    apply_settings(phone, {"governor": "performance"}, folder=tmp_path, hold=True).close()
    with apply_settings_temporarily(phone, {"governor": "powersave"}, folder=tmp_path):
        assert phone.files[GOVERNOR] == "powersave"
    assert phone.files[GOVERNOR] == "performance"
    apply_settings(phone, {"governor": "powersave"}, folder=tmp_path).close()
    with apply_settings_temporarily(phone, {}, folder=tmp_path):
        assert phone.files[GOVERNOR] == "performance"
    assert all(s.ok for s in restore_settings(phone, folder=tmp_path))
    assert state(phone) == before


def test_a_restart_undoes_kernel_files_and_keeps_settings(tmp_path: Path) -> None:
    phone = make_fake_phone()
    files, settings, _ = state(phone)
    apply_settings(phone, {"governor": "performance", "brightness": 0}, folder=tmp_path).close()
    phone.restart({**files, GOVERNOR: "powersave"})  # what somebody set after the restart is not ours to undo
    found = restore_settings(phone, folder=tmp_path)
    assert all(s.ok for s in found)
    assert any("started anew" in s.cause for s in found)
    assert phone.files[GOVERNOR] == "powersave"
    assert phone.settings == settings


def test_a_power_mode_outlives_a_restart_and_is_given_back(tmp_path: Path) -> None:
    jetson = make_fake_jetson()
    files = state(jetson)[0]
    apply_settings(jetson, {"power_mode": 0}, folder=tmp_path).close()
    jetson.restart(files)
    assert all(s.ok for s in restore_settings(jetson, folder=tmp_path))
    assert jetson.tools["power mode"] == "2"


def test_what_somebody_else_changed_is_seen_and_still_given_back(tmp_path: Path) -> None:
    phone = make_fake_phone()
    with apply_settings_temporarily(phone, {"governor": "performance"}, folder=tmp_path) as preparation:
        phone.files[GOVERNOR] = "powersave"
        changed = [s for s in preparation.check() if not s.ok]
        assert [(s.name, s.actual) for s in changed] == [("governor", "powersave")]
        assert "something on the device changed it" in changed[0].cause
    assert phone.files[GOVERNOR] == "schedutil"
    assert any("set it to powersave meanwhile" in s.cause for s in preparation.restored)


def test_what_cannot_be_given_back_is_said_and_stays_in_the_journal(tmp_path: Path) -> None:
    phone = make_fake_phone()
    with apply_settings_temporarily(phone, {"governor": "performance"}, folder=tmp_path) as preparation:
        phone.fixed = (GOVERNOR,)
    (bad,) = [s for s in preparation.restored if not s.ok]
    assert (bad.name, bad.wanted, bad.actual) == ("governor", "schedutil", "performance")
    assert list_open_journals(tmp_path)[0][2] == 1
    phone.fixed = ()
    assert all(s.ok for s in restore_settings(phone, folder=tmp_path))
    assert phone.files[GOVERNOR] == "schedutil"
    assert not list_open_journals(tmp_path)


def test_an_error_inside_the_block_tells_what_could_not_be_given_back(tmp_path: Path) -> None:
    phone = make_fake_phone()
    with (
        pytest.raises(ConfigError, match=r"broken; governor could not be given back: run '.*--restore'"),
        apply_settings_temporarily(phone, {"governor": "powersave"}, folder=tmp_path),
    ):
        phone.fixed = (GOVERNOR,)
        raise ConfigError("broken")
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        apply_settings_temporarily(phone, {"brightness": 1}, folder=tmp_path),
    ):
        raise KeyboardInterrupt
    assert not getattr(caught.value, "__notes__", [])
    assert phone.settings["system/screen_brightness"] == "128"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    phone = make_fake_phone()
    with apply_settings_temporarily(phone, {"brightness": 0}, folder=tmp_path):
        with pytest.raises(LinkError, match="another process is changing the settings of Pixel 6 1A2B3C"):
            apply_settings(phone, {"brightness": 1}, folder=tmp_path)
        assert phone.settings["system/screen_brightness"] == "0"
    other = make_fake_phone()
    other.properties["ro.serialno"] = "OTHER"
    with (
        apply_settings_temporarily(phone, {"brightness": 0}, folder=tmp_path),
        apply_settings_temporarily(other, {"brightness": 0}, folder=tmp_path),
    ):
        assert len(list(tmp_path.glob("*.jsonl"))) == 2


CHILD = """
import os, signal, sys
from pathlib import Path
from deepen.devices.settings.apply_and_restore import apply_settings_temporarily
from deepen.testing.fake_boards import make_fake_phone
phone = make_fake_phone()
with apply_settings_temporarily(phone, {"governor": "performance", "brightness": 0}, folder=Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_really_killed_leaves_a_journal_that_another_one_restores(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], cwd=Path.cwd(), timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list_open_journals(tmp_path)[0][2] == 5
    phone = make_fake_phone()
    phone.settings["system/screen_brightness"] = "0"
    phone.files[GOVERNOR] = "performance"
    assert all(s.ok for s in restore_settings(phone, folder=tmp_path))
    assert (phone.settings["system/screen_brightness"], phone.files[GOVERNOR]) == ("128", "schedutil")


# ---- the journal file ----------------------------------------------------------------------------------------------


def journal(folder: Path) -> RestoreJournal:
    return RestoreJournal("k", "a phone", folder)


def test_a_torn_last_line_is_a_change_that_was_not_made(tmp_path: Path) -> None:
    opened = journal(tmp_path)
    layer = opened.begin(hold=False, boot_id="b")
    opened.change(layer, "brightness", SettingLocation("setting", "system/screen_brightness"), "128", "0")
    opened.close()
    whole = opened.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(len(lines[0]) + 1, len(whole), 5):
        opened.path.write_bytes(whole[:cut])
        again = journal(tmp_path)
        assert again.pending() == []
        assert again.path.stat().st_size == len(lines[0])
        again.change(1, "brightness", SettingLocation("setting", "system/screen_brightness"), "128", "0")
        assert len(again.pending()) == 1
        again.restored(1)
        again.close()
        assert not again.path.exists()


@pytest.mark.parametrize(
    "line",
    [
        b"rubbish",
        b"{}",
        b'{"event": "set", "number": 9, "after": "x"}',
        b'{"event": "change", "number": 1, "layer": 1, "knob": "fan", "kind": "file", "address": "/etc/passwd", '
        b'"before": "x", "wanted": "y"}',
        b'{"event": "change", "number": 1, "layer": 1, "knob": "fan", "kind": "file", "address": "/sys/../etc/x", '
        b'"before": "x", "wanted": "y"}',
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_written_from_it(line: bytes, tmp_path: Path) -> None:
    opened = journal(tmp_path)
    opened.begin(hold=True, boot_id="b")
    opened.change(1, "brightness", SettingLocation("setting", "system/screen_brightness"), "128", "0")
    opened.close()
    lines = opened.path.read_bytes().splitlines()
    opened.path.write_bytes(b"\n".join([lines[0], line, lines[1], b""]))
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        journal(tmp_path)
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        list_open_journals(tmp_path)


def test_each_change_is_on_the_disk_before_it_is_made(tmp_path: Path) -> None:
    phone = make_fake_phone()
    seen: list[tuple[str, str]] = []

    def watching(argv: Sequence[str], **options: Any) -> CompletedCommand:
        if argv[:2] == ["settings", "put"]:
            (file,) = tmp_path.glob("*.jsonl")
            event = json.loads(file.read_bytes().splitlines()[-1])
            seen.append((event["event"], event["address"]))
        return FakeShell.run(phone, argv, **options)

    phone.run = watching  # type: ignore[method-assign]
    apply_settings(phone, {"brightness": 0}, folder=tmp_path).close()
    assert seen == [("change", "system/screen_brightness_mode"), ("change", "system/screen_brightness")]


def test_the_journal_is_for_its_user_only(tmp_path: Path) -> None:
    opened = journal(tmp_path / "new")
    opened.begin(hold=True, boot_id="")
    assert opened.path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    opened.close()


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_a_link_in_the_place_of_a_journal_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / "k.jsonl").symlink_to(target)
    with pytest.raises(StorageError):
        journal(tmp_path)
    assert target.read_text() == "precious"


def test_a_hostile_serial_number_makes_a_plain_file_name() -> None:
    phone = make_fake_phone()
    phone.properties["ro.serialno"] = "../../x; $(reboot) '\n\""
    key = identify_device(Shell(phone)).key
    assert key.replace("-", "").isalnum()
    phone.properties["ro.serialno"] = "../../x; $(reboot) '\n\"2"
    assert identify_device(Shell(phone)).key != key


@pytest.mark.parametrize(
    ("kind", "address"),
    [("file", "/etc/passwd"), ("file", "/sys/a b"), ("file", "/sys/../x"), ("file", "/sys/$(x)"), ("shell", "x"),
     ("setting", "global/a;b"), ("setting", "other/a"), ("jetson_clocks", "/etc/x"), ("nvpmodel", "x")],
)  # fmt: skip
def test_places_that_are_none(kind: str, address: str) -> None:
    with pytest.raises(ConfigError, match="no place a setting can be in"):
        SettingLocation(kind, address)


def test_values_are_compared_by_what_they_mean() -> None:
    assert is_same_value("1", "1.0") and is_same_value("schedutil", "schedutil")
    assert (
        not is_same_value("1", "0")
        and not is_same_value(None, "1")
        and not is_same_value("1", None)
        and not is_same_value("a", "b")
    )
