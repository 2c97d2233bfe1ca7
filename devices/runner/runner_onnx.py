"""The runner's backend for ONNX Runtime."""

from __future__ import annotations

import functools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from runner_common import Handle, Refused, check_given, fill_array, pin, read_array

CPU = "CPUExecutionProvider"

# ONNX TensorProto.DataType by ONNX Runtime's type name, and the numpy type that stores it.
TYPES = {
    "tensor(float)": (1, "float32"),
    "tensor(uint8)": (2, "uint8"),
    "tensor(int8)": (3, "int8"),
    "tensor(uint16)": (4, "uint16"),
    "tensor(int16)": (5, "int16"),
    "tensor(int32)": (6, "int32"),
    "tensor(int64)": (7, "int64"),
    "tensor(string)": (8, "object"),
    "tensor(bool)": (9, "bool"),
    "tensor(float16)": (10, "float16"),
    "tensor(double)": (11, "float64"),
    "tensor(uint32)": (12, "uint32"),
    "tensor(uint64)": (13, "uint64"),
    "tensor(bfloat16)": (16, "uint16"),
}
LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


def make_input(rng: Any, type_name: str, shape: tuple) -> tuple:
    """Make the contents of one input of ONNX Runtime: (type code, array)."""
    import numpy as np

    code, store = TYPES[type_name]
    if store == "object":
        return code, np.full(shape, "a", dtype=object)
    if code == 16:  # bfloat16: the upper half of a float32
        bits = np.ascontiguousarray(rng.uniform(-1, 1, shape).astype(np.float32)).view(np.uint32)
        return code, (bits >> 16).astype(np.uint16).reshape(shape)
    return code, fill_array(rng, store, shape)


def static(shape: Any) -> bool:
    """Return whether every dimension is a known size."""
    return shape is not None and all(isinstance(d, int) and d >= 0 for d in shape)


class OnnxHandle(Handle):
    """A model in ONNX Runtime, its inputs and outputs bound to buffers that stay in place."""

    def __init__(self, ort: Any, request: dict) -> None:
        super().__init__(request)
        self.keep: list = []
        self.keep_outputs: list = []
        path, shapes = request["path"], self.shapes
        pin(self.cpus[:1])
        overrides = self.find_overrides(ort, path, shapes)
        provider = self.delegate.get("provider", CPU)
        if provider not in ort.get_available_providers():
            has = ", ".join(ort.get_available_providers())
            raise Refused("fallback", f"this onnxruntime has no {provider} and would run on the CPU; it has {has}")
        options = self.options(ort, overrides)
        chosen = [CPU] if provider == CPU else [(provider, dict(self.delegate.get("options") or {})), CPU]
        if provider != CPU:
            self.placement = self.place(ort, path, overrides, chosen, int(request.get("seed", 0)))
        self.session = ort.InferenceSession(path, options, providers=chosen)
        if self.session.get_providers()[0] != provider:
            raise Refused("fallback", f"onnxruntime gave up {provider} and fell back to the CPU")
        taken = "" if self.placement is None else f" {self.placement['delegated']}/{self.placement['nodes']} nodes"
        self.build = f"onnxruntime {ort.__version__} {provider}{taken} level={self.level} threads={self.threads}"
        self.io = self.session.io_binding()
        self.inputs = self.bind_inputs(shapes, int(request.get("seed", 0)))
        self.first_run_s = self.first_run()
        self.outputs = [
            {"name": o.name, "shape": list(v.shape()) if v.is_tensor() else None, "type": v.data_type()}
            for o, v in zip(self.session.get_outputs(), self.io.get_outputs())  # noqa: B905 - Python 3.8
        ]

    def options(self, ort: Any, overrides: dict) -> Any:
        """Make the session options: one pinned thread per core, no spinning for a single thread, denormals as zero."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[self.level])
        options.log_severity_level = 4
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        if self.threads == 1:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        elif len(self.cpus) >= self.threads:
            # One entry per pool thread (the caller is the first thread); processors are counted from 1.
            entries = ";".join(str(c + 1) for c in self.cpus[1 : self.threads])
            options.add_session_config_entry("session.intra_op_thread_affinities", entries)
        for name, size in overrides.items():
            options.add_free_dimension_override_by_name(name, size)
        return options

    def find_overrides(self, ort: Any, path: str, shapes: dict) -> dict:
        """Find the sizes of the named symbolic dimensions by matching the wanted shapes with the declared ones."""
        if not shapes:
            return {}
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        declared = {i.name: i for i in ort.InferenceSession(path, options, ["CPUExecutionProvider"]).get_inputs()}
        sizes = {}
        for name, shape in shapes.items():
            if name not in declared:
                raise Refused("shape", f"the model has no input '{name}'; it has {', '.join(sorted(declared))}")
            known = declared[name].shape
            if known is not None and len(known) != len(shape):
                raise Refused("shape", f"input '{name}' has rank {len(known)}, not {len(shape)}")
            for have, want in zip(known or [], shape):  # noqa: B905 - Python 3.8
                if isinstance(have, int) and have >= 0 and have != want:
                    raise Refused("shape", f"input '{name}' is declared {known}; {shape} does not fit")
                if have == "?":  # PaddlePaddle's exporter names every open dimension so: equal names, unequal sizes
                    continue
                if isinstance(have, str) and sizes.setdefault(have, want) != want:
                    raise Refused("shape", f"dimension '{have}' is asked to be both {sizes[have]} and {want}")
        return sizes

    def bind_inputs(self, shapes: dict, seed: int) -> list:
        """Allocate and bind every input."""
        import numpy as np
        import onnxruntime as ort

        rng = np.random.default_rng(seed)
        found = []
        check_given(self.given, [value.name for value in self.session.get_inputs()])
        for value in self.session.get_inputs():
            shape = shapes.get(value.name, value.shape)
            if value.type not in TYPES:
                raise Refused("model", f"input '{value.name}' has type {value.type}, which this runner can not make")
            if not static(shape):
                loose = [str(d) for d in shape or [] if not isinstance(d, int) or d < 0] or ["rank"]
                raise Refused("shape", f"input '{value.name}' leaves {', '.join(loose)} open; give its shape")
            code, data = make_input(rng, value.type, tuple(shape))
            if value.name in self.given:
                if code == 8:
                    raise Refused("inputs", f"input '{value.name}' holds text, which can not be given")
                data = read_array(self.given[value.name], value.name, TYPES[value.type][1], tuple(shape))
            self.keep.append(data)
            if code == 8:
                self.io.bind_ortvalue_input(value.name, ort.OrtValue.ortvalue_from_numpy(data))
            else:
                self.io.bind_input(value.name, "cpu", 0, code, list(data.shape), data.ctypes.data)
            found.append({"name": value.name, "shape": list(data.shape), "type": value.type})
        return found

    def bind_outputs(self, shapes: list) -> None:
        """Bind outputs to buffers of these shapes; ``None`` leaves the allocation to the runtime."""
        import numpy as np

        self.io.clear_binding_outputs()
        self.keep_outputs = []
        for value, shape in zip(self.session.get_outputs(), shapes):  # noqa: B905 - Python 3.8
            if shape is None or value.type not in TYPES or value.type == "tensor(string)":
                self.io.bind_output(value.name, "cpu")
                continue
            code, store = TYPES[value.type]
            data = np.zeros(tuple(shape), dtype=store)
            self.keep_outputs.append(data)
            self.io.bind_output(value.name, "cpu", 0, code, list(data.shape), data.ctypes.data)

    def first_run(self) -> float:
        """Run once and bind the output buffers.

        Bound buffers save an allocation per run. Inputs are fixed, so an output with an open declared shape always has
        the shape of the first run. If a buffer is refused, the runtime allocates.
        """
        declared = [list(o.shape) if static(o.shape) else None for o in self.session.get_outputs()]
        started = time.monotonic()
        try:
            self.bind_outputs(declared)
            self.session.run_with_iobinding(self.io)
        except Exception:
            declared = [None] * len(declared)
            self.bind_outputs(declared)
            started = time.monotonic()
            self.session.run_with_iobinding(self.io)
        took = time.monotonic() - started
        if None in declared:
            values = self.io.get_outputs()
            actual = [list(v.shape()) if v.is_tensor() else None for v in values]
            try:
                self.bind_outputs(actual)
                self.session.run_with_iobinding(self.io)
            except Exception:
                self.bind_outputs(declared)
                self.session.run_with_iobinding(self.io)
        return took

    def place(self, ort: Any, path: str, overrides: dict, chosen: list, seed: int) -> dict:
        """Count the nodes that an execution provider runs, from the profile of one run in a separate session."""
        with tempfile.TemporaryDirectory() as folder:
            options = self.options(ort, overrides)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "placement")
            self.session = ort.InferenceSession(path, options, providers=chosen)
            self.io = self.session.io_binding()
            self.bind_inputs(self.shapes, seed)
            self.bind_outputs([None] * len(self.session.get_outputs()))
            self.session.run_with_iobinding(self.io)
            events = json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
        self.keep, self.keep_outputs = [], []
        runs = {
            e["name"]: e.get("args", {}).get("provider", "")
            for e in events
            if e.get("cat") == "Node" and str(e.get("name", "")).endswith("_kernel_time")
        }
        provider = chosen[0][0]
        delegated = sum(p == provider for p in runs.values())
        if not delegated:
            raise Refused("fallback", f"{provider} runs none of the {len(runs)} nodes; the CPU would run them all")
        return {"asked": provider, "nodes": len(runs), "delegated": delegated, "default": None}

    def caller(self) -> Any:
        """Return the function that runs one inference."""
        return functools.partial(self.session.run_with_iobinding, self.io)
