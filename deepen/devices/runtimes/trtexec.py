"""TensorRT's ``trtexec`` as a runtime.

Loading builds an engine on the device; every block loads that engine, warms up, and runs queries one after the other,
whose times it exports. A block is located from its length and bounds on either side
(:func:`~deepen.devices.runtimes.locate_in_trace.locate_block_of_known_length`). With the DLA every layer has to run
there: falling back to the GPU is disabled, and a line that reports it is an error.

Flags: NVIDIA/TensorRT ``samples/trtexec/README.md``.
"""

from __future__ import annotations

import contextlib
import posixpath
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from deepen.devices.runtimes.benchmark_tool import ToolLog, ToolModel, ToolRuntime
from deepen.devices.runtimes.locate_in_trace import locate_block_of_known_length
from deepen.devices.runtimes.parsers.trtexec import (
    STARTING,
    SUMMARY,
    TrtQuery,
    TrtReport,
    parse_query_times,
    parse_trtexec,
)
from deepen.errors import LinkError, RunError
from deepen.records import Interval

__all__ = ["TrtExec", "TrtExecDla"]

_WARM_UP_MS = 200
_BUILD_ONLY = ("--skipInference", "--buildOnly")
"""Options that build an engine without running it, for TensorRT 8.6 and newer, and for older versions."""


class TrtExec(ToolRuntime):
    """``trtexec`` on the GPU.

    Attributes:
        flags: Options that select the processor.
        where: Name of the processor, for messages and the build string.
    """

    name = "trtexec"
    programs = ("trtexec", "/usr/src/tensorrt/bin/trtexec")
    variable = "DEEPEN_TRTEXEC"
    suffixes = (".onnx",)
    flags: ClassVar[tuple[str, ...]] = ()
    where: ClassVar[str] = "gpu"
    _folder = ""
    _engines = 0

    def build_arguments(self, model: ToolModel, engine: str, build_only: str) -> list[str]:
        """Make the command line that builds an engine."""
        found = [f"--onnx={model.remote}", f"--saveEngine={engine}", build_only, *self.flags]
        if model.shapes:
            shapes = (f"{name}:{'x'.join(str(int(d)) for d in shape)}" for name, shape in model.shapes.items())
            found.append("--shapes=" + ",".join(shapes))
        return found

    def arguments(self, model: ToolModel, n: int, times: str) -> list[str]:
        """Make the command line for n queries after the warm-up; the model is an engine."""
        found = [
            f"--loadEngine={model.remote}", f"--iterations={n}", "--duration=0", f"--warmUp={_WARM_UP_MS}",
            "--avgRuns=1000000", f"--exportTimes={times}", *self.flags,
        ]  # fmt: skip
        if model.shapes:
            shapes = (f"{name}:{'x'.join(str(int(d)) for d in shape)}" for name, shape in model.shapes.items())
            found.append("--shapes=" + ",".join(shapes))
        return found

    def try_out(self, model: ToolModel) -> tuple[ToolModel, str, float]:
        """Build an engine and run it once.

        Raises:
            RunError: If it cannot be built or run, or not on the processor selected.
        """
        if not self._folder:
            made = self._call(["mktemp", "-d"])
            self._folder = made.stdout.decode("utf-8", "replace").rstrip("\n")
            if made.status != 0 or not self._folder.startswith("/"):
                self._folder = ""
                raise LinkError(
                    f"{self._link.description}: no folder for engines could be made", cure="free some space there"
                )
        self._engines += 1
        engine = posixpath.join(self._folder, f"{self._engines}.engine")
        log = self._build(model, engine)
        report = self._checked(model, log)
        built = replace(model, remote=engine)
        _, ran, queries = self._measure(built, 1, self._load_timeout_s)
        version = report.version or ran.version or "unknown"
        build = f"{self.identity()} tensorrt={version} {self.where} threads={model.threads}"
        return built, build, queries[0].end_s - queries[0].start_s

    def block(self, model: ToolModel, n: int, timeout_s: float) -> Interval:
        """Run n queries.

        Raises:
            RunError: If the tool fails, runs fewer, or falls back.
            LinkError: If the device is gone.
        """
        delay_s = self.delay_s()
        log, _, queries = self._measure(model, n, timeout_s)
        ends, starts = log.arrivals(SUMMARY), log.arrivals(STARTING)
        if not ends:
            raise RunError(f"{model.name}: trtexec did not say when its queries ended")
        begun_s = log.begun_s
        if starts and starts[0] < ends[0] - delay_s:  # else its output was buffered and shows nothing
            begun_s = max(begun_s, starts[0] - delay_s)
        # trtexec's own clock starts after that line, and warm-up queries (which older versions also export) come first.
        whole_s = queries[-1].end_s - queries[0].start_s
        found = locate_block_of_known_length(begun_s + max(0.0, queries[0].start_s), ends[0], whole_s, delay_s)
        start_s = found.end_s - (queries[-1].end_s - queries[-n].start_s)  # the last n: it may run more than requested
        return Interval(start_s, found.end_s, "run", runs=n, uncertainty_s=found.uncertainty_s)

    def close(self) -> None:
        """Remove the engines."""
        super().close()
        folder, self._folder = self._folder, ""
        if folder:
            with contextlib.suppress(LinkError):  # the system cleans its temporary folder eventually
                self._call(["rm", "-rf", folder])

    def _build(self, model: ToolModel, engine: str) -> ToolLog:
        log = ToolLog(0.0, 1, ())
        for build_only in _BUILD_ONLY:
            log = self.listen(model, self.build_arguments(model, engine, build_only), self._load_timeout_s)
            if log.status == 0 or build_only.strip("-") not in log.text or "nknown option" not in log.text:
                break
        return log

    def _checked(self, model: ToolModel, log: ToolLog) -> TrtReport:
        report = parse_trtexec(log.text)
        if report.fallbacks:
            raise RunError(
                f"{model.name}: the DLA does not run all of it ({report.fallbacks[0][:200]})",
                cure="measure it with the runtime trtexec, or use a model it takes",
            )
        if log.status != 0 or report.passed is False:
            cause = report.errors[-1][:300] if report.errors else log.complaint
            raise RunError(f"{model.name}: trtexec failed with status {log.status} ({cause})")
        return report

    def _measure(self, model: ToolModel, n: int, timeout_s: float) -> tuple[ToolLog, TrtReport, tuple[TrtQuery, ...]]:
        times = posixpath.join(self._folder, "times.json")
        log = self.listen(model, self.arguments(model, n, times), timeout_s)
        report = self._checked(model, log)
        with tempfile.TemporaryDirectory(prefix="deepen-trtexec-") as folder:
            local = Path(folder) / "times.json"
            self._link.pull(times, local)
            queries = parse_query_times(local.read_text(encoding="utf-8", errors="replace"))
        if len(queries) < n:
            raise RunError(f"{model.name}: trtexec exported {len(queries)} queries instead of {n}")
        return log, report, queries


class TrtExecDla(TrtExec):
    """``trtexec`` on the first deep-learning accelerator."""

    name = "trtexec-dla"
    flags = ("--useDLACore=0",)
    where = "dla=0"
