"""An expert that takes as long as a real one and does nothing meanwhile; it writes down when it worked."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from expert_zoo.card import ExpertCard
from expert_zoo.expert import Expert, Needs, Photo
from expert_zoo.labels import ClassMap, Label
from expert_zoo.spec import LabelSpec

SPEC = LabelSpec(
    kind="classes",
    quantity="class",
    dtype="uint8",
    channels=1,
    ignore=255,
    class_names=("dark", "bright"),
    resample="nearest",
)
#: Seconds between two looks at whether the other workers are there.
LOOK = 0.5


class Simulated(Expert):
    """Sleeps ``seconds`` an image, then says which pixels are bright.

    ``diary``: a folder in which every worker keeps a file, of a line "begin end images" in seconds since the epoch for each batch.
    Loading ends when ``workers`` of them are there: all begin at once, whatever starting so many processes takes on few cores.
    """

    needs = Needs(batch_size=8, gpu=True)

    def __init__(self, *, seconds: float, diary: str, workers: int) -> None:
        about = {"summary": "sleeps", "network": "none", "licence": "MIT", "commercial_use": True}
        self.card = ExpertCard(name="simulated", spec=SPEC, **about)
        self._seconds = seconds
        self._diary = Path(diary) / f"{os.getpid()}.txt"
        self._workers = workers

    def load(self, device: str) -> None:
        self._diary.touch()
        while len(list(self._diary.parent.iterdir())) < self._workers:
            time.sleep(LOOK)

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        begin = time.time()
        labels = [Label.ok(ClassMap((photo.pixels_HW3.mean(axis=2) > 127).astype(np.uint8))) for photo in photos]
        time.sleep(max(0.0, begin + self._seconds * len(photos) - time.time()))
        if not photos[0].uri.startswith("scenes:"):  # the golden sample is no part of the job
            with self._diary.open("a") as diary:
                diary.write(f"{begin:.3f} {time.time():.3f} {len(photos)}\n")
        return labels
