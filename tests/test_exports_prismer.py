"""The tree for Prismer's released code: its names and quirks, and every file read as that code reads it.

What the released loader itself makes of an export was looked at by hand (docs/exports.md): its licence keeps it out of here. The
reader below follows the same rules, which are facts: which path, which mode, which key.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from expert_zoo.catalog import create
from expert_zoo.classes import class_names
from expert_zoo.expert import Expert, Photo
from expert_zoo.image import Image as ImageExpert
from expert_zoo.labels import ClassMap, DenseMap, Instances, Label, Words, words
from expert_zoo.spec import LabelSpec
from jobs.exporting import layout_at, layout_of
from jobs.prismer_tree.layout import PrismerTree
from jobs.prismer_tree.places import Place, place_of
from manifests.record import ImageRecord
from manifests.scenes import render_uri
from manifests.scenes.uri import scene_uri
from pipeline.difference import difference
from pipeline.errors import JobError, StoreError
from pipeline.exports.run import export, verify
from pipeline.growing import grow
from pipeline.reader import LabelReader, Sample
from pipeline.resample import resize_map
from pipeline.storage import LocalStorage
from pipeline.store import LabelStore
from tests.small_store import label, write_manifest
from tests.stand_ins import Grey, card
from trainer.embeddings.folder import Embeddings
from trainer.embeddings.writing import Means, embed

#: source, path of the photo, split, where the released code looks.
PHOTOS = (
    ("coco", "coco/val2014/COCO_val2014_000000391895.jpg", "restval", "vqav2/val2014/COCO_val2014_000000391895"),
    ("coco", "coco/train2014/COCO_train2014_000000000009.jpg", "train", "vqav2/train2014/COCO_train2014_000000000009"),
    ("coco", "coco/val2014/COCO_val2014_000000000042.jpg", "test", "vqav2/val2014/COCO_val2014_000000000042"),
    ("visual_genome", "vg/VG_100K_2/1.jpg", "", "vg/VG_100K_2/1"),
    ("cc12m", "web/00000/000000017.jpg", "", "cc12m/00000/000000017"),
    ("sbu", "sbu/00003/000030005.jpg", "", "cc3m_sgu/00003/000030005"),
    ("folder", "mine/holiday/a.jpg.b.jpg", "", "helpers/holiday/a.png.b"),
    ("folder", "mine/holiday/broken.jpg", "", "helpers/holiday/broken"),
)
BROKEN = 7
EXPERTS = ("depth", "normal", "edge", "seg_coco", "obj_detection", "ocr_detection")


class TwoWords(Expert):
    """Two words that overlap, of photos wider than high, the first one on top; nothing in others."""

    def __init__(self) -> None:
        self.card = card("signs", LabelSpec(kind="words", quantity="words"))

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        first, second = [[10, 10], [60, 10], [60, 30], [10, 30]], [[40, 10], [90, 10], [90, 30], [40, 30]]
        return [
            words(*(([first, second], ["CAF\u00c9", "open"], [0.9, 0.5]) if p.width > p.height else ([], [], [])))
            for p in photos
        ]


class Panoptic(Expert):
    """COCO's class 17 on the left, none of the classes on the right."""

    def __init__(self) -> None:
        spec = LabelSpec(
            kind="classes", quantity="class", dtype="uint8", channels=1, ignore=255, class_names=class_names("coco_panoptic"),
            resample="nearest",
        )  # fmt: skip
        self.card = card("panoptic", spec)

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        ids = np.full((20, 30), 255, np.uint8)
        ids[:, :15] = 17
        return [Label.ok(ClassMap(ids)) for _ in photos]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    folder = tmp_path_factory.mktemp("prismer")
    records = []
    for index, (source, path, split, _) in enumerate(PHOTOS):
        file = folder / "photos" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = render_uri(scene_uri(3, index, 160)).photo_HW3[: 120 if index % 2 else 160]
        Image.fromarray(pixels).save(file, quality=95)
        if index == BROKEN:
            file.write_bytes(b"")
        captions = tuple(f"Caption {n} of {index}" for n in range(1 + index % 2))
        records.append(
            ImageRecord(image_id=f"{source}_{index}", source=source, uri=file.as_uri(), captions=captions, split=split)
        )
    store = LabelStore.create(str(folder / "store"), write_manifest(folder, records), shard_size=3)
    names = ("pocket_depth", "pocket_normal", "pocket_edge", "pocket_detection")
    experts = [ImageExpert(), *map(create, names), Panoptic(), TwoWords()]
    for expert in experts:
        expert.load("cpu")
    label(store, experts)
    return store


@pytest.fixture(scope="module")
def embeddings(store: LabelStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("embeddings"))
    embed(store, url, means=Means(method="random"), say=lambda _: None)
    return url


def tree(embeddings: str | None, **more: Any) -> PrismerTree:
    found = layout_of("prismer", embeddings=embeddings, **more)
    assert isinstance(found, PrismerTree)
    return found


class AsReleased:
    """One photo with its labels by the released code's rules."""

    def __init__(self, out: Path, dataset: str, image: str) -> None:
        ending = "." + image.split(".")[-1]
        paths = {e: out / "labels" / e / dataset / image.replace(ending, ".png") for e in EXPERTS}
        self.photo = Image.open(out / "data" / dataset / image)
        self.maps = {e: np.asarray(Image.open(p)) for e, p in paths.items() if p.exists() and p.stat().st_size}
        self.empty = {e for e, p in paths.items() if p.exists() and not p.stat().st_size}
        objects_file = out / "labels/obj_detection" / dataset / image.replace(ending, ".json")
        self.objects = json.loads(objects_file.read_text())
        words_file = out / "labels/ocr_detection" / dataset / image.replace(ending, ".pt")
        self.words = torch.load(words_file, weights_only=True) if words_file.exists() else None


def test_each_photo_has_its_labels_where_the_released_code_looks(
    store: LabelStore, embeddings: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = export(store, str(out), tree(embeddings, photos=True))
    assert report.samples == 8 and sum(report.photos_failed.values()) == 1
    samples = list(LabelReader(store).samples())
    for (_, path, _, place), sample in zip(PHOTOS, samples, strict=True):
        dataset, _, stem = place.partition("/")
        if sample.record.uri.endswith("broken.jpg"):
            assert not list(out.rglob(f"{stem}.*"))
            continue
        image = "/".join(path.split("/")[-2:])
        assert (out / "labels/depth" / f"{place}.png").exists()
        check(AsReleased(out, dataset, image), sample)
    assert verify(store, str(out), layout_at(str(out))) == []
    again = export(store, str(out), tree(embeddings, photos=True))
    assert (again.written, again.skipped, again.files) == (0, 3, 0)


def check(found: AsReleased, sample: Sample) -> None:
    assert sample.height is not None and sample.width is not None
    size = (sample.height, sample.width)
    assert found.photo.size == size[::-1]
    assert all(pixels.shape[:2] == size and pixels.dtype == np.uint8 for pixels in found.maps.values())

    def full(name: str) -> np.ndarray:
        value = sample.labels[name].value
        assert isinstance(value, DenseMap)
        return resize_map(value.values, *size, how="bilinear")

    depth = found.maps["depth"].astype(float)
    assert depth.min() <= 10 and depth.max() >= 240, "stretched, but for what resizing takes from the extremes"
    assert np.corrcoef(depth.ravel(), 1 / full("pocket_depth").ravel())[0, 1] > 0.995
    normals = found.maps["normal"] / 127.5 - 1
    assert np.abs(normals - full("pocket_normal") * (-1, 1, 1)).max() < 0.02, (
        "x points to the left, and nothing is stretched"
    )
    assert np.corrcoef(found.maps["edge"].ravel(), full("pocket_edge").ravel())[0, 1] < -0.999
    classes = sample.labels["panoptic"].value
    assert isinstance(classes, ClassMap) and np.array_equal(
        found.maps["seg_coco"], resize_map(classes.ids_HW, *size, how="nearest")
    )

    objects = sample.labels["pocket_detection"].value
    if isinstance(objects, Instances):
        ids = found.maps["obj_detection"]
        assert {str(n) for n in np.unique(ids[ids != 255])} == set(found.objects)
        for number, class_id in found.objects.items():
            assert class_id == objects.class_ids_N[int(number)]
            left, top, right, bottom = objects.boxes_N4[int(number)]
            rows, columns = np.nonzero(ids == int(number))
            assert left - 1 <= columns.min() <= columns.max() <= right and top - 1 <= rows.min() <= rows.max() <= bottom
    else:
        assert found.empty == {"obj_detection"} and found.objects == {}

    read = sample.labels["signs"].value
    if isinstance(read, Words):
        ids = found.maps["ocr_detection"]
        assert [word["text"] for word in found.words.values()] == ["caf\u00e9", "open"] and list(found.words) == [0, 1]
        assert all(
            word["features"].shape == (64,) and word["features"].dtype == torch.float32 for word in found.words.values()
        )
        assert (ids[12:28, 12:58] == 0).all() and (ids[12:28, 62:88] == 1).all() and (ids[40:] == 255).all()
    else:
        assert found.words is None and "ocr_detection" not in found.maps


def test_lists_are_spelt_and_split_as_the_released_code_wants(
    store: LabelStore, embeddings: str, tmp_path: Path
) -> None:
    export(store, str(tmp_path), tree(embeddings, photos=True))
    lists = {path.name: json.loads(path.read_text()) for path in (tmp_path / "data").glob("*.json")}
    assert set(lists) == {"coco_karpathy_train.json", "coco_karpathy_test.json", "vg_caption.json"}
    images = [item["image"] for item in lists["coco_karpathy_train.json"]]
    assert images == ["val2014/COCO_val2014_000000391895.jpg", *["train2014/COCO_train2014_000000000009.jpg"] * 2]
    assert lists["coco_karpathy_test.json"] == [
        {"image": "val2014/COCO_val2014_000000000042.jpg", "caption": ["Caption 0 of 2"]}
    ]
    assert {item["image"] for item in lists["vg_caption.json"]} == {"visual-genome/VG_100K_2/1.jpg"}
    # Web captions are the first line of the file beside the photo, which is found by its ending.
    assert (tmp_path / "data/cc12m/00000/000000017.txt").read_text() == "Caption 0 of 4"
    assert (tmp_path / "data/cc3m_sgu/00003/000030005.txt").read_text().splitlines()[0] == "Caption 0 of 5"
    assert len(list((tmp_path / "data").glob("cc3m_sgu/*/*.jpg"))) == 1


def test_features_of_the_classes_go_with_the_labels(store: LabelStore, embeddings: str, tmp_path: Path) -> None:
    export(store, str(tmp_path), tree(embeddings))
    features = {p.name: torch.load(p, weights_only=True) for p in (tmp_path / "features").iterdir()}
    assert set(features) == {"coco_features.pt", "detection_features.pt", "background_features.pt"}
    cards = LabelReader(store).cards
    table = Embeddings(embeddings).classes(cards["pocket_detection"])
    found = features["detection_features.pt"]
    assert found["labels"] == list(cards["pocket_detection"].spec.class_names)
    assert np.array_equal(found["features"].numpy(), table.vectors_NC)
    assert features["background_features.pt"].shape == (64,)


def test_without_photos_they_are_left_where_they_are(store: LabelStore, embeddings: str, tmp_path: Path) -> None:
    report = export(store, str(tmp_path), tree(embeddings))
    assert "image" in report.columns_left and not list((tmp_path / "data").rglob("*.jpg"))
    assert (tmp_path / "labels/depth/vg/VG_100K_2/1.png").exists()


def test_what_needs_vectors_is_left_out_without_them(store: LabelStore, tmp_path: Path) -> None:
    report = export(store, str(tmp_path / "a"), tree(None))
    assert set(report.columns_left) == {"image", "pocket_detection", "signs"}
    assert "embed" in report.columns_left["signs"]
    assert {path.name for path in (tmp_path / "a/labels").iterdir()} == {"depth", "normal", "edge", "seg_coco"}
    with pytest.raises(StoreError, match="signs: its names need vectors"):
        export(store, str(tmp_path / "b"), tree(None), columns=["signs"])


def test_vectors_of_another_store_are_refused_before_a_file_is_written(store: LabelStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="run `expert-labels embed`"):
        export(store, str(tmp_path / "out"), tree(str(tmp_path / "no-embeddings")))
    assert not (tmp_path / "out").exists()


def test_missing_labels_do_not_break_its_loader(tmp_path: Path) -> None:
    """Its own way out fails for normals and says class 0 for classes; files of no bytes are for the others."""

    class Failing(Expert):
        def __init__(self, spec: LabelSpec, name: str) -> None:
            self.card = card(name, spec)

        def label(self, photos: Sequence[Photo]) -> list[Label]:
            return [Label.failed("made up: it fails")] * len(photos)

    folder = tmp_path / "photos" / "set"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(folder / "a.jpg")
    records = [ImageRecord(image_id="a", source="folder", uri=(folder / "a.jpg").as_uri())]
    store = LabelStore.create(str(tmp_path / "store"), write_manifest(tmp_path, records), shard_size=1)
    normal = LabelSpec(
        kind="map",
        quantity="normal",
        dtype="uint8",
        channels=3,
        value_range=(-1, 1),
        resample="bilinear",
        flip="mirror_negate_x",
    )
    edge = LabelSpec(kind="map", quantity="edge", dtype="uint8", channels=1, value_range=(0, 1), resample="bilinear")
    label(store, [Grey(), Failing(normal, "n"), Failing(edge, "e"), Failing(Panoptic().card.spec, "c")])
    export(store, str(tmp_path / "out"), tree(None))
    found = {e: (tmp_path / "out/labels" / e / "helpers/set/a.png").read_bytes() for e in EXPERTS[:4]}
    assert found["edge"] == b""
    assert np.asarray(Image.open(io.BytesIO(found["normal"]))).tolist() == np.zeros((6, 8, 3)).tolist()
    assert np.unique(np.asarray(Image.open(io.BytesIO(found["seg_coco"])))).tolist() == [255]
    assert Image.open(io.BytesIO(found["depth"])).size == (8, 6)


def test_a_photo_that_lies_on_its_side_is_stood_up(tmp_path: Path) -> None:
    """The released code knows no EXIF orientation, and crops photo and labels with the same numbers."""
    folder = tmp_path / "photos" / "set"
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(folder / "a.jpg", exif=exif)
    records = [ImageRecord(image_id="a", source="folder", uri=(folder / "a.jpg").as_uri())]
    store = LabelStore.create(str(tmp_path / "store"), write_manifest(tmp_path, records), shard_size=1)
    label(store, [Grey()])
    export(store, str(tmp_path / "out"), tree(None, photos=True))
    photo = Image.open(tmp_path / "out/data/helpers/set/a.jpg")
    depth = Image.open(tmp_path / "out/labels/depth/helpers/set/a.png")
    assert photo.size == depth.size == (40, 60)


def record(uri: str, **more: Any) -> ImageRecord:
    return ImageRecord(image_id="the-id", uri=uri, **({"source": "cc12m"} | more))


def test_photos_without_a_file_of_their_own_get_a_place() -> None:
    for uri in (
        "file:///w/00004.tar#bytes=512-900",
        "file:///w/p.parquet#row=3&column=image",
        "scenes://1/2?size=64",
        "http://a.b/c/d.jpg",
    ):
        assert place_of(record(uri), 7, {}) == Place("cc12m", "000007/the-id.jpg", loose=False)
    assert place_of(record("file:///w/00004/5.jpg"), 7, {}) == Place("cc12m", "00004/5.jpg", loose=True)
    assert not place_of(record("file:///w/00004/5.png"), 7, {}).loose, "web photos are found as *.jpg"
    assert not place_of(record("file:///w/my%20photos/5.jpg"), 7, {}).loose
    assert place_of(record("s3://b/set/5.jpg", source="mine"), 0, {"mine": "cc12m"}) == Place(
        "cc12m", "set/5.jpg", loose=True
    )
    assert place_of(record("file:///w/set/5.jpg", source="mine"), 0, {}).dataset == "helpers"


def test_photos_that_the_released_code_cannot_find_need_the_option(tmp_path: Path) -> None:
    records = [ImageRecord(image_id="a", source="scenes", uri=scene_uri(1, 2, 64), captions=("c",))]
    store = LabelStore.create(str(tmp_path / "store"), write_manifest(tmp_path, records), shard_size=1)
    label(store, [Grey()])
    with pytest.raises(StoreError, match="--photos"):
        export(store, str(tmp_path / "out"), tree(None))
    export(store, str(tmp_path / "out"), tree(None, photos=True, datasets={"scenes": "cc12m"}))
    assert Image.open(tmp_path / "out/data/cc12m/000000/a.jpg").size == (64, 64)
    assert (tmp_path / "out/data/cc12m/000000/a.txt").read_text() == "c"


def test_two_photos_of_one_place_are_refused(tmp_path: Path) -> None:
    records = []
    for number, name in enumerate(("one/set/a.jpg", "two/set/a.jpeg")):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(file)
        records.append(ImageRecord(image_id=f"i{number}", source=f"s{number}", uri=file.as_uri()))
    store = LabelStore.create(str(tmp_path / "store"), write_manifest(tmp_path, records), shard_size=1)
    label(store, [Grey()])
    with pytest.raises(StoreError, match="1 images would have the labels of others"):
        export(store, str(tmp_path / "out"), tree(None))
    assert not (tmp_path / "out").exists()
    export(store, str(tmp_path / "out"), tree(None, datasets={"s1": "nocaps"}))
    assert (tmp_path / "out/labels/depth/nocaps/set/a.png").exists()


def test_unknown_datasets_and_options_are_one_line() -> None:
    with pytest.raises(JobError, match="cc3m_sgu is spelt like that"):
        layout_of("prismer", datasets={"sbu": "cc3m_sbu"})
    with pytest.raises(JobError, match="--format prismer"):
        layout_of("hf", embeddings="x")
    with pytest.raises(JobError, match="leave --photos out"):
        layout_of("coco", photos=True)


def test_a_label_that_went_takes_its_files_along(tmp_path: Path, embeddings: str, store: LabelStore) -> None:
    """A retry may find nothing where a word was read before: the files of that word must go."""
    photo = tmp_path / "set" / "a.jpg"
    photo.parent.mkdir()
    Image.fromarray(np.zeros((40, 100, 3), np.uint8)).save(photo)
    records = [ImageRecord(image_id="a", source="folder", uri=photo.as_uri())]
    own = LabelStore.create(str(tmp_path / "store"), write_manifest(tmp_path, records), shard_size=1)
    label(own, [TwoWords()])
    files = tmp_path / "out/labels/ocr_detection/helpers/set"
    export(own, str(tmp_path / "out"), tree(embeddings))
    assert {path.name for path in files.iterdir()} == {"a.png", "a.pt"}
    own.withdraw(own.column_of("signs"), 0)

    class Blind(TwoWords):
        def label(self, photos: Sequence[Photo]) -> list[Label]:
            return [Label.empty()] * len(photos)

    label(own, [Blind()])
    assert "labelled again" in verify(own, str(tmp_path / "out"), tree(embeddings))[0]
    export(own, str(tmp_path / "out"), tree(embeddings))
    assert list(files.iterdir()) == []
    (files / "a.pt").write_bytes(b"left over")
    assert verify(own, str(tmp_path / "out"), tree(embeddings)) == [
        "labels/ocr_detection/helpers/set/a.pt is there, and the store has nothing to say in it; export again"
    ]


@pytest.mark.parametrize("step", [1, 7, 23])
def test_killed_among_thousands_of_files_and_gone_on_with(
    store: LabelStore, embeddings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Where a small file is half there, its shard has no receipt and is written again; its litter goes."""
    layout = tree(embeddings, photos=True)
    export(store, str(tmp_path / "whole"), layout)
    done = 0
    replace = LocalStorage.replace

    def dying(self: LocalStorage, name: str, data: bytes, *, durable: bool = True) -> None:
        nonlocal done
        done += 1
        if done == step:
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "tmp-0123456789abcdef").write_bytes(data[:3])
            raise KeyboardInterrupt
        replace(self, name, data, durable=durable)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LocalStorage, "replace", dying)
        export(store, str(tmp_path / "out"), layout)
    assert "are not there" in verify(store, str(tmp_path / "out"), layout)[-1]
    export(store, str(tmp_path / "out"), layout)
    assert verify(store, str(tmp_path / "out"), layout) == [] and not list((tmp_path / "out").rglob("tmp-*"))
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert names == {str(path.relative_to(tmp_path / "whole")) for path in (tmp_path / "whole").rglob("*.*")}


def test_verify_finds_a_changed_and_a_missing_small_file(store: LabelStore, embeddings: str, tmp_path: Path) -> None:
    layout = tree(embeddings)
    export(store, str(tmp_path), layout)
    depth = tmp_path / "labels/depth/vg/VG_100K_2/1.png"
    depth.write_bytes(depth.read_bytes()[:-1])
    (tmp_path / "labels/obj_detection/vg/VG_100K_2/1.json").unlink()
    assert verify(store, str(tmp_path), layout) == [
        "labels/depth/vg/VG_100K_2/1.png is not what the store says; export again",
        "labels/obj_detection/vg/VG_100K_2/1.json is missing; export again",
    ]


def test_an_image_that_was_dropped_takes_its_files_along(tmp_path: Path) -> None:
    """Web photos are found by their ending, so that one that is left over would be trained on."""
    records = []
    for number in range(3):
        file = tmp_path / "web" / "00000" / f"{number:09d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 80 * number, np.uint8)).save(file)
        records.append(ImageRecord(image_id=f"i{number}", source="cc12m", uri=file.as_uri(), captions=("c",)))
    store = LabelStore.create(str(tmp_path / "store"), write_manifest(tmp_path, records), shard_size=3)
    label(store, [Grey()])
    layout = tree(None, photos=True)
    export(store, str(tmp_path / "out"), layout)
    assert len(list((tmp_path / "out").rglob("00000000*.*"))) == 9
    manifest = write_manifest(tmp_path, [records[0], records[2]])
    store = grow(store, manifest, difference(store, manifest))
    export(store, str(tmp_path / "out"), layout)
    assert verify(store, str(tmp_path / "out"), layout) == []
    left = sorted(path.name for path in (tmp_path / "out").rglob("00000000*.*"))
    assert left == [f"00000000{n}.{e}" for n in (0, 2) for e in ("jpg", "png", "txt")]


def test_in_memory(store: LabelStore, embeddings: str, tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/out"
    layout = tree(embeddings, photos=True)
    assert export(store, url, layout).written == 3 and verify(store, url, layout) == []
    assert export(store, url, layout).skipped == 3
