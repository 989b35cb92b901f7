"""The expert `normal`: surface normals by NLL-AngMF, the network that Prismer's normal labels came from.

    photo -> short side 480 -> EfficientNet-B5 and decoder -> unit normal of every pixel of the input, in our axes

Axes: the network's x points to the left of the image, y up, z towards the viewer; ours differ in x alone. Three sources agree:
in the authors' picture of a drawn room (figs/readme_generalize.png of their repository, made by these weights) the left wall is
dark in red and the right one bright, the floor bright in green, the far wall bright in blue; the first author's later DSINE states
(right, down, front) with all signs turned, for the same ground truth; and users of these weights found the same (issue 13 of the
repository).

The network also says how sure it is of each normal (kappa). It is not stored.

Source: Bae, Budvytis, Cipolla, "Estimating and Exploiting the Aleatoric Uncertainty in Surface Normal Estimation", ICCV 2021,
arXiv:2109.09881; trained on ScanNet at 640x480 with the ground truth of FrameNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from expert_zoo.card import ExpertCard
from expert_zoo.expert import Needs, Photo
from expert_zoo.labels import DenseMap, Label
from expert_zoo.networks.network_expert import NetworkExpert, to_host
from expert_zoo.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, of_recipe
from expert_zoo.scene_specs import NORMAL
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS_FILE = "scannet.pt"
CHECKPOINT = Checkpoint(
    name="nll-angmf-scannet",
    # The authors share the file on a drive that has no plain URL; this is the oldest copy of it that has a commit and a digest.
    repo="lllyasviel/Annotators",
    revision="1e70a29f5d06c27d37988d2c6c43f6fd21fdb2d1",
    files=(
        CheckpointFile(
            path=WEIGHTS_FILE,
            sha256="03dbf1600c51ee3d45c29f77b77bf1a3b7a24c3452dba62a4ae658f37330c209",
            bytes=290767728,
        ),
    ),
    licence="MIT (the authors' repository); trained on ScanNet, whose terms allow research and teaching without commerce",
    commercial_use=False,
    page="https://github.com/baegwangbin/surface_normal_uncertainty",
)
PARAMETERS = 72_418_240
SEED = 20211011

#: 480 is the short side of the photos it was trained on, and Prismer's side.
PREPROCESSING = {
    "best": Preprocess(fit="short_side", side=480, multiple=32, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "prismer": Preprocess(fit="squash", side=480, multiple=32, mean=IMAGENET_MEAN, std=IMAGENET_STD),
}


class Normal(NetworkExpert):
    """Surface normals: unit vectors in the camera frame (x right, y up, z towards the viewer), 8 bit a channel.

    recipe: "best": short side 480, sides' ratio kept. "prismer": squashed to 480x480, as the released pipeline did; that one
        then enlarged the 8-bit map to the photo's size, and left x pointing to the left.
    side: pixels, in place of the recipe's; 16 to 4096, rounded to a multiple of 32.
    weights_folder, precision, compile: as in NetworkExpert.

    Raises ValueError on other values.
    """

    needs: ClassVar[Needs] = Needs(batch_size=8, device_memory_gib=4.0, gpu=True)

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
            name="normal",
            summary="Surface normals by NLL-AngMF, Prismer's normal expert.",
            network="NLL-AngMF with batch normalisation: EfficientNet-B5 (TensorFlow's padding), decoder of 1024, 512, 256, 128 "
            "channels, three pixel MLPs of 128",
            weights=self.weights,
            preprocessing=self.preprocess.card() | {"precision": self.precision_rule},
            processing={
                "output": "the finest normals, unit length in float32, at the input's size",
                "axes": "the network's x (left) negated; y (up) and z (towards the viewer) as they are",
                "confidence": "kappa is not stored",
                "recipe": recipe,
            },
            spec=NORMAL,
            parameters=PARAMETERS,
            licence=CHECKPOINT.licence,
            commercial_use=CHECKPOINT.commercial_use,
            paper="Estimating and Exploiting the Aleatoric Uncertainty in Surface Normal Estimation, arXiv:2109.09881",
        )

    def _build(self, folder: Path) -> nn.Module:
        from expert_zoo.normal.network import load_network

        return load_network(folder / WEIGHTS_FILE)

    def _say(self, images_B3hw: Tensor, photos: Sequence[Photo]) -> list[Label]:
        import torch

        finest_B4hw = self._network(images_B3hw)[-1]
        x_left_B1hw, yz_B2hw = finest_B4hw[:, :1], finest_B4hw[:, 1:3]
        normals_B3hw = torch.cat([-x_left_B1hw, yz_B2hw], dim=1)
        (normals_Bhw3,) = to_host(normals_B3hw.permute(0, 2, 3, 1).contiguous())
        return [Label.ok(DenseMap(normals_hw3)) for normals_hw3 in normals_Bhw3]

    def seed(self, folder: Path, *, small: bool) -> None:
        import torch

        from expert_zoo.normal.network import FULL, SMALL, seeded_state

        torch.save({"model": seeded_state(SMALL if small else FULL, seed=SEED), "iter": 0}, folder / WEIGHTS_FILE)
