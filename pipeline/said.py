"""What experts with texts said of a shard's photos, for the experts after them that read it (`Expert.reads`)."""

from __future__ import annotations

from collections.abc import Iterable

from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import Label, Text
from pipeline.plan import Shard
from pipeline.store import LabelStore

#: Reason code of rows of an expert that had nothing to read, because whom it reads failed on the photo.
UNREAD = "nothing to read"


class Said:
    """Labels of ``columns`` by image: those that are committed from the store, those that are being made as they come."""

    def __init__(self, store: LabelStore, shard: Shard, columns: Iterable[str]) -> None:
        self._labels: dict[str, dict[str, Label]] = {column: {} for column in columns}
        for column, labels in self._labels.items():
            if store.is_committed(column, shard):
                with store.read(column, shard) as cell:
                    labels.update((row["image_id"], cell.label(row)) for row in cell.rows)

    def note(self, column: str, image_id: str, label: Label) -> None:
        """A label that was made just now. What nobody reads is forgotten."""
        if column in self._labels:
            self._labels[column][image_id] = label

    def tell(self, photo: Photo, expert: Expert) -> Label | None:
        """Gives ``photo`` the texts that ``expert`` reads; or the label of an expert that cannot be asked about it."""
        for column in expert.reads:
            label = self._labels[column].get(photo.image_id)
            if label is None or label.status == "failed":
                return Label.failed(f"{UNREAD}: {column} failed on this photo")
            if isinstance(label.value, Text):
                photo.said[column] = label.value.text
        return None


def unreadable(store: LabelStore, shard: Shard, expert: Expert, filled: Iterable[str]) -> str:
    """Why ``expert`` cannot label the shard now, "" where it can. ``filled``: columns that are labelled along with it."""
    for column in expert.reads:
        if column not in filled and not store.is_committed(column, shard):
            return (
                f"it reads what {column} says, which is not there yet; label again, or put both experts into one pack"
                if "@" in column
                else f"it reads what {column} says, of which version is not known; name the column ({column}@version)"
            )
    return ""
