"""What a batch is to know of its photos beside pixels and labels, so that a task can ask about them."""

from __future__ import annotations

from dataclasses import dataclass

from manifests.annotations.nocaps import NocapsPicture, NocapsPictures
from manifests.annotations.questions import Question
from manifests.record import ImageRecord
from trainer.data.chance import Chance
from trainer.questions import QuestionsOf


@dataclass(frozen=True)
class AllQuestions:
    """What a dataset's ``text_of`` may be, so that a batch carries all questions about its photos."""

    of: QuestionsOf

    def __call__(
        self, record: ImageRecord, captions: tuple[str, ...], item: int, chance: Chance
    ) -> tuple[Question, ...]:
        return self.of(record)


@dataclass(frozen=True)
class NocapsTruth:
    """Likewise for NoCaps: what its file tells of each picture, None of one that it does not know."""

    pictures: NocapsPictures

    def __call__(
        self, record: ImageRecord, captions: tuple[str, ...], item: int, chance: Chance
    ) -> NocapsPicture | None:
        return self.pictures.of(record)
