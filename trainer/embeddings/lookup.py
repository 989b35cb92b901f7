"""From ids to vectors on the device: what a model is given is made here, and what was carried there is one byte a pixel.

Shapes: B photos, H x W pixels, K objects (or words) of a photo, R rows, C = 64 channels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.embeddings.table import EmbeddingTable


class Lookup(nn.Module):
    """The vectors of a table, as a buffer that moves with the model and is in none of its checkpoints."""

    vectors_RC: Tensor

    def __init__(self, table: EmbeddingTable) -> None:
        super().__init__()
        rows_RC = np.concatenate([table.vectors_NC, table.background_C[None]])
        self.register_buffer("vectors_RC", torch.from_numpy(rows_RC), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: rows of the table, any shape and integer type; whatever is no row (-1, 255, 65535) is background.

        Returns the ids' shape x C.
        """
        background = len(self.vectors_RC) - 1
        # Not every operation knows uint16, and int32 holds any id.
        ids = ids.int()
        return functional.embedding(torch.where((ids >= 0) & (ids < background), ids, background), self.vectors_RC)

    def paint(self, ids_BHW: Tensor) -> Tensor:
        """B x C x H x W of a class map, channels last in memory."""
        return self(ids_BHW).permute(0, 3, 1, 2)


def rows_of_instances(instances_BHW: Tensor, rows_BK: Tensor) -> Tensor:
    """B x H x W rows of a table, to be painted: those of the object, or the word, that each pixel belongs to.

    instances_BHW: its number in the photo, any integer type; what is no column of rows_BK is none of them, and becomes -1.
    rows_BK: the row of each, int64; photos with fewer are filled up with anything.
    """
    count = rows_BK.shape[1]
    if count == 0:
        return torch.full_like(instances_BHW, -1, dtype=torch.int64)
    numbers_BX = instances_BHW.long().flatten(1)
    found_BX = rows_BK.gather(1, numbers_BX.clamp(0, count - 1))
    none_BX = (numbers_BX < 0) | (numbers_BX >= count)
    return found_BX.masked_fill(none_BX, -1).view(instances_BHW.shape)
