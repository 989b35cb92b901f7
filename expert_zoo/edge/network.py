"""DexiNed: a fully convolutional edge detector of six blocks, each with an edge map of its own; a seventh fuses them.

    image -> block_1 -> block_2 -> dblock_3 ... dblock_6      each block dense inside, and fed by two kinds of skip connections
               |           |          |            |
             up_block_1  up_block_2  up_block_3  up_block_6   each brings its block's features to one edge map of full size
               +-----------+----------+------ ... -+---------> block_cat: the fused edge map

Source: Soria, Sappa, Humanante, Akbarinia, "Dense Extreme Inception Network for Edge Detection", arXiv:2112.02250, in the
form of its authors' PyTorch release (November 2021 and later). Modules carry the names of that release, so that its checkpoint
loads key by key.

Shapes: B images, h x w pixels (multiples of STRIDE), C channels.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from expert_zoo.networks.state_dict import fill, read_state_dict

#: Blocks 5 and 6 see one value for this many pixels: an image's sides are multiples of it.
STRIDE = 16


class Widths(NamedTuple):
    """Channels of the first convolution and of each block's features."""

    stem: int
    block_1: int
    block_2: int
    block_3: int
    block_4: int
    block_5: int
    block_6: int


OFFICIAL = Widths(32, 64, 128, 256, 512, 512, 256)
#: Where a checkpoint tells each width: the length of this bias.
_TOLD_BY = (
    "block_1.conv1.bias",
    "block_1.conv2.bias",
    "block_2.conv2.bias",
    "pre_dense_3.conv.bias",
    "pre_dense_4.conv.bias",
    "pre_dense_5.conv.bias",
    "pre_dense_6.conv.bias",
)


class DexiNed(nn.Module):
    """Edge logits of images; a sigmoid makes them probabilities."""

    def __init__(self, widths: Widths = OFFICIAL) -> None:
        super().__init__()
        stem, one, two, three, four, five, six = widths
        self.block_1 = _plain_block(3, stem, one, stride=2, last_relu=True)
        self.block_2 = _plain_block(one, two, two, stride=1, last_relu=False)
        self.dblock_3 = DenseBlock(2, two, three)
        self.dblock_4 = DenseBlock(3, three, four)
        self.dblock_5 = DenseBlock(3, four, five)
        self.dblock_6 = DenseBlock(3, five, six)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.side_1 = _skip(one, two, stride=2)
        self.side_2 = _skip(two, three, stride=2)
        self.side_3 = _skip(three, four, stride=2)
        self.side_4 = _skip(four, five, stride=1)
        self.pre_dense_2 = _skip(two, three, stride=2)
        self.pre_dense_3 = _skip(two, three, stride=1)
        self.pre_dense_4 = _skip(three, four, stride=1)
        self.pre_dense_5 = _skip(four, five, stride=1)
        self.pre_dense_6 = _skip(five, six, stride=1)
        self.up_block_1 = Upsampler(one, doublings=1)
        self.up_block_2 = Upsampler(two, doublings=1)
        self.up_block_3 = Upsampler(three, doublings=2)
        self.up_block_4 = Upsampler(four, doublings=3)
        self.up_block_5 = Upsampler(five, doublings=4)
        self.up_block_6 = Upsampler(six, doublings=4)
        self.block_cat = nn.Sequential(OrderedDict(conv=nn.Conv2d(6, 1, kernel_size=1)))

    def forward(self, images_B3hw: Tensor) -> Tensor:
        """The fused edge map: B x 1 x h x w logits."""
        return cast(Tensor, self.block_cat(self.side_maps(images_B3hw)))

    def side_maps(self, images_B3hw: Tensor) -> Tensor:
        """The six blocks' own edge maps: B x 6 x h x w logits. ``images_B3hw``: BGR, the training set's mean subtracted."""
        one = self.block_1(images_B3hw)
        two = self.block_2(one)

        two_pooled = self.maxpool(two)
        to_three = two_pooled + self.side_1(one)
        three = self.dblock_3(to_three, self.pre_dense_3(two_pooled))

        three_pooled = self.maxpool(three)
        to_four = three_pooled + self.side_2(to_three)
        four = self.dblock_4(to_four, self.pre_dense_4(three_pooled + self.pre_dense_2(two_pooled)))

        four_pooled = self.maxpool(four)
        to_five = four_pooled + self.side_3(to_four)
        five = self.dblock_5(to_five, self.pre_dense_5(four_pooled))

        six = self.dblock_6(five + self.side_4(to_five), self.pre_dense_6(five))

        maps = (
            self.up_block_1(one),
            self.up_block_2(two),
            self.up_block_3(three),
            self.up_block_4(four),
            self.up_block_5(five),
            self.up_block_6(six),
        )
        return torch.cat(maps, dim=1)


class DenseBlock(nn.Module):
    """Layers, each of which is averaged with the same skip connection."""

    def __init__(self, layers: int, channels: int, out: int) -> None:
        super().__init__()
        for number in range(1, layers + 1):
            self.add_module(f"denselayer{number}", _dense_layer(channels if number == 1 else out, out))

    def forward(self, features_BChw: Tensor, skip_BChw: Tensor) -> Tensor:
        for layer in self.children():
            features_BChw = (layer(relu(features_BChw)) + skip_BChw) / 2
        return features_BChw


class Upsampler(nn.Module):
    """Features to one edge map, each of ``doublings`` learned steps doubling the sides."""

    def __init__(self, channels: int, *, doublings: int) -> None:
        super().__init__()
        kernel = 2**doublings
        steps: list[nn.Module] = []
        for step in range(1, doublings + 1):
            out = 1 if step == doublings else 16
            doubling = nn.ConvTranspose2d(out, out, kernel, stride=2, padding=kernel // 2 - 1)
            steps += [nn.Conv2d(channels, out, kernel_size=1), nn.ReLU(inplace=True), doubling]
            channels = out
        self.features = nn.Sequential(*steps)

    def forward(self, features_BChw: Tensor) -> Tensor:
        return cast(Tensor, self.features(features_BChw))


def _plain_block(channels: int, middle: int, out: int, *, stride: int, last_relu: bool) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, middle, kernel_size=3, stride=stride, padding=1),
            bn1=nn.BatchNorm2d(middle),
            relu1=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(middle, out, kernel_size=3, padding=1),
            bn2=nn.BatchNorm2d(out),
            relu2=nn.ReLU(inplace=True) if last_relu else nn.Identity(),
        )
    )


def _dense_layer(channels: int, out: int) -> nn.Sequential:
    """The first convolution widens its input by one pixel on each side, the second one takes it off again."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, out, kernel_size=3, padding=2),
            norm1=nn.BatchNorm2d(out),
            relu=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(out, out, kernel_size=3),
            norm2=nn.BatchNorm2d(out),
        )
    )


def _skip(channels: int, out: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(channels, out, kernel_size=1, stride=stride), bn=nn.BatchNorm2d(out))
    )


def load_dexined(path: Path) -> DexiNed:
    """The network with the weights of ``path`` (a state dict by torch.save, of any widths), on the CPU.

    Raises ValueError where the file is none, or its keys and shapes are not exactly those of a DexiNed.
    """
    state = read_state_dict(path)
    told = [state[name].numel() for name in _TOLD_BY if name in state]
    # Where one of them is missing, `fill` says so, whatever the widths.
    widths = Widths(*told) if len(told) == len(_TOLD_BY) else OFFICIAL
    with torch.device("meta"):
        network = DexiNed(widths)
        unused = _unused(widths)
    fill(network, state, path=path, no_role=unused)
    return network


def seeded_state(widths: Widths, *, seed: int) -> dict[str, Tensor]:
    """A state dict of random weights with all keys of the authors' checkpoint.

    Kernels are uniform within +-sqrt(2 / fan_in), so that photos make edge logits of a size around 1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DexiNed(widths)
        for kernel in (parameter for parameter in network.parameters() if parameter.ndim == 4):
            end = math.sqrt(2 / math.prod(kernel.shape[1:]))
            nn.init.uniform_(kernel, -end, end)
        return network.state_dict() | _unused(widths)


def _unused(widths: Widths) -> dict[str, Tensor]:
    """What the authors' checkpoint has beside the network: modules on no way to any edge map."""
    side_5 = _skip(widths.block_5, widths.block_6, stride=1)
    return side_5.state_dict(prefix="side_5.") | nn.BatchNorm2d(1).state_dict(prefix="block_cat.bn.")
