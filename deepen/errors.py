"""Exceptions that deepen raises on purpose.

::

    DeepenError                 exit 1
    ├── ConfigError             a name, option or content file is wrong
    ├── GraphError              a model file cannot be read as a graph
    ├── DatasetError            a dataset cannot be read or written
    ├── PredictorError          a predictor cannot be trained, read or applied
    ├── MeasureError            a measurement is not trustworthy
    ├── RunError                a workload failed on the device and will fail again
    └── EnvironmentFailure      exit 3: the same call may succeed later
        ├── LinkError           the device cannot be reached
        ├── MeterError          the power source does not answer
        └── StorageError        the disk is full, read-only or locked

The class decides whether a caller may retry. A message says what happened, where, and what to do next, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "ConfigError",
    "DatasetError",
    "DeepenError",
    "EnvironmentFailure",
    "GraphError",
    "LinkError",
    "MeasureError",
    "MeterError",
    "PredictorError",
    "RunError",
    "StorageError",
    "make_unknown_name_error",
]


class DeepenError(Exception):
    """Root of every error deepen raises on purpose.

    Attributes:
        retryable: Whether the same call may succeed later without a change by the user.
        exit_code: Exit status of the command line.
    """

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        """Render the message as one line of printable characters; instruments and file names may add any others."""
        text = super().__str__()
        return text if text.isprintable() else " ".join("".join(c if c.isprintable() else " " for c in text).split())


class ConfigError(DeepenError):
    """A name, an option value or a content file is wrong."""


class GraphError(DeepenError):
    """A model file cannot be read as a graph."""


class DatasetError(DeepenError):
    """A dataset cannot be read or written as requested."""


class PredictorError(DeepenError):
    """A predictor cannot be trained, read or applied."""


class MeasureError(DeepenError):
    """A measurement did not meet its own rules and must not be used."""


class RunError(DeepenError):
    """A workload failed on the device and will fail again."""


class EnvironmentFailure(DeepenError):
    """The surroundings failed (device, meter, disk); the same call may succeed later."""

    retryable: ClassVar[bool] = True
    exit_code: ClassVar[int] = 3


class LinkError(EnvironmentFailure):
    """A device cannot be reached or stopped answering."""


class MeterError(EnvironmentFailure):
    """A power source cannot be opened or stopped answering."""


class StorageError(EnvironmentFailure):
    """The disk is full, read-only, or the file is locked by another process."""


def make_unknown_name_error(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Make the error for a name that is not known, with the nearest names.

    Args:
        kind: Kind of thing named, for example ``"device"``.
        name: The name as given.
        known: The names that exist.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names) or 'none'}"
    return ConfigError(f"unknown {kind} '{name}'; {hint}")
