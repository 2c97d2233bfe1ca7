"""Reader of the content folders: kernels, devices, predictors, datasets. No other module reads them.

They are in ``$DEEPEN_CATALOG``, else in the checkout of this package, else in the copy inside the wheel
(``deepen/_catalog``).
"""

from __future__ import annotations

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal

from deepen.errors import ConfigError, make_unknown_name_error

__all__ = ["ContentKind", "find_path", "find_root", "list_names", "load_toml"]

ContentKind = Literal["kernels", "devices", "predictors", "datasets"]


@cache
def _find_installed_root() -> Path:
    package = Path(__file__).resolve().parent
    checkout = package.parent
    if (checkout / "setup.cfg").is_file() and (checkout / "kernels").is_dir():
        return checkout
    return package / "_catalog"


def find_root() -> Path:
    """Find the folder that holds the content folders.

    Raises:
        ConfigError: If ``$DEEPEN_CATALOG`` is not a folder.
    """
    override = os.environ.get("DEEPEN_CATALOG")
    if not override:
        return _find_installed_root()
    folder = Path(override)
    if not folder.is_dir():
        raise ConfigError(f"DEEPEN_CATALOG names '{override}', which is not a folder; unset it or correct it")
    return folder


def find_path(noun: ContentKind, *parts: str) -> Path:
    """Find the path of a content file or folder.

    Raises:
        ConfigError: If the path would leave the content folder.
    """
    base = (find_root() / noun).resolve()
    target = base.joinpath(*parts).resolve()
    if not target.is_relative_to(base):
        raise ConfigError(f"'{'/'.join(parts)}' leaves the folder {noun}; use a plain name")
    return target


def list_names(noun: ContentKind, folder: str = "", suffix: str = ".toml") -> list[str]:
    """List the names (without suffix) of the content files in a folder, sorted; empty if the folder is absent."""
    where = find_path(noun, folder) if folder else find_path(noun)
    if not where.is_dir():
        return []
    return sorted(p.name[: -len(suffix)] for p in where.iterdir() if p.name.endswith(suffix))


def load_toml(noun: ContentKind, folder: str, name: str) -> dict[str, Any]:
    """Read one TOML content file.

    Raises:
        ConfigError: If there is no such file (with the nearest names) or it is not TOML.
    """
    file = find_path(noun, folder, f"{name}.toml")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise make_unknown_name_error(f"{noun} entry", name, list_names(noun, folder)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML ({error}); correct the file") from error
