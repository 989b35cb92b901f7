"""The expert `caption`: one sentence about the photo by BLIP large, with its log-probability.

    photo -> squashed to 384x384 -> ViT-L/16 -> "a picture of" -> text decoder, beam search -> sentence

The decoder begins with the prompt "a picture of", which is not part of the caption. It was fine-tuned on COCO with this prompt in
front of every caption and no loss on the prompt's own words (models/blip.py of the authors' repository), so what it says without
the prompt was never trained; captions like "arafed man" in many data sets come from that.

Beam search and the lengths are those of the authors' evaluation on COCO (configs/caption_coco.yaml): 3 beams, 5 to 20 tokens with
the beginning and the prompt. Nothing is drawn at random, so one photo has one caption.

Shapes: B photos, S tokens of a caption from its beginning, W words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from expert_zoo.card import ExpertCard
from expert_zoo.expert import Needs, Photo
from expert_zoo.labels import Label, Text
from expert_zoo.language import blip
from expert_zoo.networks.network_expert import NetworkExpert, to_host
from expert_zoo.networks.pretrained import CONFIG, PICKLED, SAFETENSORS, load_pretrained, randomise, save_pretrained
from expert_zoo.networks.tokenizer_file import FIRST_WORD, SEP, TOKENIZER, load_tokenizer, write_wordpiece
from expert_zoo.spec import LabelSpec
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile

if TYPE_CHECKING:
    from torch import Tensor, nn

CHECKPOINT = Checkpoint(
    name="blip-image-captioning-large",
    repo="Salesforce/blip-image-captioning-large",
    revision="353689b859fcf0523410b1806dace5fb46ecdf41",
    files=(
        CheckpointFile(path=CONFIG),
        CheckpointFile(path=SAFETENSORS, or_else=PICKLED),
        CheckpointFile(path=TOKENIZER),
    ),
    licence="BSD-3-Clause",
    commercial_use=True,
    page="https://huggingface.co/Salesforce/blip-image-captioning-large",
)

PROMPT = "a picture of"
SHORTEST, LONGEST = 5, 20
MOST_BEAMS = 16


class Caption(NetworkExpert):
    """A sentence in English and the sum of its tokens' log-probabilities (natural logarithm), its end included.

    beams: width of the search, 1 to 16.
    side: of the square that the network sees, pixels, 16 to 4096, rounded to a multiple of 16; None: 384, for which it was
        trained (for others its table of places is resized).
    weights_folder, precision, compile: as in NetworkExpert; what is compiled is the vision transformer.

    A photo of which nothing is said but special tokens is ``empty``. Raises ValueError on other values.
    """

    needs: ClassVar[Needs] = Needs(batch_size=16, device_memory_gib=6.0, gpu=True)

    def __init__(
        self,
        *,
        beams: int = 3,
        side: int | None = None,
        weights_folder: str | None = None,
        precision: str = "auto",
        compile: bool = False,
    ) -> None:
        if type(beams) is not int or not 1 <= beams <= MOST_BEAMS:
            raise ValueError(f"caption: beams is {beams!r}; expected a whole number from 1 to {MOST_BEAMS}")
        self.beams = beams
        super().__init__(
            checkpoint=CHECKPOINT,
            preprocess=blip.preprocess(side),
            weights_folder=weights_folder,
            precision=precision,
            compile=compile,
        )
        self._tokenizer: Any = None
        self._prompt: list[int] = []
        self.card = ExpertCard(
            name="caption",
            summary="A sentence about the photo by BLIP large, fine-tuned on COCO, with its log-probability.",
            network="BLIP captioner: ViT-L/16 at 384 pixels, text decoder of BERT-base with cross-attention",
            weights=self.weights,
            preprocessing=self.preprocess.card() | {"precision": self.precision_rule},
            processing={
                "prompt": PROMPT,
                "search": "beams, best sum of log-probabilities over number of tokens",
                "beams": beams,
                "shortest": SHORTEST,
                "longest": LONGEST,
                "log_prob": "natural logarithm, sum over the tokens after the prompt and the end, from the network alone",
            },
            spec=LabelSpec(
                kind="text",
                quantity="caption",
                units="log-probability, natural logarithm",
                convention="English, lower case, as the tokenizer joins its pieces",
                flip="none",
            ),
            parameters=446_290_492,
            licence=CHECKPOINT.licence,
            commercial_use=CHECKPOINT.commercial_use,
            paper="BLIP, arXiv:2201.12086",
        )

    def _build(self, folder: Path) -> nn.Module:
        from transformers import BlipForConditionalGeneration

        from expert_zoo.language.blip_networks import Captioner

        self._tokenizer = load_tokenizer(folder)
        self._prompt = self._tokenizer.encode(PROMPT, add_special_tokens=False).ids
        network = load_pretrained(BlipForConditionalGeneration, folder)
        return Captioner(network, self._prompt, beams=self.beams, shortest=SHORTEST, longest=LONGEST)

    def _say(self, images_B3hw: Tensor, photos: Sequence[Photo]) -> list[Label]:
        tokens_BS, log_probs_B = to_host(*self._network.write(self._network(images_B3hw)))
        wholes = self._tokenizer.decode_batch([self._prompt + said for said in tokens_BS.tolist()])
        texts = [whole.removeprefix(PROMPT).strip() for whole in wholes]
        pairs = zip(texts, log_probs_B.tolist(), strict=True)
        return [Label.ok(Text(text, log_prob)) if text else Label.empty() for text, log_prob in pairs]

    def seed(self, folder: Path, *, small: bool) -> None:
        from transformers import BlipForConditionalGeneration

        tokens = write_wordpiece(folder)
        network = BlipForConditionalGeneration(blip.configuration(small=small, tokens=tokens))
        randomise(network)
        bias = network.text_decoder.cls.predictions.bias.data
        bias[:FIRST_WORD] -= 20.0  # nothing without a text is said
        bias[tokens:] -= 20.0
        bias[SEP] += 22.0  # and captions end, sometimes before they must
        save_pretrained(network, folder)
