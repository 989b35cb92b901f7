"""Where the released code of Prismer looks for a photo and its labels: {data}/{dataset}/{folder}/{name}, {labels}/{expert}/...

Its names, spelt as it spells them:

    cc3m_sgu        CC3M and SBU together. The code and its README write SGU where SBU is meant, and look for nothing else
    vqav2           COCO, also for captions
    vg              Visual Genome on the disk; in the list of captions a path must contain "visual-genome" instead
    helpers         what belongs to no data set, for its demo
    a.jpg.x/b.jpg   the label of this photo is a.png.x/b.png: every ".jpg" in the path is replaced, not only the ending
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from manifests.location import split_part
from manifests.record import ImageRecord

#: Of what our sources are called. Others are helpers.
DATASETS = {
    "coco": "vqav2",
    "visual_genome": "vg",
    "cc3m": "cc3m_sgu",
    "sbu": "cc3m_sgu",
    "cc12m": "cc12m",
    "nocaps": "nocaps",
}
OTHERS = "helpers"
KNOWN = frozenset({*DATASETS.values(), OTHERS, "imagenet", "imagenet_train"})
#: Photos of these are found by their ending, *.jpg, and their captions in a text file beside them.
WEB = frozenset({"cc12m", "cc3m_sgu"})
#: What a part of a path may be, here as in a store.
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]*")


@dataclass(frozen=True, slots=True)
class Place:
    """``path``: of the photo below its data set, folder/name. ``loose``: a file of that path is what the record names."""

    dataset: str
    path: str
    loose: bool

    @property
    def photo(self) -> str:
        return f"data/{self.dataset}/{self.path}"

    def beside(self, ending: str) -> str:
        """Of the file beside the photo with the web captions; ending with its dot."""
        return self.photo.replace(".jpg", ending)

    def label(self, expert: str, ending: str) -> str:
        """As the released code computes it: every occurrence of the photo's ending is replaced."""
        return f"labels/{expert}/{self.dataset}/{self.path.replace('.' + self.path.split('.')[-1], ending)}"


def place_of(record: ImageRecord, shard: int, datasets: dict[str, str]) -> Place:
    """The photo's own folder and name where it is a file by itself, else the shard's number and the image's id.

    datasets: source -> data set, before DATASETS.
    """
    dataset = {**DATASETS, **datasets}.get(record.source, OTHERS)
    uri, part = split_part(record.uri)
    if part is None and not uri.startswith(("scenes://", "http://", "https://")):
        *_, folder, name = ("", "", *PurePosixPath(unquote(urlsplit(uri).path, errors="surrogateescape")).parts)
        endings = (".jpg",) if dataset in WEB else (".jpg", ".jpeg", ".JPEG", ".png")
        if _PART.fullmatch(folder) and _PART.fullmatch(name) and name.endswith(endings):
            return Place(dataset, f"{folder}/{name}", loose=True)
    return Place(dataset, f"{shard:06d}/{record.image_id}.jpg", loose=False)


def list_of(record: ImageRecord, dataset: str) -> str | None:
    """The list that an image stands in, without its ending; None where the released code searches folders instead."""
    match dataset:
        case "vqav2":
            part = record.split if record.split in ("val", "test") else "train"
            return f"coco_karpathy_{part}"
        case "vg":
            return "vg_caption"
        case "nocaps":
            return "nocaps_val"
    return None


def list_items(record: ImageRecord, place: Place) -> list[dict[str, object]]:
    """What an image adds to its list: an item for each caption in those for training, one in those for evaluation."""
    match list_of(record, place.dataset):
        case "coco_karpathy_train":
            name = (
                f"coco_{int(match[1])}" if (match := re.fullmatch(r"coco_(\d+)", record.image_id)) else record.image_id
            )
            return [{"caption": text, "image": place.path, "image_id": name} for text in record.captions]
        case "vg_caption":
            image = f"visual-genome/{place.path}"
            return [{"caption": text, "image": image, "image_id": record.image_id} for text in record.captions]
        case None:
            return []
        case _:
            return [{"image": place.path, "caption": list(record.captions)}]
