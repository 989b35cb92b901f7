"""BLIP as the experts use it: photos are looked at once (``forward``), then written about or held against captions.

Shapes: B photos, P patches (and one token for all), D width, S tokens of a text, N texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Captioner(nn.Module):
    """``network``: a BlipForConditionalGeneration; ``prompt``: token ids that every caption continues."""

    begin_1S: Tensor

    def __init__(self, network: Any, prompt: Sequence[int], *, beams: int, shortest: int, longest: int) -> None:
        from transformers import GenerationConfig

        super().__init__()
        self.network = network
        text = network.config.text_config
        self.end, self.pad = text.sep_token_id, text.pad_token_id
        begin = torch.tensor([[text.bos_token_id, *prompt]])
        self.register_buffer("begin_1S", begin, persistent=False)
        self.search = GenerationConfig(
            do_sample=False,
            num_beams=beams,
            min_length=shortest,
            max_length=longest,
            length_penalty=1.0,
            early_stopping=False,
            eos_token_id=self.end,
            pad_token_id=self.pad,
            bos_token_id=text.bos_token_id,
        )

    def forward(self, images_B3hw: Tensor) -> Tensor:
        """B x P x D: the photos' tokens."""
        tokens_BPD: Tensor = self.network.vision_model(
            pixel_values=images_B3hw, interpolate_pos_encoding=True
        ).last_hidden_state
        return tokens_BPD

    def write(self, photos_BPD: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids after the prompt (B x S, filled up with the end or padding) and their log-probabilities' sum (B)."""
        begin_BS = self.begin_1S.expand(len(photos_BPD), -1)
        decoder = self.network.text_decoder
        tokens_BS = decoder.generate(
            input_ids=begin_BS, encoder_hidden_states=photos_BPD, generation_config=self.search
        )
        logits_BSW = decoder(input_ids=tokens_BS[:, :-1], encoder_hidden_states=photos_BPD).logits
        log_probs_BSW = logits_BSW[:, begin_BS.shape[1] - 1 :].float().log_softmax(dim=2)
        said_BS = tokens_BS[:, begin_BS.shape[1] :]
        log_probs_BS = log_probs_BSW.gather(2, said_BS[..., None])[..., 0]
        after_end_BS = (said_BS == self.end).cumsum(dim=1) - (said_BS == self.end).int() > 0
        return said_BS, log_probs_BS.masked_fill(after_end_BS, 0.0).sum(dim=1)


class Matcher(nn.Module):
    """``network``: a BlipForImageTextRetrieval. ``first_token``: [ENC], with which a text to be judged begins."""

    #: Image-text pairs that go through the text network together.
    PAIRS = 32

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        text = network.config.text_config
        self.first_token, self.pad = text.vocab_size - 1, text.pad_token_id

    def forward(self, images_B3hw: Tensor) -> Tensor:
        """B x P x D: the photos' tokens."""
        tokens_BPD: Tensor = self.network.vision_model(
            pixel_values=images_B3hw, interpolate_pos_encoding=True
        ).last_hidden_state
        return tokens_BPD

    def agreement(self, photos_BPD: Tensor, tokens_NS: Tensor, of_photo_N: Tensor) -> Tensor:
        """N probabilities that text n describes photo ``of_photo_N[n]``."""
        pairs = zip(tokens_NS.split(self.PAIRS), of_photo_N.split(self.PAIRS), strict=True)
        return torch.cat([self._of(tokens_NS, photos_BPD[of_photo_N]) for tokens_NS, of_photo_N in pairs])

    def _of(self, tokens_NS: Tensor, photos_NPD: Tensor) -> Tensor:
        out = self.network.text_encoder(
            input_ids=tokens_NS, attention_mask=(tokens_NS != self.pad).long(), encoder_hidden_states=photos_NPD
        )
        logits_N2: Tensor = self.network.itm_head(out.last_hidden_state[:, 0])
        return logits_N2.float().softmax(dim=1)[:, 1]
