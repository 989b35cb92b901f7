"""From ids to vectors on the device: what was carried there is one byte a pixel.

Shapes: R rows, the last of them the background's, C = 64 channels.
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
