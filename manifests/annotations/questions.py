"""Questions about pictures, by picture: a million and more of them, in Arrow columns that processes share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from manifests.annotations.pictures import names_of
from manifests.record import ImageRecord, Rejection

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("picture", pa.string()),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("kind", pa.string()),
        ("weight", pa.float32()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """``key``: unique in its file, the dataset's own number of the question. ``picture``: the name of what it is about
    (coco:391895). ``answers``: what people said, ten in VQAv2, one in Visual Genome; () where they are kept secret.
    ``kind``: of answer (VQAv2: yes/no, number, other), "" where the file tells none. ``weight``: how much it counts."""

    key: str
    picture: str
    question: str
    answers: tuple[str, ...] = ()
    kind: str = ""
    weight: float = 1.0


class Questions:
    """All questions of one or several files; ``of`` gives those about one picture, in the order of the files.

    ``rejections``: what was left out of the files. Memory: the texts and some 60 bytes a question; a process that is forked
    or sent the object shares or copies plain buffers, no million of Python objects.
    """

    def __init__(self, table: pa.Table, rejections: Sequence[Rejection] = ()) -> None:
        pictures = table.column("picture").combine_chunks().dictionary_encode()
        numbers = np.asarray(pictures.indices)
        order = np.argsort(numbers, kind="stable")
        self._table = table.take(pa.array(order)).combine_chunks()
        self._places = {name: number for number, name in enumerate(pictures.dictionary.to_pylist())}
        self._ends = np.searchsorted(numbers[order], np.arange(len(self._places) + 1))
        self.rejections = tuple(rejections)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def pictures(self) -> Iterable[str]:
        """The names of all pictures that are asked about."""
        return self._places.keys()

    def of(self, record: ImageRecord) -> tuple[Question, ...]:
        """The questions about a picture, by whatever of its names; () where there are none."""
        found: list[Question] = []
        for name in names_of(record):
            found += self.about(name)
        return tuple(found)

    def about(self, picture: str) -> list[Question]:
        """The questions about the picture of this name."""
        place = self._places.get(picture)
        if place is None:
            return []
        start, end = int(self._ends[place]), int(self._ends[place + 1])
        return list(_questions(self._table.slice(start, end - start)))

    def __iter__(self) -> Iterator[Question]:
        """All of them, picture by picture."""
        for batch in self._table.to_batches(max_chunksize=4096):
            yield from _questions(batch)


def joined(files: Sequence[Questions]) -> Questions:
    """The questions of several files as one."""
    tables = [questions._table for questions in files]
    rejections = [rejection for questions in files for rejection in questions.rejections]
    return Questions(pa.concat_tables(tables) if tables else SCHEMA.empty_table(), rejections)


def _questions(rows: pa.Table | pa.RecordBatch) -> Iterator[Question]:
    columns = (rows.column(name).to_pylist() for name in SCHEMA.names)
    for key, picture, question, answers, kind, weight in zip(*columns, strict=True):
        yield Question(key=key, picture=picture, question=question, answers=tuple(answers), kind=kind, weight=weight)
