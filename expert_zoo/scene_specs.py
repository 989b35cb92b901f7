"""What labels of rendered scenes mean: one set of specs for the exact truth and for the pocket experts that learned from it."""

from __future__ import annotations

from typing import Final

from expert_zoo.spec import LabelSpec
from manifests.scenes.world import CLASSES, THINGS

DEPTH: Final = LabelSpec(
    kind="map",
    quantity="depth",
    dtype="uint16",
    channels=1,
    units="m",
    convention="distance along the optical axis",
    resample="bilinear",
)

NORMAL: Final = LabelSpec(
    kind="map",
    quantity="normal",
    dtype="uint8",
    channels=3,
    value_range=(-1.0, 1.0),
    units="unit vector",
    convention="camera frame: x right, y up, z towards the viewer",
    resample="bilinear",
    flip="mirror_negate_x",
)

EDGE: Final = LabelSpec(
    kind="map",
    quantity="edge",
    dtype="uint8",
    channels=1,
    value_range=(0.0, 1.0),
    units="probability",
    convention="outlines and creases of solids; an edge from 0.5 on",
    resample="bilinear",
)

SEGMENTATION: Final = LabelSpec(
    kind="classes",
    quantity="class",
    dtype="uint8",
    channels=1,
    ignore=255,
    class_names=CLASSES,
    resample="nearest",
)

DETECTION: Final = LabelSpec(
    kind="instances",
    quantity="objects",
    units="pixels of the upright image",
    convention="x right, y down; around what is visible of a thing",
    class_names=THINGS,
)

WORDS: Final = LabelSpec(
    kind="words",
    quantity="words",
    units="pixels of the upright image",
    convention="x right, y down; corners clockwise from the reading direction's top left",
)
