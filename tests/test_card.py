"""The version of an expert changes with everything that decides a label, and with nothing else."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from expert_zoo.card import ExpertCard, Weights
from tests.stand_ins import GREY, SQUARES

WEIGHTS = Weights(file="net.safetensors", where="https://example.org/net", sha256="ab" * 32, bytes=12)
CARD = ExpertCard(
    name="depth",
    summary="says how far",
    network="small",
    weights=(WEIGHTS,),
    preprocessing={"long_side": 384, "mean": 0.5, "letterbox": True, "mode": "area", "crop": None},
    processing={"scale": 2},
    spec=GREY,
    revision=1,
    parameters=5,
    licence="MIT",
    commercial_use=True,
    paper="A paper",
)


def changed(**changes: object) -> ExpertCard:
    return ExpertCard.model_validate(CARD.model_dump() | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"network": "large"},
        {"weights": ()},
        {"weights": (WEIGHTS.model_copy(update={"sha256": "cd" * 32}),)},
        {"weights": (WEIGHTS, WEIGHTS)},
        {"preprocessing": CARD.preprocessing | {"long_side": 385}},
        {"preprocessing": CARD.preprocessing | {"crop": 0}},
        {"preprocessing": CARD.preprocessing | {"letterbox": 1}},
        {"preprocessing": CARD.preprocessing | {"more": None}},
        {"preprocessing": {}},
        {"processing": {"scale": 2.5}},
        {"processing": CARD.preprocessing, "preprocessing": CARD.processing},
        {"spec": SQUARES},
        {"spec": GREY.model_copy(update={"units": "cm"})},
        {"spec": GREY.model_copy(update={"value_range": (0.0, 1.0)})},
        {"spec": GREY.model_copy(update={"convention": "z down"})},
        {"revision": 2},
    ],
)
def test_what_decides_a_label_decides_the_version(change: dict[str, object]) -> None:
    assert changed(**change).version != CARD.version


@pytest.mark.parametrize(
    "change",
    [
        {"summary": "says it better"},
        {"paper": ""},
        {"licence": "Apache-2.0"},
        {"commercial_use": False},
        {"parameters": 6},
        {"weights": (WEIGHTS.model_copy(update={"where": "elsewhere", "file": "other", "bytes": 0}),)},
        {"preprocessing": dict(reversed(CARD.preprocessing.items()))},
    ],
)
def test_prose_may_be_corrected(change: dict[str, object]) -> None:
    assert changed(**change).version == CARD.version
    assert changed(**change) != CARD or "preprocessing" in change


def test_the_version_survives_the_store() -> None:
    again = ExpertCard.model_validate_json(CARD.model_dump_json())
    assert again == CARD and again.version == CARD.version
    assert {type(v) for v in again.preprocessing.values()} == {int, float, bool, str, type(None)}


def test_the_column_names_expert_and_version() -> None:
    assert CARD.column == f"depth@{CARD.version}"
    assert len(CARD.version) == 10 and set(CARD.version) <= set("0123456789abcdef")
    assert changed(name="other").version == CARD.version and changed(name="other").column != CARD.column


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("field", ["preprocessing", "processing"])
def test_a_number_that_json_cannot_hold_is_refused(field: str, number: float) -> None:
    """It would come back from the store as null, and the column would seem to be changed by hand."""
    with pytest.raises(ValidationError):
        changed(**{field: {"limit": number}})


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Depth",
        "1depth",
        "_depth",
        "../x",
        "a/b",
        "a.b",
        "a-b",
        "a b",
        "a@b",
        "depth\n",
        "depthé",
        "ａ",
        "a" * 49,
        "a\0",
    ],
)
def test_a_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="expected lower case letters"):
        changed(name=name)


@pytest.mark.parametrize("name", ["a", "depth_2", "a" * 48])
def test_good_names(name: str) -> None:
    assert changed(name=name).name == name


def test_cards_are_strict() -> None:
    with pytest.raises(ValidationError):
        changed(license="typo of licence")
    with pytest.raises(ValidationError):
        CARD.name = "other"  # type: ignore[misc]


def test_a_card_of_a_newer_version_is_read_and_keeps_its_version() -> None:
    """Its new fields are ignored; the spec's have gone into the version, which names the column's folder."""
    newer = CARD.model_dump(mode="json") | {
        "homepage": "https://example.org",
        "spec": GREY.model_dump() | {"fresh": [1]},
    }
    newer["weights"] = [WEIGHTS.model_dump() | {"mirror": "elsewhere"}]
    card = ExpertCard.read(json.dumps(newer).encode())
    assert card.spec == GREY and card.weights == (WEIGHTS,) and card.name == "depth"
    assert card.version != CARD.version
    del newer["spec"]["fresh"]
    assert ExpertCard.read(json.dumps(newer).encode()) == CARD
    with pytest.raises(ValidationError):
        ExpertCard.read(json.dumps(newer | {"spec": GREY.model_dump() | {"kind": "hologram"}}).encode())
    with pytest.raises(ValidationError):
        ExpertCard.read(b"[]")
