"""From what a recipe or a command says is asked, to the task, its photos, and what is to be known of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from manifests.location import open_binary
from manifests.record import ImageRecord
from pipeline.store import LabelStore
from trainer.data.dataset import TextOf, drawn_caption
from trainer.evaluation.choice import EvaluationChoice
from trainer.evaluation.questions import AllQuestions, QuestionsOf, VqaQuestions, scene_questions
from trainer.evaluation.tasks import Answering, Captioning, Classifying, Task, class_names


@dataclass(frozen=True, kw_only=True)
class Asked:
    """wanted: whether a photo is asked about; to be called once for each, in the manifest's order. text_of: as of a LabelDataset."""

    task: Task
    wanted: Callable[[ImageRecord], bool]
    text_of: TextOf


def asked(choice: EvaluationChoice, store: LabelStore, *, trained_on: str | None, known: bool = False) -> Asked:
    """What ``choice`` says, about photos of ``store``. Raises ValueError, OSError.

    trained_on: the questions that the model is trained on, if any. known: leave out photos of which nobody said what is true.
    """
    questions = _questions(choice, trained_on)
    numbers = count()

    def wanted(record: ImageRecord) -> bool:
        if choice.splits and record.split not in choice.splits:
            return False
        if questions is not None:
            found = questions(record)
            if not found or (known and not any(one.answers for one in found)):
                return False
        elif known and not record.captions:
            return False
        return choice.limit is None or next(numbers) < choice.limit

    return Asked(
        task=_task(choice, store, exact=questions is scene_questions),
        wanted=wanted,
        text_of=AllQuestions(questions) if questions is not None else drawn_caption,
    )


def _questions(choice: EvaluationChoice, trained_on: str | None) -> QuestionsOf | None:
    if choice.task != "answers":
        return None
    where = choice.questions or (trained_on if trained_on == "scenes" else None)
    if where is None:
        raise ValueError(
            "answers: nothing says what is asked; expected questions: `scenes`, or a file of VQAv2's questions"
        )
    return scene_questions if where == "scenes" else VqaQuestions.read(where, choice.annotations)


def _task(choice: EvaluationChoice, store: LabelStore, *, exact: bool) -> Task:
    if choice.task == "captions":
        return Captioning(measures=choice.measures)
    if choice.task == "answers":
        choices = None if choice.choices is None else answers_of(choice.choices)
        return Answering(choices=choices, measure="exact" if exact else "vqa")
    records = (record for shard in store.plan.shards() for record in store.records(shard))
    return Classifying(names=class_names(r for r in records if not choice.splits or r.split in choice.splits))


def answers_of(where: str) -> list[str]:
    """A file of answers to choose from, a path or URL: one a line, or a JSON list. Raises ValueError, OSError."""
    with open_binary(where) as stream:
        text = stream.read().decode("utf-8")
    found = json.loads(text) if where.endswith(".json") else [line for line in text.splitlines() if line.strip()]
    if not found or not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"{where} has no answers to choose from; expected one a line, or a JSON list of them")
    return found
