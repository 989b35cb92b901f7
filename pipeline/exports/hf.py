"""Parquet that Hugging Face's `datasets` opens with pictures as pictures: load_dataset("parquet", data_files="out/data/*.parquet").

    data/000042.parquet    the images of shard 42, in manifest order
    README.md              the dataset card, with which the folder is a dataset as it is: load_dataset("out")

The columns of an image; those of a label are null where its status is not ok:

    image_id, source, uri, split, license, captions, height, width
    image                                      the photo
    <expert>_status, <expert>_reason
    <expert>                                   map, class map: a picture; instances: boxes (left, top, right, bottom in pixels),
                                               scores, classes, masks; words: polygons, texts, scores; text; scores
    <expert>_scale, <expert>_bias              of a map: value = scale * pixel + bias
    <expert>_log_prob                          of a text

What makes a struct a picture and a number a class with a name stands in the schema's metadata, under ``huggingface``. A class
map of 8 bits gets a palette, so that it is seen in colours; its pixels are the class ids all the same. Of a map with three
channels of 16 bits Pillow, and so `datasets`, shows 8.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expert_zoo.card import ExpertCard
from expert_zoo.spec import LabelSpec
from pipeline.codec import DENSE
from pipeline.errors import StoreError
from pipeline.exports.files import Files
from pipeline.exports.layout import Entry, Layout, Piece, Taken
from pipeline.paint import class_colour

#: Images in memory at a time, and in a row group: with photos some tens of MB.
GROUP = 64
#: What its README says of an expert whose weights `weights seed` wrote.
NOISE = " **Random weights: the labels are noise.**"
_RECORD = ("image_id", "source", "uri", "split", "license")
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

#: Arrow's type of a column, and what `datasets` is to make of it.
Column = tuple[pa.DataType, dict[str, Any]]


class HuggingFace(Layout):
    """Parquet with pictures."""

    name = "hf"

    def take(self, cards: Mapping[str, ExpertCard]) -> Taken:
        """All. Raises StoreError where a column would have the name of one of the record's."""
        taken = set(_RECORD) | {"captions", "height", "width"}
        for name, card in cards.items():
            columns = {"image"} if card.spec.kind == "image" else set(_columns_of(name, card.spec))
            if twice := taken & columns:
                raise StoreError(
                    f"{card.column} would be the column {min(twice)}, which is there already; leave it out"
                )
            taken |= columns
        return Taken(dict(cards))

    def write(self, piece: Piece, files: Files) -> None:
        columns = self._columns(piece.cards)
        schema = _schema(columns)
        with files.create(f"data/{piece.shard.index:06d}.parquet") as target:
            # Photos and PNGs are compressed as they are.
            plain = [name for name, (kind, _) in columns.items() if kind == _PICTURE]
            codecs = {name: "NONE" if name.split(".")[0] in plain else "ZSTD" for name in _leaves(schema)}
            repeating = ["source", "split", "license", *(name for name in columns if name.endswith("_status"))]
            with pq.ParquetWriter(target, schema, compression=codecs, use_dictionary=repeating) as writer:
                entries = piece.entries()
                while rows := [self._row(piece, entry) for entry in islice(entries, GROUP)]:
                    writer.write_table(pa.Table.from_pylist(rows, schema))

    def finish(self, cards: Mapping[str, ExpertCard], shards: list[int], files: Files) -> None:
        lines = [
            "---",
            "configs:",
            "- config_name: default",
            "  data_files: data/*.parquet",
            "---",
            "",
            "# Labels of frozen experts",
            "",
            "Exported from a label store by expert-labels. Each expert's labels have the licence of its weights:",
            "",
            "| column | what it is | licence |",
            "|---|---|---|",
            *(
                f"| {name} | {card.summary}{NOISE if card.random_weights else ''} | "
                f"{card.licence}{'' if card.commercial_use else ', no commercial use'} |"
                for name, card in cards.items()
            ),
            "",
            "Photos have licences of their own: see the column `license`.",
            "",
        ]
        with files.create("README.md") as target:
            target.write("\n".join(lines).encode())

    def _columns(self, cards: Mapping[str, ExpertCard]) -> dict[str, Column]:
        found: dict[str, Column] = {name: _value(pa.string()) for name in _RECORD}
        found["captions"] = _list(_value(pa.string()))
        found |= {name: _value(pa.int32()) for name in ("height", "width")}
        kinds = [card.spec.kind for card in cards.values()]
        if self.photos or "image" in kinds:
            found["image"] = _picture()
        for name, card in cards.items():
            if card.spec.kind != "image":
                found |= _columns_of(name, card.spec)
        return found

    def _row(self, piece: Piece, entry: Entry) -> dict[str, Any]:
        record = entry.record
        row: dict[str, Any] = {name: getattr(record, name) for name in _RECORD}
        row |= {"captions": list(record.captions), "height": entry.height, "width": entry.width}
        if entry.photo is not None:
            row["image"] = {"bytes": entry.photo.data, "path": f"{record.image_id}.{entry.photo.format}"}
        for name, card in piece.cards.items():
            if card.spec.kind != "image":
                row |= _label(piece, name, entry)
        return row


def _columns_of(name: str, spec: LabelSpec) -> dict[str, Column]:
    found = {f"{name}_status": _value(pa.string()), f"{name}_reason": _value(pa.string())}
    classes = {"names": list(spec.class_names), "_type": "ClassLabel"}
    match spec.kind:
        case "map":
            found |= {name: _picture()} | {f"{name}_{what}": _value(pa.float64()) for what in ("scale", "bias")}
        case "classes":
            found[name] = _picture()
        case "instances":
            found[name] = _struct(
                boxes=_list(_list(_value(pa.float32()))),
                scores=_list(_value(pa.float32())),
                classes=_list((pa.int64(), classes)),
                masks=_list(_picture()),
            )
        case "words":
            found[name] = _struct(
                polygons=_list(_list(_value(pa.float32()))),
                texts=_list(_value(pa.string())),
                scores=_list(_value(pa.float32())),
            )
        case "text":
            found |= {name: _value(pa.string()), f"{name}_log_prob": _value(pa.float32())}
        case "score":
            found[name] = _list(_value(pa.float32()))
        case "image":
            raise AssertionError("the photo is no label")
    return found


def _label(piece: Piece, name: str, entry: Entry) -> dict[str, Any]:
    row, spec = entry.rows.get(name), piece.cards[name].spec
    if row is None:
        return {f"{name}_status": "missing", f"{name}_reason": ""}
    said: dict[str, Any] = {f"{name}_status": row["status"], f"{name}_reason": row["reason"]}
    if row["status"] != "ok":
        return said
    path = f"{entry.record.image_id}.{name}.png"
    if spec.kind in DENSE:
        data = piece.member(name, row)
        if spec.kind == "map":
            return said | {name: {"bytes": data, "path": path}} | {f"{name}_{k}": row[k] for k in ("scale", "bias")}
        return said | {name: {"bytes": with_palette(data) if spec.dtype == "uint8" else data, "path": path}}
    match spec.kind:
        case "instances":
            masks = [{"bytes": mask, "path": None} for mask in row["masks"] or ()]
            value: Any = {"boxes": row["boxes"], "scores": row["scores"], "classes": row["class_ids"], "masks": masks}
        case "words":
            value = {key: row[key] for key in ("polygons", "texts", "scores")}
        case "text":
            return said | {name: row["text"], f"{name}_log_prob": row["log_prob"]}
        case _:
            value = row["scores"]
    return said | {name: value}


# ---- types, as Arrow has them and as `datasets` does


def _schema(columns: Mapping[str, Column]) -> pa.Schema:
    features = {name: feature for name, (_, feature) in columns.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([pa.field(name, kind) for name, (kind, _) in columns.items()], metadata=metadata)


def _value(kind: pa.DataType) -> Column:
    names = {pa.float32(): "float32", pa.float64(): "float64", pa.int32(): "int32", pa.string(): "string"}
    return kind, {"dtype": names[kind], "_type": "Value"}


def _picture() -> Column:
    return _PICTURE, {"_type": "Image"}


def _list(of: Column) -> Column:
    # A list of one in JSON is how every version of `datasets` writes a list of that.
    return pa.list_(of[0]), [of[1]]  # type: ignore[return-value]


def _struct(**fields: Column) -> Column:
    return pa.struct([(name, kind) for name, (kind, _) in fields.items()]), {name: f for name, (_, f) in fields.items()}


def _leaves(schema: pa.Schema) -> Iterator[str]:
    """Paths of the columns that Parquet makes of a schema."""

    def below(path: str, kind: pa.DataType) -> Iterator[str]:
        if pa.types.is_struct(kind):
            for field in kind:
                yield from below(f"{path}.{field.name}", field.type)
        elif pa.types.is_list(kind):
            yield from below(f"{path}.list.element", kind.value_type)
        else:
            yield path

    for field in schema:
        yield from below(field.name, field.type)


# ---- a class map in colours


def with_palette(png: bytes) -> bytes:
    """A grey PNG of 8 bits as one with a palette: the same pixels, shown in colours. Any other PNG as it is."""
    if png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR" or png[24:26] != b"\x08\x00":
        return png
    header = png[16:25] + b"\x03" + png[26:29]
    return png[:8] + _chunk(b"IHDR", header) + _chunk(b"PLTE", _COLOURS) + png[33:]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


#: `class_colour` of every id; 255, which is none of the classes, is black.
_COLOURS = b"".join(bytes(class_colour(class_id)) for class_id in range(255)) + bytes(3)
