"""Asks ONNX Runtime for the output types of single operators, where the ``onnx`` library knows none.

The ``onnx`` library has no rules for operators of ``com.microsoft`` and others; the runtime has, for all that it runs.
A model of just the one node, with the types and values known of its inputs, is opened in a session that is not run and
not optimised; the session states the shapes of the outputs. Equal nodes are asked about once: a decoder of 32 layers
needs as many answers as one of a single layer. One answer costs about a millisecond of processor time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepen.graph.onnx_reader.proto_values import TensorType, read_static_shape
from deepen.graph.onnx_reader.runtime_session import (
    RuntimeRefusal,
    is_onnxruntime_available,
    open_session,
    redirect_to_stand_in,
    write_stand_in,
)

if TYPE_CHECKING:
    import onnx

__all__ = ["RuntimeTypes"]

_IR_VERSION = 10
_MAX_NODE_BYTES = 1 << 20
"""A node with larger attributes is not asked about: tree ensembles, whose output the reader knows by a rule."""


class RuntimeTypes:
    """Output types of operators by ONNX Runtime; a context manager that owns a temporary folder."""

    def __init__(self, opsets: Mapping[str, int], custom_ops: Sequence[str] = ()) -> None:
        """Prepare to ask.

        Args:
            opsets: Operator-set version by domain.
            custom_ops: Libraries of custom operators.
        """
        self._opsets = dict(opsets)
        self._custom_ops = tuple(custom_ops)
        self._answers: dict[bytes, list[onnx.TypeProto | None] | RuntimeRefusal] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._stand_in_bytes = -1

    def __enter__(self) -> RuntimeTypes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def infer_outputs(
        self,
        node: onnx.NodeProto,
        types: Sequence[onnx.TypeProto | None],
        values: Sequence[onnx.TensorProto | None],
        constant: Sequence[bool],
    ) -> dict[str, TensorType]:
        """Infer the output types of a node without bodies.

        Args:
            node: The node.
            types: Types of its inputs; ``None`` for an omitted one.
            values: Values of its inputs, as far as known.
            constant: Whether each input is a constant; the runtime insists that some are.

        Returns:
            Types of the outputs by name, as far as known; none if the runtime is not installed or refuses the node.
        """
        found = self._ask(node, types, values, constant)
        if isinstance(found, RuntimeRefusal):
            return {}
        return {name: TensorType.of(known) for name, known in zip(node.output, found, strict=False) if name and known}

    def find_refusal(
        self,
        node: onnx.NodeProto,
        types: Sequence[onnx.TypeProto | None],
        values: Sequence[onnx.TensorProto | None],
        constant: Sequence[bool],
    ) -> RuntimeRefusal | None:
        """Find out whether the runtime refuses a node, with arguments as of :meth:`infer_outputs`."""
        found = self._ask(node, types, values, constant)
        return found if isinstance(found, RuntimeRefusal) else None

    def _ask(
        self,
        node: onnx.NodeProto,
        types: Sequence[onnx.TypeProto | None],
        values: Sequence[onnx.TensorProto | None],
        constant: Sequence[bool],
    ) -> list[onnx.TypeProto | None] | RuntimeRefusal:
        """Ask the runtime, or remember its answer about an equal node; an empty list if it cannot be asked."""
        if not is_onnxruntime_available() or node.ByteSize() > _MAX_NODE_BYTES:
            return []
        if any(known is not None and not _has_element_type(known) for known in types):
            return []
        model, stand_in_bytes = _build_single_node_model(node, types, values, constant, self._opsets)
        key = model.SerializeToString(deterministic=True)
        if key not in self._answers:
            self._answers[key] = self._infer_node_outputs(model, stand_in_bytes)
        return self._answers[key]

    def _infer_node_outputs(
        self, model: onnx.ModelProto, stand_in_bytes: int
    ) -> list[onnx.TypeProto | None] | RuntimeRefusal:
        """Ask the runtime; a session states an unknown rank and a scalar alike, so it is asked again about these."""
        from onnx import helper

        answers: list[onnx.TypeProto | None] = [None] * len(model.graph.node[0].output)
        try:
            stated = self._list_stated_types(model, stand_in_bytes)
            unclear = [name for name, known in stated.items() if not known.tensor_type.shape.dim]
            if unclear:
                for name in unclear:
                    model.graph.node.append(helper.make_node("Shape", [name], [f"rank of {name}"]))
                    model.graph.output.add(name=f"rank of {name}")
                ranks = self._list_stated_types(model, stand_in_bytes)
                for name in unclear:
                    if read_static_shape(ranks[f"rank of {name}"]) != (0,):
                        stated[name].tensor_type.ClearField("shape")
        except RuntimeRefusal as refusal:
            return refusal
        for index, name in enumerate(model.graph.node[0].output):
            answers[index] = stated.get(name)
        return answers

    def _list_stated_types(self, model: onnx.ModelProto, stand_in_bytes: int) -> dict[str, onnx.TypeProto]:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="deepen-types-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        if stand_in_bytes > self._stand_in_bytes:
            write_stand_in(folder, stand_in_bytes)
            self._stand_in_bytes = stand_in_bytes
        session = open_session(model.SerializeToString(), folder, custom_ops=self._custom_ops)
        found: dict[str, onnx.TypeProto] = {}
        for output in session.get_outputs():
            made = _make_type_proto(output.type, output.shape)
            if made is not None:
                found[output.name] = made
        return found


def _has_element_type(known: onnx.TypeProto) -> bool:
    return not known.HasField("tensor_type") or bool(known.tensor_type.elem_type)


def _build_single_node_model(
    node: onnx.NodeProto,
    types: Sequence[onnx.TypeProto | None],
    values: Sequence[onnx.TensorProto | None],
    constant: Sequence[bool],
    opsets: Mapping[str, int],
) -> tuple[onnx.ModelProto, int]:
    """Build a model of one node whose tensors are named by position; returns it and the bytes its weights stand for."""
    import onnx

    model = onnx.ModelProto(ir_version=_IR_VERSION)
    for domain in sorted({"", node.domain}):
        model.opset_import.add(domain=domain, version=opsets.get(domain, 1))
    model.graph.name = "g"
    made = model.graph.node.add(op_type=node.op_type, domain=node.domain, overload=node.overload)
    made.attribute.extend(node.attribute)
    largest = 0
    seen: dict[str, str] = {}
    for index, name in enumerate(node.input):
        known = types[index]
        if not name or known is None:
            made.input.append("")
            continue
        if name in seen:
            made.input.append(seen[name])
            continue
        short = seen[name] = f"i{index}"
        made.input.append(short)
        value, shape = values[index], read_static_shape(known)
        if value is not None:
            model.graph.initializer.add().CopyFrom(value)
            model.graph.initializer[-1].name = short
        elif constant[index] and shape is not None:
            tensor = model.graph.initializer.add(name=short, data_type=known.tensor_type.elem_type, dims=shape)
            largest = max(largest, redirect_to_stand_in(tensor))
        else:
            model.graph.input.add(name=short).type.CopyFrom(known)
    for index, name in enumerate(node.output):
        made.output.append(f"o{index}" if name else "")
        if name:
            model.graph.output.add(name=f"o{index}")
    return model, largest


def _make_type_proto(text: str, shape: Sequence[int | str | None]) -> onnx.TypeProto | None:
    """Make a type of what a session states, ``tensor(float)`` and ``[1, 'N', None]``; ``None`` if it is no tensor."""
    import onnx

    if not text.startswith("tensor(") or not text.endswith(")"):
        return None
    name = text[len("tensor(") : -1].upper()
    number = onnx.TensorProto.DataType.items()
    found = dict(number).get(name)
    if found is None:
        return None
    made = onnx.TypeProto()
    made.tensor_type.elem_type = found
    made.tensor_type.shape.SetInParent()
    for size in shape:
        dim = made.tensor_type.shape.dim.add()
        if isinstance(size, int) and size >= 0:
            dim.dim_value = size
    return made
