"""What the expert `detection` says and refuses without detectron2: options, card, rules, and labels of a stand-in."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from expert_zoo.classes import class_names
from expert_zoo.detection.detectron.configuration import read_configuration
from expert_zoo.detection.detectron.expert import DEFAULT, Detection
from expert_zoo.detection.detectron.network import leave_out
from expert_zoo.expert import Photo
from expert_zoo.weights.lock import BY_HAND

FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def photo(height: int = 60, width: int = 80) -> Photo:
    return Photo(image_id="p", uri="file:///p.png", pixels_HW3=np.zeros((height, width, 3), np.uint8))


def expert(tmp_path: Path, **options: Any) -> Detection:
    """With a file of weights at hand whose contents nobody reads."""
    made = Detection(weights_folder=str(tmp_path / "weights"), **options)
    at = made.folder.path(made.checkpoint) / made.checkpoint.files[0].path
    at.parent.mkdir(parents=True, exist_ok=True)
    at.write_bytes(b"weights")
    made.folder.record(made.checkpoint, source=BY_HAND)
    return Detection(weights_folder=str(tmp_path / "weights"), **options)


# Options and card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imports": "unidet"}, "imports is 'unidet'; expected a list"),
        ({"overrides": ["A", 1]}, "overrides is .* expected values by key"),
        ({"min_score": 1.5}, "min_score is 1.5; expected a number from 0 to 1"),
        ({"max_boxes": 0}, "max_boxes is 0; expected 1 or more"),
        ({"masks": "yes"}, "masks is 'yes'; expected true or false"),
        ({"recipe": "worst"}, "recipe is 'worst'; expected best or prismer"),
        ({"side": 0}, "side is 0; expected 16 to 4096"),
        ({"recipe": "prismer", "side": 0}, "side is 0; expected 16 to 4096"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"class_names": []}, "expected a name for each class"),
        ({"class_names": ["a", " "]}, "none of them blank"),
        ({"class_names": "no_such_file.txt"}, "class_names: cannot read no_such_file.txt"),
        ({"config": "PascalVOC-Detection/faster_rcnn_R_50_C4.yaml"}, "not known to have the 80 classes of COCO"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Detection(**options)
    assert "\n" not in str(caught.value)


def test_class_names_are_those_of_coco_unless_given(tmp_path: Path) -> None:
    assert Detection().card.spec.class_names == class_names("coco")
    other = "PascalVOC-Detection/faster_rcnn_R_50_C4.yaml"
    listed = Detection(config=other, class_names=["cat", "dog"])
    filed = Detection(config=other, class_names=write(tmp_path / "names.txt", "cat\ndog\n"))
    assert listed.card.spec.class_names == filed.card.spec.class_names == ("cat", "dog")


def test_every_option_that_decides_a_label_changes_the_version(tmp_path: Path) -> None:
    lazy = write(tmp_path / "mine.py", "model = 1\n")
    choices: list[dict[str, Any]] = [
        {},
        {"config": FASTER},
        {"config": lazy, "checkpoint": "run/model.pth", "class_names": ["a"]},
        {"config": lazy, "checkpoint": "run/model.pth", "class_names": ["b"]},
        {"imports": ["unidet"]},
        {"overrides": {"MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.6}},
        {"overrides": {"INPUT.FORMAT": "RGB"}},
        {"min_score": 0.3},
        {"max_boxes": 100},
        {"masks": True},
        {"recipe": "prismer"},
        {"side": 640},
        {"recipe": "prismer", "side": 640},
        {"precision": "float32"},
    ]
    versions = [expert(tmp_path, **options).card.version for options in choices]
    assert len(set(versions)) == len(choices)
    write(tmp_path / "mine.py", "model = 2\n")
    assert expert(tmp_path, **choices[2]).card.version not in versions
    assert expert(tmp_path, compile=True).card.version == versions[0]


def test_weights_that_are_not_at_hand_leave_a_card_without_a_version(tmp_path: Path) -> None:
    card = Detection(weights_folder=str(tmp_path)).card
    assert card.commercial_use and card.parameters == 43_140_848
    with pytest.raises(ValueError, match="expert-labels weights fetch"):
        _ = card.version


def test_the_recipes_say_what_they_do() -> None:
    best, prismer = Detection(), Detection(recipe="prismer")
    assert {
        "fit": "short_side",
        "side": 800,
        "longest": 1333,
        "channels": "BGR",
        "scale": 1.0,
    }.items() <= best.card.preprocessing.items()
    assert best.preprocess.size(600, 800) == (800, 1067) and best.preprocess.size(400, 800) == (666, 1333)
    assert Detection(side=400).preprocess.longest == 666
    rgb = {"INPUT.FORMAT": "RGB"}
    assert Detection(overrides=rgb).preprocess.channels == "RGB"
    assert Detection(overrides=rgb, recipe="prismer").preprocess.channels == prismer.preprocess.channels == "BGR"
    assert prismer.preprocess.size(600, 800) == (360, 480)
    assert {"min_score": "> 0.5", "max_boxes": 300}.items() <= prismer.card.processing.items()


# Labels, with a stand-in for the network


class Says:
    """A network that finds the same in every photo: boxes in shares of the photo, as rows (box, score, class)."""

    def __init__(self, rows: list[list[float]]) -> None:
        self.rows_N6 = torch.tensor(rows).reshape(-1, 6)
        self.asked: list[dict[str, Any]] = []

    def __call__(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.asked += asked
        return [{"instances": self.one(one["height"], one["width"])} for one in asked]

    def one(self, height: int, width: int) -> Any:
        boxes_N4 = self.rows_N6[:, :4] * torch.tensor([width, height, width, height])
        masks_NHW = torch.zeros(len(boxes_N4), height, width, dtype=torch.bool)
        masks_NHW[:, height // 2 :] = True
        return SimpleNamespace(
            pred_boxes=SimpleNamespace(tensor=boxes_N4),
            scores=self.rows_N6[:, 4],
            pred_classes=self.rows_N6[:, 5].long(),
            pred_masks=masks_NHW,
        )


def test_boxes_are_clipped_sorted_and_chosen() -> None:
    made = Detection(max_boxes=2, side=96)
    made._network = network = Says(
        [[0, 0, 0.5, 0.5, 0.6, 7], [0.2, 0, 0.2, 1, 0.99, 1], [-1, 0.25, 2, 1, 0.9, 79], [0, 0, 1, 1, 0.5, 3], [0, 0, 1, 1, 0.55, 4]]
    )  # fmt: skip
    small, large = photo(60, 80), photo(30, 40)
    labels = made.label([small, large])
    for label, one in zip(labels, (small, large), strict=True):
        assert made.card.spec.problem_with(label, height=one.height, width=one.width) is None
        boxes_24 = np.array([[0, 0.25, 1, 1], [0, 0, 0.5, 0.5]]) * [one.width, one.height, one.width, one.height]
        assert np.allclose(label.value.boxes_N4, boxes_24)
        assert np.allclose(label.value.scores_N, [0.9, 0.6]) and label.value.class_ids_N.tolist() == [79, 7]
    assert [tuple(one["image"].shape) for one in network.asked] == [(3, 96, 128)] * 2


def test_nothing_found_is_empty() -> None:
    made = Detection(side=96)
    made._network = Says([])
    assert [label.status for label in made.label([photo(), photo(1, 1)])] == ["empty", "empty"]


def test_masks_are_cut_to_the_pixels_that_a_box_touches() -> None:
    made = Detection(masks=True, side=96)
    made._network = Says([[0.1, 0.42, 0.32, 0.58, 0.7, 0], [0, 0, 1, 1, 0.8, 1]])
    (label,) = made.label([photo(60, 80)])
    assert made.card.spec.problem_with(label, height=60, width=80) is None
    whole, part = [cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) for png in label.value.masks]
    assert whole.shape == (60, 80) and set(np.unique(whole)) == {0, 255} and whole[30:].all() and not whole[:30].any()
    assert part.shape == (10, 18)  # rows 25.2 to 34.8, columns 8 to 25.6
    assert part[5:].all() and not part[:5].any()


def test_the_network_is_fed_pixels_in_its_own_order() -> None:
    pixels_HW3 = np.zeros((96, 96, 3), np.uint8)
    pixels_HW3[..., 0] = 200
    for channels, plane in (("BGR", 2), ("RGB", 0)):
        made = Detection(side=96, overrides={"INPUT.FORMAT": channels})
        made._network = network = Says([])
        made.label([Photo(image_id="red", uri="file:///red.png", pixels_HW3=pixels_HW3)])
        means = network.asked[0]["image"].mean(dim=(1, 2)).tolist()
        assert means == [200.0 if place == plane else 0.0 for place in range(3)]


def test_a_network_of_something_else_is_said() -> None:
    made = Detection(side=96)
    made._network = lambda asked: [{"proposals": None} for _ in asked]
    with pytest.raises(ValueError, match="makes no boxes of classes"):
        made.label([photo()])


def test_what_is_not_asked_for_is_not_made() -> None:
    heads = SimpleNamespace(mask_on=True, keypoint_on=True)
    leave_out(SimpleNamespace(roi_heads=heads), masks=False)
    assert not heads.mask_on and not heads.keypoint_on
    heads.mask_on = True
    leave_out(SimpleNamespace(roi_heads=heads, sem_seg_head=None), masks=False)
    assert heads.mask_on
    with pytest.raises(ValueError, match="makes none; choose one of COCO-InstanceSegmentation"):
        leave_out(SimpleNamespace(roi_heads=SimpleNamespace(mask_on=False)), masks=True)


def test_without_detectron2_loading_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    made = expert(tmp_path)
    at = made.folder.path(made.checkpoint) / made.checkpoint.files[0].path
    at.write_bytes(pickle.dumps({"model": {"w": np.zeros(1)}, "__author__": "me"}))
    made.folder.record(made.checkpoint, source=BY_HAND)
    with pytest.raises(
        ValueError, match=r"needs detectron2.*pip install .*github.com/facebookresearch/detectron2@[0-9a-f]{40}"
    ) as caught:
        made.load("cpu")
    assert "\n" not in str(caught.value)


def test_the_default_is_a_lazy_config_of_the_zoo() -> None:
    assert read_configuration(DEFAULT).is_lazy and read_configuration(DEFAULT).path is None
