"""A batch always comes to one valid label per photo, whatever the expert does with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from expert_zoo.expert import Expert, Photo, is_out_of_memory
from expert_zoo.labels import DenseMap, Label, Text, Words
from expert_zoo.spec import LabelSpec
from pipeline.batching import BAD_LABEL, EXPERT_RAISED, OUT_OF_MEMORY, BatchRunner
from tests.conftest import comparable
from tests.stand_ins import Grey, Hungry, Squares, Troubled, card


def photos_of(count: int, note: str = "") -> list[Photo]:
    """Photos ``p0``, ``p1``, ... that no expert answers alike."""
    return [
        Photo(
            image_id=f"p{index}",
            uri="memory://",
            pixels_HW3=np.full((6 + index, 8, 3), 5 * index, np.uint8),
            note=note,
        )
        for index in range(count)
    ]


def expected(photos: Sequence[Photo]) -> list[tuple[object, ...]]:
    return [comparable(Grey().one(photo)) for photo in photos]


class Scripted(Expert):
    """Says whatever ``answer`` returns for a batch; remembers the batches it was asked."""

    def __init__(self, answer: Callable[[Sequence[Photo]], object], spec: LabelSpec | None = None) -> None:
        self.card = card("scripted", spec or Grey().card.spec)
        self.calls: list[list[str]] = []
        self._answer = answer

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        self.calls.append([photo.image_id for photo in photos])
        return self._answer(photos)  # type: ignore[return-value]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_order_is_kept(batch_size: int) -> None:
    photos = photos_of(7)
    assert [comparable(label) for label in BatchRunner(Grey(), batch_size).label(photos)] == expected(photos)


def test_no_photo_no_question() -> None:
    expert = Scripted(lambda photos: [])
    assert BatchRunner(expert).label([]) == [] and expert.calls == []


def test_the_expert_wishes_the_batch_and_the_job_decides() -> None:
    assert BatchRunner(Grey()).batch_size == 4 and BatchRunner(Grey(), 6).batch_size == 6
    expert = Scripted(lambda photos: [Grey().one(photo) for photo in photos])
    BatchRunner(expert, 3).label(photos_of(7))
    assert [len(call) for call in expert.calls] == [3, 3, 1]


TROUBLES = {
    "raise": (EXPERT_RAISED, "RuntimeError: I do not like this photo"),
    "nan": (BAD_LABEL, "NaN or infinite"),
    "shape": (BAD_LABEL, "wrong shape (1, "),
    "kind": (BAD_LABEL, "wants DenseMap, got ClassMap"),
    "nothing": (BAD_LABEL, "expected a Label, got NoneType"),
    "fail": ("dislike", "said so itself"),
    "oom": (OUT_OF_MEMORY, "MemoryError"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("at", [0, 3, 7])
def test_one_photo_fails_and_its_neighbours_do_not(trouble: str, at: int) -> None:
    photos = photos_of(8)
    labels = BatchRunner(Troubled(trouble=trouble, at=f"p{at}"), 8).label(photos)
    code, detail = TROUBLES[trouble]
    assert labels[at].status == "failed" and labels[at].reason.startswith(f"{code}: ")
    assert detail in labels[at].reason and "\n" not in labels[at].reason
    others = [comparable(label) for label in labels]
    assert others[:at] + others[at + 1 :] == expected(photos[:at] + photos[at + 1 :])


def test_all_of_a_wrong_count_are_asked_alone() -> None:
    """Nobody can tell which label is whose: halving finds the photo with which the count is wrong."""
    photos = photos_of(8)
    labels = BatchRunner(Troubled(trouble="count", at="p5"), 8).label(photos)
    assert labels[5].reason == "expert raised: ValueError: 2 labels for 1 photos"
    assert [label.status for label in labels] == ["ok"] * 5 + ["failed"] + ["ok"] * 2


@pytest.mark.parametrize("answer", [[], None, [None, None], 7, "text"])
def test_nonsense_fails_every_row(answer: object) -> None:
    labels = BatchRunner(Scripted(lambda photos: answer), 4).label(photos_of(3))
    assert [label.status for label in labels] == ["failed"] * 3


def test_an_error_names_the_expert_s_line_and_its_traceback_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Careless(Grey):
        def one(self, photo: Photo) -> Label:
            return Label.ok(DenseMap(np.stack([photo.pixels_HW3, photo.pixels_HW3[0]])))

    labels = BatchRunner(Careless(), 4).label(photos_of(4))
    line = Careless.one.__code__.co_firstlineno + 1
    assert {label.reason.partition("array")[0] for label in labels} == {"expert raised: ValueError: all input "}
    assert all(label.reason.endswith(f" (test_batching.py:{line})") for label in labels), "and not NumPy's"
    (logged,) = caplog.messages
    assert (
        "photo p0" in logged
        and "Traceback (most recent call last)" in logged
        and "np.stack([photo.pixels_HW3" in logged
    )


def test_an_expert_that_always_raises_is_asked_twice_a_photo_at_most() -> None:
    def refuse(photos: Sequence[Photo]) -> object:
        raise KeyError("always")

    expert = Scripted(refuse)
    labels = BatchRunner(expert, 8).label(photos_of(8))
    line = refuse.__code__.co_firstlineno + 1
    assert {label.reason for label in labels} == {f"expert raised: KeyError: 'always' (test_batching.py:{line})"}
    assert len(expert.calls) == 15


def test_memory_runs_out_and_the_smaller_batch_is_remembered() -> None:
    expert = Hungry(fits=3)
    runner = BatchRunner(expert)
    photos = photos_of(16)
    assert [comparable(label) for label in runner.label(photos)] == expected(photos)
    assert expert.calls == [16, 8, 4, *[2] * 8] and expert.released == 3
    runner.label(photos[:5])
    assert expert.calls[11:] == [2, 2, 1] and runner.batch_size == 2


def test_a_batch_of_one_that_does_not_fit_fails_its_row() -> None:
    photos = photos_of(3)
    expert = Hungry(fits=0)
    runner = BatchRunner(expert, 2)
    assert [label.reason.split(":")[0] for label in runner.label(photos)] == [OUT_OF_MEMORY] * 3
    assert runner.batch_size == 1 and expert.calls == [2, 1, 1, 1]


def test_the_batch_never_grows_again() -> None:
    """Errors and exhaustion mixed: while one half is narrowed down, the other must not be asked at the old size."""

    def moody(photos: Sequence[Photo]) -> object:
        if len(photos) > 2:
            raise MemoryError("device") if photos[0].image_id != "p0" or len(photos) < 8 else ValueError("p0 is odd")
        return [Grey().one(photo) for photo in photos]

    expert = Scripted(moody)
    runner = BatchRunner(expert, 8)
    assert [label.status for label in runner.label(photos_of(8))] == ["ok"] * 8
    sizes = [len(call) for call in expert.calls]
    assert sizes == [8, 4, 2, 2, 2, 2] and runner.batch_size == 2


def test_no_traceback_keeps_the_failed_batch_alive() -> None:
    """Device memory is freed by the last reference; the second try must not hold the first one's frames."""
    import weakref

    class Tensor:
        pass

    alive: list[weakref.ref[Tensor]] = []

    def exhausted(photos: Sequence[Photo]) -> object:
        assert all(ref() is None for ref in alive), "the batch before is still in memory"
        activations = Tensor()
        alive.append(weakref.ref(activations))
        if len(photos) > 1:
            raise MemoryError("out of memory")
        return [Grey().one(photo) for photo in photos]

    assert [label.status for label in BatchRunner(Scripted(exhausted), 4).label(photos_of(4))] == ["ok"] * 4
    assert len(alive) == 6


@pytest.mark.parametrize(
    ("error", "exhausted"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), False),
        (ValueError("the allocation failed"), False),
    ],
)
def test_what_counts_as_memory_that_ran_out(error: Exception, exhausted: bool) -> None:
    assert is_out_of_memory(error) is exhausted


def test_a_note_of_the_photo_marks_its_row() -> None:
    labels = BatchRunner(Grey()).label(photos_of(2, note="truncated: 3 of 9 rows"))
    assert [(label.status, label.reason) for label in labels] == [("ok", "truncated: 3 of 9 rows")] * 2
    (empty,) = BatchRunner(Squares()).label(photos_of(1, note="truncated: x"))
    assert (empty.status, empty.reason) == ("empty", "truncated: x")
    (failed,) = BatchRunner(Troubled(trouble="fail")).label(photos_of(1, note="truncated: x"))
    assert failed.reason == "dislike: said so itself"


def test_a_box_outside_its_photo_is_a_bad_label() -> None:
    from expert_zoo.labels import instances

    inside = instances([[0, 0, 8.5, 6.5]], [0.5], [0])  # half a pixel beyond is rounding
    outside = instances([[0, 0, 8, 20]], [0.5], [0])
    labels = BatchRunner(Scripted(lambda photos: [inside, outside], Squares().card.spec)).label(photos_of(2))
    assert labels[0].status == "ok" and labels[1].reason.startswith("bad label: a point lies 13.0 px outside")


@pytest.mark.parametrize(
    "label",
    [
        Label("perhaps"),  # type: ignore[arg-type]
        Label("ok"),
        Label("empty", Text("x", -1.0)),
        Label("failed"),
        Label.ok(Text("half a pair: \ud83d", -1.0)),
        Label.ok(Text(None, -1.0)),  # type: ignore[arg-type]
        Label.ok(Text("x", float("nan"))),
        Label.ok(Text("x", "high")),  # type: ignore[arg-type]
        Label("failed", None, None),  # type: ignore[arg-type]
        Label.failed("half a pair: \udc80"),
    ],
)
def test_a_malformed_label_cannot_reach_the_store(label: Label) -> None:
    """Whatever would make Parquet or the receipt raise fails its row here instead of the cell there."""
    spec = LabelSpec(kind="text", quantity="caption")
    (found,) = BatchRunner(Scripted(lambda photos: [label], spec)).label(photos_of(1))
    assert found.status == "failed" and found.value is None
    assert found.reason and found.reason.encode()


def test_words_must_be_texts() -> None:
    spec = LabelSpec(kind="words", quantity="words")
    one = np.ones(1, np.float32)
    for text in ("\ud800", 7, None):
        value = Words(np.zeros((1, 4, 2), np.float32), (text,), one)  # type: ignore[arg-type]
        (found,) = BatchRunner(Scripted(lambda photos, value=value: [Label.ok(value)], spec)).label(photos_of(1))
        assert found.reason.startswith(BAD_LABEL)


def test_an_error_whose_text_cannot_be_stored() -> None:
    def refuse(photos: Sequence[Photo]) -> object:
        raise OSError("name with \udcff")

    (found,) = BatchRunner(Scripted(refuse)).label(photos_of(1))
    assert found.reason.startswith("expert raised: OSError: name with ? (test_batching.py:")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_not_a_photo_s_fault(kind: type[BaseException]) -> None:
    def interrupted(photos: Sequence[Photo]) -> object:
        raise kind

    expert = Scripted(interrupted)
    with pytest.raises(kind):
        BatchRunner(expert, 4).label(photos_of(4))
    assert len(expert.calls) == 1


def test_seconds_are_those_inside_the_expert() -> None:
    runner = BatchRunner(Grey(delay=0.005))
    runner.label(photos_of(4))
    assert 0.02 <= runner.seconds < 2
