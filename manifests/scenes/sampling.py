"""Draw a world from (seed, index). What is drawn is checked on a coarse render, so that every thing is plainly visible and the word
on the sign is not hidden: captions written from the world alone are then true of the picture."""

from __future__ import annotations

from math import atan, ceil, cos, sin
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from manifests.scenes.solids import FAR, Solid, Vector, sign_solids, thing_solid
from manifests.scenes.words import WORDS
from manifests.scenes.world import COLOURS, PATTERNS, RGB, SHAPES, Camera, Lamp, Room, Sign, Texture, Thing, World

T = TypeVar("T")

GRID = 72
"""Side of the coarse render that checks visibility."""

SEEN_SHARE = 0.6
SEEN_AREA = 10 / (72 * 72)
"""A thing must show at least this share of what it would show alone, and this share of the picture."""

PLACING_TRIES = 25

SIZE_RANGES = {"small": (0.15, 0.20), "large": (0.30, 0.40)}
"""Half widths in metres; the gap keeps the size words true."""

PAPERS: tuple[tuple[RGB, RGB], ...] = (
    ((0.88, 0.87, 0.82), (0.02, 0.02, 0.03)),
    ((0.90, 0.84, 0.60), (0.05, 0.02, 0.02)),
    ((0.85, 0.88, 0.92), (0.02, 0.03, 0.22)),
    ((0.92, 0.90, 0.88), (0.35, 0.01, 0.02)),
    ((0.02, 0.12, 0.06), (0.90, 0.92, 0.88)),
    ((0.02, 0.05, 0.22), (0.92, 0.92, 0.90)),
)
"""Board and letter colours, always far apart in lightness."""


class Draw:
    """Short words for the generator's draws; every real number is rounded, so that a world prints and compares plainly."""

    def __init__(self, seed: int, index: int) -> None:
        self.rng = np.random.Generator(np.random.PCG64([seed, index]))

    def between(self, low: float, high: float) -> float:
        return round(low + (high - low) * float(self.rng.random()), 4)

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.rng.integers(high - low + 1))

    def one(self, options: tuple[T, ...]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, share: float) -> bool:
        return float(self.rng.random()) < share


def sample_world(seed: int, index: int, size: int = 256) -> World:
    """The world of a scene: a pure function of its arguments, the same on every machine.

    Raises ValueError for a negative seed or index, or a size outside 32..2048.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"scene seed and index are {seed} and {index}, but must not be negative")
    if not 32 <= size <= 2048:
        raise ValueError(f"scene size is {size} pixels, but must lie between 32 and 2048")
    draw = Draw(seed, index)
    wanted = draw.whole(2, 6)
    while True:
        camera, room = draw_camera(draw), draw_room(draw)
        sign = draw_sign(draw, camera, room)
        if sign is None:
            continue
        view = CoarseView(camera)
        board, *post = sign_solids(sign, 0)
        view.add(board, share=1.0, area=0.0)
        for solid in post:
            view.add(solid, share=0.0, area=0.0)
        things: list[Thing] = []
        for _ in range(PLACING_TRIES):
            if len(things) == wanted:
                break
            thing = draw_thing(draw, camera)
            if fits(thing, things, sign, room) and view.add(thing_solid(thing, 0), share=SEEN_SHARE, area=SEEN_AREA):
                things.append(thing)
        if len(things) >= 2:
            break
    lamps = draw_lamps(draw, sign)
    return World(
        seed=seed,
        index=index,
        size=size,
        camera=camera,
        room=room,
        things=tuple(things),
        sign=sign,
        lamps=lamps,
        ambient=draw.between(0.26, 0.38),
    )


def draw_camera(draw: Draw) -> Camera:
    return Camera(
        height=draw.between(1.15, 1.55),
        pitch=draw.between(0.20, 0.34),
        yaw=draw.between(-0.20, 0.20),
        focal=draw.between(0.95, 1.15),
    )


def draw_room(draw: Draw) -> Room:
    tone = draw.between(0.35, 0.75)
    wall = tinted(draw, tone, 0.12)
    wall_pattern = draw.one(("plain", "plain", "papered", "speckled"))
    if wall_pattern == "papered":
        # Stripes of wallpaper are upright: a texture without its share of y.
        wall_texture = Texture(
            pattern="striped", first=wall, second=scaled(wall, 0.88), scale=draw.between(0.3, 0.6), angle=1.5708
        )
    else:
        wall_texture = Texture(
            pattern=wall_pattern, first=wall, second=scaled(wall, 0.86), scale=draw.between(0.3, 0.6), angle=0.0
        )
    floor_pattern = draw.one(("planks", "tiles", "checkered", "speckled"))
    floor = tinted(draw, draw.between(0.22, 0.5), 0.15)
    if floor_pattern == "planks":
        floor = scaled((0.52, 0.33, 0.18), draw.between(0.6, 1.1))
    seam = scaled(floor, draw.between(0.55, 0.72))
    periods = {"planks": (0.16, 0.24), "tiles": (0.4, 0.7), "checkered": (0.4, 0.7), "speckled": (0.25, 0.5)}
    return Room(
        back=draw.between(5.0, 6.5),
        left=draw.between(2.3, 3.4),
        right=draw.between(2.3, 3.4),
        skirting=draw.one((0.0, 0.08, 0.12)),
        floor=Texture(
            pattern=floor_pattern,
            first=floor,
            second=seam,
            scale=draw.between(*periods[floor_pattern]),
            angle=draw.between(-0.5, 0.5),
        ),
        wall=wall_texture,
        trim=draw.one(((0.8, 0.8, 0.78), (0.25, 0.17, 0.11), (0.12, 0.12, 0.13))),
    )


def tinted(draw: Draw, tone: float, spread: float) -> RGB:
    """A muted colour about the given lightness."""
    r, g, b = (round(tone * (1.0 + draw.between(-spread, spread)), 4) for _ in range(3))
    return (r, g, b)


def scaled(colour: RGB, factor: float) -> RGB:
    r, g, b = (round(c * factor, 4) for c in colour)
    return (r, g, b)


def ahead_of(camera: Camera, forward: float, across: float) -> tuple[float, float]:
    """World x and z of the floor point `forward` metres ahead of the camera and `across` metres to its right."""
    x = forward * sin(camera.yaw) + across * cos(camera.yaw)
    z = -forward * cos(camera.yaw) + across * sin(camera.yaw)
    return round(x, 4), round(z, 4)


def draw_sign(draw: Draw, camera: Camera, room: Room) -> Sign | None:
    """A sign whose capitals will be 17 to 24 pixels tall at 256 pixels; None where it does not fit the picture or the room."""
    word = draw.one(WORDS)
    forward = draw.between(2.5, 4.0)
    across = draw.between(-0.75, 0.75) * forward * 0.5 / camera.focal
    x, z = ahead_of(camera, forward, across)
    pixel = forward / (camera.focal * 256)
    letter_height = round(pixel * min(draw.between(17.5, 24.0), 150.0 / (0.9 * len(word))), 4)
    width = round(letter_height * (0.9 * len(word) + 0.7), 4)
    standing = draw.chance(0.35)
    top = draw.between(0.75, 1.0) if standing else draw.between(0.95, 1.25)
    paper, ink = draw.one(PAPERS)
    sign = Sign(
        word=word,
        x=x,
        z=z,
        # Turned towards the camera's side of the room, give or take.
        yaw=round(-camera.yaw - atan(across / forward) * 0.6 + draw.between(-0.2, 0.2), 4),
        width=width,
        bottom=0.0 if standing else round(top - 2.1 * letter_height, 4),
        top=top,
        letter_height=letter_height,
        paper=paper,
        ink=ink,
    )
    corners = np.array([sign.front(side * width / 2, y) for side in (-1, 1) for y in (top - 2.1 * letter_height, top)])
    xy_42, _ = camera.project(corners, 256)
    inside_picture = xy_42.min() > 5 and xy_42.max() < 251
    inside_room = (
        corners[:, 0].min() > -room.left + 0.1
        and corners[:, 0].max() < room.right - 0.1
        and corners[:, 2].min() > -room.back + 0.2
    )
    return sign if inside_picture and inside_room else None


def draw_thing(draw: Draw, camera: Camera) -> Thing:
    shape, size = draw.one(SHAPES), draw.one(("small", "large"))
    colour, pattern = draw.one(tuple(COLOURS)), draw.one(("plain", "plain", *PATTERNS[1:]))
    forward = draw.between(1.9, 4.8)
    across = round(draw.between(-0.85, 0.85) * forward * 0.5 / camera.focal, 4)
    x, z = ahead_of(camera, forward, across)
    half_x = draw.between(*SIZE_RANGES[size])
    stretch = {"ball": (2.0, 2.0), "box": (1.2, 2.4), "cylinder": (1.6, 2.8), "cone": (2.0, 3.0)}[shape]
    first = COLOURS[colour]
    second = (0.85, 0.84, 0.80) if pattern != "speckled" and draw.chance(0.5) else scaled(first, 0.4)
    return Thing(
        shape=shape,
        colour=colour,
        size=size,
        pattern=pattern,
        x=x,
        z=z,
        half_x=half_x,
        half_z=round(half_x * draw.between(0.75, 1.0), 4) if shape == "box" else half_x,
        height=round(half_x * draw.between(*stretch), 4),
        yaw=draw.between(0.0, 1.5708) if shape == "box" else 0.0,
        gloss=draw.one((0.0, 0.15, 0.4)),
        texture=Texture(
            pattern=pattern,
            first=first,
            second=second,
            scale=round(half_x * draw.between(0.5, 0.8), 4),
            angle=draw.between(0.0, 0.5),
        ),
    )


def fits(thing: Thing, others: list[Thing], sign: Sign, room: Room) -> bool:
    """Whether the thing stands in the room and clear of the others and of the sign's foot."""
    reach = thing.reach
    if not (-room.left + reach + 0.1 < thing.x < room.right - reach - 0.1 and thing.z > -room.back + reach + 0.1):
        return False
    if any((thing.x - o.x) ** 2 + (thing.z - o.z) ** 2 < (reach + o.reach + 0.06) ** 2 for o in others):
        return False
    dx, dz = thing.x - sign.x, thing.z - sign.z
    c, s = cos(sign.yaw), sin(sign.yaw)
    beyond_x, beyond_z = abs(c * dx - s * dz) - sign.width / 2, abs(s * dx + c * dz)
    return max(beyond_x, 0.0) ** 2 + beyond_z**2 > (reach + 0.06) ** 2


def draw_lamps(draw: Draw, sign: Sign) -> tuple[Lamp, ...]:
    """A main lamp on the viewer's side of the sign, and sometimes a weaker one."""
    lamps = [
        Lamp(
            x=draw.between(-2.0, 2.0),
            y=draw.between(2.6, 3.6),
            z=round(sign.z + draw.between(1.2, 3.2), 4),
            power=draw.between(0.75, 1.0),
            tint=draw.one(((1.0, 1.0, 1.0), (1.0, 0.94, 0.84), (0.92, 0.96, 1.0))),
        )
    ]
    if draw.chance(0.5):
        lamps.append(
            Lamp(
                x=draw.between(-2.2, 2.2),
                y=draw.between(2.2, 3.2),
                z=draw.between(-4.0, 0.0),
                power=draw.between(0.25, 0.45),
                tint=draw.one(((1.0, 0.9, 0.75), (0.85, 0.92, 1.0))),
            )
        )
    return tuple(lamps)


class CoarseView:
    """A small depth picture of the solids placed so far; takes another only if all stay plainly visible."""

    def __init__(self, camera: Camera) -> None:
        right, up, forward = camera.axes()
        steps = (np.arange(GRID) + 0.5) / GRID - 0.5
        a, b = np.tile(steps, GRID) / camera.focal, -np.repeat(steps, GRID) / camera.focal
        self.direction: Vector = (
            a * right[0] + b * up[0] + forward[0],
            a * right[1] + b * up[1] + forward[1],
            a * right[2] + b * up[2] + forward[2],
        )
        self.height = camera.height
        self.placed: list[tuple[NDArray[np.float64], float]] = []

    def add(self, solid: Solid, *, share: float, area: float) -> bool:
        """Add a solid that must keep `share` of its outline in sight and cover `area` of the picture. Returns whether it was added."""
        zero = np.zeros(GRID * GRID)
        depth = solid.enter((zero, zero + self.height, zero), self.direction)
        alone = int((depth < FAR).sum())
        placed = [*self.placed, (depth, max(ceil(area * GRID * GRID), share * alone))]
        nearest = np.min([own for own, _ in placed], axis=0)
        if any(((own == nearest) & (own < FAR)).sum() < needed for own, needed in placed):
            return False
        self.placed = placed
        return True
