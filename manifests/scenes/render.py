"""From a world to a photo and its exact ground truth.

One ray goes through the middle of every pixel and gives depth, normals, classes, edges and boxes; these have no anti-aliasing. The
photo takes four more rays in every pixel that differs from a neighbour, so that its outlines, textures and letters are smooth.

Shapes: H = W = world.size; N rays; K things with a box. Vectors are triples of (N,) float32 arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manifests.scenes.shading import contact, lit, paint, paint_board, word_extent
from manifests.scenes.solids import FAR, Array, Solid, Vector, world_solids
from manifests.scenes.world import CLASSES, THINGS, Room, World

FLOOR, BACK, LEFT, RIGHT = 0, 1, 2, 3
ROOM_NORMALS = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (-1.0, 0.0, 0.0))

SUBSAMPLES = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))
"""Offsets (x, y) of a rotated grid of four, in pixels."""

CONTRAST = 0.03
"""Pixels whose gamma-coded colour differs from a neighbour's by more than this are supersampled."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rendering:
    """A photo and what is true of it.

    photo_HW3: uint8 RGB. depth_HW: float32, metres along the optical axis. normal_HW3: float32 unit vectors in the camera frame (x
    right, y up, z towards the viewer). edge_HW: uint8 {0, 1}, one pixel thin on the nearer side of outlines and creases. class_HW:
    uint8 ids into CLASSES. instance_HW: uint8, 0 for the room, k + 1 for row k of the boxes. boxes_K4: float32 xyxy around the
    visible pixels, edges at pixel boundaries. class_ids_K: int64 ids into THINGS. polygons_P42: float32 corners of the words,
    clockwise from the top left, in pixels; texts_P are the words.
    """

    photo_HW3: NDArray[np.uint8]
    depth_HW: NDArray[np.float32]
    normal_HW3: NDArray[np.float32]
    edge_HW: NDArray[np.uint8]
    class_HW: NDArray[np.uint8]
    instance_HW: NDArray[np.uint8]
    boxes_K4: NDArray[np.float32]
    class_ids_K: NDArray[np.int64]
    polygons_P42: NDArray[np.float32]
    texts_P: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Hits:
    """What each ray meets: depth t; `owner`, index of the solid or -1 for the room; `face` of it (room: FLOOR to RIGHT); the point,
    unit normal and, per solid, the rows and own coordinates for its texture."""

    t: Array
    owner: NDArray[np.int16]
    face: NDArray[np.uint8]
    point: Vector
    normal: Vector
    own: dict[int, tuple[NDArray[np.intp], Vector]]


def render(world: World) -> Rendering:
    """Render the photo and its ground truth; a pure function of the world."""
    size = world.size
    solids = world_solids(world)
    rects = pixel_rects(world, solids)
    middle = np.arange(size, dtype=np.float32) + np.float32(0.5)
    u, v = np.tile(middle, size), np.repeat(middle, size)
    view = camera_rays(world, u, v)
    hits = trace(world, solids, rects, u, v, view)
    light = shade(world, solids, view, hits)
    rough = needs_samples(gamma(light).reshape(size, size, 3), hits.owner.reshape(size, size))
    fine = np.flatnonzero(rough)
    fine_u = np.concatenate([u[fine] + np.float32(dx) for dx, _ in SUBSAMPLES])
    fine_v = np.concatenate([v[fine] + np.float32(dy) for _, dy in SUBSAMPLES])
    fine_view = camera_rays(world, fine_u, fine_v)
    fine_light = shade(world, solids, fine_view, trace(world, solids, rects, fine_u, fine_v, fine_view))
    light[fine] = np.minimum(fine_light, 1.0).reshape(len(SUBSAMPLES), -1, 3).mean(axis=0)
    photo_HW3 = (gamma(light) * 255.0 + 0.5).astype(np.uint8).reshape(size, size, 3)
    return truth(world, solids, hits, photo_HW3)


def camera_rays(world: World, u: Array, v: Array) -> Vector:
    """World directions of the rays through pixel coordinates (u, v), scaled so that t is the depth along the optical axis."""
    right, up, forward = world.camera.axes().astype(np.float32)
    scale = np.float32(1.0 / (world.camera.focal * world.size))
    a, b = (u - np.float32(world.size / 2)) * scale, (np.float32(world.size / 2) - v) * scale
    x, y, z = (a * right[i] + b * up[i] + forward[i] for i in range(3))
    return x, y, z


def pixel_rects(world: World, solids: tuple[Solid, ...]) -> list[tuple[float, float, float, float]]:
    """Per solid the pixel rectangle (x0, y0, x1, y1) outside of which no ray meets it."""
    rects = []
    for solid in solids:
        xy_82, _ = world.camera.project(solid.corners(), world.size)
        rects.append((*(xy_82.min(axis=0) - 1.0), *(xy_82.max(axis=0) + 1.0)))
    return rects


def trace(
    world: World,
    solids: tuple[Solid, ...],
    rects: list[tuple[float, float, float, float]],
    u: Array,
    v: Array,
    view: Vector,
) -> Hits:
    """The nearest surface on each ray from the camera."""
    height = np.float32(world.camera.height)
    t, face = room_hit(world.room, height, view)
    owner = np.full(len(u), -1, dtype=np.int16)
    for k, solid in enumerate(solids):
        x0, y0, x1, y1 = (np.float32(c) for c in rects[k])
        rays = np.flatnonzero((u > x0) & (u < x1) & (v > y0) & (v < y1))
        zero = np.zeros(len(rays), dtype=np.float32)
        entry = solid.enter((zero, zero + height, zero), (view[0][rays], view[1][rays], view[2][rays]))
        first = entry < t[rays]
        t[rays[first]] = entry[first]
        owner[rays[first]] = k
    point = (view[0] * t, view[1] * t + height, view[2] * t)
    table = np.array(ROOM_NORMALS, dtype=np.float32)
    normal = (table[face, 0], table[face, 1], table[face, 2])
    own = {}
    for k, solid in enumerate(solids):
        rows = np.flatnonzero(owner == k)
        if len(rows) == 0:
            continue
        face_k, own_k, normal_k = solid.surface((point[0][rows], point[1][rows], point[2][rows]))
        face[rows] = face_k
        own[k] = (rows, own_k)
        for target, source in zip(normal, solid.to_world(normal_k), strict=True):
            target[rows] = source
    return Hits(t=t, owner=owner, face=face, point=point, normal=normal, own=own)


def room_hit(room: Room, height: np.float32, view: Vector) -> tuple[Array, NDArray[np.uint8]]:
    """Depth and face of the room on each ray from the camera; the walls have no upper end, so every ray meets one."""
    x, y, z = view
    tiny = np.float32(1e-9)
    floor = np.where(y < -tiny, -height / np.minimum(y, -tiny), np.float32(FAR))
    back = np.where(z < -tiny, np.float32(-room.back) / np.minimum(z, -tiny), np.float32(FAR))
    side = np.where(x < 0, np.float32(-room.left) / np.minimum(x, -tiny), np.float32(room.right) / np.maximum(x, tiny))
    t = np.minimum(np.minimum(floor, back), side)
    face = np.where(t == floor, FLOOR, np.where(t == back, BACK, np.where(x < 0, LEFT, RIGHT)))
    return t.astype(np.float32), face.astype(np.uint8)


def shade(world: World, solids: tuple[Solid, ...], view: Vector, hits: Hits) -> NDArray[np.float32]:
    """Linear light (N, 3) that each ray brings back."""
    albedo = np.empty((len(hits.t), 3), dtype=np.float32)
    ambient = np.full(len(hits.t), world.ambient, dtype=np.float32)
    gloss = np.zeros(len(hits.t), dtype=np.float32)
    ground = np.flatnonzero((hits.owner < 0) & (hits.face == FLOOR))
    walls = np.flatnonzero((hits.owner < 0) & (hits.face != FLOOR))
    at = tuple(c[ground] for c in hits.point)
    albedo[ground] = paint(world.room.floor, (at[0], at[1], at[2]))
    ambient[ground] *= contact((at[0], at[1], at[2]), solids)
    at = tuple(c[walls] for c in hits.point)
    coat = paint(world.room.wall, (at[0], at[1], at[2]))
    trim = np.array(world.room.trim, dtype=np.float32)
    albedo[walls] = np.where((at[1] < world.room.skirting)[:, None], trim, coat)
    board = len(world.things)
    for k, (rows, own) in hits.own.items():
        colour = paint(solids[k].texture, own)
        albedo[rows] = paint_board(world.sign, own, colour) if k == board else colour
        gloss[rows] = solids[k].gloss
    # Light from the walls: a little more from above than from below.
    ambient *= np.float32(0.85) + np.float32(0.15) * hits.normal[1]
    light = albedo * ambient[:, None]
    shiny = np.flatnonzero(gloss)
    for lamp in world.lamps:
        tint = np.array(lamp.tint, dtype=np.float32)
        cosine, unit = lit(lamp, hits.point, hits.normal, hits.owner, solids)
        light += albedo * cosine[:, None] * tint
        half = [unit[i][shiny] - view[i][shiny] / np.sqrt(sum(c[shiny] ** 2 for c in view)) for i in range(3)]
        length = np.sqrt(half[0] ** 2 + half[1] ** 2 + half[2] ** 2)
        glint = sum(half[i] * hits.normal[i][shiny] for i in range(3)) / length
        glint = np.where(cosine[shiny] > 0, np.maximum(glint, 0.0), 0.0) ** np.float32(40.0)
        light[shiny] += (gloss[shiny] * glint * np.float32(lamp.power))[:, None] * tint
    return light


def gamma(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear light to a display value in [0, 1]."""
    return np.sqrt(np.clip(light, 0.0, 1.0))


def needs_samples(shown_HW3: NDArray[np.float32], owner_HW: NDArray[np.int16]) -> NDArray[np.bool_]:
    """(H * W,) where a pixel differs from its right or lower neighbour, for both pixels of the pair."""
    rough_HW = np.zeros(owner_HW.shape, dtype=bool)
    across = np.abs(shown_HW3[:, 1:] - shown_HW3[:, :-1]).max(axis=2) > CONTRAST
    down = np.abs(shown_HW3[1:] - shown_HW3[:-1]).max(axis=2) > CONTRAST
    across |= owner_HW[:, 1:] != owner_HW[:, :-1]
    down |= owner_HW[1:] != owner_HW[:-1]
    rough_HW[:, 1:] |= across
    rough_HW[:, :-1] |= across
    rough_HW[1:] |= down
    rough_HW[:-1] |= down
    return rough_HW.ravel()


def truth(world: World, solids: tuple[Solid, ...], hits: Hits, photo_HW3: NDArray[np.uint8]) -> Rendering:
    """Ground truth from the rays through the pixel centres."""
    size = world.size
    owner_HW = hits.owner.reshape(size, size)
    depth_HW = hits.t.reshape(size, size)
    class_of = np.array([s.class_id for s in solids], dtype=np.uint8)
    instance_of = np.array([s.instance + 1 for s in solids], dtype=np.uint8)
    solid_HW = owner_HW >= 0
    room_HW = np.where(hits.face.reshape(size, size) == FLOOR, CLASSES.index("floor"), CLASSES.index("wall"))
    class_HW = np.where(solid_HW, class_of[owner_HW], room_HW).astype(np.uint8)
    instance_HW = np.where(solid_HW, instance_of[owner_HW], 0).astype(np.uint8)
    axes = world.camera.axes().astype(np.float32) * np.array([[1.0], [1.0], [-1.0]], dtype=np.float32)
    normal_HW3 = (np.stack(hits.normal, axis=1) @ axes.T).reshape(size, size, 3)
    boxes, class_ids = [], []
    for instance in range(len(world.things) + 1):
        rows, columns = np.nonzero(instance_HW == instance + 1)
        assert len(rows) > 0, f"instance {instance} of scene {world.seed}/{world.index} is not visible"
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        class_ids.append(THINGS.index(CLASSES[class_HW[rows[0], columns[0]]]))
    return Rendering(
        photo_HW3=photo_HW3,
        depth_HW=depth_HW,
        normal_HW3=normal_HW3.astype(np.float32, copy=False),
        edge_HW=thin_edges(owner_HW.astype(np.int32) * 8 + hits.face.reshape(size, size), depth_HW),
        class_HW=class_HW,
        instance_HW=instance_HW,
        boxes_K4=np.array(boxes, dtype=np.float32),
        class_ids_K=np.array(class_ids, dtype=np.int64),
        polygons_P42=word_polygon(world)[None],
        texts_P=(world.sign.word,),
    )


def thin_edges(surface_HW: NDArray[np.int32], depth_HW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Of two neighbouring pixels on different surfaces, the nearer one is an edge."""
    edge_HW = np.zeros(surface_HW.shape, dtype=np.uint8)
    for here, there in (((slice(None), slice(1, None)), (slice(None), slice(-1))), ((slice(1, None),), (slice(-1),))):
        differs = surface_HW[here] != surface_HW[there]
        nearer = depth_HW[here] <= depth_HW[there]
        edge_HW[here] |= (differs & nearer).astype(np.uint8)
        edge_HW[there] |= (differs & ~nearer).astype(np.uint8)
    return edge_HW


def word_polygon(world: World) -> NDArray[np.float32]:
    """4x2 corners of the word's ink in pixels, clockwise from the top left."""
    half_w, half_h = word_extent(world.sign)
    middle = world.sign.text_middle
    corners = [
        world.sign.front(a, middle + b)
        for a, b in ((-half_w, half_h), (half_w, half_h), (half_w, -half_h), (-half_w, -half_h))
    ]
    xy_42, _ = world.camera.project(np.array(corners), world.size)
    return xy_42.astype(np.float32)
