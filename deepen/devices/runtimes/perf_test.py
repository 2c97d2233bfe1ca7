"""``onnxruntime_perf_test`` as a runtime.

It reports after its last run how long session and runs took, so a block is placed by the length it had and by bounds on
either side (:func:`~deepen.devices.runtimes.locate_in_trace.locate_block_of_known_length`). An accelerator has to take
every node: the tool is told not to fall back (``session.disable_cpu_ep_fallback``), and what its log says of nodes
elsewhere is an error.

Flags: ONNX Runtime ``onnxruntime/test/perftest/README.md``.
"""

from __future__ import annotations

from typing import ClassVar

from deepen.devices.runtimes.benchmark_tool import ToolLog, ToolModel, ToolRuntime
from deepen.devices.runtimes.locate_in_trace import locate_block_of_known_length
from deepen.devices.runtimes.parsers.perf_test import SUMMARY, PerfReport, parse_perf_test
from deepen.errors import ConfigError, LinkError, RunError
from deepen.records import Interval

__all__ = ["PerfTest", "PerfTestCuda", "PerfTestNnapi", "PerfTestTensorrt", "PerfTestXnnpack"]

_LEVEL = 2
"""Graph optimisation level "extended", as the other runtimes have it."""


class PerfTest(ToolRuntime):
    """``onnxruntime_perf_test`` on the CPU.

    Attributes:
        provider: Execution provider as the tool calls it.
    """

    name = "perf_test"
    programs = ("onnxruntime_perf_test", "/data/local/tmp/onnxruntime_perf_test")
    variable = "DEEPEN_PERF_TEST"
    suffixes = (".onnx", ".ort")
    provider: ClassVar[str] = "cpu"

    def arguments(self, model: ToolModel, n: int) -> list[str]:
        """Command line for n runs after one warm-up run, with input values made up by the tool."""
        if model.shapes:
            raise ConfigError(
                f"{model.name}: onnxruntime_perf_test takes no shapes of inputs; fix them in the model, or use the "
                "runtime onnxruntime"
            )
        strict = [] if self.provider == "cpu" else ["-C", "session.disable_cpu_ep_fallback|1"]
        return [
            "-I", "-m", "times", "-r", str(n), "-e", self.provider, "-x", str(model.threads), "-y", "1",
            "-o", str(_LEVEL), *strict, "-s", model.remote,
        ]  # fmt: skip

    def try_out(self, model: ToolModel) -> tuple[ToolModel, str, float]:
        """Run it once.

        Raises:
            RunError: If it cannot be run, or not where it should.
        """
        _, report = self._measure(model, 1, self._load_timeout_s)
        build = f"{self.identity()} provider={self.provider} level=extended threads={model.threads}"
        return model, build, (report.runs.mean_s if report.runs else None) or 0.0

    def block(self, model: ToolModel, n: int, timeout_s: float) -> Interval:
        """Run n inferences.

        Raises:
            RunError: If the tool fails, runs another number, or falls back to the CPU.
            LinkError: If the device is gone.
        """
        delay_s = self.delay_s()
        said, report = self._measure(model, n, timeout_s)
        ends = said.arrivals(SUMMARY)
        if not ends or report.wall_s is None:
            raise RunError(f"{model.name}: onnxruntime_perf_test did not say how long its runs took")
        # The first inference is told in whole milliseconds, cut off.
        before_s = (report.session_s or 0.0) + (report.first_s or 0.0)
        found = locate_block_of_known_length(said.begun_s + before_s, ends[0], report.wall_s, delay_s)
        return Interval(found.start_s, found.end_s, "run", runs=n, uncertainty_s=found.uncertainty_s)

    def _measure(self, model: ToolModel, n: int, timeout_s: float) -> tuple[ToolLog, PerfReport]:
        said = self.listen(model, self.arguments(model, n), timeout_s)
        report = parse_perf_test(said.text)
        if report.fallback and self.provider != "cpu":
            raise RunError(
                f"{model.name}: the provider {self.provider} does not run all of it and the CPU would "
                f"({report.fallback[:200]}); measure it with the runtime perf_test, or use a model it takes"
            )
        if said.status != 0 or report.runs is None:
            raise RunError(f"{model.name}: onnxruntime_perf_test failed with status {said.status} ({said.complaint})")
        if report.problems:
            raise LinkError(f"{model.name}: onnxruntime_perf_test's output is damaged: {report.problems[0]}; try again")
        if report.runs.count != n:
            raise RunError(f"{model.name}: onnxruntime_perf_test ran {report.runs.count} inferences instead of {n}")
        return said, report


class PerfTestCuda(PerfTest):
    """``onnxruntime_perf_test`` on CUDA."""

    name = "perf_test-cuda"
    provider = "cuda"


class PerfTestTensorrt(PerfTest):
    """``onnxruntime_perf_test`` on TensorRT."""

    name = "perf_test-tensorrt"
    provider = "tensorrt"


class PerfTestNnapi(PerfTest):
    """``onnxruntime_perf_test`` on NNAPI."""

    name = "perf_test-nnapi"
    provider = "nnapi"


class PerfTestXnnpack(PerfTest):
    """``onnxruntime_perf_test`` on XNNPACK."""

    name = "perf_test-xnnpack"
    provider = "xnnpack"
