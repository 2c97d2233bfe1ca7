"""Finding predictors by name: the user's own (``$DEEPEN_HOME/predictors``) and those published with deepen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from deepen import catalog
from deepen.errors import make_unknown_name_error
from deepen.predictors.predictor import Predictor

__all__ = ["get_predictor_folder", "list_predictors", "load_predictor"]

_SUFFIX = ".deepen"


def get_predictor_folder() -> Path:
    """Folder of the user's own predictors; ``$DEEPEN_HOME`` is ``~/.local/share/deepen`` by default."""
    base = os.environ.get("DEEPEN_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share" / "deepen") / "predictors"


def list_predictors() -> Mapping[str, Path]:
    """Name -> file of every predictor that can be called by name; the user's own hide published ones of that name."""
    found: dict[str, Path] = {}
    for folder in (catalog.find_path("predictors", "published"), get_predictor_folder()):
        if folder.is_dir():
            found |= {p.name.removesuffix(_SUFFIX): p for p in sorted(folder.glob(f"*{_SUFFIX}")) if p.is_file()}
    return dict(sorted(found.items()))


def load_predictor(name_or_path: str | Path) -> Predictor:
    """Load a predictor.

    Args:
        name_or_path: A file (has a folder in it, ends in ``.deepen``, or exists), else a name from
            :func:`list_predictors`.

    Raises:
        PredictorError: If the file is missing, damaged, foreign, or was trained on another version of the features.
        ConfigError: If the name is unknown (with the nearest names).
    """
    path = Path(name_or_path)
    if path.suffix == _SUFFIX or len(path.parts) > 1 or path.is_file():
        return Predictor.read(path)
    known = list_predictors()
    if str(name_or_path) not in known:
        raise make_unknown_name_error("predictor", str(name_or_path), known)
    return Predictor.read(known[str(name_or_path)])
