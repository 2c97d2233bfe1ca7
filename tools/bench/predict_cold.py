#!/usr/bin/env python3
"""Times one prediction of a ResNet-50: from a cold start of the program, and inside a running one.

Example:
    .venv/bin/python tools/bench/predict_cold.py --predictor deepen-quickstart/quickstart.deepen -n 10

Without ``--predictor``, one is trained on simulated kernels; times then hold for a predictor of that size only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import arguments, deepen_program, measure, report

HERE = Path(__file__).resolve().parent

INSIDE = """
import json, sys, time
start = time.perf_counter()
import onnx, onnxruntime
imports = time.perf_counter() - start
import deepen
from deepen import graph
from deepen.kernels.splitting.split import split_graph
model, predictor_path, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
predictor = deepen.load_predictor(predictor_path)
times_of = {"load_split": [], "predict": []}
for _ in range(times + 1):
    start = time.perf_counter()
    parts = split_graph(graph.load_graph(model))
    times_of["load_split"].append(time.perf_counter() - start)
    start = time.perf_counter()
    predictor.predict(parts, name=model)
    times_of["predict"].append(time.perf_counter() - start)
first = {name: values[0] for name, values in times_of.items()}
print(json.dumps({"imports": imports, "first": first, "warm": {name: values[1:] for name, values in times_of.items()}}))
"""


def main() -> None:
    """Run and print."""
    parser = arguments("Cost of predicting a ResNet-50 (102 MB of weights).", 10)
    parser.add_argument("--predictor", help="name or path (default: one trained here on simulated kernels)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder) / "resnet50.onnx")
        subprocess.run([sys.executable, str(HERE / "resnet50.py"), model], check=True)
        predictor = options.predictor
        if predictor is None:
            predictor = str(Path(folder) / "simulated.deepen")
            code = "import sys; from deepen.testing import synthetic; synthetic.train_synthetic_predictor(sys.argv[1])"
            subprocess.run([sys.executable, "-c", code, predictor], check=True)
        cold = measure([deepen_program(), "predict", model, "--predictor", predictor, "--json"], options.times)
        inside = [sys.executable, "-c", INSIDE, model, predictor, str(options.times)]
        found = json.loads(subprocess.run(inside, check=True, capture_output=True, text=True).stdout)
    report(
        f"Prediction of ResNet-50 (weights 102 MB, predictor: {options.predictor or 'trained on simulated kernels'})",
        [
            ("deepen predict, cold start: wall time", [run.wall_s for run in cold], "s", 1.0),
            ("deepen predict, cold start: peak memory", [run.peak_bytes / 1e6 for run in cold], "MB", 300),
            ("import onnx, onnxruntime", [found["imports"]], "s", None),
            ("load + split, first in its process", [found["first"]["load_split"]], "s", 0.25),
            ("load + split, again", found["warm"]["load_split"], "s", 0.25),
            ("prediction of a split model", [1e3 * s for s in found["warm"]["predict"]], "ms", 20),
        ],
    )


if __name__ == "__main__":
    main()
