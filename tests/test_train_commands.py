"""embed, train, evaluate and caption as a shell sees them: a tiny Prismer on a few rendered scenes, from labels to captions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image as PilImage
from typer.testing import CliRunner

from expert_zoo.catalog import create
from jobs.captioning import as_read
from jobs.cli import app
from manifests.build import build
from manifests.record import ImageRecord
from manifests.scenes import scene_uri
from manifests.sources import Scenes
from pipeline.errors import ExpertLabelsError
from pipeline.storage import open_storage
from pipeline.store import LabelStore
from tests.conftest import ROOT
from tests.small_store import label, write_manifest
from trainer.trained import EXPERTS, open_trained

runner = CliRunner()
SIZE = 48
EXPERTS_OF = {"depth": "truth_depth", "detection": "truth_detection", "ocr": "truth_ocr"}


def labelled_scenes(folder: Path, *, seed: int, experts: tuple[str, ...]) -> str:
    manifest = build([Scenes(count=6, seed=seed, size=SIZE)], str(folder / "manifest.parquet")).manifest
    store = LabelStore.create(str(folder / "store"), manifest, shard_size=3)
    label(store, [create(name) for name in experts])
    return store.storage.url


def write_recipe(path: Path, store: str, embeddings: Path, **changes: Any) -> Path:
    recipe: dict[str, Any] = {
        "method": {
            "name": "prismer", "size": "tiny", "experts": list(EXPERTS_OF), "resolution": 32, "label_resolution": 32,
            "embeddings": str(embeddings), "task": "question", "questions": "scenes",
        },
        "data": {"store": store, "labels": EXPERTS_OF, "augmentation": None, "workers": 0},
        "batch": {"size": 4, "most_per_rank": 4},
        "steps": 3,
        "schedule": {"peak": 0.001},
        "log": {"every": 1, "tensorboard": False},
        "device": "cpu",
    }  # fmt: skip
    path.write_text(yaml.safe_dump(recipe | changes))
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return labelled_scenes(tmp_path_factory.mktemp("scenes"), seed=31, experts=("image", *EXPERTS_OF.values()))


@pytest.fixture(scope="module")
def run(store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three steps, with its embeddings beside it."""
    folder = tmp_path_factory.mktemp("trained")
    embedded = runner.invoke(app, ["embed", store, "--out", str(folder / "embeddings"), "--method", "random"])
    assert embedded.exit_code == 0 and "1 list(s) of classes" in embedded.stderr
    recipe = write_recipe(folder / "recipe.yaml", store, folder / "embeddings")
    trained = runner.invoke(app, ["train", str(recipe), "--out", str(folder / "run")])
    assert trained.exit_code == 0, trained.stderr
    assert "6 examples an epoch, of 6 images" in trained.stderr and "(100.0%)" in trained.stderr
    assert trained.stderr.count("no label masked") == 3
    return folder / "run"


def problem(*words: str) -> str:
    """What `main` would print after "error: " for this command."""
    found = runner.invoke(app, list(words))
    assert isinstance(found.exception, ExpertLabelsError), (found.exception, found.output)
    assert "\n" not in str(found.exception)
    return str(found.exception)


def test_a_run_keeps_log_checkpoints_and_experts_and_going_on_changes_nothing(run: Path) -> None:
    logged = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2, 3] and all(line["loss"] > 0 for line in logged)
    experts = json.loads((run / EXPERTS).read_text())
    assert {modality: card["name"] for modality, card in experts.items()} == EXPERTS_OF
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    again = runner.invoke(app, ["train", str(run.parent / "recipe.yaml"), "--out", str(run)])
    assert again.exit_code == 0 and "going on from step 3" in again.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_answers_are_scored_by_kind_and_do_not_depend_on_the_batch(run: Path, tmp_path: Path) -> None:
    replies = []
    for batch in ("1", "4"):
        out = tmp_path / f"{batch}.jsonl"
        command = ["evaluate", str(run), "--task", "answers", "--limit", "4", "--batch", batch, "--out", str(out)]
        found = runner.invoke(app, [*command, "--json"])
        scores = json.loads(found.stdout)
        assert scores["images"] == 4 and {"word", "count"} <= {kind["kind"] for kind in scores["kinds"]}
        replies.append([json.loads(line) for line in out.read_text().splitlines()])
    assert replies[0] == replies[1] and len(replies[0]) == sum(kind["asked"] for kind in scores["kinds"])


def test_two_processes_answer_as_one(run: Path, tmp_path: Path) -> None:
    replies = []
    for count in (1, 2):
        out = tmp_path / f"{count}.jsonl"
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "jobs.cli",
             "evaluate", str(run), "--task", "answers", "--limit", "5", "--out", str(out), "--device", "cpu"],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("5 photos") == 1, "one of them speaks"
        replies.append((done.stdout, out.read_text()))
    assert replies[0] == replies[1]


def test_a_list_to_choose_from_is_kept_to(run: Path, tmp_path: Path) -> None:
    (tmp_path / "choices.txt").write_text("red\nleft\n2\n")
    out = tmp_path / "replies.jsonl"
    command = ["evaluate", str(run), "--task", "answers", "--limit", "2", "--out", str(out)]
    assert runner.invoke(app, [*command, "--choices", str(tmp_path / "choices.txt")]).exit_code == 0
    assert {json.loads(line)["text"] for line in out.read_text().splitlines()} <= {"red", "left", "2"}


def test_a_photo_labelled_on_the_fly_is_captioned_as_the_same_one_in_a_store(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocoevalcap", reason="captions are scored by it: pip install pycocoevalcap")
    out = tmp_path / "replies.jsonl"
    scored = runner.invoke(app, ["evaluate", str(run), "--task", "captions", "--out", str(out)])
    assert scored.exit_code == 0 and "CIDEr: " in scored.stdout
    stored = {reply["image_id"]: reply["text"] for reply in map(json.loads, out.read_text().splitlines())}
    photos = [f"scenes://31/{number}?size={SIZE}" for number in (2, 0)]
    picture = tmp_path / "captions.png"
    found = runner.invoke(app, ["caption", *photos, "--checkpoint", str(run), "--out", str(picture), "--json"])
    assert found.exit_code == 0, found.output
    captioned = json.loads(found.stdout)
    assert [(one["photo"], one["caption"].capitalize()) for one in captioned] == [
        (photos[0], stored["scene_31_000002"]),
        (photos[1], stored["scene_31_000000"]),
    ]
    assert all(set(one["labels"]) == set(EXPERTS_OF) for one in captioned)
    width, height = PilImage.open(picture).size
    assert height > 2 * 256 and width > 256 + 2 * 126


def test_what_stands_on_a_sign_is_written_as_it_stands_there() -> None:
    read = ["TICKET", "No Parking", "A"]
    assert as_read("A room and a sign that reads ticket.", read) == "A room and a sign that reads TICKET."
    assert as_read("The sign says no parking, a ticket is due.", read) == "The sign says No Parking, A TICKET is due."
    assert as_read("A ticket on a no parking sign says music.", read) == "A ticket on a no parking sign says music."
    assert as_read("", read) == "" and as_read("It says ticket.", []) == "It says ticket."


def test_what_a_photo_file_shows_is_captioned_though_an_expert_fails_on_it(run: Path, tmp_path: Path) -> None:
    PilImage.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "red.png")
    command = ["caption", str(tmp_path / "red.png"), "-c", str(run), "--out", str(tmp_path / "out.png"), "--json"]
    (captioned,) = json.loads(runner.invoke(app, command).stdout)
    # No scene, so that its truth is not known.
    assert captioned["photo"].endswith("red.png") and set(captioned["labels"].values()) == {"failed"}


def test_masked_labels_are_told_before_training(store: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "store")
    copy = LabelStore.open(str(tmp_path / "store"))
    copy.withdraw(copy.column_of("truth_depth"), 1)
    recipe = write_recipe(tmp_path / "recipe.yaml", str(tmp_path / "store"), run.parent / "embeddings", steps=1)
    found = runner.invoke(app, ["train", str(recipe), "--out", str(tmp_path / "run")])
    assert found.exit_code == 0, found.output
    assert "masked: 3 labels that the store lacks, 0 that failed" in found.stderr
    assert found.stderr.count("no label masked") == 2


def test_another_recipe_does_not_go_on_with_a_run_and_overwrites_nothing(run: Path) -> None:
    before = (run / "recipe.yaml").read_bytes()
    said = problem("train", str(run.parent / "recipe.yaml"), "--out", str(run), "--set", "schedule.peak=0.01")
    assert "schedule.peak" in said and "another folder" in said
    assert (run / "recipe.yaml").read_bytes() == before


def test_labels_that_mean_something_else_are_not_taken(run: Path, tmp_path: Path) -> None:
    other = labelled_scenes(tmp_path, seed=32, experts=("image", "truth_depth", "truth_ocr"))
    assert "truth_detection" in problem("evaluate", str(run), "--task", "answers", "--store", other)
    changed = json.loads((run / EXPERTS).read_text())
    names = changed["detection"]["spec"]["class_names"]
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    marker = next(copy.glob("checkpoints/*/checkpoint.json"))
    about = json.loads(marker.read_text())
    about["store"]["columns"]["detection"]["class_digest"] = "0" * 16
    marker.write_text(json.dumps(about))
    assert f"{len(names)} classes" in problem("evaluate", str(copy), "--task", "answers")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["train", "nothing.yaml"], "no recipe nothing.yaml"),
        (["train", "scenes_captions", "--set", "steps"], "KEY=VALUE"),
        (["evaluate", "RUN", "--task", "answers", "--questions", "nothing.json"], "nothing.json"),
        (["evaluate", "RUN", "--task", "answers", "--split", "nowhere"], "selected"),
        (["evaluate", "RUN", "--task", "captions", "--measure", "ROGUE"], "ROGUE"),
        (["evaluate", "nowhere", "--task", "captions"], "no checkpoint at nowhere"),
        (["caption", "nothing.jpg", "-c", "RUN"], "nothing.jpg"),
        (["caption", "nothing.jpg", "-c", "nowhere"], "experts.json"),
    ],
)
def test_what_cannot_be_is_one_line(run: Path, words: list[str], what: str) -> None:
    assert what in problem(*(str(run) if word == "RUN" else word for word in words))


def test_other_vectors_than_those_of_training_are_not_taken(store: str, run: Path, tmp_path: Path) -> None:
    """The folder that the recipe names is made anew by another seed: to go on, to begin with, to evaluate, to caption."""
    begun = json.loads(next(run.glob("checkpoints/*/checkpoint.json")).read_text())["store"]["embeddings"]
    assert (begun["method"], begun["seed"]) == ("random", 0)
    folder, other = tmp_path / "run", tmp_path / "embeddings"
    shutil.copytree(run, folder)
    assert runner.invoke(app, ["embed", store, "-o", str(other), "--method", "random", "--seed", "1"]).exit_code == 0
    recipe = write_recipe(tmp_path / "recipe.yaml", store, other)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    of_another = (
        "not the embeddings that .*step-00000003 was trained with: seed 1 in place of 0; name the folder of those"
    )
    assert re.search(of_another, problem("train", str(recipe), "--out", str(folder)))
    begins = ["--set", f"start_from={folder}", "--out", str(tmp_path / "begun")]
    assert re.search(of_another, problem("train", str(recipe), *begins))
    assert {path: path.read_bytes() for path in before} == before and not (tmp_path / "begun/log.jsonl").exists()
    for marker in folder.glob("checkpoints/*/checkpoint.json"):
        about = json.loads(marker.read_text())
        about["recipe"]["method"]["embeddings"] = str(other)
        marker.write_text(json.dumps(about))
    assert re.search(of_another, problem("evaluate", str(folder), "--task", "answers", "--limit", "1"))
    photo = f"scenes://31/2?size={SIZE}"
    assert re.search(of_another, problem("caption", photo, "-c", str(folder), "-o", str(tmp_path / "out.png")))
    assert not (tmp_path / "out.png").exists()


def test_the_same_vectors_may_lie_elsewhere(store: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(run.parent / "embeddings", tmp_path / "embeddings")
    recipe = write_recipe(tmp_path / "recipe.yaml", store, tmp_path / "embeddings")
    found = runner.invoke(app, ["train", str(recipe), "--out", str(tmp_path / "run")])
    assert found.exit_code == 0 and "`method.embeddings` is" in found.stderr and "going on from step 3" in found.stderr


def test_weights_to_begin_with_are_evaluated_without_a_step(store: str, run: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", store, run.parent / "embeddings")
    begins = ["--set", f"start_from={run}", "--out", str(tmp_path / "run"), "--only-begin"]
    assert runner.invoke(app, ["train", str(recipe), *begins]).exit_code == 0
    ours, theirs = (open_trained(str(place)) for place in (tmp_path / "run", run))
    assert ours.about.step == 0 and not (tmp_path / "run/log.jsonl").exists()
    state = theirs.method.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.method.state_dict().items())
    found = runner.invoke(app, ["evaluate", str(tmp_path / "run"), "--task", "answers", "--limit", "2"])
    assert found.exit_code == 0 and "step-00000000: 2 photos" in found.stdout
    assert "begun already; name another folder" in problem("train", str(recipe), *begins)
    again = runner.invoke(app, ["train", str(recipe), "--out", str(tmp_path / "run"), "--set", f"start_from={run}"])
    assert again.exit_code == 0 and "going on from step 0" in again.stderr


def test_a_run_is_opened_from_a_url_as_from_a_folder(run: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/run"
    there = open_storage(url)
    for path in run.rglob("*"):
        name = path.relative_to(run).as_posix()
        if path.is_file() and name.startswith(("experts", "tokenizer", "checkpoints")):
            there.replace(name, path.read_bytes())
    here = open_trained(str(run)).method.state_dict()
    for place in (url, f"{url}/checkpoints/step-00000003", str(run / "checkpoints" / "step-00000003")):
        found = open_trained(place)
        assert found.cards.keys() == EXPERTS_OF.keys() and len(found.tokenizer) > 50
        assert all(torch.equal(tensor, here[name]) for name, tensor in found.method.state_dict().items())
    there.delete("tokenizer.json")
    with pytest.raises(ExpertLabelsError, match=r"no memory://.*tokenizer.json"):
        open_trained(url)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes under COCO's ids, and questions about them in VQAv2's form; every third question has no picture here."""
    folder = tmp_path_factory.mktemp("vqa")
    ids = [f"coco_{number:012d}" for number in (7, 8, 9)]
    records = [
        ImageRecord(image_id=one, source="coco", uri=scene_uri(33, n, SIZE), split="val", captions=("A room.",))
        for n, one in enumerate(ids)
    ]
    store = LabelStore.create(str(folder / "store"), write_manifest(folder, records), shard_size=2)
    label(store, [create(name) for name in ("image", *EXPERTS_OF.values())])
    numbers = [(image, 10 * image + n) for image in (7, 8, 9, 77) for n in range(2)]
    questions = [{"image_id": image, "question_id": number, "question": "Is it red?"} for image, number in numbers]
    answers = [
        {"question_id": number, "image_id": image, "answer_type": "yes/no", "answers": [{"answer": "yes"}] * 10}
        for image, number in numbers
    ]
    (folder / "questions.json").write_text(json.dumps({"questions": questions}))
    (folder / "annotations.json").write_text(json.dumps({"annotations": answers}))
    return folder


def test_original_files_of_questions_are_learned_and_asked(asked: Path, tmp_path: Path) -> None:
    store, embeddings = str(asked / "store"), tmp_path / "embeddings"
    assert runner.invoke(app, ["embed", store, "-o", str(embeddings), "--method", "random"]).exit_code == 0
    recipe = write_recipe(tmp_path / "recipe.yaml", store, embeddings, steps=60, schedule={"peak": 0.001})
    files = {"file": str(asked / "questions.json"), "annotations": str(asked / "annotations.json")}
    content = yaml.safe_load(recipe.read_text())
    content["method"]["questions"] = [files]
    content["data"]["per"] = "text"
    content["batch"] = {"size": 6, "most_per_rank": 6}
    content["evaluation"] = {"task": "answers", "limit": 1}
    recipe.write_text(yaml.safe_dump(content))
    trained = runner.invoke(app, ["train", str(recipe), "--out", str(tmp_path / "run")])
    assert trained.exit_code == 0, trained.output
    assert "6 examples an epoch, of 3 images" in trained.stderr and "evaluation: answers of 1 photos" in trained.stderr
    assert "step 60: answers/accuracy 100" in trained.stderr, trained.stderr
    # Afterwards as in training, then as a server asks that keeps the answers.
    ours = runner.invoke(app, ["evaluate", str(tmp_path / "run"), "--task", "answers", "--json"])
    assert json.loads(ours.stdout)["numbers"] == {"accuracy": 100, "accuracy/yes/no": 100}
    secret = ["--questions", str(asked / "questions.json"), "--results", str(tmp_path / "results.json")]
    found = runner.invoke(app, ["evaluate", str(tmp_path / "run"), "--task", "answers", *secret])
    assert found.exit_code == 0 and "not scored: what is true is for the server alone" in found.stdout, found.output
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == [{"question_id": number, "answer": "yes"} for number in (70, 71, 80, 81, 90, 91)]
    assert "no answers to compare with" in problem("evaluate", str(tmp_path / "run"), "--task", "answers", *secret[:2])
