"""Captioning measures against hand-made numbers, the official tokenizer, and files of results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trainer.evaluation import captions, words_of_text
from trainer.evaluation.captions import score_captions
from trainer.evaluation.result_files import read_captions, write_answers, write_captions
from trainer.evaluation.words_of_text import best_tokenizer, java, tokenized

pytest.importorskip("pycocoevalcap", reason="pip install pycocoevalcap")

#: Sentences with everything that people put into captions, and their words by the treebank tokenizer, told by Java here.
HARD = Path(__file__).parent / "data" / "eval_captions.json"

DOGS = {
    "a": ["A man rides a brown horse.", "A person on a horse"],
    "b": ["Two dogs run on the beach", "Dogs at the sea"],
    "c": ["A red bus in a street"],
}

needs_java = pytest.mark.skipif(java() is None, reason="no Java runs here")


# ---- words


def test_the_rule_without_java_is_the_treebanks_on_hard_captions() -> None:
    hard: dict[str, str] = json.loads(HARD.read_text("utf-8"))
    assert len(hard) > 40
    assert dict(zip(hard, tokenized(list(hard), "plain"), strict=True)) == hard


@needs_java
def test_java_says_of_the_hard_captions_what_the_file_says() -> None:
    hard: dict[str, str] = json.loads(HARD.read_text("utf-8"))
    assert dict(zip(hard, tokenized(list(hard), "ptb"), strict=True)) == hard


@needs_java
@pytest.mark.parametrize("broken", ["\u2028", "\x85", "\n", "\r\n", "\x0b", "\x1c"])
def test_a_line_break_in_a_caption_moves_no_other(broken: str) -> None:
    assert tokenized([f"a dog{broken}runs", "", "a cat"], "ptb") == ["a dog runs", "", "a cat"]


def test_a_java_that_does_not_run_is_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java_that("exit 1", tmp_path, monkeypatch)
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    try:
        assert java() is None and best_tokenizer() == "plain"
        found = score_captions({"a": "a horse"}, {"a": DOGS["a"]}, measures=("METEOR", "SPICE", "BLEU"))
        assert found.tokenizer == "plain" and set(found.left_out) == {"METEOR", "SPICE"} and "BLEU@1" in found.overall
        with pytest.raises(ValueError, match="the tokenizer cannot run"):
            tokenized(["a"], "ptb")
    finally:
        java.cache_clear()


# ---- scores


def test_bleu_and_rouge_by_hand() -> None:
    found = score_captions({"a": "A man on a horse."}, {"a": DOGS["a"]}, tokenizer="plain")
    # Of its 5 words all are in a reference; of 4 pairs "on a", "a horse"; of 3 triples "on a horse"; as long as a reference.
    assert found.overall["BLEU@1"] == pytest.approx(100, abs=1e-4)
    assert found.overall["BLEU@2"] == pytest.approx(100 * (1 * 3 / 4) ** (1 / 2), rel=1e-4)
    # "a ... on a horse" runs through 4 of 5 words of one and 4 of 5 of the other.
    assert found.overall["ROUGE"] == pytest.approx(80, rel=1e-6)
    assert found.tokenizer == "plain" and found.images == 1 and found.left_out == {}


def test_cider_wants_the_words_that_tell_images_apart() -> None:
    right = {"a": "A man rides a brown horse", "b": "two dogs run on the beach", "c": "a red bus in a street"}
    swapped = {"a": right["b"], "b": right["a"], "c": "a"}
    best, worst = (score_captions(said, DOGS, tokenizer="plain") for said in (right, swapped))
    assert best.overall["CIDEr"] > 500 and worst.overall["CIDEr"] < 50
    assert best.per_image["c"]["CIDEr"] == pytest.approx(1000)
    mean = sum(scores["CIDEr"] for scores in best.per_image.values()) / 3
    assert best.overall["CIDEr"] == pytest.approx(mean)


def test_the_order_of_images_changes_nothing() -> None:
    said = {"c": "a bus", "a": "a horse", "b": ""}
    one = score_captions(said, DOGS, tokenizer="plain")
    other = score_captions(dict(sorted(said.items())), dict(reversed(DOGS.items())), tokenizer="plain")
    assert one == other and one.per_image["b"]["BLEU@1"] == 0


@needs_java
def test_meteor_runs_and_spice_says_what_is_missing() -> None:
    said = {"a": "a man riding a horse", "b": "", "c": "a red bus in a street"}
    found = score_captions(said, DOGS, measures=captions.ALL)
    assert found.tokenizer == "ptb"
    assert found.per_image["c"]["METEOR"] == pytest.approx(100, abs=1e-6) and found.per_image["b"]["METEOR"] == 0
    assert 0 < found.per_image["a"]["METEOR"] < 100
    assert "SPICE" in found.overall or "get_stanford_models" in found.left_out["SPICE"]


def java_that(does: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a program called java on the path, which can say its version and else ``does``."""
    (folder / "java").write_text(f'#!/bin/sh\n[ "$1" = -version ] && exit 0\n{does}\n')
    (folder / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    java.cache_clear()


@pytest.mark.parametrize("does", ["exit 1", "read line; exit 1", "read line; echo 1 2 3; read line; echo nonsense"])
def test_a_measure_that_breaks_off_lessens_no_other(does: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java_that(does, tmp_path, monkeypatch)
    try:
        found = score_captions({"a": "a horse"}, {"a": DOGS["a"]}, measures=("METEOR", "ROUGE"), tokenizer="plain")
    finally:
        java.cache_clear()
    assert "METEOR's Java program broke off" in found.left_out["METEOR"] and found.overall["ROUGE"] > 0


@pytest.mark.parametrize(
    ("said", "references", "problem"),
    [
        ({}, {}, "there is no caption to score"),
        ({"a": "x", "z": "x"}, DOGS, "1 of 2 images have no reference captions, the first is z"),
        ({"a": "x"}, {"a": ["", " "]}, "1 of 1 images have no reference captions"),
        ({"a": "x"}, DOGS, "2 of 3 images have no caption to score, the first is b"),
    ],
)
def test_what_cannot_be_scored_is_one_line(said: Any, references: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as told:
        score_captions(said, references, tokenizer="plain")
    assert "\n" not in str(told.value)


def test_without_the_package_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words_of_text, "find_spec", lambda name: None)
    assert best_tokenizer() == "plain"
    with pytest.raises(ValueError, match=r"pycocoevalcap is missing; pip install"):
        score_captions({"a": "x"}, {"a": ["y"]})


# ---- files of results


def test_results_are_what_the_servers_take(tmp_path: Path) -> None:
    write_captions({"coco_000000000042": "A dog.", "coco_000000000007": ""}, str(tmp_path / "captions.json"))
    assert json.loads((tmp_path / "captions.json").read_text()) == [
        {"image_id": 7, "caption": ""},
        {"image_id": 42, "caption": "A dog."},
    ]
    assert read_captions(str(tmp_path / "captions.json")) == {"coco_000000000042": "A dog.", "coco_000000000007": ""}
    write_answers({"262148000": "down", "5": "2"}, str(tmp_path / "answers.json"))
    assert json.loads((tmp_path / "answers.json").read_text()) == [
        {"question_id": 5, "answer": "2"},
        {"question_id": 262148000, "answer": "down"},
    ]


def test_cocos_own_example_of_results_can_be_read() -> None:
    shared = Path(__file__).resolve().parents[2] / "shared" / "annotations"
    example = shared / "coco" / "captions_val2014_fakecap_results.json"
    if not example.is_file():
        pytest.skip(f"no {example}")
    found = read_captions(str(example))
    assert len(found) == 1000 and found["coco_000000391895"].startswith("Man riding a motor bike")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is no JSON"),
        ("{}", "is no list of image_id and caption"),
        ('[{"image_id": "7", "caption": "x"}]', "is no list of image_id and caption"),
        ('[{"image_id": 7}]', "is no list of image_id and caption"),
        ('[{"image_id": 7, "caption": "x"}, {"image_id": 7, "caption": "y"}]', "has 1 images twice"),
    ],
)
def test_other_files_are_told_in_one_line(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=problem) as told:
        read_captions(str(tmp_path / "results.json"))
    assert "\n" not in str(told.value)


def test_nocaps_numbers_its_images_itself(tmp_path: Path) -> None:
    write_captions(
        {"nocaps_b": "A dog.", "nocaps_a": "A cat."}, str(tmp_path / "x.json"), numbers={"nocaps_b": 0, "nocaps_a": 9}
    )
    assert json.loads((tmp_path / "x.json").read_text()) == [
        {"image_id": 0, "caption": "A dog."}, {"image_id": 9, "caption": "A cat."},
    ]  # fmt: skip


def test_images_without_a_number_have_no_place_in_results(tmp_path: Path) -> None:
    for images in ({"scene_7_000001": "x"}, {"coco_": "x"}, {"coco_1a": "x"}):
        with pytest.raises(ValueError, match="has no number of COCO's"):
            write_captions(images, str(tmp_path / "results.json"))
    with pytest.raises(ValueError, match="has no number of VQAv2"):
        write_answers({"scene-1": "x"}, str(tmp_path / "results.json"))
    with pytest.raises(ValueError, match="nothing to write"):
        write_answers({}, str(tmp_path / "results.json"))
    assert not (tmp_path / "results.json").exists()
