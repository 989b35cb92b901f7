"""What a training has read, in a few words: on resuming it must be the same store, on evaluating labels that mean the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from expert_zoo.card import ExpertCard
from pipeline.store import LabelStore
from trainer.errors import CheckpointError


class ColumnPrint(BaseModel):
    """An expert's column. classes: how many names it has; class_digest: of the names in their order, "" where it has none."""

    model_config = ConfigDict(frozen=True)

    column: str
    kind: str
    quantity: str
    classes: int
    class_digest: str

    @classmethod
    def of(cls, card: ExpertCard) -> ColumnPrint:
        names = card.spec.class_names
        digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16] if names else ""
        return cls(
            column=card.column,
            kind=card.spec.kind,
            quantity=card.spec.quantity,
            classes=len(names),
            class_digest=digest,
        )


class StoreFingerprint(BaseModel):
    """Which images in which order, and which labels. columns: by expert name."""

    model_config = ConfigDict(frozen=True)

    plan: str
    images: int
    columns: dict[str, ColumnPrint]

    @classmethod
    def of(cls, store: LabelStore, columns: Sequence[str]) -> StoreFingerprint:
        """columns: ``expert`` or ``expert@version``. Raises StoreError for one that is not there."""
        cards = [store.card(store.column_of(name)) for name in columns]
        prints = {card.name: ColumnPrint.of(card) for card in cards}
        return cls(plan=store.plan.fingerprint, images=store.plan.images, columns=prints)

    def check_same(self, begun: StoreFingerprint, *, where: str) -> None:
        """Raises CheckpointError unless a run that was ``begun`` with that store goes on with this one."""
        self.check_classes(begun, where=where)
        way_out = "resume with the store that the run was begun with, or begin another run with `start_from`"
        if self.plan != begun.plan:
            raise CheckpointError(
                f"the store has {self.images} images in plan {self.plan}; {where} was trained on {begun.images} in plan {begun.plan}: {way_out}"
            )
        for name, column in self.columns.items():
            if column != begun.columns[name]:
                raise CheckpointError(
                    f"the store has {column.column}; {where} was trained on {begun.columns[name].column}: {way_out}"
                )

    def check_classes(self, begun: StoreFingerprint, *, where: str) -> list[str]:
        """Raises CheckpointError where labels mean something else than those that ``where`` was trained on: other experts,
        or other classes. Returns a line for each expert that means the same in another version."""
        if set(self.columns) != set(begun.columns):
            raise CheckpointError(
                f"the labels to read are those of {', '.join(sorted(self.columns)) or 'no expert'}; {where} was trained on those of "
                f"{', '.join(sorted(begun.columns)) or 'no expert'}: label with the same experts, or name another checkpoint"
            )
        notes = []
        for name, column in self.columns.items():
            other = begun.columns[name]
            if (column.kind, column.quantity) != (other.kind, other.quantity):
                raise CheckpointError(
                    f"{column.column} is {column.quantity} as {column.kind}; {where} was trained on {other.quantity} as {other.kind}: "
                    "label with the same expert, or name another checkpoint"
                )
            if column.class_digest != other.class_digest:
                raise CheckpointError(
                    f"{column.column} has {column.classes} classes; {where} was trained on {other.classes} of {other.column}, and they are "
                    "not the same by name and order: label with the same class list, or name another checkpoint"
                )
            if column.column != other.column:
                notes.append(f"labels of {column.column}; {where} was trained on those of {other.column}")
        return notes
