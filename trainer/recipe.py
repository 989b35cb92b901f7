"""Recipe: YAML in, validated and whole out, before anything heavy is imported. Everything a user can get wrong is one line here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from inspect import get_annotations
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from pipeline.kept_texts import TextRule, TextRules
from trainer.data.augmentation import Augmentation
from trainer.data.order import WINDOW
from trainer.errors import RecipeError
from trainer.evaluation.choice import EvaluationChoice
from trainer.prismer.recipe import PrismerChoice
from trainer.training import (
    BatchChoice,
    Best,
    CheckpointChoice,
    LogChoice,
    OptimizerChoice,
    ScheduleChoice,
    Section,
    Training,
)

#: The recipes that come with the package.
RECIPES = Path(__file__).parent / "recipes"


class CacheChoice(Section):
    """Where the shards of a remote store come to first."""

    folder: str = Field(min_length=1)
    gigabytes: float = Field(gt=0, allow_inf_nan=False)


class DataChoice(Section):
    """What is read.

    labels        modality -> column: an expert's name, or expert@version
    captions      where captions come from: "record", and columns of kind text
    select        which texts are kept of whose images: web captions filtered, and generated ones in their place; see docs/filtering.md
    splits        of the images to read; none: all
    per           ``image``: an example for each, with texts drawn by chance anew in every epoch; ``text``: one for each of an image's
                  captions or questions, all of them in every epoch
    shots         so many images of each class, which is the first caption; null: all
    augmentation  null: photos are squashed, and nothing is drawn by chance
    window        shards that are shuffled together
    """

    store: str = Field(min_length=1)
    labels: dict[str, str] = Field(default_factory=dict)
    photos: str = "image"
    captions: tuple[str, ...] = ("record",)
    select: TextRules | None = None
    splits: tuple[str, ...] = ()
    per: Literal["image", "text"] = "image"
    shots: int | None = Field(None, gt=0)
    augmentation: Augmentation | None = Augmentation()
    window: int = Field(WINDOW, gt=0)
    workers: int = Field(2, ge=0)
    cache: CacheChoice | None = None


class Recipe(Training):
    """What to train, on what, and how. P-Former's and eP-ALM's choices will stand beside Prismer's.

    evaluation  what the model is asked every ``evaluate_every`` steps, and at the end
    """

    method: PrismerChoice
    data: DataChoice
    evaluation: EvaluationChoice | None = None

    @model_validator(mode="after")
    def _frozen_networks_come_from_somewhere(self) -> Self:
        choice = self.method
        needed = {"nothing": (), "vision": ("clip",), "backbones": ("clip", "roberta")}[choice.freeze]
        missing = [name for name in needed if getattr(choice, name) is None]
        if missing and choice.size != "tiny" and choice.weights is None and self.start_from is None:
            raise ValueError(
                f"method.freeze {choice.freeze}: nothing says where the frozen networks come from; expected method.{missing[0]}, "
                "method.weights or start_from"
            )
        return self

    @model_validator(mode="after")
    def _rules_say_where_captions_come_from(self) -> Self:
        if self.data.select is not None and self.data.captions != ("record",):
            raise ValueError(
                "`data.select` says which captions there are; leave `data.captions` out, and name the column in `select.generated`"
            )
        if self.data.select is not None and self.method.task == "question":
            raise ValueError("`data.select` chooses captions, and `method.task: question` learns none; leave it out")
        return self

    @model_validator(mode="after")
    def _an_example_is_a_photo_or_a_text(self) -> Self:
        if self.data.per == "text" and (self.method.texts > 1 or self.method.task == "both"):
            raise ValueError(
                "`data.per: text` makes an example of each text; expected `data.per: image` with `method.texts` or `task: both`"
            )
        if self.data.per == "text" and self.method.task == "caption" and self.data.captions[:1] != ("record",):
            raise ValueError(
                "`data.per: text` counts the record's captions; expected `data.captions: [record]`, or `per: image`"
            )
        return self

    @model_validator(mode="after")
    def _what_is_looked_at_is_evaluated(self) -> Self:
        best = self.checkpoints.best
        if self.evaluation is None:
            if self.evaluate_every is not None or best is not None:
                raise ValueError(
                    "`evaluate_every`, `checkpoints.best`: nothing is evaluated; expected an `evaluation` too"
                )
        elif best is not None and not self.evaluation.knows(best.metric):
            numbers = {"captions": "captions/CIDEr", "answers": "answers/accuracy", "classes": "classes/accuracy"}
            raise ValueError(
                f"checkpoints.best.metric {best.metric}: no number of this evaluation; expected one such as "
                f"{numbers[self.evaluation.task]}"
            )
        return self


def load_recipe(path: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe at ``path``, or of that name among those of the package. Raises RecipeError: one line, with file and place.

    changes: values in place of the file's, by dotted keys such as ``optimizer.clip``.
    """
    found = _read_yaml(path)
    for key, value in (changes or {}).items():
        *sections, last = key.split(".")
        place = found
        for section in sections:
            inner = place.get(section)
            place[section] = dict(inner) if isinstance(inner, dict) else {}
            place = place[section]
        place[last] = value
    try:
        return Recipe.model_validate(found)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_first_problem(error)}") from error


def change_of(text: str) -> tuple[str, Any]:
    """``optimizer.clip=1.0`` as key and value, the value read as YAML. Raises RecipeError."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise RecipeError(f"{text!r} changes nothing; expected KEY=VALUE, such as optimizer.clip=1.0")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"{text!r}: {value!r} is no YAML value") from error


def _read_yaml(path: str) -> dict[str, Any]:
    file = Path(path)
    if not file.exists() and (RECIPES / f"{path}.yaml").is_file():
        file = RECIPES / f"{path}.yaml"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise RecipeError(f"no recipe {path}; expected a file, or one of {known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise RecipeError(f"{path}: expected `key: value` lines, found {type(found).__name__}")
    return found


def _first_problem(error: ValidationError) -> str:
    """One line for the first of pydantic's findings: where, what, and the name that was probably meant."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(first["loc"][-1]), _known_keys(), n=1)
        return f"unknown key `{place}`" + (f"; did you mean `{close[0]}`?" if close else "")
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return (f"`{place}`: {message}" if place else message) + more


def _known_keys() -> list[str]:
    sections = (
        Recipe, Training, DataChoice, PrismerChoice, BatchChoice, ScheduleChoice, OptimizerChoice, CheckpointChoice, LogChoice,
        Best, CacheChoice, Augmentation, TextRules, TextRule, EvaluationChoice,
    )  # fmt: skip
    return [key for section in sections for key in get_annotations(section)]
