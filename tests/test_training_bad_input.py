"""What is wrong with a store, a checkpoint or a loss: one line of error each, in the words that a user reads, and nothing overwritten."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from expert_zoo.labels import Label
from pipeline.store import LabelStore
from tests.small_store import Discs, Signs, small_store
from tests.stand_ins import Darkness, Grey
from tests.test_training_prismer import Shades
from trainer.embeddings.writing import Means, embed
from trainer.launch import main

LABELS = {"depth": "grey", "seg": "darkness"}
COLUMN = r"@[0-9a-f]{10}"


pytestmark = pytest.mark.usefixtures("one_thread")


def embedded(folder: Path, *experts: Any, photos: int = 8) -> Path:
    """``folder`` with a store of these experts' labels, and the vectors of what they name."""
    folder.mkdir(parents=True, exist_ok=True)
    store = small_store(folder, experts, photos=photos, shard_size=4)
    embed(store, str(folder / "embeddings"), means=Means(method="random"), say=lambda _: None)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded(tmp_path_factory.mktemp("labelled"), Grey(), Darkness())


@pytest.fixture(scope="module")
def run(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps, kept."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(sections(place)))
    assert main([str(folder / "recipe.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def sections(place: Path, **changes: Any) -> dict[str, Any]:
    shape = {"size": "tiny", "experts": list(LABELS), "resolution": 32, "label_resolution": 32}
    found: dict[str, Any] = {
        "method": shape | {"embeddings": str(place / "embeddings")},
        "data": {"store": str(place / "store"), "labels": LABELS, "workers": 0},
        "batch": {"size": 4, "most_per_rank": 4},
        "steps": 2,
        "schedule": {"peak": 1e-3},
        "device": "cpu",
        "log": {"every": 1, "tensorboard": False},
    }
    for name, change in changes.items():
        found[name] = found[name] | change if isinstance(change, dict) and name in found else change
    return found


def told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, recipe: dict[str, Any], *, into: Path | None = None
) -> str:
    """What the command says before it ends: the error, alone. ``into``: the run of which every file must stay as it is."""
    tmp_path.mkdir(exist_ok=True)
    file, folder = tmp_path / "recipe.yaml", into or tmp_path / "run"
    file.write_text(yaml.safe_dump(recipe))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    capsys.readouterr()
    assert main([str(file), "--out", str(folder)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert {path: path.read_bytes() for path in before} == before
    assert into is not None or not (folder / "checkpoints").exists()
    return errors[0].removeprefix("error: ")


def test_a_store_of_other_experts_than_the_checkpoint_s(
    capsys: pytest.CaptureFixture[str], place: Path, run: Path, tmp_path: Path
) -> None:
    fewer = sections(place, data={"labels": {"depth": "grey"}}, start_from=str(run))
    assert re.fullmatch(
        f"the labels to read are those of depth; {run}/checkpoints/step-00000002 was trained on those of depth, seg: "
        "name labels of the same experts, or another checkpoint",
        told(capsys, tmp_path, fewer),
    )
    other = embedded(tmp_path / "other", Darkness())
    there = sections(place, data={"store": str(other / "store")})
    assert re.fullmatch(
        rf".*/other/store has no column 'grey'; name one of: darkness{COLUMN}", told(capsys, tmp_path, there, into=run)
    )


def test_a_store_of_another_class_list(
    capsys: pytest.CaptureFixture[str], place: Path, run: Path, tmp_path: Path
) -> None:
    other = embedded(tmp_path / "other", Grey(), Shades())
    theirs = {"data": {"store": str(other / "store"), "labels": LABELS | {"seg": "shades"}}}
    without = sections(place, **theirs)
    assert re.fullmatch(
        rf"`method`: .*/embeddings has no embeddings of the 3 classes of shades{COLUMN}; run `expert-labels embed` on the store "
        "whose labels are to be used",
        told(capsys, tmp_path, without, into=run),
    )
    of_theirs = sections(other, **theirs)
    expected = (
        rf"shades{COLUMN} has 3 classes; {run}/checkpoints/step-00000002 was trained on 2 of darkness{COLUMN}, and they are not the "
        "same by name and order: label with the same class list, or name another checkpoint"
    )
    assert re.fullmatch(expected, told(capsys, tmp_path, of_theirs, into=run))
    assert re.fullmatch(expected, told(capsys, tmp_path, of_theirs | {"start_from": str(run)}))


def test_a_truncated_shard(capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path) -> None:
    """Found where it is read, in this process or in one of its own."""
    shutil.copytree(place, tmp_path / "copy")
    store = LabelStore.open(str(tmp_path / "copy" / "store"))
    column = store.column_of("grey")
    for shard in store.plan.shards():
        tar = store.receipt(column, shard).tar
        assert tar is not None
        path = Path(store.storage.url) / store.folder(column) / tar.name
        path.write_bytes(path.read_bytes()[:700])
    for workers in (0, 1):
        cut = sections(tmp_path / "copy", data={"workers": workers})
        assert re.fullmatch(
            rf"grey{COLUMN}, image photo.*: the tar ends after \d+ of \d+ bytes; `expert-labels audit --deep --repair` takes the cell "
            "back",
            told(capsys, tmp_path / str(workers), cut),
        )


def test_an_empty_store(capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path) -> None:
    shutil.copytree(place, tmp_path / "copy")
    store = LabelStore.open(str(tmp_path / "copy" / "store"))
    for index in (0, 1):
        store.storage.delete(f"{store.folder(store.column_of('grey'))}/shard-00000{index}.json")
    assert re.fullmatch(
        rf"grey{COLUMN} of .*/store has no committed cell, so there is no label for depth; expected some: run `expert-labels label`, "
        "or leave it out",
        told(capsys, tmp_path, sections(tmp_path / "copy")),
    )
    nothing = sections(place, data={"splits": ["val"]})
    assert re.fullmatch(
        r"none of the 8 images of .*/store is selected; expected one or more: look at the manifest's splits and captions, or select "
        "otherwise",
        told(capsys, tmp_path, nothing),
    )
    gone = sections(place, data={"store": str(tmp_path / "nowhere")})
    assert re.match(r"no store at .*/nowhere", told(capsys, tmp_path, gone))


def test_a_loss_that_is_no_number(capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path) -> None:
    wild = sections(place, steps=60, schedule={"peak": 1e6}, optimizer={"weight_decay": 1e6})
    assert re.fullmatch(
        r"step \d+: (the loss is nan|the loss is -?inf|the gradients are not finite \(loss .*\)) in a batch of (photo-\S+(, )?)+ "
        r"\(learning rate \S+\); there is no checkpoint yet: look at these images and their labels, or lower `schedule.peak`, set "
        "`optimizer.clip`, allow `skip_bad_steps`",
        told(capsys, tmp_path, wild),
    )


def test_a_checkpoint_of_another_size(
    capsys: pytest.CaptureFixture[str], place: Path, run: Path, tmp_path: Path
) -> None:
    larger = sections(place, method={"label_resolution": 48})
    assert re.fullmatch(
        f"`method.label_resolution` is 48; {run}/checkpoints/step-00000002 was trained with 32: expected the same recipe to go on; "
        "give the run another folder, with `start_from` for its weights",
        told(capsys, tmp_path, larger, into=run),
    )
    more = sections(place, method={"experts": ["depth", "seg", "edge"]}, start_from=str(run))
    assert re.fullmatch(
        f"`start_from`: {run}/checkpoints/step-00000002: another model's weights: \\d+ tensors differ, such as "
        r"model\.encoder\.stems\.edge\.\S+, which is not there; expected .*",
        told(capsys, tmp_path, more),
    )


class Broken(Grey):
    def label(self, photos: object) -> list[Label]:
        raise RuntimeError("out of order")


def test_a_column_that_has_only_failures(capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path) -> None:
    embedded(tmp_path / "broken", Broken(), Darkness())
    assert re.fullmatch(
        rf"all 8 labels of grey{COLUMN} in the 2 shards looked at failed \(expert raised\), so there is nothing to learn "
        "from for depth; expected labels: run `expert-labels retry`, or leave it out",
        told(capsys, tmp_path, sections(tmp_path / "broken")),
    )


def test_labels_of_a_kind_that_a_modality_cannot_show(
    capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path
) -> None:
    other = embedded(tmp_path / "other", Grey(), Discs(), Signs())
    wrong = sections(other, data={"labels": {"depth": "discs", "seg": "signs"}})
    assert re.match(r"`method`: depth cannot be shown by discs", told(capsys, tmp_path, wrong))
