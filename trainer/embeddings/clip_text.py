"""CLIP's text encoder, from a checkpoint of the library transformers in the weights folder.

    text -> tokens -> transformer -> what it says of the end token -> projection -> a vector as wide as CLIP's space

The released label tables and word vectors of Prismer are made with ViT-L/14's. Source: CLIP, arXiv:2103.00020.

Shapes: N texts, S tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from expert_zoo.networks.pretrained import PICKLED, SAFETENSORS, load_pretrained
from expert_zoo.networks.tokenizer_file import TOKENIZER, load_tokenizer
from expert_zoo.weights.folder import WeightsFolder
from trainer.embeddings.basis import Basis
from trainer.embeddings.origin import BACKGROUND, Origin
from trainer.networks import CLIP_OF_EMBEDDINGS as CLIP

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH = 256
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
#: How the tokenizer marks a piece that ends a word.
_WHOLE = "</w>"

#: (texts encoded so far, texts in all)
Progress = Callable[[int, int], None]


class ClipTexts:
    """The text half of a CLIP checkpoint, in float32 on ``device``. Raises ValueError where ``folder`` holds none."""

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        from transformers import CLIPModel

        clip = load_pretrained(CLIPModel, folder)
        self._text = clip.text_model.to(device).eval()
        self._projection = clip.text_projection.to(device)
        self._device = device
        self._tokenizer = load_tokenizer(folder)
        self._longest: int = clip.config.text_config.max_position_embeddings
        self._ends = _ends(self._tokenizer, clip.config.text_config, folder)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> NDArray[np.float32]:
        """N x D. A text of more tokens than CLIP has places is cut off.

        Texts of one length make a batch, so that there is no padding and nothing of a text's neighbours in its vector.
        """
        tokens = [self._tokens(text) for text in texts]
        vectors: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(texts)
        done = 0
        order = sorted(range(len(texts)), key=lambda place: len(tokens[place]))
        for _, found in groupby(order, key=lambda place: len(tokens[place])):
            same = list(found)
            for begin in range(0, len(same), BATCH):
                places = same[begin : begin + BATCH]
                ids_NS = torch.tensor([tokens[place] for place in places], device=self._device)
                pooled_NX = self._text(input_ids=ids_NS).pooler_output
                for place, vector_D in zip(places, self._projection(pooled_NX).cpu().numpy(), strict=True):
                    vectors[place] = vector_D
                done += len(places)
                if progress is not None:
                    progress(done, len(texts))
        return np.stack(vectors)

    def vocabulary(self, most: int) -> list[str]:
        """Whole words among the tokenizer's pieces, of two letters or more, sorted; evenly chosen where there are more than ``most``.

        A sample of what people write, in no file but the checkpoint's own.
        """
        pieces = (piece.removesuffix(_WHOLE) for piece in self._tokenizer.get_vocab() if piece.endswith(_WHOLE))
        words = sorted({piece for piece in pieces if len(piece) > 1 and piece.isascii() and piece.isalpha()})
        chosen = min(most, len(words))
        return [words[len(words) * place // chosen] for place in range(chosen)]

    def _tokens(self, text: str) -> list[int]:
        begin, end = self._ends
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [begin, *ids[: self._longest - 2], end]


def _ends(tokenizer: Tokenizer, config: Any, folder: Path) -> tuple[int, int]:
    """Ids of the tokens around a text. Raises ValueError where the network would look for its vector at another one."""
    begin, end = tokenizer.token_to_id(_BEGIN), tokenizer.token_to_id(_END)
    # 2 stands in all older files of CLIP's configuration, and transformers then takes the largest id of a text for its end.
    expected = config.vocab_size - 1 if config.eos_token_id == 2 else config.eos_token_id
    if begin is None or end is None or end != expected:
        raise ValueError(
            f"{folder / TOKENIZER} ends a text with {end}, the network expects {expected}; fetch the checkpoint again"
        )
    return begin, end


class ClipEncoder:
    """CLIP's text embeddings, reduced by ``basis``, of which the encoder is CLIP with those weights."""

    def __init__(self, texts: ClipTexts, basis: Basis, *, prompt: str, progress: Progress | None = None) -> None:
        self._texts, self._basis, self._progress = texts, basis, progress
        self.origin = Origin(
            method="clip",
            encoder=basis.encoder,
            prompt=prompt,
            reduction=basis.summary,
            licence=CLIP.licence,
            commercial_use=CLIP.commercial_use,
        )

    def classes(self, names: Sequence[str], *, whose: str) -> NDArray[np.float32]:
        return self.words([self.origin.prompt.replace("{}", name) for name in names])

    def words(self, words: Sequence[str]) -> NDArray[np.float32]:
        return self._basis.reduce(self._texts.encode(words, progress=self._progress))

    def background(self) -> NDArray[np.float32]:
        return self.classes([BACKGROUND], whose=BACKGROUND)[0]


def load_clip(weights_folder: str | None, *, device: str) -> ClipTexts:
    """From the weights folder. Raises ValueError: missing or damaged.

    device: "auto" is a GPU where there is one.
    """
    folder = WeightsFolder(weights_folder)
    path = folder.verified(CLIP, fetch=f"--networks {CLIP.name}")
    where = "cuda" if torch.cuda.is_available() else "cpu"
    return ClipTexts(path, device=torch.device(where if device == "auto" else device))


def encoder_name(weights_folder: str | None) -> str:
    """CLIP, with the digest of its weights as the weights folder states it."""
    digests = [
        weights.sha256
        for weights in WeightsFolder(weights_folder).weights(CLIP)
        if weights.file in (SAFETENSORS, PICKLED)
    ]
    return f"{CLIP.repo}, weights {digests[0][:16]}"
