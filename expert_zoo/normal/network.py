"""The network of NLL-AngMF, and the way from the authors' file of weights into it.

    photo -> EfficientNet -> levels of 1/2, 1/4, 1/8, 1/16, 1/32 -> decoder upwards, a skip at each level
          -> normal and kappa at 1/8 -> pixel MLPs make them finer: 1/4, 1/2, 1

kappa is the concentration of the distribution around the normal: the larger, the surer (the paper's section 3.1).

In training the paper refines only pixels that are picked by their uncertainty (section 3.2). At test time it refines all of
them, and so does this network, which is not for training: nothing is picked here.

Source: Bae, Budvytis, Cipolla, "Estimating and Exploiting the Aleatoric Uncertainty in Surface Normal Estimation",
arXiv:2109.09881; the variant with batch normalisation. Encoder: EfficientNet, arXiv:1905.11946, as trained with TensorFlow.

Shapes: B photos, H x W pixels, multiples of 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import elu, interpolate

from expert_zoo.networks.state_dict import fill, read_state_dict

#: The stages of EfficientNet-B0 in timm's notation: blocks, kernel, stride, expansion, channels, squeeze (its paper's table 1).
STAGES = (
    "ds_r1_k3_s1_e1_c16_se0.25",
    "ir_r2_k3_s2_e6_c24_se0.25",
    "ir_r2_k5_s2_e6_c40_se0.25",
    "ir_r3_k3_s2_e6_c80_se0.25",
    "ir_r3_k5_s1_e6_c112_se0.25",
    "ir_r4_k5_s2_e6_c192_se0.25",
    "ir_r1_k3_s1_e6_c320_se0.25",
)
#: B0's channels after the stages that the decoder sees, from 1/16 up to 1/2, and which stages these are.
SKIP_CHANNELS = (112, 40, 24, 16)
SKIP_STAGES = (4, 2, 1, 0)

#: TensorFlow's epsilon of batch normalisation.
EPSILON = 1e-3
LEAST_KAPPA = 0.01

#: Of random weights: variance of a layer's output over that of its input. 39 residual blocks neither fade nor overflow with it.
SEED_GAIN = 2.0

#: Parts of the authors' network by their names here and there; what follows the prefix is the same.
OFFICIAL_PREFIX = {
    "encoder.": "encoder.original_model.",
    "bottom.": "decoder.conv2.",
    "rise.0.": "decoder.up1._net.",
    "rise.1.": "decoder.up2._net.",
    "rise.2.": "decoder.up3._net.",
    "rise.3.": "decoder.up4._net.",
    "coarse.": "decoder.out_conv_res8.",
    "refine.0.layers.": "decoder.out_conv_res4.",
    "refine.1.layers.": "decoder.out_conv_res2.",
    "refine.2.layers.": "decoder.out_conv_res1.",
}
#: The encoder's last normalisation: the authors carry it along but take the features before it.
NO_ROLE = tuple(
    f"encoder.original_model.bn2.{name}"
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
)
HEAD = "encoder.original_model.conv_head.weight"


@dataclass(frozen=True, kw_only=True)
class Size:
    """width, depth: multiples of EfficientNet-B0's channels and blocks. rise: channels of the decoder at 1/16, 1/8, 1/4, 1/2.
    hidden: channels of the pixel MLPs."""

    width: float
    depth: float
    rise: tuple[int, int, int, int]
    hidden: int

    def channels(self, of_b0: int) -> int:
        return int(round_channels(of_b0, self.width))

    @property
    def head(self) -> int:
        """Channels of the encoder's last layer: what tells the sizes apart in a file."""
        return self.channels(1280)


FULL = Size(width=1.6, depth=2.2, rise=(1024, 512, 256, 128), hidden=128)  # EfficientNet-B5
SMALL = Size(width=0.25, depth=0.5, rise=(32, 32, 16, 16), hidden=16)  # for tests


class NormalNetwork(nn.Module):
    """Image to normals and kappa. Axes as the authors': x left, y up, z towards the viewer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.encoder = Encoder(size)
        self.bottom = nn.Conv2d(size.head, size.head, 1)
        below = (size.head, *size.rise[:-1])
        skips = (size.channels(channels) for channels in SKIP_CHANNELS)
        self.rise = nn.ModuleList(
            _two_convolutions(under + skip, out) for under, skip, out in zip(below, skips, size.rise, strict=True)
        )
        self.coarse = nn.Conv2d(size.rise[1], 4, 3, padding=1)
        self.refine = nn.ModuleList(PixelMlp(channels + 4, size.hidden) for channels in size.rise[1:])

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """B x 4 x h x w at 1/8, 1/4, 1/2 and all of the image's height and width, float32: unit normal (x, y, z) and kappa."""
        *skips, features = self.encoder(images_B3HW)
        features = self.bottom(features)
        rising = []
        for rise, skip in zip(self.rise, reversed(skips), strict=True):
            features = rise(torch.cat([_enlarged(features, skip.shape[2:]), skip], dim=1))
            rising.append(features)
        said = [_normal_and_kappa(self.coarse(rising[1]))]
        for refine, features in zip(self.refine, rising[1:], strict=True):
            said.append(_normal_and_kappa(refine(features, said[-1])))
        return tuple(said)  # type: ignore[return-value]


class Encoder(nn.Module):
    """EfficientNet up to its last convolution, whose raw output the decoder starts from."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        whole = EfficientNet(
            block_args=decode_arch_def([[stage] for stage in STAGES], size.depth),
            num_features=size.head,
            num_classes=0,
            round_chs_fn=partial(round_channels, multiplier=size.width),
            pad_type="same",
            act_layer=nn.SiLU,
            norm_layer=partial(nn.BatchNorm2d, eps=EPSILON),
        )
        self.conv_stem, self.bn1 = whole.conv_stem, whole.bn1
        self.blocks, self.conv_head = whole.blocks, whole.conv_head

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """Features at 1/2, 1/4, 1/8, 1/16 and 1/32."""
        features = self.bn1(self.conv_stem(images_B3HW))
        stages = []
        for stage in self.blocks:
            features = stage(features)
            stages.append(features)
        return [*(stages[n] for n in reversed(SKIP_STAGES)), self.conv_head(features)]


class PixelMlp(nn.Module):
    """Raw normal and kappa of every pixel from those of the level below and its features, both enlarged to twice their size."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 4, 1),
        )

    def forward(self, features_BChw: Tensor, said_B4hw: Tensor) -> Tensor:
        # A layer that sees one pixel and a linear enlargement change places: so the layer has a quarter of the pixels to do.
        first, *others = self.layers
        hidden = first(torch.cat([features_BChw, said_B4hw.to(features_BChw.dtype)], dim=1))
        hidden = _enlarged(hidden, torch.Size(2 * side for side in hidden.shape[2:]))
        for layer in others:
            hidden = layer(hidden)
        return hidden


def _two_convolutions(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=1),
        nn.BatchNorm2d(out),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(out, out, 3, padding=1),
        nn.BatchNorm2d(out),
        nn.LeakyReLU(inplace=True),
    )


def _enlarged(features_BChw: Tensor, size: torch.Size) -> Tensor:
    return interpolate(features_BChw, tuple(size), mode="bilinear", align_corners=True)


def _normal_and_kappa(raw_B4HW: Tensor) -> Tensor:
    """The first three channels brought to unit length, the fourth above LEAST_KAPPA; float32, since both lose much in half."""
    normal, kappa = raw_B4HW.float().split([3, 1], dim=1)
    length = normal.norm(dim=1, keepdim=True) + 1e-10
    return torch.cat([normal / length, elu(kappa) + 1 + LEAST_KAPPA], dim=1)


def official_name(name: str) -> str:
    """The authors' name of a parameter or buffer of NormalNetwork."""
    here = next(prefix for prefix in OFFICIAL_PREFIX if name.startswith(prefix))
    return OFFICIAL_PREFIX[here] + name.removeprefix(here)


def official_shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Every name and shape that a file of the authors' has for a network of that size, those without a role included."""
    with torch.device("meta"):
        state = NormalNetwork(size).state_dict()
    # The authors' pixel MLPs convolve along a row of pixels, which takes one axis less.
    axes = {name: 3 if name.startswith("refine.") else 4 for name in state}
    shapes = {official_name(name): tuple(value.shape)[: axes[name]] for name, value in state.items()}
    return shapes | {name: () if name.endswith("tracked") else (size.head,) for name in NO_ROLE}


def load_network(path: Path) -> NormalNetwork:
    """The network with the authors' weights at ``path``, on the CPU. Raises ValueError where the file is not one of theirs."""
    values = read_state_dict(path, inside="model")
    values = {name: value[..., None] if value.ndim == 3 else value for name, value in values.items()}
    head = values[HEAD].shape[0] if HEAD in values and values[HEAD].ndim else 0
    size = next((size for size in (FULL, SMALL) if size.head == head), None)
    if size is None:
        raise ValueError(
            f"{path} holds another network's weights: its {HEAD} has {head} channels; expected {FULL.head} (EfficientNet-B5)"
        )
    with torch.device("meta"):
        network = NormalNetwork(size)
    fill(network, values, path=path, official=official_name, no_role=NO_ROLE)
    return network


def seeded_state(size: Size, *, seed: int) -> dict[str, Tensor]:
    """Random weights by the authors' names: what `load_network` reads, without any knowledge in it."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in official_shapes(size).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros(shape, dtype=torch.int64)
        elif len(shape) > 1:
            fan_in = torch.Size(shape[1:]).numel()
            state[name] = torch.randn(shape, generator=generator) * (SEED_GAIN / fan_in) ** 0.5
        else:
            state[name] = torch.ones(shape) if name.endswith(("running_var", "weight")) else torch.zeros(shape)
    return state
