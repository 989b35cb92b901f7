"""Prismer through the whole of it: a labelled store, the loader, the loop, the command; killed and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import ClassMap, Label
from expert_zoo.spec import LabelSpec
from pipeline.store import LabelStore
from tests.conftest import ROOT
from tests.small_store import Signs, Slopes, label, small_store
from tests.stand_ins import Darkness, Grey, Squares, card, small
from tests.training_stand_in import curve, ended, kill_after, lines, weights
from trainer.embeddings.writing import Means, embed
from trainer.errors import CheckpointError, NotFinite
from trainer.launch import main, train
from trainer.recipe import Recipe

LABELS = {"depth": "grey", "normal": "slopes", "seg": "darkness", "detection": "squares", "ocr": "signs"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 24 photos with labels of all kinds, some missing, and the vectors of what they name."""
    folder = tmp_path_factory.mktemp("labelled")
    store = small_store(folder, [Grey(), Slopes(), Darkness(), Squares(), Signs()], photos=24, shard_size=8)
    store.storage.delete(f"{store.folder(store.column_of('slopes'))}/shard-000001.json")
    embed(store, str(folder / "embeddings"), means=Means(method="random"), say=lambda _: None)
    return folder


def sections(place: Path, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "method": {
            "size": "tiny",
            "experts": list(LABELS),
            "resolution": 32,
            "label_resolution": 32,
            "embeddings": str(place / "embeddings"),
        },
        "data": {"store": str(place / "store"), "labels": LABELS, "workers": 0},
        "batch": {"size": 4, "most_per_rank": 4},
        "steps": 16,
        "schedule": {"peak": 1e-3},
        "device": "cpu",
        "checkpoints": {"every": 5},
        "log": {"every": 1, "tensorboard": False},
    }
    for name, change in changes.items():
        found[name] = found[name] | change if isinstance(change, dict) and name in found else change
    return found


def recipe(place: Path, **changes: Any) -> Recipe:
    return Recipe.model_validate(sections(place, **changes))


@pytest.fixture(scope="module")
def undisturbed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("undisturbed")
    outcome = train(recipe(place), folder)
    assert outcome.finished
    return folder


def test_a_prismer_learns_from_a_store(place: Path, tmp_path: Path) -> None:
    train(recipe(place, steps=60), tmp_path)
    found = lines(tmp_path)
    assert {"nll", "accuracy"} <= set(found[0])
    assert sum(line["nll"] for line in found[-8:]) < 0.6 * sum(line["nll"] for line in found[:8])


def test_one_batch_is_learned_by_heart(place: Path, tmp_path: Path) -> None:
    """All 24 captions, each of six tokens. Eight photos have two, of which no one can know which is wanted."""
    changes: dict[str, Any] = {
        "steps": 100,
        "batch": {"size": 24, "most_per_rank": 24},
        "data": {"augmentation": None, "per": "text"},
        "method": {"smoothing": 0.0},
        "schedule": {"peak": 1e-3, "warm_up": 10},
        "log": {"every": 10},
    }
    train(recipe(place, **changes), tmp_path)
    assert lines(tmp_path)[-1]["accuracy"] == pytest.approx(1 - 8 / (24 * 6), abs=0.01)


def test_what_decides_the_run_is_in_its_checkpoint(place: Path, undisturbed: Path) -> None:
    about = json.loads((undisturbed / "checkpoints" / "step-00000016" / "checkpoint.json").read_text())
    assert Recipe.model_validate(about["recipe"]) == recipe(place)
    assert about["step"] == 16 and about["ranks"] == 1 and about["packages"]["torch"]
    store = LabelStore.open(str(place / "store"))
    assert about["store"]["examples"].startswith(store.plan.fingerprint) and about["store"]["images"] == 24
    assert {name: entry["column"] for name, entry in about["store"]["columns"].items()} == {
        modality: store.column_of(name) for modality, name in LABELS.items()
    }
    assert Recipe.model_validate(yaml.safe_load((undisturbed / "recipe.yaml").read_text())) == recipe(place)


def command(place: Path, folder: Path, **changes: Any) -> subprocess.Popen[str]:
    file = folder.parent / f"{folder.name}.yaml"
    file.write_text(yaml.safe_dump(sections(place, **changes)))
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.launch", str(file), "--out", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_killed_with_its_loader_it_goes_on_exactly(place: Path, undisturbed: Path, tmp_path: Path) -> None:
    """It reads with another number of worker processes before and after."""
    folder = tmp_path / "run"
    process = command(place, folder, data={"workers": 2}, steps=16)
    kill_after([process], folder, step=7, number=signal.SIGKILL)
    assert ended([process])[0][0] == -signal.SIGKILL
    assert train(recipe(place), folder).finished
    assert curve(folder) == curve(undisturbed) and len(curve(folder)) == 16
    theirs = weights(undisturbed, 16)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(folder, 16).items())


def test_asked_to_stop_the_command_says_so_and_goes_on(place: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Schedulers tell the whole group; the processes that read must not take it personally."""
    folder = tmp_path / "run"
    process = command(place, folder, data={"workers": 1})
    kill_after([process], folder, step=3, number=signal.SIGCONT)
    os.killpg(process.pid, signal.SIGTERM)
    code, said = ended([process])[0]
    assert code == 143 and "Traceback" not in said and "DataLoader" not in said
    assert train(recipe(place), folder).finished
    assert curve(folder) == curve(undisturbed)


@pytest.mark.long
def test_torchrun_trains_with_two_processes(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(sections(place, sharding="zero2", gradient_checkpointing=True, precision="bf16")))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainer.launch",
         str(file), "--out", str(tmp_path / "run")],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(curve(tmp_path / "run")) == 16 and "4 = 2 per rank x 2 rank(s) x 1 accumulated" in done.stderr
    assert sorted(weights(tmp_path / "run", 16)) == sorted(weights(tmp_path / "run", 15))


@pytest.mark.long
def test_ray_trains_with_two_workers_and_says_in_one_line_what_is_wrong(place: Path, tmp_path: Path) -> None:
    """Paths of the recipe are seen from where the command is given, as in any other training."""
    (tmp_path / "there").symlink_to(place)
    chosen = sections(Path("there"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(chosen))
    command = [sys.executable, "-m", "jobs.cli", "train", "recipe.yaml", "--out", "run", "--ray-workers", "2"]
    where = {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}}
    bad = subprocess.run(
        [*command, "--set", "data.store=nowhere"], **where, capture_output=True, text=True, timeout=300
    )  # type: ignore[call-overload]
    assert bad.returncode == 2 and bad.stderr.strip().splitlines()[-1].startswith("error: no store at nowhere"), (
        bad.stderr
    )
    done = subprocess.run(command, **where, capture_output=True, text=True, timeout=300)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    assert len(curve(tmp_path / "run")) == 16


# ---- what a user can get wrong


def refused(capsys: pytest.CaptureFixture[str], place: Path, folder: Path, **changes: Any) -> str:
    """The one line that the command ends with, having written nothing of a run."""
    file = folder.parent / "refused.yaml"
    file.write_text(yaml.safe_dump(sections(place, **changes)))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "recipe.yaml"}
    assert main([str(file), "--out", str(folder)]) == 2
    after = {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name in {p.name for p in before}
    }
    assert {path: after.get(path) for path in before} == before
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: "), said
    return said[0]


def test_labels_that_are_not_there(capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path) -> None:
    said = refused(
        capsys, place, tmp_path / "run", data={"labels": LABELS | {"edge": "edge"}}, method={"experts": ["edge"]}
    )
    assert "data.labels" in said or "no column" in said


def test_an_empty_store(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=4, shard_size=4)
    store.storage.delete(f"{store.folder(store.column_of('grey'))}/shard-000000.json")
    said = refused(
        capsys, tmp_path, tmp_path / "run", data={"labels": {"depth": "grey"}}, method={"experts": ["depth"]}
    )
    assert "no committed cell" in said


class Broken(Grey):
    def label(self, photos: object) -> list[Label]:
        raise RuntimeError("out of order")


def test_a_column_that_only_failed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small_store(tmp_path, [Broken()], photos=4, shard_size=4)
    said = refused(
        capsys, tmp_path, tmp_path / "run", data={"labels": {"depth": "grey"}}, method={"experts": ["depth"]}
    )
    assert "failed" in said


def test_too_few_images(capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path) -> None:
    assert "`batch.size`: 64" in refused(capsys, place, tmp_path / "run", batch={"size": 64})
    assert "none of the 24 images" in refused(capsys, place, tmp_path / "run", data={"splits": ["test"]})


class Shades(Expert):
    """As Darkness, by another list of classes."""

    def __init__(self) -> None:
        spec = LabelSpec(
            kind="classes", quantity="class", dtype="uint8", channels=1, ignore=255, class_names=("bright", "dark", "dim"),
            resample="nearest",
        )  # fmt: skip
        self.card = card("shades", spec)

    def label(self, photos: Any) -> list[Label]:
        return [Label.ok(ClassMap(self._ids(photo))) for photo in photos]

    def _ids(self, photo: Photo) -> Any:
        return (small(photo).mean(axis=2) < 128).astype("uint8")


def test_a_store_of_other_experts_or_classes(place: Path, undisturbed: Path, tmp_path: Path) -> None:
    """On resuming, and on beginning with the weights of a run."""
    other = tmp_path / "other"
    other.mkdir()
    experts = [Grey(), Slopes(), Shades(), Squares(), Signs()]
    store = small_store(other, experts, photos=24, shard_size=8)
    embed(store, str(other / "embeddings"), means=Means(method="random"), say=lambda _: None)
    theirs = {"method": {"embeddings": str(place / "embeddings")}}
    embed(store, str(place / "embeddings"), means=Means(method="random"), say=lambda _: None)
    with pytest.raises(CheckpointError, match="shades@.* has 3 classes; .* was trained on 2 of darkness@"):
        train(
            recipe(place, data={"store": str(other / "store"), "labels": LABELS | {"seg": "shades"}}, **theirs),
            undisturbed,
        )
    begun = {"start_from": str(undisturbed)}
    with pytest.raises(CheckpointError, match="3 classes"):
        changed = {"store": str(other / "store"), "labels": LABELS | {"seg": "shades"}}
        train(recipe(place, data=changed, **theirs, **begun), tmp_path / "begun")
    fewer = {name: column for name, column in LABELS.items() if name != "ocr"}
    with pytest.raises(CheckpointError, match="was trained on those of depth, detection, normal, ocr, seg"):
        train(recipe(place, data={"labels": fewer}, **begun), tmp_path / "fewer")
    another = tmp_path / "another"
    another.mkdir()
    small_store(another, [Grey(), Slopes(), Darkness(), Squares(), Signs()], photos=20, shard_size=8)
    with pytest.raises(CheckpointError, match="of 20 images; .* of 24: resume with the store"):
        train(recipe(place, data={"store": str(another / "store")}), undisturbed)


def test_a_checkpoint_of_another_size(place: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="`method.resolution` is 48"):
        train(recipe(place, method={"resolution": 48}), undisturbed)
    larger = {"resolution": 48, "label_resolution": 48}
    assert train(recipe(place, method=larger, start_from=str(undisturbed), steps=2), tmp_path / "larger").finished


def test_a_loss_that_is_no_number(place: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match=r"step \d+: .* in a batch of photo"):
        train(recipe(place, steps=60, schedule={"peak": 1e6}, optimizer={"weight_decay": 1e6}), tmp_path)


def test_two_runs_in_one_folder(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    process = command(place, folder, steps=4000)
    try:
        kill_after([process], folder, step=1, number=signal.SIGCONT)
        file = tmp_path / "again.yaml"
        file.write_text(yaml.safe_dump(sections(place)))
        assert main([str(file), "--out", str(folder)]) == 2
        assert "another process trains there" in capsys.readouterr().err
    finally:
        process.kill()
        process.communicate()


def test_labels_added_meanwhile_change_nothing(place: Path, undisturbed: Path) -> None:
    """A column that is not read may come and go."""
    label(LabelStore.open(str(place / "store")), [Shades()])
    assert train(recipe(place), undisturbed).finished
