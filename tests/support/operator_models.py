"""One small model for every operator that has no family, in any size: legal inputs that make the operator work.

``OPERATOR_MODELS[operator](n, random)`` is an :class:`OperatorModel`; ``n`` from 0 scales its work (0: an empty tensor,
where the operator takes one).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
ML, MS = "ai.onnx.ml", "com.microsoft"
FLOAT = onnx.TensorProto.FLOAT


@dataclass
class OperatorModel:
    """A node, the tensors it is fed with and its constants, by position; ``None`` for an input left out.

    Attributes:
        op_type: Operator.
        feeds: Inputs; those named in ``constants`` become initialisers.
        attributes: Attributes.
        constants: Positions of the inputs that are initialisers.
        outputs: How many outputs it has.
        domain: Domain of the operator.
        opset: Version of the standard set.
        before: Nodes that make an input of another type (a sequence, a map) out of the feeds.
        inputs: Names of the node's inputs if they are not the feeds themselves.
    """

    op_type: str
    feeds: Sequence[Array | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Sequence[int] = ()
    outputs: int = 1
    domain: str = ""
    opset: int = 17
    before: Sequence[onnx.NodeProto] = ()
    inputs: Sequence[str] | None = None

    def build(self) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """Make the model, and what to feed it with; types and shapes of the outputs are those of a run."""
        import onnxruntime

        arrays = {f"i{i}": a for i, a in enumerate(self.feeds) if a is not None}
        names = list(self.inputs) if self.inputs is not None else [
            f"i{i}" if a is not None else "" for i, a in enumerate(self.feeds)
        ]  # fmt: skip
        outputs = [f"o{i}" for i in range(self.outputs)]
        made = helper.make_node(self.op_type, names, outputs, name="node", domain=self.domain, **self.attributes)
        fixed = {f"i{i}" for i in self.constants}
        graph = helper.make_graph(
            [*self.before, made], "one", [
                helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                for k, v in arrays.items() if k not in fixed
            ], [onnx.ValueInfoProto(name=name) for name in outputs],
            [numpy_helper.from_array(v, k) for k, v in arrays.items() if k in fixed],
        )  # fmt: skip
        domains = {"": self.opset, ML: 5 if self.op_type == "TreeEnsemble" else 3, MS: 1}
        opsets = [helper.make_opsetid(d, v) for d, v in domains.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        feeds = {k: v for k, v in arrays.items() if k not in fixed}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for info, value in zip(model.graph.output, session.run(None, feeds), strict=True):
            if isinstance(value, np.ndarray):
                dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
                info.CopyFrom(helper.make_tensor_value_info(info.name, dtype, value.shape))
        return model, feeds


Maker = Callable[[int, np.random.Generator], OperatorModel]
OPERATOR_MODELS: dict[str, Maker] = {}


def _add(name: str) -> Callable[[Maker], Maker]:
    def keep(maker: Maker) -> Maker:
        OPERATOR_MODELS[name] = maker
        return maker

    return keep


def _floats(r: np.random.Generator, *shape: int) -> Array:
    return r.standard_normal(shape).astype(np.float32)


def _ints(r: np.random.Generator, top: int, *shape: int, dtype: Any = np.int64) -> Array:
    return r.integers(0, max(top, 1), shape).astype(dtype)


def _words(r: np.random.Generator, *shape: int) -> Array:
    return np.array([f"word {k} of" for k in r.integers(0, 99, int(np.prod(shape)))], dtype=object).reshape(shape)


def make_tree_attributes(
    r: np.random.Generator, trees: int, depth: int, features: int, leaves: str = "target"
) -> dict[str, Any]:
    """Attributes of a complete ensemble as exporters write them; ``leaves`` is ``target`` or ``class``."""
    n, half = 2 ** (depth + 1) - 1, 2**depth - 1
    index = np.arange(n)
    leaf = index >= half
    ends = index[half:]
    found: dict[str, Any] = {
        "nodes_treeids": np.repeat(np.arange(trees), n).tolist(),
        "nodes_nodeids": np.tile(index, trees).tolist(),
        "nodes_featureids": np.where(np.tile(leaf, trees), 0, r.integers(0, features, n * trees)).tolist(),
        "nodes_modes": (["BRANCH_LEQ"] * half + ["LEAF"] * len(ends)) * trees,
        "nodes_values": np.where(np.tile(leaf, trees), 0, _floats(r, n * trees)).tolist(),
        "nodes_truenodeids": np.tile(np.where(leaf, 0, 2 * index + 1), trees).tolist(),
        "nodes_falsenodeids": np.tile(np.where(leaf, 0, 2 * index + 2), trees).tolist(),
        f"{leaves}_treeids": np.repeat(np.arange(trees), len(ends)).tolist(),
        f"{leaves}_nodeids": np.tile(ends, trees).tolist(),
        f"{leaves}_ids": [0] * (trees * len(ends)),
        f"{leaves}_weights": _floats(r, trees * len(ends)).tolist(),
    }
    return found


def make_tree_ensemble_5(r: np.random.Generator, trees: int, depth: int, features: int) -> dict[str, Any]:
    """Attributes of the ``TreeEnsemble`` of version 5: branches and leaves numbered apart."""
    half = 2**depth - 1
    index = np.arange(half)
    left, right = 2 * index + 1, 2 * index + 2
    last = left >= half  # the level whose children are leaves

    def number(child: Array) -> Array:
        offset = np.arange(trees)[:, None]
        return np.where(last, child - half + offset * (half + 1), child + offset * half).reshape(-1)

    values = numpy_helper.from_array(_floats(r, half * trees), "splits")
    weights = numpy_helper.from_array(_floats(r, (half + 1) * trees), "weights")
    modes = numpy_helper.from_array(np.zeros(half * trees, np.uint8), "modes")
    flat = np.tile(last.astype(np.int64), trees).tolist()
    return {
        "n_targets": 1, "aggregate_function": 1, "post_transform": 0, "tree_roots": (np.arange(trees) * half).tolist(),
        "nodes_featureids": r.integers(0, features, half * trees).tolist(), "nodes_splits": values,
        "nodes_modes": modes, "nodes_truenodeids": number(left).tolist(), "nodes_falsenodeids": number(right).tolist(),
        "nodes_trueleafs": flat, "nodes_falseleafs": flat, "leaf_targetids": [0] * ((half + 1) * trees),
        "leaf_weights": weights,
    }  # fmt: skip


# ai.onnx.ml ------------------------------------------------------------------------------------------------------


@_add("TreeEnsembleRegressor")
def _(n, r):
    return OperatorModel("TreeEnsembleRegressor", [_floats(r, 8 * n, 16)],
        {"n_targets": 1, **make_tree_attributes(r, 20, 5, 16)}, domain=ML)  # fmt: skip


@_add("TreeEnsembleClassifier")
def _(n, r):
    attributes = make_tree_attributes(r, 20, 5, 16, "class")
    return OperatorModel("TreeEnsembleClassifier", [_floats(r, 8 * n, 16)],
        {"classlabels_int64s": [0, 1], **attributes}, outputs=2, domain=ML)  # fmt: skip


@_add("TreeEnsemble")
def _(n, r):
    return OperatorModel("TreeEnsemble", [_floats(r, 8 * n, 16)], make_tree_ensemble_5(r, 20, 5, 16), domain=ML)


@_add("SVMRegressor")
def _(n, r):
    return OperatorModel("SVMRegressor", [_floats(r, 8 * n, 16)], {
        "kernel_type": "RBF", "kernel_params": [0.1, 0.0, 3.0], "n_supports": 60, "coefficients": [0.1] * 60,
        "support_vectors": _floats(r, 60 * 16).tolist(), "rho": [0.1],
    }, domain=ML)  # fmt: skip


@_add("SVMClassifier")
def _(n, r):
    return OperatorModel("SVMClassifier", [_floats(r, 8 * n, 16)], {
        "kernel_type": "RBF", "kernel_params": [0.1, 0.0, 3.0], "coefficients": [0.1] * 60, "rho": [0.1],
        "support_vectors": _floats(r, 60 * 16).tolist(), "vectors_per_class": [30, 30], "classlabels_ints": [0, 1],
    }, outputs=2, domain=ML)  # fmt: skip


@_add("LinearRegressor")
def _(n, r):
    return OperatorModel("LinearRegressor", [_floats(r, 8 * n, 16)],
        {"coefficients": [0.1] * 48, "intercepts": [0.1] * 3, "targets": 3}, domain=ML)  # fmt: skip


@_add("LinearClassifier")
def _(n, r):
    return OperatorModel("LinearClassifier", [_floats(r, 8 * n, 16)], {
        "coefficients": [0.1] * 48, "intercepts": [0.1] * 3, "classlabels_ints": [0, 1, 2], "multi_class": 1,
        "post_transform": "SOFTMAX",
    }, outputs=2, domain=ML)  # fmt: skip


@_add("ZipMap")
def _(n, r):
    return OperatorModel("ZipMap", [_floats(r, 8 * n, 3)], {"classlabels_int64s": [0, 1, 2]}, domain=ML)


@_add("Scaler")
def _(n, r):
    return OperatorModel("Scaler", [_floats(r, 8 * n, 16)], {"offset": [0.1] * 16, "scale": [2.0] * 16}, domain=ML)


@_add("Normalizer")
def _(n, r):
    return OperatorModel("Normalizer", [_floats(r, 8 * n, 16)], {"norm": "L2"}, domain=ML)


@_add("Binarizer")
def _(n, r):
    return OperatorModel("Binarizer", [_floats(r, 8 * n, 16)], {"threshold": 0.1}, domain=ML)


@_add("Imputer")
def _(n, r):
    return OperatorModel("Imputer", [_floats(r, 8 * n, 16)],
        {"imputed_value_floats": [0.5] * 16, "replaced_value_float": float("nan")}, domain=ML)  # fmt: skip


@_add("LabelEncoder")
def _(n, r):
    return OperatorModel("LabelEncoder", [_ints(r, 50, 8 * n, 4)],
        {"keys_int64s": list(range(50)), "values_floats": [0.5] * 50}, domain=ML)  # fmt: skip


@_add("OneHotEncoder")
def _(n, r):
    return OperatorModel("OneHotEncoder", [_ints(r, 20, 8 * n, 4)], {"cats_int64s": list(range(20))}, domain=ML)


@_add("ArrayFeatureExtractor")
def _(n, r):
    return OperatorModel("ArrayFeatureExtractor", [_floats(r, 8 * n, 16), _ints(r, 16, 1, 5)], domain=ML)


@_add("FeatureVectorizer")
def _(n, r):
    return OperatorModel("FeatureVectorizer", [_floats(r, 8 * max(n, 1), 3), _floats(r, 8 * max(n, 1), 4)],
        {"inputdimensions": [3, 4]}, domain=ML)  # fmt: skip


@_add("CategoryMapper")
def _(n, r):
    return OperatorModel("CategoryMapper", [_ints(r, 20, 8 * n, 4)],
        {"cats_int64s": list(range(20)), "cats_strings": [f"c{i}" for i in range(20)]}, domain=ML)  # fmt: skip


# standard operators ----------------------------------------------------------------------------------------------


@_add("NonMaxSuppression")
def _(n, r):
    corner = r.uniform(0, 200, (1, 40 * n, 2)).astype(np.float32)
    boxes = np.concatenate([corner, corner + r.uniform(1, 40, corner.shape).astype(np.float32)], 2)
    return OperatorModel("NonMaxSuppression", [
        boxes, r.random((1, 3, 40 * n)).astype(np.float32), np.array([20]), np.array([0.5], np.float32),
        np.array([0.1], np.float32),
    ], constants=(2, 3, 4))  # fmt: skip


@_add("TopK")
def _(n, r):
    return OperatorModel("TopK", [_floats(r, 4, 64 * max(n, 1)), np.array([9 if n else 0])], constants=(1,), outputs=2)


@_add("Unique")
def _(n, r):
    return OperatorModel("Unique", [_ints(r, 50, 64 * n)], {"sorted": 1})


@_add("NonZero")
def _(n, r):
    return OperatorModel("NonZero", [_floats(r, 8 * n, 16)])


@_add("Compress")
def _(n, r):
    return OperatorModel("Compress", [_floats(r, 8 * n, 16), np.arange(8 * n) % 2 == 0], {"axis": 0})


@_add("OneHot")
def _(n, r):
    return OperatorModel("OneHot", [_ints(r, 20, 8 * n), np.array(20), np.array([0, 1], np.float32)], constants=(1, 2))


@_add("EyeLike")
def _(n, r):
    return OperatorModel("EyeLike", [_floats(r, 8 * n, 16)])


@_add("ConstantOfShape")
def _(n, r):
    return OperatorModel("ConstantOfShape", [np.array([8 * n, 16])])


@_add("Range")
def _(n, r):
    return OperatorModel("Range", [np.array(0.0, np.float32), np.array(64.0 * n, np.float32),
        np.array(1.0, np.float32)])  # fmt: skip


@_add("Trilu")
def _(n, r):
    return OperatorModel("Trilu", [_floats(r, n, 8, 16)])


for _name in ("RandomNormalLike", "RandomUniformLike", "Shrink"):

    @_add(_name)
    def _(n, r, op=_name):
        return OperatorModel(op, [_floats(r, 8 * n, 16)])


@_add("RandomNormal")
def _(n, r):
    return OperatorModel("RandomNormal", [], {"shape": [8 * n, 16]})


@_add("RandomUniform")
def _(n, r):
    return OperatorModel("RandomUniform", [], {"shape": [8 * n, 16]})


@_add("Multinomial")
def _(n, r):
    return OperatorModel("Multinomial", [_floats(r, max(n, 1), 16)], {"sample_size": 8})


@_add("Det")
def _(n, r):
    return OperatorModel("Det", [_floats(r, n, 6, 6)])


@_add("CumProd")
def _(n, r):
    return OperatorModel("CumProd", [_floats(r, 8 * n, 16), np.array(1)], constants=(1,), opset=26)


@_add("LpNormalization")
def _(n, r):
    return OperatorModel("LpNormalization", [_floats(r, 8 * n, 16)])


@_add("ReverseSequence")
def _(n, r):
    return OperatorModel("ReverseSequence", [_floats(r, 8 * n, 4, 16), np.full(4, 8 * n)], {"time_axis": 0,
        "batch_axis": 1})  # fmt: skip


@_add("STFT")
def _(n, r):
    return OperatorModel("STFT", [_floats(r, 1, 64 * max(n, 1) + 64, 1), np.array(16),
        np.hanning(64).astype(np.float32), np.array(64)], constants=(1, 2, 3))  # fmt: skip


@_add("DFT")
def _(n, r):
    return OperatorModel("DFT", [_floats(r, max(n, 1), 64, 1)], {"axis": 1})


for _name in ("HannWindow", "HammingWindow", "BlackmanWindow"):

    @_add(_name)
    def _(n, r, op=_name):
        return OperatorModel(op, [np.array(64 * n)])


@_add("MelWeightMatrix")
def _(n, r):
    return OperatorModel("MelWeightMatrix", [
        np.array(8 * max(n, 1)), np.array(128), np.array(8000), np.array(20.0, np.float32),
        np.array(3900.0, np.float32),
    ])  # fmt: skip


@_add("GridSample")
def _(n, r):
    return OperatorModel("GridSample", [_floats(r, 1, 3, 9, 11), r.uniform(-1, 1, (1, 4 * n, 6, 2)).astype(np.float32)],
        opset=16)  # fmt: skip


@_add("AffineGrid")
def _(n, r):
    return OperatorModel("AffineGrid", [_floats(r, 2, 2, 3), np.array([2, 3, 4 * max(n, 1), 6])], {"align_corners": 0},
        constants=(1,), opset=20)  # fmt: skip


@_add("RoiAlign")
def _(n, r):
    rois = np.tile(np.array([[1, 1, 12, 14]], np.float32), (4 * n, 1))
    return OperatorModel("RoiAlign", [_floats(r, 1, 3, 16, 16), rois, np.zeros(4 * n, np.int64)],
        {"output_height": 5, "output_width": 4, "sampling_ratio": 2, "mode": "avg"}, opset=16)  # fmt: skip


@_add("MaxRoiPool")
def _(n, r):
    rois = np.tile(np.array([[0, 1, 1, 12, 14]], np.float32), (4 * n, 1))
    return OperatorModel("MaxRoiPool", [_floats(r, 1, 3, 16, 16), rois], {"pooled_shape": [5, 4]})


@_add("DeformConv")
def _(n, r):
    return OperatorModel("DeformConv", [_floats(r, n, 4, 8, 8), _floats(r, 5, 4, 3, 3), _floats(r, n, 18, 6, 6)],
        {"kernel_shape": [3, 3]}, constants=(1,), opset=19)  # fmt: skip


@_add("Col2Im")
def _(n, r):
    return OperatorModel("Col2Im", [_floats(r, n, 3 * 9, 36), np.array([8, 8]), np.array([3, 3])], constants=(1, 2),
        opset=18)  # fmt: skip


@_add("LpPool")
def _(n, r):
    return OperatorModel("LpPool", [_floats(r, n, 3, 8, 8)], {"kernel_shape": [3, 3]}, opset=18)


@_add("GlobalLpPool")
def _(n, r):
    return OperatorModel("GlobalLpPool", [_floats(r, n, 3, 8, 8)])


@_add("MaxUnpool")
def _(n, r):
    index = (np.arange(n * 3 * 16) * 4).reshape(n, 3, 4, 4)
    return OperatorModel("MaxUnpool", [_floats(r, n, 3, 4, 4), index], {"kernel_shape": [2, 2], "strides": [2, 2]})


@_add("ScatterElements")
def _(n, r):
    return OperatorModel("ScatterElements", [_floats(r, 64, 16), _ints(r, 64, 4 * n, 16), _floats(r, 4 * n, 16)],
        opset=18)  # fmt: skip


@_add("Scatter")
def _(n, r):
    return OperatorModel("Scatter", [_floats(r, 64, 16), _ints(r, 64, 4 * n, 16), _floats(r, 4 * n, 16)], opset=10)


@_add("ScatterND")
def _(n, r):
    return OperatorModel("ScatterND", [_floats(r, 64, 16), _ints(r, 64, 4 * n, 1), _floats(r, 4 * n, 16)], opset=18)


@_add("TensorScatter")
def _(n, r):
    return OperatorModel("TensorScatter", [_floats(r, max(n, 1), 2, 16, 8), _floats(r, max(n, 1), 2, 3, 8),
        np.zeros(max(n, 1), np.int64)], opset=24)  # fmt: skip


@_add("Einsum")
def _(n, r):
    return OperatorModel(
        "Einsum", [_floats(r, max(n, 1), 6, 8), _floats(r, max(n, 1), 7, 8)], {"equation": "bij,bkj->bik"}
    )


@_add("RotaryEmbedding")
def _(n, r):
    return OperatorModel("RotaryEmbedding", [_floats(r, 1, 2, 4 * n, 8), _floats(r, 1, 4 * n, 4),
        _floats(r, 1, 4 * n, 4)], opset=23)  # fmt: skip


@_add("StringNormalizer")
def _(n, r):
    return OperatorModel("StringNormalizer", [_words(r, 8 * max(n, 1))], {"case_change_action": "UPPER", "locale": "C"})


@_add("StringConcat")
def _(n, r):
    return OperatorModel("StringConcat", [_words(r, 8 * n), _words(r, 8 * n)], opset=20)


@_add("StringSplit")
def _(n, r):
    return OperatorModel("StringSplit", [_words(r, 8 * n)], {"delimiter": " "}, outputs=2, opset=20)


@_add("RegexFullMatch")
def _(n, r):
    return OperatorModel("RegexFullMatch", [_words(r, 8 * n)], {"pattern": "word .* of"}, opset=20)


@_add("TfIdfVectorizer")
def _(n, r):
    return OperatorModel("TfIdfVectorizer", [_ints(r, 9, max(n, 1), 20)], {
        "mode": "TF", "min_gram_length": 2, "max_gram_length": 2, "max_skip_count": 0, "ngram_counts": [0, 0],
        "ngram_indexes": [0, 1, 2], "pool_int64s": [1, 2, 3, 4, 5, 6],
    })  # fmt: skip


@_add("SequenceConstruct")
def _(n, r):
    return OperatorModel("SequenceConstruct", [_floats(r, 8 * n, 16)] * 2)


@_add("ConcatFromSequence")
def _(n, r):
    made = helper.make_node("SequenceConstruct", ["i0", "i1"], ["s"], name="make")
    return OperatorModel("ConcatFromSequence", [_floats(r, 8 * n, 16)] * 2, {"axis": 0}, before=[made], inputs=["s"])


@_add("SequenceAt")
def _(n, r):
    made = helper.make_node("SequenceConstruct", ["i0", "i1"], ["s"], name="make")
    return OperatorModel("SequenceAt", [_floats(r, 8 * n, 16), _floats(r, 8 * n, 16), np.array(1)], before=[made],
        inputs=["s", "i2"])  # fmt: skip


@_add("SequenceLength")
def _(n, r):
    made = helper.make_node("SequenceConstruct", ["i0"], ["s"], name="make")
    return OperatorModel("SequenceLength", [_floats(r, 8 * n, 16)], before=[made], inputs=["s"])


@_add("SplitToSequence")
def _(n, r):
    return OperatorModel("SplitToSequence", [_floats(r, 8 * n, 16)], {"axis": 0})


# com.microsoft ---------------------------------------------------------------------------------------------------


@_add("com.microsoft.MoE")
def _(n, r):
    return OperatorModel("MoE", [_floats(r, 4 * max(n, 1), 16), _floats(r, 4 * max(n, 1), 4), _floats(r, 4, 32, 16),
        None, _floats(r, 4, 16, 32)], {"k": 2, "activation_type": "relu"}, (2, 4), domain=MS)  # fmt: skip


@_add("com.microsoft.EmbedLayerNormalization")
def _(n, r):
    return OperatorModel("EmbedLayerNormalization", [
        _ints(r, 30, 2, 4 * max(n, 1), dtype=np.int32), _ints(r, 2, 2, 4 * max(n, 1), dtype=np.int32),
        _floats(r, 30, 16), _floats(r, 4 * max(n, 1), 16), _floats(r, 2, 16), _floats(r, 16), _floats(r, 16),
    ], {"epsilon": 1e-6}, (2, 3, 4, 5, 6), outputs=2, domain=MS)  # fmt: skip


@_add("com.microsoft.RotaryEmbedding")
def _(n, r):
    return OperatorModel("RotaryEmbedding", [
        _floats(r, 1, 2, 4 * max(n, 1), 8), np.arange(4 * max(n, 1))[None], _floats(r, 4 * max(n, 1), 4),
        _floats(r, 4 * max(n, 1), 4),
    ], constants=(2, 3), domain=MS)  # fmt: skip


@_add("com.microsoft.GatherBlockQuantized")
def _(n, r):
    return OperatorModel("GatherBlockQuantized", [_ints(r, 255, 30, 32, dtype=np.uint8), _ints(r, 30, 4 * n),
        np.abs(_floats(r, 30, 2)), np.full((30, 2), 128, np.uint8)],
        {"block_size": 16, "bits": 8, "gather_axis": 0, "quantize_axis": 1}, (0, 2, 3), domain=MS)  # fmt: skip


for _name in ("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"):

    @_add(f"{MS}.{_name}")
    def _(n, r, op=_name):
        extra = {"QLinearSoftmax": {"opset": 13, "axis": -1}}.get(op, {})
        return OperatorModel(op, [_ints(r, 255, 4 * n, 16, dtype=np.uint8), np.array(0.02, np.float32),
            np.array(3, np.uint8), np.array(1 / 256, np.float32), np.array(0, np.uint8)], extra, (1, 2, 3, 4),
            domain=MS)  # fmt: skip


@_add(f"{MS}.QLinearAveragePool")
def _(n, r):
    return OperatorModel("QLinearAveragePool", [_ints(r, 255, max(n, 1), 3, 8, 8, dtype=np.uint8),
        np.array(0.02, np.float32), np.array(3, np.uint8), np.array(0.02, np.float32), np.array(3, np.uint8)],
        {"kernel_shape": [3, 3]}, (1, 2, 3, 4), domain=MS)  # fmt: skip


@_add(f"{MS}.QLinearConcat")
def _(n, r):
    x, s, z = _ints(r, 255, 4 * n, 16, dtype=np.uint8), np.array(0.02, np.float32), np.array(3, np.uint8)
    return OperatorModel("QLinearConcat", [s, z, x, s, z, x, s, z], {"axis": 1}, (0, 1, 3, 4, 6, 7), domain=MS)


@_add(f"{MS}.QLinearWhere")
def _(n, r):
    x, s, z = _ints(r, 255, 4 * n, 16, dtype=np.uint8), np.array(0.02, np.float32), np.array(3, np.uint8)
    return OperatorModel("QLinearWhere", [x > 9, x, s, z, x, s, z, s, z], {}, (2, 3, 5, 6, 7, 8), domain=MS)


@_add(f"{MS}.CDist")
def _(n, r):
    return OperatorModel("CDist", [_floats(r, 4 * max(n, 1), 16), _floats(r, 9, 16)], {"metric": "euclidean"},
        domain=MS)  # fmt: skip


@_add(f"{MS}.Inverse")
def _(n, r):
    return OperatorModel("Inverse", [_floats(r, n, 6, 6)], domain=MS)


@_add(f"{MS}.MurmurHash3")
def _(n, r):
    return OperatorModel("MurmurHash3", [_ints(r, 99, 8 * n, 4, dtype=np.int32)], domain=MS)


@_add(f"{MS}.CropAndResize")
def _(n, r):
    rois = np.tile(np.array([[0.1, 0.1, 0.8, 0.9]], np.float32), (4 * n, 1))
    return OperatorModel("CropAndResize", [_floats(r, 1, 3, 16, 16), rois, np.zeros(4 * n, np.int32),
        np.array([5, 4], np.int32)], constants=(3,), domain=MS)  # fmt: skip


@_add(f"{MS}.ExpandDims")
def _(n, r):
    return OperatorModel("ExpandDims", [_floats(r, 8 * n, 16), np.array(1, np.int32)], constants=(1,), domain=MS)


@_add(f"{MS}.Tokenizer")
def _(n, r):
    return OperatorModel("Tokenizer", [_words(r, 8 * max(n, 1))], {
        "mark": 0, "mincharnum": 1, "pad_value": "#", "separators": [" "],
    }, domain=MS)  # fmt: skip


@_add(f"{MS}.MatMulBnb4")
def _(n, r):
    return OperatorModel("MatMulBnb4", [_floats(r, 4 * max(n, 1), 32), _ints(r, 255, 32 * 16 // 2, dtype=np.uint8),
        np.abs(_floats(r, 32 * 16 // 16))], {"K": 32, "N": 16, "block_size": 16, "quant_type": 1}, (1, 2),
        domain=MS)  # fmt: skip


@_add(f"{MS}.UnfoldTensor")
def _(n, r):
    return OperatorModel("UnfoldTensor", [_floats(r, 8 * max(n, 1), 16)], {"dim": 1, "size": 4, "step": 2}, domain=MS)


@_add(f"{MS}.NGramRepeatBlock")
def _(n, r):
    return OperatorModel("NGramRepeatBlock", [_ints(r, 50, 4 * max(n, 1), 12), _floats(r, 4 * max(n, 1), 50)],
        {"ngram_size": 2}, domain=MS)  # fmt: skip


@_add(f"{MS}.BifurcationDetector")
def _(n, r):
    tokens = _ints(r, 9, 16 * max(n, 1))
    return OperatorModel("BifurcationDetector", [tokens, tokens, np.array(0)], {"min_ngram_size": 1,
        "max_ngram_size": 3}, outputs=2, domain=MS)  # fmt: skip


@_add(f"{MS}.MaxpoolWithMask")
def _(n, r):
    return OperatorModel("MaxpoolWithMask", [_floats(r, max(n, 1), 1, 8, 8), np.ones((max(n, 1), 1, 8, 8), np.int32)],
        {"kernel_shape": [2, 2]}, domain=MS)  # fmt: skip
