"""Search spaces by name."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from deepen.errors import ConfigError, make_unknown_name_error
from deepen.registry import Registry
from deepen.spaces.space import SearchSpace
from deepen.spaces.user_defined import GeneratedSpace

__all__ = ["SPACES", "open_space"]

SPACES: Registry[type[SearchSpace]] = Registry(
    "space",
    {
        "nasbench201": "deepen.spaces.nasbench201:NasBench201Space",
        "nasbench101": "deepen.spaces.nasbench101:NasBench101Space",
    },
)
"""Name -> class, imported on first use."""


def open_space(text: str) -> SearchSpace:
    """Open a space.

    Args:
        text: ``nasbench201``, ``nasbench101?vertices=4``, or ``path/to/file.py:function``.

    Raises:
        ConfigError: If there is no such space or setting.
    """
    if re.search(r":[A-Za-z_]\w*$", text):
        return GeneratedSpace(text)
    name, _, settings = text.partition("?")
    kind = SPACES.load(name, ["path/to/file.py:function"])
    given: dict[str, int] = {}
    for key, value in parse_qsl(settings, keep_blank_values=True):
        if key not in kind.settings:
            raise make_unknown_name_error(f"setting of {name}", key, kind.settings)
        if not value.isdecimal():
            raise ConfigError(f"{text}: {key} is a whole number, not '{value}'")
        given[key] = int(value)
    return kind(**given)
