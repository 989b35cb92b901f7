"""The same PNGs in tars as webdataset reads them, cut and put together by the very code of trainer.data: only reading differs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import IterableDataset

from expert_zoo.card import ExpertCard
from pipeline.codec import stored_pixels
from pipeline.decode import Limits
from pipeline.encoded_photo import EncodedPhoto, RenderedPhoto
from pipeline.reader import LabelReader
from trainer.data.augmentation import Augmentation
from trainer.data.chance import Chance
from trainer.data.examples import Example, StoredLabel, label_example
from trainer.data.warping import warped_photo

SIZE = 224
#: Samples that webdataset shuffles among; ours shuffles among those of a window of shards.
SHUFFLED = 256
VIEW = Augmentation()

Decode = Callable[[ExpertCard, bytes], NDArray]


def write_tars(folder: Path, reader: LabelReader) -> list[str]:
    """One tar a shard, members of a sample side by side: photo.jpg, depth.png, ..., rows.json with what has no member."""
    folder.mkdir(parents=True)
    paths = []
    for shard in reader.plan.shards():
        opened = reader.open(shard)
        paths.append(str(folder / f"{shard.name}.tar"))
        with webdataset.TarWriter(paths[-1]) as writer:
            for number in range(len(shard)):
                rows = opened.rows(number)
                sample: dict[str, Any] = {"__key__": opened.records[number].image_id}
                for name, row in rows.items():
                    member = opened.cells[name].member(row)
                    if member is not None:
                        sample["photo.jpg" if name == "image" else f"{name}.png"] = member
                sample["rows.json"] = json.dumps(rows).encode()
                writer.write(sample)
    return paths


class _Member:
    """What trainer.data asks of a cell."""

    def __init__(self, card: ExpertCard, data: bytes | None, decode: Decode) -> None:
        self.card = card
        self._data = data
        self._decode = decode

    def pixels(self, row: object) -> NDArray:
        assert self._data is not None, "a dense label has a member"
        return self._decode(self.card, self._data)


def quickly(card: ExpertCard, data: bytes) -> NDArray:
    """A PNG's pixels by OpenCV, as ours."""
    return stored_pixels(card.spec, data)


def by_pillow(card: ExpertCard, data: bytes) -> NDArray:
    """A PNG's pixels by Pillow, which webdataset's own decoders use."""
    return np.asarray(Image.open(io.BytesIO(data)))


class TarExamples(IterableDataset[Example]):
    """Examples for ever, shuffled, cut and turned as ours."""

    def __init__(
        self, paths: list[str], cards: Mapping[str, ExpertCard], labels: Mapping[str, str], *, decode: Decode
    ) -> None:
        self._paths, self._cards, self._labels, self._decode = paths, cards, labels, decode

    def __iter__(self) -> Iterator[Example]:
        tars = webdataset.WebDataset(self._paths, shardshuffle=len(self._paths), empty_check=False, workersplitter=None)
        for number, sample in enumerate(tars.shuffle(SHUFFLED).repeat()):
            yield _example(number, sample, self._cards, self._labels, self._decode)


def _example(
    number: int, sample: dict[str, Any], cards: Mapping[str, ExpertCard], labels: Mapping[str, str], decode: Any
) -> Example:
    rows = json.loads(sample["rows.json"])
    geometry, colours = VIEW.draw(Chance(number), height=rows["image"]["height"], width=rows["image"]["width"])
    image_SS3 = VIEW.recoloured(warped_photo(_photo(sample["photo.jpg"], decode), geometry, SIZE), colours)
    cells: dict[str, Any] = {name: _Member(cards[name], sample.get(f"{name}.png"), decode) for name in labels.values()}
    stored = {name: StoredLabel(cells[name], rows[name]) for name in cells}
    return Example(
        image_id=sample["__key__"],
        position=number,
        item=-1,
        photo_SS3=image_SS3,
        geometry=geometry,
        labels={
            modality: label_example(stored[name], geometry, SIZE, depth=stored["depth"])
            for modality, name in labels.items()
        },
        captions=("a photo of things",),
        text="a photo of things",
    )


def _photo(data: bytes, decode: Any) -> EncodedPhoto:
    if decode is quickly:
        return EncodedPhoto(data, Limits())
    return RenderedPhoto(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
