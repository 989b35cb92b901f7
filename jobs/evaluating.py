"""A trained model evaluated on a store: captions against those of people, answers to questions, classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from jobs.terminal import aligned
from manifests.location import replacing
from pipeline.errors import JobError
from pipeline.store import LabelStore

if TYPE_CHECKING:
    from jobs.asking import Say
    from trainer.evaluation.choice import EvaluationChoice
    from trainer.evaluation.tasks import Reply, Scores, Task
    from trainer.ranks import DeviceName


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of ``images`` photos at ``url``. first: whether this is the rank that speaks."""

    url: str
    images: int
    scores: Scores
    replies: list[Reply]
    first: bool = True

    def lines(self) -> list[str]:
        lines = [
            f"{name}: {value:.1f}"
            for name, value in self.scores.numbers.items()
            if "/" not in name or not self.scores.kinds
        ]
        if self.scores.kinds:
            table = [["kind", "asked", "right, %", "always the most frequent, %"]]
            table += [[k.kind or "-", str(k.asked), f"{k.percent:.1f}", f"{k.blind:.1f}"] for k in self.scores.kinds]
            lines += aligned(table)
        return [f"{self.url}: {self.images} photos, {len(self.replies)} replies", *lines, *self.scores.notes]

    def to_json(self) -> dict[str, Any]:
        return {"checkpoint": self.url, "images": self.images, **asdict(self.scores)}


def evaluate(
    checkpoint: str,
    choice: EvaluationChoice,
    *,
    say: Say,
    out: str | None = None,
    results: str | None = None,
    device: DeviceName = "auto",
    weights: str | None = None,
) -> Found:
    """out: a file for all replies, JSON lines. results: a file in the form of the evaluation servers, which need no truth to score by.

    Raises ExpertLabelsError.
    """
    from jobs.asking import asking
    from trainer.checkpoint import Checkpoint
    from trainer.evaluation.asked import asked
    from trainer.evaluation.run import replies_of_all
    from trainer.questions import choice_of

    about = Checkpoint.open(checkpoint).about
    store = LabelStore.open(choice.store or about.recipe["data"]["store"])
    try:
        ask = asked(choice, store, trained_on=choice_of(about.recipe["method"].get("questions")))
    except (OSError, ValueError) as error:
        raise JobError(str(error)) from error
    with asking(
        checkpoint,
        store,
        say=say,
        device=device,
        batch_size=choice.batch,
        weights=weights,
        wanted=ask.wanted,
        text_of=ask.text_of,
    ) as ready:
        replies = replies_of_all(ready.speaker, ready.photos, ask.task, ready.ranks)
        scores = ready.ranks.by_first(lambda: _kept(choice, store, ask.task, replies, out, results))
        return Found(
            url=ready.trained.url,
            images=len(ready.photos.dataset.selection),
            scores=scores,
            replies=replies,
            first=ready.ranks.first,
        )


def _kept(
    choice: EvaluationChoice, store: LabelStore, task: Task, replies: list[Reply], out: str | None, results: str | None
) -> Scores:
    """Writes what was said, and scores it afterwards: hours of work are not lost for a score that cannot be."""
    from trainer.evaluation.tasks import Scores, by_key

    try:
        if out is not None:
            with replacing(out) as file:
                file.write("".join(json.dumps(asdict(reply)) + "\n" for reply in replies).encode())
        if results is not None:
            _write_results(choice, store, by_key(replies), results)
            if not any(reply.truth for reply in replies):
                return Scores(numbers={}, notes=("not scored: what is true is for the server alone",))
        return task.score(replies)
    except (OSError, ValueError) as error:
        raise JobError(str(error)) from error


def _write_results(choice: EvaluationChoice, store: LabelStore, said: Mapping[str, str], where: str) -> None:
    from manifests.annotations.nocaps import read_nocaps
    from trainer.evaluation.result_files import write_answers, write_captions

    if choice.task == "classes":
        raise JobError("--results is for captions and answers: no server takes classes; --out keeps all replies")
    if choice.task == "answers":
        write_answers(said, where)
        return
    numbers = None
    if choice.nocaps is not None:
        records = (r for shard in store.plan.shards() for r in store.records(shard) if r.image_id in said)
        pictures, found = read_nocaps(choice.nocaps), list(records)
        numbers = {r.image_id: picture.number for r in found if (picture := pictures.of(r)) is not None}
    write_captions(said, where, numbers=numbers)
