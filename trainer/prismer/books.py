"""Books of questions: what is asked about an image in training, and what is to be answered."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from manifests.annotations.questions import Questions
from manifests.record import ImageRecord
from trainer.evaluation.answers import shares
from trainer.questions import SCENES, QuestionsChoice, read
from trainer.scenes import questions_of


class Asked(NamedTuple):
    """A question with one of its answers, and how much that one counts. kind: of questions that are drawn kind by kind, "" for one."""

    question: str
    answer: str
    weight: float = 1.0
    kind: str = ""


class QuestionBook(Protocol):
    """Questions by image."""

    def of(self, record: ImageRecord) -> list[Asked]: ...


class SceneQuestions:
    """What the world of a rendered scene answers."""

    def of(self, record: ImageRecord) -> list[Asked]:
        return [Asked(found.question, found.answer, kind=found.kind) for found in questions_of(record.uri)]


class FileQuestions:
    """What people asked and answered: each different answer to a question by itself, weighing the share of people who gave it."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    def of(self, record: ImageRecord) -> list[Asked]:
        return [
            Asked(asked.question, answer, asked.weight * share)
            for asked in self._questions.of(record)
            if asked.answers
            for answer, share in shares(asked.answers).items()
        ]


def book_of(choice: QuestionsChoice) -> QuestionBook:
    """What a recipe's `questions` mean. Raises ValueError where a file is missing or another one, or nothing in it has an answer."""
    if choice == SCENES:
        return SceneQuestions()
    found = read(choice)
    if not any(asked.answers for asked in found):
        raise ValueError(
            f"`questions`: none of {len(found)} questions has an answer to learn; expected VQAv2's with their `annotations`"
        )
    return FileQuestions(found)
