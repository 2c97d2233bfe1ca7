"""The part of a predictor's card that training and calibrating share: data, conditions, identity, warnings."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from deepen.clock.host_clock import utc_now
from deepen.predictors.inference.columns import WORK_TERMS
from deepen.predictors.inference.conformal import NOMINAL
from deepen.predictors.inference.model_overheads import ModelOverheads
from deepen.predictors.measured_rows import MeasuredRows, hash_training_data
from deepen.predictors.predictor_file import FORMAT_VERSION
from deepen.records import RecordLabel, find_weakest_source

__all__ = ["make_card"]

_CONDITIONS = ("device", "meter", "runtime", "runtime_build", "threads")


def make_card(
    rows: MeasuredRows,
    recipe: str,
    seed: int,
    context: ModelOverheads,
    made_by: object,
    base_source: RecordLabel | None = None,
) -> dict[str, Any]:
    """Make the card of a predictor, to be completed by families, held-out errors and what else there is to say.

    Args:
        rows: The records it was fitted to.
        recipe: Name of the way it was fitted.
        seed: Seed of folds and learners.
        context: The model-level terms.
        made_by: Everything besides the data that decides what the predictor is: its text goes into the identity.
        base_source: Label of the data of the predictor it was calibrated from.
    """
    from deepen import __version__
    from deepen.kernels.features import FEATURE_NAMES, FEATURES_VERSION

    records = (*rows.kernels, *rows.models)
    digest = hash_training_data(rows)
    identity = hashlib.sha256(f"{digest}/{made_by}/{seed}/{__version__}".encode()).hexdigest()[:8]
    conditions = {key: Counter(str(getattr(r, key)) for r in records) for key in _CONDITIONS}
    main = {key: counts.most_common(1)[0][0] for key, counts in conditions.items()}
    sources = Counter[str](r.source for r in records)
    labels = [r.source for r in records] + ([] if base_source is None else [base_source])
    return {
        "format": "deepen-predictor",
        "format_version": FORMAT_VERSION,
        "id": f"{main['device']}-{main['runtime']}-{identity}",
        "deepen_version": __version__,
        "created": utc_now(),
        **main,
        "learnt_from": find_weakest_source(labels),
        "sources": dict(sources),
        "features_version": FEATURES_VERSION,
        "feature_names": list(FEATURE_NAMES),
        "work_terms": [*WORK_TERMS, "call"],
        "data_sha256": digest,
        "rows": len(rows.kernels),
        "models": len(rows.models),
        "left_out": dict(rows.left_out),
        "recipe": recipe,
        "seed": seed,
        "nominal": NOMINAL,
        "context": context.to_json(),
        "warnings": _list_warnings(conditions, sources, rows.left_out),
    }


def _list_warnings(
    conditions: Mapping[str, Counter[str]], sources: Mapping[str, int], left_out: Mapping[str, int]
) -> list[str]:
    warnings = []
    for key, counts in conditions.items():
        if len(counts) > 1:
            listed = ", ".join(f"{name} ({n})" for name, n in counts.most_common(4))
            warnings.append(f"records of {len(counts)} values of {key} were mixed: {listed}")
    if len(sources) > 1:
        warnings.append("labels were mixed: " + ", ".join(f"{n} {s}" for s, n in sources.items()))
    warnings += [f"{n} records left out: {reason}" for reason, n in left_out.items()]
    return warnings
