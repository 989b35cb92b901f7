"""From a label map to tokens as wide as the photo's, and how a map of ids becomes one of embeddings.

Shapes: B photos, C channels, H x W pixels of a map, g tokens per side, D width, K classes or words.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, interpolate, relu

from trainer.prismer.config import EMBEDDING


class StemNorm(nn.BatchNorm2d):
    """Batch normalisation that bears a batch in which nobody has the label: then it learns nothing.

    Its parameters still take part, so that every rank of a distributed run has a gradient for them.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if len(x_BCHW):
            return super().forward(x_BCHW)
        return batch_norm(x_BCHW, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Stem(nn.Module):
    """Four 3 x 3 convolutions, widths D/8, D/4, D/2, D or ``narrowest``, and a 1 x 1 one; B x C x H x W to B x D x g x g.

    A map of class names is looked at on 4 g pixels per side and halved twice, any other on 16 g and halved four times. Sizes
    and the way of resizing (bilinear, corners on corners) are those of the released checkpoints.
    """

    def __init__(self, *, channels: int, width: int, grid: int, narrowest: int = 0) -> None:
        super().__init__()
        named = channels == EMBEDDING
        self.side = seen_side(channels, grid)
        strides = (2, 2, 1, 1) if named else (2, 2, 2, 2)
        outs = (*(max(width // part, narrowest) for part in (8, 4, 2)), width)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
            for before, after, stride in zip((channels, *outs[:-1]), outs, strides, strict=True)
        )
        self.norms = nn.ModuleList(StemNorm(after) for after in outs)
        self.last = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        x = _resized(map_BCHW, self.side)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = relu(norm(convolution(x)))
        return self.last(x)


def seen_side(channels: int, grid: int) -> int:
    """Pixels per side on which a stem looks at a map of ``channels``; a map of this size is not resized."""
    return (4 if channels == EMBEDDING else 16) * grid


def painted(rows_BHW: Tensor, table_KC: Tensor, side: int) -> Tensor:
    """The embeddings of a map of ids, B x C x side x side: what looking up every pixel and resizing as a stem does would give.

    rows_BHW: whole numbers, rows of ``table_KC``; background, if there is any, is a row like others. Only the pixels that a
    resized one is made of are looked up, which is a sixteenth of the memory at Prismer's sizes.
    """
    top, bottom, down = _corners(rows_BHW.shape[1], side, table_KC)
    left, right, across = _corners(rows_BHW.shape[2], side, table_KC)

    def looked_up(ys: Tensor, xs: Tensor) -> Tensor:
        return table_KC[rows_BHW[:, ys[:, None], xs].long()]

    down, across = down[:, None, None], across[None, :, None]
    upper = torch.lerp(looked_up(top, left), looked_up(top, right), across)
    lower = torch.lerp(looked_up(bottom, left), looked_up(bottom, right), across)
    return torch.lerp(upper, lower, down).permute(0, 3, 1, 2)


def _corners(pixels: int, side: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``side`` places between the first and the last pixel: the pixels before and behind, and the way between."""
    place = torch.linspace(0, pixels - 1, side, device=like.device, dtype=torch.float64)
    before = place.floor().long().clamp(max=max(pixels - 2, 0))
    return before, (before + 1).clamp(max=pixels - 1), (place - before).to(like.dtype)


def _resized(map_BCHW: Tensor, side: int) -> Tensor:
    if map_BCHW.shape[2:] == (side, side):
        return map_BCHW
    return interpolate(map_BCHW, size=(side, side), mode="bilinear", align_corners=True)


def resized_positions(table_LD: Tensor, grid: int) -> Tensor:
    """A square table of positions for ``grid`` tokens per side, bicubic; the same tensor where it has that size already."""
    before = round(len(table_LD) ** 0.5)
    assert before**2 == len(table_LD), f"{len(table_LD)} positions are no square"
    if before == grid:
        return table_LD
    square_1Dgg = table_LD.float().unflatten(0, (before, before)).permute(2, 0, 1)[None]
    return interpolate(square_1Dgg, size=(grid, grid), mode="bicubic").flatten(2)[0].T.to(table_LD.dtype)
