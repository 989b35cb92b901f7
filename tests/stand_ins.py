"""Cheap experts for tests: right in every respect, or wrong in exactly one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from expert_zoo.card import ExpertCard
from expert_zoo.expert import Expert, Needs, Photo
from expert_zoo.labels import ClassMap, DenseMap, Label, instances
from expert_zoo.spec import LabelSpec

GREY = LabelSpec(
    kind="map", quantity="depth", dtype="uint16", channels=1, value_range=None, units="m", resample="bilinear"
)
DARKNESS = LabelSpec(
    kind="classes",
    quantity="class",
    dtype="uint8",
    channels=1,
    ignore=255,
    class_names=("dark", "bright"),
    resample="nearest",
)
SQUARES = LabelSpec(kind="instances", quantity="objects", class_names=("square",))


def card(name: str, spec: LabelSpec, **more: object) -> ExpertCard:
    about = {"summary": "a stand-in for tests", "network": "none", "licence": "MIT", "commercial_use": True}
    return ExpertCard(name=name, spec=spec, **(about | more))


def small(photo: Photo) -> np.ndarray:
    """(H, W, 3) with the long side at most 64."""
    scale = min(1.0, 64 / max(photo.height, photo.width))
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    return cv2.resize(photo.pixels_HW3, size, interpolation=cv2.INTER_AREA)


class Grey(Expert):
    """Brightness in 0..1, plus 1, as a map with its own range per image."""

    needs = Needs(batch_size=4)

    def __init__(self, *, name: str = "grey", delay: float = 0.0) -> None:
        self.card = card(name, GREY)
        self._delay = delay

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        time.sleep(self._delay * len(photos))
        return [self.one(photo) for photo in photos]

    def one(self, photo: Photo) -> Label:
        return Label.ok(DenseMap(small(photo).mean(axis=2, dtype=np.float32) / 255 + 1))


class Darkness(Expert):
    """Class map of dark and bright pixels."""

    def __init__(self) -> None:
        self.card = card("darkness", DARKNESS)

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        return [Label.ok(ClassMap((small(photo).mean(axis=2) > 127).astype(np.uint8))) for photo in photos]


class Squares(Expert):
    """One box in the middle of bright photos; nothing (empty) in dark ones."""

    def __init__(self) -> None:
        self.card = card("squares", SQUARES)

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        return [self.one(photo) for photo in photos]

    def one(self, photo: Photo) -> Label:
        if photo.pixels_HW3.mean() < 100:
            return Label.empty()
        w, h = photo.width, photo.height
        return instances([[w / 4, h / 4, 3 * w / 4, 3 * h / 4]], [0.75], [0])


class Troubled(Grey):
    """`Grey`, but does ``trouble`` when it meets the photo whose id starts with ``at`` ("" for every photo).

    ``log``: a file that gets one line whenever that happens.
    """

    def __init__(self, *, trouble: str, at: str = "", name: str = "troubled", log: str = "") -> None:
        super().__init__(name=name)
        self._log = log
        self._trouble = trouble
        self._at = at

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        labels = super().label(photos)
        for index, photo in enumerate(photos):
            if photo.image_id.startswith(self._at):
                if self._log:
                    with Path(self._log).open("a") as log:
                        log.write(f"{photo.image_id}\n")
                labels = self._act(labels, index)
        return labels

    def _act(self, labels: list[Label], index: int) -> list[Label]:
        ok = labels[index].value
        assert isinstance(ok, DenseMap)
        match self._trouble:
            case "raise":
                raise RuntimeError("I do not like\nthis photo")
            case "oom":
                raise MemoryError("CUDA out of memory (pretended)")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)
            case "count":
                return labels + labels[-1:]
            case "nan":
                labels[index] = Label.ok(DenseMap(ok.values * np.float32("nan")))
            case "shape":
                labels[index] = Label.ok(DenseMap(ok.values[None]))
            case "kind":
                labels[index] = Label.ok(ClassMap(ok.values.astype(np.uint8)))
            case "nothing":
                labels[index] = None  # type: ignore[call-overload]
            case "fail":
                labels[index] = Label.failed("dislike: said so itself")
        return labels


class Changing(Grey):
    """`Grey` until it was loaded ``times`` times, which ``log`` counts; then its maps are upside down, as if its machine were ill."""

    def __init__(self, *, log: str, times: int, name: str = "changing") -> None:
        super().__init__(name=name)
        self._log = Path(log)
        self._times = times
        self._ill = False

    def load(self, device: str) -> None:
        with self._log.open("a") as log:
            log.write("loaded\n")
        self._ill = len(self._log.read_text().splitlines()) > self._times

    def one(self, photo: Photo) -> Label:
        label = super().one(photo)
        assert isinstance(label.value, DenseMap)
        return Label.ok(DenseMap(label.value.values[::-1].copy())) if self._ill else label


class Dawdling(Grey):
    """`Grey`, but the first one of all to meet the photo whose id is ``at`` makes the file ``log`` and sleeps for an hour."""

    def __init__(self, *, at: str, log: str, name: str = "dawdling") -> None:
        super().__init__(name=name)
        self._at = at
        self._log = Path(log)

    def one(self, photo: Photo) -> Label:
        if photo.image_id == self._at and not self._log.exists():
            self._log.touch()
            time.sleep(3600)
        return super().one(photo)


class Hungry(Grey):
    """Runs out of memory on more than ``fits`` photos at a time."""

    needs = Needs(batch_size=16)

    def __init__(self, *, fits: int = 3) -> None:
        super().__init__(name="hungry")
        self._fits = fits
        self.calls: list[int] = []
        self.released = 0

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        self.calls.append(len(photos))
        if len(photos) > self._fits:
            raise MemoryError("out of memory (pretended)")
        return super().label(photos)

    def release(self) -> None:
        self.released += 1


class Unloadable(Grey):
    """Cannot be loaded: its weights are not there."""

    def __init__(self) -> None:
        super().__init__(name="unloadable")

    def load(self, device: str) -> None:
        raise FileNotFoundError("the weights of unloadable are not there; copy them beside it")
