"""The official accuracy of VQA on hand-made cases, lists of answers, and files of questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manifests.record import ImageRecord
from manifests.scenes import captions, sample_world, scene_uri
from trainer.evaluation.answers import accuracy, agreed, answer_list, shares, simple
from trainer.evaluation.questions import (
    AllQuestions,
    Question,
    VqaQuestions,
    coco_number,
    scene_questions,
    write_for_training,
)
from trainer.prismer.books import QuestionFile


def record(image_id: str, uri: str = "file:///x.jpg") -> ImageRecord:
    return ImageRecord(image_id=image_id, source="test", uri=uri)


@pytest.mark.parametrize(
    ("same", "percent"),
    # Leaving one of the n out: n - 1 of nine agree; leaving another out: n of nine. The mean over the ten.
    [(0, 0), (1, 100 * 9 * (1 / 3) / 10), (2, 60), (3, 90), (4, 100), (10, 100)],
)
def test_an_answer_counts_by_how_many_of_nine_gave_it(same: int, percent: float) -> None:
    given = ["red"] * same + [f"other {n}" for n in range(10 - same)]
    assert 100 * accuracy("red", given) == pytest.approx(percent)


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("The Red Ball", "red ball"),
        ("two", "2"),
        ("none", "0"),
        ("ten dogs", "10 dogs"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("t-shirt", "t shirt"),
        ("red - blue", "red blue"),
        ("yes!", "yes"),
        ("yes/no", "yes no"),
        ("1,000", "1000"),
        ("cat,dog", "cat dog"),
        ("cat, dog", "cat dog"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("mr. smith", "mr smith"),
        ("u.s.", "us"),
        ("it's 10:30", "it's 10:30"),
        (" on\nthe\ttable ", "on table"),
        ("$5 & 50%", "$5 & 50%"),
        ("a", ""),
        ("", ""),
    ],
)
def test_the_form_in_which_answers_are_compared(answer: str, form: str) -> None:
    assert simple(answer) == form


def test_answers_are_compared_as_written_where_all_people_agree() -> None:
    # As the server does: its rules are applied only to questions on which people differ.
    assert accuracy("the cat", ["cat"] * 10) == 0 and accuracy("cat", ["cat"] * 10) == 1
    assert accuracy("the cat", ["cat"] * 9 + ["dog"]) == 1
    assert accuracy("2", ["two"] * 5 + ["2"] * 5) == 1


def test_a_question_that_nobody_answered_has_no_accuracy() -> None:
    for question in (accuracy, lambda answer, given: agreed(given)):
        with pytest.raises(ValueError, match="a question without answers"):
            question("red", [])


def test_most_people_decide_and_then_the_shorter_one() -> None:
    assert agreed(["The dog", "dog", "cat", "cat", "a dog"]) == "dog"
    assert agreed(["The dog", "the dog", "dog", "cat", "cat"]) == "the dog"
    assert agreed(["b", "c", "c", "b"]) == "b" and agreed(["bb", "c"]) == "c"
    assert shares(["yes", "no", "yes", "yes"]) == {"yes": 0.75, "no": 0.25}


def test_a_list_of_answers_is_the_frequent_ones_in_order() -> None:
    given = [["red"] * 10, ["Red", "red", "blue"], ["2"] * 3, ["two"], ["blue"], ["the"], ["the cone"], ["The cone"]]
    assert answer_list(given) == ["2", "red", "the cone", "blue"]
    assert answer_list(given, at_least=2) == ["2", "red", "the cone"] and answer_list(given, most=1) == ["2"]
    assert answer_list(reversed(given)) == answer_list(given)
    for nothing in ({"at_least": 9}, {"most": 0}):
        with pytest.raises(ValueError, match="no answer stands for . of 8 questions"):
            answer_list(given, **nothing)


# ---- questions


def test_a_scene_is_asked_what_is_true_of_it() -> None:
    scene = record("scene_7_000003", scene_uri(7, 3, 96))
    found = scene_questions(scene)
    assert {question.kind for question in found} <= {"colour", "count", "size", "depth", "position", "word"}
    word = next(question for question in found if question.kind == "word")
    assert any(word.answers[0] in caption for caption in captions(sample_world(7, 3, 96)))
    assert len({question.key for question in found}) == len(found) > 5
    assert AllQuestions(scene_questions)(scene, (), 0, None) == found  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is no scene address"):
        scene_questions(record("x"))


def write_vqa(folder: Path, questions: Any = None, annotations: Any = None) -> tuple[str, str]:
    asked = [
        {"image_id": 42, "question": "What colour?", "question_id": 42001},
        {"image_id": 42, "question": "How many?", "question_id": 42002},
        {"image_id": 9, "question": "Is it?", "question_id": 9000},
    ]
    kinds = {42001: "other", 42002: "number", 9000: "yes/no"}
    answered = [
        {
            "question_id": number,
            "image_id": number // 1000,
            "question_type": "what",
            "answer_type": kind,
            "multiple_choice_answer": "x",
            "answers": [{"answer": f"a{n % 2}", "answer_confidence": "yes", "answer_id": n + 1} for n in range(10)],
        }
        for number, kind in kinds.items()
    ]
    files = folder / "questions.json", folder / "annotations.json"
    files[0].write_text(json.dumps({"questions": asked} if questions is None else questions))
    files[1].write_text(json.dumps({"annotations": answered} if annotations is None else annotations))
    return str(files[0]), str(files[1])


def test_vqas_files_are_read_by_image(tmp_path: Path) -> None:
    asked, answered = write_vqa(tmp_path)
    found = VqaQuestions.read(asked, answered)
    assert found.count == 3 and found(record("coco_000000000777")) == ()
    first, second = found(record("coco_000000000042"))
    assert first == Question(key="42001", question="What colour?", answers=("a0", "a1") * 5, kind="other")
    assert second.kind == "number"
    secret = VqaQuestions.read(asked)(record("coco_000000000009"))
    assert secret == (Question(key="9000", question="Is it?", answers=(), kind=""),)
    assert coco_number("coco_000000391895") == 391895


def test_recipes_learn_every_answer_by_its_share(tmp_path: Path) -> None:
    where = tmp_path / "questions.jsonl"
    assert write_for_training(VqaQuestions.read(*write_vqa(tmp_path)), str(where)) == 6
    book = QuestionFile(where)
    first, second, *_ = book.of(record("coco_000000000042"))
    assert first[:3] == ("What colour?", "a0", 0.5) and second[:3] == ("What colour?", "a1", 0.5)
    assert len(book.of(record("coco_000000000009"))) == 2
    with pytest.raises(ValueError, match="has no answers to learn"):
        write_for_training(VqaQuestions.read(write_vqa(tmp_path)[0]), str(where))
    assert len(where.read_text().splitlines()) == 6, "nothing was written over it"


QUESTION = {"image_id": 1, "question": "?", "question_id": 1}


@pytest.mark.parametrize(
    ("questions", "annotations", "problem"),
    [
        ({}, None, "questions.json has no list 'questions' of objects with question_id"),
        ([], None, "questions.json has no list"),
        ({"questions": [{"question_id": 1}]}, None, "questions.json has no list"),
        ({"questions": [QUESTION, QUESTION]}, None, "questions.json has 1 questions twice"),
        (None, {"annotations": []}, "annotations.json has no answers to question 42001"),
        (
            {"questions": [QUESTION]},
            {"annotations": [{"question_id": 1, "answers": [], "answer_type": "other"}]},
            "annotations.json has no answers to question 1",
        ),
    ],
)
def test_other_files_are_told_in_one_line(questions: Any, annotations: Any, problem: str, tmp_path: Path) -> None:
    asked, answered = write_vqa(tmp_path, questions, annotations)
    with pytest.raises(ValueError, match=problem) as told:
        VqaQuestions.read(asked, answered)
    assert "\n" not in str(told.value)
    (tmp_path / "questions.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        VqaQuestions.read(asked)
