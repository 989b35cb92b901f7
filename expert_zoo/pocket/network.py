"""The pocket network: one small U-shaped trunk and five heads, about 0.9 million parameters.

Shapes: B images, H x W pixels (multiples of STRIDE), C channels, h x w = H/4 x W/4 cells of the detection head.

Two channels hold each pixel's place relative to the image's middle, in units of 128 pixels: rooms are seen by a nearly fixed camera, so
place says much about depth. The detection head is anchor-free, one centre heatmap per class and a box per cell, after "Objects as
Points" (Zhou et al. 2019); its box is the four distances to the edges as in FCOS (Tian et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from expert_zoo.pocket import STRIDE
from manifests.scenes.world import CLASSES, THINGS

DENSE: Final = {"depth": 1, "normal": 3, "edge": 1, "classes": len(CLASSES)}
"""Channels of each head that speaks of every pixel."""

HEADS: Final = (*DENSE, "detection")
CELL: Final = 4
"""Pixels a side of a detection cell."""


class ConvNorm(nn.Sequential):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Two 3x3 convolutions about a skip (He et al. 2016, basic block)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(features + self.second(self.first(features)))


class PocketNetwork(nn.Module):
    """Trunk down to stride 32, up again to stride 2 with additive skips, and the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(5 * 4, 32)
        self.down4 = nn.Sequential(ConvNorm(32, 48, stride=2), Residual(48))
        self.down8 = nn.Sequential(ConvNorm(48, 80, stride=2), Residual(80), Residual(80))
        self.down16 = nn.Sequential(ConvNorm(80, 80, stride=2), Residual(80), Residual(80))
        self.down32 = nn.Sequential(ConvNorm(80, 80, stride=2), Residual(80))
        self.across16 = nn.Conv2d(80, 80, 1)
        self.across8 = nn.Conv2d(80, 80, 1)
        self.join8 = ConvNorm(80, 80)
        self.across4 = nn.Conv2d(80, 48, 1)
        self.join4 = ConvNorm(48, 48)
        self.across2 = nn.Conv2d(48, 32, 1)
        self.join2 = ConvNorm(32, 32)
        self.dense = nn.Conv2d(32, sum(DENSE.values()) * 4, 3, padding=1)
        self.detection = nn.Sequential(ConvNorm(48, 48), nn.Conv2d(48, len(THINGS) + 4, 1))
        # Start from the mean log depth, rare edges, rare centres and boxes of a common size.
        for head, value in (("depth", 1.3), ("edge", -3.0)):
            nn.init.constant_(_bias(self.dense)[dense_rows(head)], value)
        last = self.detection[1]
        assert isinstance(last, nn.Conv2d)
        nn.init.constant_(_bias(last)[: len(THINGS)], -5.0)
        nn.init.constant_(_bias(last)[len(THINGS) :], 0.7)

    def forward(self, image_B3HW: Tensor, heads: Sequence[str] = HEADS) -> dict[str, Tensor]:
        """Image in [0, 1], sides multiples of STRIDE; only the asked heads are computed.

        Returns: depth (B, H, W) metres; normal (B, 3, H, W) unit vectors; edge (B, H, W) logits; classes (B, 7, H, W) logits; heat
        (B, 5, h, w) logits and box (B, 4, h, w), pixels from the cell's middle to the left, top, right and lower edge.
        """
        asked = [head for head in DENSE if head in heads]
        at4, at2 = self.trunk(image_B3HW, full=bool(asked))
        out: dict[str, Tensor] = {}
        if asked:
            # One convolution for the asked heads together: on a CPU that is twice as fast as one for each.
            weight = torch.cat([self.dense.weight[dense_rows(head)] for head in asked])
            bias = torch.cat([_bias(self.dense)[dense_rows(head)] for head in asked])
            raw = F.pixel_shuffle(F.conv2d(at2, weight, bias, padding=1), 2).float()
            out = dict(zip(asked, raw.split([DENSE[head] for head in asked], dim=1), strict=True))
        if "depth" in out:
            out["depth"] = out["depth"][:, 0].clamp(-3.0, 5.0).exp()
        if "normal" in out:
            out["normal"] = F.normalize(out["normal"], dim=1, eps=1e-6)
        if "edge" in out:
            out["edge"] = out["edge"][:, 0]
        if "detection" in heads:
            raw = self.detection(at4).float()
            out["heat"] = raw[:, : len(THINGS)]
            out["box"] = raw[:, len(THINGS) :].clamp(-4.0, 4.0).exp() * CELL
        return out

    def trunk(self, image_B3HW: Tensor, *, full: bool) -> tuple[Tensor, Tensor]:
        """Features at stride 4 (48 channels) and stride 2 (32; computed only if `full`)."""
        B, _, H, W = image_B3HW.shape
        assert H % STRIDE == 0 and W % STRIDE == 0, (H, W)
        y = (torch.arange(H, device=image_B3HW.device, dtype=image_B3HW.dtype) + 0.5 - H / 2) / 128
        x = (torch.arange(W, device=image_B3HW.device, dtype=image_B3HW.dtype) + 0.5 - W / 2) / 128
        place = torch.stack([x.expand(H, W), y[:, None].expand(H, W)]).expand(B, 2, H, W)
        at2 = self.stem(F.pixel_unshuffle(torch.cat([image_B3HW * 2 - 1, place], dim=1), 2))
        at4 = self.down4(at2)
        at8 = self.down8(at4)
        at16 = self.down16(at8)
        at32 = self.down32(at16)
        at16 = at16 + _grow(self.across16(at32), at16)
        at8 = self.join8(at8 + _grow(self.across8(at16), at8))
        at4 = self.join4(at4 + _grow(self.across4(at8), at4))
        if full:
            at2 = self.join2(at2 + _grow(self.across2(at4), at2))
        return at4, at2


def dense_rows(head: str) -> slice:
    """Outputs of the dense convolution that belong to a head: four per channel, for the pixel shuffle."""
    names = list(DENSE)
    start = 4 * sum(DENSE[name] for name in names[: names.index(head)])
    return slice(start, start + 4 * DENSE[head])


def _grow(features: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def peaks(
    heat_5hw: Tensor, box_4hw: Tensor, *, min_score: float, most: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Boxes xyxy in pixels of the network's input, scores and class ids at the local maxima of the heatmaps, best first."""
    score_5hw = heat_5hw.sigmoid()
    highest = F.max_pool2d(score_5hw[None], 3, stride=1, padding=1)[0]
    score_N, place_N = torch.where(highest == score_5hw, score_5hw, 0.0).flatten().topk(min(most, score_5hw.numel()))
    place_N = place_N[score_N >= min_score]
    h, w = heat_5hw.shape[-2:]
    thing_N, i_N, j_N = place_N // (h * w), place_N // w % h, place_N % w
    middle_N2 = torch.stack([j_N, i_N], dim=1) * CELL + CELL / 2
    sides_N4 = box_4hw[:, i_N, j_N].T
    boxes_N4 = torch.cat([middle_N2 - sides_N4[:, :2], middle_N2 + sides_N4[:, 2:]], dim=1)
    return boxes_N4.cpu().numpy(), score_N[: len(place_N)].cpu().numpy(), thing_N.cpu().numpy().astype(np.int32)


def load_network(path: Path, *, device: str = "cpu") -> PocketNetwork:
    """The trained network in float32, in inference mode. Raises FileNotFoundError when the weights are not there."""
    from safetensors.torch import load_file

    network = PocketNetwork()
    saved = {name: tensor.float() for name, tensor in load_file(path).items()}
    absent, strange = network.load_state_dict(saved, strict=False)
    assert not strange and all(name.endswith("num_batches_tracked") for name in absent), (absent, strange)
    fold_norms(network.eval())
    return network.to(memory_format=torch.channels_last).to(device)


def fold_norms(module: nn.Module) -> None:
    """Fold every batch norm into the convolution before it, in place: a third less time for one photo on a CPU."""
    for child in module.children():
        if isinstance(child, nn.Sequential) and len(child) > 1 and isinstance(child[1], nn.BatchNorm2d):
            convolution = child[0]
            assert isinstance(convolution, nn.Conv2d)
            child[0], child[1] = fuse_conv_bn_eval(convolution, child[1]), nn.Identity()
        else:
            fold_norms(child)


def save_network(state: dict[str, Tensor], path: Path) -> None:
    """Write weights as float16 safetensors, beside and then over `path`."""
    from safetensors.torch import save_file

    beside = path.with_suffix(".partial")
    kept = {
        name: t.detach().to(torch.float16).contiguous()
        for name, t in state.items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(kept, beside)
    beside.replace(path)
