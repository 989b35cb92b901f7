"""What the expert `detection` knows and refuses without detectron2: configurations, weights, rules, labels."""

from __future__ import annotations

import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from expert_zoo.classes import class_names
from expert_zoo.detection import DEFAULT, Detection
from expert_zoo.detectron.checkpoint import checkpoint_of
from expert_zoo.detectron.configuration import lazy_digest, read_configuration, yaml_digest
from expert_zoo.detectron.network import leave_out, put_weights
from expert_zoo.detectron.weight_file import WeightFile, read_weight_file
from expert_zoo.detectron.zoo import zoo_models
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


# Configurations


def test_a_driver_without_detectron2_knows_the_model_zoo() -> None:
    assert len(zoo_models()) == 61
    made = read_configuration(FASTER)
    assert (made.short, made.long, made.channels, made.coco, made.parameters) == (800, 1333, "BGR", True, 41_699_936)
    assert made.weights == (
        "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl"
    )
    assert not read_configuration("Cityscapes/mask_rcnn_R_50_FPN.yaml").coco


def test_a_yaml_is_read_with_its_chain_and_nothing_in_it_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "was_run"
    write(
        tmp_path / "base.yaml",
        f"MODEL:\n  WEIGHTS: detectron2://a/b.pkl\n  ANCHORS: !!python/object/apply:eval [\"open('{mark}', 'w')\"]\n"
        'INPUT: {MIN_SIZE_TEST: 640, FORMAT: RGB}\nDATASETS:\n  TEST: ("coco_2017_val",)\n',
    )
    path = write(tmp_path / "deep" / "top.yaml", "_BASE_: ../base.yaml\nINPUT: {MAX_SIZE_TEST: 1000}\n")
    made = read_configuration(path)
    assert (made.short, made.long, made.channels, made.coco) == (640, 1000, "RGB", True)
    assert made.weights == "detectron2://a/b.pkl" and not mark.exists()
    lvis = write(tmp_path / "lvis.yaml", "_BASE_: base.yaml\nDATASETS: {TEST: \"('coco_2017_val', 'lvis_v1_val')\"}\n")
    assert not read_configuration(lvis).coco


def test_the_digest_of_a_yaml_is_that_of_what_it_says(tmp_path: Path) -> None:
    def digest(base: str, top: str) -> str:
        write(tmp_path / "base.yaml", base)
        return read_configuration(write(tmp_path / "top.yaml", top)).digest

    before = digest("MODEL: {DEPTH: 50}", "_BASE_: base.yaml\nMODEL: {FPN: {OUT: 256}}")
    assert before == digest(
        "# a remark\nMODEL:\n  DEPTH: 50", "MODEL: {WEIGHTS: there.pkl, FPN: {OUT: 256}, DEPTH: 50}"
    )
    assert before != digest("MODEL: {DEPTH: 101}", "_BASE_: base.yaml\nMODEL: {FPN: {OUT: 256}}")
    assert before != digest("MODEL: {DEPTH: 50}", "_BASE_: base.yaml\nMODEL: {FPN: {OUT: 128}}")


def test_the_digest_of_a_lazy_config_follows_its_relative_imports(tmp_path: Path) -> None:
    part = tmp_path / "parts" / "model.py"
    path = tmp_path / "configs" / "mine.py"
    write(part, "model = dict(depth=50)\n")
    write(path, "from ..parts.model import model\nimport detectron2\n")
    before = lazy_digest(path)
    assert read_configuration(str(path)).digest == before
    write(part, "model = dict(depth=101)\n")
    assert lazy_digest(path) != before
    part.unlink()
    with pytest.raises(ValueError, match=r"configuration .*parts/model.py cannot be read: No such file"):
        lazy_digest(path)


def test_overrides_are_the_last_word_on_the_input(tmp_path: Path) -> None:
    lazy = write(tmp_path / "mine.py", "model = None\n")
    assert (read_configuration(lazy).short, read_configuration(lazy).channels) == (800, "BGR")
    made = read_configuration(lazy, {"INPUT.MIN_SIZE_TEST": 1024, "INPUT.MAX_SIZE_TEST": 1024, "INPUT.FORMAT": "RGB"})
    assert (made.short, made.long, made.channels) == (1024, 1024, "RGB")
    assert read_configuration(FASTER, {"INPUT.MIN_SIZE_TEST": 500}).short == 500


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("COCO-Detection/faster_rcnn_R_50_FPN.yaml", None, "neither a file nor .* did you mean COCO-Detection/faster_rcnn_R_50_FPN_"),
        ("nothing.yaml", None, "neither a file nor one of detectron2's model zoo"),
        ("weights.pkl", None, "expected a .yaml, .yml or .py"),
        ("bad.yaml", "a: [", "bad.yaml cannot be read: while parsing"),
        ("list.yaml", "[1]", "is no mapping"),
        ("far.yaml", "_BASE_: https://x.org/y.yaml", "has _BASE_: 'https://x.org/y.yaml'"),
        ("self.yaml", "_BASE_: self.yaml", "16 in a row at most"),
        ("lost.yaml", "_BASE_: gone.yaml", "gone.yaml cannot be read: No such file"),
        ("bad.py", "model = (", "bad.py cannot be read"),
        ("zero.yaml", "INPUT: {MIN_SIZE_TEST: 0}", "has INPUT.MIN_SIZE_TEST: 0; expected pixels"),
        ("grey.yaml", "INPUT: {FORMAT: L}", "has INPUT.FORMAT: 'L'; expected RGB or BGR"),
    ],
)  # fmt: skip
def test_a_bad_configuration_is_one_line(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    where = name if text is None else write(tmp_path / name, text)
    with pytest.raises(ValueError, match=message) as caught:
        read_configuration(where)
    assert "\n" not in str(caught.value)


# Checkpoints


def test_a_checkpoint_is_called_after_where_it_lies(tmp_path: Path) -> None:
    zoo = checkpoint_of(read_configuration(FASTER), None)
    assert zoo.name == "detectron2-137849458-model_final_280758"
    assert (zoo.files[0].path, zoo.licence, zoo.commercial_use) == ("model_final_280758.pkl", "CC-BY-SA-3.0", True)

    mine = write(tmp_path / "mine.yaml", "MODEL: {WEIGHTS: 'detectron2://X/1/model_final_f.pkl'}")
    named = checkpoint_of(read_configuration(mine), None)
    assert named.files[0].url == "https://dl.fbaipublicfiles.com/detectron2/X/1/model_final_f.pkl"

    elsewhere = checkpoint_of(read_configuration(mine), "https://example.org/a%20b/best.pth?download=1")
    assert elsewhere.name == "detectron2-a-20b-best" and elsewhere.files[0].path == "best.pth"
    assert not elsewhere.commercial_use and "not known" in elsewhere.licence

    local = checkpoint_of(read_configuration(mine), str(tmp_path / "run 7" / "model_final.pth"))
    assert local.name == "detectron2-run-7-model_final" and local.files[0].url == ""
    assert local.page == str(tmp_path / "run 7" / "model_final.pth")


@pytest.mark.parametrize(
    ("said", "given", "message"),
    [
        ("{}", None, "names no weights of a whole network \\(none\\); name them by `checkpoint:`"),
        ("{WEIGHTS: 'detectron2://ImageNetPretrained/MSRA/R-50.pkl'}", None, "ImageNetPretrained.*`checkpoint:`"),
        ("{}", "catalog://Caffe2Detectron/x/model_final.pkl", "expected a URL or a path that ends in .pkl, .pth, .pt"),
        ("{}", "model.safetensors", "expected a URL or a path that ends in .pkl, .pth, .pt"),
    ],
)
def test_weights_that_cannot_be_meant(tmp_path: Path, said: str, given: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checkpoint_of(read_configuration(write(tmp_path / "mine.yaml", f"MODEL: {said}")), given)


# Files of weights


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_of_arrays_is_read(tmp_path: Path, protocol: int) -> None:
    values = OrderedDict(w=np.arange(6, dtype=np.float32).reshape(2, 3).T, n=np.array(7), h=np.ones(2, np.float16))
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": values, "__author__": "me", "blob": b"\xff"}, protocol=protocol))
    found = read_weight_file(path)
    assert not found.by_likeness and set(found.values) == {"w", "n", "h"}
    for name, array in values.items():
        assert np.array_equal(found.values[name].numpy(), array) and found.values[name].numpy().dtype == array.dtype


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """As cPickle of Python 2 wrote {"blobs": {"conv1_w": array([1., 2.], float32), "conv1_w_momentum": ...}}."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\n"
        b"tcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
        b"S'\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntb"
    )
    path = tmp_path / "model.pkl"
    path.write_bytes(b"(dS'blobs'\n(dS'conv1_w'\n" + array + b"sS'conv1_w_momentum'\n" + array + b"ss.")
    found = read_weight_file(path)
    assert found.by_likeness and found.caffe2
    assert {name: value.tolist() for name, value in found.values.items()} == {"conv1_w": [1.0, 2.0]}


class Runs:
    """Pickled, it is a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def malicious(mark: Path) -> dict[str, Any]:
    import os

    command = f"touch {mark}"
    objects = np.empty(1, object)
    objects[0] = Runs(os.system, command)
    return {
        "os.system": Runs(os.system, command),
        "eval": {"model": {"w": Runs(eval, f"open({str(mark)!r}, 'w')")}, "__author__": "me"},
        "inside an array": {"model": {"w": objects}, "__author__": "me"},
        "numpy's own loader": {"model": Runs(np.load, str(mark), None, True), "__author__": "me"},
        "getattr": Runs(getattr, np.ndarray, "tofile"),
        "another codec": Runs(__import__("_codecs").encode, "aa", "hex"),
    }


@pytest.mark.parametrize("kind", malicious(Path("nowhere")))
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_that_would_run_something_is_refused_in_one_line(tmp_path: Path, kind: str, protocol: int) -> None:
    mark = tmp_path / "was_run"
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(malicious(mark)[kind], protocol=protocol))
    with pytest.raises(
        ValueError, match=r"model.pkl is refused: it wants (to call|the codec) .*do not open it"
    ) as caught:
        read_weight_file(path)
    assert "\n" not in str(caught.value) and not mark.exists()


def test_the_malicious_pickle_would_have_run(tmp_path: Path) -> None:
    """Else the test before would be about nothing."""
    mark = tmp_path / "was_run"
    pickle.loads(pickle.dumps(malicious(mark)["os.system"]))
    assert mark.exists()


def test_a_torch_file_that_would_run_something_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "was_run"
    torch.save({"model": malicious(mark)["os.system"]}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="model.pth is no file of weights"):
        read_weight_file(tmp_path / "model.pth")
    assert not mark.exists()


@pytest.mark.parametrize("outer", [True, False])
def test_a_torch_file_is_read(tmp_path: Path, outer: bool) -> None:
    values = {"module.w": torch.arange(3.0)}
    torch.save({"model": values, "iteration": 5} if outer else values, tmp_path / "model.pth")
    found = read_weight_file(tmp_path / "model.pth")
    assert {name: value.tolist() for name, value in found.values.items()} == {"w": [0.0, 1.0, 2.0]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read: EOFError"),
        (b"\x80\x04garbage", "cannot be read"),
        (pickle.dumps([1]), "holds a list; expected the dictionary"),
        (pickle.dumps({"model": {}, "__author__": "me"}), "holds no arrays of numbers by name"),
        (pickle.dumps({"model": {"w": np.array(["text"])}, "__author__": "me"}), "holds no arrays of numbers by name"),
        (pickle.dumps({"model": [1], "__author__": "me"}), "holds no parameters by name"),
    ],
)
def test_a_damaged_pickle_is_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_weight_file(path)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, pickle.UnpicklingError)


def test_weights_are_put_in_strictly() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    values = {name: value + 1 for name, value in network.state_dict().items() if "num_batches" not in name}
    old = {"anchor_generator.cell_anchors.0": torch.zeros(3, 4), "pixel_mean": torch.zeros(3)}
    put_weights(network, WeightFile(values={**values, **old}, overrides={}), Path("m.pkl"))
    assert all(torch.equal(network.state_dict()[name], value) for name, value in values.items())
    for wrong in (
        {**values, "head.weight": torch.zeros(1)},
        {name: value for name, value in values.items() if name != "0.bias"},
        {**values, "0.bias": torch.zeros(4)},
    ):
        with pytest.raises(ValueError, match=r"m.pkl holds another network's weights: 1 .*(head.weight|0.bias)"):
            put_weights(network, WeightFile(values=wrong, overrides={}), Path("m.pkl"))


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
    assert (
        yaml_digest({"MODEL": {"WEIGHTS": "a", "X": 1}})
        == yaml_digest({"MODEL": {"X": 1}})
        != yaml_digest({"MODEL": {}})
    )
