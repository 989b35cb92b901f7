"""LabelDataset: the examples of a store as training sees them, any of them at any time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch.utils.data import Dataset

from expert_zoo.card import ExpertCard
from expert_zoo.spec import LabelSpec
from manifests.record import ImageRecord
from pipeline.decode import Limits, PhotoError
from pipeline.encoded_photo import EncodedPhoto, open_photo
from pipeline.errors import ExpertLabelsError, StoreError
from pipeline.kept_texts import TextRules
from pipeline.reader import LabelReader, OpenShard, size_of
from pipeline.storage.cache import FileCache
from pipeline.store import LabelStore
from trainer.data.augmentation import Augmentation
from trainer.data.chance import Chance
from trainer.data.columns import RECORD, check_cache, check_columns, columns_of
from trainer.data.examples import Example, LabelExample, StoredLabel, label_example
from trainer.data.geometry import Fit, Geometry
from trainer.data.order import WINDOW, Order
from trainer.data.selection import WHOLE, Selection
from trainer.data.warping import warped_photo

#: (epoch, position in its order): what a batch sampler names an example by.
Key = tuple[int, int]
#: What an example is to learn: from its record, its captions, its item and chance, whatever the method wants.
TextOf = Callable[[ImageRecord, tuple[str, ...], int, Chance], Any]

_VIEW, _TEXT = 1, 2
#: So many photos in a row that cannot be read are not an accident.
_REPLACEMENTS = 50


def drawn_caption(record: ImageRecord, captions: tuple[str, ...], item: int, chance: Chance) -> str:
    """The caption of that number, or where the example stands for its image one drawn by chance; "" where there is none."""
    if item != WHOLE:
        return captions[item]
    return captions[chance.below(len(captions))] if captions else ""


class LabelDataset(Dataset[Example]):
    """A map-style dataset over the orders of all epochs: ``dataset[epoch, position]``.

    labels: modality -> column (an expert's name, or expert@version) of kind map, classes, instances or words. A modality is what
        the method calls it; a label that is missing or failed is None.
    view: an Augmentation, or how photos are fitted where nothing is drawn by chance.
    resolution, label_resolution: sides of the training image's photo and of its labels, pixels.
    seed: None leaves the store's order.
    photos: the column that holds photos; where the store has none of that name, or no photo in a row, the record's URI is read.
    captions: where an image's captions come from, one after the other: "record", and columns of kind text.
    select: which texts are kept; records are then seen with these for captions. The selection must be of the same rules.
    unreadable: what happens where a photo cannot be read: the next one in the order takes its place, or StoreError.
    text_of: called in the process that reads; its results travel with the batch.
    cache: for a remote store.

    Raises StoreError for columns that are not there, of another kind, or without any label, ValueError for a cache that two windows
    of shards do not fit into. May be pickled and forked.
    """

    def __init__(
        self,
        store: LabelStore,
        *,
        labels: Mapping[str, str],
        view: Augmentation | Fit,
        resolution: int,
        label_resolution: int = 224,
        seed: int | None,
        selection: Selection | None = None,
        window: int = WINDOW,
        photos: str = "image",
        captions: Sequence[str] = (RECORD,),
        select: TextRules | None = None,
        unreadable: Literal["replace", "raise"] = "replace",
        text_of: TextOf = drawn_caption,
        limits: Limits | None = None,
        cache: FileCache | None = None,
    ) -> None:
        if not isinstance(view, Augmentation) and view not in ("squash", "centre"):
            raise ValueError(f"view {view!r}; expected an Augmentation, or squash or centre")
        if isinstance(view, Augmentation) and seed is None:
            raise ValueError("an Augmentation needs a seed to draw from; expected a whole number")
        self.selection = selection or Selection.everything(store.plan)
        self.seed = seed
        self.window = window
        columns = columns_of(store, labels, photos, captions, select)
        self.reader = LabelReader(store, columns.all(), cache=cache, keep_open=window + 1)
        check_columns(self.reader, columns)
        check_cache(self.reader, window)
        self._columns = columns
        self._view = view
        self._resolution = resolution
        self.label_resolution = label_resolution
        self._unreadable = unreadable
        self._text_of = text_of
        self._select = select
        self._limits = limits or Limits()
        self._orders: dict[int, Order] = {}

    @property
    def cards(self) -> dict[str, ExpertCard]:
        """The card of every modality's expert."""
        return {modality: self.reader.cards[name] for modality, name in self._columns.labels.items()}

    @property
    def specs(self) -> dict[str, LabelSpec]:
        """What the labels of every modality mean."""
        return {modality: card.spec for modality, card in self.cards.items()}

    def order(self, epoch: int) -> Order:
        """The order of one epoch."""
        if epoch not in self._orders:
            # A batch may be asked for again, but never one of the epoch before the last.
            self._orders = {kept: order for kept, order in self._orders.items() if kept == epoch - 1}
            self._orders[epoch] = Order(self.selection.counts_S, seed=self.seed, epoch=epoch, window=self.window)
        return self._orders[epoch]

    def __getitem__(self, key: Key) -> Example:
        """Raises StoreError, of which DamagedCell is one."""
        epoch, position = key
        order = self.order(epoch)
        replaced: list[str] = []
        for further in range(min(_REPLACEMENTS, len(order))):
            try:
                return self._example(epoch, (position + further) % len(order), tuple(replaced))
            except PhotoError as error:
                if self._unreadable == "raise":
                    raise StoreError(
                        f"{self._name(order[position])}: {error}; expected a photo that can be read"
                    ) from error
                replaced.append(f"{self._name(order[(position + further) % len(order)])}: {error}")
        raise StoreError(
            f"none of {len(replaced)} photos in a row can be read, the first being {replaced[0]}; expected the photos that were "
            "labelled: look at their addresses, or label with the expert image, which keeps them in the store"
        )

    def __getitems__(self, keys: list[Key]) -> list[Example] | ExpertLabelsError:
        """Many at once. An error for the user is returned: raised in another process, it would lose its shape."""
        try:
            return [self[key] for key in keys]
        except ExpertLabelsError as error:
            return error

    def _name(self, place: tuple[int, int]) -> str:
        shard, number = place
        row, _ = self.selection.at(shard, number)
        return f"image {self.reader.open(self.reader.plan.shard(shard)).records[row].image_id}"

    def _example(self, epoch: int, position: int, replaced: tuple[str, ...]) -> Example:
        shard, place = self.order(epoch)[position]
        row, item = self.selection.at(shard, place)
        opened = self.reader.open(self.reader.plan.shard(shard))
        rows = {name: StoredLabel(opened.cells[name], found) for name, found in opened.rows(row).items()}
        record = self._with_kept_texts(opened.records[row], rows)
        photo = self._photo(record, opened, rows)
        # Boxes are in pixels of the photo that experts saw; the one in the store may be smaller.
        height, width = size_of({name: label.row for name, label in rows.items()}) or (photo.height, photo.width)
        keys = (self.seed or 0, epoch, position)
        image_SS3, geometry = self._seen(photo, Chance(*keys, _VIEW), height, width)
        captions = self._captions(record, rows)
        return Example(
            image_id=record.image_id,
            position=position,
            item=item,
            photo_SS3=image_SS3,
            geometry=geometry,
            labels=self._labels(rows, geometry),
            captions=captions,
            text=self._text_of(record, captions, item, Chance(*keys, _TEXT)),
            replaced=replaced,
        )

    def _with_kept_texts(self, record: ImageRecord, rows: dict[str, StoredLabel]) -> ImageRecord:
        if self._select is None:
            return record
        names = (self._columns.generated, self._columns.scores)
        return self._select.applied(record, *(rows[name].row if name in rows else None for name in names))

    def _photo(self, record: ImageRecord, opened: OpenShard, rows: dict[str, StoredLabel]) -> EncodedPhoto:
        label = rows.get(self._columns.photos) if self._columns.photos else None
        data = label.cell.member(label.row) if label else None
        return open_photo(record, self._limits, data)

    def _seen(self, photo: EncodedPhoto, chance: Chance, height: int, width: int) -> tuple[Any, Geometry]:
        if not isinstance(self._view, Augmentation):
            geometry = Geometry.fitted(self._view, height=height, width=width)
            return warped_photo(photo, geometry, self._resolution), geometry
        geometry, colours = self._view.draw(chance, height=height, width=width)
        return self._view.recoloured(warped_photo(photo, geometry, self._resolution), colours), geometry

    def _labels(self, rows: dict[str, StoredLabel], geometry: Geometry) -> dict[str, LabelExample | None]:
        depth = rows.get(self._columns.depth) if self._columns.depth else None
        if depth is not None and depth.row["status"] != "ok":
            depth = None
        return {
            modality: label_example(rows.get(name), geometry, self.label_resolution, depth=depth)
            for modality, name in self._columns.labels.items()
        }

    def _captions(self, record: ImageRecord, rows: dict[str, StoredLabel]) -> tuple[str, ...]:
        found: list[str] = []
        for source in self._columns.captions:
            if source == RECORD:
                found += record.captions
            elif source in rows and rows[source].row["status"] == "ok":
                found.append(rows[source].row["text"])
        return tuple(found)
