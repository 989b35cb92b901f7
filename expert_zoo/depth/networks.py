"""What transformers' depth networks lack: DPT-Hybrid on inputs of any size, and heads whose output keeps its precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class DptHybrid(nn.Module):
    """transformers' DPTForDepthEstimation (hybrid) for inputs of any size in multiples of 32.

    The library takes this network's inputs at its configuration's ``image_size`` only: its forward neither asks for resized
    position embeddings nor tells the decoder how many patches are a row. Here its modules run in its order, with both; at
    ``image_size`` the output is the same.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone = network.dpt
        self.neck = network.neck
        self.head = InFloat32(network.head)
        #: Of the four features that the decoder takes, two come from the convolutions, two from these layers.
        self.layers_read = set(network.config.backbone_out_indices[2:])
        self.patch = int(network.config.patch_size)

    def forward(self, images_B3hw: Tensor) -> Tensor:
        """Inverse depth, float32 B x h x w, of normalised ``images_B3hw``."""
        rows, columns = (side // self.patch for side in images_B3hw.shape[2:])
        embedded = self.backbone.embeddings(images_B3hw, interpolate_pos_encoding=True)
        features = list(embedded.intermediate_activations)
        tokens = embedded.last_hidden_states
        for index, layer in enumerate(self.backbone.encoder.layer):
            tokens = layer(tokens)
            if index in self.layers_read:
                features.append(tokens)
        return self.head(self.neck(features, rows, columns))


class InFloat32(nn.Module):
    """A network's last layers without mixed precision: float16 has 11 bits, and a stored map 16."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, features: list[Tensor], *further: Any) -> Any:
        with torch.autocast(features[-1].device.type, enabled=False):
            return self.layers([feature.float() for feature in features], *further)
