"""How a Prismer replies: by beam search, or by ranking what it may choose from, as its authors evaluated it.

Source of the protocol: Prismer, arXiv:2303.02506, and the released code that evaluates it: captions of 8 to 20 tokens by 3 beams,
answers by the 16 whose first token is the likeliest, classes by 32.

Shapes: B photos looked at, R replies asked for, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.data.batch import Batch
from trainer.prismer.generation import Search
from trainer.prismer.method import PrismerMethod
from trainer.prismer.recipe import PrismerChoice
from trainer.prismer.text import Ids, padded
from trainer.prismer.texts import Tokens, question_form


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How to reply.

    prefix              every caption goes on from it, and it is no part of what is said; "" where none was trained
    beams               of captions and answers
    caption_tokens      of a caption, at least and at most, bos, prefix and eos included
    answer_tokens       of an answer, at least before its end and at most with it
    answer_penalty      length penalty of answers: below 0 the short ones win
    question_words, question_tokens   at most, as in training
    best_answers, best_classes        so many are scored whole
    smoothing           of the scores that are ranked; the released code has 0.1
    """

    prefix: str = ""
    beams: int = 3
    caption_tokens: tuple[int, int] = (8, 20)
    answer_tokens: tuple[int, int] = (0, 10)
    answer_penalty: float = -1.0
    question_words: int = 30
    question_tokens: int = 35
    best_answers: int = 16
    best_classes: int = 32
    smoothing: float = 0.0


#: The manner in which the released checkpoints were evaluated, but for the prefix.
AS_RELEASED = Manner(answer_tokens=(2, 10), smoothing=0.1)


def manner_of(choice: PrismerChoice) -> Manner:
    """How a model replies that was trained so: within the lengths that it knows. With RoBERTa's words, captions have the paper's
    8 to 20; one that sees labels as the released checkpoints do replies as they were evaluated."""
    return replace(
        AS_RELEASED if choice.as_released else Manner(),
        prefix=choice.prefix,
        caption_tokens=(8, 20) if choice.tokenizer else (0, choice.tokens),
        question_words=choice.words,
        question_tokens=choice.tokens,
    )


class PrismerSpeaker:
    """A Speaker. The method stays on its device, and is put into eval when it looks at photos.

    precision: of the network; None is that of its weights.
    """

    def __init__(
        self,
        method: PrismerMethod,
        tokenizer: Tokens,
        *,
        manner: Manner | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        self._method = method
        self._model = method.model
        self._tokens = tokenizer
        self._manner = manner or Manner()
        self._precision = precision
        self._lists: dict[tuple[str, ...], list[Ids]] = {}

    def in_manner(self, manner: Manner) -> PrismerSpeaker:
        """The same model, replying otherwise."""
        return PrismerSpeaker(self._method, self._tokens, manner=manner, precision=self._precision)

    @property
    def device(self) -> torch.device:
        return next(self._model.parameters()).device

    def look(self, batch: Batch) -> Tensor:
        self._method.eval()
        photo_B3HW, labels = self._method.inputs(batch.to(self.device))
        with self._cast():
            return self._model.encode(photo_B3HW, labels)

    def caption(self, seen: Tensor, photos: Sequence[int]) -> list[str]:
        manner, prompt = self._manner, self._prefix()
        least, most = (max(0, tokens - len(prompt)) for tokens in manner.caption_tokens)
        return self._write(seen, photos, [prompt] * len(photos), Search(beams=manner.beams, least=least, most=most))

    def answer(self, seen: Tensor, photos: Sequence[int], questions: Sequence[str]) -> list[str]:
        manner = self._manner
        least, most = manner.answer_tokens
        search = Search(beams=manner.beams, least=least, most=most, length_penalty=manner.answer_penalty)
        return [text.lower() for text in self._write(seen, photos, self._asked(questions), search)]

    def choose(
        self, seen: Tensor, photos: Sequence[int], questions: Sequence[str], answers: Sequence[str]
    ) -> list[int]:
        written = self._written(tuple(f" {answer.capitalize()}" for answer in answers))
        return self._rank(seen, photos, self._asked(questions), written, self._manner.best_answers)

    def classify(self, seen: Tensor, photos: Sequence[int], names: Sequence[str]) -> list[int]:
        written = self._written(tuple(f" {name.lower()}" for name in names))
        return self._rank(seen, photos, [self._prefix()] * len(photos), written, self._manner.best_classes)

    def _write(self, seen: Tensor, photos: Sequence[int], prompts: Sequence[Ids], search: Search) -> list[str]:
        if not photos:
            return []
        with self._cast():
            found = self._model.generate(seen[list(photos)], self._padded(prompts), search)
        return [self._tokens.text(written.ids) for written in found]

    def _rank(
        self, seen: Tensor, photos: Sequence[int], prompts: Sequence[Ids], answers: Sequence[Ids], best: int
    ) -> list[int]:
        if not photos:
            return []
        with self._cast():
            ranked = self._model.rank(
                seen[list(photos)], self._padded(prompts), answers, best=best, smoothing=self._manner.smoothing
            )
        return [int(place) for place in ranked.answers_BK[:, 0]]

    def _prefix(self) -> list[int]:
        return [self._tokens.bos, *self._tokens.ids(self._manner.prefix)]

    def _asked(self, questions: Sequence[str]) -> list[Ids]:
        manner = self._manner
        texts = [question_form(question, words=manner.question_words) for question in questions]
        return [[self._tokens.bos, *self._tokens.ids(text)][: manner.question_tokens] for text in texts]

    def _written(self, texts: tuple[str, ...]) -> list[Ids]:
        """Token ids of a list to choose from; the same few lists are asked for again and again."""
        if texts not in self._lists:
            self._lists[texts] = [[*self._tokens.ids(text), self._tokens.eos] for text in texts]
        return self._lists[texts]

    def _padded(self, prompts: Sequence[Ids]) -> Tensor:
        return padded(prompts, pad=self._tokens.pad).to(self.device)

    def _cast(self) -> torch.autocast:
        dtype = self._precision or torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self._precision is not None)
