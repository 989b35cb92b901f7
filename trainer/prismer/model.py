"""Prismer, whole: what is trained, and what writes and chooses.

Shapes: B photos, H x W pixels, L tokens, N visual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainer.prismer.cache import Cache
from trainer.prismer.config import PrismerConfig
from trainer.prismer.decoder import DecoderLayer, TextDecoder, TextLayer
from trainer.prismer.generation import Search, Written, write
from trainer.prismer.layers import initialise
from trainer.prismer.loss import Loss, Objective, loss_of
from trainer.prismer.ranking import Ranked, rank
from trainer.prismer.resampler import ResamplerBlock
from trainer.prismer.text import Ids, TextBatch, prompts_of
from trainer.prismer.vision import ExpertEncoder, LabelMap, VisionBlock

#: What is not trained: nothing; CLIP's blocks, when fine-tuning; CLIP's blocks and RoBERTa's layers, when pre-training.
Frozen = Literal["nothing", "vision", "backbones"]
#: What a CLIP block or a RoBERTa layer here has beyond CLIP and RoBERTa: never frozen.
ADDED = ("adaptor", "cross", "cross_norm")


class PrismerBatch(NamedTuple):
    """photo_B3HW: float, normalised as CLIP's. labels: a LabelMap for every expert of the model. text: what to learn."""

    photo_B3HW: Tensor
    labels: Mapping[str, LabelMap]
    text: TextBatch


class Prismer(nn.Module):
    """A photo and what experts say of it, to text. Made with random weights, from torch's global generator."""

    def __init__(self, config: PrismerConfig, *, objective: Objective | None = None) -> None:
        super().__init__()
        self.config = config
        self.objective = objective or Objective()
        self.encoder = ExpertEncoder(config)
        self.decoder = TextDecoder(config.text, visual_width=config.vision.width)
        initialise(self, from_scratch=config.from_scratch)

    def forward(self, batch: PrismerBatch) -> Loss:
        visual_BND = self.encode(batch.photo_B3HW, batch.labels)
        return loss_of(self.decoder(batch.text.ids_BL, visual_BND), batch.text, self.objective)

    def encode(self, photo_B3HW: Tensor, labels: Mapping[str, LabelMap]) -> Tensor:
        """B x N x D visual tokens: what `generate` and `rank` look at, any number of times."""
        return self.encoder(photo_B3HW, labels)

    @torch.inference_mode()
    def generate(self, visual_BND: Tensor, prompts_BL: Tensor, search: Search) -> list[Written]:
        """A text for each photo, going on from its prompt (int64, padded anyhow). Meant for a model in eval."""
        text, cache = self.config.text, Cache()
        logits_BV = self.decoder(prompts_of(prompts_BL, text), visual_BND, cache, only_last=True)[:, -1]

        def step(tokens_R1: Tensor, rows_R: Tensor) -> Tensor:
            cache.select(rows_R)
            return self.decoder(tokens_R1, visual_BND, cache)[:, -1]

        lengths = (prompts_BL != text.pad).sum(dim=1).tolist()
        return write(logits_BV, step, prompt_lengths=lengths, text=text, search=search)

    @torch.inference_mode()
    def rank(
        self,
        visual_BND: Tensor,
        prompts_BL: Tensor,
        answers: Sequence[Ids],
        *,
        best: int = 16,
        smoothing: float = 0.0,
    ) -> Ranked:
        """The likeliest of ``answers`` for each photo and prompt: see `ranking.rank`. Meant for a model in eval."""
        return rank(self.decoder, visual_BND, prompts_BL, answers, best=best, smoothing=smoothing)

    def freeze(self, what: Frozen) -> None:
        """Train all parameters but those of ``what``, from now on."""
        frozen: dict[Frozen, list[nn.Module]] = {
            "nothing": [],
            "vision": [*self.encoder.blocks],
            "backbones": [*self.encoder.blocks, *self.decoder.layers],
        }
        if what not in frozen:
            raise ValueError(f"freeze {what!r}; expected one of {', '.join(frozen)}")
        self.requires_grad_(True)
        for block in frozen[what]:
            for name, part in block.named_children():
                part.requires_grad_(name in ADDED)

    def blocks(self) -> list[nn.Module]:
        """What repeats: the units to shard over ranks, in the order of their use."""
        kinds = (ResamplerBlock, VisionBlock, DecoderLayer, TextLayer)
        return [module for module in self.modules() if isinstance(module, kinds)]

    def checkpoint_gradients(self, on: bool) -> None:
        """Keep only the blocks' inputs for the backward pass and compute the rest again: less memory, more time."""
        self.encoder.checkpointing = self.decoder.checkpointing = on
