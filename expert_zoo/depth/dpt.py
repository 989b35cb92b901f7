"""The expert `depth`: relative inverse depth by DPT-Hybrid (MiDaS 3.0), the network that Prismer's depth labels came from.

    photo -> short side 384 -> three stages of BiT-R50 -> ViT-B/16 -> DPT decoder -> inverse depth at the input's resolution

Source: Ranftl et al., Vision Transformers for Dense Prediction, arXiv:2103.13413. It was trained to be right up to a factor and an
offset for each photo (arXiv:1907.01341, section 5), so values of two maps cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from expert_zoo.card import ExpertCard
from expert_zoo.expert import Needs, Photo
from expert_zoo.labels import DenseMap, Label
from expert_zoo.networks.network_expert import NetworkExpert, to_host
from expert_zoo.networks.preprocess import Preprocess, of_recipe
from expert_zoo.networks.pretrained import CONFIG, PICKLED, SAFETENSORS, load_pretrained, randomise, save_pretrained
from expert_zoo.spec import LabelSpec
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile

if TYPE_CHECKING:
    from torch import Tensor, nn

CHECKPOINT = Checkpoint(
    name="dpt-hybrid-midas",
    repo="Intel/dpt-hybrid-midas",
    revision="11eaf7a1cf4bd70740697dbc216f98980c0aeb03",
    files=(CheckpointFile(path=CONFIG), CheckpointFile(path=SAFETENSORS, or_else=PICKLED)),
    licence="Apache-2.0",
    commercial_use=True,
    page="https://huggingface.co/Intel/dpt-hybrid-midas",
)

#: Patches are 16 pixels wide, and the decoder begins at half their number. 384: the side that the network was trained at.
_HALF = (0.5, 0.5, 0.5)
PREPROCESSING = {
    "best": Preprocess(fit="short_side", side=384, multiple=32, mean=_HALF, std=_HALF, filter="bicubic"),
    "prismer": Preprocess(fit="squash", side=480, multiple=32, mean=_HALF, std=_HALF),
}

SPEC = LabelSpec(
    kind="map",
    quantity="inverse_depth",
    dtype="uint16",
    channels=1,
    units="relative inverse depth, larger = nearer",
    convention="right up to a positive factor and an offset of each map's own",
    resample="bilinear",
)


class Depth(NetworkExpert):
    """Relative inverse depth by DPT-Hybrid.

    recipe: "best": short side 384, the sides' ratio kept, 16 bit. "prismer": squashed to 480x480 and stored in 8 bit between
        the map's least and greatest value, as by the released pipeline (a constant map stays one, and is never NaN).
    side: pixels in place of the recipe's, 16 to 4096, rounded to a multiple of 32.
    weights_folder, precision, compile: as for every NetworkExpert.

    Raises ValueError on other values.
    """

    needs: ClassVar[Needs] = Needs(batch_size=16, device_memory_gib=4.0, gpu=True)

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
            checkpoint=CHECKPOINT,
            preprocess=of_recipe(PREPROCESSING, recipe, side),
            weights_folder=weights_folder,
            precision=precision,
            compile=compile,
        )
        self.card = ExpertCard(
            name="depth",
            summary="Relative inverse depth by DPT-Hybrid (MiDaS 3.0), Prismer's depth expert.",
            network="DPT-Hybrid: BiT-R50 of 3 stages, ViT-B/16 read at layers 9 and 12, DPT decoder of 256 channels",
            weights=self.weights,
            preprocessing=self.preprocess.card() | {"precision": self.precision_rule},
            processing={"output": "the head's, at the size of the input", "head": "float32"},
            spec=SPEC.model_copy(update={"dtype": "uint8"}) if recipe == "prismer" else SPEC,
            parameters=122_377_985,
            licence=CHECKPOINT.licence,
            commercial_use=CHECKPOINT.commercial_use,
            paper="Vision Transformers for Dense Prediction, arXiv:2103.13413",
        )

    def _build(self, folder: Path) -> nn.Module:
        from transformers import DPTForDepthEstimation

        from expert_zoo.depth.networks import DptHybrid

        return DptHybrid(load_pretrained(DPTForDepthEstimation, folder))

    def _say(self, images_B3hw: Tensor, photos: Sequence[Photo]) -> list[Label]:
        return map_labels(self._network(images_B3hw))

    def untrained(self, *, small: bool) -> Any:
        """The network of the published checkpoint, or a small one of its kind, as transformers initialises it."""
        from transformers import DPTConfig, DPTForDepthEstimation

        return DPTForDepthEstimation(DPTConfig(**(_small() if small else _full())))

    def seed(self, folder: Path, *, small: bool) -> None:
        network = self.untrained(small=small)
        randomise(network)
        make_positive(network.head.head[-2])
        save_pretrained(network, folder)


def map_labels(maps_Bhw: Tensor) -> list[Label]:
    """One label for each of the maps on the device."""
    (copies_Bhw,) = to_host(maps_Bhw)
    return [Label.ok(DenseMap(map_hw)) for map_hw in copies_Bhw]


def make_positive(last: nn.Module) -> None:
    """Make the parameters of a seeded network's last layer positive, else its ReLU might say zero everywhere."""
    for parameter in last.parameters():
        parameter.data.abs_()


def _full() -> dict[str, Any]:
    """The configuration of the published checkpoint, where it differs from DPTConfig's defaults."""
    return {
        "is_hybrid": True,
        "neck_hidden_sizes": [256, 512, 768, 768],
        "reassemble_factors": [1, 1, 1, 0.5],
        "backbone_config": _backbone(depths=[3, 4, 9], hidden_sizes=[256, 512, 1024, 2048], embedding_size=64),
    }


def _small() -> dict[str, Any]:
    return {
        "is_hybrid": True,
        "image_size": 96,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "backbone_out_indices": [0, 1, 2, 3],
        "backbone_featmap_shape": [1, 64, 6, 6],
        "neck_hidden_sizes": [16, 32, 32, 32],
        "reassemble_factors": [1, 1, 1, 0.5],
        "fusion_hidden_size": 16,
        "backbone_config": _backbone(depths=[1, 1, 1], hidden_sizes=[16, 32, 64], embedding_size=16, num_groups=4),
    }


def _backbone(**sizes: Any) -> dict[str, Any]:
    return {
        "model_type": "bit",
        "layer_type": "bottleneck",
        "global_padding": "same",
        "embedding_dynamic_padding": True,
        "out_features": ["stage1", "stage2", "stage3"],
        **sizes,
    }
