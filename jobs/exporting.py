"""`expert-labels export`: from what was asked for to a layout, and back from what an export says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.prismer_tree.layout import PrismerTree
from jobs.prismer_tree.vectors import Vectors
from pipeline.errors import JobError
from pipeline.exports.coco import Coco
from pipeline.exports.hf import HuggingFace
from pipeline.exports.layout import Layout
from pipeline.exports.record import read_record
from pipeline.exports.webdataset import WebDataset
from pipeline.storage import open_storage


def layout_of(
    name: str, *, photos: bool = False, embeddings: str | None = None, datasets: Mapping[str, str] | None = None
) -> Layout:
    """The layout ``name``, with what was asked of it. Raises JobError where it cannot do that."""
    if name != "prismer" and (embeddings or datasets):
        raise JobError(f"--embeddings and --dataset are for --format prismer; {name} has no use for them")
    if name == "coco" and photos:
        raise JobError("COCO results hold no photos; leave --photos out")
    match name:
        case "webdataset":
            return WebDataset(photos=photos)
        case "hf":
            return HuggingFace(photos=photos)
        case "coco":
            return Coco()
        case "prismer":
            try:
                vectors = Vectors(embeddings) if embeddings else None
                return PrismerTree(photos=photos, vectors=vectors, datasets=datasets)
            except ValueError as error:
                raise JobError(str(error)) from error
    raise JobError(f"no layout {name!r}; expected webdataset, hf, coco or prismer")


def layout_at(out_url: str) -> Layout:
    """The layout of the export at ``out_url``, as it was asked for. Raises StoreError where there is none."""
    record = read_record(open_storage(out_url))
    asked: dict[str, Any] = {"photos": record.settings.get("photos", False)} if record.layout != "coco" else {}
    return layout_of(
        record.layout,
        embeddings=record.settings.get("embeddings"),
        datasets=record.settings.get("datasets"),
        **asked,
    )


def datasets_of(named: Sequence[str] | None) -> dict[str, str]:
    """``SOURCE=DATASET`` as a mapping. Raises JobError."""
    found = {}
    for text in named or ():
        source, equals, dataset = text.partition("=")
        if not (source and equals and dataset):
            raise JobError(f"--dataset {text!r}; expected SOURCE=DATASET, such as my_photos=cc12m")
        found[source] = dataset
    return found
