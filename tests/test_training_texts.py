"""Texts as Prismer learns them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manifests.record import ImageRecord
from manifests.scenes import questions
from manifests.scenes.sampling import sample_world
from trainer.data.chance import Chance
from trainer.data.selection import WHOLE
from trainer.prismer.books import Asked, SceneQuestions, book_of
from trainer.prismer.texts import Captions, Lessons, Questions, Tokens, drawn, normalised, question_form, write_words
from trainer.scenes import questions_of

CAPTIONS = ("A red ball.", "two boxes, one small")
RECORD = ImageRecord(image_id="one", source="test", uri="file:///one.png", captions=CAPTIONS)


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    write_words([*CAPTIONS, "What is on the left?", "A picture of", "ball"], tmp_path)
    return Tokens(tmp_path)


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("a DOG (brown) runs!  fast.", 30, "A dog brown runs fast"),
        ("one two three four", 3, "One two three"),
        ("  a man's well-known hat, worn\n", 30, "A man's well-known hat, worn"),
        ("", 30, ""),
    ],
)
def test_texts_are_written_in_one_way(text: str, words: int, expected: str) -> None:
    assert normalised(text, words=words) == expected


def test_a_question_ends_with_its_mark() -> None:
    assert question_form("is it RED", words=30) == "Is it red?"
    assert question_form("is it red?", words=30) == "Is it red?"
    assert question_form("", words=30) == "?"


def test_a_tokenizer_of_the_texts_words(tokens: Tokens, tmp_path: Path) -> None:
    assert (tokens.bos, tokens.pad, tokens.eos) == (0, 1, 2)
    assert tokens.text(tokens.ids("A red ball")) == "a red ball"
    assert tokens.ids("zebra") == [3] and 3 not in tokens.ids(CAPTIONS[0])
    first = (tmp_path / "tokenizer.json").read_bytes()
    write_words(["ball", "A picture of", "What is on the left?", *reversed(CAPTIONS)], tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == first, "the order of texts decides nothing"
    assert tokens.text([0, *tokens.ids("red"), 2, 1, 1]) == "red"


def test_a_tokenizer_without_what_is_needed(tmp_path: Path) -> None:
    write_words(["a"], tmp_path)
    found = json.loads((tmp_path / "tokenizer.json").read_text())
    found["model"]["vocab"]["<other>"] = found["model"]["vocab"].pop("</s>")
    found["added_tokens"] = [token for token in found["added_tokens"] if token["content"] != "</s>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="has no </s>"):
        Tokens(tmp_path)


def test_a_caption_follows_its_prefix(tokens: Tokens) -> None:
    task = Captions(tokenizer=tokens, prefix="A picture of")
    assert task.items(RECORD) == 2
    said = task(RECORD, CAPTIONS, 0, Chance(1))
    assert tokens.text(said.prompt) == "a picture of"
    assert said.prompt == [0, *tokens.ids("a picture of")] and said.answer == [*tokens.ids("a red ball"), 2]
    assert said.weight == 1.0
    drawn = {tuple(task(RECORD, CAPTIONS, WHOLE, Chance(seed)).answer) for seed in range(20)}
    assert drawn == {tuple(task(RECORD, CAPTIONS, item, Chance(1)).answer) for item in (0, 1)}


def test_a_caption_is_cut_to_its_length(tokens: Tokens) -> None:
    for most in (5, 6, 7, 30):
        said = Captions(tokenizer=tokens, prefix="A picture of", tokens=most)(RECORD, CAPTIONS, 1, Chance(1))
        assert len(said.prompt) + len(said.answer) <= most and said.answer[-1] == 2 and said.prompt[0] == 0
    short = Captions(tokenizer=tokens, words=2)(RECORD, CAPTIONS, 1, Chance(1))
    assert short.answer == [*tokens.ids("two boxes"), *tokens.ids(","), 2]
    nothing = Captions(tokenizer=tokens)(RECORD, (), WHOLE, Chance(1))
    assert nothing.answer == [2]


def test_a_question_is_given_and_its_answer_learned(tokens: Tokens, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    rows = [
        {"image_id": "one", "question": "what is on the left", "answer": "ball"},
        {"image_id": "one", "question": "what is on the left", "answer": "red ball", "weight": 0.2},
        {"image_id": "two", "question": "what", "answer": "left"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    task = Questions(tokenizer=tokens, book=book_of(str(file)))
    assert task.items(RECORD) == 2
    said = task(RECORD, (), 1, Chance(1))
    assert said.prompt == [0, *tokens.ids("what is on the left ?")] and said.answer == [*tokens.ids("red ball"), 2]
    assert said.weight == pytest.approx(0.2)
    cut = Questions(tokenizer=tokens, book=book_of(str(file)), tokens=4)(RECORD, (), 1, Chance(1))
    assert cut.prompt == said.prompt[:4] and cut.answer == said.answer


def test_a_scene_answers_for_itself() -> None:
    record = ImageRecord(image_id="scene", source="scenes", uri="scenes://7/3?size=128")
    asked = SceneQuestions().of(record)
    assert (
        asked == [Asked(q.question, q.answer, kind=q.kind) for q in questions(sample_world(7, 3, 128))]
        and len(asked) > 3
    )


def test_a_scene_is_drawn_once_for_all_its_questions() -> None:
    record = ImageRecord(image_id="scene", source="scenes", uri="scenes://7/4?size=128")
    questions_of.cache_clear()
    assert SceneQuestions().of(record) == SceneQuestions().of(record)
    assert (questions_of.cache_info().misses, questions_of.cache_info().hits) == (1, 1)


def test_marks_stand_where_people_put_them(tmp_path: Path) -> None:
    texts = ["Two boxes, one well-known.", "Is the man's hat red?"]
    write_words(texts, tmp_path)
    tokens = Tokens(tmp_path)
    assert [tokens.text(tokens.ids(text)) for text in texts] == [text.lower() for text in texts]


def test_none_is_drawn_again_before_all_were() -> None:
    for seed in range(10):
        found = drawn("abc", 7, Chance(seed))
        assert set(found[:3]) == set(found[3:6]) == set("abc") and found[6] in "abc"
    assert len({tuple(drawn("abc", 3, Chance(seed))) for seed in range(60)}) == 6


def test_a_photo_s_example_has_several_texts_of_several_kinds(tokens: Tokens) -> None:
    record = ImageRecord(image_id="scene", source="scenes", uri="scenes://7/3?size=128", captions=CAPTIONS)
    tasks = {
        "caption": Captions(tokenizer=tokens, weight=0.4),
        "question": Questions(tokenizer=tokens, book=SceneQuestions()),
    }
    lessons = Lessons(tasks=tasks, counts={"caption": 1, "question": 4})
    assert lessons.items(record) == 2 and lessons.has_texts(record, True)
    lesson = lessons(record, CAPTIONS, WHOLE, Chance(5))
    assert lesson == lessons(record, CAPTIONS, WHOLE, Chance(5)) != lessons(record, CAPTIONS, WHOLE, Chance(6))
    assert [said.weight for said in lesson["caption"]] == [0.4] and len(lesson["question"]) == 4
    bare = ImageRecord(image_id="scene", source="scenes", uri=record.uri)
    assert not lessons.has_texts(bare, True) and lessons.has_texts(bare, False)
    one = Lessons(tasks={"caption": tasks["caption"]}, counts={"caption": 1})
    assert one(record, CAPTIONS, 1, Chance(5)) == {"caption": [tasks["caption"](record, CAPTIONS, 1, Chance(0))]}


def test_every_kind_of_question_is_drawn_as_often(tokens: Tokens) -> None:
    """However many there are of it: a scene has twelve that count and one that reads."""
    record = ImageRecord(image_id="scene", source="scenes", uri="scenes://7/3?size=128")
    task = Questions(tokenizer=tokens, book=SceneQuestions())
    kinds = {asked.kind for asked in SceneQuestions().of(record)}
    word = task(record, (), 0, Chance(0))
    drawings = [said for seed in range(300) for said in task.several(record, (), 2, Chance(seed))]
    assert sum(said == word for said in drawings) == pytest.approx(600 / len(kinds), rel=0.25)
