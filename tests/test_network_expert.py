"""What NetworkExpert does for every expert with a torch network: grouping, loading, releasing, seeding."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from expert_zoo import catalog, scene_specs
from expert_zoo.card import ExpertCard
from expert_zoo.expert import Photo
from expert_zoo.labels import DenseMap, Label
from expert_zoo.networks.network_expert import NetworkExpert, to_host
from expert_zoo.networks.preprocess import Preprocess
from expert_zoo.networks.seeding import seed
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile
from expert_zoo.weights.folder import WeightsFolder

GAIN = Checkpoint(
    name="gain",
    repo="somebody/gain",
    files=(CheckpointFile(path="gain.pt"),),
    licence="MIT",
    commercial_use=True,
    page="none",
)


class Gain(NetworkExpert):
    """A 1x1 convolution of the photo: the smallest network with weights."""

    def __init__(
        self, *, weights_folder: str | None = None, precision: str = "auto", compile: bool = False, name: str = "gain"
    ) -> None:
        super().__init__(
            checkpoint=GAIN,
            preprocess=Preprocess(fit="long_side", side=32, multiple=8),
            weights_folder=weights_folder,
            precision=precision,
            compile=compile,
        )
        self.batches: list[int] = []
        self.card = ExpertCard(
            name=name,
            summary="for tests",
            network="1x1 convolution",
            weights=self.weights,
            preprocessing=self.preprocess.card() | {"precision": self.precision_rule},
            spec=scene_specs.EDGE,
            licence="MIT",
            commercial_use=True,
        )

    def _build(self, folder: Path) -> nn.Module:
        network = nn.Conv2d(3, 1, 1, bias=False)
        network.load_state_dict(torch.load(folder / "gain.pt", weights_only=True))
        return network

    def _say(self, images_B3hw: Tensor, photos: Sequence[Photo]) -> list[Label]:
        self.batches.append(len(photos))
        (maps_BHW,) = to_host(self._network(images_B3hw)[:, 0])
        return [Label.ok(DenseMap(map_HW)) for map_HW in maps_BHW]

    def seed(self, folder: Path, *, small: bool) -> None:
        torch.save({"weight": torch.full((1, 3, 1, 1), 0.25)}, folder / "gain.pt")


class Gain2(Gain):
    """Another expert on the same checkpoint."""

    def __init__(self, *, weights_folder: str | None = None) -> None:
        super().__init__(weights_folder=weights_folder, name="gain2")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder with the seeded checkpoint, and both experts in the catalog."""
    monkeypatch.setitem(catalog.EXPERTS, "gain", f"{__name__}:Gain")
    monkeypatch.setitem(catalog.EXPERTS, "gain2", f"{__name__}:Gain2")
    seed(["gain"], root=tmp_path / "weights")
    return tmp_path / "weights"


def photo(height: int, width: int, level: int) -> Photo:
    return Photo(image_id=f"p{level}", uri="x", pixels_HW3=np.full((height, width, 3), level, np.uint8))


def test_photos_of_one_input_size_are_computed_together_and_come_back_in_order(root: Path) -> None:
    expert = Gain(weights_folder=str(root))
    photos = [photo(64, 48, 10), photo(48, 64, 20), photo(640, 480, 30), photo(64, 64, 40), photo(96, 128, 50)]
    labels = expert.label(photos)
    assert expert.batches == [2, 2, 1]
    shapes = [label.value.values.shape for label in labels]  # type: ignore[union-attr]
    assert shapes == [(32, 24), (24, 32), (32, 24), (32, 32), (24, 32)]
    levels = [float(label.value.values.mean()) * 255 / 0.75 for label in labels]  # type: ignore[union-attr]
    assert np.allclose(levels, [10, 20, 30, 40, 50], atol=1e-3)


def test_release_gives_the_network_back_and_label_loads_it_again(root: Path) -> None:
    expert = Gain(weights_folder=str(root))
    expert.load("cpu")
    network = weakref.ref(expert._network)
    expert.release()
    gc.collect()
    assert network() is None
    assert expert.label([photo(8, 8, 255)])[0].status == "ok"


def test_missing_damaged_and_unrecorded_weights_are_told_apart(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights fetch --experts gain"):
        Gain(weights_folder=str(tmp_path / "nowhere")).load("cpu")
    with pytest.raises(ValueError, match="weights fetch --experts gain"):
        _ = Gain(weights_folder=str(tmp_path / "nowhere")).card.version
    file = root / "gain" / "gain.pt"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        Gain(weights_folder=str(root)).load("cpu")
    (root / "weights.lock").unlink()
    with pytest.raises(ValueError, match=r"files lie in .*, but there is no .*weights\.lock"):
        Gain(weights_folder=str(root)).load("cpu")


def test_weights_and_options_decide_the_version(root: Path, tmp_path: Path) -> None:
    version = Gain(weights_folder=str(root)).card.version
    assert Gain(weights_folder=str(root), precision="float32").card.version != version
    assert Gain(weights_folder=str(root), compile=True).card.version == version  # a matter of speed
    other = WeightsFolder(tmp_path / "other")
    other.path(GAIN).mkdir(parents=True)
    torch.save({"weight": torch.zeros(1, 3, 1, 1)}, other.path(GAIN) / "gain.pt")
    other.record(GAIN, source="by hand")
    assert Gain(weights_folder=str(other.root)).card.version != version


@pytest.mark.parametrize("wrong", [{"precision": "float8"}, {"compile": "yes"}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Gain(**wrong)  # type: ignore[arg-type]


def test_seeding_shares_checkpoints_and_never_writes_over_real_weights(root: Path) -> None:
    kept = (root / "gain" / "gain.pt").stat().st_mtime_ns
    seed(["gain", "gain2", "image"], root=root)
    assert (root / "gain" / "gain.pt").stat().st_mtime_ns == kept
    WeightsFolder(root).record(GAIN, source="somebody/gain", revision="0" * 40)
    with pytest.raises(ValueError, match="name another"):
        seed(["gain"], root=root)


def test_half_precision_comes_back_as_float32() -> None:
    arrays = to_host(torch.ones(2, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.int64), torch.ones(4).half())
    assert [array.dtype.name for array in arrays] == ["float32", "int64", "float32"]
