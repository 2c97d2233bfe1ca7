from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepen.devices.links.quoting import MAX_TEXT, format_env_arguments, shell_join
from deepen.errors import ConfigError

SHELLS = [s for s in ("dash", "bash", "busybox", "mksh", "zsh") if shutil.which(s)] or ["sh"]
HOSTILE = [
    "", " ", "\n", "a\nb", "'", "''", '"', "\\", "\\'", "$(touch /tmp/deepen-was-here)", "`id`", "${HOME}", "$HOME",
    "!x", "!!", "*", "?", "[a]", "~", "~root", "#", "a;b", "a&b", "a|b", "<x", ">x", "(x)", "{a,b}", "\t", "\r\n", "-n",
    "--", "=", "a=b", "%s", "\x01\x7f", "é ☃ \U0001f600", "'$(id)'", "\"'`$\\", "a'b'c", "\u2028",
]  # fmt: skip


def taken_apart(text: str, shell: str) -> list[str]:
    """What a program sees as its arguments when a shell runs a command line."""
    command = [shell, "sh", "-c", text] if shell == "busybox" else [shell, "-c", text]
    done = subprocess.run(command, capture_output=True, check=True, timeout=20)
    assert done.stderr == b""
    return [part.decode("utf-8", "surrogateescape") for part in done.stdout.split(b"\0")[:-1]]


@pytest.mark.parametrize("shell", SHELLS)
def test_hostile_arguments_arrive_as_they_are(shell: str) -> None:
    assert taken_apart(shell_join(["printf", "%s\\0", *HOSTILE]), shell) == HOSTILE


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=6))
def test_any_arguments_arrive_as_they_are(arguments: list[str]) -> None:
    assert taken_apart(shell_join(["printf", "%s\\0", *arguments]), SHELLS[0]) == arguments


def test_bytes_that_are_no_text_arrive_as_they_are() -> None:
    raw = b"\xff\xfe name".decode("utf-8", "surrogateescape")
    command = shell_join(["printf", "%s", raw]).encode("utf-8", "surrogateescape")
    assert subprocess.run([b"sh", b"-c", command], capture_output=True, check=True).stdout == b"\xff\xfe name"


def test_a_command_line_within_a_command_line() -> None:
    inner = shell_join(["printf", "%s\\0", *HOSTILE])
    assert taken_apart(shell_join(["sh", "-c", inner]), SHELLS[0]) == HOSTILE


def test_plain_words_stay_readable() -> None:
    assert shell_join(["cat", "/sys/class/thermal/thermal_zone0/temp"]) == "cat /sys/class/thermal/thermal_zone0/temp"


@pytest.mark.parametrize("argv", [[], [""], ["-x"], ["a", "b\0c"], ["x" * (MAX_TEXT + 1)], "ls -l"])
def test_what_is_no_command_is_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError):
        shell_join(argv)


@pytest.mark.parametrize("name", ["", "1A", "A B", "A;B", "A=B", "$(id)", "É"])
def test_what_is_no_variable_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not the name of an environment variable"):
        format_env_arguments({name: "1"})


def test_values_of_variables_are_free_except_for_nul() -> None:
    assert format_env_arguments({"A": "x\n'$(id)"}) == ["A=x\n'$(id)"]
    with pytest.raises(ConfigError, match="NUL"):
        format_env_arguments({"A": "\0"})
