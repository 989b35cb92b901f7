"""Any number of expert tokens to a fixed number of latents.

Source: Prismer, arXiv:2303.02506, section 3.2; Perceiver, arXiv:2103.03206.

Shapes: B photos, K expert tokens, M latents, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.prismer.layers import Attention, Mlp, Norm, squared_relu


class ResamplerBlock(nn.Module):
    """Latents look at themselves and at the expert tokens, then an MLP."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.latent_norm = Norm(width)
        self.token_norm = Norm(width)
        self.attention = Attention(width=width, heads=heads)
        self.mlp_norm = Norm(width)
        self.mlp = Mlp(width=width, activation=squared_relu)

    def forward(self, latents_BMD: Tensor, tokens_BKD: Tensor, allowed: Tensor | None) -> Tensor:
        normed = self.latent_norm(latents_BMD)
        seen = torch.cat([normed, self.token_norm(tokens_BKD)], dim=1)
        latents_BMD = latents_BMD + self.attention(normed, self.attention.keys_values(seen), allowed)
        return latents_BMD + self.mlp(self.mlp_norm(latents_BMD))


class Resampler(nn.Module):
    """Learned latents that look at the expert tokens again and again."""

    def __init__(self, *, width: int, latents: int, layers: int, heads: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width) * width**-0.5)
        self.blocks = nn.ModuleList(ResamplerBlock(width=width, heads=heads) for _ in range(layers))

    def forward(self, tokens_BKD: Tensor, present_BK: Tensor | None = None) -> Tensor:
        """B x M x D. present_BK: False for tokens that take no part; None: all do. A photo may be without any token."""
        batch = len(tokens_BKD)
        allowed = None
        if present_BK is not None:
            themselves = present_BK.new_ones(batch, len(self.latents))
            allowed = torch.cat([themselves, present_BK], dim=1)[:, None, None]
        latents = self.latents.to(tokens_BKD.dtype).expand(batch, -1, -1)
        for block in self.blocks:
            latents = block(latents, tokens_BKD, allowed)
        return latents
