"""docs/training.md: its table is the recipe's, its examples are parts of recipes, its recipes are those that there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from tests.test_docs import ROOT, blocks, stated, table
from trainer.data.augmentation import Augmentation
from trainer.evaluation.choice import EvaluationChoice
from trainer.prismer.recipe import PrismerChoice
from trainer.recipe import RECIPES, CacheChoice, DataChoice, Recipe, load_recipe
from trainer.training import (
    BatchChoice,
    Best,
    CheckpointChoice,
    LogChoice,
    OptimizerChoice,
    ScheduleChoice,
)

DOCUMENT = ROOT / "docs/training.md"
SECTIONS: dict[str, type[BaseModel]] = {
    "method": PrismerChoice, "data": DataChoice, "data.augmentation": Augmentation, "data.cache": CacheChoice,
    "batch": BatchChoice, "schedule": ScheduleChoice, "optimizer": OptimizerChoice, "checkpoints": CheckpointChoice,
    "checkpoints.best": Best, "log": LogChoice, "evaluation": EvaluationChoice,
}  # fmt: skip
#: Told in words.
IN_WORDS = {"data.augmentation.aspect": "3/4 to 4/3", "data.augmentation.among": "ten"}


def fields(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, info in model.model_fields.items():
        key = f"{above}{name}"
        if key in SECTIONS:
            yield from fields(SECTIONS[key], f"{key}.")
        else:
            yield key, "required" if info.is_required() else info.get_default(call_default_factory=True)


def test_the_table_names_exactly_the_keys_of_a_recipe_with_their_defaults() -> None:
    rows = table(DOCUMENT.read_text("utf-8"), "key")
    told = {key.strip("`"): default for key, default, _ in rows}
    actual = dict(fields(Recipe))
    assert set(told) == set(actual) and len(rows) == len(told)
    for key, default in told.items():
        if key in IN_WORDS:
            assert default == IN_WORDS[key] and (key != "data.augmentation.among" or len(actual[key]) == 10)
            continue
        value = list(actual[key]) if isinstance(actual[key], tuple) else actual[key]
        if default == "none":
            assert value in (None, [], {}, ""), key
        else:
            assert stated(default) == value, key


def test_every_recipe_is_named() -> None:
    rows = table(DOCUMENT.read_text("utf-8"), "recipe")
    named = {name.strip("`") for names, _ in rows for name in names.split(", ")}
    assert named == {path.stem for path in RECIPES.glob("*.yaml")}


@pytest.mark.parametrize("number", range(2))
def test_an_example_is_a_part_of_a_recipe(number: int) -> None:
    found = blocks(DOCUMENT, "yaml")
    assert len(found) == 2
    part = yaml.safe_load(found[number])
    base = load_recipe("vqav2_base" if number == 0 else "coco_caption_base").model_dump()
    for name, change in part.items():
        base[name] = base[name] | change if isinstance(base.get(name), dict) else change
    Recipe.model_validate(base)
