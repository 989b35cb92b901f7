"""The pictures of docs/experts.md: rendered scenes beside what the experts say of them.

    python -m bench.expert_pictures                   # as they are in the repository
    python -m bench.expert_pictures --weights DIR     # own labels of the experts whose checkpoints are in DIR

An expert that carries its weights in a package, or has none, is drawn with its own label. Instead of any other's label the
scene's exact answer is drawn, unless its checkpoint is at hand in --weights; the title over a picture says which it is.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from expert_zoo.catalog import EXPERTS, accepts, create
from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import ClassMap, DenseMap, Instances, Label, Scores, Text
from expert_zoo.mirror import mirrored
from expert_zoo.occlusion import NONE_OF_255, instance_map
from expert_zoo.spec import LabelSpec
from expert_zoo.weights.needed import NeedsCheckpoint
from manifests.scenes import THINGS, captions, render_uri, sample_world, scene_uri
from pipeline.lettering import text_tile
from pipeline.paint import contact_sheet, paint, paint_photo

SEED, SIZE = 11, 512
WIDTH, GAP = 720, 6
QUALITY = 80
#: The scene of each picture: rooms with several things that hide one another, and a word.
SCENES = {
    "image": 5, "ocr": 10, "ocr_easyocr": 33, "edge": 7, "normal": 27, "depth": 22, "depth_anything": 11, "seg_coco": 20,
    "seg_ade": 32, "detection": 29, "detection_rtdetr": 26, "detection_open": 9, "caption": 4, "match": 7,
}  # fmt: skip
#: The one for the pictures of several labels.
SCENE_OF_MANY = 22
#: What `match` is asked: a caption of its scene, and one of this scene.
FALSE_CAPTION_OF = 2
#: What makes a label worth looking at: the open detector's list names what is there, and a small file looks smaller.
OPTIONS: dict[str, dict[str, Any]] = {
    "detection_open": {"classes": list(THINGS)},
    "image": {"long_side": 96, "quality": 60},
}
#: Who knows the exact answer where it is of the quantity asked for.
TRUTH = {
    "depth": "truth_depth", "normal": "truth_normal", "edge": "truth_edge", "class": "truth_seg", "objects": "truth_detection", "words": "truth_ocr",
}  # fmt: skip
OWN, EXACT = "its own label", "the scene's exact answer"

Image_HW3 = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where checkpoints are (None: nowhere), the side of the networks' inputs (None: as by default), and the device."""

    folder: str | None = None
    side: int | None = None
    device: str = "cpu"


def scene_photo(index: int) -> Photo:
    uri = scene_uri(SEED, index, SIZE)
    told = captions(sample_world(SEED, index, SIZE))[0], captions(sample_world(SEED, FALSE_CAPTION_OF, SIZE))[0]
    return Photo(image_id=f"scene_{index}", uri=uri, pixels_HW3=render_uri(uri).photo_HW3, captions=told)


def make(name: str, weights: Weights) -> Expert:
    given = {"weights_folder": weights.folder, "side": weights.side}
    taken = {option: value for option, value in given.items() if value is not None and accepts(name, option)}
    return create(name, options=OPTIONS.get(name, {}) | taken)


def can_say(expert: Expert, weights: Weights) -> bool:
    """Whether its own label is to be drawn: it needs no checkpoint, or its checkpoint is where one was told to look."""
    if not isinstance(expert, NeedsCheckpoint):
        return True
    return weights.folder is not None and expert.folder.at_hand(expert.checkpoint)


def own(expert: Expert, photo: Photo, device: str) -> Label:
    expert.load(device)
    (label,) = expert.label([photo])
    expert.release()
    return label


def exact(spec: LabelSpec, photo: Photo) -> tuple[LabelSpec, Label]:
    """What there is to know of the photo's scene in the quantity of ``spec``, and what it means: the scene has its own classes."""
    match spec.quantity:
        case "inverse_depth":
            return spec, Label.ok(DenseMap((1 / render_uri(photo.uri).depth_HW).astype(np.float32)))
        case "caption":
            return spec, Label.ok(Text(photo.captions[0], 0.0))  # certain: the logarithm of 1
        case "match":
            return spec, Label.ok(Scores(np.array([1, 0], np.float32)))
    if spec.quantity not in TRUTH:
        raise ValueError(
            f"a scene has no exact answer of the quantity {spec.quantity!r}; expected its weights in --weights"
        )
    truth = create(TRUTH[spec.quantity])
    return truth.card.spec, truth.label([photo])[0]


def tile_height(columns: int) -> int:
    """Of square pictures, ``columns`` of which fill the width."""
    return (WIDTH - GAP * (columns + 1)) // columns


def picture_of(name: str, weights: Weights) -> tuple[Image_HW3, bool]:
    """A scene beside the label of ``name``, and whether it is the expert's own."""
    photo, expert = scene_photo(SCENES[name]), make(name, weights)
    says_itself = can_say(expert, weights)
    spec, label = (
        (expert.card.spec, own(expert, photo, weights.device)) if says_itself else exact(expert.card.spec, photo)
    )
    about_captions = spec.kind == "score"
    height = tile_height(3 if about_captions else 2)
    pictures = [("photo", paint_photo(photo.pixels_HW3, height=height))]
    if about_captions:
        halves = [
            text_tile(caption, f"caption {number}", height // 2, height)
            for number, caption in enumerate(photo.captions, start=1)
        ]
        pictures.append(("its captions", np.concatenate(halves)))
    pictures.append((f"{name}: {OWN if says_itself else EXACT}", paint(spec, label, photo.pixels_HW3, height=height)))
    return contact_sheet([(photo.uri, pictures)], gap=GAP), says_itself


def picture_of_group(group: str, *, with_photo: bool) -> Image_HW3:
    """All experts whose names begin with ``group``, three in a row."""
    photo = scene_photo(SCENE_OF_MANY)
    height = tile_height(3)
    pictures = [("photo", paint_photo(photo.pixels_HW3, height=height))] if with_photo else []
    for name in [name for name in EXPERTS if name.startswith(group)]:
        expert = create(name)
        label = own(expert, photo, "cpu")
        pictures.append((name, paint(expert.card.spec, label, photo.pixels_HW3, height=height)))
    rows = [pictures[first : first + 3] for first in range(0, len(pictures), 3)]
    return np.concatenate([contact_sheet([(photo.uri, row)], gap=GAP) for row in rows])


def picture_of_instances() -> Image_HW3:
    """Boxes, depth, and which box every pixel shows; below it the same from the mirrored labels."""
    photo, height = scene_photo(SCENE_OF_MANY), tile_height(3)
    detection, depth = create("truth_detection"), create("truth_depth")
    boxes_spec, depth_spec = detection.card.spec, depth.card.spec
    boxes, depths = detection.label([photo])[0], depth.label([photo])[0]
    turned_boxes = mirrored(boxes, boxes_spec, width=photo.width)
    turned_depths = mirrored(depths, depth_spec, width=photo.width)
    turned_HW3 = np.ascontiguousarray(photo.pixels_HW3[:, ::-1])
    rows = []
    for told, pixels_HW3, objects, distances in (
        ("the photo's labels", photo.pixels_HW3, boxes, depths),
        ("the mirrored photo and the mirrored labels", turned_HW3, turned_boxes, turned_depths),
    ):
        pictures = [
            ("boxes", paint(boxes_spec, objects, pixels_HW3, height=height)),
            ("depth", paint(depth_spec, distances, pixels_HW3, height=height)),
            (
                "the box that every pixel shows",
                paint(*resolved(boxes_spec, objects, distances), pixels_HW3, height=height),
            ),
        ]
        rows.append((f"{photo.uri}: {told}", pictures))
    return contact_sheet(rows, gap=GAP)


def resolved(boxes_spec: LabelSpec, objects: Label, distances: Label) -> tuple[LabelSpec, Label]:
    """The occlusion-resolved map of truth labels as if its objects were classes, so that it can be painted."""
    boxes, depth = objects.value, distances.value
    assert isinstance(boxes, Instances) and isinstance(depth, DenseMap), "the truth knows every scene"
    ids_HW = instance_map(boxes.boxes_N4, depth.values, quantity="depth", photo=(SIZE, SIZE), size=(SIZE, SIZE))
    names = tuple(f"{n} {boxes_spec.class_names[kind]}" for n, kind in enumerate(boxes.class_ids_N.tolist()))
    spec = LabelSpec(
        kind="classes", quantity="class", dtype="uint8", channels=1, ignore=NONE_OF_255, class_names=names, resample="nearest"
    )  # fmt: skip
    return spec, Label.ok(ClassMap(ids_HW))


def save(picture: Image_HW3, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=QUALITY, optimize=True)


def draw(out: Path, weights: Weights, names: list[str]) -> list[str]:
    """Write the pictures of ``names`` into ``out``; returns those that are drawn with their own labels.

    Raises ValueError: a name without a picture, a checkpoint that cannot be used, nothing to draw instead.
    """
    unknown = [name for name in names if name not in SCENES]
    if unknown:
        raise ValueError(f"no picture of {', '.join(unknown)}; expected some of {', '.join(SCENES)}")
    themselves = []
    for name in names:
        picture, says_itself = picture_of(name, weights)
        save(picture, out / f"{name}.jpg")
        themselves += [name] if says_itself else []
    return themselves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/experts"), help="folder of the pictures")
    parser.add_argument(
        "--weights", help="weights folder; experts whose checkpoints it has are drawn with their own labels"
    )
    parser.add_argument("--side", type=int, help="of the networks' inputs in pixels, where they take one")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    parser.add_argument("--experts", help="only these, with commas between; else all, and the pictures of groups")
    arguments = parser.parse_args()
    names = arguments.experts.split(",") if arguments.experts else list(SCENES)
    weights = Weights(folder=arguments.weights, side=arguments.side, device=arguments.device)
    try:
        themselves = draw(arguments.out, weights, names)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    if not arguments.experts:
        save(picture_of_group("pocket_", with_photo=True), arguments.out / "pocket.jpg")
        save(picture_of_group("truth_", with_photo=False), arguments.out / "truth.jpg")
        save(picture_of_instances(), arguments.out / "instances.jpg")
    print(f"{arguments.out}: own labels of {', '.join(themselves) or 'none'}; exact answers for the others")


if __name__ == "__main__":
    main()
