"""Choosing: which of the given answers is the likeliest for each photo and prompt.

The k answers whose first token is the likeliest are scored whole: the mean log-probability of their tokens, eos included. Source:
Prismer, arXiv:2303.02506, on VQAv2, after ALBEF, arXiv:2107.07651. Photo and prompt are computed once, however many answers.

Shapes: B photos, A answers, K of them scored, M tokens of an answer, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.prismer.cache import Cache
from trainer.prismer.decoder import TextDecoder
from trainer.prismer.text import Ids, padded, prompts_of


class Ranked(NamedTuple):
    """The best answers of each photo, the best first. ``answers_BK``: int64 places in the list. ``scores_BK``: float32, nats."""

    answers_BK: Tensor
    scores_BK: Tensor


def rank(
    decoder: TextDecoder,
    visual_BND: Tensor,
    prompts_BL: Tensor,
    answers: Sequence[Ids],
    *,
    best: int = 16,
    smoothing: float = 0.0,
) -> Ranked:
    """prompts_BL: padded anyhow. answers: tokens with eos, the same for all. best: how many go beyond their first token.

    smoothing: that share of a token's score is the mean log-probability of all words; the released code has 0.1. Of equals the
    earlier in the list is the better.
    """
    if not answers or not all(answers):
        raise ValueError("no answers, or one without tokens; expected a list of answers that end with eos")
    best = min(best, len(answers))
    answers_AM = padded(answers, pad=decoder.config.pad).to(visual_BND.device)
    cache = Cache()
    prompt_BV = decoder(prompts_of(prompts_BL, decoder.config), visual_BND, cache, only_last=True)[:, -1]
    first_BA = _scores(prompt_BV, 0.0)[:, answers_AM[:, 0]]
    chosen_BK = first_BA.sort(dim=1, descending=True, stable=True).indices[:, :best].sort(dim=1).values
    score_BK = _scores(prompt_BV, smoothing).gather(1, answers_AM[:, 0][chosen_BK])
    ids_RM = answers_AM[chosen_BK].flatten(0, 1)
    keep_RM = ids_RM != decoder.config.pad
    if ids_RM.shape[1] > 1:
        cache.select(torch.arange(len(visual_BND), device=ids_RM.device).repeat_interleave(best))
        logits_RMV = decoder(ids_RM[:, :-1], visual_BND, cache)
        rest_RM = _scores(logits_RMV, smoothing).gather(2, ids_RM[:, 1:, None])[..., 0] * keep_RM[:, 1:]
        score_BK = score_BK + rest_RM.sum(dim=1).view_as(score_BK)
    score_BK = score_BK / keep_RM.sum(dim=1).view_as(score_BK)
    order_BK = score_BK.sort(dim=1, descending=True, stable=True).indices
    return Ranked(chosen_BK.gather(1, order_BK), score_BK.gather(1, order_BK))


def _scores(logits: Tensor, smoothing: float) -> Tensor:
    """Log-probabilities of the words, smoothed."""
    log_probs = logits.float().log_softmax(dim=-1)
    if smoothing == 0:
        return log_probs
    return (1 - smoothing) * log_probs + smoothing * log_probs.mean(dim=-1, keepdim=True)
