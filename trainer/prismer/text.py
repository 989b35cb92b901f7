"""Texts as token ids: prompts and answers of unequal lengths as one batch.

Who makes ids of words is not said here: a tokenizer's own bos and eos must be in them. A caption is an answer, its prompt is bos
and the fixed prefix if there is one; of a question, the prompt is bos and the question. An answer ends with eos.

Shapes: B texts, L tokens, a shorter text padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.prismer.config import TextConfig

Ids = Sequence[int]


class TextBatch(NamedTuple):
    """What is to be learned.

    ids_BL: int64. answer_BL: bool, True for the tokens to be predicted: the answer's. weight_B: float32, what each text counts.
    """

    ids_BL: Tensor
    answer_BL: Tensor
    weight_B: Tensor


def joined(
    prompts: Sequence[Ids], answers: Sequence[Ids], config: TextConfig, *, weights: Sequence[float] | None = None
) -> TextBatch:
    """Each prompt and its answer one after the other, without padding between them but what the configuration says."""
    between = [config.pad] if config.pad_before_answer else []
    starts = [[*prompt, *between] for prompt in prompts]
    texts = [[*start, *answer] for start, answer in zip(starts, answers, strict=True)]
    if not all(prompts) or not all(answers):
        raise ValueError("a text without tokens; expected a prompt of bos at least, and an answer of eos at least")
    ids_BL = padded(texts, pad=config.pad)
    place_L = torch.arange(ids_BL.shape[1])
    first_B1 = torch.tensor([[len(start)] for start in starts])
    end_B1 = torch.tensor([[len(text)] for text in texts])
    answer_BL = (place_L >= first_B1) & (place_L < end_B1)
    return TextBatch(ids_BL, answer_BL, torch.tensor(weights or [1.0] * len(texts)))


def padded(texts: Sequence[Ids], *, pad: int) -> Tensor:
    """B x L int64, padding at the end."""
    longest = max(map(len, texts))
    return torch.tensor([[*text, *[pad] * (longest - len(text))] for text in texts], dtype=torch.int64)


def prompts_of(ids_BL: Tensor, config: TextConfig) -> Tensor:
    """Prompts, padded anyhow, as they are gone on from: padding first, so that the last column is what comes before an answer."""
    order_BL = (ids_BL != config.pad).long().argsort(dim=1, stable=True)
    ids_BL = ids_BL.gather(1, order_BL)
    if not config.pad_before_answer:
        return ids_BL
    return torch.cat([ids_BL, torch.full_like(ids_BL[:, :1], config.pad)], dim=1)
