"""The expert `detection_rtdetr`: transformers' own RT-DETR v2 and what its pipeline says; boxes where they belong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from expert_zoo.catalog import create
from expert_zoo.classes import class_names
from expert_zoo.detection.rtdetr import OLD_NAMES, PARAMETERS, DetectionRtDetr, configuration
from expert_zoo.expert import Photo
from expert_zoo.labels import Instances, Label
from expert_zoo.networks.seeding import seed

SIDE = 96


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    seed(["detection_rtdetr"], root=root)
    return root


def made(weights: Path, **options: Any) -> DetectionRtDetr:
    expert = create("detection_rtdetr", options={"weights_folder": str(weights), "side": SIDE} | options)
    assert isinstance(expert, DetectionRtDetr)
    return expert


def photo(height: int, width: int, seed: int = 0) -> Photo:
    """Smooth colours with a little noise: what resizes much as a photo does."""
    rng = np.random.default_rng(seed)
    y_HW, x_HW = np.mgrid[0:height, 0:width]
    waves_HW3 = np.stack([np.sin(x_HW / 9 + k + seed) + np.cos(y_HW / (7 + k)) for k in range(3)], axis=2)
    pixels_HW3 = (127 + 55 * waves_HW3 + rng.normal(0, 4, waves_HW3.shape)).clip(0, 255).astype(np.uint8)
    return Photo(image_id="p", uri="file:///p.png", pixels_HW3=pixels_HW3)


def found(label: Label) -> Instances:
    assert isinstance(label.value, Instances), label
    return label.value


def theirs(expert: DetectionRtDetr) -> Any:
    from transformers import RTDetrV2ForObjectDetection

    folder = expert.folder.path(expert.checkpoint)
    return RTDetrV2ForObjectDetection.from_pretrained(folder, local_files_only=True).eval()


def processor() -> Any:
    from transformers import RTDetrImageProcessor

    return RTDetrImageProcessor(size={"height": SIDE, "width": SIDE})


def test_boxes_are_those_of_transformers_own_pipeline(weights: Path) -> None:
    """On a photo that nobody has to resize. The pipeline cuts pixels to whole numbers and boxes nowhere."""
    from transformers import pipeline

    expert, one = made(weights, min_score=0.0), photo(SIDE, SIDE)
    whole = pipeline("object-detection", model=theirs(expert), image_processor=processor(), device="cpu")
    expected = whole(Image.fromarray(one.pixels_HW3), threshold=0.0)
    ours = found(expert.label([one])[0])
    names = class_names("coco")
    kept = [row for row in expected if row["box"]["xmax"] > 0 and row["box"]["ymax"] > 0]
    assert len(ours.scores_N) == len(expected) == len(kept) == 30
    assert np.allclose(ours.scores_N, [row["score"] for row in kept], atol=1e-5)
    assert [names[index] for index in ours.class_ids_N] == [row["label"] for row in kept]
    assert len(set(ours.class_ids_N.tolist())) > 3
    corners = np.array([[row["box"][end] for end in ("xmin", "ymin", "xmax", "ymax")] for row in kept])
    assert np.abs(ours.boxes_N4 - corners.clip(0, SIDE)).max() <= 1.0


@pytest.mark.parametrize("size", [(60, 200), (97, 61)])
def test_boxes_are_those_of_transformers_own_processor_on_any_shape(size: tuple[int, int], weights: Path) -> None:
    expert, one = made(weights, min_score=0.0), photo(*size)
    images_13hw = expert.inputs([one], (SIDE, SIDE))
    with torch.inference_mode():
        out = theirs(expert)(pixel_values=images_13hw)
    (expected,) = processor().post_process_object_detection(out, threshold=0.0, target_sizes=[size])
    ours = found(expert.label([one])[0])
    corners_N4 = expected["boxes"].numpy().clip(0, [size[1], size[0]] * 2)
    assert np.abs(ours.boxes_N4 - corners_N4).max() < 1e-2
    assert np.array_equal(ours.class_ids_N, expected["labels"].numpy())
    assert np.allclose(ours.scores_N, expected["scores"].numpy(), atol=1e-5)


@pytest.mark.parametrize("size", [(120, 160), (300, 61), (96, 96)])
def test_the_input_is_that_of_transformers_own_processor(size: tuple[int, int], weights: Path) -> None:
    """Up to one grey level: it rounds to whole numbers after resizing, and this package does not."""
    expert, one = made(weights), photo(*size)
    ours_3hw = expert.inputs([one], expert.preprocess.size(*size))[0].numpy()
    expected_3hw = processor()(one.pixels_HW3, return_tensors="pt").pixel_values[0].numpy()
    assert ours_3hw.shape == expected_3hw.shape == (3, SIDE, SIDE)
    assert np.abs(ours_3hw - expected_3hw).max() < 1.1 / 255


def test_a_higher_score_keeps_the_best_of_the_same_boxes(weights: Path) -> None:
    all_of_them = found(made(weights, min_score=0.0).label([photo(80, 120)])[0])
    middle = float(all_of_them.scores_N[11])
    some = found(made(weights, min_score=middle).label([photo(80, 120)])[0])
    count = int((all_of_them.scores_N >= middle).sum())
    assert 0 < count < len(all_of_them.scores_N)
    assert np.array_equal(some.boxes_N4, all_of_them.boxes_N4[:count])
    assert made(weights, min_score=1.0).label([photo(80, 120)])[0].status == "empty"


def planted(expert: DetectionRtDetr, boxes: list[list[float]], classes: list[int], scores: list[float]) -> None:
    """The expert's network says these (centre x, centre y, width, height in shares) of any photo."""
    logits_1QC = torch.full((1, len(boxes), 80), -9.0)
    for query, (index, score) in enumerate(zip(classes, scores, strict=True)):
        logits_1QC[0, query, index] = torch.logit(torch.tensor(score))
    expert._network = lambda pixel_values: SimpleNamespace(logits=logits_1QC, pred_boxes=torch.tensor([boxes]))


def test_a_planted_box_is_found_where_it_was_planted(weights: Path) -> None:
    """x goes with the width and y with the height; what overhangs is cut off, and what lies beyond the photo is nothing."""
    expert = made(weights)
    boxes = [
        [0.5, 0.25, 0.2, 0.1],
        [0.0, 1.0, 0.5, 0.5],
        [1.5, 0.5, 0.5, 0.5],
        [0.5, 0.5, 0.0, 0.2],
        [0.2, 0.2, 0.1, 0.1],
    ]
    planted(expert, boxes, [7, 79, 3, 4, 5], [0.8, 0.95, 0.99, 0.9, 0.49])
    ours = found(expert.label([photo(100, 200)])[0])
    assert np.allclose(ours.boxes_N4, [[0, 75, 50, 100], [80, 20, 120, 30]], atol=1e-3)
    assert ours.class_ids_N.tolist() == [79, 7]
    assert np.allclose(ours.scores_N, [0.95, 0.8], atol=1e-6)


def test_a_query_that_says_two_classes_says_both(weights: Path) -> None:
    expert = made(weights)
    planted(expert, [[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.1, 0.1]], [7, 9], [0.9, 0.1])
    expert._network(None).logits[0, 0, 8] = torch.logit(torch.tensor(0.6))
    ours = found(expert.label([photo(50, 50)])[0])
    assert ours.class_ids_N.tolist() == [7, 8] and np.array_equal(ours.boxes_N4[0], ours.boxes_N4[1])


def test_a_network_that_overflows_is_not_taken_for_a_photo_without_things(weights: Path) -> None:
    expert = made(weights)
    for score, x in ((float("nan"), 0.5), (0.9, float("nan"))):
        planted(expert, [[0.2, 0.2, 0.1, 0.1], [x, 0.5, 0.4, 0.4]], [7, 9], [0.9, score])
        (label,) = expert.label([photo(50, 50)])
        assert label.status == "failed" and label.reason.startswith("not finite: ")


def copied(weights: Path, tmp_path: Path) -> tuple[Path, Path]:
    """(a weights folder like ``weights`` that may be damaged, its checkpoint)."""
    shutil.copytree(weights, tmp_path / "weights")
    return tmp_path / "weights", tmp_path / "weights" / made(weights).checkpoint.name


def recorded(root: Path) -> DetectionRtDetr:
    expert = made(root)
    expert.folder.record(expert.checkpoint, source="seeded random weights")
    return made(root)


def test_class_names_of_the_published_checkpoint_are_understood(weights: Path, tmp_path: Path) -> None:
    root, folder = copied(weights, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    old = {new: name for name, new in OLD_NAMES.items()}
    config["id2label"] = {index: old.get(name, name) for index, name in config["id2label"].items()}
    assert "sofa" in config["id2label"].values() and "couch" not in config["id2label"].values()
    config["label2id"] = {name: int(index) for index, name in config["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    assert found(recorded(root).label([photo(50, 50)])[0])


def test_other_classes_are_refused(weights: Path, tmp_path: Path) -> None:
    root, folder = copied(weights, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["3"] = "motor boat"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"class 3 is 'motor boat', coco has 'motorcycle'"):
        recorded(root).load("cpu")


@pytest.mark.parametrize("damage", ["missing", "unknown", "of another shape"])
def test_weights_that_do_not_fit_are_refused_in_one_line(damage: str, weights: Path, tmp_path: Path) -> None:
    root, folder = copied(weights, tmp_path)
    values = load_file(folder / "model.safetensors")
    name = next(name for name in values if name.endswith("decoder.layers.0.fc1.weight"))
    if damage == "missing":
        del values[name]
    elif damage == "unknown":
        values["model.seventh_head.weight"] = torch.zeros(3)
    else:
        values[name] = values[name][:5].clone()
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"1 {damage}, the first is ") as refused:
        recorded(root).load("cpu")
    assert "\n" not in str(refused.value)


def test_a_side_with_fewer_cells_than_queries_is_refused(weights: Path) -> None:
    with pytest.raises(ValueError, match="side 32 has 21 cells, fewer than the 30 queries"):
        made(weights, side=32).load("cpu")


@pytest.mark.parametrize(
    "options", [{"size": "r18"}, {"min_score": 1.5}, {"min_score": True}, {"min_score": "0.5"}, {"side": 4}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], weights: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        made(weights, **options)


@pytest.mark.parametrize("size", PARAMETERS)
def test_the_full_network_has_the_parameters_of_the_card(size: str) -> None:
    from transformers import RTDetrV2ForObjectDetection

    with torch.device("meta"):
        network = RTDetrV2ForObjectDetection(configuration(size, small=False))
    assert sum(one.numel() for one in network.parameters()) == DetectionRtDetr(size=size).card.parameters


def test_what_decides_a_label_is_part_of_the_version(weights: Path) -> None:
    versions = {made(weights, **options).card.version for options in ({}, {"min_score": 0.4}, {"side": 128})}
    assert len(versions) == 3
    assert made(weights).card.spec.class_names == class_names("coco")
