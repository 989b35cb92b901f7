"""The nouns of a scene: a room with a camera, a few solids on the floor, a sign with a word, and lamps.

World frame: metres, x right, y up, the camera above the origin looking roughly along -z; the floor is y = 0.
Camera frame: x right, y up, z towards the viewer; depth is the distance along the optical axis (-z of the camera frame).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, sin
from typing import Final

import numpy as np
from numpy.typing import NDArray

CLASSES: Final = ("floor", "wall", "ball", "box", "cylinder", "cone", "sign")
"""What every pixel of the class map is; the position is the id."""

THINGS: Final = ("ball", "box", "cylinder", "cone", "sign")
"""What has a bounding box; the position is the class id of an instance (the class map's id less two)."""

SHAPES: Final = THINGS[:4]
SIZES: Final = ("small", "large")
PATTERNS: Final = ("plain", "striped", "checkered", "speckled")

COLOURS: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.78, 0.06, 0.06),
    "orange": (0.95, 0.36, 0.03),
    "yellow": (0.93, 0.76, 0.06),
    "green": (0.07, 0.46, 0.10),
    "teal": (0.03, 0.50, 0.50),
    "blue": (0.05, 0.13, 0.70),
    "purple": (0.32, 0.07, 0.52),
    "pink": (0.95, 0.36, 0.52),
}
"""Linear-light albedo of each named colour."""

RGB = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Texture:
    """A solid texture: two albedos mixed by a pattern over the solid's own coordinates.

    `scale` is the period in metres; `angle` (radians) turns the pattern's first axis in the floor plane or the upright plane.
    """

    pattern: str
    first: RGB
    second: RGB
    scale: float
    angle: float


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Pinhole camera at (0, height, 0); `pitch` looks down, `yaw` turns right (radians); `focal` in image widths."""

    height: float
    pitch: float
    yaw: float
    focal: float

    def axes(self) -> NDArray[np.float64]:
        """3x3, rows right, up and forward of the camera in world coordinates."""
        ahead = np.array([sin(self.yaw), 0.0, -cos(self.yaw)])
        sky = np.array([0.0, 1.0, 0.0])
        forward = cos(self.pitch) * ahead - sin(self.pitch) * sky
        up = sin(self.pitch) * ahead + cos(self.pitch) * sky
        return np.stack([[cos(self.yaw), 0.0, sin(self.yaw)], up, forward])

    def project(self, points_N3: NDArray[np.float64], size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixel coordinates (N, 2; edges at pixel boundaries, y down) and depths (N) of world points."""
        local_N3 = (np.asarray(points_N3, dtype=np.float64) - [0.0, self.height, 0.0]) @ self.axes().T
        depth_N = local_N3[:, 2]
        scale_N = self.focal * size / depth_N
        xy_N2 = np.stack([size / 2 + local_N3[:, 0] * scale_N, size / 2 - local_N3[:, 1] * scale_N], axis=1)
        return xy_N2, depth_N


@dataclass(frozen=True, kw_only=True)
class Room:
    """Floor y = 0 and three tall walls: z = -back, x = -left, x = right (metres); the lowest `skirting` metres are painted."""

    back: float
    left: float
    right: float
    skirting: float
    floor: Texture
    wall: Texture
    trim: RGB


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A solid standing upright on the floor at (x, 0, z).

    ball: `half_x` is the radius; cylinder and cone: radius `half_x`, `height`; box: half extents `half_x`, `half_z`, `height`, turned
    by `yaw` radians about y.
    """

    shape: str
    colour: str
    size: str
    pattern: str
    x: float
    z: float
    half_x: float
    half_z: float
    height: float
    yaw: float
    gloss: float
    texture: Texture

    @property
    def reach(self) -> float:
        """Radius of the circle on the floor that the solid stays within."""
        return float(np.hypot(self.half_x, self.half_z)) if self.shape == "box" else self.half_x


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A board with a word, facing the camera up to a small turn; on a post, or a panel standing on the floor (`bottom` = 0)."""

    word: str
    x: float
    z: float
    yaw: float
    width: float
    bottom: float
    top: float
    letter_height: float
    paper: RGB
    ink: RGB

    THICKNESS = 0.04
    POST_RADIUS = 0.035

    def front(self, across: float, up: float) -> tuple[float, float, float]:
        """World point on the front face: `across` metres right of its middle line, `up` metres above the floor."""
        half = self.THICKNESS / 2
        return (
            self.x + across * cos(self.yaw) + half * sin(self.yaw),
            up,
            self.z - across * sin(self.yaw) + half * cos(self.yaw),
        )

    @property
    def text_middle(self) -> float:
        """Height above the floor of the middle of the word."""
        return self.top - 1.05 * self.letter_height


@dataclass(frozen=True, kw_only=True)
class Lamp:
    """A point light at (x, y, z); `power` is its share of the light on a surface that faces it."""

    x: float
    y: float
    z: float
    power: float
    tint: RGB


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that is in the picture; equal worlds render equal pictures. `size` is the side of the square image in pixels."""

    seed: int
    index: int
    size: int
    camera: Camera
    room: Room
    things: tuple[Thing, ...]
    sign: Sign
    lamps: tuple[Lamp, ...]
    ambient: float
