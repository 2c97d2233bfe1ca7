"""Random whole networks of many styles, to learn the difference between a whole model and the sum of its kernels.

Each network is drawn from a style (the published design its docstring names) with random depth, widths, resolution and
details, scaled to a number of multiply-accumulates drawn log-uniformly. Networks that contain a kernel whose exact
configuration must stay unseen are drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepen.errors import ConfigError
from deepen.kernels.building.network_builder import NetworkBuilder

if TYPE_CHECKING:
    import onnx

__all__ = ["STYLES", "ComposedNetwork", "compose_network", "compose_networks", "get_network_name", "list_kernel_keys"]

MIN_MACS, MAX_MACS = 10_000_000, 3_000_000_000
MAX_BYTES = 300 * 2**20
"""Weights plus the largest activations of one network."""

MAX_ATTEMPTS = 40
_TUNING_STEPS = 4


@dataclass(frozen=True, slots=True)
class ComposedNetwork:
    """A random network.

    Attributes:
        name: Style and index, for example ``build_resnet_like-007``.
        model: Runnable ONNX model with random weights; one float32 input.
        macs: Multiply-accumulates of its convolution, matmul and gemm nodes.
        keys: Keys of its kernels, as ONNX Runtime splits it.
    """

    name: str
    model: onnx.ModelProto
    macs: int
    keys: frozenset[str]


class _ArchitectureSampler:
    """Sampler of one network's channels, resolutions and depths."""

    def __init__(self, rng: np.random.Generator, width: float) -> None:
        self.rng = rng
        self.width = width

    def channels(self, base: float, multiple: int = 1) -> int:
        """Width near ``base`` times the network's width, mostly a multiple of 8, always one of ``multiple``."""
        step = int(self.rng.choice([32, 16, 8, 8, 4, 2, 1], p=[0.15, 0.25, 0.25, 0.15, 0.1, 0.05, 0.05]))
        step = step * multiple if step % multiple else step
        wanted = base * self.width * float(np.exp(self.rng.normal(0, 0.15)))
        return max(step, multiple * 4, round(wanted / step) * step)

    def integer(self, low: int, high: int) -> int:
        """Uniform integer in [low, high]."""
        return int(self.rng.integers(low, high + 1))

    def one_of(self, *options: str) -> str:
        """Uniform choice."""
        return options[self.integer(0, len(options) - 1)]

    def flip(self, probability: float = 0.5) -> bool:
        """Biased coin."""
        return bool(self.rng.random() < probability)

    def image(self, net: NetworkBuilder) -> str:
        """Declare an image input of 96 to 256 pixels a side."""
        side = self.integer(6, 16) * 16
        return net.input(1, 3, side + (self.integer(-7, 7) if self.flip(0.3) else 0), side)

    def classes(self) -> int:
        """Number of classes."""
        return int(np.exp(self.rng.uniform(np.log(5), np.log(3000))))


def _add_classifier_head(net: NetworkBuilder, draw: _ArchitectureSampler, x: str, hidden: tuple[int, ...] = ()) -> str:
    """Fully connected layers and, often, a softmax."""
    for units in hidden:
        x = net.gemm(x, units, "relu")
    x = net.gemm(x, draw.classes())
    return net.softmax(x) if draw.flip(0.7) else x


def build_vgg_like(net: NetworkBuilder, draw: _ArchitectureSampler) -> str:
    """VGG-like (Simonyan and Zisserman, 2015): 3x3 convolutions, 2x2 max pools, large fully connected layers."""
    x, bn = draw.image(net), draw.flip()
    stages = draw.integer(4, 5)
    for stage in range(stages):
        c = draw.channels(48 * 2 ** min(stage, 3))
        for _ in range(draw.integer(1, 3)):
            x = net.conv(x, c, bn=bn, act="relu")
        x = net.pool(x, "max", 2, 2)
    if draw.flip(0.3):
        return _add_classifier_head(net, draw, net.global_average_pool(x))
    return _add_classifier_head(
        net, draw, net.flatten(x), tuple(draw.channels(1500) for _ in range(draw.integer(1, 2)))
    )


def build_alexnet_like(net: NetworkBuilder, draw: _ArchitectureSampler) -> str:
    """AlexNet-like (Krizhevsky et al., 2012): large first kernels, LRN, often groups, large dense layers."""
    x, groups = draw.image(net), 2 if draw.flip() else 1
    kernel = 2 * draw.integer(3, 5) + 1
    x = net.conv(x, draw.channels(80), kernel, draw.integer(2, 4), pad=draw.integer(0, 2), act="relu")
    lrn_first = draw.flip()
    x = net.lrn(x) if lrn_first else x
    x = net.pool(x, "max", 3, 2, ceil=draw.flip(0.3))
    x = x if lrn_first else net.lrn(x)
    x = net.conv(x, draw.channels(200, 4), 5, draw.integer(1, 2), pad=draw.integer(0, 2), act="relu")
    x = net.pool(net.lrn(x, 2 * draw.integer(1, 3) + 1), "max", 3, 2)
    for _ in range(draw.integer(2, 4)):
        c_in, wide = net.shapes[x][1], draw.channels(320, 4)
        x = net.conv(x, wide, groups=groups if c_in % groups == 0 else 1, act="relu")
    if min(net.shapes[x][2:]) > 4:
        x = net.pool(x, "max", 3, 2)
    return _add_classifier_head(net, draw, net.flatten(x), (draw.channels(2500), draw.channels(2500)))


def _add_stem(net: NetworkBuilder, draw: _ArchitectureSampler, base: float) -> str:
    """First layers of residual-like networks: stride-2 convolution, then a max pool or a second stride."""
    x = draw.image(net)
    kernel = 2 * draw.integer(1, 3) + 1
    x = net.conv(x, draw.channels(base), kernel, 2, bn=True, act="relu")
    return (
        net.pool(x, "max", 3, 2, 1) if draw.flip(0.7) else net.conv(x, draw.channels(base), 3, 2, bn=True, act="relu")
    )


def build_resnet_like(net: NetworkBuilder, draw: _ArchitectureSampler) -> str:
    """ResNet-like (He et al., 2016): basic or bottleneck blocks, sometimes grouped (ResNeXt) or squeeze-and-excited."""
    x = _add_stem(net, draw, 56)
    bottleneck, excite = draw.flip(), draw.flip(0.2)
    groups = draw.integer(2, 32) if bottleneck and draw.flip(0.3) else 1
    act = draw.one_of("relu", "relu", "relu", "leakyrelu")
    for stage in range(draw.integer(3, 4)):
        mid = draw.channels(48 * 2**stage, groups)
        out = draw.channels(192 * 2**stage) if bottleneck else mid
        for block in range(draw.integer(1, 4)):
            stride = 2 if stage and not block else 1
            if bottleneck:
                y = net.conv(x, mid, 1, bn=True, act=act)
                y = net.conv(net.conv(y, mid, 3, stride, groups=groups, bn=True, act=act), out, 1, bn=True)
            else:
                y = net.conv(net.conv(x, mid, 3, stride, bn=True, act=act), out, 3, bn=True)
            y = net.squeeze_excite(y, 16) if excite else y
            if net.shapes[x] != net.shapes[y]:
                x = net.conv(x, out, 1, stride, bn=True)
            x = net.add(y, x, act)
    return _add_classifier_head(net, draw, net.global_average_pool(x))


def build_densenet_like(net: NetworkBuilder, draw: _ArchitectureSampler) -> str:
    """DenseNet-like (Huang et al., 2017): pre-activation, concatenation of every layer, average-pool transitions."""
    x, scaled = _add_stem(net, draw, 48), draw.flip(0.6)
    growth = draw.channels(28)

    def pre(y: str) -> str:
        y = net.bn(y)
        return net.act(net.scale(y) if scaled else y, "relu")

    stages = draw.integer(3, 4)
    for stage in range(stages):
        for _ in range(draw.integer(3, 8)):
            y = net.conv(pre(x), 4 * growth, 1, bias=not scaled)
            x = net.concat([x, net.conv(pre(y), growth, bias=not scaled)])
        if stage < stages - 1:
            x = net.pool(net.conv(pre(x), max(8, net.shapes[x][1] // 2), 1, bias=not scaled), "avg", 2, 2)
    return _add_classifier_head(net, draw, net.global_average_pool(pre(x)))


def build_googlenet_like(net: NetworkBuilder, draw: _ArchitectureSampler) -> str:
    """GoogLeNet-like (Szegedy et al., 2015): four parallel branches and a concatenation, with LRN or batch norm."""
    x, bn = draw.image(net), draw.flip()
    lrn = not bn and draw.flip(0.7)
    x = net.conv(x, draw.channels(56), 7, 2, bn=bn, act="relu")
    x = net.pool(x, "max", 3, 2, ceil=draw.flip())
    x = net.lrn(x) if lrn else x
    x = net.conv(net.conv(x, draw.channels(56), 1, bn=bn, act="relu"), draw.channels(160), bn=bn, act="relu")
    x = net.lrn(x) if lrn else x
    five, pool = draw.flip(0.6), draw.one_of("max", "avg")
    for stage in range(3):
        x = net.pool(x, "max", 3, 2, ceil=min(net.shapes[x][2:]) < 4 or draw.flip(0.3))
        for _ in range(draw.integer(1, 3)):
            grow = 1 + 0.6 * stage
            branches = [net.conv(x, draw.channels(80 * grow), 1, bn=bn, act="relu")]
            y = net.conv(x, draw.channels(70 * grow), 1, bn=bn, act="relu")
            branches.append(net.conv(y, draw.channels(130 * grow), bn=bn, act="relu"))
            y = net.conv(x, draw.channels(20 * grow), 1, bn=bn, act="relu")
            y = net.conv(y, draw.channels(48 * grow), 5 if five else 3, bn=bn, act="relu")
            branches.append(y if five else net.conv(y, draw.channels(48 * grow), bn=bn, act="relu"))
            y = net.pool(x, pool, 3, 1, 1)
            branches.append(net.conv(y, draw.channels(40 * grow), 1, bn=bn, act="relu"))
            x = net.concat(branches)
    return _add_classifier_head(net, draw, net.global_average_pool(x))


def build_mobilenet_v1_like(net: NetworkBuilder, draw: _ArchitectureSampler) -> str:
    """MobileNet-v1-like (Howard et al., 2017): depthwise 3x3 and pointwise 1x1 convolutions in turn."""
    act = draw.one_of("relu", "relu6", "relu6", "hswish")
    x = net.conv(draw.image(net), draw.channels(32), 3, 2, bn=True, act=act)
    for stage in range(5):
        for block in range(draw.integer(1, 3)):
            kernel, stride = (5 if draw.flip(0.2) else 3), (2 if stage and not block else 1)
            c = net.shapes[x][1]
            x = net.conv(x, c, kernel, stride, groups=c, bn=True, act=act)
            x = net.conv(x, draw.channels(56 * 2**stage), 1, bn=True, act=act)
    return _add_classifier_head(net, draw, net.global_average_pool(x))


def build_mobilenet_v2_like(net: NetworkBuilder, draw: _ArchitectureSampler) -> str:
    """MobileNet-v2/v3- and EfficientNet-like (Sandler et al., 2018): expand, depthwise, project, add."""
    act, excite = draw.one_of("relu6", "hswish", "silu"), draw.flip()
    x = net.conv(draw.image(net), draw.channels(28), 3, 2, bn=True, act=act)
    for stage in range(5):
        out = draw.channels(20 * 1.8**stage)
        for block in range(draw.integer(1, 3)):
            kernel, stride = (5 if draw.flip(0.3) else 3), (2 if stage and not block else 1)
            c_in = net.shapes[x][1]
            mid = c_in * draw.integer(3, 6)
            y = net.conv(x, mid, 1, bn=True, act=act)
            y = net.conv(y, mid, kernel, stride, groups=mid, bn=True, act=act)
            y = net.squeeze_excite(y, 4, "hsigmoid" if act == "hswish" else "sigmoid") if excite else y
            y = net.conv(y, out, 1, bn=True)
            x = net.add(x, y) if net.shapes[x] == net.shapes[y] else y
    return _add_classifier_head(
        net, draw, net.global_average_pool(net.conv(x, draw.channels(600), 1, bn=True, act=act))
    )


def build_shufflenet_like(net: NetworkBuilder, draw: _ArchitectureSampler) -> str:
    """ShuffleNet-like (Zhang et al., 2018): grouped 1x1 convolutions, channel shuffle, depthwise, add or concat."""
    groups, width = draw.integer(2, 8), 0
    x = net.conv(draw.image(net), 24, 3, 2, bn=True, act="relu")
    x = net.pool(x, "max", 3, 2, 1)
    for stage in range(3):
        c_in = net.shapes[x][1]
        width = draw.channels(200 * 2**stage, 4 * groups) if not stage else 2 * width
        for block in range(draw.integer(3, 6)):
            down, c = not block, net.shapes[x][1]
            mid = width // 4 // groups * groups
            y = net.conv(x, mid, 1, groups=groups if c % groups == 0 else 1, bn=True, act="relu")
            y = net.conv(net.shuffle(y, groups), mid, 3, 2 if down else 1, groups=mid, bn=True)
            own = max(groups, (width - c_in) // groups * groups) if down else c
            y = net.conv(y, own, 1, groups=groups if own % groups == 0 else 1, bn=True)
            x = net.act(net.concat([net.pool(x, "avg", 3, 2, 1), y]) if down else net.add(x, y), "relu")
        width = net.shapes[x][1] // (4 * groups) * 4 * groups
    return _add_classifier_head(net, draw, net.global_average_pool(x))


def build_squeezenet_like(net: NetworkBuilder, draw: _ArchitectureSampler) -> str:
    """SqueezeNet-like (Iandola et al., 2016): squeeze, two expanding convolutions, concat; convolutional head."""
    x = net.conv(draw.image(net), draw.channels(80), 2 * draw.integer(1, 3) + 1, 2, pad=draw.integer(0, 1), act="relu")
    for stage in range(3):
        x = net.pool(x, "max", 3, 2, ceil=draw.flip(0.3))
        for _ in range(draw.integer(1, 4)):
            y = net.conv(x, draw.channels(24 * (stage + 1)), 1, act="relu")
            wide = draw.channels(90 * (stage + 1))
            x = net.concat([net.conv(y, wide, 1, act="relu"), net.conv(y, wide, 3, act="relu")])
    x = net.global_average_pool(net.conv(x, draw.classes(), 1, act="relu"), keep=True)
    return net.softmax(net.flatten(x))


def build_vision_transformer_like(net: NetworkBuilder, draw: _ArchitectureSampler) -> str:
    """Small vision transformer (Dosovitskiy et al., 2021): patches, pre-norm attention and GELU blocks."""
    heads, patch = draw.integer(2, 8), 16
    width = heads * draw.channels(36)
    x = net.conv(draw.image(net), width, patch, patch, pad=0)
    _, _, h, w = net.shapes[x]
    tokens = h * w
    x = net.transpose(net.reshape(x, 1, width, tokens), 0, 2, 1)
    x = net.binary("Add", x, net.weight((1, tokens, width)))
    for _ in range(draw.integer(2, 6)):
        y = net.layernorm(x)
        q, k, v = (net.reshape(net.linear(y, width), 1, tokens, heads, width // heads) for _ in range(3))
        q, k, v = net.transpose(q, 0, 2, 1, 3), net.transpose(k, 0, 2, 3, 1), net.transpose(v, 0, 2, 1, 3)
        scores = net.binary("Mul", net.matmul(q, k), net.constant(np.float32((width // heads) ** -0.5)))
        y = net.transpose(net.matmul(net.softmax(scores), v), 0, 2, 1, 3)
        x = net.add(x, net.linear(net.reshape(y, 1, tokens, width), width))
        x = net.add(x, net.linear(net.linear(net.layernorm(x), width * draw.integer(2, 4), "gelu"), width))
    x = net.transpose(net.layernorm(x), 0, 2, 1)
    return _add_classifier_head(net, draw, net.global_average_pool(x))


def build_perceptron(net: NetworkBuilder, draw: _ArchitectureSampler) -> str:
    """Multi-layer perceptron."""
    act = draw.one_of("relu", "relu", "tanh", "sigmoid", "silu")
    x = net.input(draw.integer(1, 4), draw.channels(1000))
    for _ in range(draw.integer(3, 7)):
        x = net.gemm(x, draw.channels(1500), act)
    return _add_classifier_head(net, draw, x)


STYLES: dict[str, tuple[Callable[[NetworkBuilder, _ArchitectureSampler], str], float, float]] = {
    "plain": (build_vgg_like, 2e8, MAX_MACS), "residual": (build_resnet_like, 1e8, MAX_MACS),
    "inception": (build_googlenet_like, 1e8, 2.5e9),
    "separable": (build_mobilenet_v1_like, 2e7, 1e9), "dense": (build_densenet_like, 2e8, MAX_MACS),
    "classic": (build_alexnet_like, 1e8, 2e9),
    "shuffle": (build_shufflenet_like, 2e7, 7e8), "inverted": (build_mobilenet_v2_like, 2e7, 1e9),
    "fire": (build_squeezenet_like, 8e7, 1.5e9),
    "transformer": (build_vision_transformer_like, 5e7, 2.5e9), "mlp": (build_perceptron, MIN_MACS, 5e7),
}  # fmt: skip
"""Styles by name, in the order they are taken in turn, with the multiply-accumulates networks of the style have."""


def _tune_width(style: str, seed: list[int]) -> float | None:
    """Find the scale of the widths that gives one draw of a style a random amount of work.

    Returns:
        The scale, or ``None`` if the network exceeds a limit or its feature maps vanish.
    """
    _, low, high = STYLES[style]
    target = float(np.exp(np.random.default_rng(seed).uniform(np.log(low), np.log(high))))
    width = 1.0
    for step in range(_TUNING_STEPS):
        net = _draw_network(style, seed, width, dry=True)[0]
        if MIN_MACS <= net.macs <= MAX_MACS and 0.5 < net.macs / target < 2:
            break
        if step < _TUNING_STEPS - 1:
            width = float(np.clip(width * (target / net.macs) ** 0.5, 0.1, 8))
    fits = MIN_MACS <= net.macs <= MAX_MACS and net.weight_bytes + 3 * net.peak_bytes <= MAX_BYTES
    pooled_away = min(min(shape, default=1) for shape in net.shapes.values()) < 1
    return width if fits and not pooled_away else None


def _draw_network(style: str, seed: list[int], width: float, *, dry: bool = False) -> tuple[NetworkBuilder, str]:
    """Draw one network of a style; returns it and the name of its output."""
    net = NetworkBuilder(np.random.default_rng([*seed, 1]), dry=dry)
    return net, STYLES[style][0](net, _ArchitectureSampler(np.random.default_rng([*seed, 2]), width))


def list_kernel_keys(model: onnx.ModelProto) -> frozenset[str]:
    """List the kernel keys of a model as ONNX Runtime splits it."""
    from deepen.graph import load_graph_from_proto
    from deepen.kernels.splitting.split import split_graph

    return frozenset(kernel.key for kernel in split_graph(load_graph_from_proto(model)).kernels)


def get_network_name(index: int) -> str:
    """Name of network ``index``: styles take turns."""
    return f"{list(STYLES)[index % len(STYLES)]}-{index:03d}"


def compose_network(index: int, seed: int = 0, exclude: Collection[str] = frozenset()) -> ComposedNetwork:
    """Compose one network; it depends on its index, the seed and ``exclude`` alone.

    Args:
        index: Number of the network; it decides the style.
        seed: Any non-negative integer.
        exclude: Kernel keys that must not occur.

    Returns:
        A network of 10 million to 3 billion multiply-accumulates at 90 to 263 pixels, up to 300 MB of weights.

    Raises:
        ConfigError: If ``exclude`` rules out every draw.
    """
    banned = frozenset(exclude)
    name = get_network_name(index)
    style = name.rpartition("-")[0]
    for attempt in range(MAX_ATTEMPTS):
        draw = [seed, index, attempt]
        width = _tune_width(style, draw)
        if width is None:
            continue
        net, output = _draw_network(style, draw, width)
        model = net.model(name, output)
        keys = list_kernel_keys(model)
        if not keys & banned:
            return ComposedNetwork(name, model, net.macs, keys)
    raise ConfigError(f"no {style} network without an excluded kernel in {MAX_ATTEMPTS} draws; exclude fewer")


def compose_networks(count: int, seed: int = 0, exclude: Collection[str] = frozenset()) -> list[ComposedNetwork]:
    """Compose networks 0 to ``count`` - 1 (each may hold 300 MB of weights; see :func:`compose_network`)."""
    return [compose_network(index, seed, exclude) for index in range(count)]
