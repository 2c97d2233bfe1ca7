"""Search spaces by name."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from deepen.errors import ConfigError, make_unknown_name_error
from deepen.spaces.nasbench101 import NasBench101
from deepen.spaces.nasbench201 import NasBench201
from deepen.spaces.space import Space
from deepen.spaces.user_defined import Generated

__all__ = ["SPACES", "open_space"]

SPACES: dict[str, tuple[type[Space], tuple[str, ...]]] = {
    "nasbench201": (NasBench201, ("classes", "resolution")),
    "nasbench101": (NasBench101, ("vertices", "classes", "resolution")),
}
"""Name -> class and the settings it takes."""


def open_space(text: str) -> Space:
    """Open a space.

    Args:
        text: ``nasbench201``, ``nasbench101?vertices=4``, or ``path/to/file.py:function``.

    Raises:
        ConfigError: If there is no such space or setting.
    """
    if re.search(r":[A-Za-z_]\w*$", text):
        return Generated(text)
    name, _, settings = text.partition("?")
    if name not in SPACES:
        raise make_unknown_name_error("space", name, [*SPACES, "path/to/file.py:function"])
    kind, known = SPACES[name]
    given: dict[str, int] = {}
    for key, value in parse_qsl(settings, keep_blank_values=True):
        if key not in known:
            raise make_unknown_name_error(f"setting of {name}", key, known)
        if not value.isdecimal():
            raise ConfigError(f"{text}: {key} is a whole number, not '{value}'")
        given[key] = int(value)
    return kind(**given)
