"""Training recipes: ``predictors/recipes/*.toml``.

A recipe names the learners that compete in each family and bounds what they may cost. ``learners = []`` trains the
roofline alone, the baseline that every regressor has to beat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from deepen import catalog
from deepen.errors import ConfigError, make_unknown_name_error

__all__ = ["LEARNERS", "SINGLE_LEARNERS", "Recipe", "list_recipe_names", "load_recipe"]

SINGLE_LEARNERS = (
    "random-forest",
    "extra-trees",
    "lightgbm",
    "gaussian-process",
)
"""Learners that need the rows of one family only."""
LEARNERS = (*SINGLE_LEARNERS, "shared-gaussian")
_FOLDER = "recipes"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Learners, folds and limits of a training.

    Attributes:
        name: Name of the recipe.
        title: One line for listings.
        learners: Competing learners (see :data:`LEARNERS`), chosen per family by cross-validation.
        blend: True if a mean of several learners may win.
        folds: Cross-validation folds, by configuration.
        min_rows: Families with fewer rows get no regressor of their own.
        share_min_rows: Families with at least so many rows may learn together with others (``shared-gaussian``); those
            with fewer are answered by the roofline.
        share_max_rows: Families with more rows learn alone.
        trees: Trees of a forest.
        rounds: Boosting rounds of LightGBM.
        gaussian_max_rows: Families with more rows do not try ``gaussian-process``; where nothing else may compete,
            ``extra-trees`` stands in.
        max_nodes: Tree nodes of the whole predictor, which bounds the size of its file (18 bytes each).
    """

    name: str
    title: str = ""
    learners: tuple[str, ...] = LEARNERS
    blend: bool = True
    folds: int = 5
    min_rows: int = 8
    share_min_rows: int = 4
    share_max_rows: int = 150
    trees: int = 50
    rounds: int = 120
    gaussian_max_rows: int = 500
    max_nodes: int = 400_000

    def __post_init__(self) -> None:
        for learner in self.learners:
            if learner not in LEARNERS:
                raise make_unknown_name_error("learner", learner, LEARNERS)
        if self.folds < 2 or self.min_rows < 4 or self.trees < 1 or self.rounds < 1:
            raise ConfigError(f"recipe '{self.name}' needs folds >= 2, min_rows >= 4, trees >= 1 and rounds >= 1")
        if not 1_000 <= self.max_nodes <= 500_000:
            raise ConfigError(f"recipe '{self.name}' needs max_nodes between 1000 and 500000")


def list_recipe_names() -> list[str]:
    """Names of the recipes in the catalog."""
    return catalog.list_names("predictors", _FOLDER)


def load_recipe(name: str) -> Recipe:
    """Read a recipe from the catalog.

    Raises:
        ConfigError: If the name is unknown (with the nearest names), or the file has unknown keys or wrong types.
    """
    if name not in list_recipe_names():
        raise make_unknown_name_error("recipe", name, list_recipe_names())
    return _parse_recipe(name, catalog.load_toml("predictors", _FOLDER, name))


def _parse_recipe(name: str, table: Mapping[str, Any]) -> Recipe:
    types = {f.name: str(f.type) for f in fields(Recipe) if f.name != "name"}
    for key, value in table.items():
        if key not in types:
            raise make_unknown_name_error(f"key of recipe {name}", key, types)
        wanted = {"str": str, "bool": bool, "int": int}.get(types[key], list)
        if type(value) is not wanted:
            raise ConfigError(f"recipe '{name}': {key} must be of type {wanted.__name__}, not {type(value).__name__}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Recipe(name=name, **values)
