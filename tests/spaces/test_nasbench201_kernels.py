"""Counting the kernels of NAS-Bench-201 networks equals splitting each; configurations equal built kernels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from deepen.errors import ConfigError
from deepen.graph import load_graph_from_proto
from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.building.single_kernel_model import build_kernel_model
from deepen.kernels.features import compute_features
from deepen.kernels.sampling.real_configurations import list_families_with_configurations, load_real_configurations
from deepen.kernels.splitting.split import split_graph
from deepen.spaces import nasbench201_kernels
from deepen.spaces.nasbench201_kernels import count_kernels
from deepen.spaces.nasbench201_networks import SIZE, build_graph, get_cell_at_index, iter_cells

CELLS = [
    "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
    "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|",
    "|avg_pool_3x3~0|+|avg_pool_3x3~0|avg_pool_3x3~1|+|avg_pool_3x3~0|avg_pool_3x3~1|avg_pool_3x3~2|",
    "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_1x1~2|",
    "|none~0|+|nor_conv_3x3~0|none~1|+|none~0|nor_conv_3x3~1|none~2|",
    *(get_cell_at_index(int(i)) for i in np.random.default_rng(5).integers(0, SIZE, 12)),
]


@pytest.mark.parametrize("runtime", ["onnxruntime", "tflite-cpu"])
def test_counting_equals_splitting(runtime: str) -> None:
    """For every cell of the sample: the same kernels, as often, with the same features."""
    kernels, counts = count_kernels(CELLS, runtime, classes=100)
    assert nasbench201_kernels._counting_matches_splitting(runtime, 100, 32), (
        "the shortcut does not fit this runtime: the test shows nothing"
    )
    assert len({kernel.key for kernel in kernels}) == len(kernels)
    for cell, line in zip(CELLS, counts, strict=True):
        real = split_graph(build_graph(cell, 100), runtime).kernels
        counted = {kernel.key: int(times) for kernel, times in zip(kernels, line, strict=True) if times}
        assert counted == Counter(kernel.key for kernel in real), cell
        by_key = {kernel.key: kernel for kernel in kernels}
        for kernel in real:
            assert compute_features(by_key[kernel.key]) == compute_features(kernel), kernel.params


def test_a_runtime_that_behaves_otherwise_is_split_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the probes do not agree, the shortcut is not taken, and the answer is the same."""
    expected_kernels, expected = count_kernels(CELLS[3:5], "tflite-cpu")
    wrong = nasbench201_kernels._RuntimeFusion(False, frozenset())
    monkeypatch.setitem(nasbench201_kernels._RUNTIME_FUSIONS, "tflite-cpu", wrong)
    nasbench201_kernels._counting_matches_splitting.cache_clear()
    try:
        assert not nasbench201_kernels._counting_matches_splitting("tflite-cpu", 10, 32)
        kernels, counts = count_kernels(CELLS[3:5], "tflite-cpu")
    finally:
        nasbench201_kernels._counting_matches_splitting.cache_clear()

    def named(found: tuple[object, ...], matrix: np.ndarray) -> list[dict[str, int]]:
        return [{k.key: int(n) for k, n in zip(found, line, strict=True) if n} for line in matrix]  # type: ignore[attr-defined]

    assert named(kernels, counts) == named(expected_kernels, expected)


def test_the_whole_space_is_counted_at_once() -> None:
    """All networks: no negative count, and rows as for each network alone."""
    cells = list(iter_cells())
    kernels, counts = count_kernels(cells, "tflite-cpu", classes=10)
    assert counts.shape == (SIZE, len(kernels))
    assert counts.min() == 0
    alone_kernels, alone = count_kernels([cells[4321]], "tflite-cpu", classes=10)
    expected = {kernel.key: int(n) for kernel, n in zip(alone_kernels, alone[0], strict=True)}
    assert {kernel.key: int(n) for kernel, n in zip(kernels, counts[4321], strict=True) if n} == expected
    assert count_kernels([])[1].shape == (0, 0)


@pytest.mark.parametrize("family", list_families_with_configurations())
def test_a_configured_kernel_has_the_features_of_the_built_one(family: str) -> None:
    """Configuring by parameters alone gives what describing the built model gives."""
    rows = load_real_configurations(family)
    for row in (rows[0], rows[len(rows) // 2], rows[-1]):
        made = make_kernel_from_params(family, row.params)
        graph = load_graph_from_proto(build_kernel_model(family, row.params, weights=False))
        from deepen.kernels.describe import describe_kernel

        built = describe_kernel([n for n in graph.nodes if n.op_type != "Constant"], graph)
        if built.family != family:
            continue  # one of the few that only the runtime's own operators identify
        assert compute_features(made) == compute_features(built), row.params


def test_a_wrong_configuration_names_its_parameter() -> None:
    """Unknown families and parameters that do not fit are refused."""
    with pytest.raises(ConfigError, match="no-such"):
        make_kernel_from_params("no-such", {})
    with pytest.raises(ConfigError, match="c_in"):
        make_kernel_from_params("conv-bn-relu", {"c_out": 4, "spatial": [8, 8], "kernel": [1, 1], "stride": [1, 1]})
