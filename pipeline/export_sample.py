"""One image of a store as the members of a WebDataset sample (pipeline/export.py says which they are)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from expert_zoo.card import ExpertCard
from manifests.record import ImageRecord
from pipeline.cell import CellReader
from pipeline.codec import DENSE, member_ending
from pipeline.errors import DamagedCell

#: Member name without the key, and its bytes.
Member = tuple[str, bytes]
#: Columns of every kind: what they say stands in <key>.json.
_COMMON = ("image_id", "status", "reason", "height", "width")


def sample_members(
    record: ImageRecord,
    cards: Mapping[str, ExpertCard],
    readers: Mapping[str, CellReader],
    rows: Mapping[str, dict[str, Any]],
) -> Iterator[Member]:
    """The members of one sample, `json` first, then by expert name.

    ``cards``: of all exported columns by expert name; ``readers``, ``rows``: of those whose cell is committed. Raises
    DamagedCell where a member is cut off.
    """
    sizes = [(row["height"], row["width"]) for row in rows.values() if row["height"] is not None]
    height, width = sizes[0] if sizes else (None, None)
    about = {
        "image_id": record.image_id,
        "source": record.source,
        "uri": record.uri,
        "split": record.split,
        "license": record.license,
        "captions": list(record.captions),
        "height": height,
        "width": width,
        "labels": {name: _about(card, rows.get(name)) for name, card in sorted(cards.items())},
    }
    yield "json", _json(about)
    if record.captions:
        yield "txt", "\n".join(record.captions).encode()
    for name in sorted(rows):
        if rows[name]["status"] == "ok":
            yield from _members(cards[name], readers[name], rows[name])


def _about(card: ExpertCard, row: dict[str, Any] | None) -> dict[str, Any]:
    if row is None:
        return {"status": "missing", "reason": "", "column": card.column}
    about = {"status": row["status"], "reason": row["reason"], "column": card.column}
    if row["status"] == "ok" and card.spec.kind == "map":
        about |= {"scale": row["scale"], "bias": row["bias"]}
    return about


def _members(card: ExpertCard, reader: CellReader, row: dict[str, Any]) -> Iterator[Member]:
    if card.spec.kind in DENSE:
        data = reader.member(row)
        if data is None or len(data) != row["length"]:
            raise DamagedCell(
                f"{card.column}: the tar ends inside the label of {row['image_id']}; "
                "`expert-labels audit --deep --repair` takes its cell back"
            )
        ending = member_ending(card.spec, row)
        # The field that webdataset makes of it is then the photo's format, which its standard decoders know.
        yield ending if card.spec.kind == "image" else f"{card.name}.{ending}", data
        return
    masks: Sequence[bytes] = row.get("masks") or ()
    yield f"{card.name}.json", _json({key: row[key] for key in row if key not in (*_COMMON, "masks")})
    for number, mask in enumerate(masks):
        yield f"{card.name}.mask{number:03d}.png", mask


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
