"""The official accuracy of VQA on hand-made cases, lists of answers, and files of questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manifests.record import ImageRecord
from manifests.scenes import captions, sample_world, scene_uri
from trainer.evaluation.answers import accuracy, agreed, answer_list, shares, simple
from trainer.evaluation.asked import asked
from trainer.evaluation.choice import EvaluationChoice
from trainer.evaluation.questions import AllQuestions
from trainer.evaluation.tasks import Answering
from trainer.prismer.books import FileQuestions, book_of
from trainer.questions import QuestionFile, choice_of, read, scene_questions


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


def write_vg(folder: Path) -> str:
    asked = [{"qa_id": 5, "image_id": 7, "question": "Where?", "answer": "Outside.", "a_objects": [], "q_objects": []}]
    path = folder / "question_answers.json"
    path.write_text(json.dumps([{"id": 7, "qas": asked}]))
    return str(path)


def test_recipes_learn_every_answer_by_its_share_from_the_original_files(tmp_path: Path) -> None:
    questions, annotations = write_vqa(tmp_path)
    choice = choice_of([{"file": questions, "annotations": annotations}, {"file": write_vg(tmp_path), "weight": 0.2}])
    assert isinstance(choice, tuple) and choice[1] == QuestionFile(file=write_vg(tmp_path), weight=0.2)
    book = book_of(choice)
    first, second, *_ = book.of(record("coco_000000000042"))
    assert first == ("What colour?", "a0", 0.5, "") and second == ("What colour?", "a1", 0.5, "")
    assert len(book.of(record("coco_000000000009"))) == 2 and book.of(record("coco_000000000777")) == []
    (of_vg,) = book.of(record("vg_7"))
    assert of_vg[:2] == ("Where?", "Outside") and of_vg.weight == pytest.approx(0.2)
    both = ImageRecord(image_id="coco_000000000042", source="t", uri="file:///x.jpg", keys=("coco:42", "vg:7"))
    assert len(book.of(both)) == 5, "a picture of both datasets has the questions of both"


def test_questions_without_answers_cannot_be_learned(tmp_path: Path) -> None:
    questions, _ = write_vqa(tmp_path)
    with pytest.raises(ValueError, match="none of 3 questions has an answer to learn") as told:
        book_of(questions)
    assert "\n" not in str(told.value)
    assert FileQuestions(read(questions)).of(record("coco_000000000042")) == []


def test_an_evaluation_asks_what_is_trained_and_may_choose_what_is_frequent(tmp_path: Path) -> None:
    entries = [{"image_id": n, "question": "What?", "question_id": n} for n in range(20)]
    people = [{"answer": "red" if n < 12 else "blue"} for n in range(20)]
    answers = [
        {"question_id": n, "answer_type": "other", "answers": [people[n]] * 10, "image_id": n} for n in range(20)
    ]
    questions, annotations = write_vqa(tmp_path, {"questions": entries}, {"annotations": answers})
    trained_on = choice_of([{"file": questions, "annotations": annotations}, {"file": write_vg(tmp_path)}])
    store: Any = None
    ask = asked(EvaluationChoice(task="answers", choices="frequent", limit=2), store, trained_on=trained_on, known=True)
    assert isinstance(ask.task, Answering) and ask.task.choices == ["red"]
    numbers = [n for n in range(20) if ask.wanted(record(f"coco_{n:012d}"))]
    assert numbers == [0, 1] and not ask.wanted(record("vg_7"))
    with pytest.raises(ValueError, match="trained on no file of questions"):
        asked(EvaluationChoice(task="answers", choices="frequent"), store, trained_on="scenes")
    test_set = EvaluationChoice(task="answers", questions=questions)
    assert asked(test_set, store, trained_on=None).wanted(record("coco_000000000003"))
    assert not asked(test_set, store, trained_on=None, known=True).wanted(record("coco_000000000003"))
