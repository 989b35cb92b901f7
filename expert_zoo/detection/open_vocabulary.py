"""The expert `detection_open`: boxes around the classes of a list in the job file, by Grounding DINO; needs no compiler.

    photo -> short side 800 -> Swin ----------\\
    classes -> prompts of 256 tokens -> BERT -> fused encoder -> 900 queries a prompt -> each the class it fits best -> boxes

A query's score for a class is the mean of the probabilities of the class's own tokens, as in the authors' evaluation on COCO
(demo/test_ap_on_coco.py of their repository); tokens of delimiters count for nothing. A query names the one class that it fits
best, so a list with synonyms gives no box twice.

Inside a prompt queries compete by one-to-one matching and nothing is suppressed. Prompts know nothing of each other: what one
calls a cat another without that class may call a dog. So a box that overlaps a better one of another prompt by more than
MOST_OVERLAP is dropped, whatever the classes, as if the two had been queries of one prompt.

Source: Liu et al., Grounding DINO, arXiv:2303.05499. Shapes: B photos, Q queries, C classes of a prompt, T its tokens, N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from expert_zoo.card import ExpertCard
from expert_zoo.classes import class_names
from expert_zoo.detection.boxes import checked_score, detections, overlaps
from expert_zoo.detection.class_prompts import checked_classes, class_prompts
from expert_zoo.expert import Needs, Photo
from expert_zoo.labels import Label
from expert_zoo.networks.network_expert import NOT_FINITE, NetworkExpert, to_host
from expert_zoo.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from expert_zoo.networks.pretrained import CONFIG, SAFETENSORS, check_size, load_pretrained, randomise, save_pretrained
from expert_zoo.networks.tokenizer_file import TOKENIZER, load_tokenizer, write_wordpiece
from expert_zoo.spec import LabelSpec
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile

if TYPE_CHECKING:
    from torch import Tensor, nn

PARAMETERS = {"tiny": 172_250_626, "base": 232_315_264}
REVISIONS = {
    "tiny": "a2bb814dd30d776dcf7e30523b00659f4f141c71",
    "base": "12bdfa3120f3e7ec7b434d90674b3396eccf88eb",
}
SWIN: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7, "image_size": 224},
    "base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12, "image_size": 384},
}  # fmt: skip
SIDE, LONGEST = 800, 1333
#: Multiples that the sides of an input have, so that photos of almost one shape are computed together.
MULTIPLE = 32
STRIDES = (8, 16, 32, 64)

MOST_BOXES = 300
MOST_OVERLAP = 0.8


class DetectionOpen(NetworkExpert):
    """Boxes around the things of a class list, best first, with scores; the class id is the place in the list.

    classes: 1 to 1000 different English names, also of several words ("traffic light"), in place of COCO's 80; they are part
        of the version.
    size: "tiny" (Swin-T) or "base" (Swin-B).
    min_score: boxes with a lower one are left out, 0 to 1.
    side: short side in pixels, 16 to 4096; the long one is at most 5/3 of it; None: 800 and 1333.
    weights_folder, precision, compile: as in NetworkExpert.

    Raises ValueError on other values, and from `load` where the network cannot tell two classes apart, has no word for one,
    or where the side is too small for it.
    """

    needs: ClassVar[Needs] = Needs(batch_size=4, device_memory_gib=8.0, gpu=True)

    def __init__(
        self,
        *,
        classes: Sequence[str] | None = None,
        size: str = "tiny",
        min_score: float = 0.3,
        side: int | None = None,
        weights_folder: str | None = None,
        precision: str = "auto",
        compile: bool = False,
    ) -> None:
        if size not in PARAMETERS:
            raise ValueError(f"detection_open: size is {size!r}; expected {' or '.join(PARAMETERS)}")
        self.size = size
        self.classes = checked_classes("detection_open", class_names("coco") if classes is None else classes)
        self.min_score = checked_score("detection_open", min_score)
        super().__init__(
            checkpoint=checkpoint(size),
            preprocess=preprocess(SIDE if side is None else side),
            weights_folder=weights_folder,
            precision=precision,
            compile=compile,
        )
        self.card = ExpertCard(
            name="detection_open",
            summary=f"Boxes around the {len(self.classes)} classes of the job file's list, by Grounding DINO {size}.",
            network=f"Grounding DINO {size}: Swin and BERT-base, 6 fused encoder layers, 6 decoder layers, 900 queries",
            weights=self.weights,
            preprocessing=self.preprocess.card()
            | {
                "precision": self.precision_rule,
                "prompt": "classes in lower case, each with a full stop, as few as hold all",
            },
            processing={
                "score": "mean over the class's tokens of the sigmoid",
                "class": "the one of its prompt that a query fits best",
                "min_score": self.min_score,
                "most_boxes": MOST_BOXES,
                "suppression": f"of boxes that overlap a better one of another prompt by more than {MOST_OVERLAP}",
            },
            spec=LabelSpec(
                kind="instances",
                quantity="objects",
                units="pixels of the upright image",
                convention="x right, y down; around what is visible of a thing",
                class_names=self.classes,
            ),
            parameters=PARAMETERS[size],
            licence=self.checkpoint.licence,
            commercial_use=self.checkpoint.commercial_use,
            paper="Grounding DINO, arXiv:2303.05499",
        )

    def _build(self, folder: Path) -> nn.Module:
        from transformers import GroundingDinoForObjectDetection

        from expert_zoo.detection.prompted import PromptedDetector

        network = load_pretrained(GroundingDinoForObjectDetection, folder)
        check_size(network, PARAMETERS, self.size, where=folder)
        sizes = [self.preprocess.size(*shape) for shape in ((1, 1), (1, 9), (9, 1))]
        cells = min(sum(-(-h // stride) * -(-w // stride) for stride in STRIDES) for h, w in sizes)
        if cells < network.config.num_queries:
            raise ValueError(
                f"detection_open: side {self.preprocess.side} has {cells} cells, fewer than the {network.config.num_queries} "
                "queries; expected a larger side"
            )
        longest = network.config.max_text_len
        return PromptedDetector(
            network, class_prompts("detection_open", self.classes, load_tokenizer(folder), longest=longest)
        )

    def _say(self, images_B3hw: Tensor, photos: Sequence[Photo]) -> list[Label]:
        (found_BN7,) = to_host(self._network(images_B3hw))
        return [self._label(found_N7, photo) for found_N7, photo in zip(found_BN7, photos, strict=True)]

    def _label(self, found_N7: NDArray[np.float32], photo: Photo) -> Label:
        """``found_N7``: centre x, centre y, width, height, score, class id, prompt."""
        if not np.isfinite(found_N7).all():
            return Label.failed(NOT_FINITE)
        enough_N7 = found_N7[found_N7[:, 4] >= self.min_score]
        best_N7 = enough_N7[np.argsort(-enough_N7[:, 4], kind="stable")][:MOST_BOXES]
        kept_N7 = best_N7[not_said_by_another(best_N7[:, :4], best_N7[:, 6])]
        return detections(kept_N7[:, :4], kept_N7[:, 4], kept_N7[:, 5].astype(int), photo)

    def seed(self, folder: Path, *, small: bool) -> None:
        from transformers import GroundingDinoForObjectDetection

        network = GroundingDinoForObjectDetection(configuration(self.size, small=small, tokens=write_wordpiece(folder)))
        randomise(network)
        for parameter in network.model.decoder.layer_norm.parameters():
            parameter.data *= 0.2  # else a product of so many numbers is so large that all scores are 0 or 1
        save_pretrained(network, folder)


def configuration(size: str, *, small: bool, tokens: int) -> Any:
    """A GroundingDinoConfig: that of the published checkpoint, or a small one of the same architecture for ``tokens`` tokens."""
    from transformers import BertConfig, GroundingDinoConfig, SwinConfig

    swin, text, widths = SWIN[size], BertConfig(), {}
    if small:
        swin = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 7}
        text = BertConfig(
            vocab_size=tokens, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
        )
        widths = {
            "num_queries": 30, "d_model": 64, "encoder_layers": 2, "encoder_ffn_dim": 128, "encoder_attention_heads": 4,
            "decoder_layers": 2, "decoder_ffn_dim": 128, "decoder_attention_heads": 4,
        }  # fmt: skip
    return GroundingDinoConfig(backbone_config=SwinConfig(out_indices=[2, 3, 4], **swin), text_config=text, **widths)


def not_said_by_another(boxes_N4: NDArray[np.float32], prompts_N: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which boxes stay, best first: those that no better box of another prompt that stays overlaps by more than MOST_OVERLAP."""
    rivals_NN = (overlaps(boxes_N4) > MOST_OVERLAP) & (prompts_N[:, None] != prompts_N[None])
    stays_N = np.ones(len(boxes_N4), bool)
    for n in range(len(boxes_N4)):
        stays_N[n] = not (rivals_NN[n, :n] & stays_N[:n]).any()
    return stays_N


def preprocess(side: int) -> Preprocess:
    return Preprocess(
        fit="short_side",
        side=side,
        longest=round(side * LONGEST / SIDE) if type(side) is int else None,
        multiple=MULTIPLE,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def checkpoint(size: str) -> Checkpoint:
    return Checkpoint(
        name=f"grounding-dino-{size}",
        repo=f"IDEA-Research/grounding-dino-{size}",
        revision=REVISIONS[size],
        files=(CheckpointFile(path=CONFIG), CheckpointFile(path=SAFETENSORS), CheckpointFile(path=TOKENIZER)),
        licence="Apache-2.0",
        commercial_use=True,
        page=f"https://huggingface.co/IDEA-Research/grounding-dino-{size}",
    )
