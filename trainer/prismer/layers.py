"""What vision, resampler and decoder are made of: norm, attention, MLP, adaptor.

Shapes: B images or rows, L queries, N keys, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, relu, scaled_dot_product_attention

#: Keys and values, each B x H x N x D/H.
KeysValues = tuple[Tensor, Tensor]


class Norm(nn.LayerNorm):
    """Layer normalisation that is computed in float32 whatever comes in, and gives back what came in."""

    def forward(self, x: Tensor) -> Tensor:
        normed = layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
        return normed.to(x.dtype)


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


def squared_relu(x: Tensor) -> Tensor:
    """So et al., "Primer", arXiv:2109.08668."""
    return relu(x).square()


class Attention(nn.Module):
    """Attention of many heads. Whom it looks at (itself, experts, a photo) is said by whose keys and values it is given."""

    def __init__(self, *, width: int, heads: int, seen_width: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(seen_width or width, width)
        self.value = nn.Linear(seen_width or width, width)
        self.out = nn.Linear(width, width)

    def keys_values(self, seen_BND: Tensor) -> KeysValues:
        return self._split(self.key(seen_BND)), self._split(self.value(seen_BND))

    def forward(self, x_BLD: Tensor, keys_values: KeysValues, allowed: Tensor | None = None) -> Tensor:
        """allowed: True where a query may look at a key, broadcast to B x H x L x N; None: everywhere. B x L x D."""
        keys, values = keys_values
        seen = scaled_dot_product_attention(
            self._split(self.query(x_BLD)),
            keys,
            values,
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(seen.transpose(1, 2).flatten(2))

    def _split(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Mlp(nn.Module):
    """To four times the width and back."""

    def __init__(self, *, width: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class Adaptor(nn.Module):
    """What is trained inside of a frozen block: two layers as wide as the block, around them a residual connection.

    norm_last: the norm comes after the sum, as in a RoBERTa block; else before the first layer, as in a CLIP block. Hidden
    width and places are the released checkpoints'; the paper's figure 3 draws a narrower one.
    """

    def __init__(self, *, width: int, norm_last: bool) -> None:
        super().__init__()
        self.norm_last = norm_last
        self.norm = Norm(width)
        self.inward = nn.Linear(width, width)
        self.outward = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_last:
            return self.norm(x + self._change(x))
        return x + self._change(self.norm(x))

    def _change(self, x: Tensor) -> Tensor:
        return self.outward(squared_relu(self.inward(x)))


def initialise(network: nn.Module, *, from_scratch: bool = False) -> None:
    """Random weights for all of ``network``, from torch's global generator; backbones are loaded over them.

    Linear layers and tables: normal with 0.55 / sqrt(inputs), which is BERT's 0.02 at BASE's width. The second layer of an
    adaptor begins near zero, so that a frozen block begins as it was (the paper; the released code draws it as any other).

    from_scratch: what attention hands on begins twice as large, and three times where a text looks at the photo. At BERT's it is
    so faint beside what is known of the words before that a small model learns to speak first and, for thousands of steps,
    nothing about the photo.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.55 * module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.55 * module.embedding_dim**-0.5)
    for name, module in network.named_modules():
        if isinstance(module, Adaptor):
            nn.init.normal_(module.outward.weight, std=1e-3)
        if from_scratch and isinstance(module, Attention):
            for layer in (module.value, module.out):
                nn.init.normal_(layer.weight, std=(1.65 if name.endswith("cross") else 1.1) * layer.in_features**-0.5)
