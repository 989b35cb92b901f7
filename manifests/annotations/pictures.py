"""Which picture an annotation is about: found by a record's keys, whatever dataset its id is from."""

from __future__ import annotations

import re

from manifests.record import ImageRecord
from manifests.sources.coco import coco_key
from manifests.sources.visual_genome import vg_key

#: Ids as the sources make them, of manifests from before records had keys.
_COCO, _VG = re.compile(r"coco_(\d{12,})"), re.compile(r"vg_(\d+)")
_COCO_PATH = re.compile(r"(?:^|/)(?:COCO_[a-z]+\d{4}_|(?:train|val|test)20\d\d/)(\d{12})\.[A-Za-z]+$")
_VG_PATH = re.compile(r"(?:^|/)(\d{1,18})\.[A-Za-z]+$")


def names_of(record: ImageRecord) -> tuple[str, ...]:
    """All names that annotations may know a picture by: its keys, and its id as one of the kind ``id:<image id>``.

    Visual Genome's pictures that are COCO's become one record with them; both datasets' questions find it.
    """
    names = dict.fromkeys(record.keys)
    coco, vg = _COCO.fullmatch(record.image_id), _VG.fullmatch(record.image_id)
    if coco:
        names[coco_key(int(coco[1]))] = None
    if vg:
        names[vg_key(int(vg[1]))] = None
    return (*names, id_name(record.image_id))


def id_name(image_id: str) -> str:
    """The name of the picture that has this image id."""
    return f"id:{image_id}"


def path_name(path: str, dataset: str) -> str | None:
    """The name of a picture in a list of BLIP's or Prismer's, whose ``dataset`` is vqa or vg; None where the path says none."""
    coco = _COCO_PATH.search(path)
    if coco:
        return coco_key(int(coco[1]))
    found = _VG_PATH.search(path) if dataset == "vg" else None
    return vg_key(int(found[1])) if found else None
