"""Contents of a table: columns with units and labels, and one row per network, budget, repeat and checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deepen.errors import ConfigError, DatasetError
from deepen.records import FigureLabel, RecordLabel, SourceLabel, parse_label

__all__ = ["KEYS", "TableColumn", "TableManifest"]

FORMAT = 1

KEYS = ("hash", "arch", "index", "budget", "repeat", "checkpoint")
"""Columns that identify a row: ``budget`` and ``checkpoint`` in epochs of training, ``repeat`` from 1."""

Better = Literal["min", "max", ""]


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of figures.

    Attributes:
        name: With its SI unit (``energy_j``); shares (``accuracy``) are 0..1.
        unit: ``J``, ``s``, ``W``, ``g``, or empty for counts and shares.
        better: Which way it is better; empty for neither.
        source: Label of the figures; empty where that has no meaning (a count of parameters).
        note: What else a reader should know, in a line.
        pue: PUE of the building that the figures contain; 1 for none.
        learnt_from: For predicted figures, the weakest label of what they were learnt from.
    """

    name: str
    unit: str = ""
    better: Better = ""
    source: str = ""
    note: str = ""
    pue: float = 1.0
    learnt_from: str = ""

    @property
    def label(self) -> SourceLabel:
        """Label of the figures; of a column without one, ``measured``.

        Raises:
            ConfigError: If the label is unknown.
        """
        return parse_label(self.source, self.learnt_from)

    @classmethod
    def named(cls, name: str, source: str = "", note: str = "", pue: float = 1.0) -> TableColumn:
        """Make a column, with unit and direction from its name."""
        unit = next((u for suffix, u in _UNITS if name.endswith(suffix)), "")
        better: Better = "max" if any(word in name for word in _LARGER) else "min" if unit in ("J", "s", "g") else ""
        return cls(name, unit, better, source, note, pue)


_UNITS = (
    ("_g_per_kwh", "g/kWh"), ("_j", "J"), ("_s", "s"), ("_w", "W"), ("_g", "g"), ("_bytes", "B"),
)  # fmt: skip
_LARGER = ("accuracy", "coverage")


@dataclass(frozen=True, slots=True)
class TableManifest:
    """Metadata of a table as a whole.

    Attributes:
        space: Name of the search space (:func:`deepen.spaces.open_space`); empty if it has none.
        source: Weakest label of its columns.
        columns: The columns of figures.
        title: A line.
        predictor: Identity of the predictor that filled it; empty where none did.
        created: ISO 8601, UTC.
        origin: Where the figures come from.
        notes: What a reader should know.
        counts: Rows imported, rejected and so on, by reason.
        report: Report of the surrogate that made the table; empty for other tables.
        learnt_from: If ``source`` is predicted, the weakest label of the data behind the columns.
    """

    space: str
    source: FigureLabel
    columns: tuple[TableColumn, ...]
    title: str = ""
    predictor: str = ""
    created: str = ""
    origin: str = ""
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    learnt_from: RecordLabel | Literal[""] = ""

    @property
    def label(self) -> SourceLabel:
        """The weakest label of its columns."""
        return SourceLabel(self.source, self.learnt_from)

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON values."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, document: Any, where: str) -> TableManifest:
        """Read the document that :meth:`to_json` made.

        Raises:
            DatasetError: If it is not such a document, or of a newer deepen.
        """
        if not isinstance(document, dict) or not isinstance(document.get("format"), int):
            raise DatasetError(f"{where}: not the manifest of a table; name a folder that 'deepen table build' wrote")
        if document["format"] > FORMAT:
            raise DatasetError(f"{where}: written by a newer deepen (format {document['format']}); update deepen")
        known = {f.name for f in dataclasses.fields(cls)}
        names = {f.name for f in dataclasses.fields(TableColumn)}
        try:
            columns = tuple(TableColumn(**{k: v for k, v in c.items() if k in names}) for c in document["columns"])
            given = {k: v for k, v in document.items() if k in known}
            manifest = cls(**(given | {"columns": columns, "notes": tuple(document.get("notes", ()))}))
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{where}: the manifest is damaged ({error}); fetch or build the table again") from error
        try:
            parse_label(manifest.source, manifest.learnt_from)
            for column in columns:
                parse_label(column.source, column.learnt_from)
        except ConfigError as error:
            raise DatasetError(f"{where}: {error}; build the table again") from error
        return manifest
