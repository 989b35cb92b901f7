"""What is asked about a scene: seven short questions, each in the same words for every scene. Most are about things that experts see,
colour and floor about what only the photo shows.

Asked like that and not as `manifests.scenes` asks, whose questions name two objects by size, pattern, colour and shape: a model of this
size needs ten times the steps to tell which objects are meant, and what it sees would be lost behind what it reads.
"""

from __future__ import annotations

import functools

from manifests.annotations.questions import Question
from manifests.record import ImageRecord
from manifests.scenes import parse_scene_uri, sample_world
from manifests.scenes.language import DEPTH_GAP, FLOORS, Extent, extent
from trainer.prismer.books import Asked

KINDS = ("word", "count", "sign", "shape", "place", "colour", "floor")
#: What a question counts in training. A word is one of hundreds, the others' answers are one of a few: learned at the same weight,
#: they are all that is learned for a long time.
WEIGHTS = dict.fromkeys(KINDS, 0.3) | {"word": 1.0}
#: Where the middle third begins and ends, as a share of the picture's width: as many things are left of it as in it.
LEFT, RIGHT = 0.42, 0.58


@functools.cache
def _asked(uri: str) -> tuple[tuple[str, str, str], ...]:
    world = sample_world(*parse_scene_uri(uri))
    asked = [
        ("word", "What does the sign say?", world.sign.word),
        ("count", "How many objects are there besides the sign?", str(len(world.things))),
        ("sign", "Where is the sign?", _third(extent(world, None))),
        ("floor", "What is the floor like?", FLOORS[world.room.floor.pattern]),
    ]
    by_depth = sorted(((extent(world, thing), thing) for thing in world.things), key=lambda pair: pair[0].near)
    if by_depth and all(other.near - by_depth[0][0].near > DEPTH_GAP for other, _ in by_depth[1:2]):
        where, nearest = by_depth[0]
        asked += [
            ("shape", "What is the nearest object?", nearest.shape),
            ("colour", "What color is the nearest object?", nearest.colour),
            ("place", "Where is the nearest object?", _third(where)),
        ]
    return tuple(asked)


def _third(where: Extent) -> str:
    middle = (where.left + where.right) / 2
    return "left" if middle < LEFT else "right" if middle > RIGHT else "middle"


def questions_of(record: ImageRecord) -> tuple[Question, ...]:
    """As an evaluation asks. The nearest object is asked for where it is nearer than any other by `DEPTH_GAP` at least."""
    return tuple(
        Question(key=f"{record.image_id}-{kind}", picture=record.image_id, question=text, answers=(answer,), kind=kind)
        for kind, text, answer in _asked(record.uri)
    )


class ScenesBook:
    """As training asks."""

    def of(self, record: ImageRecord) -> list[Asked]:
        return [Asked(text, answer, WEIGHTS[kind], kind) for kind, text, answer in _asked(record.uri)]
