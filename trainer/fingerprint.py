"""What a training has read, in a few words: on resuming it must be the same store, on evaluating labels that mean the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from expert_zoo.card import ExpertCard
from trainer.embeddings.origin import Origin
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
    """Which examples, out of so many ``images``, and which labels. columns: by modality. embeddings: where the vectors come from that
    names were shown as; None where there were none, or nobody said."""

    model_config = ConfigDict(frozen=True)

    examples: str
    images: int
    columns: dict[str, ColumnPrint]
    embeddings: Origin | None = None

    @classmethod
    def of(
        cls, cards: Mapping[str, ExpertCard], *, examples: str, images: int, embeddings: Origin | None = None
    ) -> StoreFingerprint:
        """cards: by modality. examples: what tells one selection of one store's images from any other."""
        columns = {name: ColumnPrint.of(card) for name, card in cards.items()}
        return cls(examples=examples, images=images, columns=columns, embeddings=embeddings)

    def check_same(self, begun: StoreFingerprint, *, where: str) -> None:
        """Raises CheckpointError unless a run that was ``begun`` with that store goes on with this one."""
        self.check_classes(begun, where=where)
        way_out = "resume with the store that the run was begun with, or begin another run with `start_from`"
        if (self.examples, self.images) != (begun.examples, begun.images):
            raise CheckpointError(
                f"what is to be read is {self.examples} of {self.images} images; {where} was trained on {begun.examples} of {begun.images}: "
                f"{way_out}"
            )
        for name, column in self.columns.items():
            if column != begun.columns[name]:
                raise CheckpointError(
                    f"the store has {column.column}; {where} was trained on {begun.columns[name].column}: {way_out}"
                )

    def check_embeddings(self, begun: StoreFingerprint, *, where: str) -> None:
        """Raises CheckpointError where names are shown as other vectors than ``where`` was trained with."""
        if self.embeddings is not None and begun.embeddings is not None:
            try:
                self.embeddings.check_same(begun.embeddings, where=where)
            except ValueError as error:
                raise CheckpointError(str(error)) from error

    def check_classes(self, begun: StoreFingerprint, *, where: str) -> list[str]:
        """Raises CheckpointError where labels mean something else than those that ``where`` was trained on: other experts,
        other classes, or other vectors of them. Returns a line for each expert that means the same in another version."""
        if set(self.columns) != set(begun.columns):
            raise CheckpointError(
                f"the labels to read are those of {', '.join(sorted(self.columns)) or 'no expert'}; {where} was trained on those of "
                f"{', '.join(sorted(begun.columns)) or 'no expert'}: name labels of the same experts, or another checkpoint"
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
        self.check_embeddings(begun, where=where)
        return notes
