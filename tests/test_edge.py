"""DexiNed: it is its authors' network, loads their checkpoint and nothing else, and is fed what it was trained on.

tests/data/edge_keys.json: names and shapes in the state dict of the authors' network (github.com/xavysp/DexiNed, model.py, the
same in all revisions from November 2021 to 08ed67a), in its order. As float32 they fill 140,961,380 bytes; the published
10_model.pth has 141,069,187, which is 338 more per tensor: torch's zip file around each. The revision before has 7 keys less.

tests/data/edge_golden.npy: what that network, run outside this repository on weights by `ruled_state_dict` of these names and
shapes, in eval mode and float32 on a CPU, says of the input ``ruled_array("edge input", (1, 3, 32, 48), -2, 2)``: the logits of
its six side maps and, last, of the fused map; float32, 7 x 32 x 48.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from expert_zoo.edge.expert import CHECKPOINT, PARAMETERS, WEIGHTS_FILE, Edge
from expert_zoo.edge.network import OFFICIAL, STRIDE, DexiNed, load_dexined, seeded_state
from expert_zoo.expert import Photo
from expert_zoo.labels import DenseMap
from expert_zoo.networks.seeding import seed
from manifests.scenes import render_uri, scene_uri
from pipeline.codec import encode
from tests.ruled_weights import ruled_array, ruled_state_dict

DATA = Path(__file__).parent / "data"
State = dict[str, torch.Tensor]


def official_shapes() -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in json.loads((DATA / "edge_keys.json").read_text()).items()}


def photo(pixels_HW3: np.ndarray) -> Photo:
    return Photo(image_id="p", uri="file:///p.png", pixels_HW3=pixels_HW3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("weights")
    seed(["edge"], root=root)
    return str(root)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    Edge().seed(tmp_path, small=True)
    return tmp_path / WEIGHTS_FILE


def test_it_says_what_the_authors_network_says(tmp_path: Path) -> None:
    torch.save(ruled_state_dict(official_shapes()), tmp_path / WEIGHTS_FILE)
    network = load_dexined(tmp_path / WEIGHTS_FILE).eval()
    image_13hw = torch.from_numpy(ruled_array("edge input", (1, 3, 32, 48), -2, 2))
    with torch.inference_mode():
        ours_7hw = torch.cat([network.side_maps(image_13hw), network(image_13hw)], dim=1)[0].numpy()
    golden_7hw = np.load(DATA / "edge_golden.npy", allow_pickle=False)
    assert golden_7hw.std(axis=(1, 2)).min() > 0.05, "golden maps that tell nothing"
    assert np.abs(ours_7hw - golden_7hw).max() < 1e-4


def test_the_authors_checkpoint_has_exactly_these_keys() -> None:
    state = seeded_state(OFFICIAL, seed=0)
    assert {name: tuple(value.shape) for name, value in state.items()} == official_shapes()
    payload = sum(value.numel() * value.element_size() for value in state.values())
    (published,) = CHECKPOINT.files
    assert 0 < published.bytes - payload < 400 * len(state)


def test_the_card_counts_the_parameters() -> None:
    assert sum(parameter.numel() for parameter in DexiNed().parameters()) == PARAMETERS == Edge().card.parameters


def test_a_small_checkpoint_is_the_same_architecture(small: Path) -> None:
    state = torch.load(small, weights_only=True)
    assert state.keys() == official_shapes().keys()
    assert sum(value.numel() for value in state.values()) < 3_000_000
    network = load_dexined(small)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_seeded_weights_are_the_same_every_time(small: Path, tmp_path: Path) -> None:
    before = small.read_bytes()
    Edge().seed(tmp_path, small=True)
    assert small.read_bytes() == before


def _lose(state: State) -> None:
    del state["pre_dense_4.conv.bias"]


def _add(state: State) -> None:
    state["side_6.conv.bias"] = torch.zeros(3)


def _narrow(state: State) -> None:
    state["dblock_5.denselayer2.conv1.weight"] = state["dblock_5.denselayer2.conv1.weight"][:, 1:]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_lose, "1 missing, the first is pre_dense_4.conv.bias"),
        (_add, "1 unknown, the first is side_6.conv.bias"),
        (
            _narrow,
            r"1 of another shape, the first is dblock_5.denselayer2.conv1.weight \(48x47x3x3, expected 48x48x3x3\)",
        ),
    ],
)
def test_another_network_is_an_error_of_one_line(small: Path, change: Callable[[State], None], told: str) -> None:
    state = torch.load(small, weights_only=True)
    change(state)
    torch.save(state, small)
    with pytest.raises(ValueError, match=told) as caught:
        load_dexined(small)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "mean_bgr"), [("best", (103.939, 116.779, 123.68)), ("prismer", (103.53, 116.28, 123.675))]
)
def test_it_is_fed_blue_first_with_the_mean_subtracted(weights: str, recipe: str, mean_bgr: tuple[float, ...]) -> None:
    expert = Edge(recipe=recipe, weights_folder=weights)
    red, green, blue = 250, 130, 20
    fed_13hw = expert.inputs([photo(np.full((32, 32, 3), (red, green, blue), np.uint8))], (32, 32))
    assert fed_13hw[0, :, 0, 0].tolist() == pytest.approx(np.subtract((blue, green, red), mean_bgr), abs=1e-4)
    assert expert.card.preprocessing["channels"] == "BGR"


def test_prismer_is_fed_what_the_released_code_computes(weights: str) -> None:
    """0 to 1, the mean of ImageNet subtracted in RGB, turned to BGR, times 255."""
    pixels_HW3 = np.random.default_rng(0).integers(0, 256, (480, 480, 3), np.uint8)
    unit_3HW = torch.from_numpy(pixels_HW3).permute(2, 0, 1) / 255
    released_3HW = (unit_3HW - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)).flip(0) * 255
    ours_13HW = Edge(recipe="prismer", weights_folder=weights).inputs([photo(pixels_HW3)], (480, 480))
    assert (ours_13HW[0] - released_3HW).abs().max() < 1e-4


def test_best_keeps_the_ratio_of_sides_and_prismer_squashes() -> None:
    assert Edge().preprocess.size(480, 640) == (480, 640)
    assert Edge().preprocess.size(640, 427) == (720, 480)
    assert Edge(side=50).preprocess.size(10, 20) == (48, 96)
    assert Edge(recipe="prismer").preprocess.size(480, 640) == (480, 480)
    assert Edge().preprocess.multiple == Edge(recipe="prismer").preprocess.multiple == STRIDE


def test_the_label_is_the_sigmoid_of_the_fused_map(weights: str) -> None:
    expert = Edge(side=64, weights_folder=weights)
    scene = photo(render_uri(scene_uri(7, 3, 96)).photo_HW3)
    (label,) = expert.label([scene])
    network = load_dexined(expert.folder.path(CHECKPOINT) / WEIGHTS_FILE).eval()
    with torch.inference_mode():
        logits_HW = network(expert.inputs([scene], (64, 64)))[0, 0].numpy()
    assert isinstance(label.value, DenseMap)
    assert label.value.values.shape == (64, 64) and np.ptp(label.value.values) > 0.1
    assert np.allclose(label.value.values, 1 / (1 + np.exp(-logits_HW)), atol=1e-6)


def test_best_is_stored_from_0_to_1_and_prismer_from_least_to_greatest(weights: str) -> None:
    """Prismer's released code writes 255 - floor(255 (p - least) / (greatest - least)), dark on edges; ours stays high on edges."""
    scene = photo(render_uri(scene_uri(7, 3, 96)).photo_HW3)
    for recipe in ("best", "prismer"):
        expert = Edge(recipe=recipe, side=64, weights_folder=weights)
        (label,) = expert.label([scene])
        assert isinstance(label.value, DenseMap)
        columns, png = encode(expert.card.spec, label.value)
        stored_HW = cv2.imdecode(np.frombuffer(png or b"", np.uint8), cv2.IMREAD_UNCHANGED)
        least, greatest = label.value.values.min(), label.value.values.max()
        if recipe == "best":
            assert (columns["scale"], columns["bias"]) == (1 / 255, 0.0)
        else:
            released_HW = 255 - (255 * (label.value.values - least) / (greatest - least)).astype(np.uint8)
            assert (stored_HW.min(), stored_HW.max()) == (0, 255)
            assert np.abs(stored_HW.astype(int) - (255 - released_HW.astype(int))).max() <= 1


def test_every_option_that_changes_labels_changes_the_version(weights: str) -> None:
    options: list[dict[str, object]] = [{}, {"recipe": "prismer"}, {"side": 64}, {"precision": "float32"}]
    cards = [Edge(weights_folder=weights, **chosen).card for chosen in options]  # type: ignore[arg-type]
    assert len({card.version for card in cards}) == len(options)


@pytest.mark.parametrize(
    "options", [{"recipe": "fast"}, {"side": 8}, {"side": "480"}, {"precision": "half"}, {"compile": 1}]
)
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Edge(**options)  # type: ignore[arg-type]
