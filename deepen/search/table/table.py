"""A table in memory: figures of networks, found by hash, architecture or number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, DatasetError, make_unknown_name_error
from deepen.search.table.types import KEYS, TableColumn, TableManifest
from deepen.spaces import SearchSpace, open_space

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BenchmarkTable"]

Array = NDArray[Any]

_ORDER = ("budget", "repeat", "checkpoint")


class BenchmarkTable:
    """Figures of networks; read-only.

    Attributes:
        manifest: Metadata of the table.
        keys: ``hash`` and ``arch`` of every row, and the other keys of :data:`KEYS` that the table has.
        data: Figures by column name, each of shape (rows,); NaN where missing.
    """

    def __init__(self, manifest: TableManifest, keys: Mapping[str, Array], data: Mapping[str, Array]) -> None:
        self.manifest = manifest
        self.keys = dict(keys)
        self.data = dict(data)
        lengths = {len(v) for v in (*self.keys.values(), *self.data.values())}
        if len(lengths) > 1 or "hash" not in self.keys or "arch" not in self.keys:
            raise DatasetError("a table needs the columns hash and arch, and columns of one length")
        if set(self.data) != {c.name for c in manifest.columns} or set(self.keys) - set(KEYS):
            raise DatasetError("the columns of this table are not those its manifest lists; build it again")
        seen: set[tuple[Any, ...]] = set()
        for row in zip(self.keys["hash"].tolist(), *(self.keys[k].tolist() for k in _ORDER if k in keys), strict=True):
            if row in seen:
                raise DatasetError(f"network {row[0]} is in the table twice; leave one out, or give repeats a number")
            seen.add(row)

    def __len__(self) -> int:
        return len(self.keys["hash"])

    def __repr__(self) -> str:
        m = self.manifest
        return f"<Table {m.title or m.space}: {len(self.hashes)} networks, {len(self)} rows, {len(self.data)} columns>"

    @cached_property
    def rows_of(self) -> dict[str, list[int]]:
        """Rows of each hash, by budget, repeat and checkpoint."""
        found: dict[str, list[int]] = {}
        columns = [self.keys[k] for k in reversed(_ORDER) if k in self.keys]
        order = np.lexsort(columns) if columns else np.arange(len(self))
        names = self.keys["hash"].tolist()
        for row in order.tolist():
            found.setdefault(names[row], []).append(row)
        return found

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """Hash of every network, once, in the order of the rows."""
        return tuple(dict.fromkeys(self.keys["hash"].tolist()))

    @cached_property
    def by_arch(self) -> dict[str, str]:
        """Hash of every architecture."""
        return dict(zip(self.keys["arch"].tolist(), self.keys["hash"].tolist(), strict=True))

    @cached_property
    def by_index(self) -> dict[int, str]:
        """Hash of each network by number: the number of the origin, else the position among the networks."""
        if "index" in self.keys:
            return dict(zip(self.keys["index"].tolist(), self.keys["hash"].tolist(), strict=True))
        return dict(enumerate(self.hashes))

    @cached_property
    def columns(self) -> dict[str, TableColumn]:
        """The columns of figures, by name."""
        return {c.name: c for c in self.manifest.columns}

    @cached_property
    def space(self) -> SearchSpace | None:
        """Search space of the table; ``None`` if it names none."""
        return open_space(self.manifest.space) if self.manifest.space else None

    def column(self, name: str) -> TableColumn:
        """Look up a column by name.

        Raises:
            ConfigError: If there is none.
        """
        if name not in self.columns:
            raise make_unknown_name_error("column", name, self.columns)
        return self.columns[name]

    def values(self, key: str) -> Array:
        """Return a key or figure of every row.

        Raises:
            ConfigError: If there is no such column.
        """
        return self.keys[key] if key in self.keys else self.data[self.column(key).name]

    def find(self, arch: str) -> str:
        """Find the hash of an architecture, in any form that the space reads, or of one isomorphic to it.

        Raises:
            ConfigError: If it is not in the table.
        """
        found = self.by_arch.get(arch)
        if found is not None:
            return found
        if self.space is not None:
            key = self.space.key(self.space.canonical(arch))
            if key in self.rows_of:
                return key
        raise ConfigError(f"architecture '{arch}' is not in the table; it has {len(self.hashes)} networks")

    def filter(self, where: Callable[[Mapping[str, Any]], bool] | None = None, **limits: Any) -> BenchmarkTable:
        """Select the rows that fulfil conditions, as a table.

        Args:
            where: Called with each row as a dict.
            limits: A value, a (low, high) pair, ends included and ``None`` for open, or a list or set of values, by
                column: ``accuracy=(0.7, None)``.

        Raises:
            ConfigError: If there is no such column.
        """
        mask = np.ones(len(self), dtype=bool)
        for name, limit in limits.items():
            values = self.values(name)
            if isinstance(limit, tuple):
                if len(limit) != 2:
                    raise ConfigError(f"{name}: limits are a pair (low, high), not {limit}")
                low, high = limit
                mask &= (values >= low) if low is not None else True
                mask &= (values <= high) if high is not None else True
            elif isinstance(limit, list | set | frozenset):
                mask &= np.isin(values, list(limit))
            else:
                mask &= values == limit
        if where is not None:
            for row in np.flatnonzero(mask).tolist():
                mask[row] = bool(where(self.row(row)))
        return self.take(np.flatnonzero(mask))

    def take(self, rows: Array) -> BenchmarkTable:
        """Take some rows, as a table."""
        keys = {k: v[rows] for k, v in self.keys.items()}
        return BenchmarkTable(self.manifest, keys, {k: v[rows] for k, v in self.data.items()})

    def row(self, number: int) -> dict[str, Any]:
        """Return a row as plain values."""
        return {k: v[number].item() if hasattr(v[number], "item") else v[number] for k, v in self._all.items()}

    @cached_property
    def _all(self) -> dict[str, Array]:
        return {**self.keys, **self.data}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names = list(self._all)
        for line in zip(*(self._all[n].tolist() for n in names), strict=True):
            yield dict(zip(names, line, strict=True))

    def to_frame(self) -> pd.DataFrame:
        """Convert to a pandas DataFrame, with units and labels in ``frame.attrs['columns']``."""
        import dataclasses

        import pandas as pd

        frame = pd.DataFrame({k: list(v) if v.dtype == object else v for k, v in self._all.items()})
        frame.attrs["columns"] = {c.name: dataclasses.asdict(c) for c in self.manifest.columns}
        return frame

    def per_network(self, name: str, budget: float | None = None) -> Array:
        """Return a figure of every network: the mean of its repeats at the last checkpoint of a budget.

        Args:
            name: Column.
            budget: Epochs; default: each network's largest.

        Returns:
            Shape (networks,), in the order of :attr:`hashes`; NaN where it is missing.

        Raises:
            ConfigError: If there is no such column.
        """
        values = self.data[self.column(name).name].astype(np.float64)
        groups = self._final(budget)
        if all(len(rows) == 1 for rows in groups):
            return np.asarray(values[[rows[0] for rows in groups]])
        return np.array([float(np.mean(values[rows])) if rows else np.nan for rows in groups])

    def repeats(self, name: str, budget: float | None = None) -> list[Array]:
        """Return a figure of every network, each repeat on its own, in the order of :attr:`hashes`."""
        values = self.data[self.column(name).name].astype(np.float64)
        return [values[rows] for rows in self._final(budget)]

    def repeat_cv(self, name: str, budget: float | None = None) -> Array:
        """Compute the coefficient of variation (standard deviation over mean) of each network's repeats.

        Returns:
            A share per network with at least two repeats.
        """
        found = [v for v in self.repeats(name, budget) if len(v) > 1]
        return np.array([float(np.std(v, ddof=1) / np.mean(v)) for v in found])

    def _final(self, budget: float | None) -> list[list[int]]:
        """Find the rows of each network at one budget and its last checkpoint, one per repeat."""
        return [self.final_rows(h, budget) for h in self.hashes]

    def final_rows(self, key: str, budget: float | None = None) -> list[int]:
        """Find the rows of a network at a budget (default: its largest) and its last checkpoint, one per repeat."""
        rows = self.rows_of[key]
        for name, wanted in (("budget", budget), ("checkpoint", None)):
            if name in self.keys and rows:
                values = [self.keys[name][r] for r in rows]
                best = max(values) if wanted is None else wanted
                rows = [r for r, v in zip(rows, values, strict=True) if v == best]
        return rows

    @cached_property
    def budgets(self) -> tuple[float, ...]:
        """Budgets of the table, ascending; empty if it has none."""
        return tuple(np.unique(self.keys["budget"]).tolist()) if "budget" in self.keys else ()

    def info(self) -> dict[str, Any]:
        """Summary of the table, as plain JSON values."""
        document = self.manifest.to_json()
        document["rows"] = len(self)
        document["networks"] = len(self.hashes)
        document["budgets"] = list(self.budgets)
        document["repeats"] = int(np.max(self.keys["repeat"])) if "repeat" in self.keys and len(self) else 1
        for column in document["columns"]:
            values = np.asarray(self.data[column["name"]], dtype=np.float64)
            known = values[np.isfinite(values)]
            column["rows"] = int(known.size)
            if known.size:
                column |= {"min": known.min().item(), "median": float(np.median(known)), "max": known.max().item()}
        return document

    def archs_of(self, hashes: Sequence[str]) -> list[str]:
        """Return the architecture of each hash."""
        archs = self.keys["arch"]
        return [str(archs[self.rows_of[h][0]]) for h in hashes]
