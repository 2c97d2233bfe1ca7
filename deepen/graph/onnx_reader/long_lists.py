"""Lists of numbers or strings in attributes, left in the serialised form of the file they are in.

A tree ensemble keeps each node of its trees as an entry in a dozen lists: millions of them in a file of 100 MB. As a
protobuf message, as copies of it for shape inference and for a runtime, and as Python objects they would take
gigabytes, although all that is needed of them is how many trees there are and how deep.

Wire format: https://protobuf.dev/programming-guides/encoding. A repeated field is a run of fields, each with its tag,
or one field with all its values (packed); both occur, also in one list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import GraphError

__all__ = ["FLOATS", "INTS", "LIST_FIELDS", "STRINGS", "TREE_LISTS", "LongList", "find_run_end"]

FLOATS, INTS, STRINGS = 7, 8, 9
"""Fields of ``AttributeProto``."""

LIST_FIELDS = frozenset({FLOATS, INTS, STRINGS})

TREE_LISTS = frozenset({
    "class_ids", "class_nodeids", "class_treeids", "class_weights", "leaf_targetids", "membership_values",
    "nodes_falseleafs", "nodes_falsenodeids", "nodes_featureids", "nodes_hitrates", "nodes_missing_value_tracks_true",
    "nodes_modes", "nodes_nodeids", "nodes_treeids", "nodes_trueleafs", "nodes_truenodeids", "nodes_values",
    "target_ids", "target_nodeids", "target_treeids", "target_weights", "tree_roots",
})  # fmt: skip
"""Attributes of the tree ensembles of ``ai.onnx.ml`` with an entry for each tree, node or leaf."""

_CHUNK_BYTES = 1 << 22
_MAX_VARINT_BYTES = 10
_FLOAT_FIELD_BYTES = 5  # a tag and four bytes
_TAGS = {FLOATS: FLOATS << 3 | 5, INTS: INTS << 3, STRINGS: STRINGS << 3 | 2}


def find_run_end(view: memoryview, field: int, position: int, end: int) -> int:
    """Find the position behind a run of unpacked fields of one list.

    Args:
        view: The file.
        field: Field of the list.
        position: Start of the first field of the run.
        end: End of the message.

    Raises:
        GraphError: If the run is damaged.
    """
    if field == FLOATS:
        table = np.frombuffer(view[position : end - (end - position) % _FLOAT_FIELD_BYTES], np.uint8)
        other = np.flatnonzero(table.reshape(-1, _FLOAT_FIELD_BYTES)[:, 0] != _TAGS[FLOATS])
        return position + (int(other[0]) * _FLOAT_FIELD_BYTES if other.size else table.size)
    if field == STRINGS:
        return _find_strings_end(view, position, end)
    while position < end:
        chunk = np.frombuffer(view[position : min(end, position + _CHUNK_BYTES)], np.uint8)
        if chunk[0] != _TAGS[INTS]:
            break
        last = np.flatnonzero(chunk < 0x80)  # the last byte of each varint; tags and values alternate
        pairs = last.size // 2
        tags = np.concatenate(([0], last[1 : 2 * pairs - 1 : 2] + 1))
        other = np.flatnonzero(chunk[tags] != _TAGS[INTS])
        pairs = int(other[0]) if other.size else pairs
        last = last[: 2 * pairs]
        if not pairs or int(np.diff(last, prepend=-1).max()) > _MAX_VARINT_BYTES:
            raise GraphError(f"the file is truncated or damaged at byte {position:,}")
        position += int(last[-1]) + 1
        if other.size:
            break
    return position


def _find_strings_end(view: memoryview, position: int, end: int) -> int:
    data = view[position:end].tobytes()
    at, size, tag = 0, len(data), _TAGS[STRINGS]
    while at + 1 < size and data[at] == tag:
        length = data[at + 1]
        if length >= 0x80:
            break  # a long string: the caller reads it by itself
        at += 2 + length
    if at > size:
        raise GraphError(f"the file is truncated or damaged at byte {end:,}")
    return position + at


@dataclass(frozen=True, slots=True, eq=False)
class LongList:
    """A list of an attribute in serialised form; ``numpy.asarray`` decodes it.

    Attributes:
        field: Field of ``AttributeProto`` it is in: floats, ints or strings.
        pieces: Its serialised pieces, each with whether it is packed.
    """

    field: int
    pieces: tuple[tuple[memoryview, bool], ...]

    def __len__(self) -> int:
        if self.field == STRINGS:
            return sum(1 for _ in self._iter_strings())
        return sum(self._count(*piece) for piece in self.pieces)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iter_strings() if self.field == STRINGS else np.asarray(self).tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LongList) and (self.field, self.pieces) == (other.field, other.pieces)

    def __hash__(self) -> int:
        return hash((self.field, *((piece.nbytes, piece[:64].tobytes(), packed) for piece, packed in self.pieces)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Decode: int64, float32, or strings as objects."""
        if self.field == STRINGS:
            found = np.array(list(self._iter_strings()), dtype=object)
        else:
            decode = _decode_floats if self.field == FLOATS else _decode_integers
            found = np.concatenate([decode(*piece) for piece in self.pieces] or [np.zeros(0, np.int64)])
        return found if dtype is None else found.astype(dtype)

    def _count(self, piece: memoryview, packed: bool) -> int:
        if self.field == FLOATS:
            return piece.nbytes // (4 if packed else _FLOAT_FIELD_BYTES)
        return int(np.count_nonzero(np.frombuffer(piece, np.uint8) < 0x80)) // (1 if packed else 2)

    def _iter_strings(self) -> Iterator[str]:
        for piece, _ in self.pieces:
            data, at = piece.tobytes(), 0
            while at < len(data):
                size, shift, at = 0, 0, at + 1
                while data[at] >= 0x80:
                    size, shift, at = size | (data[at] & 0x7F) << shift, shift + 7, at + 1
                size |= data[at] << shift
                yield data[at + 1 : at + 1 + size].decode(errors="replace")
                at += 1 + size


def _decode_floats(piece: memoryview, packed: bool) -> NDArray[Any]:
    data = np.frombuffer(piece, np.uint8)
    if not packed:
        data = np.ascontiguousarray(data.reshape(-1, _FLOAT_FIELD_BYTES)[:, 1:]).reshape(-1)
    return data.view("<f4")


def _decode_integers(piece: memoryview, packed: bool) -> NDArray[Any]:
    data = np.frombuffer(piece, np.uint8)
    found: list[NDArray[Any]] = []
    at = 0
    while at < data.size:
        chunk = data[at : at + _CHUNK_BYTES]
        last = np.flatnonzero(chunk < 0x80)
        last = last[: last.size - (0 if packed else last.size % 2)]
        if not last.size:
            break
        first = np.concatenate(([0], last[:-1] + 1))
        if not packed:
            first, last = first[1::2], last[1::2]
        values = np.zeros(last.size, np.uint64)
        for number in range(int((last - first).max()) + 1):
            reach = first + number <= last
            part = chunk[first[reach] + number].astype(np.uint64) & np.uint64(0x7F)
            values[reach] |= part << np.uint64(7 * number)
        found.append(values.view(np.int64))
        at += int(last[-1]) + 1
    return np.concatenate(found) if found else np.zeros(0, np.int64)
