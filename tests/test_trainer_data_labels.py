"""What becomes of every kind of label on its way to a network: read, cut, put together, finished on the device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expert_zoo.expert import Expert, Photo
from expert_zoo.image import Image
from expert_zoo.labels import ClassMap, DenseMap, Label, instances, words
from expert_zoo.occlusion import instance_map
from expert_zoo.spec import LabelSpec
from pipeline.reader import LabelReader
from pipeline.store import LabelStore
from tests.small_store import Caption, Slopes, small_store
from tests.stand_ins import Grey, Troubled, card
from trainer.data.augmentation import Augmentation
from trainer.data.batch import PADDING, Batch, collated
from trainer.data.dataset import LabelDataset
from trainer.data.finish import AS_RELEASED, Scaling, ids, inside, maps, photos, rows

SIZE = 48
TURNED = Augmentation(operations=3, magnitude=9, among=("shear_x", "shear_y", "translate_x", "translate_y", "rotate"))
NAMES = tuple(f"thing {number}" for number in range(300))


class OneByOne(Expert):
    def label(self, photos: Sequence[Photo]) -> list[Label]:
        return [self.one(photo) for photo in photos]

    def one(self, photo: Photo) -> Label:
        raise AssertionError


class Boxes(OneByOne):
    """``count`` boxes by a rule; none in photos that are higher than wide; fails in square ones."""

    def __init__(self, count: int = 5) -> None:
        self.card = card("boxes", LabelSpec(kind="instances", quantity="objects", class_names=NAMES))
        self._count = count

    def one(self, photo: Photo) -> Label:
        if photo.width == photo.height:
            return Label.failed("square: not liked")
        if photo.height > photo.width:
            return Label.empty()
        if self._count > 100:  # a grid, in which none hides another
            corners = [[x, y, x + 0.04, y + 0.06] for y in np.arange(0, 0.99, 0.066) for x in np.arange(0, 0.99, 0.05)]
            boxes = np.array(corners[: self._count]) * (photo.width, photo.height, photo.width, photo.height)
            return instances(boxes.tolist(), [0.5] * self._count, list(range(self._count)))
        rng = np.random.default_rng(self._count)
        first = rng.uniform(0, 0.7, (self._count, 2)) * (photo.width, photo.height)
        size = rng.uniform(0.1, 0.3, (self._count, 2)) * (photo.width, photo.height)
        scores = np.linspace(0.9, 0.1, self._count)
        return instances(
            np.hstack([first, first + size]).tolist(), scores.tolist(), (np.arange(self._count) % 300).tolist()
        )


class Signs(OneByOne):
    """Two words, of which the left one is in the left half; none in photos higher than wide."""

    def __init__(self) -> None:
        self.card = card("signs", LabelSpec(kind="words", quantity="words"))

    def one(self, photo: Photo) -> Label:
        w, h = photo.width, photo.height
        found = w > h
        polygons = [
            [[left * w, 0.2 * h], [(left + 0.3) * w, 0.3 * h], [(left + 0.3) * w, 0.7 * h], [left * w, 0.6 * h]]
            for left in (0.1, 0.6)
        ]
        return words(polygons * found, ["Left", "right"] * found, [0.9, 0.8] * found)


class Outlines(OneByOne):
    """Edges in 8 bits: 1 in the left half."""

    def __init__(self) -> None:
        spec = LabelSpec(
            kind="map", quantity="edge", dtype="uint8", channels=1, value_range=(0.0, 1.0), resample="bilinear"
        )
        self.card = card("outlines", spec)

    def one(self, photo: Photo) -> Label:
        values_HW = np.zeros((30, 40), np.float32)
        values_HW[:, :20] = 1
        return Label.ok(DenseMap(values_HW))


class Many(OneByOne):
    """A class map of more classes than fit a byte."""

    def __init__(self) -> None:
        spec = LabelSpec(
            kind="classes",
            quantity="class",
            dtype="uint16",
            channels=1,
            ignore=65535,
            class_names=NAMES,
            resample="nearest",
        )
        self.card = card("many", spec)

    def one(self, photo: Photo) -> Label:
        ids_HW = np.arange(1200, dtype=np.uint16).reshape(30, 40) % 300
        ids_HW[0] = 65535
        return Label.ok(ClassMap(ids_HW))


LABELS = {"depth": "grey", "normal": "slopes", "edge": "outlines", "seg": "many", "detection": "boxes", "ocr": "signs"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    """Photos that are wide, high, square and very wide in turn."""
    experts = [Image(), Grey(), Slopes(), Outlines(), Many(), Boxes(), Signs(), Caption()]
    return small_store(tmp_path_factory.mktemp("labels"), experts, photos=8, shard_size=4)


def make_dataset(store: LabelStore, **changes: Any) -> LabelDataset:
    settings: dict[str, Any] = {
        "labels": LABELS,
        "view": "squash",
        "resolution": 64,
        "label_resolution": SIZE,
        "seed": None,
    }
    return LabelDataset(store, **settings | changes)


def batch_of(dataset: LabelDataset, positions: Sequence[int] = range(4)) -> Batch:
    batch = collated([dataset[0, position] for position in positions], dataset.specs, SIZE)
    assert isinstance(batch, Batch)
    return batch


def test_missing_and_failed_are_masked_and_nothing_is_an_answer(store: LabelStore) -> None:
    store.withdraw(Slopes().card.column, 1)
    dataset = make_dataset(store)
    first, second = batch_of(dataset), batch_of(dataset, range(4, 8))
    assert first.labels["detection"].present_B.tolist() == [True, True, False, True]
    assert first.labels["ocr"].present_B.tolist() == [True] * 4
    assert [(first.labels[name].present_B.all().item(), second.labels[name].present_B.any().item()) for name in LABELS] == [
        (True, True), (True, False), (True, True), (True, True), (False, True), (True, True)
    ]  # fmt: skip
    shown = ids(first.labels["detection"])
    assert (shown[1] == -1).all() and (shown[0] >= 0).any() and (shown[3] >= 0).any()
    assert second.labels["normal"].pixels_BCss.shape == (4, 3, SIZE, SIZE)


def test_a_batch_says_what_it_is_of(store: LabelStore) -> None:
    dataset = make_dataset(store, captions=("record", "caption"))
    batch = batch_of(dataset, (2, 1))
    records = [record for shard in store.plan.shards() for record in store.records(shard)]
    assert batch.ids == [records[2].image_id, records[1].image_id] and batch.positions_B.tolist() == [2, 1]
    assert [len(captions) for captions in batch.captions] == [3, 2]
    assert batch.captions[0] == (*records[2].captions, "64 by 64 pixels of noise")
    assert batch.texts[0] in batch.captions[0] and batch.items_B.tolist() == [-1, -1]
    assert batch.photo_B3SS.shape == (2, 3, 64, 64) and batch.photo_B3SS.dtype == torch.uint8


def test_a_method_makes_texts_of_its_own(store: LabelStore) -> None:
    dataset = make_dataset(store, text_of=lambda record, captions, item, chance: (record.image_id, len(captions), item))
    batch = batch_of(dataset, (1,))
    assert batch.texts == [(batch.ids[0], 1, -1)]


def test_ids_stay_small_and_maps_as_they_are_stored(store: LabelStore) -> None:
    batch = batch_of(make_dataset(store))
    types = {name: label.pixels_BCss.dtype for name, label in batch.labels.items()}
    assert types == {
        "depth": torch.uint16, "normal": torch.uint8, "edge": torch.uint8, "seg": torch.uint16,
        "detection": torch.uint8, "ocr": torch.uint8,
    }  # fmt: skip
    labels = SIZE * SIZE * (2 + 3 + 1 + 2 + 1 + 1)
    assert 4 * (64 * 64 * 3 + labels) < batch.nbytes < 4 * (64 * 64 * 3 + labels + 600)


def test_a_map_s_value_can_be_had_from_its_pixels(store: LabelStore) -> None:
    dataset = make_dataset(store)
    batch = batch_of(dataset)
    label = batch.labels["depth"]
    assert label.scale_B is not None and label.bias_B is not None
    values = label.pixels_BCss.float() * label.scale_B[:, None, None, None] + label.bias_B[:, None, None, None]
    reader = LabelReader(store, ["grey"])
    for row in range(4):
        value = reader.sample(store.plan.shard(0), row).labels["grey"].value
        assert isinstance(value, DenseMap)
        assert abs(values[row].mean().item() - value.values.mean()) < 0.02
        assert values[row].min() >= value.values.min() - 1e-3 and values[row].max() <= value.values.max() + 1e-3


def test_objects_hide_each_other_as_in_the_whole_photo(store: LabelStore) -> None:
    dataset = make_dataset(store)
    reader = LabelReader(store, ["grey", "boxes"])
    batch = batch_of(dataset, (0, 3))
    for row, (place, size) in enumerate(((0, (60, 80)), (3, (45, 120)))):
        labels = reader.sample(store.plan.shard(0), place).labels
        boxes, depth = labels["boxes"].value, labels["grey"].value
        expected = instance_map(boxes.boxes_N4, depth.values, quantity="depth", photo=size, size=(SIZE, SIZE))  # type: ignore[union-attr]
        shown = ids(batch.labels["detection"])[row].numpy()
        seen = np.unique(expected[expected != 255])
        assert np.array_equal(np.where(shown < 0, 255, seen[shown.clip(0)]), expected)
        label = batch.labels["detection"]
        assert label.class_ids_BN is not None and label.boxes_BN4 is not None
        assert label.class_ids_BN[row, : len(seen)].tolist() == boxes.class_ids_N[seen].tolist()  # type: ignore[union-attr]
        assert (label.class_ids_BN[row, len(seen) :] == PADDING).all()
        found = label.boxes_BN4[row, : len(seen)].numpy() * (size[1], size[0], size[1], size[0])
        assert np.allclose(found, boxes.boxes_N4[seen], atol=1e-3)  # type: ignore[union-attr]


def test_what_left_the_crop_is_not_in_the_table(store: LabelStore) -> None:
    dataset = make_dataset(store, view=Augmentation(scale=(0.1, 0.15), operations=0), seed=1)
    gone = 0
    for epoch in range(6):
        for position in range(8):
            example = dataset[epoch, position]
            for name, table in (("detection", "class_ids_N"), ("ocr", "texts")):
                label = example.labels[name]
                if label is None:
                    continue
                shown = np.unique(label.pixels_ssC[label.pixels_ssC != 255])
                assert shown.tolist() == list(range(len(getattr(label, table)))), "numbered from 0 on, without gaps"
                gone += len(shown) < {"detection": 5, "ocr": 2}[name]
            label = example.labels["detection"]
            if label is not None and label.boxes_N4 is not None and len(label.boxes_N4):
                for index, (left, top, right, bottom) in enumerate(label.boxes_N4 * SIZE):
                    ys, xs = np.nonzero(label.pixels_ssC[..., 0] == index)
                    assert (
                        left - 1 <= xs.min()
                        and xs.max() + 1 <= right + 1
                        and top - 1 <= ys.min()
                        and ys.max() + 1 <= bottom + 1
                    )
    assert gone > 10


def test_more_than_255_objects_are_told_apart(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Image(), Boxes(count=290)], photos=2, shard_size=2)
    dataset = make_dataset(store, labels={"detection": "boxes"}, label_resolution=448)
    batch = collated([dataset[0, 0], dataset[0, 1]], dataset.specs, 448)
    assert isinstance(batch, Batch)
    label = batch.labels["detection"]
    assert label.pixels_BCss.dtype == torch.uint16 and label.nothing == 65535
    shown = ids(label)
    assert shown.max() > 255 and (shown[1] == -1).all(), "of the photo without objects, too"


def test_words_are_where_they_are_read(store: LabelStore) -> None:
    batch = batch_of(make_dataset(store))
    label = batch.labels["ocr"]
    assert label.texts is not None
    assert label.texts == [("Left", "right"), (), (), ("Left", "right")]
    shown = ids(label)[0]
    assert (shown[:, : SIZE // 2] == 0).any() and not (shown[:, : SIZE // 2] == 1).any()
    place = (shown == 0).nonzero().float().mean(dim=0) + 0.5
    assert torch.allclose(place / SIZE, torch.tensor([0.45, 0.25]), atol=0.02)
    found = rows(label, lambda texts: [{"left": 7, "right": -1}[text.lower()] for text in texts])
    assert set(found[0].unique().tolist()) == {-1, 7} and ((found[0] == 7) == (shown == 0)).all()
    assert (found[1] == -1).all()


def test_rows_are_classes(store: LabelStore) -> None:
    batch = batch_of(make_dataset(store))
    classes = rows(batch.labels["seg"], list)
    assert classes.dtype == torch.int64 and (classes[:, 0] == -1).all() and classes.max() == 299
    label = batch.labels["detection"]
    objects, shown = rows(label, list), ids(label)
    assert label.class_ids_BN is not None
    for row in (0, 3):
        for number, class_id in enumerate(label.class_ids_BN[row].tolist()):
            assert (objects[row][shown[row] == number] == class_id).all()
    assert ((objects == -1) == (shown == -1)).all()


def test_nothing_to_see_anywhere_is_no_special_case(store: LabelStore) -> None:
    batch = batch_of(make_dataset(store), (1, 5))
    assert (rows(batch.labels["detection"], list) == -1).all() and (
        rows(batch.labels["ocr"], lambda texts: [0]) == -1
    ).all()
    assert batch.labels["detection"].class_ids_BN.shape == (2, 0)  # type: ignore[union-attr]


def test_a_batch_without_the_label_has_the_shape_of_others(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Image(), Troubled(trouble="fail", at="photo-0"), Slopes()], photos=4, shard_size=2)
    dataset = make_dataset(store, labels={"depth": "troubled", "normal": "slopes"})
    batch = batch_of(dataset, (0,))
    assert not batch.labels["depth"].present_B.any() and batch.labels["normal"].present_B.all()
    assert maps(batch.labels["depth"], dataset.specs["depth"], batch, Scaling()).shape == (1, 1, SIZE, SIZE)


# ---- finished on the device


def test_photos_are_as_clip_wants_them(store: LabelStore) -> None:
    batch = batch_of(make_dataset(store))
    finished = photos(batch)
    back = finished[1].permute(1, 2, 0) * torch.tensor([0.26862954, 0.26130258, 0.27577711])
    back = (back + torch.tensor([0.48145466, 0.4578275, 0.40821073])) * 255
    assert torch.allclose(back, batch.photo_B3SS[1].permute(1, 2, 0).float(), atol=1e-3)


def test_a_crop_changes_no_pixel_s_value(store: LabelStore) -> None:
    whole, cut = (
        make_dataset(store),
        make_dataset(store, view=Augmentation(scale=(0.3, 0.4), operations=0, flip=0), seed=0),
    )
    batch = batch_of(whole)
    finished = maps(batch.labels["depth"], whole.specs["depth"], batch, Scaling())
    low, high = finished.amin(dim=(1, 2, 3)), finished.amax(dim=(1, 2, 3))
    assert (low < -0.7).all() and (high > 0.7).all() and low.min() >= -1 and high.max() <= 1
    batch = batch_of(cut, range(4))
    by_label = maps(batch.labels["depth"], cut.specs["depth"], batch, Scaling())
    by_crop = maps(batch.labels["depth"], cut.specs["depth"], batch, Scaling(by="crop"))
    assert torch.allclose(by_crop.amin(dim=(1, 2, 3)), torch.tensor(-1.0)) and torch.allclose(
        by_crop.amax(dim=(1, 2, 3)), torch.tensor(1.0), atol=1e-3
    )
    assert (by_label.amax(dim=(1, 2, 3)) - by_label.amin(dim=(1, 2, 3)) < 1.9).any()


def test_what_lies_outside_of_the_photo_counts_for_nothing(store: LabelStore) -> None:
    dataset = make_dataset(store, view=TURNED, seed=3)
    batch = batch_of(dataset, range(8))
    here = inside(batch, SIZE)
    assert 0.05 < (~here).float().mean() < 0.6
    for name in ("depth", "edge", "normal"):
        finished = maps(batch.labels[name], dataset.specs[name], batch, Scaling())
        assert (finished[(~here).expand_as(finished)] == 0).all()
        released = maps(batch.labels[name], dataset.specs[name], batch, AS_RELEASED)
        assert (released[(~here).expand_as(released)] == -1).all()
        low = released.masked_fill(~here, 9).amin(dim=(1, 2, 3))
        high = released.masked_fill(~here, -9).amax(dim=(1, 2, 3))
        present = batch.labels[name].present_B
        assert torch.allclose(low[present], torch.tensor(-1.0), atol=1e-5), name
        assert torch.allclose(high[present], torch.tensor(1.0), atol=1e-3) or name == "edge"
    assert (ids(batch.labels["seg"])[~here[:, 0]] == -1).all()
    again = dataset[0, 5].geometry.to_photo_23
    assert torch.allclose(batch.to_photo_B23[5], torch.tensor(again, dtype=torch.float32))


def test_normals_are_one_long_and_turned(store: LabelStore) -> None:
    flipped = make_dataset(store, view=Augmentation(scale=(1, 1), operations=0, flip=1, aspect=(0.1, 10)), seed=0)
    straight = make_dataset(store, view=Augmentation(scale=(1, 1), operations=0, flip=0, aspect=(0.1, 10)), seed=0)
    pair = [batch_of(dataset, (0, 1, 3)) for dataset in (flipped, straight)]
    one, other = (maps(batch.labels["normal"], flipped.specs["normal"], batch, Scaling()) for batch in pair)
    assert torch.allclose(one.norm(dim=1), torch.tensor(1.0), atol=1e-5)
    shared = [row for row in range(3) if torch.allclose(pair[0].to_photo_B23[row, 1], pair[1].to_photo_B23[row, 1])]
    assert shared
    for row in shared:
        mirrored = other[row].flip(-1) * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
        assert (one[row] - mirrored).abs().max() < 0.02
    left = maps(pair[1].labels["normal"], flipped.specs["normal"], pair[1], Scaling(x_left=True))
    assert torch.allclose(left * torch.tensor([-1.0, 1.0, 1.0])[:, None, None], other)


def test_edges_are_light_or_dark(store: LabelStore) -> None:
    dataset = make_dataset(store)
    batch = batch_of(dataset)
    light = maps(batch.labels["edge"], dataset.specs["edge"], batch, Scaling())[0, 0]
    assert light[5, 5] == 1 and light[5, -5] == -1
    dark = maps(batch.labels["edge"], dataset.specs["edge"], batch, Scaling(dark_edges=True))[0, 0]
    assert torch.equal(dark, -light)


def test_released_checkpoints_see_nearness(store: LabelStore) -> None:
    dataset = make_dataset(store)
    batch = batch_of(dataset)
    metres = maps(batch.labels["depth"], dataset.specs["depth"], batch, Scaling())
    near = maps(batch.labels["depth"], dataset.specs["depth"], batch, AS_RELEASED)
    for row in range(4):
        order = metres[row].flatten().argsort()
        assert (near[row].flatten()[order].diff() <= 1e-6).all(), "the farther, the less"
    spec = dataset.specs["depth"].model_copy(update={"quantity": "inverse_depth"})
    same = maps(batch.labels["depth"], spec, batch, AS_RELEASED)
    assert torch.allclose(
        same,
        2
        * (metres - metres.amin(dim=(1, 2, 3), keepdim=True))
        / (metres.amax(dim=(1, 2, 3), keepdim=True) - metres.amin(dim=(1, 2, 3), keepdim=True) + 1e-6)
        - 1,
        atol=1e-4,
    )


def test_batches_are_moved_and_split_whole(store: LabelStore) -> None:
    batch = batch_of(make_dataset(store))
    moved = batch.to("meta")
    assert moved.photo_B3SS.is_meta and moved.labels["ocr"].pixels_BCss.is_meta and moved.turn_B22.is_meta
    assert moved.labels["depth"].present_B.device.type == "cpu", "so that asking it waits for nothing"
    assert moved.ids == batch.ids and len(moved) == 4
    pieces = batch.split(3)
    assert [len(piece) for piece in pieces] == [1, 1, 2]
    assert [name for piece in pieces for name in piece.ids] == batch.ids
    assert torch.equal(torch.cat([piece.photo_B3SS for piece in pieces]), batch.photo_B3SS)
    assert sum(piece.nbytes for piece in pieces) == batch.nbytes
    assert pieces[2].labels["ocr"].texts == batch.labels["ocr"].texts[2:]  # type: ignore[index]
