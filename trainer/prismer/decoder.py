"""The text decoder: RoBERTa, reading only backwards, with attention to the photo and an adaptor in each layer.

    words so far -> [ attention to them -> attention to the photo -> adaptor -> MLP ] x layers -> one more layer -> next word

Norms come after the sums, as in RoBERTa. The last layer does not look at the photo and was never in a RoBERTa.
Source: Prismer, arXiv:2303.02506, section 3; RoBERTa, arXiv:1907.11692.

Padding may stand anywhere: no token looks at it, and positions are counted without it.

Shapes: B photos, R rows (texts): a whole number per photo, one photo's after the other's; L new tokens, T all tokens,
N visual tokens, D width, V words.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear
from torch.utils.checkpoint import checkpoint

from trainer.prismer.cache import Cache, LayerCache
from trainer.prismer.config import TextConfig
from trainer.prismer.layers import Adaptor, Attention, Mlp, Norm


class TextLayer(nn.Module):
    """A layer of RoBERTa's."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.width
        self.attention = Attention(width=width, heads=config.heads, dropout=config.dropout)
        self.attention_norm = Norm(width)
        self.mlp = Mlp(width=width, activation=gelu)
        self.mlp_norm = Norm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_RLD: Tensor, visual_BND: Tensor, allowed_R1LT: Tensor, cache: LayerCache | None) -> Tensor:
        keys_values = self.attention.keys_values(x_RLD)
        if cache is not None:
            keys_values = cache.grown(keys_values)
        attended = self.attention(x_RLD, keys_values, allowed_R1LT)
        x_RLD = self.attention_norm(x_RLD + self.dropout(attended))
        x_RLD = self.look(x_RLD, visual_BND, cache)
        return self.mlp_norm(x_RLD + self.dropout(self.mlp(x_RLD)))

    def look(self, x_RLD: Tensor, visual_BND: Tensor, cache: LayerCache | None) -> Tensor:
        return x_RLD


class DecoderLayer(TextLayer):
    """A layer of RoBERTa's that looks at the photo between its halves."""

    def __init__(self, config: TextConfig, *, visual_width: int) -> None:
        super().__init__(config)
        width = config.width
        self.cross = Attention(width=width, heads=config.heads, seen_width=visual_width, dropout=config.dropout)
        self.cross_norm = Norm(width)
        self.adaptor = Adaptor(width=width, norm_last=True)

    def look(self, x_RLD: Tensor, visual_BND: Tensor, cache: LayerCache | None) -> Tensor:
        keys_values = cache.visual if cache is not None else None
        if keys_values is None:
            keys_values = self.cross.keys_values(visual_BND)
        if cache is not None:
            cache.visual = keys_values
        # A photo's texts look at it as if they were one, so that its keys and values are there once, however many they are.
        together = x_RLD.reshape(len(visual_BND), -1, x_RLD.shape[2])
        seen = self.cross(together, keys_values).view_as(x_RLD)
        return self.adaptor(self.cross_norm(x_RLD + self.dropout(seen)))


class Head(nn.Module):
    """What a token's vector says of the next word. The matrix is the word table, or of its own."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = Norm(config.width)
        self.bias = nn.Parameter(torch.zeros(config.words))
        self.matrix = None if config.tied else nn.Parameter(torch.randn(config.words, config.width) * 0.02)

    def forward(self, x_RLD: Tensor, words_VD: Tensor) -> Tensor:
        return linear(self.norm(gelu(self.dense(x_RLD))), words_VD if self.matrix is None else self.matrix, self.bias)


class TextDecoder(nn.Module):
    """Tokens so far and visual tokens to logits of the next token."""

    def __init__(self, config: TextConfig, *, visual_width: int) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.words = nn.Embedding(config.words, config.width, padding_idx=config.pad)
        self.positions = nn.Embedding(config.positions, config.width, padding_idx=config.pad)
        self.kind = nn.Parameter(torch.zeros(1, config.width))
        self.norm = Norm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(config, visual_width=visual_width) for _ in range(config.layers))
        self.last = TextLayer(config)
        self.head = Head(config)

    def forward(
        self, ids_RL: Tensor, visual_BND: Tensor, cache: Cache | None = None, *, only_last: bool = False
    ) -> Tensor:
        """R x L x V logits of the word after each token, or R x 1 x V of the one after the last.

        cache: of the tokens before ``ids_RL``; it takes these in. Raises ValueError where there are more tokens than positions.
        """
        keep_RT = ids_RL != self.config.pad
        if cache is not None:
            if cache.keep_RT is not None:
                keep_RT = torch.cat([cache.keep_RT, keep_RT], dim=1)
            cache.keep_RT = keep_RT
            cache.layers = cache.layers or [LayerCache() for _ in range(len(self.layers) + 1)]
        length = ids_RL.shape[1]
        places_RL = (keep_RT.cumsum(1) * keep_RT)[:, -length:] + self.config.pad
        x_RLD = self._embedded(ids_RL, places_RL, keep_RT.shape[1])
        allowed_R1LT = _allowed(keep_RT, length)
        for number, layer in enumerate([*self.layers, self.last]):
            of_layer = None if cache is None else cache.layers[number]
            if self.checkpointing and torch.is_grad_enabled():
                x_RLD = checkpoint(layer, x_RLD, visual_BND, allowed_R1LT, of_layer, use_reentrant=False)
            else:
                x_RLD = layer(x_RLD, visual_BND, allowed_R1LT, of_layer)
        return self.head(x_RLD[:, -1:] if only_last else x_RLD, self.words.weight)

    def _embedded(self, ids_RL: Tensor, places_RL: Tensor, tokens: int) -> Tensor:
        # Padding counts here, so that nobody has to wait for the device to find out that all is well.
        if tokens > self.config.longest:
            raise ValueError(f"{tokens} tokens with padding; this Prismer has positions for {self.config.longest}")
        return self.dropout(self.norm(self.words(ids_RL) + self.kind + self.positions(places_RL)))


def _allowed(keep_RT: Tensor, length: int) -> Tensor:
    """R x 1 x L x T: may each of the last ``length`` tokens look at each of all: not ahead, and not at padding.

    Padding with no token before it looks at itself, for attention to nothing is not a number; nobody looks at it in turn.
    """
    total = keep_RT.shape[1]
    all_LT = keep_RT.new_ones(length, total)
    backwards_LT = all_LT.tril(total - length)
    itself_LT = backwards_LT & all_LT.triu(total - length)
    allowed_RLT = backwards_LT & keep_RT[:, None]
    return (allowed_RLT | (itself_LT & ~allowed_RLT.any(dim=2, keepdim=True)))[:, None]
