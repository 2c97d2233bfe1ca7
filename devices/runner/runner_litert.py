"""The runner's backend for LiteRT (TensorFlow Lite)."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

from runner_common import Handle, Refused, check_given, fill_array, pin, pin_pool, read_array, threads_now

TYPES = (
    "float32", "float16", "float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"
)  # fmt: skip


class LiteModule:
    """The parts used here of the LiteRT package installed, ``ai-edge-litert`` or ``tflite-runtime``."""

    PACKAGES = (("ai_edge_litert", "ai-edge-litert"), ("tflite_runtime", "tflite-runtime"))

    def __init__(self) -> None:
        causes = []
        for module, package in self.PACKAGES:
            try:
                found = importlib.import_module(module + ".interpreter")
            except ImportError as error:
                causes.append(str(error))
                continue
            self.Interpreter, self.load_delegate = found.Interpreter, found.load_delegate
            self.OpResolverType = found.OpResolverType
            self.version = str(getattr(importlib.import_module(module), "__version__", "unknown"))
            self.name = f"{package} {self.version}"
            return
        raise Refused("runtime", f"neither ai-edge-litert nor tflite-runtime can be imported ({'; '.join(causes)})")


class LiteHandle(Handle):
    """A model in LiteRT (TensorFlow Lite)."""

    def __init__(self, lite: Any, name: str, request: dict) -> None:
        super().__init__(request)
        path = request["path"]
        before = threads_now()
        pin(self.cpus)  # threads that a delegate starts inherit these, before they get a core of their own
        own, delegates = self.make_delegates(lite)
        resolver = lite.OpResolverType
        bare = own or self.level == "disable"
        self.interpreter = lite.Interpreter(
            model_path=path,
            num_threads=self.threads,
            experimental_delegates=delegates,
            experimental_op_resolver_type=(
                resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES if bare else resolver.AUTO
            ),
        )  # fmt: skip
        self.resize()
        self.interpreter.allocate_tensors()
        self.inputs = self.fill(int(request.get("seed", 0)))
        started = time.monotonic()
        self.interpreter.invoke()
        self.first_run_s = time.monotonic() - started
        pin_pool(before, self.cpus[: self.threads])
        self.outputs = [
            {"name": d["name"], "shape": [int(x) for x in d["shape"]], "type": d["dtype"].__name__}
            for d in self.interpreter.get_output_details()
        ]
        total, delegated = self.count_nodes()
        self.placement = {
            "asked": own or None, "nodes": total, "delegated": delegated if own else 0,
            "default": 0 if bare else delegated,
        }  # fmt: skip
        if own and not delegated:
            raise Refused("fallback", f"{own} takes none of the {total} nodes; the CPU would run them all")
        kind = Path(own).name if own else "no delegate" if bare else "XNNPACK"
        self.build = f"{name} {kind} {delegated}/{total} nodes level={self.level} threads={self.threads}"

    def make_delegates(self, lite: Any) -> tuple:
        """Return the path of the requested delegate ('' for none) and the delegates to load the model with."""
        own = str(self.delegate.get("library", ""))
        if not own:
            return "", None
        try:
            return own, [lite.load_delegate(own, dict(self.delegate.get("options") or {}))]
        except (ValueError, OSError, RuntimeError) as error:
            raise Refused("fallback", f"the delegate {own} can not be loaded ({error})") from error

    def resize(self) -> None:
        """Set the requested shapes of inputs; others keep the one in the file."""
        details = {d["name"]: d for d in self.interpreter.get_input_details()}
        for name, shape in self.shapes.items():
            if name not in details:
                raise Refused("shape", f"the model has no input '{name}'; it has {', '.join(sorted(details))}")
            found = details[name]
            known = [int(d) for d in found.get("shape_signature", found["shape"])]
            if len(known) != len(shape):
                raise Refused("shape", f"input '{name}' has rank {len(known)}, not {len(shape)}")
            if any(have not in (-1, want) for have, want in zip(known, shape)):  # noqa: B905 - Python 3.8
                raise Refused("shape", f"input '{name}' is declared {known}; {shape} does not fit")
            self.interpreter.resize_tensor_input(found["index"], shape)

    def fill(self, seed: int) -> list:
        """Set every input."""
        import numpy as np

        rng = np.random.default_rng(seed)
        found = []
        check_given(self.given, [detail["name"] for detail in self.interpreter.get_input_details()])
        for detail in self.interpreter.get_input_details():
            kind, shape = detail["dtype"].__name__, [int(d) for d in detail["shape"]]
            name = "bool" if kind == "bool_" else kind
            if name not in TYPES:
                raise Refused("model", f"input '{detail['name']}' has type {kind}, which this runner can not make")
            data = fill_array(rng, name, tuple(shape))
            if detail["name"] in self.given:
                data = read_array(self.given[detail["name"]], detail["name"], name, tuple(shape))
            self.interpreter.set_tensor(detail["index"], data)
            found.append({"name": detail["name"], "shape": shape, "type": name})
        return found

    def count_nodes(self) -> tuple:
        """Count the nodes of the graph, and those that delegates run; (None, None) if unknown.

        The list of operators still holds those that a delegate has replaced; the nodes that run are those from which
        the outputs are reached.
        """
        listed = getattr(self.interpreter, "_get_ops_details", None)
        if listed is None:
            return None, None
        nodes = listed()
        makers: dict = {}
        for node in nodes:  # delegates come last and take over the tensors of replaced nodes
            makers.update((int(t), node) for t in node["outputs"])
        waiting = [int(d["index"]) for d in self.interpreter.get_output_details()]
        runs = {}
        while waiting:
            node = makers.get(waiting.pop())
            if node is not None and node["index"] not in runs:
                runs[node["index"]] = node["op_name"]
                waiting += [int(t) for t in node["inputs"] if t >= 0]
        total = sum(n["op_name"] != "DELEGATE" for n in nodes)
        if "DELEGATE" not in runs.values():
            return total, 0
        return total, total - sum(name != "DELEGATE" for name in runs.values())

    def caller(self) -> Any:
        """Return the function that runs one inference."""
        return self.interpreter.invoke
