"""``deepen kernel``: the kernel families, a model as kernels, and configurations to measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from deepen.cli.fitted_tables import (
    fit_table,
    fold_equal,
    format_operators,
    get_terminal_width,
    merge_names,
    shorten_middle,
    shorten_path,
    wrap_text,
)
from deepen.cli.model_options import model_options
from deepen.cli.output import emit_result, format_table, json_option, print_progress
from deepen.units import format_count, format_si

if TYPE_CHECKING:
    from deepen.graph import ReadOptions
    from deepen.kernels.sampling.sampler import SampledKernel
    from deepen.kernels.types import Kernel, ModelSplit

__all__ = ["command"]

_NAME_WIDTH = 48


@click.group(name="kernel")
def command() -> None:
    """List kernel families, split models into kernels, sample configurations.

    \b
    Example:
      deepen kernel split model.onnx --shape input=1x3x224x224
    """


@command.command(name="list")
@json_option
def list_command(as_json: bool) -> None:
    """List the kernel families and the runtimes that models can be split for.

    \b
    Example:
      deepen kernel list
    """
    from deepen.kernels.families.catalog import load_families
    from deepen.kernels.splitting.split import list_split_runtimes

    families = load_families().values()
    document = {
        "families": [
            {"name": f.name, "title": f.title, "ops": list(f.ops), "params": list(f.params), "about": f.about}
            for f in families
        ],
        "runtimes": list_split_runtimes(),
    }

    def render() -> str:
        rows = [(f.name, f.title, _format_names(f.ops)) for f in families]
        return "\n".join(
            [
                format_table(("family", "what", "operators"), rows),
                "",
                f"{len(rows)} families; runtimes to split for: {', '.join(list_split_runtimes())}",
            ]
        )

    emit_result(document, as_json, render)


@command.command(name="split")
@click.argument("model", metavar="MODEL")
@model_options
@click.option("--runtime", default="onnxruntime", show_default=True, help="Runtime to split for ('kernel list').")
@json_option
def split_command(model: str, read_options: ReadOptions, runtime: str, as_json: bool) -> None:
    """Split MODEL into the kernels a runtime executes.

    ONNX Runtime is asked for the graph it executes; other runtimes follow rules, each with its evidence. Every node
    of the model is in exactly one kernel, or counted as doing no work at run time.

    \b
    Example:
      deepen kernel split model.onnx --shape input=1x3x224x224 --runtime tflite-cpu
    """
    from deepen import graph
    from deepen.kernels.splitting.split import split_graph

    loaded = graph.load_graph(model, read_options)
    found = split_graph(loaded, runtime)
    emit_result(build_split_document(model, found), as_json, lambda: render_split(model, found))
    for warning in found.warnings if not as_json else ():
        print_progress(f"note: {warning}")


def build_split_document(model: str, found: ModelSplit) -> dict[str, Any]:
    """Build the JSON document of a split."""
    return {
        "model": model,
        "runtime": found.runtime,
        "method": found.method,
        "evidence": found.evidence,
        "macs": found.macs,
        "folded": len(found.folded),
        "unassigned": [{"name": name, "op_types": list(ops)} for name, ops in found.unassigned],
        "warnings": list(found.warnings),
        "kernels": [
            {
                "name": k.name,
                "family": k.family,
                "nodes": list(k.node_names),
                "op_types": list(k.op_types),
                "runtime_ops": list(k.runtime_ops),
                "params": dict(k.params),
                "macs": k.macs,
                "ops": k.ops,
                "bytes_read": k.bytes_read,
                "bytes_written": k.bytes_written,
                "multiplicity": k.multiplicity,
            }
            for k in found.kernels
        ],
    }


def render_split(model: str, found: ModelSplit) -> str:
    """Render a headline, the kernels in execution order (equal ones in one line), and totals by family."""
    from deepen.kernels.layer_labels import format_shape, label_kernel

    width = get_terminal_width()
    total = sum(k.macs * k.multiplicity for k in found.kernels)
    nodes = sum(len(k.node_names) for k in found.kernels)
    how = "as the runtime executes it" if found.method == "oracle" else "by rules"
    lines = [
        wrap_text(
            f"{model}: {len(found.kernels)} kernels from {nodes} nodes, {format_si(total, 'MAC')} per inference", width
        ),
        wrap_text(f"split {how}: {found.evidence}; nodes that do no work at run time: {len(found.folded)}", width),
        "",
    ]

    def describe(numbered: tuple[int, Kernel]) -> tuple[Any, ...]:
        k = numbered[1]
        same = k.key if k.family != "other" else (k.bytes_read, k.bytes_written)
        return k.family, same, label_kernel(k)[2:], k.macs, k.multiplicity

    rows = []
    for group in fold_equal(enumerate(found.kernels, 1), describe):
        number, kernel = group[0]
        label, runs = label_kernel(kernel), len(group) * kernel.multiplicity
        rows.append(
            (
                str(number),
                shorten_path(merge_names([label_kernel(k).layer for _, k in group])),
                f"{runs:g}x" if runs != 1 else "",
                kernel.family,
                format_operators(kernel.op_types),
                format_shape(label.input_shape),
                format_shape(label.output_shape) + (f" +{len(kernel.outputs) - 1}" if kernel.outputs[1:] else ""),
                _format_macs(kernel.macs * runs),
                format_si(kernel.bytes_read * runs, "B"),
                format_si(kernel.bytes_written * runs, "B"),
            )
        )
    header = ("#", "kernel", "", "family", "operators", "input", "output", "MACs", "read", "written")
    table = fit_table(header, rows, width, right=(0, 2, 7, 8, 9), elastic=(1, 4, 5, 6), dispensable=(5, 9, 8, 3, 4))
    lines += [table, "", _render_families(found.kernels, total, width)]
    if found.unassigned:
        names = ", ".join(
            f"{shorten_middle(name, _NAME_WIDTH)} ({shorten_middle(format_operators(ops), _NAME_WIDTH)})"
            for name, ops in found.unassigned[:5]
        )
        more = f" and {len(found.unassigned) - 5} more" if len(found.unassigned) > 5 else ""
        text = f"{len(found.unassigned)} kernels have no family and count as 'other': {names}{more}"
        lines += ["", wrap_text(text, width)]
    return "\n".join(lines)


def _render_families(kernels: Sequence[Kernel], total: float, width: int) -> str:
    families: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        families.setdefault(kernel.family, []).append(kernel)

    def sums(members: Sequence[Kernel]) -> tuple[float, float]:
        return (
            sum(k.macs * k.multiplicity for k in members),
            sum((k.bytes_read + k.bytes_written) * k.multiplicity for k in members),
        )

    moved = sums(kernels)[1]
    ranked = sorted(
        ((name, members, *sums(members)) for name, members in families.items()), key=lambda r: (-r[2], -r[3])
    )
    rows = [
        (name, str(len(members)), str(len({k.key for k in members})), _format_macs(macs), _format_share(macs, total),
            format_si(moves, "B"),
         _format_share(moves, moved))
        for name, members, macs, moves in ranked
    ]  # fmt: skip
    rows.append(
        (
            "total",
            str(len(kernels)),
            str(len({k.key for k in kernels})),
            _format_macs(total),
            "",
            format_si(moved, "B"),
            "",
        )
    )
    header = ("family", "kernels", "distinct", "MACs", "share", "bytes moved", "share")
    return fit_table(header, rows, width, right=range(1, len(header)), dispensable=(6, 4, 2))


@command.command(name="sample")
@click.option(
    "--family", "families", multiple=True, metavar="FAMILY", help="Family to sample; repeatable; default: all."
)
@click.option("--count", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="How many kernels.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Equal seeds, equal samples.")
@click.option("--max-macs", type=click.IntRange(min=1), help="Largest kernel, in multiply-accumulates.")
@click.option(
    "--exclude", "excluded", multiple=True, metavar="MODEL", help="Leave the kernels of a model out; repeatable."
)
@json_option
def sample_command(
    families: tuple[str, ...], count: int, seed: int, max_macs: int | None, excluded: tuple[str, ...], as_json: bool
) -> None:
    """Sample kernel configurations to measure, around those of real networks.

    \b
    Example:
      deepen kernel sample --family conv-bn-relu --count 50 --seed 1 --json
    """
    from deepen import graph
    from deepen.kernels.sampling.sampler import sample_kernels
    from deepen.kernels.splitting.split import split_graph

    keys = {kernel.key for model in excluded for kernel in split_graph(graph.load_graph(model)).kernels}
    found = sample_kernels(list(families) or None, count, seed, keys, max_macs)
    emit_result(
        {
            "kernels": [
                {"family": s.family, "key": s.key, "params": dict(s.params), "macs": s.macs, "source": s.source}
                for s in found
            ]
        },
        as_json,
        lambda: _render_sample(found),
    )
    if len(found) < count:
        print_progress(f"note: only {len(found)} distinct configurations are left")


def _render_sample(found: Sequence[SampledKernel]) -> str:
    rows = [(s.key, s.family, _format_macs(s.macs), _format_params(s.params)) for s in found]
    return format_table(("key", "family", "MACs", "configuration"), rows, right=(2,))


def _format_params(params: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return ("," if value and isinstance(value[0], list | tuple) else "x").join(map(text, value))
        return "yes" if value is True else str(value)

    dull: tuple[Any, ...] = ("", None, False, "none", [], ())
    return " ".join(f"{name}={text(value)}" for name, value in params.items() if value not in dull)


def _format_names(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _format_macs(value: float) -> str:
    return format_count(value) if value else "-"


def _format_share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if part and whole else "-"
