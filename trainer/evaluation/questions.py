"""Questions about photos: those of VQAv2's files, and those that are true of a rendered scene.

Source of the files' form: VQA, visualqa.org/vqa_v2_dataset.html and the challenge's API. Photos are COCO's, so that a question finds
its image by COCO's number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from manifests.location import open_binary, replacing
from manifests.record import ImageRecord
from trainer.data.chance import Chance
from trainer.evaluation.answers import shares
from trainer.scenes import questions_of

#: The questions about an image, in a fixed order; none where there are none.
QuestionsOf = Callable[[ImageRecord], tuple["Question", ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """``key``: unique among all questions. ``answers``: of the people who were asked, ten in VQA, one of a scene; () where they
    are kept secret. ``kind``: what accuracy is told by."""

    key: str
    question: str
    answers: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class AllQuestions:
    """What a dataset's ``text_of`` may be, so that a batch carries all questions about its photos."""

    of: QuestionsOf

    def __call__(
        self, record: ImageRecord, captions: tuple[str, ...], item: int, chance: Chance
    ) -> tuple[Question, ...]:
        return self.of(record)


def scene_questions(record: ImageRecord) -> tuple[Question, ...]:
    """Every question with one true answer about the scene that the record stands for. Raises ValueError where it is no scene."""
    return tuple(
        Question(key=f"{record.image_id}-{n}", question=asked.question, answers=(asked.answer,), kind=asked.kind)
        for n, asked in enumerate(questions_of(record.uri))
    )


class VqaQuestions:
    """Questions by COCO's number of an image: call it with a record. ``count``: of all."""

    def __init__(self, by_image: Mapping[int, tuple[Question, ...]]) -> None:
        self.by_image = by_image
        self.count = sum(map(len, by_image.values()))

    @classmethod
    def read(cls, questions: str, annotations: str | None = None) -> VqaQuestions:
        """From v2_OpenEnded_mscoco_*_questions.json and v2_mscoco_*_annotations.json (a test set has none), paths or URLs.

        kind: the annotations' answer_type (yes/no, number, other), "" without them. Raises ValueError: another file, a question
        twice, or one without answers.
        """
        asked = _entries(questions, "questions", ("question_id", "image_id", "question"))
        answered = (
            _entries(annotations, "annotations", ("question_id", "answers", "answer_type")) if annotations else None
        )
        found: dict[int, tuple[Question, ...]] = {}
        for number, entry in asked.items():
            given: tuple[str, ...] = ()
            kind = ""
            if answered is not None:
                if number not in answered or not answered[number]["answers"]:
                    raise ValueError(
                        f"{annotations} has no answers to question {number} of {questions}; expected both of one split"
                    )
                given = tuple(str(one["answer"]) for one in answered[number]["answers"])
                kind = str(answered[number]["answer_type"])
            question = Question(key=str(number), question=str(entry["question"]), answers=given, kind=kind)
            image = int(entry["image_id"])
            found[image] = (*found.get(image, ()), question)
        return cls(found)

    def __call__(self, record: ImageRecord) -> tuple[Question, ...]:
        return self.by_image.get(coco_number(record.image_id), ())


def write_for_training(found: VqaQuestions, where: str) -> int:
    """JSON lines as recipes take them: every different answer to a question, weighing the share of people who gave it.

    Returns how many. Raises ValueError for questions whose answers are secret.
    """
    count = 0
    with replacing(where) as stream:
        for image, questions in sorted(found.by_image.items()):
            for question in questions:
                if not question.answers:
                    raise ValueError(
                        f"question {question.key} has no answers to learn; expected a split with annotations"
                    )
                for answer, weight in shares(question.answers).items():
                    line = {
                        "image_id": coco_id(image),
                        "question": question.question,
                        "answer": answer,
                        "weight": weight,
                    }
                    stream.write(json.dumps(line).encode() + b"\n")
                    count += 1
    return count


def coco_id(number: int) -> str:
    """The image id of a photo of COCO, as manifests.sources.coco makes it."""
    return f"coco_{number:012d}"


def coco_number(image_id: str) -> int:
    """COCO's own number in an image id, as manifests.sources.coco makes them (coco_000000391895). Raises ValueError."""
    digits = image_id.rpartition("_")[2]
    if not (image_id.startswith("coco_") and digits.isascii() and digits.isdigit()):
        raise ValueError(f"image {image_id!r} has no number of COCO's; expected a manifest made from COCO's own files")
    return int(digits)


def _entries(where: str, key: str, fields: tuple[str, ...]) -> dict[int, Any]:
    """The file's list of objects, by question_id."""
    with open_binary(where) as stream:
        try:
            content = json.load(stream)
        except ValueError as error:
            raise ValueError(f"{where} is no JSON: {error}; expected a file of VQAv2") from error
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and all(field in entry for field in fields) for entry in entries
    ):
        raise ValueError(f"{where} has no list {key!r} of objects with {', '.join(fields)}; expected a file of VQAv2")
    found = {int(entry["question_id"]): entry for entry in entries}
    if len(found) < len(entries):
        raise ValueError(f"{where} has {len(entries) - len(found)} questions twice; expected every question_id once")
    return found
