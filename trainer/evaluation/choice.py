"""What is to be asked of a model: a part of a recipe, and of what `expert-labels evaluate` is told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.evaluation.captions import QUICK, Measure
from trainer.training import Section

TaskName = Literal["captions", "answers", "classes"]


class EvaluationChoice(Section):
    """What is asked about which photos.

    task         captions, compared with those of people; answers to questions; classes, which are first captions
    store        whose labels the model sees; null: the one that it is trained on
    splits       of the images; none: all
    limit        the first so many photos; null: all
    questions    "scenes", or a file of VQAv2's questions; null: "scenes" where the model is trained on these
    annotations  the answers to them; null: the questions have none, or have them in their own file
    choices      a file of answers to choose from, one a line or a JSON list; null: the model's own words
    measures     of captions
    batch        photos at a time, of all ranks together; what is said does not depend on it
    """

    task: TaskName
    store: str | None = Field(None, min_length=1)
    splits: tuple[str, ...] = ()
    limit: int | None = Field(None, gt=0)
    questions: str | None = Field(None, min_length=1)
    annotations: str | None = Field(None, min_length=1)
    choices: str | None = Field(None, min_length=1)
    measures: tuple[Measure, ...] = QUICK
    batch: int = Field(32, gt=0)

    def knows(self, metric: str) -> bool:
        """Whether a number of that name may come of it, such as captions/CIDEr or answers/accuracy/colour."""
        task, _, name = metric.partition("/")
        if task != self.task:
            return False
        if task == "captions":
            return name.partition("@")[0] in self.measures
        return name == "accuracy" or (task == "answers" and name.startswith("accuracy/"))
