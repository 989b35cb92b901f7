"""Which Prismer, and what it is to learn: the method's part of a recipe."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from trainer.prismer.config import SIX, Modality, SizeName
from trainer.questions import QuestionsChoice
from trainer.training import Section


class PrismerChoice(Section):
    """A Prismer, or without experts a PrismerZ.

    resolution, label_resolution   pixels per side; null: the size's own
    freeze          ``nothing``; ``vision``: CLIP's blocks; ``backbones``: CLIP's blocks and RoBERTa's layers
    clip, roberta   networks to begin with: names that `expert-labels weights list` has, or folders in transformers' form
    weights         a Prismer to begin with instead: a released one by its name or its file, or a file of our own
    tokenizer       RoBERTa, by name or folder; null: one of the whole words in the training texts, which is kept with the run
    embeddings      folder or URL of the vectors of class names and words (`expert-labels embed`)
    task            ``caption``, ``question``, or ``both`` of the same photos; ``questions``: "scenes", a file or several:
                    VQAv2's own, Visual Genome's, lists of BLIP's or Prismer's, JSON lines (trainer/questions.py)
    texts           so many captions or questions of a photo are learned at once, drawn by chance anew in every epoch (`data.per:
                    image`); it is looked at once for all of them. Of ``both``: so many questions, beside one caption
    caption_weight  what a caption counts beside a question, in ``both``
    prefix          what every caption begins with, and is given
    per             the loss is a mean per text, as Prismer's authors have it, or per token
    as_released     labels are scaled as the released checkpoints know them
    """

    name: Literal["prismer"] = "prismer"
    size: SizeName
    experts: tuple[Modality, ...] = SIX
    resolution: int | None = Field(None, gt=0)
    label_resolution: int | None = Field(None, gt=0)
    freeze: Literal["nothing", "vision", "backbones"] = "nothing"
    clip: str | None = Field(None, min_length=1)
    roberta: str | None = Field(None, min_length=1)
    weights: str | None = Field(None, min_length=1)
    tokenizer: str | None = Field(None, min_length=1)
    embeddings: str | None = Field(None, min_length=1)
    task: Literal["caption", "question", "both"] = "caption"
    texts: int = Field(1, gt=0)
    caption_weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    prefix: str = ""
    questions: QuestionsChoice | None = None
    words: int = Field(30, gt=0)
    tokens: int = Field(30, gt=2)
    smoothing: float = Field(0.1, ge=0, lt=1)
    per: Literal["text", "token"] = "text"
    pad_before_answer: bool = False
    as_released: bool = False

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if (self.task == "caption") != (self.questions is None):
            raise ValueError(
                '`questions` is for `task: question` or `both`, which need it: "scenes", or files such as VQAv2\'s'
            )
        if self.caption_weight != 1 and self.task != "both":
            raise ValueError("`caption_weight` is for `task: both`, where there are questions beside a caption")
        if self.weights is not None and (self.clip is not None or self.roberta is not None):
            raise ValueError("`weights` is a whole Prismer; give it, or `clip` and `roberta`")
        return self
