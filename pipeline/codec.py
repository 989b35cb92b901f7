"""Labels as rows and PNG members, and back: the store format of docs/store-format.md, kind by kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from expert_zoo.labels import ClassMap, DenseMap, Instances, Label, Picture, Scores, Text, Value, Words
from expert_zoo.spec import Kind, LabelSpec
from pipeline.png import read_png, write_png

_COMMON = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("status", pa.string(), nullable=False),
    pa.field("reason", pa.string(), nullable=False),
    pa.field("height", pa.int32()),
    pa.field("width", pa.int32()),
]
_MEMBER = [pa.field("offset", pa.int64()), pa.field("length", pa.int64())]
_BY_KIND: dict[Kind, list[pa.Field]] = {
    "map": [pa.field("scale", pa.float64()), pa.field("bias", pa.float64()), *_MEMBER],
    "classes": _MEMBER,
    "instances": [
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("class_ids", pa.list_(pa.int32())),
        pa.field("masks", pa.list_(pa.binary())),
    ],
    "words": [
        pa.field("polygons", pa.list_(pa.list_(pa.float32(), 8))),
        pa.field("texts", pa.list_(pa.string())),
        pa.field("scores", pa.list_(pa.float32())),
    ],
    "text": [pa.field("text", pa.string()), pa.field("log_prob", pa.float32())],
    "score": [pa.field("scores", pa.list_(pa.float32()))],
    "image": [pa.field("format", pa.string()), *_MEMBER],
}
#: Kinds whose values are members of the cell's tar.
DENSE: tuple[Kind, ...] = ("map", "classes", "image")


def table_schema(spec: LabelSpec) -> pa.Schema:
    """The Parquet schema of a cell of that kind. Columns of the kind are null in rows that are not ``ok``."""
    return pa.schema(_COMMON + _BY_KIND[spec.kind])


def encode(spec: LabelSpec, value: Value) -> tuple[dict[str, Any], bytes | None]:
    """``value`` as the columns of its kind (all but offset and length) and, for dense kinds, the bytes of its member.

    The value has passed `LabelSpec.problem_with`. Maps are rounded to the nearest step of ``scale``.
    """
    match value:
        case DenseMap():
            png, scale, bias = _quantise(spec, value.values)
            return {"scale": scale, "bias": bias}, write_png(png)
        case ClassMap():
            return {}, write_png(value.ids_HW)
        case Instances():
            masks = None if value.masks is None else list(value.masks)
            columns = {"boxes": value.boxes_N4.tolist(), "scores": value.scores_N.tolist()}
            return columns | {"class_ids": value.class_ids_N.tolist(), "masks": masks}, None
        case Words():
            polygons = value.polygons_N42.reshape(-1, 8).tolist()
            return {"polygons": polygons, "texts": list(value.texts), "scores": value.scores_N.tolist()}, None
        case Text():
            return {"text": value.text, "log_prob": value.log_prob}, None
        case Scores():
            return {"scores": value.values_N.tolist()}, None
        case Picture():
            return {"format": value.format}, value.data


def member_ending(spec: LabelSpec, columns: Mapping[str, Any]) -> str:
    """File ending of a row's member: the photo's own format, or png."""
    return str(columns["format"]) if spec.kind == "image" else "png"


def decode(spec: LabelSpec, row: Mapping[str, Any], member: bytes | None) -> Label:
    """The Label that a row (and its member) holds. Raises ValueError where the member is not the PNG it should be."""
    if row["status"] != "ok":
        return Label(row["status"], None, row["reason"])
    return Label.ok(_value(spec, row, member), row["reason"])


def _value(spec: LabelSpec, row: Mapping[str, Any], member: bytes | None) -> Value:
    match spec.kind:
        case "map":
            png = stored_pixels(spec, member)
            return DenseMap((png * np.float64(row["scale"]) + np.float64(row["bias"])).astype(np.float32))
        case "classes":
            return ClassMap(stored_pixels(spec, member))
        case "instances":
            return Instances(
                boxes_N4=np.asarray(row["boxes"], np.float32).reshape(-1, 4),
                scores_N=np.asarray(row["scores"], np.float32),
                class_ids_N=np.asarray(row["class_ids"], np.int32),
                masks=None if row["masks"] is None else tuple(row["masks"]),
            )
        case "words":
            return Words(
                polygons_N42=np.asarray(row["polygons"], np.float32).reshape(-1, 4, 2),
                texts=tuple(row["texts"]),
                scores_N=np.asarray(row["scores"], np.float32),
            )
        case "text":
            return Text(row["text"], row["log_prob"])
        case "score":
            return Scores(np.asarray(row["scores"], np.float32))
        case "image":
            assert member is not None
            return Picture(member, row["format"])


def _quantise(spec: LabelSpec, values: np.ndarray) -> tuple[np.ndarray, float, float]:
    low, high = spec.value_range or (float(values.min()), float(values.max()))
    steps = 65535 if spec.dtype == "uint16" else 255
    scale = (high - low) / steps
    if scale == 0.0:  # a constant map: every pixel is the bias
        return np.zeros(values.shape, spec.dtype), 0.0, low
    png = np.rint((values.astype(np.float64) - low) / scale).clip(0, steps)
    return png.astype(spec.dtype), scale, low


def stored_pixels(spec: LabelSpec, member: bytes | None) -> np.ndarray:
    """The integers of a map's or class map's PNG, (H, W) or (H, W, 3) RGB. ValueError where it is not the PNG it should be."""
    pixels = None if not member else read_png(member)
    if pixels is None:
        raise ValueError(f"the tar holds no readable PNG of {0 if member is None else len(member)} bytes here")
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if pixels.dtype != spec.dtype or channels != spec.channels:
        raise ValueError(f"the PNG is {channels} x {pixels.dtype}; expected {spec.channels} x {spec.dtype}")
    return pixels
