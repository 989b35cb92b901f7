"""Several texts of a photo at once: what a recipe says of them, and that their loss is that of each by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from expert_zoo.catalog import create
from manifests.build import build
from manifests.sources import Scenes
from pipeline.store import LabelStore
from tests.small_store import label
from trainer.data.loader import Loader
from trainer.errors import RecipeError
from trainer.launch import train
from trainer.prismer.method import Prepared, prepared
from trainer.ranks import Ranks
from trainer.recipe import Recipe, load_recipe

ALONE = Ranks(rank=0, count=1, device=torch.device("cpu"))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("scenes")
    manifest = build([Scenes(count=6, seed=41, size=48)], str(folder / "manifest.parquet")).manifest
    store = LabelStore.create(str(folder / "store"), manifest, shard_size=3)
    label(store, [create("image"), create("truth_depth")])
    return store.storage.url


def recipe(store: str, **method: Any) -> Recipe:
    shape = {"size": "tiny", "experts": ["depth"], "resolution": 32, "label_resolution": 32, "tokens": 40}
    sections: dict[str, Any] = {
        "method": shape | {"task": "both", "questions": "scenes", "texts": 3} | method,
        "data": {"store": store, "labels": {"depth": "truth_depth"}, "augmentation": None, "workers": 0},
        "batch": {"size": 4, "most_per_rank": 4},
        "steps": 3,
        "schedule": {"peak": 1e-3},
        "log": {"every": 1, "tensorboard": False},
        "device": "cpu",
    }
    return Recipe.model_validate(sections)


def made(store: str, folder: Path, **method: Any) -> Prepared:
    chosen = recipe(store, **method)
    torch.manual_seed(0)
    return prepared(chosen.method, chosen.data, seed=0, folder=folder, ranks=ALONE)


def test_the_loss_of_several_texts_is_the_mean_of_theirs(store: str, tmp_path: Path) -> None:
    method, dataset, _, _ = made(store, tmp_path, caption_weight=0.4)
    method.eval()
    batch = next(iter(Loader(dataset, batch_size=4)))
    lessons = batch.texts
    assert [{kind: len(said) for kind, said in lesson.items()} for lesson in lessons] == [
        {"caption": 1, "question": 3}
    ] * 4
    together, stats = method.loss(batch)
    alone = []
    for kind, place in (("caption", 0), ("question", 0), ("question", 1), ("question", 2)):
        batch.texts = [{"text": [lesson[kind][place]]} for lesson in lessons]
        alone.append(method.loss(batch)[0])
    assert torch.allclose(together, sum(alone) / 4, rtol=1e-5)
    batch.texts = [{"text": [lesson["caption"][0]._replace(weight=1.0)]} for lesson in lessons]
    assert torch.allclose(alone[0], 0.4 * method.loss(batch)[0])
    assert set(stats) == {f"{what}_{name}" for what in ("caption", "question") for name in ("nll", "accuracy")}


@pytest.mark.parametrize("per", ["text", "token"])
def test_any_split_of_a_batch_weighs_as_the_whole(store: str, tmp_path: Path, per: str) -> None:
    method, dataset, _, _ = made(store, tmp_path, per=per, caption_weight=0.5)
    method.eval()
    batch = next(iter(Loader(dataset, batch_size=6)))
    parts = batch.split(4)
    weights = [method.weight(part) for part in parts]
    assert sum(weights) == method.weight(batch) and (per == "token" or method.weight(batch) == 24)
    mean = sum(method.loss(part)[0] * weight for part, weight in zip(parts, weights, strict=True)) / sum(weights)
    assert torch.allclose(mean, method.loss(batch)[0], rtol=1e-5)


def test_texts_are_drawn_anew_in_every_epoch_and_the_same_again(store: str, tmp_path: Path) -> None:
    _, dataset, _, _ = made(store, tmp_path, task="caption", questions=None, texts=2)
    by_epoch = []
    for epoch in (0, 1, 0):
        found = {(example := dataset[epoch, position]).image_id: example.text["caption"] for position in range(6)}
        assert all(len(said) == 2 and said[0] != said[1] for said in found.values())
        by_epoch.append(found)
    assert by_epoch[0] == by_epoch[2] != by_epoch[1]


def test_it_is_trained_and_told_by_kind(store: str, tmp_path: Path) -> None:
    train(recipe(store), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"caption_nll", "question_nll", "question_accuracy"} <= set(lines[-1]) and len(lines) == 3


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"method.texts": 2}, "`data.per: text` makes an example of each text"),
        ({"method.task": "both", "method.questions": "scenes"}, "`data.per: text` makes an example of each text"),
        ({"method.task": "both"}, "`questions` is for `task: question` or `both`"),
        ({"method.caption_weight": 0.5}, "`caption_weight` is for `task: both`"),
        ({"data.captions": ["caption"]}, "`data.per: text` counts the record's captions"),
    ],
)
def test_what_a_recipe_cannot_mean(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe("scenes_captions", changes)
    assert what in str(raised.value) and "\n" not in str(raised.value)
