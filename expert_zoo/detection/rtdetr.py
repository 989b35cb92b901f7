"""The expert `detection_rtdetr`: boxes around the 80 things of COCO by RT-DETR v2; needs no compiler.

    photo -> squashed to 640x640 -> ResNet-D -> hybrid encoder -> 300 queries through the decoder -> best 300 (query, class)

Squashed, because the network was trained on squashed squares of 480 to 800 pixels and nothing else, and its published precision
is that on 640x640 (arXiv:2304.08069, 2407.17140): that is the shape in which it knows things. With the sides' ratio kept it would
see things as it never did, or padding, which it never saw either. Boxes are in shares of both sides, so nothing is lost.

One-to-one matching in training makes the queries compete, so there is no suppression of overlapping boxes (arXiv:2304.08069).
One query may say two classes; both are kept where both reach the score, as the authors do.

Shapes: B photos, Q queries, C classes, K (query, class) pairs kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from expert_zoo.card import ExpertCard
from expert_zoo.classes import check_class_names, class_names
from expert_zoo.detection.boxes import checked_score, detections
from expert_zoo.expert import Needs, Photo
from expert_zoo.labels import Label
from expert_zoo.networks.network_expert import NOT_FINITE, NetworkExpert, to_host
from expert_zoo.networks.preprocess import Preprocess
from expert_zoo.networks.pretrained import CONFIG, SAFETENSORS, check_size, load_pretrained, randomise, save_pretrained
from expert_zoo.spec import LabelSpec
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile

if TYPE_CHECKING:
    from torch import Tensor, nn

PARAMETERS = {"r50": 42_891_372, "r101": 76_556_268}
#: Of the repositories; no commit of the other one is publicly documented, so its first fetch pins it.
REVISIONS = {"r50": "282494075698cab9faa1096ae26856890030c817"}
#: Where a config.json departs from the defaults of RTDetrV2Config, which are those of r50.
WIDTHS: dict[str, dict[str, Any]] = {
    "r50": {},
    "r101": {"encoder_hidden_dim": 384, "encoder_ffn_dim": 2048, "decoder_in_channels": [384, 384, 384]},
}
DEPTHS = {"r50": [3, 4, 6, 3], "r101": [3, 4, 23, 3]}
SIDE, STRIDE = 640, 32

#: The published config.json calls these classes of COCO as Pascal VOC does.
OLD_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


class DetectionRtDetr(NetworkExpert):
    """Boxes around the 80 things of COCO, best first, with scores.

    size: "r50" (published 53.4 AP on COCO val) or "r101" (54.3 AP).
    min_score: boxes with a lower one are left out, 0 to 1.
    side: of the square that the network sees, pixels, 16 to 4096, rounded to a multiple of 32; None: 640.
    weights_folder, precision, compile: as in NetworkExpert.

    Raises ValueError on other values, and from `load` where the checkpoint names other classes or the side is too small for it.
    """

    needs: ClassVar[Needs] = Needs(batch_size=16, device_memory_gib=3.0, gpu=True)

    def __init__(
        self,
        *,
        size: str = "r50",
        min_score: float = 0.5,
        side: int | None = None,
        weights_folder: str | None = None,
        precision: str = "auto",
        compile: bool = False,
    ) -> None:
        if size not in PARAMETERS:
            raise ValueError(f"detection_rtdetr: size is {size!r}; expected {' or '.join(PARAMETERS)}")
        self.size = size
        self.min_score = checked_score("detection_rtdetr", min_score)
        super().__init__(
            checkpoint=checkpoint(size),
            preprocess=Preprocess(fit="squash", side=SIDE if side is None else side, multiple=STRIDE),
            weights_folder=weights_folder,
            precision=precision,
            compile=compile,
        )
        self.card = ExpertCard(
            name="detection_rtdetr",
            summary=f"Boxes around the 80 things of COCO by RT-DETR v2 {size}.",
            network=f"RT-DETR v2 {size}vd: ResNet-D, hybrid encoder, 6 decoder layers, 300 queries, 80 classes",
            weights=self.weights,
            preprocessing=self.preprocess.card() | {"precision": self.precision_rule},
            processing={
                "score": "sigmoid",
                "most_boxes": "as many as queries: the best pairs of query and class",
                "min_score": self.min_score,
                "suppression": "none",
            },
            spec=LabelSpec(
                kind="instances",
                quantity="objects",
                units="pixels of the upright image",
                convention="x right, y down; around what is visible of a thing",
                class_names=class_names("coco"),
            ),
            parameters=PARAMETERS[size],
            licence=self.checkpoint.licence,
            commercial_use=self.checkpoint.commercial_use,
            paper="RT-DETRv2, arXiv:2407.17140",
        )

    def _build(self, folder: Path) -> nn.Module:
        from transformers import RTDetrV2ForObjectDetection

        network: Any = load_pretrained(RTDetrV2ForObjectDetection, folder)
        check_size(network, PARAMETERS, self.size, where=folder)
        names = {index: OLD_NAMES.get(name, name) for index, name in network.config.id2label.items()}
        check_class_names("coco", names, where=f"{folder / CONFIG}")
        side, _ = self.preprocess.size(1, 1)
        cells = sum((side // stride) ** 2 for stride in network.config.feat_strides)
        if cells < network.config.num_queries:
            raise ValueError(
                f"detection_rtdetr: side {side} has {cells} cells, fewer than the {network.config.num_queries} queries; "
                "expected a larger side"
            )
        return network

    def _say(self, images_B3hw: Tensor, photos: Sequence[Photo]) -> list[Label]:
        import torch

        out = self._network(pixel_values=images_B3hw)
        queries, classes = out.logits.shape[1:]
        scores_BK, pairs_BK = out.logits.float().sigmoid().flatten(1).topk(queries)
        of_query_BK4 = (pairs_BK // classes)[..., None].expand(-1, -1, 4)
        boxes_BK4 = out.pred_boxes.float().gather(1, of_query_BK4)
        found_BK6 = torch.cat([boxes_BK4, scores_BK[..., None], (pairs_BK % classes)[..., None]], dim=2)
        (found,) = to_host(found_BK6)
        labels = []
        for photo, found_K6 in zip(photos, found, strict=True):
            if not np.isfinite(found_K6).all():
                labels.append(Label.failed(NOT_FINITE))
                continue
            kept_K6 = found_K6[found_K6[:, 4] >= self.min_score]
            labels.append(detections(kept_K6[:, :4], kept_K6[:, 4], kept_K6[:, 5].astype(int), photo))
        return labels

    def seed(self, folder: Path, *, small: bool) -> None:
        from torch import nn
        from transformers import RTDetrV2ForObjectDetection

        network = RTDetrV2ForObjectDetection(configuration(self.size, small=small))
        randomise(network)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.fill_(1.0)  # transformers begins with gains of 0.01, at which all photos look alike
        save_pretrained(network, folder)


def configuration(size: str, *, small: bool) -> Any:
    """An RTDetrV2Config: that of the published checkpoint, or a small one of the same architecture."""
    from transformers import RTDetrResNetConfig, RTDetrV2Config

    backbone: dict[str, Any] = {"depths": DEPTHS[size]}
    widths = WIDTHS[size]
    if small:
        backbone = {"embedding_size": 16, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1]}
        widths = {
            "num_queries": 30, "d_model": 64, "encoder_hidden_dim": 64, "encoder_in_channels": [64, 128, 256],
            "encoder_ffn_dim": 128, "encoder_attention_heads": 4, "decoder_in_channels": [64, 64, 64],
            "decoder_ffn_dim": 128, "decoder_layers": 2, "decoder_attention_heads": 4,
        }  # fmt: skip
    return RTDetrV2Config(
        backbone_config=RTDetrResNetConfig(out_features=["stage2", "stage3", "stage4"], **backbone),
        id2label=dict(enumerate(class_names("coco"))),
        **widths,
    )


def checkpoint(size: str) -> Checkpoint:
    return Checkpoint(
        name=f"rtdetr-v2-{size}vd",
        repo=f"PekingU/rtdetr_v2_{size}vd",
        revision=REVISIONS.get(size, ""),
        files=(CheckpointFile(path=CONFIG), CheckpointFile(path=SAFETENSORS)),
        licence="Apache-2.0",
        commercial_use=True,
        page=f"https://huggingface.co/PekingU/rtdetr_v2_{size}vd",
    )
