#!/usr/bin/env python3
"""Runs a campaign on the virtual bench with faults at random moments, and compares its predictor with the truth.

Example:
    .venv/bin/python tools/bench/campaign_bench.py --count 200 --seed 1

Two devices (a real adbd, a real sshd), each with an emulated meter, measure side by side while the host's process is
killed, a daemon is killed, a link is cut and meters are unplugged. Everything is simulated; what is tested is that
nothing is lost, repeated or wrong. Needs tools/build-adbd; the models of tools/models.txt make five more of the nine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from importlib import util
from pathlib import Path

import common  # noqa: F401  (finds tests.support)

from deepen.bench import DevicePowerModel, VirtualBench
from tests.support.fault_campaign import (
    FaultCampaign,
    FaultCampaignReport,
    FaultCampaignScope,
    draw_campaign_faults,
    select_families,
)

Models = list[tuple[Path, Mapping[str, tuple[int, ...]]]]

INSIDE: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {
    "rapidocr_onnxruntime": {
        "models/ch_ppocr_mobile_v2.0_cls_infer.onnx": {"x": (1, 3, 48, 192)},
        "models/ch_PP-OCRv4_rec_infer.onnx": {"x": (1, 3, 48, 320)},
        "models/ch_PP-OCRv4_det_infer.onnx": {"x": (1, 3, 320, 320)},
    },
    "nudenet": {"320n.onnx": {"images": (1, 3, 320, 320)}},
    "magika": {"models/standard_v3_3/model.onnx": {"bytes": (1, 2048)}},
}
"""Trained models inside packages, with shapes for their inputs."""


def real_models() -> Models:
    """The nine architectures of the onnx package, and the models of the packages that are installed."""
    from deepen.quickstart.targets import list_reference_models

    found: Models = [(path, {}) for path in list_reference_models()]
    for package, files in INSIDE.items():
        spec = util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            found += [(Path(folder) / name, shapes) for name, shapes in files.items() if (Path(folder) / name).exists()]
    return found


def say(text: str) -> None:
    """Print with the time, at once."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def tell(verdict: FaultCampaignReport) -> None:
    """Print the result of the campaign."""
    errors = [abs(one.error) for one in verdict.compared]
    within = sum(one.within for one in verdict.compared)
    times = Counter(strike.kind for strike in verdict.injected_faults)
    print(f"records              {verdict.records}, missing {len(verdict.missing)}, repeated {len(verdict.repeated)}")
    print(f"strikes              {', '.join(f'{kind} {n}' for kind, n in times.items()) or 'none'}")
    print(f"command              started {verdict.starts} times, exit codes {list(verdict.codes)}")
    print(f"wrong numbers        {len(verdict.wrong)}")
    print(f"truth within 2 sigma {within} of {verdict.records}")
    if errors:
        print(f"error of a record    median {100 * statistics.median(errors):.2f} %, most {100 * max(errors):.2f} %")
    print(f"left behind          {'; '.join(verdict.left) or 'nothing'}")
    print(f"time                 {verdict.elapsed_s / 60:.1f} min")
    for one in (*verdict.wrong, *sorted(verdict.compared, key=lambda c: -abs(c.error))[:5]):
        measured = f"{one.measured_j:.4g} ± {one.standard_j:.2g} J"
        print(f"  {one.name}: {measured}, true {one.true_j:.4g} J ({100 * one.error:+.2f} %)")


def predict(dataset: Path, models: Models, seed: int, near: float) -> int:
    """Train, predict the models, print it; returns how many are near the truth."""
    from deepen.bench.power_model import compute_kernel_costs
    from deepen.datasets import Dataset
    from deepen.graph import load_graph
    from deepen.kernels.splitting.split import split_graph
    from deepen.predictors import train_predictor

    device = DevicePowerModel()
    opened = Dataset.open(dataset)
    measured = opened.keys()
    predictor = train_predictor(opened, seed=seed)
    good, errors = 0, []
    print("\n| model | predicted | true | error | kernels seen |\n| --- | ---: | ---: | ---: | ---: |")
    for path, shapes in models:
        found = split_graph(load_graph(path, dict(shapes) or None))
        true_j = device.run_j + sum(cost.energy_j for cost in compute_kernel_costs(device, found.kernels))
        predicted_j = predictor.predict(found, name=str(path)).energy_j
        error = predicted_j / true_j - 1
        errors.append(abs(error))
        good += abs(error) <= near
        seen = sum(kernel.key in measured for kernel in found.kernels)
        figures = f"{1e3 * predicted_j:.4g} mJ | {1e3 * true_j:.4g} mJ | {100 * error:+.1f} %"
        print(f"| {path.stem} | {figures} | {seen} of {len(found.kernels)} |")
    middle = statistics.median(errors)
    print(f"\n{good} of {len(models)} models within {100 * near:g} %, median error {100 * middle:.1f} %")
    return good


def main() -> int:
    """Run and print; exits 1 where something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="kernels (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of kernels and strikes")
    parser.add_argument("--meter", choices=("lvpm", "ppk2"), default="lvpm", help="meter of both devices")
    parser.add_argument("--runtime", action="append", choices=("onnxruntime", "crunner"), help="runtime; repeatable")
    parser.add_argument("--kills", type=int, default=5, help="times the host's process is killed")
    parser.add_argument("--gone", type=int, default=2, help="times a device is gone")
    parser.add_argument("--unplugged", type=int, default=2, help="times a meter is unplugged")
    parser.add_argument("--out", type=Path, help="folder to keep (default: a temporary one)")
    parser.add_argument("--minutes", type=float, default=60.0, help="give up after so long")
    options = parser.parse_args()
    models = real_models()
    families = select_families(models, DevicePowerModel())
    say(f"{options.count} kernels of {len(families)} families; {len(models)} models, whose kernels are left out")
    whole = tuple(path for path, shapes in models if not shapes)
    runtimes = tuple(options.runtime or ("onnxruntime",))
    aim = FaultCampaignScope(options.count, tuple(families), options.seed, exclude=whole, runtimes=runtimes)
    strikes = draw_campaign_faults(
        options.count, 2, options.seed, kills=options.kills, gone=options.gone, unplugged=options.unplugged
    )
    with tempfile.TemporaryDirectory(prefix="deepen-ordeal-") as temporary, VirtualBench() as bench:
        folder = options.out or Path(temporary)
        bench.add("adb", options.meter, seed=options.seed)
        bench.add("ssh", options.meter, seed=options.seed + 1)
        if "crunner" in runtimes:
            for device in bench.devices:
                device.use_c_runner()
        ordeal = FaultCampaign(bench, folder, aim, strikes, say=say, patience_s=60 * options.minutes)
        verdict = ordeal.run()
        tell(verdict)
        good = predict(ordeal.dataset, models, options.seed, 0.1)
    return 0 if verdict.passed and good >= 0.9 * len(models) else 1


if __name__ == "__main__":
    sys.exit(main())
