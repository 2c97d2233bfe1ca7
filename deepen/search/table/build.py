"""Tables filled by prediction: every network of a space, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from deepen.errors import ConfigError
from deepen.search.table.table import BenchmarkTable
from deepen.search.table.types import TableColumn, TableManifest
from deepen.spaces import SearchSpace

if TYPE_CHECKING:
    from deepen.predictors.predictor import Predictor

__all__ = ["assemble_table", "build_table", "format_utc_now"]


def format_utc_now() -> str:
    """Format the current time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def assemble_table(
    manifest: TableManifest, space: SearchSpace | None, archs: Sequence[str], data: Mapping[str, Any], **keys: Any
) -> BenchmarkTable:
    """Make a table from architectures and figures.

    Args:
        manifest: Metadata of the table.
        space: Space that hashes the architectures; without one, an architecture is its own hash.
        archs: One per row.
        data: Figures by column name.
        keys: Other keys, such as ``budget``.
    """
    known: dict[str, str] = {}
    if space is not None:
        known = {arch: space.key(arch) for arch in dict.fromkeys(archs)}
    found = {
        "hash": np.array([known.get(a, a) for a in archs], dtype=object),
        "arch": np.array(list(archs), dtype=object),
        **{k: np.asarray(v) for k, v in keys.items()},
    }
    return BenchmarkTable(manifest, found, {k: np.asarray(v) for k, v in data.items()})


def build_table(
    space: SearchSpace,
    predictor: Predictor,
    archs: Sequence[str] | None = None,
    *,
    runtime: str | None = None,
    title: str = "",
) -> BenchmarkTable:
    """Predict the energy of a whole space.

    Args:
        space: The space.
        predictor: The predictor.
        archs: Architectures; default: all of them.
        runtime: Runtime to split for; default: the predictor's own.
        title: A line.

    Returns:
        A table with ``energy_j``, its nominal 90 % interval, ``coverage`` (share of kernels a regressor
        answered), ``extrapolated`` (kernels outside the training range), ``macs`` and ``kernels``.

    Raises:
        ConfigError: If the space is too large to list and no architectures are given, or one is unknown.
        GraphError: If a network cannot be taken as a graph.
        PredictorError: If it cannot be predicted.
    """
    from deepen.kernels.splitting.runtime_names import resolve_splitter
    from deepen.predictors.kernel_counts import KernelCounts

    chosen = space.members() if archs is None else [space.canonical(a) for a in archs]
    if chosen is None:
        raise ConfigError(f"the space {space.name} is too large to list; name the architectures (--archs FILE)")
    engine = runtime or str(predictor.card.get("runtime") or "onnxruntime")
    kernels, counts = space.kernel_counts(chosen, resolve_splitter(engine))
    found = predictor.predict_counts(KernelCounts.from_kernels(kernels, counts, chosen))
    macs = counts @ np.array([k.macs for k in kernels], dtype=np.float64) if kernels else np.zeros(len(chosen))
    learnt_from = predictor.learnt_from
    told: dict[str, Any] = {"source": "predicted", "learnt_from": learnt_from}
    columns = (
        TableColumn("energy_j", "J", "min", note="net energy of one inference", **told),
        TableColumn("energy_low_j", "J", note="lower end of the nominal 90 % interval", **told),
        TableColumn("energy_high_j", "J", note="upper end of the nominal 90 % interval", **told),
        TableColumn("coverage", "", "", "", "share of the kernels that a regressor answered"),
        TableColumn("extrapolated", "", "", "", "kernels outside the range of the training data"),
        TableColumn("macs", "", "", "", "multiply-accumulates of convolution, matmul and gemm"),
        TableColumn("kernels", "", "", "", "kernels executed"),
    )
    data = {
        "energy_j": found.energy_j,
        "energy_low_j": found.low_j,
        "energy_high_j": found.high_j,
        "coverage": found.coverage,
        "extrapolated": found.extrapolated.astype(np.float64),
        "macs": np.asarray(macs, dtype=np.float64),
        "kernels": np.asarray(counts.sum(axis=1), dtype=np.float64),
    }
    manifest = TableManifest(
        space=space.name,
        **told,
        columns=columns,
        title=title or f"{space.name} by {predictor.id}",
        predictor=predictor.id,
        created=format_utc_now(),
        origin=f"predicted for {engine} by a predictor learnt from {learnt_from} data",
    )
    return assemble_table(manifest, space, chosen, data, index=np.arange(len(chosen)))
