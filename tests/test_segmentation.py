"""The experts `seg_coco` and `seg_ade`: classes as transformers and as the authors' code make them of the same masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from expert_zoo.catalog import create
from expert_zoo.classes import check_class_names, class_names
from expert_zoo.expert import Photo
from expert_zoo.labels import ClassMap
from expert_zoo.networks.seeding import seed
from expert_zoo.segmentation import UNREAD, SegAde, SegCoco, largest_class
from tests.test_depth import photo

NAMES = ("seg_coco", "seg_ade")
SIDE = 96


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    seed(NAMES, root=root)
    return root


def made(name: str, weights: Path, **options: Any) -> Any:
    return create(name, options={"weights_folder": str(weights), "side": SIDE} | options)


def ids(expert: Any, one: Photo) -> NDArray[Any]:
    (label,) = expert.label([one])
    assert isinstance(label.value, ClassMap), label
    return label.value.ids_HW


def theirs(expert: Any) -> Any:
    """transformers' own network with the same weights."""
    from transformers import Mask2FormerForUniversalSegmentation

    folder = expert.folder.path(expert.checkpoint)
    return Mask2FormerForUniversalSegmentation.from_pretrained(folder, local_files_only=True).eval()


def brute_force(classes_QC: Any, masks_Qhw: Any, padded: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(ids, by what share the largest sum is ahead) h x w, mask by mask, resized by OpenCV."""
    scores_QC = np.exp(classes_QC - classes_QC.max(axis=1, keepdims=True))
    scores_QC = (scores_QC / scores_QC.sum(axis=1, keepdims=True))[:, :-1]
    sums_hwC = np.zeros((*padded, scores_QC.shape[1]))
    for scores_C, mask_hw in zip(scores_QC, masks_Qhw, strict=True):
        large_hw = cv2.resize(mask_hw, padded[::-1], interpolation=cv2.INTER_LINEAR)
        sums_hwC += (1 / (1 + np.exp(-large_hw.astype(np.float64))))[:, :, None] * scores_C
    ordered_hwC = np.sort(sums_hwC, axis=2)
    return sums_hwC.argmax(axis=2), 1 - ordered_hwC[:, :, -2] / ordered_hwC[:, :, -1]


@pytest.mark.parametrize("name", NAMES)
def test_the_map_is_that_of_transformers_own_processor(name: str, weights: Path) -> None:
    """Of a photo of 384x384, the size that its post-processing goes through: to the last pixel from the same masks, and but for
    a few whose two best classes are equal up to rounding from the photo on.
    """
    from transformers import Mask2FormerImageProcessor

    one = photo(384, 384)
    expert = made(name, weights, side=384)
    found_hw = ids(expert, one)
    assert found_hw.dtype == np.uint8 and len(np.unique(found_hw)) > 3
    processor = Mask2FormerImageProcessor(size={"height": 384, "width": 384})
    with torch.inference_mode():
        ours = expert._network(expert.inputs([one], (384, 384)))
        said = theirs(expert)(**processor(one.pixels_HW3, return_tensors="pt"))
    of_ours_hw, of_theirs_hw = (
        processor.post_process_semantic_segmentation(masks, target_sizes=[(384, 384)])[0].numpy()
        for masks in (ours, said)
    )
    assert np.array_equal(found_hw, of_ours_hw)
    assert (found_hw != of_theirs_hw).mean() < 1e-4


@pytest.mark.parametrize("size", [(120, 160), (160, 120), (96, 96)])
def test_the_input_is_that_of_transformers_own_processor(size: tuple[int, int], weights: Path) -> None:
    """Up to one grey level: it resizes whole numbers, in two passes each of which rounds, and this package does not."""
    from transformers import Mask2FormerImageProcessor

    expert, one = made("seg_coco", weights), photo(*size)
    sides = expert.preprocess.size(*size)
    assert sides == {(120, 160): (96, 128), (160, 120): (128, 96), (96, 96): (96, 96)}[size]
    processor = Mask2FormerImageProcessor(size={"height": sides[0], "width": sides[1]})
    expected_3hw = processor(one.pixels_HW3, return_tensors="pt").pixel_values[0].numpy()
    difference_3hw = np.abs(expert.inputs([one], sides)[0].numpy() - expected_3hw)
    level = 1 / 255 / min(expert.preprocess.std)
    assert difference_3hw.max() < 1.1 * level and difference_3hw.mean() < 0.4 * level


def test_prismers_rules_end_to_end_equal_a_brute_force_of_them(weights: Path) -> None:
    """Long side 96, BGR under RGB's means, zeros to whole strides, masks to the padded size, cut, then classes."""
    expert, one = made("seg_coco", weights, recipe="prismer"), photo(150, 200)
    found_hw = ids(expert, one)
    assert found_hw.shape == (72, 96)
    bgr_3hw = expert.inputs([one], (72, 96))[0].numpy()
    rgb_3hw = made("seg_coco", weights, recipe="best").inputs([one], (72, 96))[0].numpy()
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (expert.preprocess.mean, expert.preprocess.std))
    assert np.allclose(bgr_3hw * std + mean, (rgb_3hw * std + mean)[::-1], atol=1e-6)
    padded_13hw = np.zeros((1, 3, 96, 96), np.float32)
    padded_13hw[0, :, :72] = bgr_3hw
    with torch.inference_mode():
        said = theirs(expert)(pixel_values=torch.from_numpy(padded_13hw))
    expected_hw, ahead_hw = brute_force(
        said.class_queries_logits[0].numpy(), said.masks_queries_logits[0].numpy(), (96, 96)
    )
    clear_hw = ahead_hw[:72] > 1e-3
    assert clear_hw.mean() > 0.99
    assert np.array_equal(found_hw[clear_hw], expected_hw[:72][clear_hw])


def test_the_class_of_the_largest_sum_wins_not_that_of_the_surest_mask() -> None:
    """Two masks that lean to class 1 outweigh one that is surer of class 0; "no object" counts for nothing."""
    classes_QC = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.6, 0.35], [0.05, 0.6, 0.35], [0.0, 0.01, 0.99]]).log()
    masks_Qhw = torch.full((4, 2, 4), 8.0)
    masks_Qhw[1:3, :, 2:] = -8.0
    found_hw = largest_class(classes_QC, masks_Qhw, (8, 16), (8, 12)).numpy()
    assert found_hw.shape == (8, 12) and found_hw.dtype == np.uint8
    assert (found_hw[:, :6] == 1).all() and (found_hw[:, 10:] == 0).all()


def test_things_show_in_the_map_where_they_are_in_the_photo() -> None:
    """A mask that is bright at the top left of the photo must win there, for wide and high photos, padded ones too."""
    for size, padded in (((96, 128), (96, 128)), ((128, 96), (128, 96)), ((72, 96), (96, 96))):
        masks_Qhw = torch.full((2, padded[0] // 4, padded[1] // 4), -6.0)
        masks_Qhw[0] = 6.0
        masks_Qhw[:, 2:8, 3:12] *= -1
        classes_QC = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
        found_hw = largest_class(classes_QC, masks_Qhw, padded, size).numpy()
        expected_hw = np.zeros(size, np.uint8)
        expected_hw[8:32, 12:48] = 1
        assert (found_hw != expected_hw).mean() < 0.01  # the corners of a bilinear edge are round


@pytest.mark.parametrize(("part", "value"), [("class", torch.nan), ("mask", torch.nan), ("mask", torch.inf)])
def test_a_network_that_overflows_names_no_class(part: str, value: float, weights: Path) -> None:
    """NaN counts as the largest of all sums, so that every pixel would be class 0. The photo beside it is labelled."""
    expert = made("seg_coco", weights)
    logits = {"class": torch.zeros(2, 3, 134), "mask": torch.zeros(2, 3, 24, 24)}
    logits[part][1, 2, ..., 0] = value
    expert._network = lambda _: SimpleNamespace(
        class_queries_logits=logits["class"], masks_queries_logits=logits["mask"]
    )
    one, other = expert.label([photo(96, 96), photo(96, 96)])
    assert one.status == "ok" and other.status == "failed" and other.reason.startswith("not finite: ")


def test_weights_as_they_were_published_load(weights: Path, tmp_path: Path) -> None:
    """They hold a table that transformers computes today, and lack a norm that it makes and never reads."""
    root = tmp_path / "weights"
    shutil.copytree(weights, root)
    expert = made("seg_ade", root)
    expected_hw = ids(expert, photo(96, 130))
    folder = expert.folder.path(expert.checkpoint)
    tensors = load_file(folder / "model.safetensors")
    network = theirs(expert)
    index = next(name for name, _ in network.named_buffers() if name.endswith("relative_position_index"))
    norms = [name for name in tensors if name.endswith(("swin.layernorm.weight", "swin.layernorm.bias"))]
    assert sorted(norms) == sorted(UNREAD)
    published = {name: tensor for name, tensor in tensors.items() if name not in norms}
    published[index] = dict(network.named_buffers())[index].clone()
    save_file(published, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["7"] = "bed "
    (folder / "config.json").write_text(json.dumps(config))
    expert.folder.record(expert.checkpoint, source="facebook/mask2former-swin-large-ade-semantic")
    assert np.array_equal(ids(made("seg_ade", root), photo(96, 130)), expected_hw)
    for name in norms:
        tensors[name] += 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    expert.folder.record(expert.checkpoint, source="facebook/mask2former-swin-large-ade-semantic")
    assert np.array_equal(ids(made("seg_ade", root), photo(96, 130)), expected_hw)


def test_a_checkpoint_with_other_classes_is_refused(weights: Path, tmp_path: Path) -> None:
    root = tmp_path / "weights"
    shutil.copytree(weights, root)
    expert = made("seg_coco", root)
    file = expert.folder.path(expert.checkpoint) / "config.json"
    config = json.loads(file.read_text())
    config["id2label"]["0"], config["id2label"]["1"] = config["id2label"]["1"], config["id2label"]["0"]
    file.write_text(json.dumps(config))
    expert.folder.record(expert.checkpoint, source="by hand")
    with pytest.raises(ValueError, match=r"class 0 is 'bicycle', coco_panoptic has 'person'") as raised:
        made("seg_coco", root).load("cpu")
    assert "\n" not in str(raised.value)
    ade = root / SegAde.weights_of.name
    for name in ("config.json", "model.safetensors"):
        shutil.copy(ade / name, file.parent / name)
    expert.folder.record(expert.checkpoint, source="by hand")
    with pytest.raises(ValueError, match=r"150 classes, expected 133"):
        made("seg_coco", root).load("cpu")


def test_class_names_are_those_of_the_data_sets() -> None:
    assert [len(class_names(name)) for name in ("coco", "coco_panoptic", "ade20k")] == [80, 133, 150]
    assert class_names("coco_panoptic")[:80] == class_names("coco")
    spots = {"coco_panoptic": {0: "person", 80: "banner", 132: "rug-merged"}, "ade20k": {0: "wall", 149: "flag"}}
    assert all(class_names(name)[i] == text for name, some in spots.items() for i, text in some.items())
    for name in spots:
        assert len(set(class_names(name))) == len(class_names(name))
    with pytest.raises(ValueError, match="class 79 is None"):
        check_class_names("coco", dict(enumerate(class_names("coco")[:79])), where="somewhere")


def test_full_size_is_the_published_network() -> None:
    """Counted, not typed; 215 million in Prismer's paper."""
    for expert in (SegCoco(), SegAde()):
        with torch.device("meta"):
            network = expert.untrained(small=False)
        counted = sum(p.numel() for name, p in network.named_parameters() if name not in UNREAD)
        assert counted == expert.card.parameters and round(counted / 1e6) in (215, 216)
        assert network.config.num_queries == 200 and not expert.card.commercial_use


def test_recipes_and_sides_are_other_experts(weights: Path) -> None:
    experts = [made("seg_coco", weights, **kw) for kw in ({}, {"recipe": "prismer"}, {"side": 128})]
    assert len({expert.card.version for expert in experts}) == 3
    assert SegCoco().preprocess.size(480, 640) == (640, 864) and SegCoco().preprocess.size(100, 4000) == (320, 1344)
    prismer = SegCoco(recipe="prismer")
    assert prismer.preprocess.size(480, 640) == (360, 480) and prismer.card.preprocessing["channels"] == "BGR"
    for wrong in ({"recipe": "worst"}, {"side": 8}, {"compile": 1}):
        with pytest.raises(ValueError, match="expected"):
            create("seg_ade", options=wrong)
