"""A trained model evaluated on a store: captions against those of people, answers to questions, classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.terminal import aligned
from manifests.location import replacing
from manifests.record import ImageRecord
from pipeline.errors import JobError
from pipeline.store import LabelStore

if TYPE_CHECKING:
    from jobs.asking import Say
    from trainer.data.dataset import TextOf
    from trainer.evaluation.questions import QuestionsOf
    from trainer.evaluation.tasks import Reply, Scores, Task
    from trainer.ranks import DeviceName

TaskName = Literal["captions", "answers", "classes"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked. store: default the recipe's. questions: "scenes", or VQAv2's file, with ``annotations``. choices: a file with
    one answer a line to choose from; None: the model's own words. splits: of the images; none: all. limit: the first so many."""

    task: TaskName
    store: str | None = None
    splits: Sequence[str] = ()
    limit: int | None = None
    questions: str | None = None
    annotations: str | None = None
    choices: str | None = None
    measures: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of ``images`` photos at ``url``."""

    url: str
    images: int
    scores: Scores
    replies: list[Reply]

    def lines(self) -> list[str]:
        lines = [f"{name}: {value:.1f}" for name, value in self.scores.numbers.items() if "/" not in name]
        if self.scores.kinds:
            table = [["kind", "asked", "right, %", "always the most frequent, %"]]
            table += [[k.kind or "-", str(k.asked), f"{k.percent:.1f}", f"{k.blind:.1f}"] for k in self.scores.kinds]
            lines += aligned(table)
        return [f"{self.url}: {self.images} photos, {len(self.replies)} replies", *lines, *self.scores.notes]

    def to_json(self) -> dict[str, Any]:
        return {"checkpoint": self.url, "images": self.images, **asdict(self.scores)}


def evaluate(
    checkpoint: str,
    asked: Asked,
    *,
    say: Say,
    out: str | None = None,
    results: str | None = None,
    device: DeviceName = "auto",
    batch_size: int = 32,
    weights: str | None = None,
) -> Found:
    """out: a file for all replies, JSON lines. results: a file in the form of the evaluation servers. Raises ExpertLabelsError."""
    from jobs.asking import asking
    from trainer.checkpoint import Checkpoint
    from trainer.data.dataset import drawn_caption
    from trainer.evaluation.questions import AllQuestions
    from trainer.evaluation.run import evaluate as run
    from trainer.evaluation.tasks import by_key

    about = Checkpoint.open(checkpoint).about
    store = LabelStore.open(asked.store or about.recipe["data"]["store"])
    try:
        questions = _questions(asked, about.recipe["method"].get("questions"))
        wanted = _wanted(asked, questions)
        text_of: TextOf = AllQuestions(questions) if questions is not None else drawn_caption
        ready = asking(
            checkpoint,
            store,
            say=say,
            device=device,
            batch_size=batch_size,
            weights=weights,
            wanted=wanted,
            text_of=text_of,
        )
        task = _task(asked, store)
        scores, replies = run(ready.speaker, ready.photos, task)
        if results is not None:
            _write_results(asked, by_key(replies), results)
    except ValueError as error:
        raise JobError(str(error)) from error
    if out is not None:
        with replacing(out) as file:
            file.write("".join(json.dumps(asdict(reply)) + "\n" for reply in replies).encode())
    return Found(url=ready.trained.url, images=len(ready.photos.dataset.selection), scores=scores, replies=replies)


def _wanted(asked: Asked, questions: QuestionsOf | None) -> Callable[[ImageRecord], bool]:
    """Whether a photo is asked about; called once for each, in the manifest's order."""
    numbers = count()

    def wanted(record: ImageRecord) -> bool:
        if asked.splits and record.split not in asked.splits:
            return False
        if questions is not None and not questions(record):
            return False
        return asked.limit is None or next(numbers) < asked.limit

    return wanted


def _questions(asked: Asked, trained_on: str | None) -> QuestionsOf | None:
    from trainer.evaluation.questions import VqaQuestions, scene_questions

    if asked.task != "answers":
        return None
    where = asked.questions or (trained_on if trained_on == "scenes" else None)
    if where is None:
        raise JobError(
            "--task answers: nothing says what is asked; expected --questions scenes, or a file of VQAv2's questions"
        )
    return scene_questions if where == "scenes" else VqaQuestions.read(where, asked.annotations)


def _task(asked: Asked, store: LabelStore) -> Task:
    from trainer.evaluation.captions import ALL, QUICK
    from trainer.evaluation.tasks import Answering, Captioning, Classifying, class_names

    if asked.task == "captions":
        unknown = sorted(set(asked.measures) - set(ALL))
        if unknown:
            raise JobError(f"no measure {unknown[0]!r}; expected some of {', '.join(ALL)}")
        return Captioning(measures=[measure for measure in ALL if measure in (asked.measures or QUICK)])
    if asked.task == "answers":
        choices = None
        if asked.choices is not None:
            text = Path(asked.choices).read_text(encoding="utf-8")
            choices = json.loads(text) if asked.choices.endswith(".json") else text.splitlines()
        exact = asked.annotations is None and asked.questions in (None, "scenes")
        return Answering(choices=choices, measure="exact" if exact else "vqa")
    splits = set(asked.splits)
    records = (record for shard in store.plan.shards() for record in store.records(shard))
    return Classifying(names=class_names(record for record in records if not splits or record.split in splits))


def _write_results(asked: Asked, said: Any, where: str) -> None:
    from trainer.evaluation.result_files import write_answers, write_captions

    if asked.task == "classes":
        raise JobError("--results is for captions and answers: no server takes classes; --out keeps all replies")
    (write_captions if asked.task == "captions" else write_answers)(said, where)
