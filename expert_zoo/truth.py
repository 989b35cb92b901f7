"""The experts `truth_depth`, `truth_normal`, `truth_edge`, `truth_seg`, `truth_detection`, `truth_ocr`: exact labels of
rendered scenes, so that an audit against the truth is one comparison of columns.

They render the photo's scene again from its address (a pure computation: nothing is read) and fail on every other photo.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from expert_zoo import scene_specs
from expert_zoo.card import ExpertCard
from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import ClassMap, DenseMap, Label, instances, words
from expert_zoo.spec import LabelSpec
from manifests.scenes import Rendering, render_uri


class TruthExpert(Expert):
    """Renders the scene; the subclass says which truth to give."""

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        return [self._label_one(photo) for photo in photos]

    def _label_one(self, photo: Photo) -> Label:
        try:
            rendering = render_uri(photo.uri)
        except ValueError as error:
            return Label.failed(f"no ground truth: {error}")
        if rendering.photo_HW3.shape != photo.pixels_HW3.shape:
            here, there = photo.pixels_HW3.shape, rendering.photo_HW3.shape
            return Label.failed(
                f"no ground truth: the photo is {here[1]}x{here[0]}, its scene {there[1]}x{there[0]} pixels"
            )
        return self._read(rendering)

    @abstractmethod
    def _read(self, rendering: Rendering) -> Label: ...


def truth_card(name: str, what: str, spec: LabelSpec) -> ExpertCard:
    return ExpertCard(
        name=name,
        summary=f"{what} of a rendered scene, exact; of no use on any other photo.",
        network="none: the scene is rendered again (manifests/scenes)",
        spec=spec,
        licence="that of this package",
        commercial_use=True,
    )


class TruthDepth(TruthExpert):
    """Metres along the optical axis."""

    def __init__(self) -> None:
        self.card = truth_card("truth_depth", "Depth in metres", scene_specs.DEPTH)

    def _read(self, rendering: Rendering) -> Label:
        return Label.ok(DenseMap(rendering.depth_HW))


class TruthNormal(TruthExpert):
    """Unit normals in the camera frame."""

    def __init__(self) -> None:
        self.card = truth_card("truth_normal", "Surface normals", scene_specs.NORMAL)

    def _read(self, rendering: Rendering) -> Label:
        return Label.ok(DenseMap(rendering.normal_HW3))


class TruthEdge(TruthExpert):
    """1 on outlines and creases of solids, one pixel thin, else 0."""

    def __init__(self) -> None:
        self.card = truth_card("truth_edge", "Outlines and creases", scene_specs.EDGE)

    def _read(self, rendering: Rendering) -> Label:
        return Label.ok(DenseMap(rendering.edge_HW.astype(np.float32)))


class TruthSegmentation(TruthExpert):
    """The class of every pixel."""

    def __init__(self) -> None:
        self.card = truth_card("truth_seg", "A class for every pixel", scene_specs.SEGMENTATION)

    def _read(self, rendering: Rendering) -> Label:
        return Label.ok(ClassMap(rendering.class_HW))


class TruthDetection(TruthExpert):
    """Boxes around the visible pixels of every thing, each with score 1."""

    def __init__(self) -> None:
        self.card = truth_card("truth_detection", "Boxes around things", scene_specs.DETECTION)

    def _read(self, rendering: Rendering) -> Label:
        ids = rendering.class_ids_K.tolist()
        return instances(rendering.boxes_K4.tolist(), [1.0] * len(ids), ids)


class TruthOcr(TruthExpert):
    """The word on the sign, with score 1."""

    def __init__(self) -> None:
        self.card = truth_card("truth_ocr", "The word on the sign", scene_specs.WORDS)

    def _read(self, rendering: Rendering) -> Label:
        return words(rendering.polygons_P42.tolist(), rendering.texts_P, [1.0] * len(rendering.texts_P))
