"""The manifest of a trace: its metadata as JSON, carried by every file format that deepen writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from deepen.clock import SampleLoss
from deepen.clock.host_clock import ClockMap
from deepen.errors import ConfigError, MeasureError
from deepen.records import Accuracy, TraceWarning, WarningCode
from deepen.traces.types import TraceHeader

__all__ = ["FORMAT_NAME", "FORMAT_VERSION", "TraceManifest", "TracePart"]

FORMAT_NAME = "deepen-trace"
FORMAT_VERSION = 1
"""Version of the manifest; a reader refuses a newer one."""


@dataclass(frozen=True, slots=True)
class TracePart:
    """One Parquet file of a trace folder.

    Attributes:
        file: Its name.
        samples: Number of samples in it.
        first: Position (``index``) or time in seconds (``stamps``) of the first sample.
        last: The same of the last sample.
    """

    file: str
    samples: int
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class TraceManifest:
    """Everything about a trace but its samples.

    Attributes:
        header: Facts known before the first sample.
        clock: Device clock (position over rate) to host time; ``None`` where it was never fitted.
        gaps: Stretches (start_s, end_s) without trustworthy samples.
        dropped: Samples known to be lost.
        warnings: Warnings for the reader.
        complete: True if the recording was finished properly.
        parts: Files of a trace folder; empty for a single file.
        losses: Losses the clock found after the positions were stored; they are inserted on reading.
    """

    header: TraceHeader
    clock: ClockMap | None = None
    gaps: tuple[tuple[float, float], ...] = ()
    dropped: int = 0
    warnings: tuple[TraceWarning, ...] = ()
    complete: bool = False
    parts: tuple[TracePart, ...] = field(default=())
    losses: tuple[SampleLoss, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""
        h = self.header
        return {
            "format": FORMAT_NAME,
            "version": FORMAT_VERSION,
            "meter": h.meter_id,
            "calibration": h.calibration_id,
            "source": h.source,
            "rate_hz": h.rate_hz,
            "sampling": h.sampling,
            "accuracy": {"gain": h.accuracy.gain, "offset_w": h.accuracy.offset_w, "reference": h.accuracy.reference},
            "times": h.times,
            "precision": h.precision,
            "logic": h.logic,
            "start_s": h.start_s,
            "clock": None
            if self.clock is None
            else {
                "device_s": self.clock.device_s,
                "host_s": self.clock.host_s,
                "rate": self.clock.rate,
                "error_s": self.clock.error_s if math.isfinite(self.clock.error_s) else None,
                "method": self.clock.method,
            },
            "gaps": [list(g) for g in self.gaps],
            "dropped": self.dropped,
            "warnings": [{"code": w.code, "text": w} for w in self.warnings],
            "complete": self.complete,
            "parts": [{"file": p.file, "samples": p.samples, "first": p.first, "last": p.last} for p in self.parts],
            "losses": [[n.after_index, n.samples, n.error_samples, n.before_index] for n in self.losses],
        }

    def dump(self) -> str:
        """Convert to JSON text.

        Raises:
            ConfigError: If a number in it is not finite.
        """
        try:
            return json.dumps(self.to_json(), allow_nan=False)
        except ValueError as error:
            raise ConfigError(f"trace of {self.header.meter_id}: its facts hold a number that is not finite") from error

    @classmethod
    def load(cls, text: str | bytes, where: Path) -> TraceManifest:
        """Parse JSON text.

        Raises:
            MeasureError: If it is not a manifest, or of a newer version.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MeasureError(f"{where}: its facts are no JSON ({error}); restore it from a copy") from error
        return cls.from_json(document, where)

    @classmethod
    def from_json(cls, document: Any, where: Path) -> TraceManifest:
        """Parse JSON values.

        Raises:
            MeasureError: If they are not a manifest, or of a newer version.
        """
        if not isinstance(document, Mapping) or document.get("format") != FORMAT_NAME:
            raise MeasureError(f"{where}: holds no {FORMAT_NAME} facts; it was not written by deepen")
        if document.get("version") != FORMAT_VERSION:
            raise MeasureError(
                f"{where}: is of version {document.get('version')}, this deepen reads {FORMAT_VERSION}; update deepen"
            )
        try:
            return _parse_manifest(document)
        except (KeyError, TypeError, ValueError, OverflowError, ConfigError) as error:
            raise MeasureError(
                f"{where}: its facts are damaged ({type(error).__name__}: {error}); restore it from a copy"
            ) from error

    def closed(self, **changes: Any) -> TraceManifest:
        """Return a copy that is marked complete, with some facts changed."""
        return replace(self, complete=True, **changes)


def _parse_finite_number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is not finite")
    return number


def _parse_manifest(d: Mapping[str, Any]) -> TraceManifest:
    """Parse and check a manifest: first the header, then the facts of the finished recording.

    Raises:
        KeyError, TypeError, ValueError: If a field is missing or malformed.
    """
    accuracy, clock = d["accuracy"], d["clock"]
    if d["sampling"] not in ("point", "mean") or d["times"] not in ("index", "stamps"):
        raise ValueError(f"sampling '{d['sampling']}', times '{d['times']}'")
    if d["precision"] not in ("float32", "float64") or d["source"] not in ("measured", "modelled", "simulated"):
        raise ValueError(f"precision '{d['precision']}', source '{d['source']}'")
    header = TraceHeader(
        meter_id=str(d["meter"]),
        calibration_id=str(d["calibration"]),
        source=d["source"],
        rate_hz=_parse_finite_number(d["rate_hz"]),
        sampling=d["sampling"],
        accuracy=Accuracy(
            _parse_finite_number(accuracy["gain"]),
            _parse_finite_number(accuracy["offset_w"]),
            str(accuracy["reference"]),
        ),
        times=d["times"],
        precision=d["precision"],
        logic=bool(d["logic"]),
        start_s=_parse_finite_number(d["start_s"]),
    )
    return TraceManifest(
        header=header,
        clock=None
        if clock is None
        else ClockMap(
            _parse_finite_number(clock["device_s"]),
            _parse_finite_number(clock["host_s"]),
            _parse_finite_number(clock["rate"]),
            math.inf if clock["error_s"] is None else _parse_finite_number(clock["error_s"]),
            str(clock["method"]),
        ),
        gaps=tuple((_parse_finite_number(start), _parse_finite_number(end)) for start, end in d["gaps"]),
        dropped=int(d["dropped"]),
        warnings=tuple(_parse_warning(w) for w in d["warnings"]),
        complete=bool(d["complete"]),
        parts=tuple(
            TracePart(
                _check_part_name(p["file"]),
                int(p["samples"]),
                _parse_finite_number(p["first"]),
                _parse_finite_number(p["last"]),
            )
            for p in d["parts"]
        ),
        losses=tuple(
            SampleLoss(int(a), int(n), _parse_finite_number(error), int(b)) for a, n, error, b in d.get("losses", ())
        ),
    )


def _parse_warning(value: Any) -> TraceWarning:
    """Read a warning: its code and text, or the text alone, as older files have it."""
    if not isinstance(value, Mapping):
        return TraceWarning("trace", str(value))
    code = value["code"]
    return TraceWarning(code if code in get_args(WarningCode) else "trace", str(value["text"]))


def _check_part_name(value: Any) -> str:
    name = str(value)
    if not name or Path(name).name != name:
        raise ValueError(f"part '{name}' is not a plain file name")
    return name
