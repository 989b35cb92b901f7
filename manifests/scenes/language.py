"""Captions, and questions with their answers, written from the world alone and true of its picture.

What could be argued about is not said: "left of" needs outlines that lie wholly side by side, "nearer" needs depths that do not
overlap, and "the ball" needs that no other thing answers to the same words. Spelling is American, as in the public question sets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from manifests.scenes.solids import sign_solids, thing_solid
from manifests.scenes.world import SHAPES, Thing, World

FLOORS = {"planks": "wooden", "tiles": "tiled", "checkered": "checkered", "speckled": "mottled"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
PLURALS = {"ball": "balls", "box": "boxes", "cylinder": "cylinders", "cone": "cones"}

SIDE_GAP = 0.01
"""Least gap between two outlines, as a share of the picture's width, for one to be left of the other."""

DEPTH_GAP = 0.15
"""Least gap in metres between the depths of two things for one to be nearer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`kind` is colour, count, size, depth, position or word; the answer is a word or two, numbers as digits."""

    question: str
    answer: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Where a thing can be at most: its outline's left and right end (share of the width) and its depths (metres)."""

    left: float
    right: float
    near: float
    far: float


def captions(world: World) -> tuple[str, ...]:
    """Five descriptions of the scene, from the plain list to a relation between two things; the same ones every time."""
    rng = np.random.Generator(np.random.PCG64([world.seed, world.index, 1]))
    floor, word = FLOORS[world.room.floor.pattern], world.sign.word
    nouns = grouped(world)
    count = NUMBERS[len(world.things)]
    listed = joined(nouns)
    texts = [
        pick(
            rng,
            f"{listed} on a {floor} floor, and a sign that says {word}",
            f"a room with {listed} and a sign that reads {word}",
        ),
        pick(
            rng,
            f"a sign with the word {word} in a room with {count} objects",
            f"the sign says {word}; there are {count} other objects",
        ),
        pick(rng, f"{listed}", f"a rendered picture of {listed}"),
    ]
    relations = list(true_relations(world))
    if relations:
        texts.append(relations[int(rng.integers(len(relations)))])
    things = list(world.things)
    one = things[int(rng.integers(len(things)))]
    texts.append(
        pick(rng, f"{described(one)} in a room with a {floor} floor", f"{described(one)} and a sign saying {word}")
    )
    if len(texts) < 5:
        texts.append(f"{count} objects on a {floor} floor in front of the walls of a room")
    return tuple(text[0].upper() + text[1:] + "." for text in texts)


def questions(world: World) -> tuple[Question, ...]:
    """Every question of the six kinds that has one true answer, in a fixed order."""
    asked = [Question(question="What does the sign say?", answer=world.sign.word, kind="word")]
    total = len(world.things)
    asked.append(Question(question="How many objects are there besides the sign?", answer=str(total), kind="count"))
    shapes = Counter(thing.shape for thing in world.things)
    for shape in SHAPES:
        asked.append(
            Question(question=f"How many {PLURALS[shape]} are there?", answer=str(shapes[shape]), kind="count")
        )
    for colour, number in sorted(Counter(thing.colour for thing in world.things).items()):
        asked.append(
            Question(
                question=f"How many {colour} objects are there besides the sign?", answer=str(number), kind="count"
            )
        )
    for thing in world.things:
        if name := unique_name(world, thing, ("size", "pattern")):
            asked.append(Question(question=f"What color is {name}?", answer=thing.colour, kind="colour"))
        if name := unique_name(world, thing, ("colour", "pattern")):
            asked.append(Question(question=f"Is {name} small or large?", answer=thing.size, kind="size"))
    for one, other in combinations(world.things, 2):
        a, b = unique_name(world, one), unique_name(world, other)
        if not (a and b):
            continue
        first, second = extent(world, one), extent(world, other)
        if nearer(first, second) or nearer(second, first):
            answer = a if nearer(first, second) else b
            asked.append(Question(question=f"Which is nearer to the camera, {a} or {b}?", answer=answer, kind="depth"))
        if left_of(first, second) or left_of(second, first):
            answer = "left" if left_of(first, second) else "right"
            asked.append(
                Question(question=f"Is {a} to the left or to the right of {b}?", answer=answer, kind="position")
            )
    for thing in world.things:
        if name := unique_name(world, thing):
            board, here = extent(world, None), extent(world, thing)
            if left_of(here, board) or left_of(board, here):
                answer = "left" if left_of(here, board) else "right"
                asked.append(
                    Question(
                        question=f"Is {name} to the left or to the right of the sign?", answer=answer, kind="position"
                    )
                )
    return tuple(asked)


def true_relations(world: World) -> Iterator[str]:
    """Sentences about two things, each true."""
    for one, other in permutations(world.things, 2):
        a, b = unique_name(world, one), unique_name(world, other)
        if a and b:
            first, second = extent(world, one), extent(world, other)
            if left_of(first, second):
                yield f"{a} is to the left of {b}"
                yield f"{b} stands to the right of {a}"
            if nearer(first, second):
                yield f"{a} is nearer to the camera than {b}"
                yield f"{b} is farther away than {a}"


def extent(world: World, thing: Thing | None) -> Extent:
    """Extent of a thing, or of the sign for None: that of an upright box around it, so never too small."""
    solids = sign_solids(world.sign, 0) if thing is None else (thing_solid(thing, 0),)
    xy_N2, depth_N = world.camera.project(np.concatenate([solid.corners() for solid in solids]), world.size)
    return Extent(
        left=float(xy_N2[:, 0].min()) / world.size,
        right=float(xy_N2[:, 0].max()) / world.size,
        near=float(depth_N.min()),
        far=float(depth_N.max()),
    )


def left_of(one: Extent, other: Extent) -> bool:
    return one.right + SIDE_GAP < other.left


def nearer(one: Extent, other: Extent) -> bool:
    return one.far + DEPTH_GAP < other.near


def unique_name(world: World, thing: Thing, allowed: tuple[str, ...] = ("colour", "size", "pattern")) -> str | None:
    """The shortest "the ..." that only this thing answers to, from the allowed adjectives; None if there is none."""
    for number in range(len(allowed) + 1):
        for chosen in combinations(allowed, number):
            if sum(all(getattr(o, c) == getattr(thing, c) for c in (*chosen, "shape")) for o in world.things) == 1:
                return " ".join(["the", *adjectives(thing, chosen), thing.shape])
    return None


def adjectives(thing: Thing, chosen: tuple[str, ...]) -> list[str]:
    """In the order of English: size, pattern, colour."""
    return [getattr(thing, kind) for kind in ("size", "pattern", "colour") if kind in chosen]


def described(thing: Thing) -> str:
    """One thing with all its adjectives, plainness left out."""
    chosen = ("size", "colour") if thing.pattern == "plain" else ("size", "pattern", "colour")
    return article(" ".join([*adjectives(thing, chosen), thing.shape]))


def grouped(world: World) -> list[str]:
    """The things by shape and colour: "two red balls", "an orange cone"."""
    kinds = Counter((thing.colour, thing.shape) for thing in world.things)
    return [
        article(f"{colour} {shape}") if number == 1 else f"{NUMBERS[number]} {colour} {PLURALS[shape]}"
        for (colour, shape), number in kinds.items()
    ]


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def pick(rng: np.random.Generator, *options: str) -> str:
    return options[int(rng.integers(len(options)))]
