"""Texts as Prismer learns them: written in one way, cut to a length, as token ids of a prompt and of what is to be answered.

Source of the rules: Prismer, arXiv:2303.02506, and the code that prepares its texts; the released checkpoints know no others.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from expert_zoo.networks.tokenizer_file import TOKENIZER, load_tokenizer
from manifests.record import ImageRecord
from manifests.scenes import questions
from manifests.scenes.sampling import sample_world
from manifests.scenes.uri import parse_scene_uri
from trainer.data.chance import Chance
from trainer.data.selection import WHOLE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Left out of captions and questions; a caption's commas and hyphens stay.
_SPECIAL = re.compile(r"[.!\"()*#:;~]")
BOS, PAD, EOS, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"


def normalised(text: str, *, words: int) -> str:
    """One space between words, a capital at the beginning and nowhere else, ``words`` words at most."""
    return " ".join(_SPECIAL.sub(" ", text).split()[:words]).capitalize()


class Said(NamedTuple):
    """Token ids of what is given (bos first) and of what is to be learned (eos last); how much the text counts."""

    prompt: list[int]
    answer: list[int]
    weight: float


class Tokens:
    """The tokenizer of a folder. bos, pad, eos: RoBERTa's special tokens. Raises ValueError where it lacks one."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Tokenizer = load_tokenizer(folder)
        self.bos, self.pad, self.eos = (self._special(name, folder) for name in (BOS, PAD, EOS))

    def _special(self, name: str, folder: Path) -> int:
        found = self._tokenizer.token_to_id(name)
        if found is None:
            raise ValueError(
                f"{folder / TOKENIZER} has no {name}; expected RoBERTa's, or one that was written by training"
            )
        return int(found)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def ids(self, text: str) -> list[int]:
        """Without special tokens. A word that follows another one begins with a space."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Iterable[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def write_words(texts: Iterable[str], folder: Path) -> None:
    """Writes a tokenizer of the whole words in ``texts``, the frequent ones first, for a model that begins with no RoBERTa."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    split = pre_tokenizers.Whitespace()
    counts = Counter(word for text in texts for word, _ in split.pre_tokenize_str(text.lower()))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    ids = {word: number for number, word in enumerate([BOS, PAD, EOS, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = split
    tokenizer.add_special_tokens([BOS, PAD, EOS, UNKNOWN])
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"tmp-{TOKENIZER}"
    tokenizer.save(str(beside))
    beside.replace(folder / TOKENIZER)


class Task(Protocol):
    """What an example is to learn."""

    @property
    def tokenizer(self) -> Tokens: ...

    def items(self, record: ImageRecord) -> int:
        """How many examples an image is, if it is one for each of its texts."""
        ...

    def texts(self, record: ImageRecord) -> list[str]:
        """All that may be said or asked of it, for a tokenizer of its own."""
        ...

    def __call__(self, record: ImageRecord, captions: tuple[str, ...], item: int, chance: Chance) -> Said: ...


@dataclass(frozen=True, kw_only=True)
class Captions:
    """To caption: after ``prefix`` comes one of the image's captions. words, tokens: at most, prefix and special tokens included."""

    tokenizer: Tokens
    prefix: str = ""
    words: int = 30
    tokens: int = 30

    def items(self, record: ImageRecord) -> int:
        return len(record.captions)

    def texts(self, record: ImageRecord) -> list[str]:
        return [self.prefix, *record.captions]

    def __call__(self, record: ImageRecord, captions: tuple[str, ...], item: int, chance: Chance) -> Said:
        drawn = captions[item if item != WHOLE else chance.below(len(captions))] if captions else ""
        whole = self.tokenizer.ids(normalised(f"{self.prefix} {drawn}", words=self.words))[: self.tokens - 2]
        given = len(self.tokenizer.ids(self.prefix))
        return Said([self.tokenizer.bos, *whole[:given]], [*whole[given:], self.tokenizer.eos], 1.0)


class Asked(NamedTuple):
    """A question with one of its answers, and how much that one counts."""

    question: str
    answer: str
    weight: float = 1.0


class QuestionBook(Protocol):
    """Questions by image."""

    def of(self, record: ImageRecord) -> list[Asked]: ...


class SceneQuestions:
    """What the world of a rendered scene answers."""

    def of(self, record: ImageRecord) -> list[Asked]:
        seed, index, size = parse_scene_uri(record.uri)
        return [Asked(found.question, found.answer) for found in questions(sample_world(seed, index, size))]


class QuestionFile:
    """JSON lines of image_id, question, answer and, where it is not 1, weight. All of it is held in memory. Raises ValueError."""

    def __init__(self, path: Path) -> None:
        self._asked: dict[str, list[Asked]] = {}
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    found = json.loads(line)
                    asked = Asked(found["question"], found["answer"], float(found.get("weight", 1.0)))
                    self._asked.setdefault(found["image_id"], []).append(asked)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ValueError(
                        f'{path}, line {number}: {error!r}; expected {{"image_id": ..., "question": ..., "answer": ...}}'
                    ) from error

    def of(self, record: ImageRecord) -> list[Asked]:
        return self._asked.get(record.image_id, [])


@dataclass(frozen=True, kw_only=True)
class Questions:
    """To answer: a question is given, its answer is to be learned. words, tokens: of the question, at most."""

    tokenizer: Tokens
    book: QuestionBook
    words: int = 30
    tokens: int = 35

    def items(self, record: ImageRecord) -> int:
        return len(self.book.of(record))

    def texts(self, record: ImageRecord) -> list[str]:
        return [text for asked in self.book.of(record) for text in (asked.question, asked.answer)]

    def __call__(self, record: ImageRecord, captions: tuple[str, ...], item: int, chance: Chance) -> Said:
        asked = self.book.of(record)
        one = asked[item if item != WHOLE else chance.below(len(asked))]
        prompt = [self.tokenizer.bos, *self.tokenizer.ids(question_form(one.question, words=self.words))]
        answer = [*self.tokenizer.ids(f" {one.answer.capitalize()}"), self.tokenizer.eos]
        return Said(prompt[: self.tokens], answer, one.weight)


def question_form(text: str, *, words: int) -> str:
    """A question as it is put, with its mark."""
    text = normalised(text, words=words)
    return text if text.endswith("?") else f"{text}?"


BOOKS: Mapping[str, type[QuestionBook]] = {"scenes": SceneQuestions}
