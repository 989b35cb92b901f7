"""From what a recipe or a command says is asked, to the task, its photos, and what is to be known of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from manifests.annotations.nocaps import NocapsPictures, read_nocaps
from manifests.location import open_binary
from manifests.record import ImageRecord
from pipeline.store import LabelStore
from trainer.data.dataset import TextOf, drawn_caption
from trainer.evaluation.answers import answer_list
from trainer.evaluation.choice import EvaluationChoice
from trainer.evaluation.questions import AllQuestions, NocapsTruth
from trainer.evaluation.tasks import Answering, Captioning, Classifying, Task, class_names
from trainer.questions import SCENES, QuestionsChoice, QuestionsOf, read, scene_questions

FREQUENT = "frequent"
#: Questions that an answer was agreed on for, to be one of those to choose from; of VQAv2 that leaves some 3,129.
_OFTEN = 9


@dataclass(frozen=True, kw_only=True)
class Asked:
    """wanted: whether a photo is asked about; to be called once for each, in the manifest's order. text_of: as of a LabelDataset."""

    task: Task
    wanted: Callable[[ImageRecord], bool]
    text_of: TextOf


def asked(
    choice: EvaluationChoice, store: LabelStore, *, trained_on: QuestionsChoice | None, known: bool = False
) -> Asked:
    """What ``choice`` says, about photos of ``store``. Raises ValueError, OSError.

    trained_on: the questions that the model is trained on, if any. known: leave out photos of which nobody said what is true.
    """
    numbers = count()
    questions = _questions(choice, trained_on) if choice.task == "answers" else None
    nocaps = read_nocaps(choice.nocaps) if choice.nocaps is not None and choice.task == "captions" else None

    def there(record: ImageRecord) -> bool:
        if questions is not None:
            found = questions(record)
            return bool(found) and not (known and not any(one.answers for one in found))
        if nocaps is not None:
            picture = nocaps.of(record)
            return picture is not None and bool(picture.captions or record.captions or not known)
        return bool(record.captions) or not known

    def wanted(record: ImageRecord) -> bool:
        if choice.splits and record.split not in choice.splits:
            return False
        return there(record) and (choice.limit is None or next(numbers) < choice.limit)

    return Asked(task=_task(choice, store, trained_on), wanted=wanted, text_of=_text_of(questions, nocaps))


def _text_of(questions: QuestionsOf | None, nocaps: NocapsPictures | None) -> TextOf:
    if questions is not None:
        return AllQuestions(questions)
    return drawn_caption if nocaps is None else NocapsTruth(nocaps)


def _questions(choice: EvaluationChoice, trained_on: QuestionsChoice | None) -> QuestionsOf:
    where = choice.questions or trained_on
    if where is None:
        raise ValueError("answers: nothing says what is asked; expected questions: `scenes`, or a file such as VQAv2's")
    return scene_questions if where == SCENES else read(where, choice.annotations).of


def _task(choice: EvaluationChoice, store: LabelStore, trained_on: QuestionsChoice | None) -> Task:
    if choice.task == "captions":
        return Captioning(measures=choice.measures, by_domain=choice.nocaps is not None)
    if choice.task == "answers":
        if choice.choices is None:
            return Answering()
        return Answering(choices=_frequent(trained_on) if choice.choices == FREQUENT else answers_of(choice.choices))
    records = (record for shard in store.plan.shards() for record in store.records(shard))
    return Classifying(names=class_names(r for r in records if not choice.splits or r.split in choice.splits))


def _frequent(trained_on: QuestionsChoice | None) -> list[str]:
    """Of questions that several people answered; where one person did each, of all."""
    if trained_on is None or trained_on == SCENES:
        raise ValueError("choices: the model is trained on no file of questions; expected a file of answers, or none")
    given = [one.answers for one in read(trained_on) if one.answers]
    return answer_list([answers for answers in given if len(answers) > 1] or given, at_least=_OFTEN)


def answers_of(where: str) -> list[str]:
    """A file of answers to choose from, a path or URL: one a line, or a JSON list. Raises ValueError, OSError."""
    with open_binary(where) as stream:
        text = stream.read().decode("utf-8")
    found = json.loads(text) if where.endswith(".json") else [line for line in text.splitlines() if line.strip()]
    if not found or not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"{where} has no answers to choose from; expected one a line, or a JSON list of them")
    return found
