"""Rules for texts while training: what an epoch has, what an example says, and what a recipe may ask for."""

from __future__ import annotations

import dataclasses

import pytest

from expert_zoo.image import Image
from manifests.record import ImageRecord
from pipeline.errors import StoreError
from pipeline.kept_texts import TextRule, TextRules
from pipeline.store import LabelStore
from tests.small_store import label, write_manifest, write_photos
from tests.stand_ins import Grey
from tests.test_kept_texts import KEPT, RULES, Judge, Writer
from trainer.data.dataset import LabelDataset
from trainer.data.selection import Selection
from trainer.errors import RecipeError
from trainer.recipe import load_recipe

ALL = [text for found in KEPT for text in found]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    """As in test_kept_texts, with photos and a map beside the texts."""
    folder = tmp_path_factory.mktemp("select")
    records = write_photos(folder / "photos", photos=9)
    renamed = [dataclasses.replace(r, source="coco" if n > 5 else "web", split="") for n, r in enumerate(records)]
    store = LabelStore.create(str(folder / "store"), write_manifest(folder, renamed), shard_size=4)
    label(store, [Image(), Grey(), Writer(), Judge()])
    return store


def dataset(store: LabelStore, selection: Selection, select: TextRules | None) -> LabelDataset:
    return LabelDataset(
        store, labels={"depth": "grey"}, view="squash", resolution=32, label_resolution=32, seed=None, selection=selection,
        select=select,
    )  # fmt: skip


def has_captions(record: ImageRecord) -> bool:
    return bool(record.captions)


def test_an_example_for_each_text_that_is_kept(store: LabelStore) -> None:
    rules = TextRules(**RULES)
    selection = Selection.items(store, lambda record: len(record.captions), rules)
    found = dataset(store, selection, rules)
    assert len(selection) == len(ALL)
    examples = [found[0, position] for position in range(len(ALL))]
    assert [example.text for example in examples] == ALL
    assert [example.captions[example.item] for example in examples] == ALL


def test_images_without_a_text_left_are_not_seen(store: LabelStore) -> None:
    rules = TextRules(generated=None, sources={"web": TextRule(at_least=0.4)})
    selection = Selection.images(store, has_captions, rules)
    found = dataset(store, selection, rules)
    examples = [found[0, position] for position in range(len(selection))]
    kept = [["caption 1 of photo 2"], ["caption 1 of photo 5"], *KEPT[7:]]
    assert [list(example.captions) for example in examples] == kept
    assert all(example.text in example.captions for example in examples)
    assert all(example.labels["depth"] is not None for example in examples)


def test_another_rule_is_another_selection(store: LabelStore) -> None:
    """A run that goes on must not go on with other texts, even if there are as many of them."""
    rules = [TextRules(sources={"web": TextRule(keep="better", at_least=limit)}) for limit in (0.40, 0.45)]
    prints = {Selection.images(store, has_captions, one).fingerprint for one in (*rules, None)}
    assert len(prints) == 3


def test_without_rules_all_is_as_before(store: LabelStore) -> None:
    selection = Selection.items(store, lambda record: len(record.captions))
    found = dataset(store, selection, None)
    assert [found[0, n].text for n in range(3)] == [
        "caption 0 of photo 1",
        "caption 0 of photo 2",
        "caption 1 of photo 2",
    ]


def test_columns_of_other_kinds_are_refused(store: LabelStore) -> None:
    rules = TextRules(scores="caption", sources={"web": TextRule()})
    with pytest.raises(StoreError, match="kind text; expected score"):
        dataset(store, Selection.everything(store.plan), rules)


def test_a_recipe_says_captions_in_one_way() -> None:
    changes = {"data.select": RULES}
    assert load_recipe("pretrain_base", changes).data.select == TextRules(**RULES)
    with pytest.raises(RecipeError, match=r"leave `data\.captions` out"):
        load_recipe("pretrain_base", changes | {"data.captions": ["record", "caption"], "data.per": "image"})
    with pytest.raises(RecipeError, match="`method.task: question` learns none"):
        load_recipe("vqav2_base", changes)
    misspelt = {"data.select": {"sources": {"web": {"at_leest": 0.4}}}}
    with pytest.raises(
        RecipeError, match=r"unknown key `data\.select\.sources\.web\.at_leest`; did you mean `at_least`"
    ):
        load_recipe("pretrain_base", misspelt)
