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

The class decides whether a caller may retry. A message says what happened, where, and what to do next, in one line. Who
needs one of these three reads the field (``cause``, ``subject``, ``cure``); no program searches a message for words.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar, Self

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
    """Root of every error deepen raises on purpose; its text is ``subject: cause; cure``.

    Attributes:
        retryable: Whether the same call may succeed later without a change by the user.
        exit_code: Exit status of the command line.
        subject: The file, instrument or device concerned; empty where the cause names it.
        cure: The remedy; empty where the cause says it or there is none.
    """

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, cause: str = "", *, subject: str = "", cure: str = "") -> None:
        """Describe what happened.

        Args:
            cause: The failure.
            subject: The file, instrument or device concerned.
            cure: The remedy.
        """
        super().__init__(cause)
        self.subject = subject
        self.cure = cure

    @property
    def cause(self) -> str:
        """The cause in one line of printable characters."""
        return _make_printable(super().__str__())

    def __str__(self) -> str:
        """Render the message as one line of printable characters; instruments and file names may add any others."""
        where = f"{self.subject}: " if self.subject else ""
        cure = f"; {self.cure}" if self.cure else ""
        return _make_printable(f"{where}{super().__str__()}{cure}")

    def with_subject(self, subject: str) -> Self:
        """Make the same error about a subject; what it was about so far goes before the cause.

        Raise the result ``from`` this one.
        """
        if self.subject in ("", subject):
            return type(self)(super().__str__(), subject=subject, cure=self.cure)
        return type(self)(f"{self.subject}: {super().__str__()}", subject=subject, cure=self.cure)


def _make_printable(text: str) -> str:
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
    return ConfigError(f"unknown {kind} '{name}'", cure=hint)
