"""Small Prismers and inputs for them, seeded."""

from __future__ import annotations

import torch

from trainer.prismer.config import SIX, Modality, PrismerConfig, ResamplerConfig, TextConfig, VisionConfig
from trainer.prismer.model import Prismer, PrismerBatch
from trainer.prismer.text import joined
from trainer.prismer.vision import LabelMap

PAD, EOS = 1, 2


def small_config(*experts: Modality, **text: bool) -> PrismerConfig:
    """Photos of 4 x 4 tokens, label maps of 2 x 2, 40 words."""
    return PrismerConfig(
        vision=VisionConfig(width=32, layers=2, heads=2, patch=8, resolution=32),
        text=TextConfig(width=24, layers=2, heads=2, words=40, positions=34, **text),
        resampler=ResamplerConfig(latents=5, layers=2, heads=2),
        experts=experts,
        label_resolution=16,
    )


def small_model(*experts: Modality, seed: int = 0, **text: bool) -> Prismer:
    """In eval, with weights that let the next word depend on photo and words: a new one is nearly sure of nothing."""
    torch.manual_seed(seed)
    model = Prismer(small_config(*experts, **text)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "norm" not in name:
                parameter.mul_(2.0)
    return model


def labels(
    experts: tuple[Modality, ...] = SIX, *, batch: int = 3, side: int = 16, seed: int = 1
) -> dict[str, LabelMap]:
    """Everyone has every label; the detections of every photo are objects 0, 1 and nothing."""
    draw = torch.Generator().manual_seed(seed)
    everyone = torch.ones(batch, dtype=torch.bool)
    ids = torch.full((batch, side, side), -1)
    ids[:, : side // 2, : side // 2] = 0
    ids[:, side // 2 :, side // 2 :] = 1
    config = small_config(*experts)
    return {
        name: LabelMap(
            torch.rand(batch, channels, side, side, generator=draw), everyone, ids if name == "detection" else None
        )
        for name, channels in config.modalities().items()
    }


def photos(*, batch: int = 3, seed: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def batch_of(*experts: Modality, batch: int = 3) -> PrismerBatch:
    texts = [[5, 6, 7, EOS], [8, 9, EOS], [10, 11, 12, 13, EOS]][:batch]
    text = joined([[0, 20 + i] for i in range(batch)], texts, small_config().text)
    return PrismerBatch(photos(batch=batch), labels(experts, batch=batch), text)


def without(label: LabelMap, *rows: int) -> LabelMap:
    """``label`` missing for some photos, and what was there unusable."""
    present, spoiled = label.present_B.clone(), label.map_BCHW.clone()
    present[list(rows)] = False
    spoiled[list(rows)] = torch.nan
    return label._replace(map_BCHW=spoiled, present_B=present)
