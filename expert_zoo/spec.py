"""LabelSpec: all that is needed to use a label without the expert that made it."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from expert_zoo.labels import ClassMap, DenseMap, Instances, Label, Picture, Scores, Status, Text, Words

Kind = Literal["map", "classes", "instances", "words", "text", "score", "image"]
Quantity = Literal[
    "depth", "inverse_depth", "normal", "edge", "class", "objects", "words", "caption", "match", "photo", "other"
]

#: A picture's format becomes the ending of a file name.
FORMAT_PATTERN = re.compile(r"[a-z0-9]{1,8}")
#: How far a normal's length may be from 1 before the label counts as broken (8-bit rounding alone moves it by 0.007).
UNIT_TOLERANCE = 0.05
#: Boxes and polygons may overhang the image by this many pixels; experts clip, this only forgives rounding.
OVERHANG_PX = 1.0

#: How a PNG of 1 channel begins: signature, length and name of the header, width, height, bit depth, colour type 0.
_GREY_PNG = struct.Struct(">8sI4sIIBB")

_VALUE_TYPE = {
    "map": DenseMap, "classes": ClassMap, "instances": Instances, "words": Words, "text": Text, "score": Scores,
    "image": Picture,
}  # fmt: skip


class LabelSpec(BaseModel):
    """The meaning of one label column.

    kind        how it is stored (docs/store-format.md)
    quantity    what it measures: decides how two columns are compared (`audit --against`) and drawn (`preview`); "other" is drawn
                as grey where it is a map, and compared with nothing
    dtype       of the stored PNG, dense kinds only
    channels    of the stored PNG, dense kinds only
    value_range (low, high) in units; None: every map has its own, kept as scale and bias beside it
    units       "m", "unit vector", "probability", ... ; conventions (axes, frame) in ``convention``
    ignore      the class id that means "none of the classes"
    class_names the name of class id i is class_names[i]
    resample    how to resize a map without inventing values
    flip        what else changes when the image is mirrored left-right: a normal's x changes sign
    """

    # JSON has no infinity: a card with one would come back from the store as another version.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Kind
    quantity: Quantity
    dtype: Literal["uint8", "uint16"] | None = None
    channels: Literal[1, 3] | None = None
    value_range: tuple[float, float] | None = None
    units: str = ""
    convention: str = ""
    ignore: int | None = None
    class_names: tuple[str, ...] = ()
    resample: Literal["bilinear", "nearest", "none"] = "none"
    flip: Literal["mirror", "mirror_negate_x", "none"] = "mirror"

    @model_validator(mode="after")
    def _is_whole(self) -> LabelSpec:
        dense = self.kind in ("map", "classes")
        if [self.dtype is not None, self.channels is not None] != [dense, dense]:
            raise ValueError(f"kind {self.kind!r}: dtype and channels are for map and classes, and both need them")
        if self.kind == "classes":
            ignore = 255 if self.dtype == "uint8" else 65535
            if self.resample != "nearest" or self.channels != 1 or self.ignore != ignore:
                raise ValueError(f"a class map of {self.dtype} has 1 channel, resamples nearest and ignores {ignore}")
            if len(self.class_names) > ignore:
                raise ValueError(f"{len(self.class_names)} class names do not fit {self.dtype} beside {ignore}")
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise ValueError(f"value_range {self.value_range}: expected the lower end first")
        if self.kind in ("classes", "instances") and not self.class_names:
            raise ValueError(f"kind {self.kind!r} needs class_names")
        if self.kind == "map" and self.resample != "bilinear":
            raise ValueError("a map resamples bilinear")
        return self

    def problem_with(self, label: Label, *, height: int, width: int) -> str | None:
        """Why ``label`` breaks this spec for an image of that size, or None. The reason names the broken rule."""
        value = label.value
        if label.status not in get_args(Status):
            return f"unknown status {label.status!r}"
        if label.status == "failed" and not label.reason:
            return "failed without a reason"
        if problem := _texts_problem([label.reason]):
            return f"the reason: {problem}"
        if label.status != "ok":
            return None if value is None else f"a label that is {label.status} carries a value"
        if not isinstance(value, _VALUE_TYPE[self.kind]):
            return f"kind {self.kind!r} wants {_VALUE_TYPE[self.kind].__name__}, got {type(value).__name__}"
        match value:
            case DenseMap():
                return self._map_problem(value.values)
            case ClassMap():
                return self._class_map_problem(value.ids_HW)
            case Instances():
                return self._instances_problem(value, height, width)
            case Words():
                return self._words_problem(value, height, width)
            case Text():
                finite = np.isfinite(value.log_prob)
                return _texts_problem([value.text]) or (None if finite else "the log-probability is not finite")
            case Scores():
                if value.values_N.ndim != 1:
                    return f"scores of shape {value.values_N.shape}; expected one axis"
                return None if np.isfinite(value.values_N).all() else "a score is not finite"
            case Picture():
                if not FORMAT_PATTERN.fullmatch(value.format):
                    return f"{value.format!r} is no file ending; expected lower case letters and digits"
                if not isinstance(value.data, bytes):
                    return f"the picture's data is {type(value.data).__name__}; expected the bytes of a file"
                return None if value.data else "the picture has no bytes"
        raise AssertionError(f"no rule for {type(value).__name__}")

    def _map_problem(self, values: np.ndarray) -> str | None:
        shape_ok = values.ndim == 2 if self.channels == 1 else values.ndim == 3 and values.shape[2] == self.channels
        if not shape_ok or values.size == 0:
            return f"wrong shape {values.shape} for {self.channels} channel(s)"
        if not np.isfinite(values).all():
            return f"{int((~np.isfinite(values)).sum())} of {values.size} values are NaN or infinite"
        if self.value_range is not None:
            low, high = self.value_range
            slack = 1e-4 * (high - low)
            if values.min() < low - slack or values.max() > high + slack:
                return f"values from {values.min():.4g} to {values.max():.4g} leave the range {low:g}..{high:g}"
        if self.quantity == "normal":
            # Ends of the squares alone: this runs between two batches, while the device waits.
            squares_HW = (values * values) @ np.ones(3, values.dtype)
            error = max(abs(float(end) ** 0.5 - 1.0) for end in (squares_HW.min(), squares_HW.max()))
            if error > UNIT_TOLERANCE:
                return f"a normal's length is off by {error:.3f}"
        return None

    def _class_map_problem(self, ids_HW: np.ndarray) -> str | None:
        if ids_HW.ndim != 2 or ids_HW.size == 0 or ids_HW.dtype.name != self.dtype:
            return f"wrong class map: shape {ids_HW.shape}, {ids_HW.dtype}; expected two axes of {self.dtype}"
        strange = ids_HW[(ids_HW >= len(self.class_names)) & (ids_HW != self.ignore)]
        return f"class id {int(strange[0])} of {len(self.class_names)} classes" if strange.size else None

    def _instances_problem(self, value: Instances, height: int, width: int) -> str | None:
        n = len(value.boxes_N4)
        if n == 0:
            return "ok without an object; expected the status empty"
        if value.boxes_N4.shape != (n, 4) or value.scores_N.shape != (n,) or value.class_ids_N.shape != (n,):
            return f"{n} boxes, {value.scores_N.shape} scores, {value.class_ids_N.shape} class ids"
        if value.masks is not None and len(value.masks) != n:
            return f"{n} boxes but {len(value.masks)} masks"
        if not np.issubdtype(value.class_ids_N.dtype, np.integer):
            return f"class ids of type {value.class_ids_N.dtype}"
        if value.class_ids_N.min() < 0 or value.class_ids_N.max() >= len(self.class_names):
            return f"class id {int(value.class_ids_N.max())} of {len(self.class_names)} classes"
        left, top, right, bottom = value.boxes_N4.T
        if not np.isfinite(value.boxes_N4).all() or (right <= left).any() or (bottom <= top).any():
            return "a box is not finite, or its right (bottom) is not beyond its left (top)"
        problem = _points_problem(value.boxes_N4.reshape(n, 2, 2), height, width) or _scores_problem(value.scores_N)
        return problem or (None if value.masks is None else _masks_problem(value.masks, value.boxes_N4))

    def _words_problem(self, value: Words, height: int, width: int) -> str | None:
        n = len(value.texts)
        if n == 0:
            return "ok without a word; expected the status empty"
        if value.polygons_N42.shape != (n, 4, 2) or value.scores_N.shape != (n,):
            return f"{n} words, polygons {value.polygons_N42.shape}, scores {value.scores_N.shape}"
        problem = _texts_problem(value.texts) or _points_problem(value.polygons_N42, height, width)
        return problem or _scores_problem(value.scores_N)


def _texts_problem(texts: Sequence[str]) -> str | None:
    for text in texts:
        if not isinstance(text, str):
            return f"expected text, got {type(text).__name__}"
        try:
            text.encode()
        except UnicodeEncodeError:
            return f"{text!r} holds half of a surrogate pair, which is no character"
    return None


def _points_problem(points_NK2: np.ndarray, height: int, width: int) -> str | None:
    if not np.isfinite(points_NK2).all():
        return "a coordinate is NaN or infinite"
    beyond = max(-points_NK2.min(), points_NK2[..., 0].max() - width, points_NK2[..., 1].max() - height)
    return f"a point lies {beyond:.1f} px outside the {width}x{height} image" if beyond > OVERHANG_PX else None


def _masks_problem(masks: Sequence[bytes], boxes_N4: np.ndarray) -> str | None:
    sizes_N2 = np.ceil(boxes_N4[:, 2:]) - np.floor(boxes_N4[:, :2])
    for n, (mask, (width, height)) in enumerate(zip(masks, sizes_N2.astype(int).tolist(), strict=True)):
        if not isinstance(mask, bytes):
            return f"mask {n} is {type(mask).__name__}; expected the bytes of a PNG"
        if len(mask) < _GREY_PNG.size:
            return f"mask {n} is no PNG"
        signature, _, header, *size, _, colour = _GREY_PNG.unpack_from(mask)
        if signature != b"\x89PNG\r\n\x1a\n" or header != b"IHDR":
            return f"mask {n} is no PNG"
        if colour != 0:
            return f"mask {n} is a PNG in colour, with a palette or with transparency; expected 1 channel"
        if size != [width, height]:
            return f"mask {n} is {size[0]}x{size[1]}; its box, rounded outwards, is {width}x{height}"
    return None


def _scores_problem(scores_N: np.ndarray) -> str | None:
    inside = np.isfinite(scores_N).all() and scores_N.min() >= 0 and scores_N.max() <= 1
    return None if inside else "a score is outside 0..1"
