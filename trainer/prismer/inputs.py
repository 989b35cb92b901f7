"""From a Batch to what a Prismer takes: photos normalised, label maps as numbers from -1 to 1 or as embeddings of what they name.

Shapes: B photos, C channels, H x W pixels of a label map, R rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from expert_zoo.card import ExpertCard
from trainer.data.batch import Batch
from trainer.data.finish import Scaling, ids, maps, photos, rows
from trainer.embeddings.lookup import Lookup
from trainer.embeddings.table import EmbeddingTable
from trainer.prismer.config import CHANNELS, EMBEDDING, Modality, PrismerConfig
from trainer.prismer.stems import painted, seen_side
from trainer.prismer.vision import LabelMap

#: The kinds of labels that can be a modality.
_KINDS: Mapping[int, tuple[str, ...]] = {1: ("map",), 3: ("map",), EMBEDDING: ("classes", "instances", "words")}


class Inputs(torch.nn.Module):
    """Photos and label maps of a batch on its device; holds the tables, so it moves there with `to`.

    cards: of every modality's expert, as the dataset tells them. tables: for modalities of 64 channels, the embeddings of its
    classes or of all words. Raises ValueError where a modality's labels are of a kind that its channels cannot show, or a table
    is missing.
    """

    def __init__(
        self,
        config: PrismerConfig,
        *,
        cards: Mapping[str, ExpertCard],
        tables: Mapping[str, EmbeddingTable],
        scaling: Scaling | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.specs = {name: cards[name].spec for name in config.experts if name in cards}
        self.scaling = scaling or Scaling()
        self._tables = dict(tables)
        for name in self.specs:
            _check(name, cards[name], name in tables)
        named = [name for name in self.specs if CHANNELS[name] == EMBEDDING]
        self.lookups = torch.nn.ModuleDict({name: Lookup(tables[name]) for name in named})

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, LabelMap]]:
        """B x 3 x H x W, and a LabelMap for every expert of the configuration; one that no label belongs to is present nowhere."""
        return photos(batch), {name: self._label_map(name, batch) for name in self.config.experts}

    def _label_map(self, name: Modality, batch: Batch) -> LabelMap:
        device, count = batch.photo_B3SS.device, len(batch)
        side = seen_side(CHANNELS[name], self.config.label_grid)
        if name not in self.specs:
            nothing = torch.zeros(count, CHANNELS[name], side, side, device=device)
            nobody = torch.full((count, side, side), -1, device=device) if name == "detection" else None
            return LabelMap(nothing, torch.zeros(count, dtype=torch.bool), nobody)
        label = batch.labels[name]
        if name not in self.lookups:
            return LabelMap(maps(label, self.specs[name], batch, self.scaling), label.present_B)
        vectors_RC = cast(Lookup, self.lookups[name]).vectors_RC
        rows_BHW = rows(label, self._tables[name].rows)
        rows_BHW = torch.where(rows_BHW < 0, len(vectors_RC) - 1, rows_BHW)
        map_BCHW = painted(rows_BHW, vectors_RC, side)
        return LabelMap(map_BCHW, label.present_B, ids(label) if name == "detection" else None)


def _check(name: Modality, card: ExpertCard, has_table: bool) -> None:
    spec, channels = card.spec, CHANNELS[name]
    if spec.kind not in _KINDS[channels] or (spec.kind == "map" and spec.channels != channels):
        shown = f"{spec.channels} channel(s)" if spec.kind == "map" else "names"
        raise ValueError(
            f"{name} cannot be shown by {card.column}, whose labels are of kind {spec.kind} with {shown}; expected "
            f"{' or '.join(_KINDS[channels])}" + (f" with {channels} channel(s)" if channels < EMBEDDING else "")
        )
    if channels == EMBEDDING and not has_table:
        raise ValueError(f"no embeddings for {name}, whose labels are of {card.column}; run `expert-labels embed`")
