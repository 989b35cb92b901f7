"""Recipes: those that come with the package say what was published, and what cannot be is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import run_python
from trainer.errors import RecipeError
from trainer.recipe import RECIPES, Recipe, change_of, load_recipe

SCENES = str(RECIPES / "scenes_captions.yaml")
#: From facts gathered of the paper and its configuration files: resolution, frozen, batch, per GPU, epochs, peak, least, warm-up.
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "pretrain_base": (224, "backbones", 1024, 32, 20, 3e-4, 1e-6, 2000),
    "pretrain_large": (224, "backbones", 1024, 32, 20, 1e-4, 1e-6, 2000),
    "coco_caption_base": (480, "vision", 256, 4, 3, 5e-5, 0.0, 0),
    "coco_caption_large": (480, "vision", 256, 4, 3, 5e-5, 0.0, 0),
    "nocaps_base": (480, "vision", 256, 4, 3, 5e-5, 0.0, 0),
    "nocaps_large": (480, "vision", 256, 4, 3, 5e-5, 0.0, 0),
    "vqav2_base": (480, "vision", 512, 8, 10, 5e-5, 0.0, 0),
    "vqav2_large": (480, "vision", 512, 8, 10, 5e-5, 0.0, 0),
    "fewshot_imagenet_base": (384, "vision", 64, 2, 20, 5e-5, 0.0, 0),
    "fewshot_imagenet_large": (384, "vision", 64, 2, 20, 5e-5, 0.0, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_says_what_was_published(name: str) -> None:
    recipe = load_recipe(name)
    schedule, method = recipe.schedule, recipe.method
    found = (
        method.resolution, method.freeze, recipe.batch.size, recipe.batch.most_per_rank, recipe.epochs, schedule.peak,
        schedule.least, schedule.warm_up,
    )  # fmt: skip
    assert found == PUBLISHED[name]
    assert method.size == name.rsplit("_", 1)[1]
    assert (recipe.precision, recipe.seed) == ("fp16", 42)
    optimizer = recipe.optimizer
    assert (optimizer.betas, optimizer.eps, optimizer.weight_decay) == ((0.9, 0.999), 1e-8, 0.05)
    assert (optimizer.decay, optimizer.clip) == ("all", None)
    assert recipe.data.augmentation is not None
    assert recipe.data.augmentation.scale == (0.5, 1.5 if "pretrain" in name else 1.0)
    assert (recipe.data.augmentation.operations, recipe.data.augmentation.magnitude) == (2, 5)
    assert len(method.experts) == 6 and set(recipe.data.labels) == set(method.experts)
    prefix = {"coco": "A picture of", "nocaps": "A picture of", "fewshot": "A photo of a"}.get(name.split("_")[0], "")
    assert method.prefix == prefix and method.smoothing == 0.1 and method.words == 30
    assert method.tokens == (35 if "vqa" in name else 30)


def test_every_recipe_of_the_package_is_one() -> None:
    found = {file.stem for file in RECIPES.glob("*.yaml")}
    assert found == {*PUBLISHED, "scenes_captions", "scenes_questions"}
    for name in found:
        assert load_recipe(name) == load_recipe(str(RECIPES / f"{name}.yaml"))


def test_a_recipe_comes_back_from_a_checkpoint() -> None:
    recipe = load_recipe("vqav2_large")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_values_can_be_changed_from_outside() -> None:
    changes = dict(map(change_of, ["optimizer.clip=1.5", "data.splits=[train]", "log.every=3", "method.experts=[]"]))
    recipe = load_recipe("scenes_captions", changes | {"data.labels": {}})
    assert recipe.optimizer.clip == 1.5 and recipe.data.splits == ("train",) and recipe.log.every == 3
    assert recipe.method.experts == () and recipe.optimizer.decay == "matrices"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("bach.size=3", "unknown key `bach`; did you mean `batch`"),
        ("optimizer.weigth_decay=3", "unknown key `optimizer.weigth_decay`; did you mean `weight_decay`"),
        ("batch.size=0", "`batch.size`: Input should be greater than 0"),
        ("epochs=3", "either `epochs` or `steps`"),
        ("steps=null", "either `epochs` or `steps`"),
        ("schedule.least=1", "none above the peak"),
        ("schedule.peak=.nan", "`schedule.peak`"),
        ("optimizer.betas=[0.9, 1.0]", "`optimizer.betas.1`"),
        ("precision=fp8", "`precision`: Input should be 'fp32', 'bf16' or 'fp16'"),
        ("method.task=question", "`questions` is for `task: question` or `both`"),
        ("method.size=base", None),
        ("method.freeze=vision", None),
        ("method=blip", "`method`"),
        ("data.store=", "`data.store`"),
    ],
)
def test_what_cannot_be_is_one_line(change: str, what: str | None) -> None:
    changes = dict([change_of(change)])
    if what is None:
        load_recipe(SCENES, changes)
        return
    with pytest.raises(RecipeError) as raised:
        load_recipe(SCENES, changes)
    assert what in str(raised.value) and "\n" not in str(raised.value) and SCENES in str(raised.value)


def test_frozen_networks_must_come_from_somewhere() -> None:
    with pytest.raises(RecipeError, match="nothing says where the frozen networks come from.*method.clip"):
        load_recipe("pretrain_base", {"method.clip": None})
    load_recipe("pretrain_base", {"method.clip": None, "method.roberta": None, "method.weights": "model.bin"})


@pytest.mark.parametrize(
    ("text", "what"),
    [("- a list", "expected `key: value`"), ("a: [", "is not YAML"), (None, "no recipe .*scenes_captions")],
)
def test_what_is_no_recipe(tmp_path: Path, text: str | None, what: str) -> None:
    file = tmp_path / "recipe.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(RecipeError, match=what) as raised:
        load_recipe(str(file))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["optimizer.clip", "=3", "a=[", ""])
def test_what_is_no_change(text: str) -> None:
    with pytest.raises(RecipeError):
        change_of(text)


def test_a_change_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(Path(SCENES).read_text())
    load_recipe(str(file), {"batch.size": 64})
    assert yaml.safe_load(file.read_text()) == yaml.safe_load(Path(SCENES).read_text())


def test_to_read_a_recipe_loads_nothing_heavy() -> None:
    loaded = run_python(
        "import sys; from trainer.recipe import load_recipe; load_recipe('vqav2_base'); print(*sys.modules)"
    )
    assert {"torch", "ray", "transformers", "cv2", "tokenizers"} & set(loaded.split()) == set()
