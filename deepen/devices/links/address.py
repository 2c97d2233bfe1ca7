"""Parsing of device addresses: the text after the colon in ``--device adb:...`` and ``--device ssh:...``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl

from deepen.errors import ConfigError, make_unknown_name_error

__all__ = ["parse_host_and_port", "split_options"]

_HOST_PORT = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\]|(?P<host>[^\s:\[\]/]+)):(?P<port>\d{1,5})"
)


def split_options(text: str, known: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Split ``ADDRESS?key=value&key=value`` into the address and its options.

    Raises:
        ConfigError: If an option is unknown, malformed or given twice.
    """
    address, mark, query = text.partition("?")
    options: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if mark else []
        if mark and not pairs:
            raise ValueError("no option")
    except ValueError as error:
        raise ConfigError(f"'{text}': after '?' write key=value, with '&' between several") from error
    for key, value in pairs:
        if key not in known:
            raise make_unknown_name_error("option of a device", key, known)
        if key in options or not value:
            raise ConfigError(f"'{text}': give '{key}' once, with a value")
        options[key] = value
    return address, options


def parse_host_and_port(text: str) -> tuple[str, int] | None:
    """Parse ``HOST:PORT`` or ``[IPv6]:PORT``; return ``None`` if the text is neither.

    Raises:
        ConfigError: If the port is not between 1 and 65535.
    """
    found = _HOST_PORT.fullmatch(text)
    if found is None:
        return None
    port = int(found["port"])
    if not 0 < port < 65536:
        raise ConfigError(f"'{text}': a port is between 1 and 65535")
    return found["six"] or found["host"], port
