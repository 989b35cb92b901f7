"""Filter and re-caption: what is kept of an image's texts, by source, and the list that the command writes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import Label, Scores, Text
from expert_zoo.spec import LabelSpec
from jobs.cli import app
from jobs.filter_command import place_of, read_rules
from manifests.record import ImageRecord, from_batch
from manifests.sources.caption_list import CaptionList
from pipeline.errors import JobError, StoreError
from pipeline.kept_texts import Kept, KeptText, TextRule, TextRules, kept_texts
from pipeline.store import LabelStore
from tests.small_store import label, write_manifest, write_photos
from tests.stand_ins import card

RECORD = ImageRecord(image_id="a", source="web", uri="file:///a.jpg", captions=("one", "two"))
SAID = {"status": "ok", "text": "made up"}


def scores(*values: float) -> dict[str, Any]:
    return {"status": "ok", "scores": list(values)}


def kept(rule: TextRule, generated: Any = SAID, found: Any = None, record: ImageRecord = RECORD) -> Kept:
    return TextRules(sources={"web": rule}).kept(record, generated, found)


def texts(found: Kept) -> list[str]:
    return [text.text for text in found.texts]


def test_the_better_of_original_and_generated_is_kept() -> None:
    rule = TextRule(keep="better", at_least=0.5)
    assert kept(rule, found=scores(0.6, 0.9, 0.7)).texts == (KeptText("two", 0.9, False),)
    assert kept(rule, found=scores(0.6, 0.7, 0.9)).texts == (KeptText("made up", 0.9, True),)
    assert texts(kept(rule, found=scores(0.9, 0.1, 0.9))) == ["one"], "the image's own where they are equal"


def test_what_is_below_goes_and_with_it_the_image() -> None:
    rule = TextRule(keep="all", at_least=0.5)
    assert kept(rule, found=scores(0.5, 0.49, 0.8)) == (
        (KeptText("one", 0.5, False), KeptText("made up", 0.8, True)),
        1,
        0,
    )
    assert kept(rule, found=scores(0.1, 0.2, 0.3)) == ((), 3, 0)
    assert kept(TextRule(keep="better", at_least=0.5), found=scores(0.1, 0.2, 0.3)) == ((), 3, 0)


def test_without_a_threshold_nothing_goes() -> None:
    assert texts(kept(TextRule(keep="all"), found=scores(-3, -2, -1))) == ["one", "two", "made up"]
    assert texts(kept(TextRule(keep="better"), found=scores(-3, -2, -1))) == ["made up"]


def test_what_has_no_score_passes_no_threshold_and_is_never_the_better_one() -> None:
    assert kept(TextRule(at_least=0.0), found=None) == ((), 0, 3)
    assert kept(TextRule(at_least=0.0), found={"status": "failed", "scores": None}) == ((), 0, 3)
    assert kept(TextRule(keep="all", at_least=0.1), found=scores(0.2, 0.3)).unscored == 1
    assert texts(kept(TextRule(), found=scores(0.2, 0.3))) == ["two"]
    assert texts(kept(TextRule(), found=None)) == ["one"]


def test_other_sources_keep_their_own_texts_whatever_their_scores() -> None:
    coco = ImageRecord(image_id="b", source="coco", uri="file:///b.jpg", captions=("one", "two"))
    assert texts(kept(TextRule(at_least=0.9), found=scores(0.1, 0.1, 0.95), record=coco)) == ["one", "two"]


def test_a_generated_text_that_is_there_already_counts_once() -> None:
    said = {"status": "ok", "text": "TWO"}
    assert texts(kept(TextRule(keep="all"), said, scores(0.1, 0.2, 0.3))) == ["one", "two"]


def test_an_image_without_captions_may_get_one() -> None:
    bare = ImageRecord(image_id="c", source="web", uri="file:///c.jpg")
    assert texts(kept(TextRule(at_least=0.5), found=scores(0.7), record=bare)) == ["made up"]
    assert texts(kept(TextRule(), {"status": "empty", "text": None}, None, bare)) == []


def test_scores_of_other_captions_are_noticed() -> None:
    with pytest.raises(StoreError, match="a has 2 captions and 1 scores"):
        kept(TextRule(), found=scores(0.7))
    with pytest.raises(StoreError, match="2 captions and 4 scores"):
        kept(TextRule(), found=scores(0.7, 0.7, 0.7, 0.7))


# ---- over a store


class Writer(Expert):
    def __init__(self) -> None:
        self.card = card("caption", LabelSpec(kind="text", quantity="caption", flip="none"))

    def label(self, photos: Any) -> list[Label]:
        return [Label.ok(Text(f"generated for {photo.image_id[:7]}", -1.0)) for photo in photos]


class Judge(Expert):
    """Own captions 0.3, 0.6; the generated one 0.5."""

    def __init__(self) -> None:
        also = Writer().card.column
        self.card = card("match", LabelSpec(kind="score", quantity="match", flip="none"), processing={"also": also})
        self.reads = (also,)

    def label(self, photos: Any) -> list[Label]:
        return [Label.ok(Scores(self.one(photo))) for photo in photos]

    def one(self, photo: Photo) -> np.ndarray:
        return np.array([*(0.3, 0.6)[: len(photo.captions)], 0.5], np.float32)


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """Nine photos of 0, 1, 2 captions in turn; the last three are COCO's."""
    records = write_photos(tmp_path / "photos", photos=9)
    renamed = [
        ImageRecord(image_id=r.image_id, source="coco" if n > 5 else "web", uri=r.uri, captions=r.captions)
        for n, r in enumerate(records)
    ]
    store = LabelStore.create(str(tmp_path / "store"), write_manifest(tmp_path, renamed), shard_size=4)
    label(store, [Writer(), Judge()])
    return store


RULES = {"sources": {"web": {"keep": "better", "at_least": 0.4}}}
KEPT = [
    ["generated for photo-0"], ["generated for photo-1"], ["caption 1 of photo 2"],
    ["generated for photo-3"], ["generated for photo-4"], ["caption 1 of photo 5"],
    [], ["caption 0 of photo 7"], ["caption 0 of photo 8", "caption 1 of photo 8"],
]  # fmt: skip


def test_every_image_of_a_store(store: LabelStore) -> None:
    found = [texts(kept) for _, images in kept_texts(store, TextRules(**RULES)) for _, kept in images]
    assert found == KEPT


def test_only_originals_can_be_filtered(store: LabelStore) -> None:
    rules = TextRules(generated=None, sources={"web": TextRule(keep="all", at_least=0.4)})
    found = [texts(kept) for _, images in kept_texts(store, rules) for _, kept in images]
    assert found[:6] == [[], [], ["caption 1 of photo 2"], [], [], ["caption 1 of photo 5"]] and found[6:] == KEPT[6:]


def test_what_is_wrong_is_one_line(store: LabelStore) -> None:
    def run(**more: Any) -> None:
        list(kept_texts(store, TextRules(**(RULES | more))))

    with pytest.raises(StoreError, match="no column 'captions'"):
        run(generated="captions")
    with pytest.raises(StoreError, match="caption holds text; expected a column of kind score"):
        run(scores="caption")
    with pytest.raises(StoreError, match="no image of cc4m"):
        run(sources={"cc4m": {}, "web": {}})
    store.withdraw(store.column_of("match"), 1)
    with pytest.raises(StoreError, match="match of shard-000001 is missing"):
        run()
    store.withdraw(store.column_of("match"), 2)
    with pytest.raises(StoreError, match="match of shard-000001 is missing"):
        run()


def test_shards_without_a_ruled_source_need_no_scores(store: LabelStore) -> None:
    store.withdraw(store.column_of("match"), 2)
    found = [texts(kept) for _, images in kept_texts(store, TextRules(**RULES)) for _, kept in images]
    assert found == KEPT


def rules_file(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_the_command_writes_a_list_that_can_be_read_again(store: LabelStore, tmp_path: Path) -> None:
    out = tmp_path / "list.json"
    rules = rules_file(tmp_path, {"select": RULES})
    arguments = ["manifest", "filter", store.storage.url, "--rules", rules, "--out", str(out), "--root", str(tmp_path)]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)
    assert counts["texts"] == 9
    assert counts["sources"]["web"] == {
        "images": 6, "images kept": 6, "own texts": 6, "own kept": 2, "generated kept": 4, "below": 4, "unscored": 0,
    }  # fmt: skip
    assert counts["sources"]["coco"]["images kept"] == 2 and counts["sources"]["coco"]["below"] == 0
    items = json.loads(out.read_text())
    assert [item["caption"] for item in items] == [text for found in KEPT for text in found]
    assert set(items[0]) == {"image", "caption", "image_id"} and items[0]["image"] == "photos/photo 0.png"
    table = CliRunner().invoke(app, arguments).stdout
    assert "9 texts" in table and "generated kept" in table

    source = CaptionList(path=str(out), images=str(tmp_path), check_files=True)
    read = [record for batch in source.batches() if not hasattr(batch, "reason") for record in from_batch(batch)]
    assert [record.captions for record in read] == [(text,) for found in KEPT for text in found]


def test_no_half_list_is_left(store: LabelStore, tmp_path: Path) -> None:
    store.withdraw(store.column_of("match"), 1)
    out = tmp_path / "lists" / "list.json"
    out.parent.mkdir()
    rules = rules_file(tmp_path, {"select": RULES})
    done = CliRunner().invoke(app, ["manifest", "filter", store.storage.url, "--rules", rules, "--out", str(out)])
    assert isinstance(done.exception, StoreError) and list(out.parent.iterdir()) == []


def test_only_a_list_is_replaced_by_one(store: LabelStore, tmp_path: Path) -> None:
    rules = rules_file(tmp_path, {"select": RULES})
    before = Path(rules).read_bytes()
    done = CliRunner().invoke(app, ["manifest", "filter", store.storage.url, "--rules", rules, "--out", rules])
    assert isinstance(done.exception, JobError) and "is no list" in str(done.exception)
    assert Path(rules).read_bytes() == before


def test_rules_stand_in_a_file_of_their_own_or_in_a_recipe(tmp_path: Path) -> None:
    assert read_rules(rules_file(tmp_path, {"select": RULES})) == TextRules(**RULES)
    assert read_rules(rules_file(tmp_path, {"data": {"store": "s", "select": RULES}})) == TextRules(**RULES)
    with pytest.raises(JobError, match="no section `select`"):
        read_rules(rules_file(tmp_path, {"keep": "better"}))
    with pytest.raises(JobError, match=r"`select\.sources\.web\.at_most`"):
        read_rules(rules_file(tmp_path, {"select": {"sources": {"web": {"at_most": 1}}}}))
    with pytest.raises(JobError, match=r"`select\.sources`"):
        read_rules(rules_file(tmp_path, {"select": {"sources": {}}}))
    with pytest.raises(JobError, match="no file"):
        read_rules(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("http://a.b/c.jpg", {"url": "http://a.b/c.jpg"}),
        ("file:///w/x%20y/1.jpg", {"image": "x y/1.jpg"}),
        ("file:///else/1.jpg", {"image": "/else/1.jpg"}),
        ("file:///w/0.tar#bytes=512-600", {"image": "file:///w/0.tar#bytes=512-600"}),
        ("s3://b/1.jpg", {"image": "s3://b/1.jpg"}),
    ],
)
def test_where_an_image_is(uri: str, place: dict[str, str]) -> None:
    assert place_of(ImageRecord(image_id="a", source="x", uri=uri), "/w") == place
