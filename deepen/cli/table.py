"""``deepen table``: networks of a search space with energy as a column."""

from __future__ import annotations

import csv
import io
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepen.cli.output import emit_result, format_table, json_option, print_progress
from deepen.errors import ConfigError
from deepen.units import format_si

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepen.records import RecordLabel
    from deepen.search import BenchmarkTable, Objective, SearchResult

__all__ = ["command"]

_SHOWN = 20
_DEFAULT = ("energy_j", "accuracy")

_FOLDER = click.argument("folder", type=click.Path(path_type=Path), metavar="TABLE")
_OUT = click.argument("out", type=click.Path(path_type=Path), metavar="OUT")
_SPACE = click.option("--space", metavar="SPACE", help="nasbench201, nasbench101?vertices=4, or FILE.py:FUNCTION.")
_JOIN = click.option(
    "--join", "joined", type=click.Path(path_type=Path), metavar="TABLE", help="Add the columns of another table."
)
_OBJECTIVES = click.option(
    "--objective",
    "-o",
    "names",
    multiple=True,
    metavar="COLUMN",
    help="Objective; repeatable: COLUMN[:min|max].",
)
_GRID = click.option("--grid", type=float, metavar="GRAMS", help="Carbon intensity, gCO2e per kWh: for carbon_g.")


@click.group(name="table")
def command() -> None:
    """Tables of networks with energy as a column: build, import, query and search them.

    \b
    Example:
      deepen table build nb201 --space nasbench201 --predictor phone.deepen
      deepen table search nb201 --objective energy_j --objective macs:max
    """


@command.command(name="build")
@_OUT
@click.option(
    "--space", required=True, metavar="SPACE", help="nasbench201, nasbench101?vertices=4, or FILE.py:FUNCTION."
)
@click.option("--predictor", "-p", metavar="NAME", help="Predictor that fills the table.")
@click.option(
    "--surrogate",
    type=click.Path(path_type=Path),
    metavar="TABLE",
    help="Instead: learn from the measured networks of this table.",
)
@click.option("--target", default="energy_j", show_default=True, help="Column to learn, with --surrogate.")
@click.option("--held-out", type=float, default=0.2, show_default=True, help="Share held out to judge the surrogate.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the parts, with --surrogate.")
@click.option("--archs", type=click.Path(path_type=Path), metavar="FILE", help="Only these: one architecture a line.")
@click.option("--runtime", metavar="NAME", help="Runtime whose kernels count; default: the predictor's own.")
@_JOIN
@json_option
def build_command(
    out: Path,
    space: str,
    predictor: str | None,
    surrogate: Path | None,
    target: str,
    held_out: float,
    seed: int,
    archs: Path | None,
    runtime: str | None,
    joined: Path | None,
    as_json: bool,
) -> None:
    """Fill a table for every network of a space, by a predictor or from a measured sample.

    SPACE FILE.py:FUNCTION runs that file: the function yields pairs of a name (or a dict of parameters) and an ONNX
    model.

    \b
    Example:
      deepen table build nb201 --space "nasbench201?classes=100" --predictor pi5.deepen
      deepen table build nb201 --space nasbench201 --surrogate sample --target energy_j
      deepen table build mine --space networks.py:networks --predictor pi5.deepen
    """
    from deepen.search import build_table, join_tables, open_space, read_table, write_table

    if (predictor is None) == (surrogate is None):
        raise ConfigError("a table is filled by --predictor or by --surrogate; give one of them")
    opened = open_space(space)
    listed = None
    if archs is not None:
        listed = [line.strip() for line in archs.read_text(encoding="utf-8").splitlines() if line.strip()]
    if predictor is not None:
        from deepen.predictors import load_predictor

        made = build_table(opened, load_predictor(predictor), listed, runtime=runtime)
    else:
        from deepen.search.surrogate import build_surrogate

        assert surrogate is not None  # one of them is given
        measured = read_table(surrogate)
        made, _ = build_surrogate(
            opened, measured, target, listed, held_out=held_out, seed=seed, runtime=runtime or "onnxruntime"
        )
    if joined is not None:
        made = join_tables(made, read_table(joined))
    write_table(made, out)
    emit_result(made.info() | {"table": str(out)}, as_json, lambda: _render_info(made, str(out)))


@command.command(name="import")
@click.argument("source_path", type=click.Path(path_type=Path), metavar="SOURCE")
@_OUT
@click.option(
    "--layout", default="rows", show_default=True, help="rows (a CSV or Parquet file), pi5-nasbench201 or ec-nas."
)
@_SPACE
@click.option(
    "--source",
    type=click.Choice(["published", "measured", "modelled", "simulated"]),
    default="published",
    show_default=True,
    help="Label of the figures.",
)
@click.option("--arch-column", default="", metavar="COLUMN", help="Column with the architecture, for rows.")
@click.option("--task", default="", help="For pi5-nasbench201: cifar10, cifar100, ...")
@click.option("--runtime", default="", help="For pi5-nasbench201: litert or onnx.")
@_JOIN
@json_option
def import_command(
    source_path: Path,
    out: Path,
    layout: str,
    space: str | None,
    source: RecordLabel,
    arch_column: str,
    task: str,
    runtime: str,
    joined: Path | None,
    as_json: bool,
) -> None:
    """Import a table: a row per network, or files of a published benchmark.

    Units in column names are converted (energy_mJ, latency_ms); percentages of accuracy become shares.

    \b
    Example:
      deepen table import measured.csv sample --space nasbench201
      deepen table import train_results_4V.tar.gz ecnas --layout ec-nas
    """
    from deepen.search import import_table, join_tables, read_table, write_table

    made = import_table(
        source_path, layout, space, source, arch_column=arch_column, task=task, runtime=runtime
    )  # fmt: skip
    if joined is not None:
        made = join_tables(made, read_table(joined))
    write_table(made, out)
    emit_result(made.info() | {"table": str(out)}, as_json, lambda: _render_info(made, str(out)))


@command.command(name="query")
@_FOLDER
@click.option("--arch", metavar="TEXT", help="A network by its architecture.")
@click.option("--hash", "hash_", metavar="HEX", help="By its hash.")
@click.option("--index", type=int, help="By its number.")
@click.option("--budget", type=float, help="Epochs of training; default: the largest.")
@click.option("--repeat", default="mean", show_default=True, metavar="N", help="A number, mean or random.")
@click.option("--stop-halfway", is_flag=True, help="Figures at half of the training.")
@click.option("--where", "limits", multiple=True, metavar="COLUMN=LOW:HIGH", help="Rows within limits; repeatable.")
@click.option("--front", is_flag=True, help="The Pareto front, its knee and its extremes.")
@_OBJECTIVES
@_GRID
@click.option("--limit", type=click.IntRange(1), default=_SHOWN, show_default=True, help="Rows to show.")
@click.option(
    "--export", type=click.Path(path_type=Path), metavar="CSV", help="Write the rows to a CSV file; - is stdout."
)
@json_option
def query_command(
    folder: Path,
    arch: str | None,
    hash_: str | None,
    index: int | None,
    budget: float | None,
    repeat: str,
    stop_halfway: bool,
    limits: tuple[str, ...],
    front: bool,
    names: tuple[str, ...],
    grid: float | None,
    limit: int,
    export: Path | None,
    as_json: bool,
) -> None:
    """Query a network, rows within limits, or the front; without a query, summarise the table.

    \b
    Example:
      deepen table query nb201
      deepen table query nb201 --index 42
      deepen table query nb201 --where accuracy=0.7: --front -o energy_j -o accuracy
    """
    from deepen.search import TabularBenchmark, read_objectives, read_table

    opened = read_table(folder)
    if (arch, hash_, index) != (None, None, None):
        chosen: Any = int(repeat) if repeat.isdecimal() else repeat
        if not repeat.isdecimal() and repeat not in ("mean", "random"):
            raise ConfigError(f"--repeat is a number, mean or random, not '{repeat}'")
        line = TabularBenchmark(opened).query(
            arch, hash=hash_, index=index, budget=budget, repeat=chosen, stop_halfway=stop_halfway
        )
        emit_result(
            line | opened.manifest.label._asdict(),
            as_json,
            lambda: format_table(["column", "value"], [(k, _format_value(opened, k, v)) for k, v in line.items()]),
        )
        return
    shown = opened.filter(**_parse_limits(opened, limits)) if limits else opened
    if export is not None:
        _export_rows(shown, export)
    if front:
        objectives = read_objectives(shown, names or _DEFAULT, grid)
        document, text = _summarise_front(shown, objectives, limit)
        emit_result(document | shown.manifest.label._asdict(), as_json, lambda: text)
    elif limits:
        rows = [shown.row(i) for i in range(min(limit, len(shown)))]
        document = {"rows": len(shown), "shown": rows, **shown.manifest.label._asdict()}
        emit_result(document, as_json, lambda: _render_rows(shown, rows))
    elif export is None or as_json:
        emit_result(opened.info(), as_json, lambda: _render_info(opened, str(folder)))


@command.command(name="search")
@_FOLDER
@_OBJECTIVES
@click.option(
    "--optimiser",
    "-m",
    "optimisers",
    multiple=True,
    metavar="NAME",
    help="random, semoa, sh-emoa, ms-ehvi, nsga2 or tpe; of several, the first is compared with each of the others.",
)
@click.option("--queries", "-n", type=click.IntRange(1), default=500, show_default=True, help="Networks to evaluate.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs with different seeds.")
@click.option("--seed", type=int, default=0, show_default=True, help="The first seed.")
@click.option("--population", type=click.IntRange(1), help="Networks per generation; default: the optimiser's own.")
@click.option("--known", multiple=True, metavar="COLUMN", help="Objective with free values, for ms-ehvi; repeatable.")
@click.option("--where", "limits", multiple=True, metavar="COLUMN=LOW:HIGH", help="Only networks within limits.")
@_GRID
@click.option("--log", type=click.Path(path_type=Path), metavar="FILE", help="Log of a single run, JSON lines.")
@click.option("--resume", is_flag=True, help="Continue from the log.")
@json_option
def search_command(
    folder: Path,
    names: tuple[str, ...],
    optimisers: tuple[str, ...],
    queries: int,
    seeds: int,
    seed: int,
    population: int | None,
    known: tuple[str, ...],
    limits: tuple[str, ...],
    grid: float | None,
    log: Path | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Search a table as if each network had to be trained and measured, and compare the result with the exact front.

    \b
    Example:
      deepen table search pi5 -o energy_j -o accuracy --optimiser semoa --log search.jsonl
      deepen table search pi5 -o energy_j -o accuracy -m semoa -m random --seeds 30
    """
    from deepen.search import read_objectives, read_table, search_table
    from deepen.search.compare import compare_optimisers

    # 1. Read the table and the objectives.
    opened = read_table(folder)
    opened = opened.filter(**_parse_limits(opened, limits)) if limits else opened
    objectives = read_objectives(opened, names or _DEFAULT, grid)
    chosen = optimisers or ("semoa",)
    # 2. One optimiser and one seed: a single run, with a log if one is wanted.
    if seeds == 1 and len(chosen) == 1:
        result = search_table(
            opened, objectives, chosen[0], queries,
            seed=seed, population=population, known=known, log=log, resume=resume,
        )  # fmt: skip
        emit_result(
            _build_result_document(result) | opened.manifest.label._asdict(), as_json, lambda: _render_result(result)
        )
        return
    # 3. Several runs: compare the optimisers.
    if log is not None or resume:
        raise ConfigError("a log is kept of one run: one optimiser, one seed")
    series, compared = compare_optimisers(
        opened, objectives, chosen, queries, seeds, first_seed=seed, population=population, known=known,
        done=lambda name, number: print_progress(f"{name}: seed {number}") if seeds > 1 and number % 10 == 9 else None,
    )  # fmt: skip
    # 4. The JSON document.
    document = {
        "queries": queries,
        "seeds": seeds,
        **opened.manifest.label._asdict(),
        "objectives": [o.name for o in objectives],
        "series": [
            {
                "optimiser": s.optimiser,
                "hypervolume": s.hypervolume,
                "regret": s.regret,
                "recall": s.recall,
                "runs": [_build_result_document(r) for r in s.results],
            }
            for s in series
        ],
        "compared": [{k: getattr(c, k) for k in c.__slots__} for c in compared],
    }

    # 5. The text.
    def render() -> str:
        cells = [
            (s.optimiser, f"{s.hypervolume:.4f}", f"{s.regret:.4f}", f"{100 * s.recall:.0f} %") for s in series
        ]  # fmt: skip
        lines = [format_table(["optimiser", "hypervolume", "regret", "recall"], cells, right=(1, 2, 3))]
        lines.append(f"medians over {seeds} seeds of {queries} queries; 1 is the box between best and worst figures")
        lines += [
            f"{c.optimiser} has the larger hypervolume than {c.against} in {c.better} of {c.seeds} seeds "
            f"(Wilcoxon p = {c.p_value:.2g})"
            for c in compared
        ]
        return "\n".join(lines)

    emit_result(document, as_json, render)


def _parse_limits(opened: BenchmarkTable, texts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, limit = text.partition("=")
        if not equals:
            raise ConfigError(f"'{text}': write COLUMN=LOW:HIGH, COLUMN=LOW: or COLUMN=VALUE")
        values = opened.values(name)
        if values.dtype == object:
            found[name] = limit
            continue
        try:
            ends = [float(v) if v else None for v in limit.split(":")]
        except ValueError as error:
            raise ConfigError(f"'{text}': limits of {name} are numbers") from error
        if len(ends) > 2 or ends == [None]:
            raise ConfigError(f"'{text}': write COLUMN=LOW:HIGH, COLUMN=LOW: or COLUMN=VALUE")
        found[name] = tuple(ends) if len(ends) == 2 else ends[0]
    return found


def _export_rows(shown: BenchmarkTable, path: Path) -> None:
    from deepen.storage.atomic import write_file_atomically

    names = [*shown.keys, *shown.data]
    if str(path) == "-":
        csv.DictWriter(sys.stdout, names).writeheader()
        csv.DictWriter(sys.stdout, names).writerows(shown)
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(shown)
    write_file_atomically(path, text.getvalue().encode())
    print_progress(f"wrote {path}: {len(shown)} rows")


def _format_value(opened: BenchmarkTable, name: str, value: Any) -> str:
    column = opened.columns.get(name)
    if column is None or not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "-"
    return format_si(value, column.unit) if column.unit and "/" not in column.unit else f"{value:.6g}"


def _render_rows(shown: BenchmarkTable, rows: Sequence[dict[str, Any]]) -> str:
    names = [*(n for n in shown.keys if n != "hash"), *shown.data]
    cells = [[_format_value(shown, n, row[n]) for n in names] for row in rows]
    text = format_table(names, cells, right=range(1, len(names)))
    return text + f"\n{len(rows)} of {len(shown)} rows; {shown.manifest.label}"


def _render_info(opened: BenchmarkTable, where: str) -> str:
    info = opened.info()
    cells = [
        (c["name"], *(_format_value(opened, c["name"], c.get(k, float("nan"))) for k in ("min", "median", "max")),
         c["rows"], c["source"], c["note"])
        for c in info["columns"]
    ]  # fmt: skip
    lines = [
        f"{where}: {info['title']}",
        f"{info['networks']} networks, {info['rows']} rows, {opened.manifest.label}"
        + (f", predictor {info['predictor']}" if info["predictor"] else ""),
        format_table(["column", "min", "median", "max", "rows", "source", "note"], cells, right=(1, 2, 3, 4)),
    ]
    if info["report"]:
        r = info["report"]
        lines.append(
            f"surrogate ({r['model']}) on {r['held_out']} held-out networks of {r['measured']}: Kendall's tau "
            f"{r['kendall']:.3f}, Spearman {r['spearman']:.3f}, {100 * r['inside']:.0f} % inside the 90 % interval"
        )
    lines += [f"note: {note}" for note in info["notes"]]
    return "\n".join(lines)


def _objective_values(objectives: Sequence[Objective], point: Any) -> dict[str, float]:
    return {o.name: float(o.sign * v) for o, v in zip(objectives, point, strict=True)}


def _format_objectives(objectives: Sequence[Objective], point: Any) -> list[str]:
    found = _objective_values(objectives, point)
    return [format_si(found[o.name], o.unit) if o.unit else f"{found[o.name]:.4g}" for o in objectives]


def _summarise_front(shown: BenchmarkTable, objectives: Sequence[Objective], limit: int) -> tuple[dict[str, Any], str]:
    from deepen.search import compute_exact_front
    from deepen.search.pareto import find_extremes, find_knee

    truth = compute_exact_front(shown, objectives)
    middle, ends = find_knee(truth.points), find_extremes(truth.points).tolist()

    def entry(row: int) -> dict[str, Any]:
        return {"arch": truth.archs[row], **_objective_values(objectives, truth.points[row])}

    document = {
        "objectives": [o.name for o in objectives],
        "networks": len(truth.archs),
        "missing": truth.missing,
        "front": [entry(r) for r in truth.front.tolist()],
        "knee": entry(middle),
        "extremes": {o.name: entry(r) for o, r in zip(objectives, ends, strict=True)},
    }
    cells = [(*_format_objectives(objectives, truth.points[r]), truth.archs[r]) for r in truth.front.tolist()[:limit]]
    lines = [format_table([*(o.name for o in objectives), "architecture"], cells, right=range(len(objectives)))]
    lines.append(f"{len(truth.front)} of {len(truth.archs)} networks are on the front")
    for what, row in (("knee", middle), *((f"best {o.name}", r) for o, r in zip(objectives, ends, strict=True))):
        lines.append(f"{what}: {', '.join(_format_objectives(objectives, truth.points[row]))}  {truth.archs[row]}")
    return document, "\n".join(lines)


def _build_result_document(result: SearchResult) -> dict[str, Any]:
    def entry(row: int) -> dict[str, Any]:
        return {"arch": result.archs[row], **_objective_values(result.objectives, result.points[row])}

    none = result.knee < 0
    return {
        "optimiser": result.optimiser,
        "seed": result.seed,
        "evaluated": len(result.archs),
        "resumed": result.resumed,
        "quality": {k: getattr(result.quality, k) for k in result.quality.__slots__},
        "spent": {
            "queries": result.spent.queries,
            "distinct": result.spent.distinct,
            "epochs": result.spent.epochs,
            "cost": dict(result.spent.cost),
        },
        "front": [entry(r) for r in result.front.tolist()],
        "knee": None if none else entry(result.knee),
        "extremes": {o.name: entry(r) for o, r in zip(result.objectives, result.extremes, strict=not none)},
    }


def _render_result(result: SearchResult) -> str:
    q = result.quality
    cells = [(*_format_objectives(result.objectives, result.points[r]), result.archs[r]) for r in result.front.tolist()]
    names = [o.name for o in result.objectives]
    lines = [format_table([*names, "architecture"], cells, right=range(len(names)))]
    if result.knee >= 0:
        lines.append(f"knee: {', '.join(_format_objectives(result.objectives, result.points[result.knee]))}")
    lines.append(
        f"{result.optimiser}, seed {result.seed}: {len(result.archs)} networks evaluated, {q.found} of the {q.front} "
        f"on the true front found; hypervolume {q.hypervolume:.4f}, regret {q.regret:.4f}"
    )
    return "\n".join(lines)
