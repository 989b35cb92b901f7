"""The files that questions come in: VQAv2's, Visual Genome's, the lists of BLIP and Prismer, and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.annotations.pictures import id_name, path_name
from manifests.annotations.questions import SCHEMA, Questions
from manifests.json_parts import parts
from manifests.record import BATCH_ROWS, Rejection, fold
from manifests.sources.coco import coco_key
from manifests.sources.coco_layout import dicts, is_id
from manifests.sources.lines import lines
from manifests.sources.visual_genome import entry_id, vg_key

NO_QUESTION = "entry without a question, its number or its picture"
NO_ANSWER = "question without an answer"
TWICE = "question listed twice"
NOT_ASKED = "answers to a question that is not in the file of questions"
BROKEN_LINE = "line that is no JSON object"

#: What rejections call their source.
_NAME = "questions"
_QUESTIONS = (
    "VQAv2's v2_OpenEnded_mscoco_*_questions.json, Visual Genome's question_answers.json, or a list of questions"
)
_ANNOTATIONS = "VQAv2's v2_mscoco_*_annotations.json"


class _Row(NamedTuple):
    key: str
    picture: str
    question: str
    answers: list[str]
    kind: str
    weight: float


def read_questions(where: str, annotations: str | None = None, *, weight: float = 1.0) -> Questions:
    """The questions of a file at a path or URL, which is told by what is in it:

    VQAv2            v2_OpenEnded_mscoco_*_questions.json; with ``annotations``, v2_mscoco_*_annotations.json, their ten
                     answers and the kind of answer. A test set has no annotations, so its questions no answers
    Visual Genome    question_answers.json: one answer each
    BLIP, Prismer    lists of objects with ``image``, ``dataset``, ``question``, ``answer`` and perhaps ``weight``:
                     vqav2_train_val.json, vg_qa.json, vqa_train.json, vqav2_test.json
    JSON lines       .jsonl: ``image_id`` (of the manifest), ``question``, ``answer`` and perhaps ``weight``

    weight: of all questions, times the file's own; Prismer learns Visual Genome's with 0.2.

    What cannot be used is in the result's ``rejections``. Raises ValueError, naming line and column of broken JSON, where a
    file is missing or is another one, and where questions and annotations have none in common.
    """
    rows = _of_lines(where) if where.lower().endswith((".jsonl", ".ndjson")) else _of_json(where)
    table, rejections = _collected(rows, weight)
    table = _without_repeats(where, table, rejections)
    if annotations is not None:
        table = _with_answers(where, table, annotations, rejections)
    return Questions(table, rejections)


def _collected(rows: Iterator[_Row | Rejection], weight: float) -> tuple[pa.Table, list[Rejection]]:
    batches: list[pa.RecordBatch] = []
    rejections: list[Rejection] = []
    pending: list[_Row] = []

    def flush() -> None:
        columns = zip(*pending, strict=True) if pending else [()] * len(SCHEMA)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        pending.clear()

    for row in rows:
        if isinstance(row, Rejection):
            rejections.append(row)
            continue
        pending.append(row._replace(weight=row.weight * weight))
        if len(pending) == BATCH_ROWS:
            flush()
    flush()
    return pa.Table.from_batches(batches), rejections


def _without_repeats(where: str, table: pa.Table, rejections: list[Rejection]) -> pa.Table:
    keys = table.column("key").combine_chunks()
    first = np.sort(np.unique(np.asarray(keys.dictionary_encode().indices), return_index=True)[1])
    if len(first) == len(keys):
        return table
    again = np.setdiff1d(np.arange(len(keys)), first)
    rejections += [Rejection(_NAME, f"{where}: question {keys[row]}", TWICE) for row in again.tolist()]
    return table.take(pa.array(first))


def _with_answers(where: str, table: pa.Table, annotations: str, rejections: list[Rejection]) -> pa.Table:
    """The questions that have answers, with them."""
    numbers: list[np.ndarray] = []
    answers: list[pa.Array] = []
    kinds: list[pa.Array] = []
    for part in parts(annotations, needed=("annotations",), expected=_ANNOTATIONS):
        if part.key != "annotations":
            continue
        found = [
            (entry, _given(entry))
            for entry in part.values
            if isinstance(entry, dict) and is_id(entry.get("question_id"))
        ]
        numbers.append(np.array([entry["question_id"] for entry, _ in found], np.int64))
        answers.append(pa.array([given for _, given in found], SCHEMA.field("answers").type))
        kinds.append(pa.array([fold(str(entry.get("answer_type", ""))) for entry, _ in found], pa.string()))
    answered = np.concatenate(numbers)
    order = np.argsort(answered, kind="stable")
    asked = np.array([int(key) if key.isdecimal() else -1 for key in table.column("key").to_pylist()], np.int64)
    places = np.searchsorted(answered[order], asked)
    rows = order[np.minimum(places, len(order) - 1)] if len(order) else np.zeros(len(asked), np.int64)
    known = answered[rows] == asked if len(order) else np.zeros(len(asked), bool)
    if len(asked) and not known.any():
        raise ValueError(f"{annotations} answers no question of {where}; expected both of one split")
    given = pa.concat_arrays(answers).take(pa.array(rows[known]))
    table = table.filter(pa.array(known))
    full = np.asarray(pc.greater(pc.list_value_length(given), 0)) if len(given) else np.zeros(0, bool)
    without = int((~known).sum() + (~full).sum())
    if without:
        rejections.append(Rejection(_NAME, f"{where} and {annotations}", NO_ANSWER, without))
    strangers = len(answered) - len(np.unique(rows[known]))
    if strangers:
        rejections.append(Rejection(_NAME, f"{annotations} and {where}", NOT_ASKED, strangers))
    kind = pa.concat_arrays(kinds).take(pa.array(rows[known]))
    for name, column in (("answers", given), ("kind", kind)):
        at = SCHEMA.get_field_index(name)
        table = table.set_column(at, SCHEMA.field(name), pa.chunked_array([column]))
    return table.filter(pa.array(full))


def _given(entry: dict[str, Any]) -> list[str]:
    return [fold(str(one["answer"])) for _, one in dicts(entry.get("answers")) if "answer" in one]


def _of_json(where: str) -> Iterator[_Row | Rejection]:
    known = False
    for part in parts(where, expected=_QUESTIONS):
        if part.key not in ("", "questions") or part.first < 0:
            continue
        known = True
        for at, entry in enumerate(part.values, part.first):
            place = f"{where}, {part.key}[{at}]"
            if not isinstance(entry, dict):
                yield Rejection(_NAME, place, NO_QUESTION)
            elif part.key == "questions":
                yield _of_vqa(place, entry)
            elif "qas" in entry:
                yield from _of_visual_genome(place, entry)
            else:
                yield from _of_list(place, at, entry)
    if not known:
        raise ValueError(f"{where}: an object without a list 'questions'; expected {_QUESTIONS}")


def _of_vqa(place: str, entry: dict[str, Any]) -> _Row | Rejection:
    question, image, number = entry.get("question"), entry.get("image_id"), entry.get("question_id")
    if not isinstance(question, str) or not fold(question) or not is_id(image) or not is_id(number):
        return Rejection(_NAME, place, NO_QUESTION)
    return _Row(str(number), coco_key(image), fold(question), [], "", 1.0)


def _of_visual_genome(place: str, entry: dict[str, Any]) -> Iterator[_Row | Rejection]:
    image = entry_id(entry, "qas")
    if image is None:
        yield Rejection(_NAME, place, NO_QUESTION)
        return
    for at, asked in dicts(entry["qas"]):
        question, answer, number = asked.get("question"), asked.get("answer"), asked.get("qa_id", asked.get("id"))
        if not isinstance(question, str) or not fold(question) or not is_id(number):
            yield Rejection(_NAME, f"{place}, qas[{at}]", NO_QUESTION)
        elif not isinstance(answer, str) or not fold(answer):
            yield Rejection(_NAME, f"{place}, qas[{at}]", NO_ANSWER)
        else:
            # "Green." is how Visual Genome writes what VQAv2 calls "green"; the trainer's form knows no full stops.
            yield _Row(
                f"vg-{number}", vg_key(image), fold(question), [fold(answer).rstrip(".") or fold(answer)], "", 1.0
            )


def _of_list(place: str, at: int, entry: dict[str, Any]) -> Iterator[_Row | Rejection]:
    question, image, answers = entry.get("question"), entry.get("image"), entry.get("answer", [])
    dataset, number = str(entry.get("dataset", "")), entry.get("question_id", at)
    picture = path_name(image, dataset) if isinstance(image, str) else None
    texts = [answers] if isinstance(answers, str) else answers if isinstance(answers, list) else []
    weights = entry.get("weight", 1.0)
    if not isinstance(question, str) or not fold(question) or picture is None:
        yield Rejection(_NAME, place, NO_QUESTION)
    elif isinstance(weights, int | float):
        if isinstance(answers, str) and "question_id" in entry:
            number = f"{number}-{at}"  # one entry for each answer to a question
        kept = [fold(text) for text in texts if isinstance(text, str)]
        yield _Row(_list_key(dataset, number), picture, fold(question), kept, "", float(weights))
    elif isinstance(weights, list) and len(weights) == len(texts):
        for which, (text, weight) in enumerate(zip(texts, weights, strict=True)):
            if isinstance(text, str) and isinstance(weight, int | float):
                yield _Row(
                    f"{_list_key(dataset, number)}-{which}", picture, fold(question), [fold(text)], "", float(weight)
                )
    else:
        yield Rejection(_NAME, place, NO_ANSWER)


def _list_key(dataset: str, number: object) -> str:
    return fold(f"vg-{number}" if dataset == "vg" else str(number))


def _of_lines(where: str) -> Iterator[_Row | Rejection]:
    for first, text in lines(where):
        for number, line in enumerate(text.cast(pa.binary()).to_pylist(), first):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                yield Rejection(_NAME, f"{where}, line {number}", BROKEN_LINE)
                continue
            image, question, answer = (entry.get(key) for key in ("image_id", "question", "answer"))
            weight = entry.get("weight", 1.0)
            if not (isinstance(image, str) and isinstance(question, str) and fold(question)):
                yield Rejection(_NAME, f"{where}, line {number}", NO_QUESTION)
            elif not isinstance(answer, str) or not isinstance(weight, int | float):
                yield Rejection(_NAME, f"{where}, line {number}", NO_ANSWER)
            else:
                yield _Row(f"line-{number}", id_name(fold(image)), fold(question), [fold(answer)], "", float(weight))
