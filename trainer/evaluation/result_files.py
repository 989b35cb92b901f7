"""Files of results in the form that the evaluation servers take.

    COCO captions, NoCaps   [{"image_id": 391895, "caption": "A man ..."}]
                            captions_<split>_<method>_results.json
    VQAv2                   [{"question_id": 262148000, "answer": "down"}]
                            vqa_OpenEnded_mscoco_<split>_<method>_results.json

Source: cocodataset.org/#format-results, nocaps.org, visualqa.org/challenge.html.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from manifests.location import open_binary, replacing
from manifests.sources.coco import coco_id


def write_captions(said: Mapping[str, str], where: str, *, numbers: Mapping[str, int] | None = None) -> None:
    """Captions by image id. numbers: of the images on the server; None: COCO's, which are in its ids. Raises ValueError without one."""
    of = coco_number if numbers is None else numbers.__getitem__
    numbered = sorted((of(image), caption) for image, caption in said.items())
    _write([{"image_id": number, "caption": caption} for number, caption in numbered], where)


def write_answers(said: Mapping[str, str], where: str) -> None:
    """Answers by question key, of VQAv2. Raises ValueError where a key has no number."""
    strange = [key for key in said if not key.isdigit()]
    if strange:
        raise ValueError(f"question {strange[0]!r} has no number of VQAv2; expected questions of its own files")
    numbered = sorted((int(key), answer) for key, answer in said.items())
    _write([{"question_id": number, "answer": answer} for number, answer in numbered], where)


def read_captions(where: str) -> dict[str, str]:
    """Captions by image id (coco_000000391895), of this or any other method. Raises ValueError: another file, an image twice."""
    with open_binary(where) as stream:
        try:
            entries = json.load(stream)
        except ValueError as error:
            raise ValueError(f"{where} is no JSON: {error}; expected results for COCO's caption server") from error
    if not isinstance(entries, list) or not all(map(_is_caption, entries)):
        raise ValueError(f"{where} is no list of image_id and caption; expected results for COCO's caption server")
    found = {coco_id(entry["image_id"]): str(entry["caption"]) for entry in entries}
    if len(found) < len(entries):
        raise ValueError(f"{where} has {len(entries) - len(found)} images twice; expected one caption of each")
    return found


def coco_number(image_id: str) -> int:
    """COCO's own number in an image id, as manifests.sources.coco makes them (coco_000000391895). Raises ValueError."""
    digits = image_id.rpartition("_")[2]
    if not (image_id.startswith("coco_") and digits.isascii() and digits.isdigit()):
        raise ValueError(f"image {image_id!r} has no number of COCO's; expected a manifest made from COCO's own files")
    return int(digits)


def _is_caption(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("image_id")) is int and isinstance(entry.get("caption"), str)


def _write(entries: list[dict[str, Any]], where: str) -> None:
    if not entries:
        raise ValueError(f"there is nothing to write to {where}; expected results of one photo or more")
    with replacing(where) as stream:
        stream.write(json.dumps(entries).encode())
