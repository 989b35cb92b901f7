"""Books of questions: what is asked about an image in training, and what is to be answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, Protocol

from manifests.record import ImageRecord
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


def book_of(questions: str) -> QuestionBook:
    """What a recipe's `questions` mean. Raises ValueError, OSError."""
    return SceneQuestions() if questions == "scenes" else QuestionFile(Path(questions))
