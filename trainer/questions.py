"""Which questions: those that are true of rendered scenes, or those of datasets' own files. Said in recipes and to evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field, TypeAdapter

from manifests.annotations.question_files import read_questions
from manifests.annotations.questions import Question, Questions, joined
from manifests.record import ImageRecord
from trainer.scenes import questions_of
from trainer.training import Section

SCENES = "scenes"
#: The questions about an image, in a fixed order; () where there are none.
QuestionsOf = Callable[[ImageRecord], tuple[Question, ...]]


class QuestionFile(Section):
    """A file of questions, a path or URL: VQAv2's with its ``annotations``, Visual Genome's question_answers.json, a list of BLIP's
    or Prismer's, JSON lines. weight: what each of them counts in training."""

    file: str = Field(min_length=1)
    annotations: str | None = Field(None, min_length=1)
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)


#: "scenes", one file, or several.
QuestionsChoice = str | tuple[QuestionFile, ...]
_CHOICE: TypeAdapter[QuestionsChoice | None] = TypeAdapter(QuestionsChoice | None)


def choice_of(plain: Any) -> QuestionsChoice | None:
    """From plain values, as a checkpoint keeps them."""
    return _CHOICE.validate_python(plain)


def read(choice: QuestionsChoice, annotations: str | None = None) -> Questions:
    """The questions of one file or several. annotations: of the one. Raises ValueError for another file, or a broken one."""
    files = (QuestionFile(file=choice, annotations=annotations),) if isinstance(choice, str) else choice
    return joined([read_questions(one.file, one.annotations, weight=one.weight) for one in files])


def scene_questions(record: ImageRecord) -> tuple[Question, ...]:
    """Every question with one true answer about the scene that the record stands for. Raises ValueError where it is no scene."""
    image = record.image_id
    return tuple(
        Question(key=f"{image}-{n}", picture=image, question=asked.question, answers=(asked.answer,), kind=asked.kind)
        for n, asked in enumerate(questions_of(record.uri))
    )
