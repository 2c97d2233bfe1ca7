"""Sources of tools/collect_priors: names in timm and torchvision, and a few networks in plain torch.

A source is written ``library:model@size``; ``plain:`` sources are the functions below. None of the nine networks that
ship inside the onnx wheel is among them (they are what predictions are tested on), although networks of the same
lineage share many of their kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TIMM = """
resnet18@224,160,288 resnet34@256 resnet50@224,176,288 resnet101@224 resnet26d@224 resnext50_32x4d@224
wide_resnet50_2@224 seresnet50@224 resnetv2_50@224 resnetv2_50x1_bit@224 resnest14d@224 gcresnet33ts@256
skresnet18@224 res2net50_26w_4s@224 legacy_seresnet18@224 vgg11@224 vgg13_bn@224 vgg16@224
densenet161@224 densenet169@224 densenet121@192,256 densenet201@224
inception_v3@299,224 inception_v4@299 inception_resnet_v2@299,224 xception41@299 legacy_xception@224
mobilenetv1_100@224,160 mobilenetv1_125@224 mobilenetv2_100@224 mobilenetv2_050@192 mobilenetv2_140@256
mobilenetv3_small_100@224 mobilenetv3_large_100@224,320 mobilenetv4_conv_small@224 mobilenetv4_conv_medium@256
efficientnet_b0@224 efficientnet_b2@256 tf_efficientnetv2_s@300 tf_efficientnet_lite0@224 mixnet_s@224 fbnetc_100@224
spnasnet_100@224 mnasnet_100@224 semnasnet_100@224 hardcorenas_a@224 lcnet_050@224 tinynet_a@192
rexnet_100@224 regnetx_008@224 regnety_008@224 regnetx_032@224 regnety_032@288
convnext_tiny@224 convnext_nano@224 convnextv2_atto@224 inception_next_tiny@224
ghostnet_100@224 ghostnetv2_100@224 repghostnet_100@224
hrnet_w18_small@224 dla34@224 dla46_c@224 selecsls42b@224 cspresnet50@256 cspdarknet53@256 darknet53@256
cs3darknet_s@256 dpn68@224 repvgg_a0@224 mobileone_s0@224 ese_vovnet19b_dw@224 ese_vovnet39b@224 hgnet_tiny@224
nf_regnet_b0@192 nfnet_l0@224 starnet_s1@224 convmixer_768_32@224 pnasnet5large@224 nasnetalarge@224
edgenext_xx_small@256 fastvit_t8@256 mobilevit_s@256 mobilevitv2_050@256 efficientformer_l1@224 levit_128@224
poolformer_s12@224 pvt_v2_b0@224 coat_lite_tiny@224 crossvit_tiny_240@240 cait_xxs24_224@224 efficientvit_b0@224
efficientvit_m0@224 shvit_s1@224 deit_tiny_patch16_224@224 vit_tiny_patch16_224@224,384 vit_small_patch16_224@224
vit_base_patch16_224@224 vit_base_patch32_224@224 vit_large_patch16_224@224 swin_tiny_patch4_window7_224@224
swin_base_patch4_window7_224@224 mixer_s16_224@224 mixer_b16_224@224 resmlp_12_224@224 gmlp_s16_224@224
eva02_tiny_patch14_224@224 twins_pcpvt_small@224 xcit_nano_12_p16_224@224 visformer_tiny@224 tnt_s_patch16_224@224
focalnet_tiny_srf@224 davit_tiny@224 botnet26t_256@256 sequencer2d_s@224 pit_ti_224@224
nest_tiny@224 maxvit_rmlp_nano_rw_256@256
"""

TORCHVISION = """
alexnet@224 vgg11@224 squeezenet1_0@224,256 squeezenet1_1@192,256 shufflenet_v2_x0_5@224 shufflenet_v2_x1_0@224
shufflenet_v2_x2_0@192 googlenet@192,224 mnasnet0_5@224 mnasnet1_3@224
segmentation.fcn_resnet50@256 segmentation.deeplabv3_mobilenet_v3_large@224 segmentation.lraspp_mobilenet_v3_large@320
"""


QUANTISED = """
qoperator:timm/resnet18@160 qoperator:timm/mobilenetv2_100@160 qdq:timm/mobilenetv2_050@192 qdq:timm/repvgg_a0@160
dynamic:plain/bert_mini@128 dynamic:timm/vit_tiny_patch16_224@224 dynamic:plain/mlp@784 dynamic:timm/mobilenetv1_100@160
"""
"""Exports quantised by ONNX Runtime's own tool: statically (random calibration) or dynamically."""

BY_HAND: list[tuple[str, str, dict[str, Any]]] = [
    # torch writes no LRN: first layers of published networks that have it, size 5 unless noted
    *[("lrn", "CNN-F (Chatfield 2014)", {"shape": [1, c, s, s], "size": 5}) for c, s in ((64, 54), (256, 27))],
    *[("lrn", "CNN-M (Chatfield 2014)", {"shape": [1, c, s, s], "size": 5}) for c, s in ((96, 109), (256, 26))],
    *[("lrn", "CaffeNet (Jia 2014)", {"shape": [1, c, s, s], "size": 5}) for c, s in ((96, 27), (256, 13))],
    *[("lrn", "age and gender (Levi 2015)", {"shape": [1, c, s, s], "size": 5}) for c, s in ((96, 28), (256, 14))],
    *[("lrn", "cifar10_full (Caffe)", {"shape": [1, 32, s, s], "size": 3}) for s in (16, 8)],
    *[("lrn", "GoogLeNet at 256 pixels", {"shape": [1, c, 64, 64], "size": 5}) for c in (64, 192)],
    # classifiers end in a softmax that torch users leave out
    *[("softmax", "classifier heads", {"shape": [1, n], "axis": 1}) for n in (2, 10, 100, 365, 1000, 21841)],
    *[("softmax", "convolutional classifier heads", {"shape": [1, n, 1, 1], "axis": 1}) for n in (10, 1000)],
    # decoders turn queries and keys; exports of decoders are not among the sources
    *[
        ("rotary", source, {"heads": heads, "tokens": tokens, "head_dim": head_dim, "turned": turned})
        for source, counts, head_dim, turned, lengths in (
            ("Llama-3.2-1B (2024)", (32, 8), 64, 64, (256,)),
            ("Phi-2 (2023)", (32,), 80, 32, (1, 64)),
            ("Qwen2.5-0.5B (2024)", (14, 2), 64, 64, (1, 128)),
            ("TinyLlama (Zhang 2024)", (32, 4), 64, 64, (1, 128)),
        )
        for heads in counts
        for tokens in lengths
    ],
    # Caffe and Caffe2 write a classifier's last pooling as a window as large as the map
    *[
        ("avgpool", source, {"c": c, "spatial": [s, s], "kernel": [s, s], "stride": [1, 1], "dilation": [1, 1],
                             "pads": [0, 0, 0, 0]})
        for source, c, s in (
            ("ResNet-18 (He 2016)", 512, 7), ("ResNet-50 at 256 pixels (He 2016)", 2048, 8),
            ("GoogLeNet at 256 pixels", 1024, 8), ("MobileNet v1 (Howard 2017)", 1024, 7),
            ("ShuffleNetV1 g=3 (Zhang 2018)", 960, 7), ("ShuffleNetV1 g=8 (Zhang 2018)", 1536, 7),
            ("SqueezeNet at 256 pixels (Iandola 2016)", 1000, 15), ("Inception v3 (Szegedy 2016)", 2048, 8),
        )
    ],
    # no export fuses these: attention as one operator, normalisation by root mean square at usual widths
    *[
        ("attention", source, {
            "op": op, "heads": h, "kv_heads": g, "q_len": q, "kv_len": k, "head_dim": d, "v_head_dim": d,
            "hidden_in": h * d if op == "ProjectedAttention" else 0, "mask": mask, "causal": causal,
        })
        for source, op, h, g, q, k, d, mask, causal in (
            ("BERT-base (Devlin 2019)", "ProjectedAttention", 12, 12, 128, 128, 64, True, False),
            ("BERT-large (Devlin 2019)", "ProjectedAttention", 16, 16, 384, 384, 64, True, False),
            ("MiniLM-L6 (Wang 2020)", "MultiHeadAttention", 12, 12, 128, 128, 32, True, False),
            ("ViT-B/16 (Dosovitskiy 2021)", "MultiHeadAttention", 12, 12, 197, 197, 64, False, False),
            ("DeiT-tiny (Touvron 2021)", "Attention", 3, 3, 197, 197, 64, False, False),
            ("GPT-2 (Radford 2019)", "Attention", 12, 12, 64, 64, 64, False, True),
            ("Whisper-tiny (Radford 2023)", "Attention", 6, 6, 1500, 1500, 64, False, False),
            ("Whisper-tiny, cross (Radford 2023)", "Attention", 6, 6, 16, 1500, 64, False, False),
            ("TinyLlama (Zhang 2024)", "Attention", 32, 4, 128, 128, 64, False, True),
            ("Qwen2.5-0.5B (2024)", "Attention", 14, 2, 256, 256, 64, False, True),
        )
    ],
    *[
        ("rmsnorm", source, {"shape": [1, tokens, width], "axis": 2})
        for source, width in (
            ("T5-small (Raffel 2020)", 512), ("Qwen2.5-0.5B (2024)", 896), ("TinyLlama (Zhang 2024)", 2048),
            ("LLaMA-7B (Touvron 2023)", 4096),
        )
        for tokens in (1, 32, 256)
    ],
    # blocks that ONNX Runtime executes as their parts: for runtimes split by rules
    *[
        ("se", "SE-ResNet-50 (Hu 2018)", {"c": c, "spatial": [s, s], "mid": c // 16})
        for c, s in ((256, 56), (512, 28), (1024, 14), (2048, 7))
    ],
    *[
        ("se", "MobileNetV3 (Howard 2019)", {"c": c, "spatial": [s, s], "mid": m, "gate": "hardsigmoid"})
        for c, s, m in ((72, 28, 24), (120, 28, 32), (480, 14, 120), (672, 14, 168), (672, 7, 168), (960, 7, 240))
    ],
    *[
        ("se", "EfficientNet-B0 (Tan 2019)", {"c": c, "spatial": [s, s], "mid": m, "activation": "silu"})
        for c, s, m in ((32, 112, 8), (96, 56, 4), (144, 28, 6), (240, 14, 10), (480, 14, 20), (1152, 7, 48))
    ],
    *[
        (family, "ResNet-50 (He 2016)", params)
        for c, s in ((64, 56), (256, 56), (512, 28), (1024, 14), (2048, 7))
        for family, params in (
            ("addrelu", {"in_shapes": [[1, c, s, s]] * 2, "sources": [0, 1]}), ("bnrelu", {"shape": [1, c, s, s]}),
        )
    ],
    *[("bnrelu", "DenseNet-169 (Huang 2017)", {"shape": [1, c, s, s]}) for c, s in ((128, 56), (384, 28), (1280, 7))],
    *[
        ("channelshuffle", "ShuffleNetV2 (Ma 2018)", {"c": c << i, "spatial": [28 >> i] * 2, "groups": 2})
        for c in (48, 116, 176, 244) for i in range(3)
    ],
    *[
        ("channelshuffle", "ShuffleNetV1 (Zhang 2018)", {"c": c << i, "spatial": [28 >> i] * 2, "groups": g})
        for c, g in ((50, 2), (60, 3), (68, 4), (96, 8)) for i in range(3)
    ],
]  # fmt: skip
"""Configurations written by hand from publications: family, publication, parameters that differ from the defaults."""


def sources() -> list[str]:
    """Every source, as ``library:model@size``."""
    found = []
    for library, text in (("timm", TIMM), ("torchvision", TORCHVISION)):
        for entry in text.split():
            model, sizes = entry.split("@")
            found += [f"{library}:{model}@{size}" for size in sizes.split(",")]
    found += QUANTISED.split()
    return found + [f"plain:{name}@{size}" for name, (_, sizes) in PLAIN.items() for size in sizes]


def _classifier(torch: Any, features: Any, hidden: list[int], classes: int, size: int) -> Any:
    """Features, then fully connected layers sized by a dry run at ``size`` x ``size``."""
    nn = torch.nn
    with torch.no_grad():
        width = int(features(torch.zeros(1, 3, size, size)).numel())
    layers: list[Any] = [nn.Flatten()]
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        width = units
    return nn.Sequential(features, *layers, nn.Linear(width, classes))


def chatfield(torch: Any, size: int, kind: str) -> tuple[Any, tuple[Any, ...]]:
    """CNN-F, CNN-M and CNN-S of Chatfield et al. (BMVC 2014) without their LRN (torch exports no LRN)."""
    nn = torch.nn
    first = {
        "f": [nn.Conv2d(3, 64, 11, 4), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 256, 5, 1, 2), nn.ReLU()],
        "m": [nn.Conv2d(3, 96, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(96, 256, 5, 2, 1), nn.ReLU()],
        "s": [nn.Conv2d(3, 96, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 3), nn.Conv2d(96, 256, 5, 1, 1), nn.ReLU()],
    }[kind]
    pool, width = (nn.MaxPool2d(2, 2), 512) if kind != "f" else (nn.MaxPool2d(3, 2), 256)
    body = [nn.Conv2d(256, width, 3, 1, 1), nn.ReLU()]
    for _ in range(2):
        body += [nn.Conv2d(width, width, 3, 1, 1), nn.ReLU()]
    last = nn.MaxPool2d(3, 3 if kind == "s" else 2)
    features = nn.Sequential(*first, pool, *body, last)
    return _classifier(torch, features, [4096, 4096], 1000, size), (torch.zeros(1, 3, size, size),)


def overfeat(torch: Any, size: int) -> tuple[Any, tuple[Any, ...]]:
    """The fast model of OverFeat (Sermanet et al., 2014)."""
    nn = torch.nn
    features = nn.Sequential(
        nn.Conv2d(3, 96, 11, 4), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(96, 256, 5), nn.ReLU(), nn.MaxPool2d(2, 2),
        nn.Conv2d(256, 512, 3, 1, 1), nn.ReLU(), nn.Conv2d(512, 1024, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(1024, 1024, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 2),
    )  # fmt: skip
    return _classifier(torch, features, [3072, 4096], 1000, size), (torch.zeros(1, 3, size, size),)


def network_in_network(torch: Any, size: int) -> tuple[Any, tuple[Any, ...]]:
    """Network in Network, ImageNet version (Lin et al., 2014)."""
    nn = torch.nn

    def block(c_in: int, c_out: int, kernel: int, stride: int, pad: int) -> list[Any]:
        layers = [nn.Conv2d(c_in, c_out, kernel, stride, pad), nn.ReLU()]
        return [*layers, nn.Conv2d(c_out, c_out, 1), nn.ReLU(), nn.Conv2d(c_out, c_out, 1), nn.ReLU()]

    model = nn.Sequential(
        *block(3, 96, 11, 4, 0), nn.MaxPool2d(3, 2), *block(96, 256, 5, 1, 2), nn.MaxPool2d(3, 2),
        *block(256, 384, 3, 1, 1), nn.MaxPool2d(3, 2), *block(384, 1024, 3, 1, 1), nn.AdaptiveAvgPool2d(1),
    )  # fmt: skip
    return model, (torch.zeros(1, 3, size, size),)


def grouped_alexnet(torch: Any, size: int, width: int) -> tuple[Any, tuple[Any, ...]]:
    """AlexNet-like network with convolutions in two groups and other widths."""
    nn = torch.nn
    w = width
    features = nn.Sequential(
        nn.Conv2d(3, 5 * w, 9, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(5 * w, 14 * w, 5, 1, 2, groups=2),
        nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(14 * w, 20 * w, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(20 * w, 20 * w, 3, 1, 1, groups=2), nn.ReLU(),
        nn.Conv2d(20 * w, 14 * w, 3, 1, 1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    return _classifier(torch, features, [192 * w, 128 * w], 1000, size), (torch.zeros(1, 3, size, size),)


def shuffle_v1(torch: Any, size: int, groups: int, width: int) -> tuple[Any, tuple[Any, ...]]:
    """ShuffleNet v1 (Zhang et al., 2018): grouped 1x1 convolutions, channel shuffle, add or concat with a pool."""
    nn = torch.nn

    class Unit(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self, c_in: int, c_out: int, stride: int, first: bool) -> None:
            super().__init__()
            own = c_out - c_in if stride == 2 else c_out
            mid = c_out // 4
            self.stride, self.groups = stride, groups
            self.reduce = nn.Sequential(
                nn.Conv2d(c_in, mid, 1, groups=1 if first else groups, bias=False), nn.BatchNorm2d(mid), nn.ReLU()
            )
            self.rest = nn.Sequential(
                nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False), nn.BatchNorm2d(mid),
                nn.Conv2d(mid, own, 1, groups=groups, bias=False), nn.BatchNorm2d(own),
            )  # fmt: skip
            self.pool = nn.AvgPool2d(3, 2, 1)

        def forward(self, x: Any) -> Any:
            y = self.reduce(x)
            n, c, h, w = y.shape
            y = self.rest(y.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w))
            if self.stride == 2:
                return torch.relu(torch.cat([self.pool(x), y], 1))
            return torch.relu(x + y)

    layers: list[Any] = [nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 24
    for stage, repeats in enumerate((4, 8, 4)):
        for index in range(repeats):
            layers.append(Unit(channels, width << stage, 2 if index == 0 else 1, stage == 0 and index == 0))
            channels = width << stage
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]
    return nn.Sequential(*layers), (torch.zeros(1, 3, size, size),)


def caffe_dense(torch: Any, size: int, growth: int) -> tuple[Any, tuple[Any, ...]]:
    """DenseNet-like network as converted from Caffe: batch norm without scale, then Mul and Add per channel."""
    nn = torch.nn

    class Pre(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(width, affine=False)
            self.scale, self.shift = (nn.Parameter(torch.rand(width, 1, 1) + 0.5) for _ in range(2))

        def forward(self, x: Any) -> Any:
            return torch.relu(self.norm(x) * self.scale + self.shift)

    class Layer(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                Pre(width), nn.Conv2d(width, 4 * growth, 1, bias=False),
                Pre(4 * growth), nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False),
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            return torch.cat([x, self.body(x)], 1)

    width = 2 * growth
    layers: list[Any] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)]
    for stage, depth in enumerate((3, 6, 12, 8)):
        for _ in range(depth):
            layers.append(Layer(width))
            width += growth
        if stage < 3:
            layers += [Pre(width), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2, 2)]
            width //= 2
    return nn.Sequential(*layers, Pre(width), nn.AdaptiveAvgPool2d(1)), (torch.zeros(1, 3, size, size),)


def unet(torch: Any, size: int) -> tuple[Any, tuple[Any, ...]]:
    """Small U-Net (Ronneberger et al., 2015) with two transposed convolutions, a bilinear and a nearest upsampling."""
    nn = torch.nn

    def double(c_in: int, c_out: int) -> Any:
        return nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, 1, 1), nn.BatchNorm2d(c_out), nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, 1, 1), nn.BatchNorm2d(c_out), nn.ReLU(),
        )  # fmt: skip

    class UNet(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            widths = [24, 48, 96, 192, 384]
            self.down = nn.ModuleList([double(a, b) for a, b in zip([3, *widths], widths, strict=False)])
            self.up = nn.ModuleList(
                [
                    nn.ConvTranspose2d(384, 192, 2, 2),
                    nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(192, 96, 1)),
                    nn.ConvTranspose2d(96, 48, 4, 2, 1),
                    nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(48, 24, 1)),
                ]
            )
            self.merge = nn.ModuleList([double(2 * w, w) for w in (192, 96, 48, 24)])
            self.head = nn.Conv2d(24, 2, 1)

        def forward(self, x: Any) -> Any:
            kept = []
            for index, block in enumerate(self.down):
                x = block(x if index == 0 else nn.functional.max_pool2d(x, 2))
                kept.append(x)
            for up, merge, skip in zip(self.up, self.merge, reversed(kept[:-1]), strict=True):
                x = merge(torch.cat([skip, up(x)], 1))
            return torch.sigmoid(self.head(x))

    return UNet(), (torch.zeros(1, 3, size, size),)


def generator(torch: Any, size: int) -> tuple[Any, tuple[Any, ...]]:
    """DCGAN generator (Radford et al., 2016) from a ``size``-element code."""
    nn = torch.nn
    layers: list[Any] = [nn.ConvTranspose2d(size, 512, 4, 1, 0), nn.BatchNorm2d(512), nn.ReLU()]
    for c_in, c_out in ((512, 256), (256, 128), (128, 64)):
        layers += [nn.ConvTranspose2d(c_in, c_out, 4, 2, 1), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1), nn.Tanh()), (torch.zeros(1, size, 1, 1),)


def super_resolution(torch: Any, size: int) -> tuple[Any, tuple[Any, ...]]:
    """ESPCN-like super-resolution: full-resolution convolutions, PReLU, depth to space."""
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 64, 5, 1, 2), nn.PReLU(64), nn.Conv2d(64, 32, 3, 1, 1), nn.PReLU(32), nn.Conv2d(32, 32, 3, 1, 1),
        nn.InstanceNorm2d(32, affine=True), nn.Hardswish(), nn.Conv2d(32, 12, 3, 1, 1), nn.PixelShuffle(2), nn.Tanh(),
    ), (torch.zeros(1, 3, size, size),)  # fmt: skip


def bert(torch: Any, size: int, width: int, heads: int, depth: int) -> tuple[Any, tuple[Any, ...]]:
    """BERT-like encoder (Devlin et al., 2019) on ``size`` tokens: embedding, post-norm blocks, pooler."""
    nn = torch.nn

    class BertBlock(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

        def forward(self, x: Any) -> Any:
            n, t, _ = x.shape
            q, k, v = (f(x).view(n, t, heads, width // heads).transpose(1, 2) for f in (self.q, self.k, self.v))
            scores = torch.softmax(q @ k.transpose(-1, -2) / (width // heads) ** 0.5, -1)
            x = self.norm1(x + self.o((scores @ v).transpose(1, 2).reshape(n, t, width)))
            return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))

    class Encoder(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(8192, width), nn.Embedding(512, width)
            self.norm, self.blocks = nn.LayerNorm(width), nn.ModuleList([BertBlock() for _ in range(depth)])
            self.pool = nn.Linear(width, width)

        def forward(self, ids: Any) -> Any:
            x = self.norm(self.tokens(ids) + self.places.weight[: ids.shape[1]])
            for block in self.blocks:
                x = block(x)
            return torch.tanh(self.pool(x[:, 0]))

    return Encoder(), (torch.zeros(1, size, dtype=torch.int64),)


def decoder(torch: Any, size: int) -> tuple[Any, tuple[Any, ...]]:
    """Two LLaMA-like decoder blocks on ``size`` tokens: RMS norm, rotary embedding, causal mask, gated SiLU, logits."""
    nn = torch.nn
    width, heads, hidden, words = 512, 8, 1376, 8000

    class Norm(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(width))

        def forward(self, x: Any) -> Any:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight

    class LlamaBlock(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
            self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
            self.down, self.norm1, self.norm2 = nn.Linear(hidden, width, bias=False), Norm(), Norm()

        def forward(self, x: Any, cos: Any, sin: Any, mask: Any) -> Any:
            n, t, _ = x.shape
            y = self.norm1(x)
            q, k, v = (f(y).view(n, t, heads, width // heads).transpose(1, 2) for f in (self.q, self.k, self.v))

            def rotate(z: Any) -> Any:
                a, b = z.chunk(2, -1)
                return z * cos + torch.cat((-b, a), -1) * sin

            scores = torch.softmax(rotate(q) @ rotate(k).transpose(-1, -2) * (width // heads) ** -0.5 + mask, -1)
            x = x + self.o((scores @ v).transpose(1, 2).reshape(n, t, width))
            y = self.norm2(x)
            return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))

    class Decoder(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.norm = nn.Embedding(words, width), Norm()
            self.blocks = nn.ModuleList([LlamaBlock() for _ in range(2)])
            self.head = nn.Linear(width, words, bias=False)
            angle = torch.outer(torch.arange(size).float(), 1e4 ** (-torch.arange(0, 64, 2).float() / 64))
            self.register_buffer("cos", torch.cat((angle, angle), -1).cos())
            self.register_buffer("sin", torch.cat((angle, angle), -1).sin())
            self.register_buffer("mask", torch.full((size, size), -1e4).triu(1))

        def forward(self, ids: Any) -> Any:
            x = self.tokens(ids)
            for block in self.blocks:
                x = block(x, self.cos, self.sin, self.mask)
            return self.head(self.norm(x))

    return Decoder(), (torch.zeros(1, size, dtype=torch.int64),)


def recurrent(torch: Any, size: int, kind: str, width: int) -> tuple[Any, tuple[Any, ...]]:
    """Two recurrent layers over ``size`` steps of 80 features (as in speech recognition), then a classifier."""
    nn = torch.nn

    class Tagger(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            both = kind == "LSTM"
            self.core = getattr(nn, kind)(80, width, num_layers=2, batch_first=False, bidirectional=both)
            self.head = nn.Linear(width * (2 if both else 1), 64)

        def forward(self, x: Any) -> Any:
            return torch.log_softmax(self.head(self.core(x)[0]), -1)

    return Tagger(), (torch.zeros(size, 1, 80),)


def audio(torch: Any, size: int) -> tuple[Any, tuple[Any, ...]]:
    """One-dimensional convolutions on ``size`` samples, as in wav2vec's feature encoder (Schneider et al., 2019)."""
    nn = torch.nn
    layers: list[Any] = []
    channels = 1
    for kernel, stride in ((10, 5), (8, 4), (4, 2), (4, 2)):
        layers += [nn.Conv1d(channels, 128, kernel, stride), nn.BatchNorm1d(128), nn.ReLU()]
        channels = 128
    layers += [nn.Conv1d(128, 256, 5, padding=4, dilation=2), nn.ELU(), nn.MaxPool1d(2), nn.AvgPool1d(3, 2)]
    return nn.Sequential(*layers), (torch.zeros(1, 1, size),)


def video(torch: Any, size: int) -> tuple[Any, tuple[Any, ...]]:
    """Small C3D-like network (Tran et al., 2015) on eight frames."""
    nn = torch.nn
    return nn.Sequential(
        nn.Conv3d(3, 32, 3, 1, 1), nn.ReLU(), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(32, 64, 3, 1, 1), nn.ReLU(),
        nn.MaxPool3d(2), nn.Conv3d(64, 128, 3, 1, 1), nn.BatchNorm3d(128), nn.ReLU(), nn.AdaptiveAvgPool3d(1),
        nn.Flatten(), nn.Linear(128, 101),
    ), (torch.zeros(1, 3, 8, size, size),)  # fmt: skip


def mlp(torch: Any, size: int) -> tuple[Any, tuple[Any, ...]]:
    """Multi-layer perceptron for tables of ``size`` columns, with several activations."""
    nn = torch.nn
    return nn.Sequential(
        nn.BatchNorm1d(size), nn.Linear(size, 512), nn.ReLU(), nn.Linear(512, 256), nn.SiLU(), nn.Linear(256, 128),
        nn.Tanh(), nn.Linear(128, 10), nn.Softmax(-1),
    ), (torch.zeros(1, size),)  # fmt: skip


PLAIN: dict[str, tuple[Callable[[Any, int], tuple[Any, tuple[Any, ...]]], tuple[int, ...]]] = {
    "cnn_f": (lambda torch, size: chatfield(torch, size, "f"), (224,)),
    "cnn_m": (lambda torch, size: chatfield(torch, size, "m"), (224,)),
    "cnn_s": (lambda torch, size: chatfield(torch, size, "s"), (224,)),
    "overfeat": (overfeat, (231,)),
    "nin": (network_in_network, (224,)),
    "grouped_alexnet_16": (lambda torch, size: grouped_alexnet(torch, size, 16), (192, 224)),
    "grouped_alexnet_22": (lambda torch, size: grouped_alexnet(torch, size, 22), (227, 256)),
    "shuffle_v1_g2": (lambda torch, size: shuffle_v1(torch, size, 2, 200), (224,)),
    "shuffle_v1_g3": (lambda torch, size: shuffle_v1(torch, size, 3, 240), (224,)),
    "shuffle_v1_g4": (lambda torch, size: shuffle_v1(torch, size, 4, 272), (192,)),
    "shuffle_v1_g4_half": (lambda torch, size: shuffle_v1(torch, size, 4, 144), (224,)),
    "shuffle_v1_g4_wide": (lambda torch, size: shuffle_v1(torch, size, 4, 416), (224,)),
    "shuffle_v1_g8": (lambda torch, size: shuffle_v1(torch, size, 8, 384), (224,)),
    "caffe_dense_24": (lambda torch, size: caffe_dense(torch, size, 24), (224,)),
    "caffe_dense_40": (lambda torch, size: caffe_dense(torch, size, 40), (192,)),
    "unet": (unet, (128, 256)),
    "dcgan": (generator, (100,)),
    "espcn": (super_resolution, (128,)),
    "bert_mini": (lambda torch, size: bert(torch, size, 256, 4, 2), (128,)),
    "bert_base": (lambda torch, size: bert(torch, size, 768, 12, 2), (32, 128, 384)),
    "decoder": (decoder, (16, 128)),
    "lstm": (lambda torch, size: recurrent(torch, size, "LSTM", 256), (50, 200)),
    "gru": (lambda torch, size: recurrent(torch, size, "GRU", 128), (100,)),
    "rnn": (lambda torch, size: recurrent(torch, size, "RNN", 64), (30,)),
    "audio": (audio, (16000,)),
    "video": (video, (56,)),
    "mlp": (mlp, (32, 784)),
}
