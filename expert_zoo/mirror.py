"""The label of the mirrored photo from the label of the photo: every kind by its LabelSpec's ``flip``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from expert_zoo.labels import ClassMap, DenseMap, Instances, Label, Value, Words
from expert_zoo.spec import LabelSpec


def mirrored(label: Label, spec: LabelSpec, *, width: int) -> Label:
    """What the expert would say of the photo mirrored left to right, were it as good on mirrored photos.

    width: of the photo, pixels. A normal's x changes its sign; boxes and corners move, corners stay clockwise from the top
    left; ids, scores and texts are what they were. Labels with ``flip: none`` (captions, scores, photos) come back as they are.
    """
    if label.value is None or spec.flip == "none":
        return label
    return replace(label, value=_mirrored(label.value, spec, float(width)))


def _mirrored(value: Value, spec: LabelSpec, width: float) -> Value:
    match value:
        case DenseMap(values):
            turned = values[:, ::-1].copy()
            if spec.flip == "mirror_negate_x":
                turned[..., 0] = 0.0 - turned[..., 0]  # and not -x, which makes a zero a negative zero
            return DenseMap(turned)
        case ClassMap(ids_HW):
            return ClassMap(ids_HW[:, ::-1].copy())
        case Instances():
            left, top, right, bottom = value.boxes_N4.T
            boxes_N4 = np.stack([width - right, top, width - left, bottom], axis=1).astype(np.float32)
            masks = value.masks and tuple(_mirrored_png(mask) for mask in value.masks)
            return replace(value, boxes_N4=boxes_N4, masks=masks)
        case Words():
            return replace(value, polygons_N42=_mirrored_quads(value.polygons_N42, width))
    return value


def _mirrored_quads(polygons_N42: NDArray[np.float32], width: float) -> NDArray[np.float32]:
    """Mirroring turns clockwise into anticlockwise: the corners swap places in pairs along the reading direction."""
    swapped_N42 = polygons_N42[:, [1, 0, 3, 2]].copy()
    swapped_N42[..., 0] = width - swapped_N42[..., 0]
    return swapped_N42


def _mirrored_png(mask: bytes) -> bytes:
    import cv2

    pixels_HW = cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels_HW is not None, "LabelSpec.problem_with lets no other bytes pass"
    return bytes(cv2.imencode(".png", pixels_HW[:, ::-1])[1].tobytes())
