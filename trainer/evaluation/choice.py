"""What is to be asked of a model: a part of a recipe, and of what `expert-labels evaluate` is told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.evaluation.captions import QUICK, Measure
from trainer.questions import QuestionsChoice
from trainer.training import Section

TaskName = Literal["captions", "answers", "classes"]


class EvaluationChoice(Section):
    """What is asked about which photos.

    task         captions, compared with those of people; answers to questions; classes, which are first captions
    store        whose labels the model sees; null: the one that it is trained on
    splits       of the images; none: all
    limit        the first so many photos; null: all
    questions    "scenes", a file of questions or several (see `method.questions`); null: those that the model is trained on
    annotations  the answers to one file of VQAv2's; null: there are none, or they are in the file itself
    choices      a file of answers to choose from, one a line or a JSON list, or ``frequent``: of the questions that the model is
                 trained on, those agreed on for nine or more; null: the model's own words
    nocaps       a file of NoCaps: captions are then scored by its domains too, and numbered as its server wants them
    measures     of captions
    batch        photos at a time, of all ranks together; what is said does not depend on it
    """

    task: TaskName
    store: str | None = Field(None, min_length=1)
    splits: tuple[str, ...] = ()
    limit: int | None = Field(None, gt=0)
    questions: QuestionsChoice | None = None
    annotations: str | None = Field(None, min_length=1)
    choices: str | None = Field(None, min_length=1)
    nocaps: str | None = Field(None, min_length=1)
    measures: tuple[Measure, ...] = QUICK
    batch: int = Field(32, gt=0)

    def knows(self, metric: str) -> bool:
        """Whether a number of that name may come of it, such as captions/CIDEr or answers/accuracy/colour."""
        task, _, name = metric.partition("/")
        if task != self.task:
            return False
        if task == "captions":
            return name.partition("/")[0].partition("@")[0] in self.measures
        return name == "accuracy" or (task == "answers" and name.startswith("accuracy/"))
