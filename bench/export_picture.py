"""The picture in docs/exports.md: a rendered scene, and its labels as the files for Prismer's released code hold them.

python -m bench.export_picture docs/exports.jpg
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from expert_zoo.catalog import create
from jobs.exporting import layout_of
from manifests.manifest import ManifestWriter
from manifests.record import ImageRecord, to_batch
from manifests.scenes.uri import scene_uri
from pipeline.exports.run import export
from pipeline.journal import Journal
from pipeline.labeller import Effort, Labeller
from pipeline.paint import Image_HW3, class_colour, contact_sheet, show_photo
from pipeline.store import LabelStore
from trainer.embeddings.writing import Means, embed

EXPERTS = ("image", "truth_depth", "truth_normal", "truth_edge", "truth_seg", "truth_detection", "truth_ocr")
FOLDERS = ("depth", "normal", "edge", "seg_coco", "obj_detection", "ocr_detection")
SEED, SCENE, SIDE, HEIGHT = 11, 7, 512, 176


def tree(folder: Path) -> Path:
    """The exported files of one scene, labelled by its exact answers."""
    record = ImageRecord(image_id="scene", source="scenes", uri=scene_uri(SEED, SCENE, SIDE), captions=("a scene",))
    with ManifestWriter(str(folder / "manifest.parquet"), seed=0) as writer:
        writer.write(to_batch([record]))
    store = LabelStore.create(str(folder / "store"), writer.manifest, shard_size=1)
    experts = [create(name) for name in EXPERTS]
    for expert in experts:
        store.add_column(expert.card)
    shard = store.plan.shard(0)
    columns = [expert.card.column for expert in experts]
    Labeller(store, experts, effort=Effort()).label(shard, columns, Journal(store.storage, "picture", shard.name))
    embed(store, str(folder / "embeddings"), means=Means(method="random"), say=lambda _: None)
    layout = layout_of("prismer", photos=True, embeddings=str(folder / "embeddings"))
    export(store, str(folder / "out"), layout)
    return folder / "out"


def shown(path: Path) -> Image_HW3:
    """A file as it is; numbers of classes, objects and words in colours, none of them in white."""
    pixels = np.asarray(Image.open(path))
    if path.parts[-4] in ("seg_coco", "obj_detection", "ocr_detection"):
        colours = np.array([*(class_colour(number) for number in range(255)), (255, 255, 255)], np.uint8)
        pixels = colours[pixels]
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return show_photo(pixels, HEIGHT, HEIGHT)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = tree(Path(folder))
        photo = next((out / "data").rglob("*.jpg"))
        pictures = [("photo", shown(photo))]
        pictures += [(name, shown(next((out / "labels" / name).rglob("*.png")))) for name in FOLDERS]
        half = (len(pictures) + 1) // 2
        blank = np.full((HEIGHT, HEIGHT, 3), 255, np.uint8)
        below = [*pictures[half:], *[("", blank)] * (2 * half - len(pictures))]
        sheets = [contact_sheet([("", part)]) for part in (pictures[:half], below)]
        sheets = [sheet[: HEIGHT + 30] for sheet in sheets]
        Image.fromarray(np.concatenate(sheets)).save(sys.argv[1], "JPEG", quality=85)


if __name__ == "__main__":
    main()
