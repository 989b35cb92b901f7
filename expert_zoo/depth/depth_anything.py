"""The expert `depth_anything`: relative inverse depth by Depth Anything V2, finer and sturdier than `depth`.

    photo -> short side 518 -> DINOv2 ViT-S/B/L with patches of 14 -> DPT decoder -> inverse depth at the input's resolution

Source: Yang et al., Depth Anything V2, arXiv:2406.09414. Values of two maps cannot be compared: each has a factor and an offset of
its own. The three sizes have different licences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from expert_zoo.card import ExpertCard
from expert_zoo.depth.dpt import SPEC, make_positive, map_labels
from expert_zoo.expert import Needs, Photo
from expert_zoo.labels import Label
from expert_zoo.networks.network_expert import NetworkExpert
from expert_zoo.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from expert_zoo.networks.pretrained import CONFIG, SAFETENSORS, check_size, load_pretrained, randomise, save_pretrained
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile

if TYPE_CHECKING:
    from torch import Tensor, nn

#: 518: the side of DINOv2's position embeddings, 37 patches, and what the authors' code and processor take.
_PREPROCESS = Preprocess(
    fit="short_side", side=518, multiple=14, mean=IMAGENET_MEAN, std=IMAGENET_STD, filter="bicubic"
)


@dataclass(frozen=True, kw_only=True)
class _Size:
    """One of the published networks: its encoder, the layers that the decoder reads (from 1), the decoder's channels."""

    encoder: str
    width: int
    layers: int
    heads: int
    read: tuple[int, int, int, int]
    neck: tuple[int, int, int, int]
    fusion: int
    parameters: int
    checkpoint: Checkpoint


def _checkpoint(size: str, revision: str, *, licence: str, commercial_use: bool) -> Checkpoint:
    repo = f"depth-anything/Depth-Anything-V2-{size}-hf"
    return Checkpoint(
        name=f"depth-anything-v2-{size.lower()}",
        repo=repo,
        revision=revision,
        files=(CheckpointFile(path=CONFIG), CheckpointFile(path=SAFETENSORS)),
        licence=licence,
        commercial_use=commercial_use,
        page=f"https://huggingface.co/{repo}",
    )


SIZES: dict[str, _Size] = {
    "small": _Size(
        encoder="ViT-S/14",
        width=384,
        layers=12,
        heads=6,
        read=(3, 6, 9, 12),
        neck=(48, 96, 192, 384),
        fusion=64,
        parameters=24_785_089,
        checkpoint=_checkpoint(
            "Small", "5426e4f0f36572d16453bbda7a8389317b1bef99", licence="Apache-2.0", commercial_use=True
        ),
    ),
    "base": _Size(
        encoder="ViT-B/14",
        width=768,
        layers=12,
        heads=12,
        read=(3, 6, 9, 12),
        neck=(96, 192, 384, 768),
        fusion=128,
        parameters=97_470_785,
        checkpoint=_checkpoint(
            "Base", "b1958afc87fb45a9e3746cb387596094de553ed8", licence="CC-BY-NC-4.0", commercial_use=False
        ),
    ),
    "large": _Size(
        encoder="ViT-L/14",
        width=1024,
        layers=24,
        heads=16,
        read=(5, 12, 18, 24),
        neck=(256, 512, 1024, 1024),
        fusion=256,
        parameters=335_315_649,
        checkpoint=_checkpoint(
            "Large", "7581137eff8d4e94f6e796d3baea0e9fa79b22d2", licence="CC-BY-NC-4.0", commercial_use=False
        ),
    ),
}


class DepthAnything(NetworkExpert):
    """Relative inverse depth by Depth Anything V2.

    size: "small" (25 million parameters, Apache-2.0), "base" (97, CC-BY-NC-4.0) or "large" (335, CC-BY-NC-4.0).
    side: pixels of the short side in place of 518, 16 to 4096, rounded to a multiple of 14; larger sides show finer detail.
    weights_folder, precision, compile: as for every NetworkExpert.

    Raises ValueError on other values.
    """

    needs: ClassVar[Needs] = Needs(batch_size=8, device_memory_gib=8.0, gpu=True)

    def __init__(
        self,
        *,
        size: Literal["small", "base", "large"] = "small",
        side: int | None = None,
        weights_folder: str | None = None,
        precision: Literal["auto", "float32"] = "auto",
        compile: bool = False,
    ) -> None:
        if size not in SIZES:
            raise ValueError(f"depth_anything: size is {size!r}; expected {', '.join(SIZES)}")
        self.size_name = size
        self.size = SIZES[size]
        super().__init__(
            checkpoint=self.size.checkpoint,
            preprocess=_PREPROCESS if side is None else replace(_PREPROCESS, side=side),
            weights_folder=weights_folder,
            precision=precision,
            compile=compile,
        )
        self.card = ExpertCard(
            name="depth_anything",
            summary=f"Relative inverse depth by Depth Anything V2 {size}.",
            network=f"Depth Anything V2 {size}: DINOv2 {self.size.encoder} read at layers "
            f"{' '.join(map(str, self.size.read))}, DPT decoder of {self.size.fusion} channels",
            weights=self.weights,
            preprocessing=self.preprocess.card() | {"precision": self.precision_rule},
            processing={"output": "the head's, at the size of the input", "head": "float32"},
            spec=SPEC,
            parameters=self.size.parameters,
            licence=self.checkpoint.licence,
            commercial_use=self.checkpoint.commercial_use,
            paper="Depth Anything V2, arXiv:2406.09414",
        )

    def _build(self, folder: Path) -> nn.Module:
        from transformers import DepthAnythingForDepthEstimation

        from expert_zoo.depth.networks import InFloat32

        network: Any = load_pretrained(DepthAnythingForDepthEstimation, folder)
        check_size(network, {name: size.parameters for name, size in SIZES.items()}, self.size_name, where=folder)
        network.head = InFloat32(network.head)
        return network

    def _say(self, images_B3hw: Tensor, photos: Sequence[Photo]) -> list[Label]:
        return map_labels(self._network(images_B3hw).predicted_depth)

    def untrained(self, *, small: bool) -> Any:
        """The network of the published checkpoint, or a small one of its kind, as transformers initialises it."""
        from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

        return DepthAnythingForDepthEstimation(DepthAnythingConfig(**(_small() if small else _full(self.size))))

    def seed(self, folder: Path, *, small: bool) -> None:
        network = self.untrained(small=small)
        randomise(network)
        make_positive(network.head.conv3)
        save_pretrained(network, folder)


def _full(size: _Size) -> dict[str, Any]:
    """The configuration of the published checkpoint, where it differs from DepthAnythingConfig's defaults."""
    return {
        "reassemble_hidden_size": size.width,
        "neck_hidden_sizes": list(size.neck),
        "fusion_hidden_size": size.fusion,
        "backbone_config": {
            "model_type": "dinov2",
            "image_size": 518,
            "patch_size": 14,
            "hidden_size": size.width,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "out_indices": list(size.read),
            "reshape_hidden_states": False,
        },
    }


def _small() -> dict[str, Any]:
    return {
        "reassemble_hidden_size": 32,
        "neck_hidden_sizes": [8, 16, 32, 32],
        "fusion_hidden_size": 16,
        "head_hidden_size": 8,
        "backbone_config": {
            "model_type": "dinov2",
            "image_size": 98,
            "patch_size": 14,
            "hidden_size": 32,
            "mlp_ratio": 2,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "out_indices": [1, 2, 3, 4],
            "reshape_hidden_states": False,
        },
    }
