"""What of detectron2 is read without it: configurations, where their weights lie, and files of weights."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expert_zoo.detection.detectron.checkpoint import checkpoint_of
from expert_zoo.detection.detectron.configuration import lazy_digest, read_configuration, yaml_digest
from expert_zoo.detection.detectron.network import put_weights
from expert_zoo.detection.detectron.weight_file import WeightFile, read_weight_file
from expert_zoo.detection.detectron.zoo import zoo_models

FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


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
    assert re.fullmatch("detectron2-a-20b-best-[0-9a-f]{8}", elsewhere.name) and elsewhere.files[0].path == "best.pth"
    assert not elsewhere.commercial_use and "not known" in elsewhere.licence

    local = checkpoint_of(read_configuration(mine), str(tmp_path / "run 7" / "model_final.pth"))
    assert re.fullmatch("detectron2-run-7-model_final-[0-9a-f]{8}", local.name) and local.files[0].url == ""
    assert local.page == str(tmp_path / "run 7" / "model_final.pth")


def test_two_checkpoints_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run of detectron2 ends with output/model_final.pth: the second one would be taken for the first."""
    faster = read_configuration(FASTER)
    places = [
        "https://a.org/1/output/model_final.pth", "https://a.org/2/output/model_final.pth", "https://b.org/1/output/model_final.pth",
        "https://a.org/1/output/model_final.pkl", "https://a.org/get/model_final.pth?id=1", "https://a.org/get/model_final.pth?id=2",
        "/data/1/output/model_final.pth", "/data/2/output/model_final.pth", f"/{'d' * 150}/model_final.pth", f"/{'d' * 151}/model_final.pth",
    ]  # fmt: skip
    assert len({checkpoint_of(faster, place).name for place in places}) == len(places)
    here = checkpoint_of(faster, "model_final.pth").name
    monkeypatch.chdir(tmp_path)
    assert checkpoint_of(faster, "model_final.pth").name == here, "a worker may start elsewhere"


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
    put_weights(network, WeightFile(values={**values, **old}), Path("m.pkl"))
    assert all(torch.equal(network.state_dict()[name], value) for name, value in values.items())
    for wrong in (
        {**values, "head.weight": torch.zeros(1)},
        {name: value for name, value in values.items() if name != "0.bias"},
        {**values, "0.bias": torch.zeros(4)},
    ):
        with pytest.raises(ValueError, match=r"m.pkl holds another network's weights: 1 .*(head.weight|0.bias)"):
            put_weights(network, WeightFile(values=wrong), Path("m.pkl"))


def test_where_weights_lie_is_no_part_of_a_digest() -> None:
    same = yaml_digest({"MODEL": {"WEIGHTS": "a", "X": 1}})
    assert same == yaml_digest({"MODEL": {"X": 1}}) != yaml_digest({"MODEL": {}})
