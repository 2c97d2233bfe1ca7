"""TensorFlow Lite's and LiteRT's ``benchmark_model`` as a runtime.

It prints no time stamps, so a block is located from the lines before and after it and from the tool's own statistics
(:func:`~deepen.devices.runtimes.locate_in_trace.locate_block_between_lines`); the first run of every process is a
warm-up and not in the block. The operator profile is a run of its own (:meth:`BenchmarkModel.profile`) and never part
of a block, because profiling costs energy. The runtime's name states the accelerator; every block is checked, and it is
an error if the graph does not run there, or if that is unknown.

Flags: LiteRT ``tflite/tools/benchmark/README.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from deepen.devices.runtimes.benchmark_tool import ToolLog, ToolModel, ToolRuntime
from deepen.devices.runtimes.locate_in_trace import locate_block_between_lines
from deepen.devices.runtimes.parsers.benchmark_model import ENDED, STARTED, BenchmarkReport, parse_benchmark_model
from deepen.devices.runtimes.parsers.op_profile import OpTable
from deepen.devices.runtimes.parsers.text import RunStatistics
from deepen.errors import ConfigError, LinkError, RunError
from deepen.records import Interval

__all__ = ["BenchmarkModel", "BenchmarkModelGpu", "BenchmarkModelHexagon", "BenchmarkModelNnapi"]

_LONGEST_S = 86_400
"""Largest run time given to the tool, seconds; by default it stops after 150."""


class BenchmarkModel(ToolRuntime):
    """``benchmark_model`` on the CPU.

    Attributes:
        accelerator: Name of the delegate to run on; empty for the CPU.
        flags: Options that request it.
    """

    name = "benchmark_model"
    programs = ("benchmark_model", "/data/local/tmp/benchmark_model")
    variable = "DEEPEN_BENCHMARK_MODEL"
    suffixes = (".tflite", ".lite")
    accelerator: ClassVar[str] = ""
    flags: ClassVar[tuple[str, ...]] = ()

    def arguments(self, model: ToolModel, n: int) -> list[str]:
        """Make the command line for n runs after one warm-up run."""
        found = [
            f"--graph={model.remote}", f"--num_threads={model.threads}", f"--num_runs={n}", "--min_secs=0",
            f"--max_secs={_LONGEST_S}", "--warmup_runs=1", "--warmup_min_secs=0", *self.flags,
        ]  # fmt: skip
        if model.shapes:
            for name in model.shapes:
                if "," in name or ":" in name:
                    raise ConfigError(f"{model.name}: benchmark_model cannot be told the shape of an input '{name}'")
            found.append("--input_layer=" + ",".join(model.shapes))
            shapes = (",".join(str(int(d)) for d in shape) for shape in model.shapes.values())
            found.append("--input_layer_shape=" + ":".join(shapes))
        return found

    def try_out(self, model: ToolModel) -> tuple[ToolModel, str, float]:
        """Run the model once.

        Raises:
            RunError: If it cannot be run, or not on the accelerator.
        """
        _, report, runs = self._measure(model, 1, self._load_timeout_s)
        note = self._placement(model, report)
        build = f"{self.identity()} {note} threads={model.threads}"
        return ToolModel(model.name, model.remote, model.threads, model.shapes, note), build, runs.mean_s or 0.0

    def block(self, model: ToolModel, n: int, timeout_s: float) -> Interval:
        """Run n inferences.

        Raises:
            RunError: If the tool fails, runs a different number, or the graph ran elsewhere than at loading.
            LinkError: If the device is gone.
        """
        delay_s = self.delay_s()
        log, report, runs = self._measure(model, n, timeout_s)
        note = self._placement(model, report)
        if note != model.note:
            raise RunError(
                f"{model.name}: the graph ran with {note} now and with {model.note} before", cure="measure it again"
            )
        starts, ends = log.arrivals(STARTED), log.arrivals(ENDED)
        if not starts or not ends or runs.total_s is None:
            raise RunError(f"{model.name}: benchmark_model did not say when its runs began and ended")
        before_s = (report.init_s or 0.0) + ((report.warmup.total_s or 0.0) if report.warmup else 0.0)
        found = locate_block_between_lines(log.begun_s + before_s, starts[-1], ends[-1], runs.total_s, delay_s)
        return Interval(found.start_s, found.end_s, "run", runs=n, uncertainty_s=found.uncertainty_s)

    def profile(self, path: Path, *, threads: int = 1, runs: int = 50) -> tuple[OpTable, ...]:
        """Profile the operators of a model in a separate run, whose energy is not measured.

        Raises:
            ConfigError, RunError, LinkError: As :meth:`load`; RunError also if there is no profile.
        """
        if not path.is_file():
            raise ConfigError(f"no such model file: {path}")
        self.find()
        model = ToolModel(path.name, self._link.push(path), threads, {})
        arguments = [*self.arguments(model, runs), "--enable_op_profiling=true"]
        log = self.listen(model, arguments, self._load_timeout_s)
        tables = parse_benchmark_model(log.text).tables
        if not tables:
            raise RunError(f"{path.name}: benchmark_model printed no operator profile ({log.complaint})")
        return tables

    def _measure(self, model: ToolModel, n: int, timeout_s: float) -> tuple[ToolLog, BenchmarkReport, RunStatistics]:
        log = self.listen(model, self.arguments(model, n), timeout_s)
        report = parse_benchmark_model(log.text)
        if log.status != 0 or report.regular is None:
            self._refuse_fallback(model, report)
            raise RunError(f"{model.name}: benchmark_model failed with status {log.status} ({log.complaint})")
        if report.problems:
            raise LinkError(
                f"{model.name}: benchmark_model's output is damaged: {report.problems[0]}", cure="measure again"
            )
        if report.regular.count != n:
            raise RunError(f"{model.name}: benchmark_model ran {report.regular.count} inferences instead of {n}")
        return log, report, report.regular

    def _refuse_fallback(self, model: ToolModel, report: BenchmarkReport) -> None:
        """Raise an error if the accelerator took no node."""
        if not self.accelerator:
            return
        found = report.delegation(self.accelerator)
        if found.state == "none":
            raise RunError(
                f"{model.name}: the {self.accelerator} delegate does not run it and the CPU would ({found.evidence})",
                cure="measure it with the runtime benchmark_model, or use a model the accelerator takes",
            )

    def _placement(self, model: ToolModel, report: BenchmarkReport) -> str:
        """Return the processor on which the graph ran, for the build string."""
        if not self.accelerator:
            return str(report.delegation("xnnpack"))
        self._refuse_fallback(model, report)
        found = report.delegation(self.accelerator)
        if found.state == "unknown":
            raise RunError(
                f"{model.name}: this benchmark_model does not say whether the {self.accelerator} delegate "
                "runs the graph, and it may be the CPU",
                cure="use a newer build",
            )
        return str(found)


class BenchmarkModelGpu(BenchmarkModel):
    """``benchmark_model`` on the GPU delegate."""

    name = "benchmark_model-gpu"
    accelerator = "gpu"
    flags = ("--use_gpu=true",)


class BenchmarkModelNnapi(BenchmarkModel):
    """``benchmark_model`` on NNAPI, without NNAPI's own implementation for the CPU."""

    name = "benchmark_model-nnapi"
    accelerator = "nnapi"
    flags = ("--use_nnapi=true", "--disable_nnapi_cpu=true")


class BenchmarkModelHexagon(BenchmarkModel):
    """``benchmark_model`` on the Hexagon delegate."""

    name = "benchmark_model-hexagon"
    accelerator = "hexagon"
    flags = ("--use_hexagon=true",)
