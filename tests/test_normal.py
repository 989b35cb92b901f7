"""NLL-AngMF: it is its authors' network, loads their checkpoint and nothing else, and speaks in our axes.

tests/data/normal_keys.json: names and shapes in the state dict of the authors' network (github.com/baegwangbin/
surface_normal_uncertainty at fe2b9f1, models/NNET.py with architecture BN), in its order. Its encoder, which it asks torch.hub
for, was that of geffnet (github.com/rwightman/gen-efficientnet-pytorch at 771ce08), tf_efficientnet_b5_ap.

tests/data/normal_golden.npz: what that network, run outside this repository on weights by `ruled_state_dict` of these names and
shapes with a gain of GAIN, in eval mode and float32 on a CPU, says of the input ``ruled_array("image", (1, 3, 64, 96), -2, 2)``:
normals (three channels) and kappa at an eighth, a quarter, half and the whole of the input's size; float32, 4 x h x w each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from expert_zoo.expert import Photo
from expert_zoo.labels import DenseMap, Label
from expert_zoo.networks.seeding import seed
from expert_zoo.normal.expert import CHECKPOINT, PARAMETERS, WEIGHTS_FILE, Normal
from expert_zoo.normal.network import FULL, NO_ROLE, SMALL, NormalNetwork, load_network, official_shapes
from manifests.scenes import render_uri, scene_uri
from tests.ruled_weights import ruled_array, ruled_state_dict

DATA = Path(__file__).parent / "data"
#: 39 residual blocks: with a gain of 6 activations grow a thousandfold, and kappa with them.
GAIN = 4.5
State = dict[str, torch.Tensor]


def keys_of_the_authors() -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in json.loads((DATA / "normal_keys.json").read_text()).items()}


def photo(pixels_HW3: np.ndarray, name: str = "p") -> Photo:
    return Photo(image_id=name, uri=f"file:///{name}.png", pixels_HW3=pixels_HW3)


def values_of(label: Label) -> np.ndarray:
    assert isinstance(label.value, DenseMap)
    return label.value.values


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("weights")
    seed(["normal"], root=root)
    return str(root)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    Normal().seed(tmp_path, small=True)
    return tmp_path / WEIGHTS_FILE


def test_it_says_what_the_authors_network_says(tmp_path: Path) -> None:
    """At all four scales, from a file as their training writes it: of a DataParallel network, with the iteration beside it."""
    state = {f"module.{name}": value for name, value in ruled_state_dict(keys_of_the_authors(), gain=GAIN).items()}
    torch.save({"model": state, "iter": 1}, tmp_path / WEIGHTS_FILE)
    del state
    network = load_network(tmp_path / WEIGHTS_FILE).eval()
    with torch.inference_mode():
        said = network(torch.from_numpy(ruled_array("image", (1, 3, 64, 96), -2, 2)))
    with np.load(DATA / "normal_golden.npz", allow_pickle=False) as golden:
        for name, scale, ours_B4hw in zip(("eighth", "quarter", "half", "whole"), (8, 4, 2, 1), said, strict=True):
            assert golden[name].shape == (4, 64 // scale, 96 // scale)
            assert golden[name].std(axis=(1, 2)).min() > 0.02, "golden maps that tell nothing"
            assert np.abs(ours_B4hw[0].numpy() - golden[name]).max() < 1e-4, name


def test_the_authors_checkpoint_has_exactly_these_keys() -> None:
    keys = keys_of_the_authors()
    assert official_shapes(FULL) == keys
    payload = sum(math.prod(shape) * (8 if name.endswith("tracked") else 4) for name, shape in keys.items())
    (published,) = CHECKPOINT.files
    assert 0 < published.bytes - payload < 600 * len(keys)  # torch's zip file around each tensor


def test_what_has_no_role_is_what_the_network_does_not_have() -> None:
    """And nothing else: five tensors of a normalisation whose output the authors never use."""
    with torch.device("meta"):
        network = NormalNetwork(FULL)
    assert len(official_shapes(FULL)) == len(network.state_dict()) + len(NO_ROLE) and len(NO_ROLE) == 5
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS == Normal().card.parameters


def test_a_small_checkpoint_is_the_same_architecture(small: Path) -> None:
    state = torch.load(small, weights_only=True)["model"]
    assert {name.split(".")[1] for name in state} == {name.split(".")[1] for name in keys_of_the_authors()}
    assert {name: tuple(value.shape) for name, value in state.items()} == official_shapes(SMALL)
    assert sum(value.numel() for value in state.values()) < 1_000_000
    assert torch.equal(load_network(small).refine[2].layers[0].weight[..., 0], state["decoder.out_conv_res1.0.weight"])


def test_seeded_weights_are_the_same_every_time(small: Path, tmp_path: Path) -> None:
    before = small.read_bytes()
    Normal().seed(tmp_path, small=True)
    assert small.read_bytes() == before


def _lose(state: State) -> None:
    del state["decoder.conv2.bias"]


def _add(state: State) -> None:
    state["encoder.original_model.classifier.bias"] = torch.zeros(3)


def _narrow(state: State) -> None:
    state["decoder.out_conv_res4.0.weight"] = state["decoder.out_conv_res4.0.weight"][:, 1:]


def _another_encoder(state: State) -> None:
    state["encoder.original_model.conv_head.weight"] = torch.zeros(1280, 320, 1, 1)


def _group_norm(state: State) -> None:
    for name in [name for name in state if name.startswith("decoder.up1._net.1.") and "running" in name]:
        del state[name]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_lose, "1 missing, the first is decoder.conv2.bias"),
        (_add, "1 unknown, the first is encoder.original_model.classifier.bias"),
        (_narrow, r"1 of another shape, the first is decoder.out_conv_res4.0.weight \(16x35x1x1, expected 16x36x1x1\)"),
        (_another_encoder, r"has 1280 channels; expected 2048 \(EfficientNet-B5\)"),
        (_group_norm, "2 missing, the first is decoder.up1._net.1.running_mean"),
        (dict.clear, r"has 0 channels; expected 2048"),
    ],
)
def test_another_network_is_an_error_of_one_line(small: Path, change: Callable[[State], None], told: str) -> None:
    state = torch.load(small, weights_only=True)["model"]
    change(state)
    torch.save({"model": state}, small)
    with pytest.raises(ValueError, match=told) as caught:
        load_network(small)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("saved", [{"state_dict": {}}, [1, 2], {"model": {"a": 1}}, b"no zip", None])
def test_another_file_is_an_error_of_one_line(tmp_path: Path, saved: object) -> None:
    path = tmp_path / WEIGHTS_FILE
    if isinstance(saved, bytes):
        path.write_bytes(saved)
    elif saved is not None:
        torch.save(saved, path)
    with pytest.raises(ValueError, match=WEIGHTS_FILE) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [((1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)), ((0.0, 1.0, 0.0), (0.0, 1.0, 0.0)), ((-0.6, 0.0, 0.8), (0.6, 0.0, 0.8))],
)
def test_x_points_right_in_the_label_and_left_in_the_network(
    weights: str, theirs: tuple[float, ...], ours: tuple[float, ...]
) -> None:
    """In the authors' pictures a wall on the right, which faces left, is bright in red: x near 1."""
    expert = Normal(weights_folder=weights, side=32)
    said_14hw = torch.tensor([*theirs, 7.0]).view(1, 4, 1, 1).expand(1, 4, 32, 64)
    expert._network = lambda images_B3hw: (said_14hw[..., :4, :8], said_14hw)
    (label,) = expert.label([photo(np.zeros((10, 20, 3), np.uint8))])
    assert values_of(label).shape == (32, 64, 3)
    assert np.allclose(values_of(label), ours)


def test_the_map_lies_as_the_photo_does(weights: str) -> None:
    """What a bright patch changes, it changes where the patch is: nothing is turned, mirrored or transposed on the way."""
    expert = Normal(weights_folder=weights, side=128)
    plain_HW3 = np.full((128, 256, 3), 60, np.uint8)
    plain_HW3[::16] = 90
    patched_HW3 = plain_HW3.copy()
    patched_HW3[16:48, 32:64] = (250, 240, 90)
    plain, patched = (values_of(label) for label in expert.label([photo(plain_HW3), photo(patched_HW3)]))
    change_HW = np.linalg.norm(patched - plain, axis=2)
    rows, columns = np.mgrid[:128, :256]
    centre = (float((rows * change_HW).sum() / change_HW.sum()), float((columns * change_HW).sum() / change_HW.sum()))
    assert abs(centre[0] - 32) < 16 and abs(centre[1] - 48) < 16, centre


def test_a_batch_equals_its_singles_whatever_their_shapes(weights: str) -> None:
    expert = Normal(weights_folder=weights, side=64)
    rng = np.random.default_rng(0)
    sizes = [(64, 96), (1, 1), (10, 3000), (64, 96), (3000, 10)]
    photos = [photo(rng.integers(0, 256, (*size, 3), np.uint8), f"p{n}") for n, size in enumerate(sizes)]
    together = expert.label(photos)
    assert [values_of(label).shape for label in together] == [
        (64, 96, 3),
        (64, 64, 3),
        (64, 256, 3),
        (64, 96, 3),
        (256, 64, 3),
    ]
    expert.release()
    for one, label in zip(photos, together, strict=True):
        assert expert.card.spec.problem_with(label, height=one.height, width=one.width) is None
        assert np.allclose(np.linalg.norm(values_of(label), axis=2), 1, atol=1e-5)
        (alone,) = expert.label([one])
        assert np.abs(values_of(alone) - values_of(label)).max() < 2e-4  # 1e-4 of the range -1 to 1


def test_half_precision_says_nearly_the_same(small: Path) -> None:
    """As on a GPU, where convolutions are mixed: lengths and kappa are computed in float32 all the same."""
    network = load_network(small).eval()
    scene_HW3 = render_uri(scene_uri(7, 3, 96)).photo_HW3
    image_13hw = torch.from_numpy(scene_HW3.copy()).permute(2, 0, 1)[None, :, :64].float() / 128 - 1
    with torch.inference_mode():
        exact_14hw = network(image_13hw)[-1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed_14hw = network(image_13hw)[-1]
    assert mixed_14hw.dtype == torch.float32
    assert (mixed_14hw[:, :3].norm(dim=1) - 1).abs().max() < 1e-5
    assert not torch.equal(mixed_14hw, exact_14hw)
    assert torch.sum(mixed_14hw[:, :3] * exact_14hw[:, :3], dim=1).mean() > 0.99


def test_prismer_is_fed_what_the_released_code_computes(weights: str) -> None:
    pixels_HW3 = np.random.default_rng(0).integers(0, 256, (480, 480, 3), np.uint8)
    unit_3HW = torch.from_numpy(pixels_HW3).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expert = Normal(recipe="prismer", weights_folder=weights)
    assert expert.preprocess.size(480, 640) == (480, 480)
    ours_13HW = expert.inputs([photo(pixels_HW3)], (480, 480))
    assert (ours_13HW[0] - (unit_3HW - mean) / std).abs().max() < 1e-5


def test_best_keeps_the_ratio_of_sides() -> None:
    assert Normal().preprocess.size(480, 640) == (480, 640)
    assert Normal().preprocess.size(640, 427) == (704, 480)
    assert Normal(side=50).preprocess.size(10, 20) == (64, 96)


def test_every_option_that_changes_labels_changes_the_version(weights: str) -> None:
    options: list[dict[str, object]] = [{}, {"recipe": "prismer"}, {"side": 64}, {"precision": "float32"}]
    cards = [Normal(weights_folder=weights, **chosen).card for chosen in options]  # type: ignore[arg-type]
    assert len({card.version for card in cards}) == len(options)


@pytest.mark.parametrize(
    "options", [{"recipe": "fast"}, {"side": 8}, {"side": "480"}, {"precision": "half"}, {"compile": 1}]
)
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Normal(**options)  # type: ignore[arg-type]
