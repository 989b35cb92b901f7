"""The experts' encoder: a photo and label maps to visual tokens, by CLIP's vision transformer with adaptors in its blocks.

    photo ------------------> patches + positions -------------------+
    label maps -> stems ----> tokens + positions -> resampler -------+-> norm -> blocks -> norm -> visual tokens
                    objects: + what tells them apart

Class token and output projection of CLIP are left out. Source: Prismer, arXiv:2303.02506, section 3; CLIP, arXiv:2103.00020.

Shapes: B photos, C channels, H x W pixels, g tokens per side, K expert tokens, N visual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.prismer.config import Modality, PrismerConfig
from trainer.prismer.layers import Adaptor, Attention, Mlp, Norm, quick_gelu
from trainer.prismer.resampler import Resampler
from trainer.prismer.stems import Stem, resized_positions


class LabelMap(NamedTuple):
    """What one expert says of a batch.

    map_BCHW: float, CHANNELS of its modality, of any height and width, over the whole photo; what stands there for a photo
        without the label is never read.
    present_B: bool, False where the label is missing or failed. On the CPU it costs no wait for the device.
    instances_BHW: detection only: whole numbers, every pixel's object, from 0, the best first; below 0 where there is none.
    """

    map_BCHW: Tensor
    present_B: Tensor
    instances_BHW: Tensor | None = None


class VisionBlock(nn.Module):
    """A block of CLIP's, and between its halves an adaptor."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = Norm(width)
        self.attention = Attention(width=width, heads=heads)
        self.adaptor = Adaptor(width=width, norm_last=False)
        self.mlp_norm = Norm(width)
        self.mlp = Mlp(width=width, activation=quick_gelu)

    def forward(self, x_BND: Tensor) -> Tensor:
        normed = self.attention_norm(x_BND)
        x_BND = x_BND + self.attention(normed, self.attention.keys_values(normed))
        x_BND = self.adaptor(x_BND)
        return x_BND + self.mlp(self.mlp_norm(x_BND))


class ExpertEncoder(nn.Module):
    """Photos and label maps to visual tokens."""

    def __init__(self, config: PrismerConfig) -> None:
        super().__init__()
        vision, width = config.vision, config.vision.width
        self.config = config
        self.checkpointing = False
        self.patches = nn.Conv2d(3, width, vision.patch, stride=vision.patch, bias=False)
        self.positions = nn.Parameter(torch.randn(config.grid**2, width) * width**-0.5)
        self.stems = nn.ModuleDict(
            {
                name: Stem(channels=channels, width=width, grid=config.label_grid, narrowest=config.stem_width)
                for name, channels in config.modalities().items()
            }
        )
        if "detection" in config.experts:
            self.instances = nn.Parameter(torch.randn(config.instances, width) * width**-0.5)
        if config.experts:
            self.resampler = Resampler(width=width, **config.resampler.model_dump())
        self.norm_in = Norm(width)
        self.blocks = nn.ModuleList(VisionBlock(width=width, heads=vision.heads) for _ in range(vision.layers))
        self.norm_out = Norm(width)

    def forward(self, photo_B3HW: Tensor, labels: Mapping[str, LabelMap]) -> Tensor:
        """B x N x D, the photo's tokens first, then the resampler's.

        photo_B3HW: as CLIP wants it, mean and deviation of its training set taken out. labels: one LabelMap for every expert of
        the configuration, and no other. Raises ValueError.
        """
        self._check(photo_B3HW, labels)
        x_BND = self.patches(photo_B3HW).flatten(2).transpose(1, 2) + self.positions
        if self.config.experts:
            x_BND = torch.cat([x_BND, self._latents(labels).to(x_BND.dtype)], dim=1)
        x_BND = self.norm_in(x_BND)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x_BND = checkpoint(block, x_BND, use_reentrant=False)
            else:
                x_BND = block(x_BND)
        return self.norm_out(x_BND)

    def _latents(self, labels: Mapping[str, LabelMap]) -> Tensor:
        positions_KD = resized_positions(self.positions, self.config.label_grid)
        tokens = [self._tokens(name, labels[name]) + positions_KD for name in self.config.experts]
        tokens_BKD = torch.cat(tokens, dim=1)
        present = [labels[name].present_B for name in self.config.experts]
        if all(bool(present_B.all()) for present_B in present):
            return self.resampler(tokens_BKD)
        present_BE = torch.stack([present_B.to(tokens_BKD.device, non_blocking=True) for present_B in present], dim=1)
        return self.resampler(tokens_BKD, present_BE.repeat_interleave(len(positions_KD), dim=1))

    def _tokens(self, name: Modality, label: LabelMap) -> Tensor:
        """B x g*g x D. Only photos that have the label go through the stem, so that the others are not in its statistics."""
        batch, device = len(label.present_B), label.map_BCHW.device
        rows = label.present_B.nonzero().flatten().to(device, non_blocking=True)
        everyone = len(rows) == batch
        tokens = self.stems[name](label.map_BCHW if everyone else label.map_BCHW[rows])
        if label.instances_BHW is not None:
            ids_BHW = label.instances_BHW if everyone else label.instances_BHW[rows]
            tokens = tokens + self._told_apart(ids_BHW).permute(0, 3, 1, 2)
        tokens = tokens.flatten(2).transpose(1, 2)
        if everyone:
            return tokens
        return tokens.new_zeros(batch, *tokens.shape[1:]).index_copy(0, rows, tokens)

    def _told_apart(self, ids_BHW: Tensor) -> Tensor:
        """B x g x g x D to add to the objects' tokens: nothing where there is none.

        In training every photo draws its own order of the table's rows, so that no two objects share one (as long as there
        are no more than rows) and none is tied to a rank; else an id is its row.
        """
        grid, count = self.config.label_grid, self.config.instances
        ys, xs = (torch.arange(grid, device=ids_BHW.device) * side // grid for side in ids_BHW.shape[1:])
        ids_Bgg = ids_BHW[:, ys[:, None], xs].long()
        rows_Bgg = ids_Bgg.clamp(min=0) % count
        if self.training:
            order_BR = torch.rand(len(ids_Bgg), count, device=ids_Bgg.device).argsort(dim=1)
            rows_Bgg = order_BR.gather(1, rows_Bgg.flatten(1)).view_as(rows_Bgg)
        return self.instances[rows_Bgg] * (ids_Bgg >= 0)[..., None]

    def _check(self, photo_B3HW: Tensor, labels: Mapping[str, LabelMap]) -> None:
        config = self.config
        side = config.vision.resolution
        if photo_B3HW.shape[1:] != (3, side, side):
            raise ValueError(f"photos of {tuple(photo_B3HW.shape[1:])}; this Prismer expects 3 x {side} x {side}")
        if set(labels) != set(config.experts):
            raise ValueError(
                f"labels of {', '.join(labels) or 'no expert'}; this Prismer expects those of "
                f"{', '.join(config.experts) or 'none'}: an expert without labels is given as present nowhere"
            )
        for name, channels in config.modalities().items():
            label = labels[name]
            if label.map_BCHW.shape[1] != channels or len(label.present_B) != len(photo_B3HW):
                raise ValueError(
                    f"{name}: a map of {tuple(label.map_BCHW.shape)} and {len(label.present_B)} times present or not; "
                    f"expected {len(photo_B3HW)} photos and {channels} channels"
                )
            if (label.instances_BHW is not None) != (name == "detection"):
                raise ValueError(f"{name}: instances belong to detection, and to it alone")
