"""Family files, and what build refuses."""

from __future__ import annotations

import pytest

from deepen.errors import ConfigError
from deepen.kernels import build_kernel_model, load_families
from deepen.kernels.families.catalog import check_params, complete_params, get_family
from deepen.kernels.families.registry import load_family_definitions, map_operators_to_readers

CANONICAL = {
    "conv-bn-relu", "dwconv-bn-relu", "groupconv", "convtranspose", "fc", "matmul", "attention", "softmax",
    "layernorm", "rmsnorm", "lrn", "bn", "bnrelu", "relu", "hswish", "gelu", "silu", "elementwise", "add",
    "addrelu", "binary", "concat", "split", "maxpool", "avgpool", "global-avgpool", "reduce", "resize", "gather",
    "transpose", "reshape", "slice", "pad", "recurrent", "quantize", "dequantize", "qconv", "qmatmul", "se",
    "channelshuffle", "rotary",
}  # fmt: skip

CONV = {
    "c_in": 8, "c_out": 16, "spatial": [9, 9], "kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1], "pads": [0] * 4,
}  # fmt: skip
POOL = {"c": 4, "spatial": [8, 8], "kernel": [2, 2], "stride": [2, 2], "dilation": [1, 1], "pads": [0] * 4}
ATTENTION = {"heads": 4, "kv_heads": 4, "q_len": 6, "kv_len": 6, "head_dim": 8, "v_head_dim": 8}


def test_every_family_has_a_file_and_code():
    assert set(load_families()) == CANONICAL == set(load_family_definitions())


def test_every_family_says_what_its_parameters_mean():
    for item in load_families().values():
        assert item.title
        assert item.about.endswith(".")
        assert item.ops
        assert item.sampling
        assert all(p.about for p in item.schema.values())
        assert set(item.schema) == set(item.params)


def test_every_declared_operator_leads_to_its_family():
    for item in load_families().values():
        for op in item.ops:
            assert item.name in {a.family for a in map_operators_to_readers()[op]}


def test_defaults_fit_their_own_rules():
    for item in load_families().values():
        for name, param in item.schema.items():
            if param.default is not None and param.choices:
                assert param.default in param.choices, (item.name, name)


def test_complete_orders_fills_and_turns_tuples_into_lists():
    done = complete_params("fc", {"n": 3, "k": 2, "m": 1})
    assert list(done) == list(get_family("fc").params)
    assert done["op"] == "Gemm"
    assert complete_params("relu", {"shape": (1, 2)})["shape"] == [1, 2]


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("conv-bn-rleu", CONV, "did you mean conv-bn-relu"),
        ("other", {}, "unknown kernel family 'other'"),
        ("conv-bn-relu", {k: v for k, v in CONV.items() if k != "kernel"}, "'kernel' is missing"),
        ("conv-bn-relu", {**CONV, "kernal": [3, 3]}, "unknown parameter of conv-bn-relu 'kernal'; did you mean kernel"),
        ("conv-bn-relu", {**CONV, "c_in": 0}, "'c_in' must be at least 1, not 0"),
        ("conv-bn-relu", {**CONV, "c_in": 8.0}, "'c_in' must be an integer"),
        ("conv-bn-relu", {**CONV, "c_in": True}, "'c_in' must be an integer"),
        ("conv-bn-relu", {**CONV, "bias": 1}, "'bias' must be true or false"),
        ("conv-bn-relu", {**CONV, "activation": "rleu"}, "'activation' must be one of none, relu"),
        ("conv-bn-relu", {**CONV, "dtype": "float"}, "'dtype' must be one of float32"),
        ("conv-bn-relu", {**CONV, "spatial": 9}, "'spatial' must be a list"),
        ("conv-bn-relu", {**CONV, "spatial": [9, "9"]}, "'spatial' must hold integers"),
        ("conv-bn-relu", {**CONV, "spatial": [0, 9]}, "'spatial' must hold values of at least 1"),
        ("conv-bn-relu", {**CONV, "spatial": [2, 9]}, "'spatial' .* nothing comes out"),
        ("conv-bn-relu", {**CONV, "spatial": [9] * 4}, "'spatial' must have 1 to 3 sizes"),
        ("conv-bn-relu", {**CONV, "stride": [1]}, "'stride' must have 2 values"),
        ("conv-bn-relu", {**CONV, "pads": [0, 0]}, "'pads' must have 4 values"),
        ("conv-bn-relu", {**CONV, "groups": 2}, "'groups' of 2 with c_in 8 is family groupconv"),
        ("dwconv-bn-relu", {**CONV, "groups": 4}, "'groups' .* groupconv"),
        ("groupconv", {**CONV, "groups": 3}, "'c_in' must be a multiple of groups"),
        ("convtranspose", {**CONV, "output_padding": [1, 0]}, "'output_padding' must be smaller than stride"),
        ("fc", {"m": 1, "k": 2, "n": 3, "op": "MatMul", "bias": True}, "'bias' needs op Gemm"),
        ("matmul", {"a_shape": [2, 3], "b_shape": [4, 5]}, "'b_shape' has 4 rows for the 3 columns"),
        ("matmul", {"a_shape": [2, 2, 3], "b_shape": [3, 3, 5]}, "'b_shape' does not broadcast"),
        ("attention", {**ATTENTION, "kv_heads": 3}, "'kv_heads' must divide heads"),
        ("attention", {**ATTENTION, "op": "ProjectedAttention"}, "'hidden_in' must be positive"),
        ("softmax", {"shape": [2, 3], "axis": 2}, "'axis' must be below the rank 2"),
        ("layernorm", {"op": "GroupNormalization", "shape": [1, 4, 8], "axis": 1, "groups": 3}, "'groups' must divide"),
        ("layernorm", {"shape": [1, 4], "axis": 1, "skip_output": True}, "'skip_output' needs skip"),
        ("lrn", {"shape": [4], "size": 3}, "'shape' must have rank 3"),
        ("relu", {"shape": [1, 4], "op": "PRelu", "slope_shape": [3]}, "'slope_shape' .* does not broadcast"),
        (
            "elementwise",
            {"op": "Sqrt", "shape": [4], "out_dtype": "int64"},
            "'out_dtype' of Sqrt on float32 must be float32",
        ),
        ("binary", {"op": "Mul", "in_shapes": [[2], [3]], "sources": [0, 1]}, "'in_shapes' must broadcast"),
        ("binary", {"op": "Mul", "in_shapes": [[2]], "sources": [0]}, "'in_shapes' of Mul must have 2 shapes"),
        ("add", {"in_shapes": [[2], [2]], "sources": [-1, -1]}, "'sources' must name at least one activation"),
        ("add", {"in_shapes": [[2], [2]], "sources": [0, 2]}, "'sources' must number"),
        ("add", {"in_shapes": [[2], [1]], "sources": [0, 0]}, "'sources' gives tensor 0 two shapes"),
        (
            "concat",
            {"in_shapes": [[2, 3], [3, 3]], "sources": [0, 1], "axis": 1},
            "'in_shapes' may differ along axis 1 only",
        ),
        ("split", {"shape": [4], "axis": 0, "sizes": [1, 2]}, "'sizes' must add up to 4"),
        ("maxpool", {**POOL, "pads": [2, 0, 0, 0]}, "'pads' must be smaller than the kernel"),
        ("maxpool", {**POOL, "ceil": True}, "'ceil' makes no difference"),
        ("reduce", {"op": "ReduceSum", "shape": [2, 3], "axes": [1, 0]}, "'axes' must be distinct, ascending"),
        ("resize", {"shape": [1, 2, 4], "out_shape": [1, 2, 8], "mode": "linear"}, "'mode' linear needs rank 4"),
        ("gather", {"shape": [4, 2], "indices_shape": [3], "axis": 2}, "'axis' must be below the rank 2"),
        ("transpose", {"shape": [2, 3], "perm": [0, 0]}, "'perm' must be a permutation"),
        ("reshape", {"shape": [2, 3], "out_shape": [7]}, "'out_shape' .* cannot come from"),
        ("slice", {"shape": [4], "out_shape": [3], "steps": [2]}, "'out_shape' asks for 3 of 4"),
        ("pad", {"shape": [4], "pads": [4, 0], "mode": "reflect"}, "'pads' must be 0 to 3"),
        (
            "recurrent",
            {"op": "GRU", "seq": 2, "input": 3, "hidden": 4, "initial": 2},
            "'initial' of GRU may be at most 1",
        ),
        ("quantize", {"shape": [4], "out_dtype": "float32"}, "'out_dtype' must be an integer type"),
        ("qconv", {**CONV, "out_dtype": "int8"}, "'out_dtype' of QLinearConv must equal dtype"),
        ("qmatmul", {"m": 1, "k": 2, "n": 3, "bias": True}, "'bias' is not known of QLinearMatMul"),
        ("channelshuffle", {"c": 8, "spatial": [4], "groups": 3}, "'groups' must divide the 8 channels"),
        ("fc", {"m": 1, "k": 50_000, "n": 50_000}, "weights of 10.0 GB do not fit"),
    ],
)
def test_build_names_the_parameter_that_is_wrong(name, params, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_kernel_model(name, params)
    assert "\n" not in str(caught.value)


def test_check_params_leaves_valid_ones_alone():
    full = check_params("conv-bn-relu", CONV)
    assert check_params("conv-bn-relu", full) == full


@pytest.fixture
def catalog_with(tmp_path, monkeypatch):
    """Catalogue with one family file of the given text."""

    def make(text: str) -> None:
        folder = tmp_path / "kernels" / "families"
        folder.mkdir(parents=True)
        (folder / "mine.toml").write_text(text)
        monkeypatch.setenv("DEEPEN_CATALOG", str(tmp_path))
        load_families.cache_clear()

    yield make
    monkeypatch.undo()
    load_families.cache_clear()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = ", "not valid TOML"),
        ('title = "Mine"', "mine.toml: lacks about, ops"),
        (
            'title = "Mine"\nabout = "x"\nops = []\nfeatures = []\n'
            '[params]\na = {type = "float", about = "x"}\n[sampling]',
            "mine.toml: 'a' needs an about line and a type",
        ),
    ],
)
def test_a_broken_family_file_is_named(catalog_with, text, message):
    catalog_with(text)
    with pytest.raises(ConfigError, match=message):
        load_families()


def test_no_family_at_all_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPEN_CATALOG", str(tmp_path))
    load_families.cache_clear()
    with pytest.raises(ConfigError, match="check DEEPEN_CATALOG"):
        load_families()
    monkeypatch.undo()
    load_families.cache_clear()
