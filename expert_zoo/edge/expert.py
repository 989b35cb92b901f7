"""The expert `edge`: edges a person would draw, by DexiNed, the network that Prismer's edge labels came from.

    photo -> short side 480 -> BGR, mean subtracted -> DexiNed -> sigmoid of the fused map -> probability of an edge

Channels: the authors trained on BGR. Their data loader (datasets.py of github.com/xavysp/DexiNed) reads images by OpenCV and
subtracts the mean (103.939, 116.779, 123.68), blue first; no step turns them. So BGR is right here, in both recipes.

Source: Soria, Sappa, Humanante, Akbarinia, "Dense Extreme Inception Network for Edge Detection", arXiv:2112.02250; trained on
BIPED, outdoor photos of 1280x720 pixels, in crops of 352x352.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from expert_zoo.card import ExpertCard
from expert_zoo.expert import Needs, Photo
from expert_zoo.labels import DenseMap, Label
from expert_zoo.networks.network_expert import NetworkExpert, to_host
from expert_zoo.networks.preprocess import Preprocess, of_recipe
from expert_zoo.spec import LabelSpec
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS_FILE = "10_model.pth"
CHECKPOINT = Checkpoint(
    name="dexined-biped",
    repo="shikunl/prismer",
    revision="5578a7b42469f6b9442dd2ed85db824be5400f7c",
    files=(
        CheckpointFile(
            path=WEIGHTS_FILE,
            hub_path=f"expert_weights/{WEIGHTS_FILE}",
            sha256="bd4c603ef71113b447bffb72a73b9a54ca890e78f4bc8f34cb73f1efb2681e74",
            bytes=141069187,
        ),
    ),
    licence="MIT (DexiNed, where its authors publish these weights); the Hub repository that they come from is CC-BY-SA-4.0",
    commercial_use=True,
    page="https://github.com/xavysp/DexiNed",
)
PARAMETERS = 35_083_403
SEED = 20200301

#: 480 is Prismer's side, and leaves the usual 640x480 photo as it is; the authors test on 512x512 to 1280x720.
PREPROCESSING = {
    "best": Preprocess(
        fit="short_side", side=480, multiple=16, channels="BGR", scale=1.0, mean=(103.939, 116.779, 123.68)
    ),
    # The mean of ImageNet, in units of 0 to 1 before the released code multiplies by 255.
    "prismer": Preprocess(
        fit="squash", side=480, multiple=16, channels="BGR", scale=1.0, mean=(103.53, 116.28, 123.675)
    ),
}


class Edge(NetworkExpert):
    """Probability of an edge, high on edges, at the network's input size, 8 bit.

    recipe: "best": short side 480, sides' ratio kept, stored from 0 to 1. "prismer": squashed to 480x480 and stored from the
        map's least to its greatest value, as the released pipeline did; that one then turned it to dark edges on white.
    side: pixels, in place of the recipe's; 16 to 4096, rounded to a multiple of 16.
    weights_folder, precision, compile: as in NetworkExpert.

    Raises ValueError on other values.
    """

    needs: ClassVar[Needs] = Needs(batch_size=8, device_memory_gib=2.0, gpu=True)

    def __init__(
        self,
        *,
        recipe: str = "best",
        side: int | None = None,
        weights_folder: str | None = None,
        precision: str = "auto",
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
            name="edge",
            summary="Edges by DexiNed, Prismer's edge expert.",
            network="DexiNed: six blocks of 64, 128, 256, 512, 512, 256 channels, each with its edge map, and the map that fuses them",
            weights=self.weights,
            preprocessing=self.preprocess.card() | {"precision": self.precision_rule},
            processing={"output": "sigmoid of the fused map, at its input's size", "recipe": recipe},
            spec=LabelSpec(
                kind="map",
                quantity="edge",
                dtype="uint8",
                channels=1,
                value_range=None if recipe == "prismer" else (0.0, 1.0),
                units="probability",
                convention="high on the edges that a person would draw",
                resample="bilinear",
            ),
            parameters=PARAMETERS,
            licence=CHECKPOINT.licence,
            commercial_use=CHECKPOINT.commercial_use,
            paper="Dense Extreme Inception Network for Edge Detection, arXiv:2112.02250",
        )

    def _build(self, folder: Path) -> nn.Module:
        from expert_zoo.edge.network import load_dexined

        return load_dexined(folder / WEIGHTS_FILE)

    def _say(self, images_B3hw: Tensor, photos: Sequence[Photo]) -> list[Label]:
        logits_B1hw = self._network(images_B3hw)
        (edges_Bhw,) = to_host(logits_B1hw[:, 0].float().sigmoid())
        return [Label.ok(DenseMap(edges_hw)) for edges_hw in edges_Bhw]

    def seed(self, folder: Path, *, small: bool) -> None:
        import torch

        from expert_zoo.edge.network import OFFICIAL, Widths, seeded_state

        torch.save(
            seeded_state(Widths(8, 16, 24, 32, 48, 48, 32) if small else OFFICIAL, seed=SEED), folder / WEIGHTS_FILE
        )
