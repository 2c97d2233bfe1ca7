"""Output types of operators for which neither the ``onnx`` library nor ONNX Runtime infers any.

Most are the operators of ``ai.onnx.ml``: neither states the shape behind a ``Scaler``, with which every scikit-learn
pipeline begins. Source: https://onnx.ai/onnx/operators/#ai-onnx-ml; where that leaves the shape open, the kernels in
``onnxruntime/core/providers/cpu/ml`` decide. Those of ``com.microsoft`` follow ``docs/ContribOperators.md`` of ONNX
Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from deepen.graph.onnx_reader.proto_values import TensorType

__all__ = ["apply_shape_rule"]

_FLOAT, _INT64, _STRING = 1, 7, 8  # TensorProto.DataType

Inputs = Sequence[TensorType | None]
Outputs = list[TensorType | None]
_Rule = Callable[[Mapping[str, Any], tuple[int, ...], Inputs], Outputs]


def apply_shape_rule(op_type: str, domain: str, attributes: Mapping[str, Any], inputs: Inputs) -> Outputs:
    """Infer the output types of a node by the rule of its operator.

    Args:
        op_type: Operator.
        domain: Its domain.
        attributes: Its attributes as plain values.
        inputs: Types of its inputs; ``None`` for an omitted one.

    Returns:
        Types of its first outputs, ``None`` where unknown; empty if there is no rule or the first input has no shape.
    """
    rule = _RULES.get((domain, op_type))
    if rule is None or not inputs or inputs[0] is None or inputs[0].dims is None:
        return []
    return rule(attributes, inputs[0].dims, inputs)


def _count_rows(shape: tuple[int, ...]) -> int:
    """Count the samples of a batch: one if there is only one axis."""
    return shape[0] if len(shape) > 1 else 1


def _list_class_labels(attributes: Mapping[str, Any]) -> tuple[int, int]:
    """Number and element type of the class labels."""
    for name, elem_type in (
        ("classlabels_strings", _STRING), ("classlabels_int64s", _INT64), ("classlabels_ints", _INT64)
    ):  # fmt: skip
        if attributes.get(name):
            return len(attributes[name]), elem_type
    return 0, _INT64


def _keep_shape(attributes: Mapping[str, Any], shape: tuple[int, ...], inputs: Inputs) -> Outputs:
    return [TensorType(inputs[0].elem_type if inputs[0] else 0, shape)]


def _keep_shape_as_float(attributes: Mapping[str, Any], shape: tuple[int, ...], inputs: Inputs) -> Outputs:
    return [TensorType(_FLOAT, shape)]


def _map_labels(attributes: Mapping[str, Any], shape: tuple[int, ...], inputs: Inputs) -> Outputs:
    elem_type = next(
        (t for name, t in (("values_strings", _STRING), ("values_int64s", _INT64), ("values_floats", _FLOAT))
         if attributes.get(name)), 0,
    )  # fmt: skip
    tensor = attributes.get("values_tensor")
    if not elem_type and tensor is not None:
        elem_type = {"float32": _FLOAT, "int64": _INT64, "object": _STRING, "float64": 11, "int16": 5}.get(
            str(getattr(tensor, "dtype", "")), 0
        )
    if not elem_type:  # the first version, and CategoryMapper, turn integers into strings and strings into integers
        elem_type = _INT64 if inputs[0] and inputs[0].elem_type == _STRING else _STRING
    return [TensorType(elem_type, shape)]


def _extract_features(attributes: Mapping[str, Any], shape: tuple[int, ...], inputs: Inputs) -> Outputs:
    index = inputs[1].dims if len(inputs) > 1 and inputs[1] else None
    if index is None:
        return []
    before = shape[:-1] or (1,)
    return [TensorType(inputs[0].elem_type if inputs[0] else 0, (*before, prod(index)))]


def _join_features(attributes: Mapping[str, Any], shape: tuple[int, ...], inputs: Inputs) -> Outputs:
    widths = attributes.get("inputdimensions")
    return [TensorType(_FLOAT, (_count_rows(shape), sum(widths)))] if widths else []


def _encode_one_hot(attributes: Mapping[str, Any], shape: tuple[int, ...], inputs: Inputs) -> Outputs:
    width = len(attributes.get("cats_int64s") or attributes.get("cats_strings") or ())
    return [TensorType(_FLOAT, (*shape, width))]


def _regress(attributes: Mapping[str, Any], shape: tuple[int, ...], inputs: Inputs) -> Outputs:
    return [TensorType(_FLOAT, (_count_rows(shape), int(attributes.get("targets", 1))))]


def _regress_by_trees(attributes: Mapping[str, Any], shape: tuple[int, ...], inputs: Inputs) -> Outputs:
    elem_type = inputs[0].elem_type if inputs[0] and "leaf_targetids" in attributes else _FLOAT
    return [TensorType(elem_type, (_count_rows(shape), int(attributes.get("n_targets", 1))))]


def _regress_by_vectors(attributes: Mapping[str, Any], shape: tuple[int, ...], inputs: Inputs) -> Outputs:
    return [TensorType(_FLOAT, (_count_rows(shape), 1))]


def _classify(attributes: Mapping[str, Any], shape: tuple[int, ...], inputs: Inputs) -> Outputs:
    """Labels (rows), and scores (rows, classes): of a single score per row, the runtime makes two."""
    count, elem_type = _list_class_labels(attributes)
    rows = _count_rows(shape)
    return [TensorType(elem_type, (rows,)), TensorType(_FLOAT, (rows, count)) if count else None]


def _classify_by_vectors(attributes: Mapping[str, Any], shape: tuple[int, ...], inputs: Inputs) -> Outputs:
    """Labels (rows), and scores: one per class if probabilities are asked for, else one per pair of classes."""
    count, elem_type = _list_class_labels(attributes)
    rows = _count_rows(shape)
    pairs = bool(attributes.get("vectors_per_class")) and not attributes.get("prob_a") and count > 2
    scores = count * (count - 1) // 2 if pairs else count
    return [TensorType(elem_type, (rows,)), TensorType(_FLOAT, (rows, scores)) if scores else None]


_ML_RULES: dict[str, _Rule] = {
    "Scaler": _keep_shape_as_float,
    "Normalizer": _keep_shape_as_float,
    "Imputer": _keep_shape,
    "Binarizer": _keep_shape,
    "LabelEncoder": _map_labels,
    "CategoryMapper": _map_labels,
    "ArrayFeatureExtractor": _extract_features,
    "FeatureVectorizer": _join_features,
    "OneHotEncoder": _encode_one_hot,
    "LinearRegressor": _regress,
    "LinearClassifier": _classify,
    "SVMRegressor": _regress_by_vectors,
    "SVMClassifier": _classify_by_vectors,
    "TreeEnsembleClassifier": _classify,
    "TreeEnsembleRegressor": _regress_by_trees,
    "TreeEnsemble": _regress_by_trees,
}


def _measure_distances(attributes: Mapping[str, Any], shape: tuple[int, ...], inputs: Inputs) -> Outputs:
    """Distances (rows of the first, rows of the second) between the rows of two matrices."""
    other = inputs[1].dims if len(inputs) > 1 and inputs[1] else None
    return [TensorType(inputs[0].elem_type if inputs[0] else 0, (shape[0], other[0]))] if other and shape else []


def _embed_words(attributes: Mapping[str, Any], shape: tuple[int, ...], inputs: Inputs) -> Outputs:
    """One vector of (output channels) per word of (..., characters)."""
    weight = inputs[1].dims if len(inputs) > 1 and inputs[1] else None
    return [TensorType(_FLOAT, (*shape[:-1], weight[0]))] if weight and shape else []


_RULES: dict[tuple[str, str], _Rule] = {
    **{("ai.onnx.ml", op_type): rule for op_type, rule in _ML_RULES.items()},
    ("com.microsoft", "CDist"): _measure_distances,
    ("com.microsoft", "WordConvEmbedding"): _embed_words,
}
"""Rule by domain and operator."""
