"""Questions and answers, NoCaps' domains: files in the original forms, what is broken in them, records that find theirs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from manifests.annotations.nocaps import read_nocaps
from manifests.annotations.question_files import read_questions
from manifests.annotations.questions import Question, Questions, joined
from manifests.record import ImageRecord


def record(image_id: str, *keys: str) -> ImageRecord:
    return ImageRecord(image_id=image_id, source="test", uri="file:///x.jpg", keys=keys)


def write_json(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def asked(number: int, image: int, question: str = "What is it?") -> dict[str, Any]:
    return {"image_id": image, "question": question, "question_id": number}


def answered(number: int, image: int, *answers: str, kind: str = "other") -> dict[str, Any]:
    return {
        "question_type": "what is",
        "multiple_choice_answer": answers[0] if answers else "",
        "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(answers, 1)],
        "image_id": image,
        "answer_type": kind,
        "question_id": number,
    }


VQA = {"info": {"year": 2017}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": "train2014"}


def vqa(folder: Path, questions: list[Any], annotations: list[Any] | None = None) -> tuple[str, str | None]:
    first = write_json(folder / "v2_OpenEnded_mscoco_train2014_questions.json", {**VQA, "questions": questions})
    if annotations is None:
        return first, None
    return first, write_json(folder / "v2_mscoco_train2014_annotations.json", {**VQA, "annotations": annotations})


def reasons(found: Questions) -> dict[str, int]:
    counts: dict[str, int] = {}
    for rejection in found.rejections:
        counts[rejection.reason] = counts.get(rejection.reason, 0) + rejection.count
    return counts


def test_vqav2_questions_find_their_answers_and_their_pictures_by_key_and_by_id(tmp_path: Path) -> None:
    ten = ["net"] * 6 + ["netting", "net", "mesh", "net"]
    files = vqa(
        tmp_path,
        [asked(458752000, 458752, "What is this  photo taken\nlooking through?"), asked(262148000, 262148), asked(458752001, 458752)],
        [answered(262148000, 262148, "down"), answered(458752001, 458752, "yes", kind="yes/no"), answered(458752000, 458752, *ten)],
    )  # fmt: skip
    found = read_questions(*files)
    assert len(found) == 3 and found.rejections == () and set(found.pictures) == {"coco:458752", "coco:262148"}
    of_picture = found.of(record("coco_000000458752"))
    assert of_picture[0] == Question(
        key="458752000",
        picture="coco:458752",
        question="What is this photo taken looking through?",
        answers=tuple(ten),
        kind="other",
    )
    assert [(q.key, q.answers, q.kind) for q in of_picture[1:]] == [("458752001", ("yes",), "yes/no")]
    # Visual Genome's picture that became one record with COCO's, and one of another dataset.
    assert [q.key for q in found.of(record("vg_2", "vg:2", "coco:262148"))] == ["262148000"]
    assert found.of(record("vg_458752")) == ()


def test_a_test_set_has_no_answers(tmp_path: Path) -> None:
    questions, _ = vqa(tmp_path, [asked(1, 14)])
    assert [(q.answers, q.kind) for q in read_questions(questions).of(record("coco_000000000014"))] == [((), "")]


def test_of_broken_vqav2_entries_the_rest_is_kept(tmp_path: Path) -> None:
    questions = [asked(1, 14), asked(1, 14), asked(2, 14, "  "), {**asked(3, 14), "image_id": "14"}, 5, asked(4, 15)]
    files = vqa(tmp_path, [*questions, asked(5, 15)], [answered(1, 14, "a"), answered(9, 14, "b"), answered(5, 15)])
    found = read_questions(*files)
    assert [q.key for q in found] == ["1"]
    assert reasons(found) == {
        "question listed twice": 1,
        "entry without a question, its number or its picture": 3,
        "question without an answer": 2,
        "answers to a question that is not in the file of questions": 1,
    }


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    questions, annotations = vqa(tmp_path, [asked(1, 14)], [answered(2, 14, "a")])
    assert annotations is not None
    with pytest.raises(
        ValueError, match="annotations.json answers no question of .*questions.json; expected both of one"
    ):
        read_questions(questions, annotations)
    with pytest.raises(ValueError, match="no list 'annotations'; expected VQAv2's v2_mscoco"):
        read_questions(questions, questions)
    with pytest.raises(ValueError, match="an object without a list 'questions'"):
        read_questions(annotations)
    Path(questions).write_text('{"questions": [\n{"question_id": 1, "question"')
    with pytest.raises(ValueError, match="questions.json: broken JSON in line 2, column 30"):
        read_questions(questions)
    with pytest.raises(ValueError, match="cannot read .*nowhere.json"):
        read_questions(str(tmp_path / "nowhere.json"))


def test_visual_genome_answers_in_both_spellings(tmp_path: Path) -> None:
    qa = {"a_objects": [], "q_objects": [], "question": "What color is the clock?", "answer": "Green."}
    entries = [
        {"id": 1, "qas": [{**qa, "image_id": 1, "qa_id": 986768}, {**qa, "qa_id": 986769, "answer": " "}]},
        {"qas": [{**qa, "image": 2, "id": 986770, "answer": "Dr. Who."}]},
        {"qas": []},
    ]
    found = read_questions(write_json(tmp_path / "question_answers.json", entries), weight=0.2)
    assert [(q.key, q.picture, q.answers, round(q.weight, 6)) for q in found] == [
        ("vg-986768", "vg:1", ("Green",), 0.2),
        ("vg-986770", "vg:2", ("Dr. Who",), 0.2),
    ]
    assert reasons(found) == {
        "question without an answer": 1,
        "entry without a question, its number or its picture": 1,
    }
    assert [q.key for q in found.of(record("coco_000000000042", "coco:42", "vg:2"))] == ["vg-986770"]


def test_lists_of_blip_and_prismer(tmp_path: Path) -> None:
    entries = [
        {"dataset": "vqa", "image": "val2014/COCO_val2014_000000262148.jpg", "question": "Where?", "answer": "down", "weight": 0.4, "question_id": 262148000},
        {"dataset": "vqa", "image": "train2014/COCO_train2014_000000458752.jpg", "question": "What?", "answer": ["net", "mesh"], "weight": [0.8, 0.2]},
        {"dataset": "vg", "image": "VG_100K/713545.jpg", "question": "Who?", "answer": "A man"},
        {"dataset": "vqa", "image": "elsewhere.jpg", "question": "Who?", "answer": "x"},
        {"dataset": "vqa", "image": "val2014/COCO_val2014_000000262148.jpg", "question": "Where?", "answer": "up", "weight": 0.2, "question_id": 262148000},
        {"dataset": "vqa", "image": "test2015/COCO_test2015_000000000014.jpg", "question": "Who?", "question_id": 14001},
    ]  # fmt: skip
    found = read_questions(write_json(tmp_path / "vqav2_train_val.json", entries))
    assert [(q.key, q.picture, q.answers, round(q.weight, 6)) for q in found] == [
        ("262148000-0", "coco:262148", ("down",), 0.4),
        ("262148000-4", "coco:262148", ("up",), 0.2),
        ("1-0", "coco:458752", ("net",), 0.8),
        ("1-1", "coco:458752", ("mesh",), 0.2),
        ("vg-2", "vg:713545", ("A man",), 1.0),
        ("14001", "coco:14", (), 1.0),
    ]
    assert reasons(found) == {"entry without a question, its number or its picture": 1}


def test_json_lines_ask_about_the_manifests_ids(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    lines = ['{"image_id": "scene_1_000000", "question": "How many?", "answer": "two", "weight": 0.5}', "", "{"]
    lines += ['{"question": "Of what?", "answer": "two"}', '{"image_id": "a", "question": "What?"}']
    file.write_text("\n".join(lines))
    found = read_questions(str(file))
    assert [(q.question, q.answers, q.weight) for q in found.of(record("scene_1_000000"))] == [
        ("How many?", ("two",), 0.5)
    ]
    assert len(found) == 1
    assert [(r.what.rsplit(", ", 1)[1], r.reason) for r in found.rejections] == [
        ("line 3", "line that is no JSON object"),
        ("line 4", "entry without a question, its number or its picture"),
        ("line 5", "question without an answer"),
    ]


def test_files_are_joined_and_travel_to_other_processes(tmp_path: Path) -> None:
    first = read_questions(vqa(tmp_path, [asked(1, 14), asked(2, 15), asked(3, 14)])[0])
    second = read_questions(
        write_json(tmp_path / "qa.json", [{"id": 7, "qas": [{"question": "Q?", "answer": "A", "qa_id": 1}]}])
    )
    both = pickle.loads(pickle.dumps(joined([first, second])))
    assert [q.key for q in both.of(record("coco_000000000014", "coco:14", "vg:7"))] == ["1", "3", "vg-1"]
    assert len(both) == 4 and len(joined([])) == 0


def test_nocaps_numbers_and_domains(tmp_path: Path) -> None:
    image = {"license": 0, "file_name": "0013ea2087020901.jpg", "height": 1024, "width": 732, "id": 0}
    image |= {"open_images_id": "0013ea2087020901", "domain": "in-domain", "date_captured": "2018-11-06 11:04:33"}
    captions = [{"image_id": 0, "id": n, "caption": f" A baby {n}."} for n in (1, 0)]
    found = read_nocaps(write_json(tmp_path / "v.json", {"images": [image], "annotations": captions, "licenses": []}))
    for one in (record("nocaps_0013ea2087020901"), record("other", "openimages:0013ea2087020901")):
        picture = found.of(one)
        assert picture is not None
        assert (picture.number, picture.domain, picture.captions) == (0, "in-domain", ("A baby 0.", "A baby 1."))
    assert found.of(record("coco_000000000000")) is None and len(found) == 1
    assert len(read_nocaps(write_json(tmp_path / "info.json", {"images": [image]}))) == 1
