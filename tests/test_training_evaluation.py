"""Evaluation while training: its numbers, where they are told, on one process and on two, and what is wrong before the first step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from expert_zoo.catalog import create
from jobs.evaluating import evaluate
from manifests.build import build
from manifests.sources import Scenes
from pipeline.errors import ExpertLabelsError
from pipeline.store import LabelStore
from tests.conftest import ROOT
from tests.small_store import label
from trainer.embeddings.writing import Means, embed
from trainer.evaluation.choice import EvaluationChoice
from trainer.launch import train
from trainer.recipe import Recipe, load_recipe

pytest.importorskip("pycocoevalcap", reason="captions are scored by it: pip install pycocoevalcap")

LABELS = {"depth": "truth_depth", "detection": "truth_detection", "ocr": "truth_ocr"}
SIZE = 48


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes to train on, and four to be asked about, in one store."""
    folder = tmp_path_factory.mktemp("scenes")
    sources = [
        Scenes(name=split, count=count, seed=seed, size=SIZE, split=split)
        for split, count, seed in (("train", 6, 31), ("val", 4, 32))
    ]
    manifest = build(sources, str(folder / "manifest.parquet")).manifest
    store = LabelStore.create(str(folder / "store"), manifest, shard_size=3)
    label(store, [create(name) for name in ("image", *LABELS.values())])
    embed(store, str(folder / "embeddings"), means=Means(method="random"), say=lambda _: None)
    return folder


def sections(place: Path, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "method": {
            "size": "tiny", "experts": list(LABELS), "resolution": 32, "label_resolution": 32, "tokens": 12,
            "embeddings": str(place / "embeddings"),
        },
        "data": {
            "store": str(place / "store"), "labels": LABELS, "augmentation": None, "splits": ["train"], "workers": 0,
        },
        "batch": {"size": 4, "most_per_rank": 4},
        "steps": 5,
        "schedule": {"peak": 1e-3},
        "evaluate_every": 2,
        "evaluation": {"task": "captions", "splits": ["val"], "measures": ["CIDEr", "BLEU"], "batch": 3},
        "checkpoints": {"every": 5, "keep": 9, "best": {"metric": "captions/CIDEr"}},
        "log": {"every": 1, "tensorboard": False},
        "device": "cpu",
    }  # fmt: skip
    for name, change in changes.items():
        found[name] = found[name] | change if isinstance(change, dict) and found.get(name) else change
    return found


def recipe(place: Path, **changes: Any) -> Recipe:
    return Recipe.model_validate(sections(place, **changes))


def told(folder: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["evaluation"] for line in lines if "evaluation" in line}


def test_numbers_are_told_everywhere_and_are_those_of_the_command(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(recipe(place, log={"every": 1, "tensorboard": True}), tmp_path)
    found = told(tmp_path)
    assert list(found) == [2, 4, 5] and set(found[5]) == {
        "captions/CIDEr",
        *(f"captions/BLEU@{n}" for n in range(1, 5)),
    }
    said = capsys.readouterr().err
    assert "evaluation: captions of 4 photos" in said and "step 2: captions/CIDEr " in said
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("evaluation/captions/CIDEr")] == [
        (step, pytest.approx(numbers["captions/CIDEr"])) for step, numbers in found.items()
    ]
    for step, numbers in found.items():
        url = tmp_path / "checkpoints" / f"step-{step:08d}"
        assert json.loads((url / "checkpoint.json").read_text())["metrics"] == numbers
    choice = EvaluationChoice(task="captions", splits=("val",), measures=("CIDEr", "BLEU"), batch=4)
    scores = evaluate(str(tmp_path), choice, say=lambda _: None, device="cpu").scores
    assert {f"captions/{name}": number for name, number in scores.numbers.items()} == found[5]


def test_it_changes_nothing_and_happens_again_exactly(place: Path, tmp_path: Path) -> None:
    train(recipe(place), tmp_path / "one")
    train(recipe(place), tmp_path / "other")
    silent = recipe(place, evaluation=None, evaluate_every=None, checkpoints={"best": None})
    train(silent, tmp_path / "silent")
    losses = [
        [line["loss"] for line in map(json.loads, (tmp_path / run / "log.jsonl").open()) if "loss" in line]
        for run in ("one", "other", "silent")
    ]
    assert losses[0] == losses[1] == losses[2] and len(losses[0]) == 5
    assert told(tmp_path / "one") == told(tmp_path / "other")


@pytest.mark.parametrize("sharding", ["ddp", "zero3"])
def test_two_ranks_share_the_photos(place: Path, tmp_path: Path, sharding: str) -> None:
    """Three photos at a time for two: one rank sees more of them, writes longer, and waits for nobody meanwhile."""
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(sections(place, sharding=sharding)))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainer.launch",
         str(file), "--out", str(tmp_path / "run")],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    choice = EvaluationChoice(task="captions", splits=("val",), measures=("CIDEr", "BLEU"))
    scores = evaluate(str(tmp_path / "run"), choice, say=lambda _: None, device="cpu").scores
    found = told(tmp_path / "run")
    assert list(found) == [2, 4, 5]
    assert {f"captions/{name}": number for name, number in scores.numbers.items()} == found[5]


def test_answers_and_classes(place: Path, tmp_path: Path) -> None:
    asks = {"task": "question", "questions": "scenes"}
    best = {"metric": "answers/accuracy"}
    answers = {"task": "answers", "splits": ["val"], "limit": 2}
    chosen = sections(place, steps=2, method=asks, checkpoints={"best": best})
    train(Recipe.model_validate(chosen | {"evaluation": answers}), tmp_path / "answers")
    numbers = told(tmp_path / "answers")[2]
    assert {"answers/accuracy", "answers/accuracy/count"} <= set(numbers)
    assert all(0 <= number <= 100 for number in numbers.values())
    few = sections(place, steps=2, checkpoints={"best": {"metric": "classes/accuracy"}})
    few["evaluation"] = {"task": "classes", "splits": ["val"]}
    few["data"] |= {"shots": 1}
    train(Recipe.model_validate(few), tmp_path / "classes")
    assert set(told(tmp_path / "classes")[2]) == {"classes/accuracy"}


def test_what_was_trained_is_safe_where_the_evaluation_fails(place: Path, tmp_path: Path) -> None:
    """The store that is asked about is damaged, which is found when its photos are read."""
    shutil.copytree(place / "store", tmp_path / "store")
    store = LabelStore.open(str(tmp_path / "store"))
    column = store.column_of("truth_depth")
    for shard in store.plan.shards():
        tar = store.receipt(column, shard).tar
        assert tar is not None
        path = tmp_path / "store" / store.folder(column) / tar.name
        path.write_bytes(path.read_bytes()[: tar.bytes // 3])
    chosen = recipe(place, evaluation={"store": str(tmp_path / "store")}, checkpoints={"best": None})
    with pytest.raises(ExpertLabelsError, match="evaluation: truth_depth@.*audit --deep --repair") as raised:
        train(chosen, tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert (tmp_path / "run" / "checkpoints" / "step-00000002" / "checkpoint.json").exists()
    without = recipe(place, evaluation=None, evaluate_every=None, checkpoints={"best": None})
    assert train(without, tmp_path / "run").finished


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"evaluation": {"splits": ["nowhere"]}}, "selected"),
        ({"evaluation": {"store": "/nowhere"}}, "/nowhere"),
        (
            {"evaluation": {"task": "answers", "measures": []}, "checkpoints": {"best": None}},
            "nothing says what is asked",
        ),
        (
            {"evaluation": {"task": "answers", "questions": "/nowhere.json"}, "checkpoints": {"best": None}},
            "/nowhere.json",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_one_line_before_the_first_step(
    place: Path, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(ExpertLabelsError, match=what) as raised:
        train(recipe(place, **changes), tmp_path)
    assert "\n" not in str(raised.value) and not (tmp_path / "log.jsonl").exists()


def test_the_evaluation_of_another_store_must_be_of_the_same_experts_and_words(place: Path, tmp_path: Path) -> None:
    manifest = build([Scenes(count=3, seed=77, size=SIZE)], str(tmp_path / "manifest.parquet")).manifest
    store = LabelStore.create(str(tmp_path / "store"), manifest, shard_size=3)
    label(store, [create("image"), create("truth_depth")])
    other = {"store": store.storage.url, "splits": []}
    with pytest.raises(ExpertLabelsError, match="truth_detection"):
        train(recipe(place, evaluation=other), tmp_path / "run")
    label(store, [create(name) for name in ("truth_detection", "truth_ocr")])
    chosen = recipe(place, evaluation=other, steps=2)
    with pytest.raises(ExpertLabelsError, match="words of .* have no vectors.*expert-labels embed"):
        train(chosen, tmp_path / "run")
    embeddings = tmp_path / "embeddings"
    for one in (place / "store", tmp_path / "store"):
        embed(LabelStore.open(str(one)), str(embeddings), means=Means(method="random"), say=lambda _: None)
    train(recipe(place, evaluation=other, steps=2, method={"embeddings": str(embeddings)}), tmp_path / "run")
    assert list(told(tmp_path / "run")) == [2]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"evaluate_every": 3}, "expected an `evaluation` too"),
        ({"checkpoints.best": {"metric": "captions/CIDEr"}}, "expected an `evaluation` too"),
        (
            {"checkpoints.best": {"metric": "CIDEr"}, "evaluation": {"task": "captions"}},
            "metric CIDEr: no number of this evaluation; expected one such as captions/CIDEr",
        ),
        (
            {"checkpoints.best": {"metric": "captions/SPICE"}, "evaluation": {"task": "captions"}},
            "metric captions/SPICE",
        ),
        ({"evaluation": {"task": "caption"}}, "`evaluation.task`: Input should be 'captions', 'answers' or 'classes'"),
        (
            {"evaluation": {"task": "captions", "split": ["val"]}},
            "unknown key `evaluation.split`; did you mean `splits`?",
        ),
    ],
)
def test_a_recipe_that_hangs_together_says_what_it_looks_at(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ExpertLabelsError) as raised:
        load_recipe("scenes_captions", changes)
    assert what in str(raised.value) and "\n" not in str(raised.value)
