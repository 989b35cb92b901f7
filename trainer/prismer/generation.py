"""Writing: the likeliest continuation of each photo's prompt, by beam search or, with one beam, greedily.

The rules are those that the released checkpoints were evaluated with (transformers 4.26, arXiv:1910.03771), with one change:
a text's length never counts its padding, so that what is written for a photo does not depend on the others in its batch.

    every live text of a photo x every word -> the 2 W likeliest
        a text that ends, if it is among the W likeliest: finished; the W likeliest that do not end: live
    over when W texts are finished and no live one can be better, or at the greatest length

Shapes: B photos, W beams, R = B W rows, V words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.prismer.config import TextConfig

#: From the next tokens (R x 1, int64) of these rows of the step before (R) to R x V logits.
Step = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Search:
    """How to write. beams: 1 is greedy. least, most: new tokens of a text, eos among them; before ``least`` others no text ends.

    length_penalty: a text's score is the sum of its log-probabilities over the number of its tokens, the prompt's included
    and eos not, to this power.
    """

    beams: int = 3
    least: int = 0
    most: int = 20
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.beams < 1 or not 0 <= self.least <= self.most or self.most < 1:
            raise ValueError(
                f"{self.beams} beams and {self.least} to {self.most} tokens; expected one of each or more, and the least first"
            )


class Written(NamedTuple):
    """``ids``: the new tokens without eos. ``score``: as Search says, in nats."""

    ids: list[int]
    score: float


@dataclass
class _Photo:
    """What is being written for one photo. prompt: its tokens. live: new tokens and summed log-probability of each text."""

    prompt: int
    live: list[tuple[list[int], float]]
    finished: list[Written] = field(default_factory=list)
    over: bool = False

    def finish(self, ids: list[int], total: float, search: Search) -> None:
        """Keep the text if it is among the best W."""
        self.finished.append(Written(ids, self.score(total, len(ids), search)))
        self.finished.sort(key=lambda written: -written.score)
        del self.finished[search.beams :]

    def score(self, total: float, new: int, search: Search) -> float:
        return total / (self.prompt + new) ** search.length_penalty


def write(
    first_BV: Tensor, step: Step, *, prompt_lengths: list[int], text: TextConfig, search: Search
) -> list[Written]:
    """The best text for each photo. Padding is never written.

    first_BV: logits of the word after each prompt. step: goes on; its first rows are of B, all others of R.
    """
    eos = text.eos
    photos = [_Photo(prompt=length, live=[([], 0.0)]) for length in prompt_lengths]
    logits_RV = first_BV
    for number in range(search.most):
        barred = [text.pad] if number >= search.least else [text.pad, eos]
        candidates = _likeliest(logits_RV, photos, barred=barred, search=search)
        before = [len(photo.live) for photo in photos]
        parents = [_advance(photo, found, eos, search) for photo, found in zip(photos, candidates, strict=True)]
        if all(photo.over for photo in photos) or number + 1 == search.most:
            break
        rows = [sum(before[:place]) + parent for place, chosen in enumerate(parents) for parent in chosen]
        tokens = [[ids[-1]] for photo in photos for ids, _ in photo.live]
        device = logits_RV.device
        logits_RV = step(torch.tensor(tokens, device=device), torch.tensor(rows, device=device))
    for photo in photos:
        if not photo.over:
            for ids, total in photo.live:
                photo.finish(ids, total, search)
    return [photo.finished[0] for photo in photos]


def _likeliest(
    logits_RV: Tensor, photos: list[_Photo], *, barred: list[int], search: Search
) -> list[list[tuple[float, int, int]]]:
    """For each photo: summed log-probability, live text, next word of its 2 W likeliest texts, the likeliest first."""
    log_probs_RV = logits_RV.float().log_softmax(dim=1)
    log_probs_RV[:, barred] = -math.inf
    totals_R1 = log_probs_RV.new_tensor([[total] for photo in photos for _, total in photo.live])
    words = logits_RV.shape[1]
    all_BX = (totals_R1 + log_probs_RV).view(len(photos), -1)
    found = all_BX.topk(min(2 * search.beams, all_BX.shape[1]), dim=1)
    totals, places = found.values.tolist(), found.indices.tolist()
    return [
        [(total, *divmod(place, words)) for total, place in zip(*of_photo, strict=True) if total > -math.inf]
        for of_photo in zip(totals, places, strict=True)
    ]


def _advance(photo: _Photo, candidates: list[tuple[float, int, int]], eos: int, search: Search) -> list[int]:
    """Move a photo's texts on by one word; which live text each new one goes on from. One that is over stays as it is."""
    if photo.over:
        # Its rows go on being computed with the others', and nobody reads them.
        return [0] * search.beams
    live, parents = [], []
    for rank, (total, parent, word) in enumerate(candidates):
        ids = photo.live[parent][0]
        if word != eos:
            live.append(([*ids, word], total))
            parents.append(parent)
        elif rank < search.beams:
            photo.finish(ids, total, search)
        if len(live) == search.beams:
            break
    assert len(live) == search.beams, "fewer words than beams"
    length = len(photo.live[0][0])
    if len(photo.finished) == search.beams:
        best = photo.score(candidates[0][0], length, search)
        photo.over = photo.finished[-1].score >= best
    photo.live = live
    return parents
