"""Small random networks, of which a whole-model measurement shows what large ones hide.

Large networks (:mod:`deepen.kernels.building.random_networks`) say what a kernel costs beside other large ones. What a
run costs by itself, what every executed node costs however little it computes, and what weights cost that stay in a
cache from one run to the next, is less than the noise of theirs. So there are networks made of that: chains of nodes on
a few elements (``chain``), and dense, attention and convolution networks whose weights fit a cache (``autoencoder``,
``encoder``, ``spotter``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from deepen.errors import ConfigError
from deepen.kernels.building.network_builder import NetworkBuilder
from deepen.kernels.building.random_networks import ComposedNetwork, list_kernel_keys

__all__ = ["SMALL_STYLES", "compose_small_network", "get_small_network_name"]

_MAX_ATTEMPTS = 20
_MOST_NODES = 800
_FEW = (1, 2, 4, 8, 16, 32)
"""Elements of a tensor that costs next to nothing to compute."""


class _SizeDraw:
    """Sizes of one small network."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def between(self, low: float, high: float) -> int:
        """Log-uniform integer."""
        return round(float(np.exp(self.rng.uniform(np.log(low), np.log(high)))))

    def width(self, low: float, high: float, multiple: int = 8) -> int:
        """Log-uniform multiple of a number."""
        return max(1, round(self.between(low, high) / multiple)) * multiple

    def pick(self, options: tuple[int, ...]) -> int:
        """Uniform choice."""
        return int(options[int(self.rng.integers(len(options)))])


def _add_tiny_node(net: NetworkBuilder, draw: _SizeDraw, x: str) -> str:
    """One node on a few elements, of the kinds that exporters write by the hundred around shapes and indices."""
    rows, columns = net.shapes[x]
    kind = int(draw.rng.integers(10))
    if kind < 4:
        op = ("Add", "Mul", "Sub", "Div")[kind]
        return net.binary(op, x, net.constant(np.float32(draw.rng.uniform(1.1, 2.0))))
    if kind == 4:
        return net.reshape(x, columns, rows)
    if kind == 5:
        return net.transpose(x, 1, 0) if min(rows, columns) > 1 else net.act(x, "tanh")
    if kind == 6:
        order = net.constant(draw.rng.permutation(rows).astype(np.int64))
        return net.node("Gather", [x, order], [(rows, columns)], axis=0)[0]
    if kind == 7:
        return net.act(x, ("relu", "sigmoid", "tanh")[int(draw.rng.integers(3))])
    if kind == 8:
        total = net.node("ReduceSum", [x, net.constant(np.array([1], np.int64))], [(rows, 1)], keepdims=1)[0]
        return net.binary("Add", x, total)
    return net.softmax(x) if columns > 1 else net.act(x, "sigmoid")


def build_node_chain(net: NetworkBuilder, draw: _SizeDraw) -> str:
    """Between one and some hundred nodes that hardly compute anything."""
    x = net.input(draw.pick(_FEW), draw.pick(_FEW))
    for _ in range(draw.between(1, _MOST_NODES)):
        x = _add_tiny_node(net, draw, x)
    return x


def build_autoencoder(net: NetworkBuilder, draw: _SizeDraw) -> str:
    """Dense layers that narrow and widen again (Hinton and Salakhutdinov, 2006); weights of 10 kB to 16 MB."""
    act = ("relu", "tanh", "sigmoid")[int(draw.rng.integers(3))]
    wide = draw.width(24, 1200)
    x = net.input(draw.pick((1, 1, 1, 4, 16, 64)), wide)
    widths = [max(8, wide // 2**step) for step in range(1, draw.between(2, 5))]
    for units in (*widths, *widths[-2::-1]):
        x = net.gemm(x, units, act)
    return net.gemm(x, wide)


def build_encoder(net: NetworkBuilder, draw: _SizeDraw) -> str:
    """Small transformer encoder on tokens (Vaswani et al., 2017), as sentence encoders have it."""
    heads, tokens = draw.pick((2, 4, 8)), draw.between(8, 128)
    width = heads * draw.width(8, 48)
    x = net.input(1, tokens, width)
    for _ in range(draw.between(1, 4)):
        q, k, v = (net.reshape(net.linear(x, width), 1, tokens, heads, width // heads) for _ in range(3))
        q, k, v = net.transpose(q, 0, 2, 1, 3), net.transpose(k, 0, 2, 3, 1), net.transpose(v, 0, 2, 1, 3)
        scores = net.binary("Div", net.matmul(q, k), net.constant(np.float32((width // heads) ** 0.5)))
        y = net.transpose(net.matmul(net.softmax(scores), v), 0, 2, 1, 3)
        x = net.layernorm(net.add(x, net.linear(net.reshape(y, 1, tokens, width), width)))
        x = net.layernorm(net.add(x, net.linear(net.linear(x, 4 * width, "gelu"), width)))
    return x


def build_keyword_spotter(net: NetworkBuilder, draw: _SizeDraw) -> str:
    """Small separable network on a spectrogram (Zhang et al., Hello Edge, 2017): maps that are not square."""
    x = net.input(1, 1, draw.between(20, 100), draw.pick((10, 13, 20, 40)))
    c = draw.width(16, 128)
    x = net.conv(x, c, 3, 2, bn=True, act="relu")
    for _ in range(draw.between(2, 6)):
        x = net.conv(x, c, 3, groups=c, bn=True, act="relu")
        x = net.conv(x, c, 1, bn=True, act="relu")
    return net.softmax(net.gemm(net.global_average_pool(x), draw.between(2, 40)))


SMALL_STYLES: tuple[tuple[str, Callable[[NetworkBuilder, _SizeDraw], str]], ...] = (
    ("chain", build_node_chain),
    ("autoencoder", build_autoencoder),
    ("chain", build_node_chain),
    ("encoder", build_encoder),
    ("chain", build_node_chain),
    ("spotter", build_keyword_spotter),
)
"""Styles in the order they are taken in turn; every other network is a chain."""


def get_small_network_name(index: int) -> str:
    """Name of small network ``index``: styles take turns."""
    return f"{SMALL_STYLES[index % len(SMALL_STYLES)][0]}-small-{index:03d}"


def compose_small_network(index: int, seed: int = 0, exclude: Collection[str] = frozenset()) -> ComposedNetwork:
    """Compose one small network; it depends on its index, the seed and ``exclude`` alone.

    Args:
        index: Number of the network; it decides the style.
        seed: Any non-negative integer.
        exclude: Kernel keys that must not occur.

    Raises:
        ConfigError: If ``exclude`` rules out every draw.
    """
    banned = frozenset(exclude)
    name = get_small_network_name(index)
    build = SMALL_STYLES[index % len(SMALL_STYLES)][1]
    for attempt in range(_MAX_ATTEMPTS):
        draw = [seed, index, attempt, 7]
        net = NetworkBuilder(np.random.default_rng([*draw, 1]))
        model = net.model(name, build(net, _SizeDraw(np.random.default_rng([*draw, 2]))))
        keys = list_kernel_keys(model)
        if keys and not keys & banned:
            return ComposedNetwork(name, model, net.macs, keys)
    raise ConfigError(f"no small network {name} without an excluded kernel in {_MAX_ATTEMPTS} draws; exclude fewer")
