"""Photos as an evaluation sees them: every wanted image once, in the store's order, whole, and nothing drawn by chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manifests.record import ImageRecord
from pipeline.storage.cache import FileCache
from pipeline.store import LabelStore
from trainer.data.dataset import LabelDataset, drawn_caption
from trainer.data.loader import Loader
from trainer.data.selection import Selection
from trainer.ranks import Ranks


def photos_in_order(
    store: LabelStore,
    *,
    labels: Mapping[str, str],
    resolution: int,
    label_resolution: int,
    batch_size: int,
    ranks: Ranks,
    wanted: Callable[[ImageRecord], bool] | None = None,
    text_of: Callable[..., Any] = drawn_caption,
    photos: str = "image",
    captions: Sequence[str] = ("record",),
    workers: int = 0,
    cache: FileCache | None = None,
) -> Loader:
    """Batches of this rank's share. labels, photos, captions: as of a LabelDataset. text_of: such as `AllQuestions`.

    Photos are squashed to a square, as in the evaluation of the released checkpoints. One that cannot be read ends it: a score of
    the others is no score of all. Raises StoreError.
    """
    selection = Selection.everything(store.plan) if wanted is None else Selection.images(store, wanted)
    dataset = LabelDataset(
        store,
        labels=labels,
        view="squash",
        resolution=resolution,
        label_resolution=label_resolution,
        seed=None,
        selection=selection,
        window=1,
        photos=photos,
        captions=captions,
        unreadable="raise",
        text_of=text_of,
        cache=cache,
    )
    return Loader(
        dataset,
        batch_size=batch_size,
        rank=ranks.rank,
        ranks=ranks.count,
        drop_last=False,
        workers=workers,
        pin=ranks.device.type == "cuda",
    )
