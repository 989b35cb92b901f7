"""The golden sample: what a column's first worker said of two rendered scenes, and whether a worker that starts agrees.

A wrong driver, a damaged weight file or a library that computes otherwise does not raise: it labels, and the labels look like
labels. So every worker labels the scenes when it starts, and does not begin where it disagrees with `golden.json` beside the
column's card. The first worker that is about to commit a cell of the column writes that file, exclusively; one that began
before it was there compares before its own first commit. A column that is older than this check takes the next worker's answer.

Kept are a digest of the exact answer and a coarse one with room for what machines may differ by. Between a GPU in mixed
precision and a CPU the fourth digit of a value may change, a pixel on the edge of a class, a word of a caption, a box whose score
is at its threshold. TOLERANCE is far above that, and far below what a wrong network says.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import socket
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from expert_zoo.card import ExpertCard
from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import ClassMap, DenseMap, Instances, Label, Picture, Scores, Text, Words
from expert_zoo.spec import LabelSpec
from manifests.scenes import render_uri, scene_uri
from pipeline.batching import BatchRunner
from pipeline.errors import StoreError, WorkerError
from pipeline.receipt import installed_packages, worker
from pipeline.store import LabelStore

GOLDEN = "golden.json"
SCENES = (scene_uri(20261, 0), scene_uri(20261, 1))
#: Cells a side of the grid to which maps are made coarse.
GRID = 16
#: Two renderings of one scene whose grey values differ by more, on the mean, are two photos: nothing is compared.
SAME_PHOTO = 2.0
CAPTION = "a room with some things in it"


class Tolerance(NamedTuple):
    """How far two answers to one photo may be apart.

    ``values``: mean distance on the grid, as a share of the range that the recorded grid has; ``pixels``: share of the grid with
    another class; ``things``: boxes or words without counterpart, as a share of both sides' (but never fewer than
    ``few``); ``overlap``: of two boxes that are the same; ``words``: share of a text's different words that only one side has;
    ``scores``: of a score, or of its amount where that is above 1; ``bytes``: share of a photo's file.
    """

    values: float = 0.05
    pixels: float = 0.15
    things: float = 0.25
    few: int = 2
    overlap: float = 0.7
    words: float = 0.5
    scores: float = 0.05
    bytes: float = 0.1


TOLERANCE = Tolerance()


class Thing(BaseModel):
    """A box with its class id, or around a word with its text."""

    model_config = ConfigDict(frozen=True)

    box: tuple[float, float, float, float]
    name: str


class Answer(BaseModel):
    """One label, coarse. ``digest``: of its exact values; ``shape``: of a map; ``grid``: means of a map's cells, channel after
    channel, or classes at their centres; ``values``: scores, or a photo's bytes.
    """

    model_config = ConfigDict(frozen=True)

    status: str
    digest: str = ""
    shape: tuple[int, ...] = ()
    grid: tuple[float, ...] = ()
    things: tuple[Thing, ...] = ()
    text: str = ""
    values: tuple[float, ...] = ()


class Golden(BaseModel):
    """What `golden.json` holds. ``photos``: the scenes as they were rendered, as coarse as ``answers``."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    column: str
    scenes: tuple[str, ...] = SCENES
    photos: tuple[tuple[float, ...], ...]
    answers: tuple[Answer, ...]
    host: str
    worker: str
    packages: dict[str, str] = Field(default_factory=dict)
    recorded_at: str


class GoldenSamples:
    """The answers of one worker's loaded experts. Raises WorkerError where they are not those that a column began with."""

    def __init__(self, store: LabelStore, experts: Sequence[Expert]) -> None:
        self._store = store
        self._mine = {expert.card.column: _ask(expert) for expert in experts}
        self._settled: set[str] = set()
        for column in self._mine:
            self._compare(column)

    def settle(self, card: ExpertCard) -> None:
        """Before this worker's first commit in a column: records the answer if there is none yet, else agrees or raises."""
        if card.column in self._settled:
            return
        mine = self._mine[card.column]
        if mine is not None and not self._compare(card.column):
            name = f"{self._store.folder(card.column)}/{GOLDEN}"
            if not self._store.storage.publish(name, mine.model_dump_json(indent=1).encode()):
                self._compare(card.column)
        self._settled.add(card.column)

    def _compare(self, column: str) -> bool:
        """Whether there is an answer to compare with."""
        found = recorded(self._store, column)
        if found is None:
            return False
        mine = self._mine[column]
        here = f"host {socket.gethostname()}, {worker()}"
        if mine is None:
            raise WorkerError(f"{column}: {here} fails on the golden sample, which {found.host} labelled; {_WAY_OUT}")
        problem = difference(self._store.card_cached(column).spec, mine, found)
        if problem:
            versions = sorted(
                f"{name} {mine.packages.get(name, 'absent')} (there {version})"
                for name, version in found.packages.items()
                if mine.packages.get(name) != version
            )
            others = f"; its versions: {', '.join(versions)}" if versions else ""
            raise WorkerError(
                f"{column}: {here} labels the golden sample otherwise than {found.host}, {found.worker}, where the column began: "
                f"{problem}{others}; {_WAY_OUT}"
            )
        return True


_WAY_OUT = f"look for a wrong driver or a damaged weight file there, or, if that one is right, remove {GOLDEN} beside the column's card"


def recorded(store: LabelStore, column: str) -> Golden | None:
    """The answer that ``column`` began with; None where there is none. StoreError for what is no such file."""
    name = f"{store.folder(column)}/{GOLDEN}"
    try:
        return Golden.model_validate_json(store.storage.read(name))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StoreError(f"{name} is no golden sample: {error.errors()[0]['msg']}; remove it") from error


@functools.cache
def golden_photos() -> tuple[Photo, ...]:
    """The scenes, rendered: the same on every machine but for rounding."""
    return tuple(
        Photo(image_id=f"golden-{number}", uri=uri, pixels_HW3=render_uri(uri).photo_HW3, captions=(CAPTION,))
        for number, uri in enumerate(SCENES)
    )


def difference(spec: LabelSpec, mine: Golden, found: Golden) -> str:
    """How ``mine`` is not as ``found``, in words; "" within the tolerance, and where the scenes are not the same photos."""
    if mine.scenes != found.scenes or any(
        len(a) != len(b) or np.abs(np.subtract(a, b)).mean() > SAME_PHOTO
        for a, b in zip(mine.photos, found.photos, strict=True)
    ):
        return ""
    for uri, one, other in zip(mine.scenes, mine.answers, found.answers, strict=True):
        if one.digest != other.digest and (problem := _apart(spec, one, other)):
            return f"{uri}: {problem}"
    return ""


def _ask(expert: Expert) -> Golden | None:
    """None where it fails: every row of such a worker fails as well, which is said elsewhere."""
    said = dict.fromkeys(expert.reads, CAPTION)
    photos = [
        Photo(image_id=p.image_id, uri=p.uri, pixels_HW3=p.pixels_HW3.copy(), captions=p.captions, said=dict(said))
        for p in golden_photos()
    ]
    labels = BatchRunner(expert).label(photos)
    if any(label.status == "failed" for label in labels):
        return None
    return Golden(
        column=expert.card.column,
        photos=tuple(_grid(photo.pixels_HW3.astype(np.float32)) for photo in photos),
        answers=tuple(_answer(label) for label in labels),
        host=socket.gethostname(),
        worker=worker(),
        packages=installed_packages(),
        recorded_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _answer(label: Label) -> Answer:
    match label.value:
        case None:
            return Answer(status=label.status, digest=_digest(label.status))
        case DenseMap(values):
            return Answer(status="ok", digest=_digest(values), shape=values.shape, grid=_grid(values))
        case ClassMap(ids_HW):
            rows, columns = (((np.arange(GRID) + 0.5) * side / GRID).astype(int) for side in ids_HW.shape)
            grid = tuple(float(found) for found in ids_HW[np.ix_(rows, columns)].ravel())
            return Answer(status="ok", digest=_digest(ids_HW), shape=ids_HW.shape, grid=grid)
        case Instances(boxes_N4, scores_N, class_ids_N):
            things = [
                Thing(box=box, name=str(found)) for box, found in zip(boxes_N4.tolist(), class_ids_N, strict=True)
            ]
            return Answer(status="ok", digest=_digest(boxes_N4, scores_N, class_ids_N), things=tuple(things))
        case Words(polygons_N42, texts, scores_N):
            ends_N4 = np.concatenate([polygons_N42.min(axis=1), polygons_N42.max(axis=1)], axis=1)
            things = [Thing(box=box, name=text) for box, text in zip(ends_N4.tolist(), texts, strict=True)]
            return Answer(status="ok", digest=_digest(polygons_N42, scores_N, *texts), things=tuple(things))
        case Text(text, log_prob):
            return Answer(status="ok", digest=_digest(text, str(log_prob)), text=text)
        case Scores(values_N):
            return Answer(status="ok", digest=_digest(values_N), values=tuple(values_N.tolist()))
        case Picture(data, ending):
            return Answer(status="ok", digest=_digest(data), text=ending, values=(float(len(data)),))


def _grid(values: np.ndarray) -> tuple[float, ...]:
    small = cv2.resize(values, (GRID, GRID), interpolation=cv2.INTER_AREA).reshape(GRID, GRID, -1)
    return tuple(float(f"{value:.6g}") for value in small.transpose(2, 0, 1).ravel().tolist())


def _digest(*parts: np.ndarray | str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode() if isinstance(part, str) else part.tobytes())
    return digest.hexdigest()[:16]


def _apart(spec: LabelSpec, mine: Answer, found: Answer) -> str:
    few, far = TOLERANCE.few, TOLERANCE
    if spec.kind in ("instances", "words"):  # one that is not sure whether there is anything may be empty
        alone = _without_counterpart(mine.things, found.things)
        both = len(mine.things) + len(found.things)
        told = f"{alone} of {both} boxes of both sides have no counterpart"
        return told if alone > max(few, far.things * both) else ""
    if mine.status != found.status:
        return f"it is {mine.status}, and was {found.status}"
    if mine.status == "empty":
        return ""
    if mine.shape != found.shape or len(mine.values) != len(found.values):
        return f"its shape is {mine.shape or len(mine.values)}, and was {found.shape or len(found.values)}"
    match spec.kind:
        case "map":
            grid = np.array(found.grid)
            scale = max(float(np.ptp(grid)), 1e-3 * float(np.abs(grid).max()), 1e-9)
            distance = float(np.abs(np.array(mine.grid) - grid).mean()) / scale
            return f"values differ by {distance:.3f} of their range on the mean" if distance > far.values else ""
        case "classes":
            share = float(np.mean(np.array(mine.grid) != np.array(found.grid)))
            return f"{share:.0%} of the pixels have another class" if share > far.pixels else ""
        case "text":
            one, other = set(mine.text.lower().split()), set(found.text.lower().split())
            share = len(one ^ other) / max(1, len(one | other))
            return f"it says {mine.text[:80]!r}, and was {found.text[:80]!r}" if share > far.words else ""
        case "score":
            pairs = list(zip(mine.values, found.values, strict=True))
            worst = max((abs(a - b) / max(1.0, abs(b)) for a, b in pairs), default=0.0)
            return f"a score differs by {worst:.3f}" if worst > far.scores else ""
    sizes = mine.values[0], found.values[0]
    same = mine.text == found.text and abs(sizes[0] - sizes[1]) <= far.bytes * sizes[1]
    return "" if same else f"it is {mine.text} of {sizes[0]:.0f} bytes, and was {found.text} of {sizes[1]:.0f}"


def _without_counterpart(mine: Sequence[Thing], found: Sequence[Thing]) -> int:
    left = list(found)
    for thing in mine:
        same = [o for o in left if o.name == thing.name and _overlap(thing.box, o.box) >= TOLERANCE.overlap]
        if same:
            left.remove(max(same, key=lambda other: _overlap(thing.box, other.box)))
    return len(mine) - (len(found) - len(left)) + len(left)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(0.0, width) * max(0.0, height)
    around = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return inside / around if around > 0 else 0.0
