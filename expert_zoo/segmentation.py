"""The experts `seg_coco` and `seg_ade`: a class for every pixel by Mask2Former with a Swin-L encoder, 133 or 150 classes.

    photo -> short side 640 -> Mask2Former -> 200 masks at a quarter of the input's size, each with scores of its class
          -> masks at the input's size -> sum over masks of class probability x mask probability -> class of the largest sum

All of it happens on the device; one byte a pixel comes back.

Source: Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation, arXiv:2112.01527; from masks to classes as in
section 3.4 of arXiv:2107.06278. transformers' own post-processing squashes the masks to 384x384 on the way; here as in the authors'
code they go to the input's size, which is the same thing where that is 384x384.

Why a short side of 640: the authors test at 640 (ADE20K) and at 800 (COCO), having trained at 0.1 to 2 times 1024; the processors
published with the checkpoints squash to 384x384. 640 costs 0.64 of what 800 does, in time and in memory.

Shapes: B photos of one size, h x w the network's input, Q masks, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from expert_zoo.card import ExpertCard
from expert_zoo.classes import check_class_names, class_names
from expert_zoo.expert import Needs, Photo
from expert_zoo.labels import ClassMap, Label
from expert_zoo.networks.network_expert import NOT_FINITE, NetworkExpert, to_host
from expert_zoo.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, of_recipe
from expert_zoo.networks.pretrained import CONFIG, PICKLED, SAFETENSORS, load_pretrained, randomise, save_pretrained
from expert_zoo.spec import LabelSpec
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile

if TYPE_CHECKING:
    from torch import Tensor, nn

#: The network halves its input five times.
STRIDE = 32
#: The norm behind Swin's last stage: newer versions of transformers make it, the published checkpoints do not have it, and what
#: comes out of it is thrown away.
UNREAD = tuple(f"model.pixel_level_module.encoder.swin.layernorm.{kind}" for kind in ("weight", "bias"))
#: Sides in multiples of the stride change the sides' ratio by a few percent at most, and let photos of many sizes share a batch.
PREPROCESSING = {
    "best": Preprocess(fit="short_side", side=640, longest=1344, multiple=STRIDE, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    # The released pipeline gave BGR to a network that was trained on RGB, and normalised it by RGB's means.
    "prismer": Preprocess(fit="long_side", side=480, channels="BGR", mean=IMAGENET_MEAN, std=IMAGENET_STD),
}


def _checkpoint(data: str, revision: str) -> Checkpoint:
    """The authors' weights, non-commercial by their MODEL_ZOO.md (their code became MIT later), as converted on the Hub."""
    repo = f"facebook/mask2former-swin-large-{data}"
    return Checkpoint(
        name=f"mask2former-swin-large-{data}",
        repo=repo,
        revision=revision,
        files=(CheckpointFile(path=CONFIG), CheckpointFile(path=SAFETENSORS, or_else=PICKLED)),
        licence="CC-BY-NC-4.0",
        commercial_use=False,
        page=f"https://huggingface.co/{repo}",
    )


class _Segmentation(NetworkExpert):
    """What both experts share: everything but the checkpoint and the classes."""

    needs: ClassVar[Needs] = Needs(batch_size=4, device_memory_gib=10.0, gpu=True)
    name: ClassVar[str]
    data: ClassVar[str]
    classes: ClassVar[str]
    parameters: ClassVar[int]
    weights_of: ClassVar[Checkpoint]

    def __init__(
        self,
        *,
        recipe: Literal["best", "prismer"] = "best",
        side: int | None = None,
        weights_folder: str | None = None,
        precision: Literal["auto", "float32"] = "auto",
        compile: bool = False,
    ) -> None:
        super().__init__(
            checkpoint=self.weights_of,
            preprocess=of_recipe(PREPROCESSING, recipe, side),
            weights_folder=weights_folder,
            precision=precision,
            compile=compile,
        )
        names = class_names(self.classes)
        self.card = ExpertCard(
            name=self.name,
            summary=f"A class for every pixel, {len(names)} of {self.data}, by Mask2Former Swin-L.",
            network=f"Mask2Former: Swin-L of window 12, deformable pixel decoder, 200 queries, {len(names)} classes",
            weights=self.weights,
            preprocessing=self.preprocess.card()
            | {
                "padding": f"zeros right and below after the normalisation, to multiples of {STRIDE}",
                "precision": self.precision_rule,
            },
            processing={
                "masks": "logits, bilinear to the padded input's size, padding cut off, sigmoid",
                "classes": "softmax, then without the class of no object",
                "output": "class of the largest sum over masks of class probability x mask probability, float32",
            },
            spec=LabelSpec(
                kind="classes",
                quantity="class",
                dtype="uint8",
                channels=1,
                ignore=255,
                class_names=names,
                resample="nearest",
            ),
            parameters=self.parameters,
            licence=self.checkpoint.licence,
            commercial_use=self.checkpoint.commercial_use,
            paper="Masked-attention Mask Transformer for Universal Image Segmentation, arXiv:2112.01527",
        )

    def _build(self, folder: Path) -> nn.Module:
        from transformers import Mask2FormerForUniversalSegmentation

        network: Any = load_pretrained(Mask2FormerForUniversalSegmentation, folder, unread=UNREAD)
        check_class_names(self.classes, network.config.id2label, where=str(folder / CONFIG))
        return network

    def _say(self, images_B3hw: Tensor, photos: Sequence[Photo]) -> list[Label]:
        import torch
        from torch.nn.functional import pad

        height, width = images_B3hw.shape[2:]
        below, right = -height % STRIDE, -width % STRIDE
        padded_B3hw = pad(images_B3hw, (0, right, 0, below))
        padded = (height + below, width + right)
        said = self._network(padded_B3hw)
        with torch.autocast(padded_B3hw.device.type, enabled=False):
            ids_Bhw = torch.stack(
                [
                    largest_class(classes_QC.float(), masks_Qhw.float(), padded, (height, width))
                    for classes_QC, masks_Qhw in zip(said.class_queries_logits, said.masks_queries_logits, strict=True)
                ]
            )
            classes_B, masks_B = (
                logits.isfinite().flatten(1).all(1) for logits in (said.class_queries_logits, said.masks_queries_logits)
            )
        copies_Bhw, finite_B = to_host(ids_Bhw, classes_B & masks_B)
        return [
            Label.ok(ClassMap(ids_hw)) if finite else Label.failed(NOT_FINITE)
            for ids_hw, finite in zip(copies_Bhw, finite_B, strict=True)
        ]

    def untrained(self, *, small: bool) -> Any:
        """The network of the published checkpoint, or a small one of its kind, as transformers initialises it."""
        from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

        names = dict(enumerate(class_names(self.classes)))
        return Mask2FormerForUniversalSegmentation(
            Mask2FormerConfig(id2label=names, **(_small() if small else _full()))
        )

    def seed(self, folder: Path, *, small: bool) -> None:
        network = self.untrained(small=small)
        randomise(network)
        _tell_queries_apart(network)
        save_pretrained(network, folder)


class SegCoco(_Segmentation):
    """Classes of COCO panoptic for every pixel: 80 of things, 53 of stuff.

    recipe: "best": short side 640, the sides' ratio kept, RGB. "prismer": long side 480 and BGR, as in the released pipeline.
    side: pixels in place of the recipe's, 16 to 4096 ("best": of the short side, unless the long one would exceed 1344).
    weights_folder, precision, compile: as for every NetworkExpert.

    Raises ValueError on other values.
    """

    name = "seg_coco"
    data = "COCO panoptic"
    classes = "coco_panoptic"
    parameters = 215_535_610
    weights_of = _checkpoint("coco-panoptic", "85b535928a783691eaf27467a573b26d543336ea")


class SegAde(_Segmentation):
    """Classes of ADE20K for every pixel, 150. Options as for SegCoco.

    Prismer's repository carries the weights of the panoptic variant for its unused expert of this name; these are the semantic
    variant's, which name the same classes in the same order.
    """

    name = "seg_ade"
    data = "ADE20K"
    classes = "ade20k"
    parameters = 215_539_979
    weights_of = _checkpoint("ade-semantic", "aa25c92404a40599614215e76514c79b427c7527")


def largest_class(classes_QC: Tensor, masks_Qhw: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """uint8 h x w: for every pixel the class with the largest sum over masks of class probability x mask probability.

    classes_QC: logits of Q masks' classes, the last one for "no object". masks_Qhw: logits of the masks at any resolution.
    padded: (h, w) that the masks cover. size: (h, w) of the part at the top left that is asked for.
    """
    import torch
    from torch.nn.functional import interpolate

    probabilities_QC = classes_QC.softmax(dim=-1)[:, :-1]
    large_Qhw = interpolate(masks_Qhw[None], padded, mode="bilinear", align_corners=False)[0]
    sums_Chw = torch.einsum("qc,qhw->chw", probabilities_QC, large_Qhw[:, : size[0], : size[1]].sigmoid())
    return sums_Chw.argmax(dim=0).to(torch.uint8)


def _tell_queries_apart(network: Any) -> None:
    """Strengthen what makes a seeded network's queries differ, else all want one class and the map shows nothing else."""
    transformer = network.model.transformer_module
    for layer, gain in (
        (transformer.queries_features, 30),
        (transformer.queries_embedder, 30),
        (transformer.decoder.mask_predictor.mask_embedder.layers[2], 4),
        (network.class_predictor, 8),
    ):
        for parameter in layer.parameters():
            parameter.data.mul_(gain)


def _full() -> dict[str, Any]:
    """The configuration of the published checkpoints, where it differs from Mask2FormerConfig's defaults."""
    encoder = {"image_size": 384, "embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48]}
    return {"num_queries": 200, "backbone_config": _encoder(**encoder, window_size=12, drop_path_rate=0.3)}


def _small() -> dict[str, Any]:
    return {
        "num_queries": 20,
        "feature_size": 32,
        "mask_feature_size": 32,
        "hidden_dim": 32,
        "num_attention_heads": 2,
        "encoder_layers": 1,
        "encoder_feedforward_dim": 64,
        "decoder_layers": 4,
        "dim_feedforward": 64,
        "backbone_config": _encoder(
            image_size=96, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=6
        ),
    }


def _encoder(**sizes: Any) -> dict[str, Any]:
    return {"model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage4"], **sizes}
