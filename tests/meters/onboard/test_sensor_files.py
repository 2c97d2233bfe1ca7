from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.errors import LinkError, MeterError
from deepen.meters.sensor_files import (
    CommandFiles,
    CommandOutput,
    LocalFiles,
    SensorFiles,
    natural_sort_key,
    read_number,
    read_numbers,
    read_text_or_empty,
)

Write = Callable[[dict[str, str]], Path]

TREE = {
    "sys/devices/i2c/1-0040/hwmon/hwmon2/name": "ina3221\n",
    "sys/devices/i2c/1-0040/hwmon/hwmon2/in1_input": " 5000 \n",
    "sys/devices/i2c/1-0040/hwmon/hwmon2/in1_label": "VDD_IN\n",
    "sys/devices/i2c/1-0041/hwmon/hwmon10/name": "ina3221\n",
    "sys/devices/i2c/1-0041/hwmon/hwmon10/empty": "",
    "sys/bus/iio/devices/iio:device0/name": "a:b\n",
    "proc/stat": "cpu  1 2\ncpu0 1 2\n",
}


@pytest.fixture(params=["local", "across", "across, one output"])
def files(
    request: pytest.FixtureRequest, sysfs: Write, across: Callable[..., CommandFiles], tmp_path: Path
) -> SensorFiles:
    """The same machine, here and across links."""
    root = sysfs(TREE)
    for name, folder in (("hwmon2", "1-0040/hwmon/hwmon2"), ("hwmon10", "1-0041/hwmon/hwmon10")):
        (root / "sys/class/hwmon").mkdir(parents=True, exist_ok=True)
        (root / "sys/class/hwmon" / name).symlink_to(root / "sys/devices/i2c" / folder)
    if request.param == "local":
        return LocalFiles(root)
    return across(merge=request.param.endswith("output"))


def test_both_are_files(files: SensorFiles) -> None:
    assert isinstance(files, SensorFiles)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/sys/class/hwmon/hwmon*/name", ["/sys/class/hwmon/hwmon2/name", "/sys/class/hwmon/hwmon10/name"]),
        (
            "/sys/devices/i2c/*/hwmon/hwmon*/in*_label",
            ["/sys/devices/i2c/1-0040/hwmon/hwmon2/in1_label"],
        ),
        ("/sys/bus/iio/devices/iio:device*/name", ["/sys/bus/iio/devices/iio:device0/name"]),
        ("/sys/devices/i2c/1-004[1]", ["/sys/devices/i2c/1-0041"]),
        ("/sys/devices/*/*/hwmon", ["/sys/devices/i2c/1-0040/hwmon", "/sys/devices/i2c/1-0041/hwmon"]),
        ("/sys/devices/i2c/*", ["/sys/devices/i2c/1-0040", "/sys/devices/i2c/1-0041"]),
        ("/proc/stat", ["/proc/stat"]),
        ("/proc/nothing", []),
        ("/nowhere/*/name", []),
        ("/sys/class/hwmon/hwmon*/nothing", []),
        ("/sys/*/hwmon/hwmon?/in1_*", ["/sys/class/hwmon/hwmon2/in1_input", "/sys/class/hwmon/hwmon2/in1_label"]),
    ],
)
def test_patterns_follow_links_and_sort_by_number(files: SensorFiles, pattern: str, expected: list[str]) -> None:
    assert files.glob(pattern) == expected


def test_contents_come_stripped_and_in_the_order_asked(files: SensorFiles) -> None:
    base = "/sys/class/hwmon/hwmon2"
    assert files.read(f"{base}/in1_input") == "5000"
    paths = [f"{base}/name", "/sys/bus/iio/devices/iio:device0/name", f"{base}/in1_input", f"{base}/name"]
    assert files.read_all(paths) == ["ina3221", "a:b", "5000", "ina3221"]
    assert files.read_all(["/proc/stat", f"{base}/name"]) == ["cpu  1 2\ncpu0 1 2", "ina3221"]
    assert files.read_all(["/sys/class/hwmon/hwmon10/empty", f"{base}/name"]) == ["", "ina3221"]
    assert files.read_all([]) == []


@pytest.mark.parametrize("paths", [["/nothing"], ["/proc/stat", "/nothing"], ["/nothing", "/proc/stat"]])
def test_what_is_not_there_is_an_error_never_an_empty_text(files: SensorFiles, paths: list[str]) -> None:
    with pytest.raises(FileNotFoundError):
        files.read_all(paths)
    with pytest.raises(FileNotFoundError):
        files.read("/nothing")
    assert read_text_or_empty(files, "/nothing") == ""
    assert read_number(files, "/nothing") is None
    with pytest.raises(MeterError, match=r"x: cannot read .*nothing"):
        read_numbers(files, paths, "x")


def test_numbers_are_numbers_or_an_error(files: SensorFiles) -> None:
    base = "/sys/class/hwmon/hwmon2"
    assert read_numbers(files, [f"{base}/in1_input"], "x") == [5000.0]
    assert read_number(files, f"{base}/name") is None
    with pytest.raises(MeterError, match=r"name holds 'ina3221', no number"):
        read_numbers(files, [f"{base}/in1_input", f"{base}/name"], "x")


@pytest.mark.parametrize("content", ["inf", "-inf", "nan", "1e999"])
def test_what_is_not_finite_is_no_number(tmp_path: Path, content: str) -> None:
    (tmp_path / "value").write_text(content)
    files = LocalFiles(tmp_path)
    assert read_number(files, "/value") is None
    with pytest.raises(MeterError, match="no number"):
        read_numbers(files, ["/value"], "x")


def test_commands_come_from_the_machine_itself(
    files: SensorFiles, program: Callable[[str, str], Path], tmp_path: Path
) -> None:
    program("vcgencmd", "hello\n")
    assert files.run(["vcgencmd", "a b", "; rm -rf /"]).stdout == "hello\n"
    with pytest.raises(FileNotFoundError):
        files.run(["vcgencmd2"])
    with pytest.raises(FileNotFoundError):
        files.run(["python3"])  # it is on this machine, not on the recorded one


def test_commands_of_this_machine() -> None:
    done = LocalFiles().run(
        [sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"]
    )
    assert (done.code, done.stdout, done.stderr) == (3, "out\n", "err\n")
    with pytest.raises(TimeoutError, match="no answer within"):
        LocalFiles().run([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.2)


def test_a_batch_costs_one_command_and_a_pattern_one_per_level(
    across: Callable[..., CommandFiles], sysfs: Write
) -> None:
    sysfs(TREE)
    files = across()
    link = files._run
    files.read_all([f"/{name}" for name in TREE])
    assert len(link.commands) == 1  # type: ignore[attr-defined]
    files.glob("/sys/devices/i2c/*/hwmon/hwmon*/name")
    assert [c[0] for c in link.commands[1:]] == ["find", "ls", "find", "ls"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("stderr", "error"),
    [
        ("cat: /x: Permission denied", PermissionError),
        ("cat: can't open '/x': No such file or directory", FileNotFoundError),
        ("cat: /x: No data available", OSError),
        ("cat: read error: Input/output error", OSError),
        ("", OSError),
    ],
)
@pytest.mark.parametrize("merged", [False, True])
def test_complaints_become_the_errors_of_the_system(stderr: str, error: type[OSError], merged: bool) -> None:
    answer = CommandOutput(1, stderr, "") if merged else CommandOutput(1, "", stderr)
    with pytest.raises(error) as caught:
        CommandFiles(lambda argv, timeout_s: answer).read("/x")
    assert type(caught.value) is error
    assert caught.value.filename == "/x"


def test_a_complaint_about_one_of_many_names_it() -> None:
    files = CommandFiles(lambda argv, timeout_s: CommandOutput(2, "/a:1\n", "grep: /b: Permission denied\n"))
    with pytest.raises(PermissionError) as caught:
        files.read_all(["/a", "/b"])
    assert caught.value.filename == "/b"
    with pytest.raises(MeterError, match="no permission to read /b; ask root"):
        read_numbers(files, ["/a", "/b"], "x", "ask root")


def test_a_link_that_breaks_is_no_missing_file() -> None:
    def gone(argv: Sequence[str], timeout_s: float) -> CommandOutput:
        raise LinkError("the device is gone")

    files = CommandFiles(gone)
    with pytest.raises(LinkError):
        read_text_or_empty(files, "/x")
    with pytest.raises(LinkError):
        files.glob("/sys/*")


@pytest.mark.parametrize(("code", "error"), [(127, FileNotFoundError), (126, PermissionError)])
def test_commands_a_shell_could_not_run(code: int, error: type[OSError]) -> None:
    with pytest.raises(error):
        CommandFiles(lambda argv, timeout_s: CommandOutput(code, "", "sh: nope")).run(["nope"])


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=20))
def test_natural_order_is_that_of_the_numbers(numbers_: list[int]) -> None:
    assert sorted((f"/a/hwmon{n}/x" for n in numbers_), key=natural_sort_key) == [
        f"/a/hwmon{n}/x" for n in sorted(numbers_)
    ]


def test_a_path_that_begins_like_another_keeps_its_own_content() -> None:
    files = CommandFiles(lambda argv, timeout_s: CommandOutput(0, "/a:b:1\n/a:2\n"))
    assert files.read_all(["/a", "/a:b"]) == ["2", "1"]
