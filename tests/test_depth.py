"""The experts `depth` and `depth_anything`: their networks are those of transformers, their inputs those of its processors."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from expert_zoo.catalog import create
from expert_zoo.depth.depth_anything import SIZES, DepthAnything
from expert_zoo.depth.dpt import Depth
from expert_zoo.expert import Photo
from expert_zoo.labels import DenseMap
from expert_zoo.networks.network_expert import NetworkExpert
from expert_zoo.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD
from expert_zoo.networks.seeding import seed
from pipeline.codec import decode, encode

#: Multiples of both networks' steps, 32 and 14, that are quick.
SIDES = {"depth": 96, "depth_anything": 98}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    seed(list(SIDES), root=root)
    return root


def made(name: str, weights: Path, **options: Any) -> Any:
    return create(name, options={"weights_folder": str(weights), "side": SIDES[name]} | options)


def photo(height: int, width: int, seed: int = 0) -> Photo:
    """Smooth colours with a little noise: what resizes much as a photo does."""
    rng = np.random.default_rng(seed)
    y_HW, x_HW = np.mgrid[0:height, 0:width]
    waves_HW3 = np.stack([np.sin(x_HW / 9 + k) + np.cos(y_HW / (7 + k)) for k in range(3)], axis=2)
    pixels_HW3 = (127 + 55 * waves_HW3 + rng.normal(0, 4, waves_HW3.shape)).clip(0, 255).astype(np.uint8)
    return Photo(image_id="p", uri="file:///p.png", pixels_HW3=pixels_HW3)


def processor(name: str, **changes: Any) -> Any:
    """transformers' own, as the published checkpoints configure it, but for the small side."""
    from transformers import DPTImageProcessor

    side, own = SIDES[name], {"ensure_multiple_of": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if name == "depth_anything":
        own = {"ensure_multiple_of": 14, "image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
    return DPTImageProcessor(size={"height": side, "width": side}, **{"keep_aspect_ratio": True} | own | changes)


def theirs(name: str, expert: NetworkExpert) -> Any:
    """transformers' own network with the same weights."""
    from transformers import DepthAnythingForDepthEstimation, DPTForDepthEstimation

    kind = DPTForDepthEstimation if name == "depth" else DepthAnythingForDepthEstimation
    return kind.from_pretrained(expert.folder.path(expert.checkpoint), local_files_only=True).eval()


def values(expert: Any, one: Photo) -> np.ndarray:
    (label,) = expert.label([one])
    assert isinstance(label.value, DenseMap), label
    return label.value.values


@pytest.mark.parametrize(("name", "size"), [("depth", (96, 96)), ("depth_anything", (98, 140))])
def test_the_map_is_that_of_transformers_own_pipeline(name: str, size: tuple[int, int], weights: Path) -> None:
    """On a photo that nobody has to resize, so that all that follows can be compared to the last digits."""
    from PIL import Image
    from transformers import pipeline

    expert, one = made(name, weights), photo(*size)
    whole = pipeline("depth-estimation", model=theirs(name, expert), image_processor=processor(name), device="cpu")
    expected = whole(Image.fromarray(one.pixels_HW3))["predicted_depth"].numpy()
    found = values(expert, one)
    assert found.shape == size == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * np.ptp(expected)


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("size", [(120, 160), (160, 120), (300, 301), (96, 128)])
def test_the_input_is_that_of_transformers_own_processor(name: str, size: tuple[int, int], weights: Path) -> None:
    """Up to one grey level: it resizes whole numbers, in two passes each of which rounds, and this package does not round."""
    expert, one = made(name, weights), photo(*size)
    ours_3hw = expert.inputs([one], expert.preprocess.size(*size))[0].numpy()
    expected_3hw = processor(name)(one.pixels_HW3, return_tensors="pt").pixel_values[0].numpy()
    level = 1 / 255 / min(expert.preprocess.std)
    assert ours_3hw.shape == expected_3hw.shape
    assert np.abs(ours_3hw - expected_3hw).max() < 1.1 * level and np.abs(ours_3hw - expected_3hw).mean() < 0.4 * level


def test_prismers_input_is_squashed_bilinear_and_between_minus_one_and_one(weights: Path) -> None:
    expert, one = made("depth", weights, recipe="prismer"), photo(120, 160)
    assert expert.preprocess.size(120, 160) == expert.preprocess.size(3000, 10) == (96, 96)
    bilinear = processor("depth", keep_aspect_ratio=False, resample=2)
    expected_3hw = bilinear(one.pixels_HW3, return_tensors="pt").pixel_values[0].numpy()
    found_3hw = expert.inputs([one], (96, 96))[0].numpy()
    assert np.abs(found_3hw - expected_3hw).max() < 1.1 * 2 / 255
    assert Depth(recipe="prismer").preprocess.size(333, 500) == (480, 480)


@pytest.mark.parametrize("name", SIDES)
def test_things_show_in_the_map_where_they_are_in_the_photo(name: str, weights: Path) -> None:
    """On wide and high photos: transformers' DPT-Hybrid takes squares only, and would put other photos' tokens into wrong rows.

    With attention silenced, tokens know of each other through convolutions alone: where a patch of the photo gets darker, the
    map changes most.
    """
    side = 4 * SIDES[name]
    expert = made(name, weights, side=side)
    expert.load("cpu")
    for parameter_name, parameter in expert._network.named_parameters():
        if "attention.output.dense" in parameter_name:
            parameter.zero_()
    for size, (top, left) in (((side, 2 * side), (64, 576)), ((2 * side, side), (576, 64))):
        whole = photo(*size)
        darker = whole.pixels_HW3.copy()
        darker[top : top + 96, left : left + 96] //= 2
        changed_HW = (values(expert, replace(whole, pixels_HW3=darker)) - values(expert, whole)) ** 2
        assert changed_HW.shape == size
        y, x = (np.indices(size) * changed_HW / changed_HW.sum()).sum(axis=(1, 2))
        assert abs(y - top - 48) < 48 and abs(x - left - 48) < 48, (size, top, left, y, x)


def test_a_constant_map_is_one_and_never_nan(weights: Path, tmp_path: Path) -> None:
    """The released pipeline divided by the map's range, which is zero where the network says the same everywhere."""
    root = tmp_path / "weights"
    shutil.copytree(weights, root)
    expert = made("depth", root, recipe="prismer")
    file = root / expert.checkpoint.name / "model.safetensors"
    tensors = load_file(file)
    tensors["head.head.4.weight"].zero_()
    tensors["head.head.4.bias"].fill_(2.5)
    save_file(tensors, file, {"format": "pt"})
    expert.folder.record(expert.checkpoint, source="by hand")
    (label,) = expert.label([photo(40, 50)])
    assert expert.card.spec.problem_with(label, height=40, width=50) is None
    columns, png = encode(expert.card.spec, label.value)
    read = decode(expert.card.spec, {"status": "ok", "reason": ""} | columns, png)
    assert isinstance(read.value, DenseMap) and np.allclose(read.value.values, 2.5)


def test_full_size_is_the_published_network() -> None:
    """Counted, not typed; rounded they are the numbers of the papers: 123 (with a head that nothing reads), 24.8, 97.5, 335.3."""
    experts: list[Any] = [Depth(), *(DepthAnything(size=size) for size in SIZES)]  # type: ignore[arg-type]
    with torch.device("meta"):
        counts = [sum(p.numel() for p in expert.untrained(small=False).parameters()) for expert in experts]
    assert counts == [expert.card.parameters for expert in experts]
    assert [round(count / 1e5) / 10 for count in counts] == [122.4, 24.8, 97.5, 335.3]


def test_recipes_sizes_and_sides_are_other_experts(weights: Path) -> None:
    best, prismer = made("depth", weights), made("depth", weights, recipe="prismer")
    assert (best.card.spec.dtype, prismer.card.spec.dtype) == ("uint16", "uint8")
    assert best.card.spec.value_range is None is prismer.card.spec.value_range
    assert best.card.preprocessing["filter"] != prismer.card.preprocessing["filter"]
    versions = {expert.card.version for expert in (best, prismer, made("depth", weights, side=128))}
    assert len(versions) == 3
    assert Depth().preprocess.size(480, 640) == (384, 512) and Depth().preprocess.size(500, 333) == (576, 384)
    assert DepthAnything().preprocess.size(480, 640) == (518, 686)
    assert len({DepthAnything(size=size).card.network for size in SIZES}) == 3  # type: ignore[arg-type]


def test_only_the_small_one_is_free_for_commercial_use() -> None:
    cards = {size: DepthAnything(size=size).card for size in SIZES}  # type: ignore[arg-type]
    assert {size: (card.licence, card.commercial_use) for size, card in cards.items()} == {
        "small": ("Apache-2.0", True),
        "base": ("CC-BY-NC-4.0", False),
        "large": ("CC-BY-NC-4.0", False),
    }


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("depth", {"recipe": "worst"}),
        ("depth", {"side": 5000}),
        ("depth", {"side": 96.0}),
        ("depth_anything", {"size": "giant"}),
        ("depth_anything", {"precision": "float8"}),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        create(name, options=wrong)


def test_either_format_of_the_published_weights_loads(weights: Path, tmp_path: Path) -> None:
    """Intel publishes pickled weights; they are taken where safetensors are missing, and give the same map."""
    root = tmp_path / "weights"
    shutil.copytree(weights, root)
    expert = made("depth", root)
    expected = values(expert, photo(96, 96))
    folder = expert.folder.path(expert.checkpoint)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    expert.folder.record(expert.checkpoint, source="Intel/dpt-hybrid-midas")
    again = made("depth", root)
    assert [file.file for file in again.card.weights] == ["config.json", "pytorch_model.bin"]
    assert np.array_equal(values(again, photo(96, 96)), expected)


class _Harm:
    """What a pickle can do to who opens it: here, make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_weights_of_something_else_are_an_error_of_one_line(weights: Path, tmp_path: Path) -> None:
    root = tmp_path / "weights"
    shutil.copytree(weights, root)
    expert = made("depth", root)
    folder = expert.folder.path(expert.checkpoint)
    tensors = load_file(folder / "model.safetensors")

    def refusal() -> str:
        expert.folder.record(expert.checkpoint, source="by hand")
        with pytest.raises(ValueError, match="dpt-hybrid-midas") as raised:
            made("depth", root).load("cpu")
        assert "\n" not in str(raised.value)
        return str(raised.value)

    missing = {name: tensor for name, tensor in tensors.items() if not name.startswith("neck.convs.0")}
    save_file(missing, folder / "model.safetensors", {"format": "pt"})
    assert "neck.convs.0.weight" in refusal()
    save_file(tensors | {"head.extra": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    assert "head.extra" in refusal()
    save_file(tensors | {"neck.convs.0.weight": torch.zeros(2, 2)}, folder / "model.safetensors", {"format": "pt"})
    assert "neck.convs.0.weight" in refusal()
    other = weights / SIZES["small"].checkpoint.name
    for file in ("config.json", "model.safetensors"):
        shutil.copy(other / file, folder / file)
    refusal()
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Harm(tmp_path / "harm"), protocol=2))
    refusal()
    assert not (tmp_path / "harm").exists()
