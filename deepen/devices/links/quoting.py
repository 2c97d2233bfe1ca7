"""Shell quoting: every command line that reaches a shell on a device is made by :func:`shell_join`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from deepen.errors import ConfigError

__all__ = ["MAX_TEXT", "check_argv", "format_env_arguments", "shell_join"]

MAX_TEXT = 60_000
"""Longest shell text in bytes: the adb server takes a service name of at most 0xffff bytes (ADB's OVERVIEW.TXT)."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r"[A-Za-z0-9_@%+:,./-]+")


def check_argv(argv: Sequence[str]) -> list[str]:
    """Check that an argument list can be passed to a program.

    Raises:
        ConfigError: If it is empty, names no program, or holds a NUL byte.
    """
    if isinstance(argv, str):
        raise ConfigError(f"a command is a list of arguments, not the text {argv[:40]!r}")
    found = list(argv)
    if not found or not found[0] or found[0].startswith("-"):
        raise ConfigError(f"a command begins with the name of a program, not {found[:1]!r}")
    for argument in found:
        if "\0" in argument:
            raise ConfigError(f"an argument of {found[0][:40]!r} holds a NUL byte; no program can be given one")
    return found


def shell_join(argv: Sequence[str]) -> str:
    """Make a command line that a POSIX shell splits into exactly these arguments (POSIX.1-2017, XCU 2.2.2).

    An argument with anything but letters, digits and a few harmless signs is put between single quotes, inside which no
    character is special to a shell; a single quote itself goes between double quotes.

    Raises:
        ConfigError: If the list is empty, names no program, holds a NUL byte, or is too long for a link.
    """
    words = []
    for argument in check_argv(argv):
        plain = _PLAIN.fullmatch(argument) is not None
        words.append(argument if plain else "'" + argument.replace("'", "'\"'\"'") + "'")
    text = " ".join(words)
    if len(text.encode("utf-8", "surrogateescape")) > MAX_TEXT:
        raise ConfigError(f"the command line of {argv[0][:40]!r} is longer than {MAX_TEXT} bytes; push a file instead")
    return text


def format_env_arguments(env: Mapping[str, str]) -> list[str]:
    """Format variables as ``NAME=value`` arguments for ``env``.

    Raises:
        ConfigError: If a name is not the name of a variable or a value holds a NUL byte.
    """
    for name, value in env.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is not the name of an environment variable")
        if "\0" in value:
            raise ConfigError(f"the environment variable {name} holds a NUL byte")
    return [f"{name}={value}" for name, value in env.items()]
