"""ONNX reader: from the bytes of a model file to nodes and shapes, without reading the weights."""

from __future__ import annotations
