"""WebDataset: one tar a shard, readable by the `webdataset` package and by plain tar.

    000042.tar       the samples of shard 42 in manifest order

Members of a sample, whose key is the image's id; a label has one if and only if its status is ok:

    <key>.json                   record, captions, sizes; status and reason of every column, scale and bias of maps
    <key>.txt                    the captions, one a line, where there are any
    <key>.jpg, .png, ...         the photo
    <key>.<expert>.png           map or class map, the store's own bytes
    <key>.<expert>.json          instances, words, text, score
    <key>.<expert>.mask003.png   the mask of instance 3

webdataset's own decoders fit the photo, the texts and the JSON; they would make 8 bits of a 16-bit map: decode those with
OpenCV, and apply scale and bias. The same cells give the same bytes, whoever exports them and when.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from expert_zoo.card import ExpertCard
from pipeline.codec import DENSE
from pipeline.exports.files import Files
from pipeline.exports.layout import Entry, Layout, Piece

_BUFFER_BYTES = 1 << 20
#: Columns of every kind: what they say stands in <key>.json.
_COMMON = ("image_id", "status", "reason", "height", "width")


class WebDataset(Layout):
    """One tar a shard."""

    name = "webdataset"

    def write(self, piece: Piece, files: Files) -> None:
        with (
            files.create(f"{piece.shard.index:06d}.tar") as target,
            tarfile.open(mode="w|", fileobj=cast(Any, target), format=tarfile.GNU_FORMAT, bufsize=_BUFFER_BYTES) as tar,
        ):
            for entry in piece.entries():
                for ending, data in _members(piece, entry):
                    # No times and no owners: the same cells are the same bytes.
                    info = tarfile.TarInfo(f"{entry.record.image_id}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def _members(piece: Piece, entry: Entry) -> Iterator[tuple[str, bytes]]:
    """Name without the key, and bytes; `json` first, then by expert name."""
    record = entry.record
    about = {
        "image_id": record.image_id,
        "source": record.source,
        "uri": record.uri,
        "split": record.split,
        "license": record.license,
        "captions": list(record.captions),
        "height": entry.height,
        "width": entry.width,
        "labels": {name: _about(card, entry.rows.get(name)) for name, card in piece.cards.items()},
    }
    yield "json", _json(about)
    if record.captions:
        yield "txt", "\n".join(record.captions).encode()
    if entry.photo is not None:
        # The field that webdataset makes of it is then the photo's format, which its standard decoders know.
        yield entry.photo.format, entry.photo.data
    for name, row in entry.rows.items():
        if row["status"] == "ok" and piece.cards[name].spec.kind != "image":
            yield from _label(piece, name, row)


def _about(card: ExpertCard, row: Mapping[str, Any] | None) -> dict[str, Any]:
    if row is None:
        return {"status": "missing", "reason": "", "column": card.column}
    about = {"status": row["status"], "reason": row["reason"], "column": card.column}
    if row["status"] == "ok" and card.spec.kind == "map":
        about |= {"scale": row["scale"], "bias": row["bias"]}
    return about


def _label(piece: Piece, name: str, row: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    if piece.cards[name].spec.kind in DENSE:
        yield f"{name}.png", piece.member(name, row)
        return
    masks: Sequence[bytes] = row.get("masks") or ()
    yield f"{name}.json", _json({key: row[key] for key in row if key not in (*_COMMON, "masks")})
    for number, mask in enumerate(masks):
        yield f"{name}.mask{number:03d}.png", mask


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
