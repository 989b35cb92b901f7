"""Asks an expert about a batch and always gets one valid Label per photo: narrows errors down, halves on out-of-memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from expert_zoo.expert import Expert, Photo, is_out_of_memory, line_of
from expert_zoo.labels import Label
from pipeline.errors import in_full, in_one_line

#: Reason codes of rows that failed in the expert.
EXPERT_RAISED = "expert raised"
BAD_LABEL = "bad label"
OUT_OF_MEMORY = "out of memory"

#: Nobody configures it: what it says goes to standard error, and a worker's is kept in a file of its own.
LOG = logging.getLogger(__name__)


class BatchRunner:
    """One loaded expert and the micro-batch that fits its device.

    ``batch_size`` starts at the expert's wish and is halved for good whenever the device's memory runs out.
    ``seconds`` adds up the time spent inside the expert. Tracebacks of what it raises are logged, once for each line that raises.
    """

    def __init__(self, expert: Expert, batch_size: int | None = None) -> None:
        self.expert = expert
        self.batch_size = batch_size or expert.needs.batch_size
        self.seconds = 0.0
        self._logged: set[str] = set()

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        """One Label per photo, in order, each within the expert's LabelSpec. Raises nothing that a photo could cause."""
        return [self._checked(label, photo) for label, photo in zip(self._ask_all(photos), photos, strict=True)]

    def _ask_all(self, photos: Sequence[Photo]) -> list[Label]:
        labels: list[Label] = []
        while len(labels) < len(photos):
            labels += self._ask(photos[len(labels) : len(labels) + self.batch_size])
        return labels

    def _ask(self, photos: Sequence[Photo]) -> list[Label]:
        start = time.perf_counter()
        try:
            labels = list(self.expert.label(photos))
            if len(labels) != len(photos):
                raise ValueError(f"{len(labels)} labels for {len(photos)} photos")
            return labels
        except Exception as error:
            trouble = error
        finally:
            self.seconds += time.perf_counter() - start
        # Outside the except block: the traceback would keep the failed batch's device memory alive while we try again.
        exhausted = is_out_of_memory(trouble)
        reason = OUT_OF_MEMORY if exhausted else EXPERT_RAISED
        line = line_of(trouble, type(self.expert))
        detail = f"{reason}: {in_one_line(trouble)}{line}"
        told = f"{type(trouble).__name__}{line}"
        if len(photos) == 1 and told not in self._logged:
            self._logged.add(told)
            LOG.error("%s: %s, photo %s\n%s", self.expert.card.name, detail, photos[0].image_id, in_full(trouble))
        del trouble
        if exhausted:
            self.expert.release()
        if len(photos) == 1:
            return [Label.failed(detail)]
        half = len(photos) // 2
        if exhausted:
            self.batch_size = half
            return self._ask_all(photos)
        return self._ask_all(photos[:half]) + self._ask_all(photos[half:])  # the batch may shrink in between

    def _checked(self, label: Label, photo: Photo) -> Label:
        if not isinstance(label, Label):
            return Label.failed(f"{BAD_LABEL}: expected a Label, got {type(label).__name__}")
        try:
            problem = self.expert.card.spec.problem_with(label, height=photo.height, width=photo.width)
        except Exception as error:  # a value so malformed that it cannot even be looked at
            problem = in_one_line(error)
        if problem is not None:
            return Label.failed(f"{BAD_LABEL}: {problem}")
        if photo.note and not label.reason:
            return Label(label.status, label.value, photo.note)  # e.g. "truncated: ..." marks the row
        return label
