"""Packages beyond the base installation, and the extra that brings each.

The base (``pip install deepen``) splits, predicts and profiles. Modules import what else they need inside the function
that needs it; where that would be noticed late or by a user of the library, :func:`require_packages` comes first. The
command line turns any other import that fails into the same message.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from deepen.errors import ConfigError

__all__ = ["EXTRAS", "make_missing_package_error", "require_packages"]

EXTRAS: Mapping[str, str] = {
    "lightgbm": "train",
    "scipy": "train",
    "sklearn": "train",
    "threadpoolctl": "train",
    "pandas": "data",
    "pyarrow": "data",
    "matplotlib": "report",
    "moocore": "search",
    "optuna": "search",
    "pymoo": "search",
    "ai_edge_litert": "litert",
    "adb_shell": "adb",
    "asyncssh": "ssh",
    "otii_tcp_client": "otii",
    "pyjls": "joulescope",
    "pyvisa": "visa",
    "serial": "serial",
    "usb": "hvpm",
}
"""Importable module -> extra of deepen that installs it."""


def make_missing_package_error(purpose: str, module: str) -> ConfigError:
    """Make the error for a package that is not installed.

    Args:
        purpose: The work that needs it.
        module: Name under which it is imported, one of :data:`EXTRAS`.
    """
    cure = f"pip install 'deepen[{EXTRAS[module]}]'"
    return ConfigError(f"{purpose} needs the package {module}, which is not installed; {cure}")


def require_packages(purpose: str, *modules: str) -> None:
    """Check that packages are installed, without importing them.

    Args:
        purpose: The work that needs them, for the message.
        modules: Names under which they are imported.

    Raises:
        ConfigError: If one is missing, with the extra that brings it.
    """
    for module in modules:
        try:
            found = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            raise make_missing_package_error(purpose, module)
