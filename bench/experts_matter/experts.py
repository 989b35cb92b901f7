"""The controls: an expert that knows nothing, and a depth expert that is right for some photos only.

Source: Prismer, arXiv:2303.02506, section 5, on the robustness to noisy experts and on the experts' quality.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from expert_zoo.card import ExpertCard
from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import DenseMap, Label
from expert_zoo.scene_specs import DEPTH
from expert_zoo.spec import LabelSpec
from expert_zoo.truth import TruthDepth

#: Metres, about as far as a room of the scenes goes.
NEAR, FAR = 1.0, 7.0


def noise_HW(image_id: str, height: int, width: int) -> NDArray[np.float32]:
    """Uniform from 0 to 1 in every pixel, the same for the same image."""
    rng = np.random.Generator(np.random.PCG64(list(f"noise {image_id}".encode())))
    return rng.random((height, width), dtype=np.float32)


def is_corrupted(image_id: str, share: int) -> bool:
    """Whether the photo is among the ``share`` percent; who is among fewer is among more."""
    rng = np.random.Generator(np.random.PCG64(list(f"corrupted {image_id}".encode())))
    return float(rng.random()) * 100 < share


class Noise(Expert):
    """Noise, whatever the photo."""

    def __init__(self) -> None:
        self.card = ExpertCard(
            name="noise",
            summary="Uniform noise; tells nothing of the photo.",
            network="none",
            spec=LabelSpec(
                kind="map", quantity="other", dtype="uint8", channels=1, value_range=(0.0, 1.0), resample="bilinear"
            ),
            licence="that of this package",
            commercial_use=True,
        )

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        return [Label.ok(DenseMap(noise_HW(photo.image_id, photo.height, photo.width))) for photo in photos]


class CorruptedDepth(Expert):
    """True depth, but noise in its place for ``share`` percent of the photos."""

    def __init__(self, *, share: int) -> None:
        if not 0 < share <= 100:
            raise ValueError(f"share {share}; expected percent, above 0 and up to 100")
        self.share = share
        self._truth = TruthDepth()
        self.card = ExpertCard(
            name=f"corrupted_depth_{share}",
            summary=f"Depth in metres, noise in its place for {share} % of the photos.",
            network="none: the scene is rendered again",
            processing={"share": share, "near": NEAR, "far": FAR},
            spec=DEPTH,
            licence="that of this package",
            commercial_use=True,
        )

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        return [
            Label.ok(DenseMap(NEAR + (FAR - NEAR) * noise_HW(photo.image_id, photo.height, photo.width)))
            if is_corrupted(photo.image_id, self.share)
            else truth
            for photo, truth in zip(photos, self._truth.label(photos), strict=True)
        ]
