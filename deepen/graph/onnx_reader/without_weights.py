"""Reads a model file without its weights: walks the protobuf wire format and leaves out the data of large tensors.

A model file consists almost entirely of weights, whose values are not needed here. The walk visits the few messages
that can hold a tensor, copies everything else unchanged and gives a small serialised ``ModelProto`` that protobuf then
parses. Tensors of at most :data:`SMALL_ELEMENTS` elements (shapes, axes, clip bounds) stay; larger ones keep name, type
and dimensions and are marked as external data at :data:`WEIGHTLESS`, a file that does not exist. The lists of a large
tree ensemble stay in the file (:mod:`deepen.graph.onnx_reader.long_lists`).

Wire format: https://protobuf.dev/programming-guides/encoding. Field numbers: ``onnx.proto`` of the ONNX project.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from math import prod

from deepen.errors import GraphError
from deepen.graph.onnx_reader.long_lists import (
    FLOATS,
    INTS,
    LIST_FIELDS,
    STRINGS,
    TREE_LISTS,
    LongList,
    find_run_end,
)

__all__ = ["LONG_LIST", "MAX_ELEMENTS", "SMALL_ELEMENTS", "WEIGHTLESS", "strip_weights"]

WEIGHTLESS = "deepen-weightless"
"""``external_data`` location of a tensor whose bytes were left out."""

SMALL_ELEMENTS = 1024
"""Tensors up to this many elements keep their values."""

MAX_ELEMENTS = 2**40
"""A tensor with more elements than this is taken as a damaged or hostile file (4 TiB of float32)."""

MAX_KEPT_BYTES = 1 << 30
"""Most bytes a model may have besides its large tensors; protobuf itself stops at 2 GiB."""

LONG_LIST = "deepen-long-list "
"""Start of the ``doc_string`` of an attribute whose list stays in the file."""

_LARGE_NODE = 1 << 16  # bytes: the lists of a smaller tree ensemble are copied as those of any node
_MAX_DEPTH = 100  # protobuf's own default limit for nested messages
_SMALL_MESSAGE = SMALL_ELEMENTS // 4  # bytes: below this no message can hold more than 1,024 elements (2 bits each)

_Buffer = bytes | memoryview | mmap.mmap

# Message -> field number -> message in that field, for the fields that can (indirectly) hold a tensor.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tree": {5: "list"},
}
_OP_TYPE, _DOC_STRING = 4, 13  # fields of NodeProto and AttributeProto
_ONE_ELEMENT = {
    FLOATS: bytes((FLOATS << 3 | 5, 0, 0, 0, 0)),
    INTS: bytes((INTS << 3, 0)),
    STRINGS: bytes((STRINGS << 3 | 2, 4)) + b"LEAF",
}

# TensorProto fields.
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 9, 13, 14
_DATA_FIELDS = frozenset({4, 5, 6, 7, _RAW_DATA, 10, 11})  # float, int32, string, int64, raw, double, uint64

# TensorProto.DataType -> bits per element in raw_data.
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
_BITS |= {17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4}


def strip_weights(data: _Buffer, long_lists: list[LongList] | None = None) -> bytes:
    """Copy a serialised ``ModelProto`` without the data of its large tensors.

    Args:
        data: The file, preferably as a memory map: pages that hold weights are never read.
        long_lists: Takes the lists of large tree ensembles. In the copy each has one element, and a ``doc_string`` of
            :data:`LONG_LIST` and its number here. Without it they are copied.

    Returns:
        A serialised ``ModelProto``. Tensors that were external before are unchanged.

    Raises:
        GraphError: If the bytes are not a protobuf message, end too early, nest too deeply, or hold a tensor whose size
            does not fit its dimensions.
    """
    view = memoryview(data)
    walk = _WeightStripper(view, long_lists)
    stripped = walk.message(0, len(view), "model", 0)
    if stripped is None:
        walk.count(len(view))
        return bytes(view)
    return stripped


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _encode_length_delimited(number: int, payload: bytes) -> bytes:
    return _encode_varint(number << 3 | 2) + _encode_varint(len(payload)) + payload


# data_location = EXTERNAL and external_data = [{key: "location", value: WEIGHTLESS}]
_MARK = bytes((_DATA_LOCATION << 3, 1)) + _encode_length_delimited(
    _EXTERNAL_DATA, _encode_length_delimited(1, b"location") + _encode_length_delimited(2, WEIGHTLESS.encode())
)


@dataclass(slots=True)
class _WeightStripper:
    """One pass over one file.

    Attributes:
        view: The file.
        long_lists: Lists that stay in the file; ``None`` if all are copied.
        kept_bytes: Bytes copied so far.
    """

    view: memoryview
    long_lists: list[LongList] | None
    kept_bytes: int = field(default=0)

    def count(self, size: int) -> None:
        """Add to the bytes copied.

        Raises:
            GraphError: If they exceed :data:`MAX_KEPT_BYTES`.
        """
        self.kept_bytes += size
        if self.kept_bytes > MAX_KEPT_BYTES:
            raise GraphError(
                f"the file holds more than {MAX_KEPT_BYTES >> 30} GiB besides its weights; is it an ONNX model?"
            )

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """Decode one varint; returns the value and the position behind it."""
        view = self.view
        if position >= end:
            raise GraphError(f"the file is truncated or damaged at byte {position:,}")
        byte = view[position]
        if byte < 0x80:
            return byte, position + 1
        value = byte & 0x7F
        for shift in range(7, 70, 7):
            position += 1
            if position >= end:
                break
            byte = view[position]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position + 1
        raise GraphError(f"the file is truncated or damaged at byte {position:,}")

    def field(self, position: int, end: int) -> tuple[int, int, int, int]:
        """Read one field: its number, wire type, start of its payload and position behind it.

        For a varint the payload is the encoded value itself.
        """
        tag, start = self.varint(position, end)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            length, start = self.varint(start, end)
            after = start + length
        elif wire == 0:
            _, after = self.varint(start, end)
        elif wire == 5:
            after = start + 4
        elif wire == 1:
            after = start + 8
        else:
            raise GraphError(f"the file is no ONNX model, or is damaged at byte {position:,}")
        if after > end or number == 0:
            raise GraphError(f"the file is truncated or damaged at byte {position:,}")
        return number, wire, start, after

    def message(self, start: int, end: int, kind: str, depth: int) -> bytes | None:
        """Copy one message without the data of large tensors.

        1. Short length-delimited fields, which are most, are skipped over in place: they hold no large tensor. So are
           the numbers of a list.
        2. Fields that may hold a tensor, or a list of a large tree ensemble, are stripped, to any depth.
        3. A stripped field is written anew; the bytes between stripped fields are copied unchanged.

        Returns:
            The message, or ``None`` if no data was left out, so that the caller copies it as it is.
        """
        if depth > _MAX_DEPTH:
            raise GraphError(f"the file nests messages more than {_MAX_DEPTH} deep")
        view = self.view
        if kind == "node" and self.long_lists is not None and end - start > _LARGE_NODE and self.is_tree(start, end):
            kind = "tree"
        children = _CHILDREN[kind]
        parts: list[bytes | memoryview] = []
        position = kept = start
        while position < end:
            tag = view[position]
            if tag < 0x80 and tag & 7 == 2 and position + 1 < end and (length := view[position + 1]) < 0x80:
                position += 2 + length  # 1
                continue
            number, wire, payload, after = self.field(position, end)
            if kind == "attribute" and number in LIST_FIELDS and wire != 2:
                position = find_run_end(view, number, position, end)  # 1
                continue
            child = children.get(number)
            if child is not None and wire == 2 and after - payload > _SMALL_MESSAGE:  # 2
                if child == "tensor":
                    replaced = self.tensor(payload, after)
                elif child == "list":
                    replaced = self.tree_list(payload, after, depth + 1)
                else:
                    replaced = self.message(payload, after, child, depth + 1)
                if replaced is not None:  # 3
                    self.count(position - kept)
                    parts += (view[kept:position], _encode_length_delimited(number, replaced))
                    kept = after
            position = after
        if position > end:
            raise GraphError(f"the file is truncated or damaged at byte {end:,}")
        if not parts:
            return None
        self.count(end - kept)
        parts.append(view[kept:end])
        return b"".join(parts)

    def is_tree(self, start: int, end: int) -> bool:
        """Return whether a node is a tree ensemble."""
        position = start
        while position < end:
            number, wire, payload, after = self.field(position, end)
            if number == _OP_TYPE and wire == 2:
                return bytes(self.view[payload:after]).startswith(b"TreeEnsemble")
            position = after
        return False

    def tree_list(self, start: int, end: int, depth: int) -> bytes | None:
        """Copy one attribute of a tree ensemble, its list cut down to one element that is a leaf or the number 0.

        Returns:
            The attribute, or ``None`` if it stays as it is.
        """
        assert self.long_lists is not None
        kept: list[memoryview] = []
        pieces: list[tuple[memoryview, bool]] = []
        listed, name = 0, ""
        position = start
        while position < end:
            number, wire, payload, after = self.field(position, end)
            if number in LIST_FIELDS:
                listed = number
                packed = wire == 2 and number != STRINGS
                after = after if packed else max(after, find_run_end(self.view, number, position, end))
                pieces.append((self.view[payload if packed else position : after], packed))
            else:
                kept.append(self.view[position:after])
                if number == 1 and wire == 2:
                    name = bytes(self.view[payload:after]).decode(errors="replace")
            position = after
        if name not in TREE_LISTS or not pieces:
            return self.message(start, end, "attribute", depth)
        mark = _encode_length_delimited(_DOC_STRING, f"{LONG_LIST}{len(self.long_lists)}".encode())
        self.long_lists.append(LongList(listed, tuple(pieces)))
        self.count(sum(map(len, kept)))
        return b"".join((*kept, _ONE_ELEMENT[listed], mark))

    def tensor(self, start: int, end: int) -> bytes | None:
        """Copy one ``TensorProto`` without its data.

        1. Read dimensions, type and name; keep every field but data and external data.
        2. A tensor that is small or without data stays as it is.
        3. The size of its raw data must fit its dimensions.
        4. The fields kept are followed by the mark of a weightless tensor.

        Returns:
            The tensor, or ``None`` if it stays as it is.

        Raises:
            GraphError: If its dimensions are impossible, or its data does not fit them.
        """
        dims: list[int] = []
        kept: list[memoryview] = []
        data_type = 0
        name = ""
        raw_bytes = -1
        has_data = False
        position = start
        while position < end:  # 1
            number, wire, payload, after = self.field(position, end)
            if number in _DATA_FIELDS:
                has_data = True
                if number == _RAW_DATA:
                    raw_bytes = after - payload
            elif number not in {_EXTERNAL_DATA, _DATA_LOCATION}:
                kept.append(self.view[position:after])
                if number == _DIMS:
                    dims += self.integers(payload, after, packed=wire == 2)
                elif number == _DATA_TYPE and wire == 0:
                    data_type = self.varint(payload, after)[0]
                elif number == _NAME and wire == 2:
                    name = bytes(self.view[payload:after]).decode(errors="replace")
            position = after
        elements = prod(dims)
        if any(dim >= 1 << 63 for dim in dims) or elements > MAX_ELEMENTS:
            raise GraphError(f"tensor '{name}' has impossible dimensions {_format_signed_dims(dims)}")
        if elements <= SMALL_ELEMENTS or not has_data:  # 2
            return None
        # 3
        bits = _BITS.get(data_type)
        if raw_bytes >= 0 and bits is not None and raw_bytes != (elements * bits + 7) // 8:
            raise GraphError(
                f"tensor '{name}' of shape {_format_signed_dims(dims)} needs {(elements * bits + 7) // 8:,} bytes "
                f"but the file holds {raw_bytes:,}; the file is damaged"
            )
        self.count(sum(map(len, kept)))
        return b"".join((*kept, _MARK))  # 4

    def integers(self, start: int, end: int, *, packed: bool) -> list[int]:
        """Decode a repeated integer field in either of its encodings."""
        values: list[int] = []
        position = start
        while position < end:
            value, position = self.varint(position, end)
            values.append(value)
            if not packed or len(values) > _MAX_DEPTH:
                break
        return values


def _format_signed_dims(dims: list[int]) -> str:
    return "x".join(str(dim - (1 << 64) if dim >= 1 << 63 else dim) for dim in dims) or "scalar"
