"""``deepen dataset plan``: the models or kernels to measure next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepen.cli.output import emit_result, format_table, json_option, print_progress
from deepen.errors import ConfigError, DeepenError

if TYPE_CHECKING:
    from deepen.predictors.kernel_counts import KernelCounts

__all__ = ["plan"]

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
    """Propose what to measure next: the models or kernels whose measurement would improve predictions most.

    Candidates are the MODEL files given, the networks of a --space, or kernels of a --family. They are ordered: the
    first N of the list are the plan for N measurements.

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
) -> KernelCounts:
    from deepen.predictors.active_learning import list_cell_candidates, sample_kernel_candidates
    from deepen.predictors.kernel_counts import KernelCounts

    if space:
        return list_cell_candidates(runtime)
    if families:
        return sample_kernel_candidates(families, seed=seed)
    failures: dict[str, DeepenError] = {}
    found = KernelCounts.from_files([Path(m) for m in models], runtime=runtime, failures=failures)
    for path, error in failures.items():
        print_progress(f"note: {path} is left out: {error}")
    if not found.names:
        raise ConfigError("none of the models can be read; see the notes above")
    return found
