"""The expert `match`: how well each of a photo's captions describes it, by BLIP's matching head or by SigLIP 2.

    photo -> vision transformer, once -----\\
    caption -> tokens -> text network ------> probability, one per caption

`blip` reads the caption while it looks at the photo's patches (cross-attention) and was fine-tuned to tell COCO's captions from
near misses: the judge that BLIP and Prismer filtered web captions with. `siglip2` compares two vectors, reads many languages and
costs little for every further caption; its probabilities are small in absolute terms, because it was trained to pick one caption
out of thousands.

A caption for `blip` begins with [ENC] and has lost its sentence marks, as in the authors' training and evaluation
(models/blip_retrieval.py, train_retrieval.py and pre_caption of their repository); transformers' own processor leaves [CLS] and the
marks, which this head never saw.

Shapes: B photos, N captions of all of them, S tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from expert_zoo.card import ExpertCard
from expert_zoo.expert import Needs, Photo
from expert_zoo.labels import Label, Scores
from expert_zoo.language import blip
from expert_zoo.networks.network_expert import NetworkExpert, to_host
from expert_zoo.networks.preprocess import Preprocess
from expert_zoo.networks.pretrained import CONFIG, PICKLED, SAFETENSORS, load_pretrained, save_seeded
from expert_zoo.networks.tokenizer_file import (
    GEMMA_BOS,
    GEMMA_EOS,
    GEMMA_PAD,
    PAD,
    SEP,
    TOKENIZER,
    load_tokenizer,
    write_byte_fallback,
    write_wordpiece,
)
from expert_zoo.spec import LabelSpec
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile

if TYPE_CHECKING:
    from torch import Tensor, nn

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """One of the networks. ``most_tokens``: of a caption, its beginning and end included; longer ones are cut off.

    ``revision``: of the repository; "" is the newest at the first fetch, for no commit of it is publicly documented.
    """

    repo: str
    revision: str
    licence: str
    architecture: str
    parameters: int
    paper: str
    caption: str
    score: str
    most_tokens: int

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            name=self.repo.partition("/")[2],
            repo=self.repo,
            revision=self.revision,
            files=(
                CheckpointFile(path=CONFIG),
                CheckpointFile(path=SAFETENSORS, or_else=PICKLED),
                CheckpointFile(path=TOKENIZER),
            ),
            licence=self.licence,
            commercial_use=True,
            page=f"https://huggingface.co/{self.repo}",
        )


JUDGES = {
    "blip": Judge(
        repo="Salesforce/blip-itm-large-coco",
        revision="",
        licence="BSD-3-Clause",
        architecture="BLIP retrieval, COCO: ViT-L/16 at 384 pixels, BERT-base with cross-attention, matching head of 2 classes",
        parameters=446_128_642,
        paper="BLIP, arXiv:2201.12086",
        caption='[ENC], lower case, .!"()*#:;~ are blanks',
        score="softmax of the matching head",
        most_tokens=35,
    ),
    "siglip2": Judge(
        repo="google/siglip2-so400m-patch14-384",
        revision="e8e487298228002f3d8a82e0cd5c8ea9c567f57f",
        licence="Apache-2.0",
        architecture="SigLIP 2 So400m/14 at 384 pixels: two transformers of 27 layers, width 1152",
        parameters=1_136_008_498,
        paper="SigLIP 2, arXiv:2502.14786",
        caption="lower case",
        score="sigmoid of the scaled and shifted cosine",
        most_tokens=64,
    ),
}
SIGLIP_SIDE, SIGLIP_PATCH = 384, 14
#: What no caption in BLIP's training has.
MARKS = re.compile(r'[.!"()*#:;~]')


class Match(NetworkExpert):
    """For every caption of the photo, in the record's order, the probability that it describes the photo.

    network: "blip" (matching head of BLIP large) or "siglip2" (many languages).
    side: of the square that the network sees, pixels, 16 to 4096; None: 384, for which both were trained.
    also: a column of texts (``caption@version``) whose text is scored too, after the photo's own captions, where it has one: what
        filtering web captions needs (docs/filtering.md). A job file names the expert, whose version is then filled in.
    weights_folder, precision, compile: as in NetworkExpert; what is compiled is the vision transformer.

    A photo without a text to score is ``empty`` and costs nothing. Captions are read to their 35th (blip) or 64th (siglip2) token and
    may be in any script and empty; what blip's tokenizer has no piece for is an unknown word to it. Raises ValueError on other
    values.
    """

    needs: ClassVar[Needs] = Needs(batch_size=16, device_memory_gib=8.0, gpu=True)

    def __init__(
        self,
        *,
        network: str = "blip",
        side: int | None = None,
        also: str | None = None,
        weights_folder: str | None = None,
        precision: str = "auto",
        compile: bool = False,
    ) -> None:
        if network not in JUDGES:
            raise ValueError(f"match: network is {network!r}; expected {' or '.join(JUDGES)}")
        if also is not None and (not isinstance(also, str) or not also):
            raise ValueError(f"match: also is {also!r}; expected the name of an expert with texts, such as caption")
        self.network = network
        self.reads = () if also is None else (also,)
        self.judge = judge = JUDGES[network]
        super().__init__(
            checkpoint=judge.checkpoint(),
            preprocess=blip.preprocess(side) if network == "blip" else siglip_preprocess(side),
            weights_folder=weights_folder,
            precision=precision,
            compile=compile,
        )
        self._tokenizer: Any = None
        self.card = ExpertCard(
            name="match",
            summary=f"How well each of the photo's captions describes it, as a probability, by {judge.paper.partition(',')[0]}.",
            network=judge.architecture,
            weights=self.weights,
            preprocessing=self.preprocess.card()
            | {
                "precision": self.precision_rule,
                "caption": judge.caption,
                "most_tokens": judge.most_tokens,
            },
            processing={"score": judge.score} | ({} if also is None else {"also": also}),
            spec=LabelSpec(
                kind="score",
                quantity="match",
                units="probability",
                convention="one per caption, in the record's order"
                + ("" if also is None else f", then one of what {also.partition('@')[0]} says, where it says anything")
                + "; 1: the caption describes the photo",
                flip="none",
            ),
            parameters=judge.parameters,
            licence=judge.licence,
            commercial_use=True,
            paper=judge.paper,
        )

    def _build(self, folder: Path) -> nn.Module:
        from transformers import BlipForImageTextRetrieval, SiglipModel

        from expert_zoo.language import blip_networks, siglip_network

        self._tokenizer = load_tokenizer(folder)
        if self.network == "blip":
            return blip_networks.Matcher(load_pretrained(BlipForImageTextRetrieval, folder))
        return siglip_network.Matcher(load_pretrained(SiglipModel, folder))

    def _say(self, images_B3hw: Tensor, photos: Sequence[Photo]) -> list[Label]:
        import torch

        texts = [(*photo.captions, *(photo.said[c] for c in self.reads if c in photo.said)) for photo in photos]
        told = [place for place, captions in enumerate(texts) if captions]
        labels = [Label.empty() for _ in photos]
        if not told:
            return labels
        captions = [caption for place in told for caption in texts[place]]
        of_photo = [row for row, place in enumerate(told) for _ in texts[place]]
        device = images_B3hw.device
        tokens_NS = torch.tensor([self._tokens(caption) for caption in captions], device=device)
        seen = self._network(images_B3hw[torch.tensor(told, device=device)])
        (scores_N,) = to_host(self._network.agreement(seen, tokens_NS, torch.tensor(of_photo, device=device)))
        begin = 0
        for place in told:
            end = begin + len(texts[place])
            labels[place] = Label.ok(Scores(scores_N[begin:end].copy()))
            begin = end
        return labels

    def _tokens(self, caption: str) -> list[int]:
        """``most_tokens`` ids, filled up with padding: one length, so that a score does not depend on the other captions."""
        text, most = caption.lower(), self.judge.most_tokens
        if self.network == "blip":
            words = self._tokenizer.encode(MARKS.sub(" ", text), add_special_tokens=False).ids
            ids, padding = [self._network.first_token, *words[: most - 2], SEP], PAD
        else:
            words = self._tokenizer.encode(text, add_special_tokens=False).ids
            ids, padding = [*words[: most - 1], GEMMA_EOS], GEMMA_PAD
        return ids + [padding] * (most - len(ids))

    def seed(self, folder: Path, *, small: bool) -> None:
        from transformers import BlipForImageTextRetrieval, SiglipModel

        if self.network == "blip":
            config = blip.configuration(small=small, tokens=write_wordpiece(folder))
            save_seeded(BlipForImageTextRetrieval(config), folder)
        else:
            save_seeded(SiglipModel(siglip_configuration(small=small, tokens=write_byte_fallback(folder))), folder)


def siglip_configuration(*, small: bool, tokens: int) -> Any:
    """A SiglipConfig: that of the published checkpoint, or a small one for ``tokens`` tokens."""
    from transformers import SiglipConfig

    tower = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    if small:
        tower = blip.SMALL
    ends = {"pad_token_id": GEMMA_PAD, "bos_token_id": GEMMA_BOS, "eos_token_id": GEMMA_EOS}
    return SiglipConfig(
        text_config=tower | ends | {"vocab_size": tokens if small else 256_000},
        vision_config=tower | {"image_size": SIGLIP_SIDE, "patch_size": SIGLIP_PATCH},
    )


def siglip_preprocess(side: int | None) -> Preprocess:
    """Squashed, as SigLIP 2's networks of one resolution were trained."""
    return Preprocess(fit="squash", side=SIGLIP_SIDE if side is None else side, mean=HALF, std=HALF)
