"""Texts as Prismer learns them: written in one way, cut to a length, as token ids of a prompt and of what is to be answered.

Source of the rules: Prismer, arXiv:2303.02506, and the code that prepares its texts; the released checkpoints know no others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from expert_zoo.networks.tokenizer_file import TOKENIZER, load_tokenizer
from manifests.record import ImageRecord
from trainer.data.chance import Chance
from trainer.data.selection import WHOLE
from trainer.prismer.books import Asked, QuestionBook

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")

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
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    split = pre_tokenizers.Whitespace()
    counts = Counter(word for text in texts for word, _ in split.pre_tokenize_str(text.lower()))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    ids = {word: number for number, word in enumerate([BOS, PAD, EOS, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = split
    # Back to text: no space before a mark, and none around what joins two halves of a word.
    joints = [decoders.Replace(f" {joint} ", joint) for joint in "-'’"]
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(prefix="##", cleanup=True), decoders.Fuse(), *joints])
    tokenizer.add_special_tokens([BOS, PAD, EOS, UNKNOWN])
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"tmp-{TOKENIZER}"
    tokenizer.save(str(beside))
    beside.replace(folder / TOKENIZER)


class Task(Protocol):
    """What an example is to learn, of one kind."""

    @property
    def tokenizer(self) -> Tokens: ...

    def items(self, record: ImageRecord) -> int:
        """How many examples an image is, if it is one for each of its texts."""
        ...

    def texts(self, record: ImageRecord) -> list[str]:
        """All that may be said or asked of it, for a tokenizer of its own."""
        ...

    def __call__(self, record: ImageRecord, captions: tuple[str, ...], item: int, chance: Chance) -> Said:
        """Its text of that number, or for WHOLE one drawn by chance."""
        ...

    def several(self, record: ImageRecord, captions: tuple[str, ...], count: int, chance: Chance) -> list[Said]:
        """So many of its texts drawn by chance, none again before all were drawn."""
        ...


@dataclass(frozen=True, kw_only=True)
class Captions:
    """To caption: after ``prefix`` comes one of the image's captions. words, tokens: at most, prefix and special tokens included.
    weight: how much each counts."""

    tokenizer: Tokens
    prefix: str = ""
    words: int = 30
    tokens: int = 30
    weight: float = 1.0

    def items(self, record: ImageRecord) -> int:
        return len(record.captions)

    def texts(self, record: ImageRecord) -> list[str]:
        return [self.prefix, *record.captions]

    def __call__(self, record: ImageRecord, captions: tuple[str, ...], item: int, chance: Chance) -> Said:
        if item == WHOLE:
            return self.several(record, captions, 1, chance)[0]
        return self._said(captions[item])

    def several(self, record: ImageRecord, captions: tuple[str, ...], count: int, chance: Chance) -> list[Said]:
        return [self._said(caption) for caption in drawn(captions or ("",), count, chance)]

    def _said(self, caption: str) -> Said:
        whole = self.tokenizer.ids(normalised(f"{self.prefix} {caption}", words=self.words))[: self.tokens - 2]
        given = len(self.tokenizer.ids(self.prefix))
        return Said([self.tokenizer.bos, *whole[:given]], [*whole[given:], self.tokenizer.eos], self.weight)


@dataclass(frozen=True, kw_only=True)
class Questions:
    """To answer: a question is given, its answer is to be learned. words, tokens: of the question, at most.

    Where questions have kinds, one that is drawn is of each kind as often as of any other, however many of that kind there are.
    """

    tokenizer: Tokens
    book: QuestionBook
    words: int = 30
    tokens: int = 35

    def items(self, record: ImageRecord) -> int:
        return len(self.book.of(record))

    def texts(self, record: ImageRecord) -> list[str]:
        return [text for asked in self.book.of(record) for text in (asked.question, asked.answer)]

    def __call__(self, record: ImageRecord, captions: tuple[str, ...], item: int, chance: Chance) -> Said:
        if item == WHOLE:
            return self.several(record, captions, 1, chance)[0]
        return self._said(self.book.of(record)[item])

    def several(self, record: ImageRecord, captions: tuple[str, ...], count: int, chance: Chance) -> list[Said]:
        kinds: dict[str, list[Asked]] = {}
        for one in self.book.of(record):
            kinds.setdefault(one.kind, []).append(one)
        if len(kinds) < 2:
            return [self._said(one) for one in drawn(next(iter(kinds.values())), count, chance)]
        of_kinds = [kinds[name] for name in drawn(sorted(kinds), count, chance)]
        return [self._said(questions[chance.below(len(questions))]) for questions in of_kinds]

    def _said(self, one: Asked) -> Said:
        prompt = [self.tokenizer.bos, *self.tokenizer.ids(question_form(one.question, words=self.words))]
        answer = [*self.tokenizer.ids(f" {one.answer.capitalize()}"), self.tokenizer.eos]
        return Said(prompt[: self.tokens], answer, one.weight)


#: What a photo's example is to learn, by kind: "caption", "question". Every photo of a batch has the same kinds, each as often.
Lesson = dict[str, list[Said]]


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """All that is learned of a photo at once. tasks: by kind. counts: likewise, how many texts are drawn where the example stands
    for its photo; one that stands for a text has that text, and one kind."""

    tasks: Mapping[str, Task]
    counts: Mapping[str, int]

    @property
    def tokenizer(self) -> Tokens:
        return next(iter(self.tasks.values())).tokenizer

    def items(self, record: ImageRecord) -> int:
        """As of a Task; of several kinds an image has as many as of the rarest."""
        return min(task.items(record) for task in self.tasks.values())

    def has_texts(self, record: ImageRecord, captions_of_record: bool) -> bool:
        """Whether there is one of every kind at least, as far as the record tells."""
        told = [task for kind, task in self.tasks.items() if kind != "caption" or captions_of_record]
        return all(task.items(record) > 0 for task in told)

    def texts(self, record: ImageRecord) -> list[str]:
        return [text for task in self.tasks.values() for text in task.texts(record)]

    def __call__(self, record: ImageRecord, captions: tuple[str, ...], item: int, chance: Chance) -> Lesson:
        if item == WHOLE:
            return {
                kind: task.several(record, captions, self.counts[kind], chance) for kind, task in self.tasks.items()
            }
        return {kind: [task(record, captions, item, chance)] for kind, task in self.tasks.items()}


def drawn(texts: Sequence[T], count: int, chance: Chance) -> list[T]:
    """``count`` of ``texts``, which are one or more; none again before all were drawn."""
    found: list[T] = []
    while len(found) < count:
        rest = list(texts)
        found += [rest.pop(chance.below(len(rest))) for _ in range(min(count - len(found), len(rest)))]
    return found


def question_form(text: str, *, words: int) -> str:
    """A question as it is put, with its mark."""
    text = normalised(text, words=words)
    return text if text.endswith("?") else f"{text}?"
