"""Sizes and counts of Prismer, against its paper's table 1 and the counts that the released code implies."""

from __future__ import annotations

import pytest
import torch

from trainer.prismer.config import SIX, PrismerConfig, SizeName
from trainer.prismer.model import Frozen, Prismer


def counts(size: SizeName, *, z: bool, resolution: int) -> tuple[int, int, int]:
    """All parameters, those trained in pre-training, and those trained in fine-tuning."""
    with torch.device("meta"):
        model = Prismer(PrismerConfig.of(size, experts=() if z else SIX, resolution=resolution))
    return count(model, "nothing"), count(model, "backbones"), count(model, "vision")


def count(model: Prismer, frozen: Frozen) -> int:
    model.freeze(frozen)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("size", "z", "total", "pretrain", "finetune"),
    [
        ("base", False, 327_468_729, 157_359_801, 242_414_265),
        ("large", False, 967_146_713, 362_527_961, 664_837_337),
        ("base", True, 274_335_321, 104_226_393, 189_280_857),
        ("large", True, 872_856_665, 268_237_913, 570_547_289),
    ],
)
def test_parameters_are_as_many_as_published(size: SizeName, z: bool, total: int, pretrain: int, finetune: int) -> None:
    assert counts(size, z=z, resolution=224) == (total, pretrain, finetune)
    positions = {"base": 540_672, "large": 921_600}[size]
    assert counts(size, z=z, resolution=480) == (total + positions, pretrain + positions, finetune + positions)


@pytest.mark.parametrize(
    ("size", "resolution", "with_experts", "z"),
    [("base", 224, 260, 196), ("base", 480, 964, 900), ("large", 224, 320, 256), ("large", 480, 1220, 1156)],
)
def test_visual_tokens(size: SizeName, resolution: int, with_experts: int, z: int) -> None:
    assert PrismerConfig.of(size, resolution=resolution).visual_tokens == with_experts
    assert PrismerConfig.of(size, resolution=resolution, experts=()).visual_tokens == z


def test_an_expert_of_224_pixels_gives_196_or_256_tokens() -> None:
    assert PrismerConfig.of("base", resolution=480).label_grid ** 2 == 196
    assert PrismerConfig.of("large", resolution=480).label_grid ** 2 == 256


def test_it_survives_json() -> None:
    config = PrismerConfig.of("tiny", experts=("depth", "ocr"), resolution=96, words=100)
    assert PrismerConfig.model_validate_json(config.model_dump_json()) == config
    assert config.modalities() == {"depth": 1, "ocr": 64}
    assert config.at(112).grid == 7 and config.at(96) == config


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"experts": ("depth", "depth")}, "expected none twice"),
        ({"experts": ("sonar",)}, "experts"),
        ({"words": 2}, "expected three different ids below 2"),
        ({"resolution": 16}, "two patches per side"),
        ({"label_resolution": 31}, "two patches per side"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        PrismerConfig.of("tiny", **change)  # type: ignore[arg-type]


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="no Prismer of size 'huge'; expected one of tiny, base, large"):
        PrismerConfig.of("huge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="freeze 'all'; expected one of nothing, vision, backbones"):
        count(Prismer(PrismerConfig.of("tiny")), "all")  # type: ignore[arg-type]
