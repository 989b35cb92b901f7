"""Exact intersections of rays with the solids of a world: ball, turned box, cylinder and cone, each convex.

Shapes: N rays. Points and directions are triples of (N,) arrays, x, y, z; all arithmetic stays in the arrays' own dtype (float32 in
the renderer). A ray is origin + t * direction; for camera rays t is the depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, hypot, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.scenes.world import CLASSES, Sign, Texture, Thing, World

Array = NDArray[Any]
Vector = tuple[Array, Array, Array]

FAR = 1e9


@dataclass(frozen=True, kw_only=True)
class Solid:
    """One convex solid. `instance` numbers the things from 0 and the sign last; a sign may own two solids, board and post.

    (x, y, z) is the middle of its foot; half_x, half_z as in `Thing`.
    """

    kind: str
    instance: int
    class_id: int
    x: float
    y: float
    z: float
    half_x: float
    half_z: float
    height: float
    yaw: float
    gloss: float
    texture: Texture

    @property
    def centre(self) -> tuple[float, float, float]:
        return (self.x, self.y + self.height / 2, self.z)

    @property
    def radius(self) -> float:
        """Radius of the sphere about `centre` that holds the solid."""
        if self.kind == "ball":
            return self.half_x
        flat = hypot(self.half_x, self.half_z) if self.kind == "box" else self.half_x
        return hypot(flat, self.height / 2)

    def corners(self) -> NDArray[np.float64]:
        """8x3, corners of an upright box that holds the solid."""
        if self.kind == "box":
            across, along = self.half_x, self.half_z
            turn_x, turn_z = (cos(self.yaw), -sin(self.yaw)), (sin(self.yaw), cos(self.yaw))
        else:
            across = along = self.half_x
            turn_x, turn_z = (1.0, 0.0), (0.0, 1.0)
        return np.array(
            [
                [
                    self.x + i * across * turn_x[0] + k * along * turn_z[0],
                    self.y + j * self.height,
                    self.z + i * across * turn_x[1] + k * along * turn_z[1],
                ]
                for i in (-1, 1)
                for j in (0, 1)
                for k in (-1, 1)
            ]
        )

    def to_own(self, vector: Vector, *, point: bool) -> Vector:
        """World coordinates to the solid's own: foot at the origin, turned back by its yaw."""
        x, y, z = vector
        if point:
            x, y, z = x - self.x, y - self.y, z - self.z
        if self.yaw == 0.0:
            return x, y, z
        c, s = cos(self.yaw), sin(self.yaw)
        return c * x - s * z, y, s * x + c * z

    def to_world(self, direction: Vector) -> Vector:
        """The solid's own direction to world coordinates."""
        x, y, z = direction
        if self.yaw == 0.0:
            return x, y, z
        c, s = cos(self.yaw), sin(self.yaw)
        return c * x + s * z, y, -s * x + c * z

    def enter(self, origin: Vector, direction: Vector) -> Array:
        """t at which each ray enters the solid, FAR where it misses (or the solid lies behind the origin)."""
        near, far = self.span(origin, direction)
        return np.where((near < far) & (near > 0.0), near, FAR).astype(near.dtype, copy=False)

    def span(self, origin: Vector, direction: Vector) -> tuple[Array, Array]:
        """t of entry and exit; entry > exit where a ray misses."""
        ox, oy, oz = self.to_own(origin, point=True)
        dx, dy, dz = self.to_own(direction, point=False)
        # Measuring t from the point nearest the solid's middle keeps float32 accurate: all numbers are then of the solid's size.
        length2 = dx * dx + dy * dy + dz * dz
        shift = -(ox * dx + (oy - self.height / 2) * dy + oz * dz) / length2
        px, py, pz = ox + shift * dx, oy + shift * dy, oz + shift * dz
        if self.kind == "ball":
            lift = py - self.half_x
            inside = self.half_x**2 - (px * px + lift * lift + pz * pz)
            half = np.sqrt(np.maximum(inside, 0.0) / length2)
            near, far = np.where(inside > 0, -half, FAR), half
        else:
            near, far = slab(py, dy, 0.0, self.height)
            if self.kind == "box":
                for p, d, half_extent in ((px, dx, self.half_x), (pz, dz, self.half_z)):
                    lower, upper = slab(p, d, -half_extent, half_extent)
                    near, far = np.maximum(near, lower), np.minimum(far, upper)
            else:
                lower, upper = self._round_span((px, py, pz), (dx, dy, dz))
                near, far = np.maximum(near, lower), np.minimum(far, upper)
        return near + shift, far + shift

    def _round_span(self, p: Vector, d: Vector) -> tuple[Array, Array]:
        """Span of the endless cylinder, or of the cone's lower nappe: x^2 + z^2 < (slope * (height - y))^2."""
        slope = self.half_x / self.height if self.kind == "cone" else 0.0
        reach = slope * (self.height - p[1]) if slope else np.full_like(p[0], self.half_x)
        a = d[0] * d[0] + d[2] * d[2] - (slope * d[1]) ** 2
        b = p[0] * d[0] + p[2] * d[2] + slope * reach * d[1]
        c = p[0] * p[0] + p[2] * p[2] - reach * reach
        a = np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
        inside = b * b - a * c
        root = np.sqrt(np.maximum(inside, 0.0))
        low, high = np.minimum((-b - root) / a, (-b + root) / a), np.maximum((-b - root) / a, (-b + root) / a)
        near, far = np.where(inside > 0, low, FAR), high
        if slope:
            # A ray steeper than the cone meets each nappe once; going down it leaves the upper one at `low`, enters the lower at `high`.
            steep = a < 0
            near = np.where(steep, np.where(d[1] < 0, high, -FAR), near)
            far = np.where(steep, np.where(d[1] < 0, FAR, low), far)
        return near, far

    def surface(self, point: Vector) -> tuple[Array, Vector, Vector]:
        """Of points on the solid: face number (N, int), own coordinates and outward unit normal in own coordinates."""
        x, y, z = own = self.to_own(point, point=True)
        zero = np.zeros_like(x)
        if self.kind == "ball":
            n = (x / self.half_x, (y - self.half_x) / self.half_x, z / self.half_x)
            length = np.sqrt(n[0] ** 2 + n[1] ** 2 + n[2] ** 2)
            return zero.astype(np.uint8), own, (n[0] / length, n[1] / length, n[2] / length)
        if self.kind == "box":
            middle = y - self.height / 2
            excess = np.stack([np.abs(x) - self.half_x, np.abs(middle) - self.height / 2, np.abs(z) - self.half_z])
            axis = np.argmax(excess, axis=0)
            nx, ny, nz = (np.where(axis == i, np.sign(c), zero) for i, c in enumerate((x, middle, z)))
            face = axis * 2 + (np.choose(axis, [x, middle, z]) > 0)
            return face.astype(np.uint8), own, (nx, ny, nz)
        flat = np.sqrt(x * x + z * z)
        safe = np.maximum(flat, 1e-9)
        if self.kind == "cone":
            tilt = hypot(self.height, self.half_x)
            side = self.height / tilt / safe
            return zero.astype(np.uint8), own, (x * side, np.full_like(x, self.half_x / tilt), z * side)
        cap = (self.height - y) < (self.half_x - flat)
        n = (np.where(cap, zero, x / safe), np.where(cap, zero + 1, zero), np.where(cap, zero, z / safe))
        return cap.astype(np.uint8), own, n


def slab(p: Array, d: Array, lower: float, upper: float) -> tuple[Array, Array]:
    """Span of t in which lower < p + t * d < upper."""
    inverse = 1.0 / np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
    one, two = (lower - p) * inverse, (upper - p) * inverse
    return np.minimum(one, two), np.maximum(one, two)


def thing_solid(thing: Thing, instance: int) -> Solid:
    return Solid(
        kind=thing.shape,
        instance=instance,
        class_id=CLASSES.index(thing.shape),
        x=thing.x,
        y=0.0,
        z=thing.z,
        half_x=thing.half_x,
        half_z=thing.half_z,
        height=thing.height,
        yaw=thing.yaw,
        gloss=thing.gloss,
        texture=thing.texture,
    )


def sign_solids(sign: Sign, instance: int) -> tuple[Solid, ...]:
    """The board and, where it does not stand on the floor itself, the post behind its lower edge."""
    paint = Texture(pattern="plain", first=sign.paper, second=sign.paper, scale=1.0, angle=0.0)
    class_id = CLASSES.index("sign")
    board = Solid(
        kind="box",
        instance=instance,
        class_id=class_id,
        x=sign.x,
        y=sign.bottom,
        z=sign.z,
        half_x=sign.width / 2,
        half_z=sign.THICKNESS / 2,
        height=sign.top - sign.bottom,
        yaw=sign.yaw,
        gloss=0.0,
        texture=paint,
    )
    if sign.bottom == 0.0:
        return (board,)
    wood = Texture(pattern="plain", first=(0.25, 0.16, 0.09), second=(0.25, 0.16, 0.09), scale=1.0, angle=0.0)
    post = Solid(
        kind="cylinder",
        instance=instance,
        class_id=class_id,
        x=sign.x,
        y=0.0,
        z=sign.z,
        half_x=sign.POST_RADIUS,
        half_z=sign.POST_RADIUS,
        height=sign.bottom,
        yaw=0.0,
        gloss=0.0,
        texture=wood,
    )
    return (board, post)


def world_solids(world: World) -> tuple[Solid, ...]:
    """Things in order, then the sign's board, then its post if it has one."""
    things = tuple(thing_solid(thing, i) for i, thing in enumerate(world.things))
    return things + sign_solids(world.sign, len(things))
