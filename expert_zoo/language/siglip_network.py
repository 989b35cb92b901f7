"""SigLIP as `match` uses it: photos are looked at once (``forward``), then held against captions.

Shapes: B photos, D width, S tokens of a text, N texts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class Matcher(nn.Module):
    """``network``: a SiglipModel."""

    #: Texts that go through the text network together.
    TEXTS = 128

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_B3hw: Tensor) -> Tensor:
        """B x D: the photos' unit vectors."""
        out = self.network.vision_model(pixel_values=images_B3hw, interpolate_pos_encoding=True)
        return normalize(out.pooler_output.float(), dim=1)

    def agreement(self, photos_BD: Tensor, tokens_NS: Tensor, of_photo_N: Tensor) -> Tensor:
        """N probabilities that text n describes photo ``of_photo_N[n]``; padding is read too, as in training."""
        texts = [self.network.text_model(input_ids=part).pooler_output for part in tokens_NS.split(self.TEXTS)]
        texts_ND = normalize(torch.cat(texts).float(), dim=1)
        cosines_N = (texts_ND * photos_BD[of_photo_N]).sum(dim=1)
        return (cosines_N * self.network.logit_scale.exp() + self.network.logit_bias).sigmoid()
