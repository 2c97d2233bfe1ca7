"""``deepen dataset``: build, check, summarise and export datasets."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from deepen.cli.conditions import conditions_options, delegate_option, inputs_option, parse_settings, sync_option
from deepen.cli.model_options import model_options
from deepen.cli.output import emit_result, format_table, json_option, print_progress
from deepen.cli.plan import plan
from deepen.units import format_si

if TYPE_CHECKING:
    from deepen.campaign import CampaignProgress
    from deepen.datasets import Dataset
    from deepen.graph import ReadOptions

__all__ = ["command"]

_SHOWN_IDS = 5
_SHOWN_NOTES = 10


@click.group(name="dataset")
def command() -> None:
    """Build, check, summarise and export datasets of measured kernels.

    \b
    Example:
      deepen dataset build --out my-dataset --minutes 5
      deepen dataset summary my-dataset
    """


def _open_dataset(path: Path) -> Dataset:
    from deepen.datasets import Dataset

    dataset = Dataset.open(path)
    for note in dataset.notes:
        print_progress(f"note: {note}")
    return dataset


def _format_duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _format_progress(state: CampaignProgress, several: bool) -> str:
    width = len(str(state.total))
    elapsed, left = _format_duration(state.elapsed_s), _format_duration(state.eta_s)
    head = f"[{state.done:{width}d}/{state.total}] {elapsed} elapsed, {left} left"
    if math.isfinite(state.budget_left_s):
        head += f" (budget {_format_duration(state.budget_left_s)})"
    if several and state.device:
        head += f"  {state.device} ({state.by_device.get(state.device, 0)} done):"
    if state.notice:
        return f"{head}  {state.notice}"
    if state.error:
        return f"{head}  failed: {state.error}"
    return f"{head}  {state.last}" if state.last else head


@command.command()
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Dataset: a folder, or a file NAME.db; made where absent.",
)
@click.option(
    "--family", "-f", "families", multiple=True, help="Kernel family, or several with commas; repeatable [all]."
)
@click.option("--count", type=int, help="Number of kernels [400 where no time is given].")
@click.option("--minutes", "--budget", "minutes", type=float, help="Time to spend measuring, minutes.")
@click.option("--device", default="local", show_default=True, help="Device to measure on.")
@click.option("--meter", help="Power source, NAME[:PORT][?key=value] [the best one found].")
@click.option(
    "--on",
    "pairs",
    multiple=True,
    metavar="DEVICE,METER",
    help="Measure on this device with this meter, in parallel to others; repeatable, instead of --device and --meter.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of sample and order.")
@click.option(
    "--threads",
    multiple=True,
    default=(1,),
    show_default=True,
    type=click.IntRange(min=1),
    help="Intra-operator threads; repeatable.",
)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    default=("auto",),
    show_default=True,
    help="Inference engine: onnxruntime, crunner, perf_test, or what suits the device; repeatable.",
)
@delegate_option
@model_options
@inputs_option
@sync_option
@conditions_options
@click.option(
    "--repeats", default=1, show_default=True, type=click.IntRange(min=1), help="Records per kernel and condition."
)
@click.option("--max-macs", type=click.IntRange(min=1), help="Largest kernel, in multiply-accumulates.")
@click.option(
    "--exclude",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="MODEL.onnx",
    help="Leave out the kernel configurations of this model, of the --shape given; repeatable.",
)
@json_option
def build(
    out: Path,
    families: tuple[str, ...],
    count: int | None,
    minutes: float | None,
    device: str,
    meter: str | None,
    pairs: tuple[str, ...],
    seed: int,
    threads: tuple[int, ...],
    runtimes: tuple[str, ...],
    delegate: str,
    read_options: ReadOptions,
    given: tuple[str, ...],
    sync: Literal["auto", "pulses", "none"],
    prepare: bool,
    wanted: tuple[str, ...],
    repeats: int,
    max_macs: int | None,
    exclude: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Measure sampled kernels into a dataset.

    Each record is on the disk before the next kernel begins. Running the same command again resumes, also after Ctrl-C
    or a crash; a larger --count adds kernels.

    Several devices measure in parallel: name each with its own meter by --on, both by serial number, so that a meter
    that returns at another port is still that device's meter. Devices of the same profile share the kernels; devices of
    different profiles measure all kernels each. The settings of a device's profile are applied during the run and
    restored at the end, after a crash by the next run; those of this machine are not changed. A device that is gone is
    tried again for half an hour while devices of the same profile take its kernels. One that overheats, throttles or
    drifts pauses, and is stopped if that does not help. Every kernel is measured with each --runtime and each number
    of --threads, --repeats times. Integer inputs of kernels are filled with meaningful values (indices in range, masks
    of ones); --input replaces them in every kernel that has an input of that name.

    \b
    Example:
      deepen dataset build --out my-dataset --family conv-bn-relu,fc --count 200
      deepen dataset build --out my-dataset --minutes 10 --exclude resnet50.onnx
      deepen dataset build --out phones --budget 480 --threads 1 --threads 4 \\
        --on 'adb:0A1B2C,lvpm:12345?voltage_v=4.2' --on 'adb:0D3E4F,lvpm:12346?voltage_v=4.2'
    """
    from deepen.campaign import build_dataset, parse_device_meter_pairs
    from deepen.datasets import Dataset
    from deepen.measure.input_values import parse_input

    # 1. Measure.
    if pairs and (device != "local" or meter):
        raise click.UsageError("give devices and meters either by --on or by --device and --meter")
    names = [name.strip() for text in families for name in text.split(",") if name.strip()]
    report = build_dataset(
        out,
        families=names or None,
        count=count,
        minutes=minutes,
        device=device,
        meter=meter,
        pairs=parse_device_meter_pairs(pairs),
        seed=seed,
        threads=threads,
        runtimes=runtimes,
        delegate=delegate,
        sync=sync,
        prepare=prepare,
        settings=parse_settings(wanted),
        repeats=repeats,
        exclude=exclude,
        exclude_options=read_options,
        max_macs=max_macs,
        inputs=dict(map(parse_input, given)),
        on_progress=lambda state: print_progress(_format_progress(state, len(pairs) > 1)),
    )
    # 2. The JSON document.
    card = Dataset.open(out).card
    document = {
        "dataset": str(out),
        "measured": report.measured,
        "skipped_done": report.skipped_done,
        "failed": [{"name": name, "reason": reason} for name, reason in report.failed],
        "remaining": report.remaining,
        "by_device": dict(report.by_device),
        "stopped": [{"device": name, "reason": reason} for name, reason in report.stopped],
        "interrupted": report.interrupted,
        "elapsed_s": report.elapsed_s,
        "drift": report.drift_span,
        "card": card.document(),
    }

    # 3. The text.
    def render() -> str:
        lines = [
            f"{report.measured} kernels measured in {_format_duration(report.elapsed_s)}, "
            f"{report.skipped_done} were there, {len(report.failed)} failed, {report.remaining} not begun",
            f"{card.records} records ({card.source or 'none'}) on {card.device or '-'} by {card.meter or '-'} in {out}",
        ]
        if len(report.by_device) > 1:
            lines.append(", ".join(f"{count} by {name}" for name, count in sorted(report.by_device.items())))
        lines += [f"{name} was stopped: {reason}" for name, reason in report.stopped]
        if report.interrupted or report.remaining:
            lines.append("run the same command again to go on")
        return "\n".join(lines)

    # 4. The exit status: interrupted, worth another try, or nothing measured.
    emit_result(document, as_json, render)
    if report.interrupted:
        sys.exit(130)
    if report.stopped and report.remaining:
        sys.exit(3)
    if report.failed and not card.records:
        sys.exit(1)


@command.command(name="import")
@click.argument("name")
@click.argument("source", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Dataset: a folder, or a file NAME.db; made here."
)
@click.option("--runtime", help="Take only the records of this runtime, where the source has several.")
@click.option("--device", help="Take only the records of this device, where the source has several.")
@click.option(
    "--configurations",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Further file of configurations by id (deepen2023: conv_GPU.json also describes rows of the CPU).",
)
@json_option
def import_(
    name: str,
    source: Path,
    out: Path,
    runtime: str | None,
    device: str | None,
    configurations: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Import measurements of others: NAME is the layout of DIR.

    Each row is checked: energy against power and latency, unit slips, zeros, duplicates. Only unambiguous errors are
    repaired; every repair and every rejection is listed with its reason. The names:

    \b
      deepen2023      kernels of a phone's CPU: folder with Kernel_energy/, kernel_config/, ...
      deepen2023-gpu  convolutions on a phone's GPU: conv_energy_GPU.json, conv_GPU.json
      pi5-nasbench201 whole networks on a Raspberry Pi 5: measurements.parquet, arch_idx_to_str.csv
      layers-and-nets layers and networks on a server CPU: layers_*.csv, *architectures*-raw.csv
      mlperf-tiny     benchmark networks on small boards: .../TASK/energy/results.txt
      ec-nas          training (not inference) energies: train_results_4V.tar.gz
      nn-meter        latencies of whole networks, no energies: model_latency/
      csv             your own: family, its parameters, energy_mJ (or J, uJ, Wh, ...), latency_ms, ...; a file
                      or a folder of files; columns as "deepen kernel list" names parameters

    \b
    Example:
      deepen dataset import deepen2023 downloads/DeepEn --out phone-kernels
      deepen dataset import deepen2023 downloads/DeepEn --configurations downloads/conv_GPU.json --out more-kernels
      deepen dataset check phone-kernels
      deepen dataset import pi5-nasbench201 downloads/pi5 --runtime onnxruntime --out pi5-onnx
    """
    from deepen.datasets.importers import import_dataset

    found = import_dataset(name, source, out, runtime=runtime, device=device, configurations=configurations)
    document = {
        "dataset": str(out),
        "importer": name,
        "rows": len(found.records),
        "repaired": [dataclasses.asdict(note) for note in found.repaired],
        "rejected": [dataclasses.asdict(note) for note in found.rejected],
        "notes": list(found.notes),
    }

    def render() -> str:
        kept = len(found.records)
        lines = [f"{kept} rows imported to {out}, {len(found.repaired)} repaired, {len(found.rejected)} rejected"]
        lines += [f"note: {note}" for note in found.notes]
        for title, notes in (("repaired", found.repaired), ("rejected", found.rejected)):
            lines += [f"{title} {some.id}: {some.reason}" for some in notes[:_SHOWN_NOTES]]
            if len(notes) > _SHOWN_NOTES:
                lines.append(f"  and {len(notes) - _SHOWN_NOTES} more {title}: --json lists all")
        return "\n".join(lines)

    emit_result(document, as_json, render)


@command.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@json_option
def check(dataset: Path, as_json: bool) -> None:
    """Check whether the values of a DATASET are plausible energies; exits with 1 if some cannot be right.

    Checks: rank correlation with work, repeatability, power, unit slips and outliers, zero and quantised values,
    duplicates, and mixtures of labels, devices or settings.

    \b
    Example:
      deepen dataset check my-dataset --json
    """
    from deepen.datasets import quality

    opened = _open_dataset(dataset)
    findings = quality.check_dataset(opened)
    errors = sum(finding.severity == "error" for finding in findings)
    document = {
        "dataset": str(dataset),
        "records": len(opened),
        "ok": not errors,
        "notes": list(opened.notes),
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }

    def render() -> str:
        if not findings:
            return f"{len(opened)} records, nothing found"
        rows = [(f.severity, f.check, f.family or "-", f.message + _format_ids(f.ids)) for f in findings]
        return format_table(("", "check", "family", "finding"), rows) + f"\n\n{len(opened)} records, {errors} errors"

    emit_result(document, as_json, render)
    if errors:
        sys.exit(1)


def _format_ids(ids: tuple[str, ...]) -> str:
    if not ids:
        return ""
    more = f", and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return f" [{', '.join(ids[:_SHOWN_IDS])}{more}]"


@command.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@json_option
def summary(dataset: Path, as_json: bool) -> None:
    """Summarise a DATASET: its contents and origin, per family.

    \b
    Example:
      deepen dataset summary my-dataset
    """
    opened = _open_dataset(dataset)
    card = opened.card
    families = _summarise_families(opened)
    document = {**card.document(), "dataset": str(dataset), "notes": list(opened.notes), "groups": families}

    def render() -> str:
        labels = ", ".join(f"{label} {count}" for label, count in card.sources.items()) or "none"
        head = [
            f"{card.records} records: {card.kernels} kernels, {card.models} models",
            f"label     {card.source or '-'} ({labels})",
            f"device    {card.device or '-'}",
            f"meter     {card.meter or '-'}",
            f"runtime   {card.runtime_build or '-'}",
            f"threads   {', '.join(map(str, card.threads)) or '-'}",
            f"features  version {card.features_version}",
            f"recorded  {card.first_recorded_at or '-'} to {card.last_recorded_at or '-'}",
            f"content   {card.content_sha256[:16]}",
        ]
        rows = [
            (
                name,
                entry["records"],
                format_si(entry["energy_min_j"], "J"),
                format_si(entry["energy_median_j"], "J"),
                format_si(entry["energy_max_j"], "J"),
                format_si(entry["power_median_w"], "W"),
            )
            for name, entry in families.items()
        ]
        titles = ("family", "records", "least energy", "median", "most", "median power")
        return "\n".join([*head, "", format_table(titles, rows, right=range(1, 6))] if rows else head)

    emit_result(document, as_json, render)


def _summarise_families(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Tabulate counts, energies and powers per family; models under ``models``."""
    from statistics import median

    groups: dict[str, list[Any]] = {}
    for record in dataset:
        groups.setdefault(record.family if record.kind == "kernel" else "models", []).append(record)
    return {
        name: {
            "records": len(records),
            "energy_min_j": min(r.energy_j for r in records),
            "energy_median_j": median(r.energy_j for r in records),
            "energy_max_j": max(r.energy_j for r in records),
            "power_median_w": median(r.energy_j / r.latency_s if r.latency_s else math.nan for r in records),
        }
        for name, records in sorted(groups.items())
    }


@command.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["csv", "parquet", "jsonl"]), help="Format [by the file's ending].")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@json_option
def export(
    dataset: Path, file: Path, form: Literal["csv", "parquet", "jsonl"] | None, force: bool, as_json: bool
) -> None:
    """Write the records of a DATASET to one FILE for other tools.

    CSV and Parquet have one row per record with a column per parameter and feature; JSON lines hold complete records.

    \b
    Example:
      deepen dataset export my-dataset kernels.csv
      deepen dataset export my-dataset kernels.out --format parquet --force
    """
    from deepen.datasets import export_records
    from deepen.datasets.export import infer_format

    opened = _open_dataset(dataset)
    chosen = form or infer_format(file)
    export_records(opened.records(), file, chosen, overwrite=force)
    emit_result(
        {"dataset": str(dataset), "file": str(file), "format": chosen, "records": len(opened)},
        as_json,
        lambda: f"{len(opened)} records written to {file} ({chosen})",
    )


command.add_command(plan)
