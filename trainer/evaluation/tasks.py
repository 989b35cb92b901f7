"""Tasks: what is asked of a model about each photo, and how what it said is scored.

A batch is asked by its ``ids``, ``captions`` and ``texts``: the datasets' references, and what ``text_of`` made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from manifests.annotations.questions import Question
from manifests.record import ImageRecord
from trainer.evaluation.answers import accuracy, simple
from trainer.evaluation.captions import QUICK, Measure, score_captions
from trainer.evaluation.speaker import Speaker

#: Questions that a model is asked at once.
AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One thing that a model said. key: unique among all. truth: what people said of the same, () where that is secret."""

    key: str
    image_id: str
    text: str
    truth: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Answers of one kind. percent: accuracy. blind: that of whoever always gives the kind's most frequent answer, having seen the
    truth but no photo; what is not above it was not seen."""

    kind: str
    asked: int
    percent: float
    blind: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """numbers: by name, in percent; for logs, and to choose a checkpoint by. kinds: of answers. notes: what to know of them."""

    numbers: dict[str, float]
    kinds: tuple[Kind, ...] = ()
    notes: tuple[str, ...] = ()


class Task(Protocol):
    """``name``: as in recipes and files."""

    @property
    def name(self) -> str: ...

    def ask(self, speaker: Speaker, seen: Any, batch: Any, photos: Sequence[int]) -> Iterator[Reply]:
        """What the model says of these photos of the batch."""
        ...

    def score(self, said: Sequence[Reply]) -> Scores:
        """Raises ValueError where there is nothing to compare with."""
        ...


@dataclass(frozen=True, kw_only=True)
class Captioning:
    """A caption for each photo, compared with those of its record. by_domain: ``texts`` tell NoCaps' pictures, so that each of its
    domains has scores of its own, as on its server."""

    measures: Sequence[Measure] = QUICK
    by_domain: bool = False
    name: str = "captions"

    def ask(self, speaker: Speaker, seen: Any, batch: Any, photos: Sequence[int]) -> Iterator[Reply]:
        for photo, text in zip(photos, speaker.caption(seen, photos), strict=True):
            image, truth, domain = batch.ids[photo], tuple(batch.captions[photo]), ""
            if self.by_domain:
                picture = batch.texts[photo]
                truth, domain = picture.captions or truth, picture.domain
            yield Reply(key=image, image_id=image, text=sentence(text), truth=truth, kind=domain)

    def score(self, said: Sequence[Reply]) -> Scores:
        whole = self._scored(said)
        domains = sorted({one.kind for one in said} - {""})
        parts = {domain: self._scored([one for one in said if one.kind == domain]).numbers for domain in domains}
        numbers = {f"{name}/{domain}": number for domain, part in parts.items() for name, number in part.items()}
        return Scores(numbers=whole.numbers | numbers, notes=whole.notes)

    def _scored(self, said: Sequence[Reply]) -> Scores:
        found = score_captions(
            {one.image_id: one.text for one in said},
            {one.image_id: one.truth for one in said},
            measures=self.measures,
        )
        notes = [f"words by {'the treebank tokenizer' if found.tokenizer == 'ptb' else 'our own rule, without Java'}"]
        notes += [f"no {measure}: {why}" for measure, why in found.left_out.items()]
        empty = sum(one.text == "" for one in said)
        notes += [f"{empty} of {len(said)} captions are empty"] if empty else []
        return Scores(numbers=found.overall, notes=tuple(notes))


@dataclass(frozen=True, kw_only=True)
class Answering:
    """An answer to each question that ``texts`` has about a photo.

    choices: to choose from, None for the model's own words. Where several people answered, ten in VQA, the accuracy is the official
    one; where there is one answer, it is whether it is that one, in the simple form that VQA compares.
    """

    choices: Sequence[str] | None = None
    name: str = "answers"

    def ask(self, speaker: Speaker, seen: Any, batch: Any, photos: Sequence[int]) -> Iterator[Reply]:
        asked = [(photo, question) for photo in photos for question in batch.texts[photo]]
        for begin in range(0, len(asked), AT_ONCE):
            part = asked[begin : begin + AT_ONCE]
            rows, texts = [photo for photo, _ in part], [question.question for _, question in part]
            if self.choices is None:
                answers = speaker.answer(seen, rows, texts)
            else:
                answers = [self.choices[place] for place in speaker.choose(seen, rows, texts, self.choices)]
            for (photo, question), answer in zip(part, answers, strict=True):
                yield _reply(question, batch.ids[photo], answer)

    def score(self, said: Sequence[Reply]) -> Scores:
        without = [one.key for one in said if not any(answer.strip() for answer in one.truth)]
        if without or not said:
            raise ValueError(
                f"{len(without)} of {len(said)} questions have no answers to compare with"
                + (f", the first is {without[0]}" if without else "")
                + "; expected questions with answers: those of a test set are for the server alone"
            )
        each = [_right(one.text, one.truth) for one in said]
        by_kind: dict[str, list[int]] = {}
        for place, one in enumerate(said):
            by_kind.setdefault(one.kind, []).append(place)
        kinds = tuple(
            Kind(
                kind=kind,
                asked=len(places),
                percent=_percent([each[place] for place in places]),
                blind=_blind([said[place].truth for place in places]),
            )
            for kind, places in sorted(by_kind.items())
        )
        numbers = {"accuracy": _percent(each)} | {f"accuracy/{kind.kind}": kind.percent for kind in kinds if kind.kind}
        return Scores(numbers=numbers, kinds=kinds)


@dataclass(frozen=True, kw_only=True)
class Classifying:
    """What each photo shows, of all classes: ImageNet as Prismer does it (arXiv:2303.02506, section 4.3).

    A photo's class is its first caption. names: of all classes (`class_names`). Two classes of one name ("crane") are one here.
    """

    names: Sequence[str]
    name: str = "classes"

    def ask(self, speaker: Speaker, seen: Any, batch: Any, photos: Sequence[int]) -> Iterator[Reply]:
        for photo, number in zip(photos, speaker.classify(seen, photos, self.names), strict=True):
            image = batch.ids[photo]
            truth = tuple(batch.captions[photo][:1])
            if not truth or truth[0] not in self.names:
                raise ValueError(
                    f"image {image} is of class {''.join(truth)!r}, which is none of the {len(self.names)}; expected the name of a class "
                    "as the first caption"
                )
            yield Reply(key=image, image_id=image, text=self.names[number], truth=truth)

    def score(self, said: Sequence[Reply]) -> Scores:
        if not said:
            raise ValueError("there is no photo to classify; expected one of each class at least")
        return Scores(numbers={"accuracy": _percent([float(one.text == one.truth[0]) for one in said])})


def class_names(records: Iterable[ImageRecord]) -> list[str]:
    """The first captions of the records, each once, sorted."""
    return sorted({record.captions[0] for record in records if record.captions})


def sentence(text: str) -> str:
    """With a capital letter and a full stop; an empty one stays empty."""
    text = text.strip().rstrip(". ")
    return text and f"{text[0].upper()}{text[1:]}."


def by_key(said: Sequence[Reply]) -> Mapping[str, str]:
    """What was said, for a file of results."""
    return {one.key: one.text for one in said}


def _reply(question: Question, image_id: str, answer: str) -> Reply:
    return Reply(key=question.key, image_id=image_id, text=answer, truth=question.answers, kind=question.kind)


def _right(answer: str, truth: Sequence[str]) -> float:
    """0 to 1."""
    return accuracy(answer, truth) if len(truth) > 1 else float(simple(answer) == simple(truth[0]))


def _blind(truths: Sequence[Sequence[str]]) -> float:
    counts = Counter(simple(answer) for truth in truths for answer in truth)
    often = min(counts, key=lambda answer: (-counts[answer], answer))
    return _percent([_right(often, truth) for truth in truths])


def _percent(shares: Sequence[float]) -> float:
    return 100 * sum(shares) / len(shares)
