"""What the two BLIP experts share: the way to its input, and the sizes of its vision transformer and text network.

Source: Li et al., BLIP, arXiv:2201.12086; image size and normalisation as in the authors' evaluation.
"""

from __future__ import annotations

from typing import Any, Final

from expert_zoo.networks.preprocess import Preprocess, Triple
from expert_zoo.networks.tokenizer_file import PAD, SEP

CLIP_MEAN: Final[Triple] = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final[Triple] = (0.26862954, 0.26130258, 0.27577711)
SIDE, PATCH = 384, 16

VISION: Final = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SMALL: Final = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def preprocess(side: int | None) -> Preprocess:
    """Squashed, as BLIP was trained and evaluated: it has a place for each patch of a square, and no other shape."""
    return Preprocess(
        fit="squash",
        side=SIDE if side is None else side,
        multiple=PATCH,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        filter="bicubic",
    )


def configuration(*, small: bool, tokens: int) -> Any:
    """A BlipConfig: that of the published large checkpoints, or a small one for ``tokens`` tokens.

    The two ids after those of the tokenizer are [DEC], with which a text to be written begins, and [ENC], with which one to be
    judged does.
    """
    from transformers import BlipConfig

    words = tokens if small else 30522
    text = {
        "vocab_size": words + 2,
        "bos_token_id": words,
        "sep_token_id": SEP,
        "pad_token_id": PAD,
        "num_attention_heads": 12,
    }
    return BlipConfig(
        text_config=text | (SMALL if small else {}),
        vision_config={"image_size": SIDE, "patch_size": PATCH} | (SMALL if small else VISION),
    )
