"""The experts `pocket_depth`, `pocket_normal`, `pocket_edge`, `pocket_seg`, `pocket_detection`: demos, tests and CI only.

    photo -> long side SIDE pixels -> padded to whole cells -> pocket network, one head -> padding cut off -> label

They know nothing but rendered rooms, and say of a real photo what it would be if it were one.

Shapes: H x W pixels of the photo, h x w of the resized photo, N boxes.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from expert_zoo import scene_specs
from expert_zoo.card import ExpertCard, Weights
from expert_zoo.expert import Expert, Needs, Photo
from expert_zoo.labels import ClassMap, DenseMap, Label, instances
from expert_zoo.pocket import STRIDE, WEIGHTS
from expert_zoo.spec import LabelSpec

if TYPE_CHECKING:
    from torch import Tensor

#: Pixels of the photo's long side as the network sees it.
SIDE = 256
PARAMETERS = 930_681

#: Detections: local maxima of at least this score, at most this many, none overlapping a better one of its class by more.
MIN_SCORE = 0.1
MOST_BOXES = 50
MOST_OVERLAP = 0.5


class PocketExpert(Expert):
    """What the five have in common: the weights, the way to the network's input, one photo at a time.

    One photo at a time, because a convolution over several may take another order of additions than over one: so a label
    never depends, not even in its last bit, on the photos beside it. On a CPU nothing is lost by it.
    """

    needs: ClassVar[Needs] = Needs(batch_size=8, device_memory_gib=0.5)
    head: ClassVar[str]

    def __init__(self) -> None:
        self._network: Any = None
        self._device = "cpu"

    def load(self, device: str) -> None:
        """Raises FileNotFoundError where the package came without its weights."""
        from expert_zoo.networks.network_expert import keep_float32_whole
        from expert_zoo.pocket.network import load_network

        keep_float32_whole()
        self._device = device
        self._network = load_network(WEIGHTS, device=device)

    def release(self) -> None:
        self._network = None

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        return [self._label_one(photo) for photo in photos]

    def _label_one(self, photo: Photo) -> Label:
        import torch

        if self._network is None:
            self.load(self._device)
        small_hw3 = resized(photo.pixels_HW3)
        height, width = small_hw3.shape[:2]
        below, right = -height % STRIDE, -width % STRIDE
        padded = np.pad(small_hw3, ((0, below), (0, right), (0, 0)), mode="edge")
        with torch.inference_mode():
            image_13HW = torch.from_numpy(padded).to(self._device).permute(2, 0, 1)[None].float() / 255.0
            out = self._network(image_13HW, heads=(self.head,))
        return self._read(out, height, width, photo)

    @abstractmethod
    def _read(self, out: dict[str, Tensor], height: int, width: int, photo: Photo) -> Label:
        """The label from the head's output, of which ``height`` x ``width`` pixels are the photo."""


def resized(pixels_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photo with its long side SIDE pixels, larger or smaller than it was; the other side in proportion, at least 1."""
    import cv2

    height, width = pixels_HW3.shape[:2]
    longest = max(height, width)
    if longest == SIDE:
        return np.ascontiguousarray(pixels_HW3)
    size = (max(1, round(width * SIDE / longest)), max(1, round(height * SIDE / longest)))
    return cv2.resize(pixels_HW3, size, interpolation=cv2.INTER_AREA if longest > SIDE else cv2.INTER_LINEAR)


@cache
def weights_sha256() -> str:
    """Digest of the weights that lie beside this module. Raises FileNotFoundError where the package came without them."""
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


def pocket_card(name: str, what: str, processing: Mapping[str, str | int | float], spec: LabelSpec) -> ExpertCard:
    return ExpertCard(
        name=name,
        summary=f"{what} by a pocket network that has seen only rendered rooms: for demos, tests and CI, not for labels to train on.",
        network="pocket: U-shaped residual CNN with place channels, one trunk and five heads, 930,681 parameters",
        weights=(
            Weights(
                file=WEIGHTS.name,
                where="expert_zoo/pocket in this package",
                sha256=weights_sha256(),
                bytes=WEIGHTS.stat().st_size,
            ),
        ),
        preprocessing={
            "channels": "RGB, 0 to 1",
            "long_side": SIDE,
            "filter": "area to shrink, bilinear to enlarge",
            "padding": f"edge, right and below, to multiples of {STRIDE}",
            "precision": "float32",
        },
        processing=dict(processing),
        spec=spec,
        parameters=PARAMETERS,
        licence="that of this package; trained here on rendered scenes alone",
        commercial_use=True,
        paper="none; heads after arXiv:1904.07850 and arXiv:1904.01355 (docs/pocket.md)",
    )


class PocketDepth(PocketExpert):
    """Metric depth of rendered rooms, metres along the optical axis, at a long side of SIDE pixels."""

    head = "depth"

    def __init__(self) -> None:
        super().__init__()
        self.card = pocket_card("pocket_depth", "Depth in metres", {"output": "exp of the head"}, scene_specs.DEPTH)

    def _read(self, out: dict[str, Tensor], height: int, width: int, photo: Photo) -> Label:
        return Label.ok(DenseMap(_array(out["depth"][0, :height, :width])))


class PocketNormal(PocketExpert):
    """Surface normals, unit vectors in the camera frame."""

    head = "normal"

    def __init__(self) -> None:
        super().__init__()
        self.card = pocket_card(
            "pocket_normal", "Surface normals", {"output": "head brought to unit length"}, scene_specs.NORMAL
        )

    def _read(self, out: dict[str, Tensor], height: int, width: int, photo: Photo) -> Label:
        return Label.ok(DenseMap(_array(out["normal"][0, :, :height, :width].permute(1, 2, 0))))


class PocketEdge(PocketExpert):
    """Probability of an outline or crease of a solid; shadows and painted patterns are none."""

    head = "edge"

    def __init__(self) -> None:
        super().__init__()
        self.card = pocket_card(
            "pocket_edge", "Outlines and creases", {"output": "sigmoid of the head"}, scene_specs.EDGE
        )

    def _read(self, out: dict[str, Tensor], height: int, width: int, photo: Photo) -> Label:
        return Label.ok(DenseMap(_array(out["edge"][0, :height, :width].sigmoid())))


class PocketSegmentation(PocketExpert):
    """Which of seven classes every pixel is: floor, wall, ball, box, cylinder, cone, sign."""

    head = "classes"

    def __init__(self) -> None:
        super().__init__()
        self.card = pocket_card(
            "pocket_seg", "A class for every pixel", {"output": "class of the largest logit"}, scene_specs.SEGMENTATION
        )

    def _read(self, out: dict[str, Tensor], height: int, width: int, photo: Photo) -> Label:
        ids_HW = out["classes"][0, :, :height, :width].argmax(dim=0).to("cpu").numpy().astype(np.uint8)
        return Label.ok(ClassMap(ids_HW))


class PocketDetection(PocketExpert):
    """Boxes around balls, boxes, cylinders, cones and signs."""

    head = "detection"

    def __init__(self) -> None:
        super().__init__()
        processing = {"min_score": MIN_SCORE, "most_boxes": MOST_BOXES, "most_overlap": MOST_OVERLAP}
        self.card = pocket_card("pocket_detection", "Boxes around things", processing, scene_specs.DETECTION)

    def _read(self, out: dict[str, Tensor], height: int, width: int, photo: Photo) -> Label:
        from expert_zoo.pocket.network import peaks

        boxes_N4, scores_N, ids_N = peaks(out["heat"][0], out["box"][0], min_score=MIN_SCORE, most=MOST_BOXES)
        scale = np.array([photo.width / width, photo.height / height] * 2, dtype=np.float32)
        ends = np.array([photo.width, photo.height] * 2, dtype=np.float32)
        boxes_N4 = np.clip(boxes_N4 * scale, 0.0, ends)
        kept: list[int] = []
        for n in range(len(boxes_N4)):
            if (boxes_N4[n, 2:] > boxes_N4[n, :2]).all() and not any(
                ids_N[k] == ids_N[n] and overlap(boxes_N4[k], boxes_N4[n]) > MOST_OVERLAP for k in kept
            ):
                kept.append(n)
        return instances(boxes_N4[kept].tolist(), scores_N[kept].tolist(), ids_N[kept].tolist())


def overlap(a_4: NDArray[np.float32], b_4: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes xyxy."""
    shared = np.prod(np.clip(np.minimum(a_4[2:], b_4[2:]) - np.maximum(a_4[:2], b_4[:2]), 0.0, None))
    return float(shared / (np.prod(a_4[2:] - a_4[:2]) + np.prod(b_4[2:] - b_4[:2]) - shared))


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.to("cpu").numpy(), dtype=np.float32)
