"""Ports: every kind opens, every failure says its cause and its cure."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import serial

from deepen.errors import ConfigError, MeterError
from deepen.meters import MeterSpec
from deepen.meters.ports import locks
from deepen.meters.ports import serial_port as port
from deepen.meters.ports.protocol import Port
from deepen.meters.ports.serial_port import get_source_label, open_port
from tests.support.terminals import PATIENCE_S, read_bytes


def read_all(opened: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = opened.read(PATIENCE_S)
        assert chunk, f"only {data!r} came"
        data += chunk
    return data


def test_a_terminal_is_read_at_once_and_written(terminal: tuple[int, str]) -> None:
    master, path = terminal
    opened = open_port(path)
    assert isinstance(opened, Port)
    assert opened.name == path
    assert opened.pseudo
    assert opened.read(0.0) == b""
    os.write(master, b"x" * 3000)
    assert read_all(opened, 3000) == b"x" * 3000
    opened.write(b"hello")
    assert read_bytes(master, 5) == b"hello"
    os.write(master, b"old")
    opened.flush_input()
    os.write(master, b"new")
    assert read_all(opened, 3) == b"new"
    assert isinstance(opened.fileno(), int)
    opened.close()
    opened.close()
    assert opened.fileno() is None


def test_more_than_a_terminal_hands_out_at_once_comes_in_one_read(terminal: tuple[int, str]) -> None:
    master, path = terminal
    opened = open_port(path)
    data = bytes(range(256)) * 40
    writer = threading.Thread(target=lambda: os.write(master, data))
    writer.start()
    assert read_all(opened, len(data)) == data
    writer.join()
    opened.close()


def test_a_terminal_whose_other_end_is_gone_says_so(terminal: tuple[int, str]) -> None:
    master, path = terminal
    opened = open_port(path)
    os.write(master, b"last words")
    assert read_all(opened, 10) == b"last words"
    os.close(master)
    for use in (lambda: opened.read(0.1), lambda: opened.write(b"x"), opened.flush_input):
        with pytest.raises(MeterError, match=rf"{path} is gone .*plug the instrument in"):
            use()
    opened.close()
    with pytest.raises(MeterError, match="gone"):
        opened.write(b"x")


def test_loop_gives_back_what_was_written() -> None:
    one, two = open_port("loop://"), open_port("loop://")
    one.write(b"abc")
    assert one.read(0.1) == b"abc"
    assert one.read(0.0) == b""
    assert two.read(0.0) == b""
    assert one.pseudo
    assert one.fileno() is None
    one.close()
    two.close()


def test_spy_writes_down_what_goes_by(terminal: tuple[int, str], tmp_path: Path) -> None:
    master, path = terminal
    log = tmp_path / "log"
    opened = open_port(f"spy://{path}%3Ffile={log}")
    assert opened.pseudo
    opened.write(b"ask")
    os.write(master, b"answer")
    assert read_all(opened, 6) == b"answer"
    opened.close()
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [line[-1] for line in lines if line[1] == "TX"] == ["ask"]
    assert "".join(line[-1] for line in lines if line[1] == "RX") == "answer"


@pytest.fixture
def server() -> Any:
    listener = socket.create_server(("127.0.0.1", 0))
    yield listener
    listener.close()


def test_a_socket_is_read_and_written_and_its_end_is_seen(server: socket.socket) -> None:
    opened = open_port(f"socket://127.0.0.1:{server.getsockname()[1]}")
    assert opened.pseudo
    peer, _ = server.accept()
    peer.sendall(b"y" * 5000)
    assert read_all(opened, 5000) == b"y" * 5000
    opened.write(b"ask")
    assert read_bytes(peer.fileno(), 3) == b"ask"
    assert opened.read(0.0) == b""
    peer.close()
    with pytest.raises(MeterError, match="gone"):
        opened.read(1.0)
    opened.close()


def test_a_socket_nobody_listens_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
    with pytest.raises(MeterError, match=f"nothing answers at socket://127.0.0.1:{number}; start the server"):
        open_port(f"socket://127.0.0.1:{number}")


def usb(device: str, serial_number: str | None = "S1", **fields: Any) -> Any:
    base = {"description": "Toy", "product": "Toy", "vid": 1, "pid": 2, "location": "1-1:1.0"}
    return SimpleNamespace(device=device, serial_number=serial_number, **{**base, **fields})


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_ports(*found: Any) -> None:
        monkeypatch.setattr(port, "list_serial_ports", lambda: list(found))

    return set_ports


def test_a_missing_port_lists_those_there_are(ports: Callable[..., None]) -> None:
    ports(usb("/dev/ttyACM3"), usb("/dev/ttyS0", vid=None))
    with pytest.raises(MeterError, match=r"no port /dev/ttyACM99; ports here: /dev/ttyACM3 \(Toy\), /dev/ttyS0$"):
        open_port("/dev/ttyACM99")
    ports()
    with pytest.raises(MeterError, match="no serial ports here: plug the instrument in"):
        open_port("/dev/ttyACM99")


def test_things_that_are_no_ports(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(MeterError, match="not a serial port but a file"):
        open_port(str(file))
    with pytest.raises(MeterError, match="not a serial port but a folder"):
        open_port(str(tmp_path))
    with pytest.raises(MeterError, match="/dev/null"):
        open_port("/dev/null", exclusive=False)
    with pytest.raises(MeterError, match=r"nonsense://x is not a port .*pyserial URL"):
        open_port("nonsense://x")
    with pytest.raises(ConfigError, match="no port was named"):
        open_port("")
    with pytest.raises(MeterError, match=r"cannot open socket://localhost%3Fwhat=1|is not a port"):
        open_port("socket://localhost%3Fwhat=1")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.EACCES, r"no permission to open .*60-deepen-meters\.rules .*udevadm.*dialout"),
        (errno.EBUSY, r"in use by another program; end it"),
        (errno.EAGAIN, r"in use by another program; end it"),
        (errno.ENXIO, r"there is no port"),
        (errno.ENOTTY, r"is not a serial port, or cannot do 115200 baud"),
        (errno.EMFILE, r"cannot open"),
    ],
)
def test_failures_to_open_say_cause_and_cure(
    code: int, message: str, terminal: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise serial.SerialException(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(serial, "serial_for_url", fail)
        with pytest.raises(MeterError, match=message) as caught:
            open_port(terminal[1])
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value.__cause__, serial.SerialException)
    open_port(terminal[1]).close()  # the lock was given back


def test_the_rule_file_named_by_the_cure_is_well_formed_and_knows_the_instruments() -> None:
    text = Path(port.describe_udev_fix().split()[2]).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    term = r'[A-Z_]+(\{[A-Za-z_]+\})?(==|\+=|=)"[^"]*"'
    assert all(re.fullmatch(rf"{term}(, {term})*", line) for line in lines)
    targets = {name for line in lines for name in re.findall('GOTO="([^"]*)"', line)}
    assert targets == {name for line in lines for name in re.findall('LABEL="([^"]*)"', line)}
    known = {
        (vendor, product)
        for line in lines
        for vendor, products in re.findall(r'idVendor\}=="(\w+)", ATTRS?\{idProduct\}=="([^"]+)"', line)
        for product in products.split("|")
    }
    assert {("2ab9", "0001"), ("1915", "c00a"), ("0483", "5740"), ("16d0", "0e88"), ("16d0", "10ba")} <= known
    serial_lines = lines[lines.index('LABEL="deepen_meters_tty"') + 1 : -1]
    assert all("ID_MM_PORT_IGNORE" in line for line in serial_lines)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(MeterError, match=r"pip install 'deepen\[serial\]'"):
        open_port("/dev/ttyACM0")


def test_a_port_serves_one_at_a_time(terminal: tuple[int, str]) -> None:
    first = open_port(terminal[1])
    with pytest.raises(MeterError, match="in use by this process itself"):
        open_port(terminal[1])
    first.close()
    open_port(terminal[1]).close()


def test_two_ports_of_one_instrument_exclude_each_other(ports: Callable[..., None]) -> None:
    pairs = [os.openpty(), os.openpty()]
    one, two = (os.ttyname(slave) for _, slave in pairs)
    ports(usb(one, "S7"), usb(two, "S7"))
    opened = open_port(one)
    with pytest.raises(MeterError, match=f"{two} is in use"):
        open_port(two)
    opened.close()
    ports(usb(one, "S7"), usb(two, "S8"))
    opened, other = open_port(one), open_port(two)
    opened.close()
    other.close()
    for pair in pairs:
        for fd in pair:
            os.close(fd)


HOLD = """
import sys
from deepen.meters.ports.locks import InstrumentLock
lock = InstrumentLock(sys.argv[1], "it")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_names_its_holder_and_goes_with_it(repo_root: Path) -> None:
    command = [sys.executable, "-c", HOLD, "bench meter 7"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repo_root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(MeterError, match=rf"meter 7 is in use by process {process.pid} \(.*python.*\)"):
            locks.InstrumentLock("bench meter 7", "meter 7")
        process.kill()
        process.wait()
    lock = locks.InstrumentLock("bench meter 7", "meter 7")  # the file of the dead holder is no obstacle
    assert lock.identity == "bench meter 7"
    lock.release()
    lock.release()


def test_a_lock_whose_file_tells_nothing_still_locks() -> None:
    lock = locks.InstrumentLock("silent", "it")
    os.ftruncate(lock.fileno(), 0)
    with pytest.raises(MeterError, match="in use by another process"):
        locks.InstrumentLock("silent", "it")
    lock.release()


def test_the_lock_folder_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = locks.get_lock_folder()
    assert folder == tmp_path / "deepen-meters"
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "absent"))
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    assert locks.get_lock_folder() == tmp_path / f"deepen-meters-{os.getuid()}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    locks.get_lock_folder().rmdir()
    (tmp_path / f"deepen-meters-{os.getuid()}").symlink_to(elsewhere)
    with pytest.raises(MeterError, match="belongs to somebody else"):
        locks.get_lock_folder()


def test_programs_that_lock_nothing_are_seen_too(
    terminal: tuple[int, str], repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, sys; os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, terminal[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        assert process.pid in locks.find_device_users(terminal[1])
        monkeypatch.setattr(port, "_is_pseudo", lambda url, device: False)  # as if it were real
        with pytest.raises(MeterError, match=rf"in use by process {process.pid} \(.*\); end that first"):
            open_port(terminal[1])
        process.communicate()
    open_port(terminal[1]).close()


@pytest.mark.parametrize(
    ("pseudo", "given", "label"),
    [
        (True, "", "simulated"),
        (True, "measured", "measured"),
        (False, "", "measured"),
        (False, "simulated", "simulated"),
    ],
)
def test_labels(pseudo: bool, given: str, label: str) -> None:
    options = {"source": given} if given else {}
    assert get_source_label(SimpleNamespace(pseudo=pseudo), MeterSpec("m", options=options)) == label  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "pseudo"),
    [
        ("socket://127.0.0.1:5000", True),
        ("socket://localhost:5000", True),
        ("socket://[::1]:5000", True),
        ("socket://192.168.1.7:5000", False),
        ("socket://bench-3:5000", False),
        ("rfc2217://10.0.0.1:5000", False),
        ("loop://", True),
        ("/dev/ttyACM0", False),
        ("/dev/pts/77", True),
        ("spy:///dev/pts/77?file=x", True),
        ("spy:///dev/ttyACM0", False),
    ],
)
def test_what_only_software_can_answer(url: str, pseudo: bool) -> None:
    assert port._is_pseudo(url, port._get_device_file(url)) is pseudo
