"""The expert `detection` with detectron2 itself: skipped where that is not installed (it is in no package index).

Weights are seeded and narrow, written in detectron2's own formats, so that the way of real weights is the way that is tested.
"""

from __future__ import annotations

import pickle
import socket
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

detectron2 = pytest.importorskip(
    "detectron2", reason="detectron2 is in no package index; docs/experts.md says how to install it"
)

import torch  # noqa: E402

from expert_zoo.detection.detectron.configuration import check_zoo_file, read_configuration  # noqa: E402
from expert_zoo.detection.detectron.expert import Detection  # noqa: E402
from expert_zoo.detection.detectron.seeds import NARROW_YAML  # noqa: E402
from expert_zoo.detection.detectron.zoo import VERSION, zoo_models  # noqa: E402
from expert_zoo.expert import Photo  # noqa: E402
from expert_zoo.labels import Instances  # noqa: E402
from expert_zoo.networks.seeding import seed  # noqa: E402
from tests.conftest import comparable  # noqa: E402

CONFIGS = Path(detectron2.__file__).parent / "model_zoo" / "configs"
FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
SIDE = 96

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("an expert used the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def photo(height: int, width: int, number: int = 0) -> Photo:
    """Coarse noise, blurred: something to see everywhere."""
    rng = np.random.default_rng(number)
    coarse_hw3 = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    pixels_HW3 = np.ascontiguousarray(cv2.resize(coarse_hw3, (width, height), interpolation=cv2.INTER_LINEAR))
    return Photo(image_id=f"p{number}", uri=f"file:///p{number}.png", pixels_HW3=pixels_HW3)


def seeded(root: Path, **options: Any) -> Detection:
    """The expert with a small checkpoint in the weights folder ``root``."""
    options = {"side": SIDE, **options}
    seed(["detection"], root=root, options={"detection": options})
    return Detection(weights_folder=str(root), **options)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def test_the_table_is_detectron2s_own() -> None:
    from detectron2.checkpoint.detection_checkpoint import DetectionCheckpointer
    from detectron2.config import LazyConfig, get_cfg

    assert detectron2.__version__ == VERSION and DetectionCheckpointer is not None
    for name, model in zoo_models().items():
        path = CONFIGS / name
        check_zoo_file(name, path)
        if name.endswith(".py"):
            said = LazyConfig.load(str(path))
            resize = said.dataloader.test.mapper.augmentations[0]
            found = (
                resize.short_edge_length,
                resize.max_size,
                said.model.input_format,
                said.model.roi_heads.num_classes,
            )
        else:
            cfg = get_cfg()
            cfg.merge_from_file(str(path))
            classes = cfg.MODEL.RETINANET if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else cfg.MODEL.ROI_HEADS
            found = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT, classes.NUM_CLASSES)
            data = [*cfg.DATASETS.TEST]
            assert (model.classes == 80) == all(one.startswith("coco_2017") for one in data), name
        assert found == (model.short, model.long, model.channels, model.classes), name


def test_the_urls_are_detectron2s_own() -> None:
    zoo = pytest.importorskip("detectron2.model_zoo", reason="detectron2.model_zoo needs setuptools < 81")
    for name, model in zoo_models().items():
        assert zoo.get_checkpoint_url(name) == model.url


@pytest.mark.parametrize(
    "config", [None, FASTER, MASK, "COCO-Detection/retinanet_R_50_FPN_3x.yaml", "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"]
)  # fmt: skip
def test_networks_of_every_kind_label(weights: Path, config: str | None) -> None:
    made = seeded(weights, **({"config": config} if config else {}))
    made.load("cpu")
    photos = [photo(90, 120), photo(90, 120, 1), photo(200, 60, 2), photo(1, 1), photo(10, 1500), photo(48, 64, 3)]
    together = made.label(photos)
    for one, label in zip(photos, together, strict=True):
        assert made.card.spec.problem_with(label, height=one.height, width=one.width) is None
        assert label.status in ("ok", "empty")
    assert together[0].status == "ok"
    assert len({str(comparable(label)) for label in together[:3]}) == 3
    for one, label in zip(photos, together, strict=True):
        assert_alike(made.label([one])[0].value, label.value)
    made.release()
    assert_alike(made.label(photos[:1])[0].value, together[0].value)


def assert_alike(found: Any, expected: Any) -> None:
    """The same boxes, classes and scores up to rounding, which may swap two of almost one score."""
    assert (found is None) == (expected is None)
    if expected is None:
        return
    assert len(found.boxes_N4) == len(expected.boxes_N4)
    assert np.abs(found.scores_N - expected.scores_N).max() < 1e-4
    apart_NN = np.abs(found.boxes_N4[:, None] - expected.boxes_N4).max(axis=2)
    apart_NN += 1e6 * (found.class_ids_N[:, None] != expected.class_ids_N)
    apart_NN += 100 * np.abs(found.scores_N[:, None] - expected.scores_N)  # 1e-4 of score weighs as much as 1e-2 pixels
    assert apart_NN.min(axis=0).max() < 2e-2 and apart_NN.min(axis=1).max() < 2e-2


@pytest.mark.parametrize("ending", [".pkl", ".pth"])
def test_labels_are_those_of_detectron2s_own_predictor(tmp_path: Path, ending: str) -> None:
    """DefaultPredictor reads the same file by itself, with its own loader. The photo needs no resizing, which Pillow does there."""
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor

    local = {} if ending == ".pkl" else {"checkpoint": str(tmp_path / "run" / "model_final.pth")}
    made = seeded(tmp_path / "weights", config=MASK, masks=True, min_score=0.3, **local)
    one = photo(SIDE, 128)
    (label,) = made.label([one])

    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / MASK))
    cfg.merge_from_list([part for pair in NARROW_YAML.items() for part in pair])
    cfg.MODEL.WEIGHTS = str(made.folder.path(made.checkpoint) / made.checkpoint.files[0].path)
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.MIN_SIZE_TEST = SIDE
    found = DefaultPredictor(cfg)(np.ascontiguousarray(one.pixels_HW3[:, :, ::-1]))["instances"]

    found = found[found.scores > 0.3]
    assert label.status == "ok" and len(found) == len(label.value.boxes_N4) > 10
    expected = Instances(
        boxes_N4=found.pred_boxes.tensor.numpy(), scores_N=found.scores.numpy(), class_ids_N=found.pred_classes.numpy()
    )
    assert_alike(label.value, expected)
    differing = pixels = 0
    corners = label.value.boxes_N4
    for png, (left, top, right, bottom), mask_HW in zip(
        label.value.masks, corners, found.pred_masks.numpy(), strict=True
    ):
        crop_hw = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) > 0
        rows, columns = slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))
        assert crop_hw.shape == mask_HW[rows, columns].shape and mask_HW.sum() == mask_HW[rows, columns].sum()
        differing += int((crop_hw != mask_HW[rows, columns]).sum())
        pixels += int(crop_hw.sum())
    assert pixels > 1000 and differing <= 1e-3 * pixels


def test_boxes_are_the_same_with_and_without_masks(weights: Path) -> None:
    with_masks, without = seeded(weights, config=MASK, masks=True), seeded(weights, config=MASK)
    one = photo(90, 120)
    assert_alike(with_masks.label([one])[0].value, without.label([one])[0].value)
    with pytest.raises(ValueError, match="makes none; choose one of COCO-InstanceSegmentation"):
        seeded(weights, config=FASTER, masks=True).load("cpu")


def test_mixed_precision_keeps_the_corners_of_regions(weights: Path) -> None:
    from detectron2.structures import Boxes

    made = seeded(weights, config=FASTER)
    made.load("cpu")
    pooler = made._network.roi_heads.box_pooler
    features = [torch.rand(1, 32, 1344 // stride, 1344 // stride).half() for stride in (4, 8, 16, 32)]
    regions = [Boxes(torch.tensor([[1201.3, 1111.7, 1230.2, 1140.4]]))]
    exact = pooler([level.float() for level in features], regions)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(pooler(features, regions), exact)
    rounded = [Boxes(regions[0].tensor.half().float())]
    assert (pooler([level.float() for level in features], rounded) - exact).abs().max() > 0.01


def test_mixed_precision_spares_deformable_convolutions(weights: Path) -> None:
    made = seeded(weights, config="Misc/mask_rcnn_R_50_FPN_3x_dconv_c3-c5.yaml")
    one = photo(90, 120)
    made.load("cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (label,) = made.label([one])
    assert made.card.spec.problem_with(label, height=90, width=120) is None and label.status == "ok"


def test_a_photo_is_resized_as_detectron2_does(weights: Path) -> None:
    """Its Pillow rounds to whole grey levels after each direction, ours does not: boxes of sure scores hardly move."""
    from detectron2.data.transforms import ResizeShortestEdge

    made = seeded(weights, config=FASTER)
    for height, width in ((480, 640), (500, 333), (97, 96), (1200, 500)):
        one = photo(height, width)
        size = made.preprocess.size(height, width)
        (ours_3hw,) = made.inputs([one], size)
        transform = ResizeShortestEdge(SIDE, 160).get_transform(one.pixels_HW3)
        theirs_hw3 = transform.apply_image(np.ascontiguousarray(one.pixels_HW3[:, :, ::-1]))
        assert theirs_hw3.shape[:2] == size
        assert np.abs(ours_3hw.permute(1, 2, 0).numpy() - theirs_hw3).max() <= 1.5


def test_a_project_registers_itself_and_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As UniDet: its YAML has keys that its function adds, its network is known once its module is imported."""
    (tmp_path / "my_project.py").write_text(
        "from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN\n"
        "def add_my_config(cfg):\n    cfg.MODEL.MY_KEY = 0\n"
        "@META_ARCH_REGISTRY.register()\nclass MyRCNN(GeneralizedRCNN):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        f"_BASE_: {CONFIGS / 'Base-RCNN-FPN.yaml'}\n"
        "MODEL:\n  META_ARCHITECTURE: MyRCNN\n  MY_KEY: 5\n  WEIGHTS: detectron2://ImageNetPretrained/MSRA/R-50.pkl\n"
        "  MASK_ON: False\n  RESNETS: {DEPTH: 50}\n  ROI_HEADS: {NUM_CLASSES: 2}\nINPUT: {FORMAT: RGB}\n"
    )
    options: dict[str, Any] = {
        "config": str(tmp_path / "mine.yaml"),
        "checkpoint": str(tmp_path / "model.pth"),
        "class_names": ["cat", "dog"],
        "imports": ["my_project", "my_project:add_my_config"],
    }
    made = seeded(tmp_path / "weights", **options)
    (label,) = made.label([photo(90, 120)])
    assert type(made._network).__name__ == "MyRCNN" and made.preprocess.channels == "RGB"
    assert made.card.spec.problem_with(label, height=90, width=120) is None and label.status == "ok"
    for change, message in (
        ({"imports": []}, "cannot build .*mine.yaml .*MY_KEY.*`imports:`"),
        ({"imports": ["my_projct"]}, "imports: 'my_projct' cannot be imported .*PYTHONPATH"),
        ({"imports": ["my_project:add"]}, "imports: 'my_project:add' cannot be imported"),
        ({"class_names": ["cat"]}, "mine.yaml has 2 classes, class_names has 1"),
        ({"overrides": {"MODEL.NO_KEY": 1}}, "cannot build .*NO_KEY"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            Detection(weights_folder=str(tmp_path / "weights"), side=SIDE, **{**options, **change}).load("cpu")
        assert "\n" not in str(caught.value)


def test_a_lazy_config_that_wants_another_input_is_not_fed_the_usual_one(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import detectron2, os\nfrom detectron2.config import LazyConfig\n"
        "base = LazyConfig.load(os.path.join(os.path.dirname(detectron2.__file__), 'model_zoo', 'configs', 'new_baselines',\n"
        "    'mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ.py'))\n"
        "model, dataloader = base.model, base.dataloader\nmodel.input_format = 'RGB'\n"
        "dataloader.test.mapper.augmentations[0].short_edge_length = 1024\n"
    )
    usual = {"config": str(tmp_path / "mine.py"), "checkpoint": "run/model.pkl", "class_names": list("ab") * 40}
    right = {"INPUT.MIN_SIZE_TEST": 1024, "INPUT.FORMAT": "RGB"}
    made = seeded(tmp_path / "weights", **usual, overrides=right)
    made.load("cpu")
    assert (made.preprocess.side, made.preprocess.channels) == (SIDE, "RGB")
    assert made.card.spec.problem_with(made.label([photo(90, 120)])[0], height=90, width=120) is None
    message = r"mine.py says INPUT.FORMAT: RGB, INPUT.MIN_SIZE_TEST: 1024; .* put `overrides: \{INPUT.FORMAT: RGB, INPUT.MIN_SIZE_TEST: 1024\}`"
    with pytest.raises(ValueError, match=message):
        Detection(weights_folder=str(tmp_path / "weights"), side=SIDE, **usual).load("cpu")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    made = seeded(tmp_path, config=FASTER)
    path = made.folder.path(made.checkpoint) / made.checkpoint.files[0].path
    found = pickle.loads(path.read_bytes())
    found["model"].pop("roi_heads.box_head.fc1.bias")
    found["model"]["roi_heads.box_head.fc9.bias"] = np.zeros(3, np.float32)
    path.write_bytes(pickle.dumps(found))
    made.folder.record(made.checkpoint, source="seeded random weights")
    with pytest.raises(ValueError, match=r"1 missing, the first is roi_heads.box_head.fc1.bias; 1 unknown, .*fc9.bias"):
        made.load("cpu")


def test_weights_named_otherwise_are_matched_by_likeness(tmp_path: Path) -> None:
    """As detectron2 does for files that say so: names need only end alike."""
    made = seeded(tmp_path, config="COCO-Detection/retinanet_R_50_FPN_3x.yaml")
    one = photo(90, 120)
    (before,) = made.label([one])
    path = made.folder.path(made.checkpoint) / made.checkpoint.files[0].path
    found = pickle.loads(path.read_bytes())
    names = {name: name.removeprefix("backbone.bottom_up.") for name in found["model"]}
    found["model"] = {names[name]: value for name, value in found["model"].items()}
    path.write_bytes(pickle.dumps({**found, "matching_heuristics": True}))
    made.folder.record(made.checkpoint, source="seeded random weights")
    again = Detection(config="COCO-Detection/retinanet_R_50_FPN_3x.yaml", weights_folder=str(tmp_path), side=SIDE)
    assert_alike(again.label([one])[0].value, before.value)


@pytest.mark.parametrize("ending", ["pkl", "pth"])
def test_a_file_of_weights_has_no_say_in_what_is_run(tmp_path: Path, ending: str) -> None:
    """A LazyConfig names functions to call. A file that brings names of its own along must not add to them."""
    mark = tmp_path / "was_run"
    options = {"side": SIDE, "checkpoint": f"https://example.org/run/model_final.{ending}"}
    made = seeded(tmp_path, **options)
    path = made.folder.path(made.checkpoint) / made.checkpoint.files[0].path
    call = {"model.backbone.was_run": {"_target_": "os.system", "command": f"touch {mark}"}}
    found = pickle.loads(path.read_bytes()) if ending == "pkl" else torch.load(path)
    found |= {"overrides": call, "narrow": call}
    path.write_bytes(pickle.dumps(found)) if ending == "pkl" else torch.save(found, path)
    made.folder.record(made.checkpoint, source="seeded random weights")
    with pytest.raises(ValueError, match="holds another network's weights"):  # narrow ones, for the network as it is
        Detection(weights_folder=str(tmp_path), **options).load("cpu")
    assert not mark.exists()


def test_a_zoo_that_was_changed_is_noticed(tmp_path: Path) -> None:
    changed = tmp_path / "faster.yaml"
    changed.write_text((CONFIGS / FASTER).read_text().replace("../Base", f"{CONFIGS}/Base") + "\nSEED: 3\n")
    with pytest.raises(ValueError, match="the installed detectron2 has another COCO-Detection/faster"):
        check_zoo_file(FASTER, changed)


def test_prismers_recipe_feeds_bgr_at_480(weights: Path) -> None:
    made = seeded(weights, config=FASTER, overrides={"INPUT.FORMAT": "RGB"}, recipe="prismer", side=None)
    one = photo(60, 80)
    assert made.preprocess.size(one.height, one.width) == (360, 480)
    (image_3hw,) = made.inputs([one], (360, 480))
    means_3 = image_3hw.mean(dim=(1, 2)).numpy()
    assert np.allclose(means_3, one.pixels_HW3.mean(axis=(0, 1))[::-1], atol=1)
    assert read_configuration(FASTER).channels == "BGR" and torch.isfinite(image_3hw).all()
    assert made.card.spec.problem_with(made.label([one])[0], height=60, width=80) is None
