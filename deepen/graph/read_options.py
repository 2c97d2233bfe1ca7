"""Sizes, rounds and choices that a user gives for a model whose file leaves them open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ReadOptions", "ShapesOrOptions"]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Sizes, numbers of rounds and choices for one model; every name is one of the model file.

    Attributes:
        shapes: Shape by input name, for inputs with open dimensions, or to replace static ones. A size may be 0.
        dims: Size by symbol, wherever inputs or declared types use it.
        sizes: Elements along the axis that only a run decides, by tensor name (the output of a NonZero, say).
        rounds: Executions of its body per execution, by name of a Loop node.
        branches: Whether the condition holds, by name of an If node or of the graph input that decides.
        custom_ops: Libraries of custom operators, to be loaded by the runtime that is asked about the model.
        allow_unknown: Whether a matrix product or convolution of unknown shape may be left out of the sum, as a named
            part with an interval open upwards, rather than be an error.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    rounds: Mapping[str, int] = field(default_factory=dict)
    branches: Mapping[str, bool] = field(default_factory=dict)
    custom_ops: tuple[str, ...] = ()
    allow_unknown: bool = False

    @classmethod
    def from_shapes(cls, given: ShapesOrOptions) -> ReadOptions:
        """Make options of shapes alone; options pass through unchanged."""
        return given if isinstance(given, ReadOptions) else cls(shapes=dict(given or {}))


ShapesOrOptions = Mapping[str, tuple[int, ...]] | ReadOptions | None
"""Shapes by input name, or everything a user can say of a model."""
