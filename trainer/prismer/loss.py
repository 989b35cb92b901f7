"""What is trained on: the cross-entropy of the answers' tokens.

Shapes: B texts, L tokens, M tokens of all texts, V words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.prismer.text import TextBatch


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How tokens become one number.

    smoothing: share of the target that is spread over all words. per: ``text`` sums a text's tokens and averages over texts,
    as Prismer does, so that a long caption counts more; ``token`` averages over all tokens of a batch.
    """

    smoothing: float = 0.1
    per: Literal["text", "token"] = "text"

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}; expected from 0 to below 1")
        if self.per not in ("text", "token"):
            raise ValueError(f"a loss per {self.per!r}; expected text or token")


class Loss(NamedTuple):
    """``loss``: the number with a gradient. The others are without: sums over the batch's answer tokens, to be added up over
    batches and ranks. ``nll``: negative log-likelihood in nats, without smoothing. ``correct``: tokens that are the most
    likely one. ``tokens``: how many there are."""

    loss: Tensor
    nll: Tensor
    correct: Tensor
    tokens: Tensor

    def stats(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What is worth watching, by name: a sum and what it is a sum over."""
        return {"nll": (self.nll, self.tokens), "accuracy": (self.correct, self.tokens)}


def loss_of(logits_BLV: Tensor, text: TextBatch, objective: Objective) -> Loss:
    """logits_BLV: of the word after each token of ``text.ids_BL``."""
    logits_MV = logits_BLV[:, :-1].flatten(0, 1).float()
    target_BL, answer_BL = text.ids_BL[:, 1:], text.answer_BL[:, 1:]
    target_M = target_BL.flatten()
    smoothed_M = cross_entropy(logits_MV, target_M, reduction="none", label_smoothing=objective.smoothing)
    tokens = answer_BL.sum()
    weighted_BL = smoothed_M.view_as(target_BL) * answer_BL * text.weight_B[:, None]
    loss = weighted_BL.sum() / (len(target_BL) if objective.per == "text" else tokens)
    said_MV = logits_MV.detach()
    answer_M = answer_BL.flatten()
    return Loss(
        loss=loss,
        nll=(cross_entropy(said_MV, target_M, reduction="none") * answer_M).sum(),
        correct=((said_MV.argmax(dim=1) == target_M) & answer_M).sum(),
        tokens=tokens,
    )
