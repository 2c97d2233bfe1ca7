"""``deepen dataset plan``: which models or kernels to measure next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepen.cli.output import emit_result, format_table, json_option, print_progress
from deepen.errors import ConfigError

if TYPE_CHECKING:
    from deepen.kernels.types import Kernel
    from deepen.predictors.active_learning import MeasurementCandidates

__all__ = ["plan"]

_KERNELS = 600
_SPACES = ("nasbench201",)


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL...]")
@click.option("--next", "count", default=50, show_default=True, type=click.IntRange(min=1), help="How many to choose.")
@click.option("--space", type=click.Choice(_SPACES), help="Choose among the networks of a search space.")
@click.option("--family", "-f", "families", multiple=True, help="Choose among kernels of this family; repeatable.")
@click.option("--base", default="none", show_default=True, help="Predictor that will be calibrated (file or name).")
@click.option("--runtime", help="Runtime to split models for [the base's, else onnxruntime].")
@click.option("--measured", multiple=True, metavar="NAME", help="Candidate that is measured already; repeatable.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of sampled kernels.")
@json_option
def plan(
    models: tuple[str, ...],
    count: int,
    space: str | None,
    families: tuple[str, ...],
    base: str,
    runtime: str | None,
    measured: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Propose what to measure next: the models or kernels that would tell most about all the others.

    Candidates are the MODEL files given, the networks of a --space, or kernels of a --family. They are ordered: any
    first part of the list is the plan for that many.

    \b
    Example:
      deepen dataset plan zoo/*.onnx --next 20
      deepen dataset plan --space nasbench201 --next 50 --runtime tflite-cpu
      deepen dataset plan --family conv-bn-relu --next 30 --base quickstart.deepen
    """
    from deepen import predictors
    from deepen.predictors.active_learning import propose_kernels

    if (bool(models), bool(space), bool(families)).count(True) != 1:
        raise click.UsageError("give model files, or --space, or --family: one of the three")
    start = None if base == "none" else predictors.load_predictor(base)
    wanted = runtime or (str(start.card.get("runtime")) if start is not None else "onnxruntime")
    candidates = _make_candidates(models, space, families, wanted, seed)
    number = {name: i for i, name in enumerate(candidates.names)}
    known = [number[name] for name in measured if name in number]
    for name in measured:
        if name not in number:
            print_progress(f"note: '{name}' is not among the candidates")
    chosen = propose_kernels(candidates, count, start, known, seed=seed)
    document = {
        "candidates": len(candidates.names),
        "runtime": wanted,
        "base": "none" if start is None else start.id,
        "plan": [{"name": p.name, "sd": p.sd, "left": p.left} for p in chosen],
    }

    def render() -> str:
        rows = [(i + 1, p.name, f"{100 * p.sd:.1f} %", f"{100 * p.left:.1f} %") for i, p in enumerate(chosen)]
        head = ("", "measure", "uncertain by", "all then by")
        return f"{len(chosen)} of {len(candidates.names)} candidates\n\n" + format_table(head, rows, right=(0, 2, 3))

    emit_result(document, as_json, render)


def _make_candidates(
    models: tuple[str, ...], space: str | None, families: tuple[str, ...], runtime: str, seed: int
) -> MeasurementCandidates:
    import numpy as np

    from deepen.kernels.features import build_feature_matrix, compute_features
    from deepen.predictors.active_learning import MeasurementCandidates

    if models:
        return _read_models(models, runtime)
    kernels: list[Kernel]
    if space:
        from deepen.spaces.nasbench201_kernels import count_kernels
        from deepen.spaces.nasbench201_networks import iter_cells

        names = tuple(iter_cells())
        found, counts = count_kernels(names, runtime)
        kernels = list(found)
        table_of = counts.astype(np.float64)
    else:
        from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
        from deepen.kernels.sampling.sampler import sample_kernels

        kernels = [make_kernel_from_params(s.family, s.params) for s in sample_kernels(list(families), _KERNELS, seed)]
        names = tuple(f"{k.family} {_format_params(k)}" for k in kernels)
        table_of = np.eye(len(kernels))
    raw = np.asarray(build_feature_matrix([compute_features(k) for k in kernels]), dtype=np.float64)
    return MeasurementCandidates(names, tuple(k.family for k in kernels), raw, table_of)


def _format_params(kernel: Kernel) -> str:
    """Parameters of a kernel as JSON, without those that are at rest."""
    kept = {key: value for key, value in kernel.params.items() if value not in (False, "none", "", None)}
    return json.dumps(kept, separators=(",", ":"))


def _read_models(models: tuple[str, ...], runtime: str) -> MeasurementCandidates:
    import numpy as np

    from deepen.predictors.active_learning import MeasurementCandidates
    from deepen.predictors.described import ModelKernels, describe_files
    from deepen.predictors.predictor import find_distinct_kernels

    read: list[ModelKernels] = []
    for path, one in zip(models, describe_files([str(Path(m)) for m in models], None, runtime, 1), strict=True):
        if isinstance(one, ModelKernels):
            read.append(one)
        else:
            print_progress(f"note: {path} is left out: {one}")
    if not read:
        raise ConfigError("none of the models can be read; see the notes above")
    families = [f for m in read for f in m.families]
    raw = np.concatenate([m.raw for m in read])
    first, group = find_distinct_kernels(families, raw)
    counts = np.zeros((len(read), len(first)))
    end = 0
    for row, model in enumerate(read):
        start, end = end, end + len(model.families)
        np.add.at(counts[row], group[start:end], model.multiplicity)
    return MeasurementCandidates(tuple(m.model for m in read), tuple(families[i] for i in first), raw[first], counts)
