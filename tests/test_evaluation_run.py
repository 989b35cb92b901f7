"""Evaluation as a whole: tasks asked of a speaker, runs that go on where they broke off, and a Prismer's replies about scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from expert_zoo.catalog import create
from manifests.annotations.nocaps import NocapsPicture
from manifests.annotations.questions import Question
from manifests.record import ImageRecord
from manifests.sources.scenes import Scenes
from pipeline.store import LabelStore
from tests.small_store import label, write_manifest
from tests.source_contents import split
from trainer.data.dataset import drawn_caption
from trainer.embeddings.random_vectors import RandomEncoder
from trainer.embeddings.words import words_of
from trainer.embeddings.writing import class_table, extended
from trainer.evaluation.photos_in_order import photos_in_order
from trainer.evaluation.prismer_speaker import Manner, PrismerSpeaker
from trainer.evaluation.questions import AllQuestions
from trainer.evaluation.run import Journal, evaluate, replies_of
from trainer.evaluation.tasks import Answering, Captioning, Classifying, Reply, by_key, class_names, sentence
from trainer.prismer.config import Modality, PrismerConfig
from trainer.prismer.inputs import Inputs
from trainer.prismer.method import PrismerMethod
from trainer.prismer.model import Prismer
from trainer.prismer.texts import Tokens, write_words
from trainer.questions import scene_questions
from trainer.ranks import Ranks

ALONE = Ranks(rank=0, count=1, device=torch.device("cpu"))


@dataclass
class Photos:
    """As much of a batch as an evaluation looks at."""

    ids: list[str]
    captions: list[tuple[str, ...]] = field(default_factory=list)
    texts: list[Any] = field(default_factory=list)


@dataclass
class Parrot:
    """Says what it is told to of each image, and counts how often it looks."""

    of: dict[str, Any]
    looks: int = 0

    def look(self, batch: Photos) -> list[str]:
        self.looks += 1
        return batch.ids

    def caption(self, seen: list[str], photos: Sequence[int]) -> list[str]:
        return [self.of[seen[photo]] for photo in photos]

    def answer(self, seen: list[str], photos: Sequence[int], questions: Sequence[str]) -> list[str]:
        return [self.of[seen[photo]][question] for photo, question in zip(photos, questions, strict=True)]

    def choose(
        self, seen: list[str], photos: Sequence[int], questions: Sequence[str], answers: Sequence[str]
    ) -> list[int]:
        return [answers.index(answer) for answer in self.answer(seen, photos, questions)]

    def classify(self, seen: list[str], photos: Sequence[int], names: Sequence[str]) -> list[int]:
        return [names.index(self.of[seen[photo]]) for photo in photos]


def question(key: str, text: str, *answers: str, kind: str = "what") -> Question:
    return Question(key=key, picture="", question=text, answers=answers, kind=kind)


# ---- tasks


def test_captions_are_sentences_and_are_scored_with_their_references() -> None:
    batch = Photos(["a", "b"], [("a red ball", "One ball."), ("two boxes",)])
    speaker = Parrot({"a": "a red ball", "b": ""})
    scores, said = evaluate(speaker, [batch], Captioning())
    assert by_key(said) == {"a": "A red ball.", "b": ""}
    assert scores.numbers["CIDEr"] > 0 and scores.numbers["BLEU@1"] > 0 and "1 of 2 captions are empty" in scores.notes
    assert [sentence(text) for text in ("a B c. ", "é", "...", " ")] == ["A B c.", "É.", "", ""]


def test_nocaps_is_scored_by_its_domains() -> None:
    def picture(number: int, domain: str, *captions: str) -> NocapsPicture:
        return NocapsPicture(number=number, open_images_id=str(number), domain=domain, captions=captions)

    told = [picture(3, "in-domain", "a red ball"), picture(4, "out-domain", "two boxes"), picture(5, "", "a cone")]
    batch = Photos(["a", "b", "c"], [(), (), ()], texts=told)
    speaker = Parrot({"a": "a red ball", "b": "one ball", "c": "a cone"})
    scores, said = evaluate(speaker, [batch], Captioning(measures=("BLEU",), by_domain=True))
    assert scores.numbers["BLEU@1/in-domain"] == pytest.approx(100) and scores.numbers["BLEU@1/out-domain"] < 1
    assert {name for name in scores.numbers if name.startswith("BLEU@1")} == {
        "BLEU@1", "BLEU@1/in-domain", "BLEU@1/out-domain",
    }  # fmt: skip
    assert [one.truth for one in said] == [("a red ball",), ("two boxes",), ("a cone",)]


def test_answers_are_told_by_kind_and_against_who_sees_nothing() -> None:
    asked = [
        (question("1", "colour?", "red", kind="colour"), question("2", "count?", "2", kind="count")),
        (question("3", "colour?", "blue", kind="colour"),),
        (question("4", "colour?", "the red", kind="colour"),),
    ]
    batch = Photos(["a", "b", "c"], texts=asked)
    speaker = Parrot({"a": {"colour?": "Red.", "count?": "two"}, "b": {"colour?": "red"}, "c": {"colour?": "red"}})
    scores, said = evaluate(speaker, [batch], Answering())
    assert scores.numbers == pytest.approx({"accuracy": 75, "accuracy/colour": 200 / 3, "accuracy/count": 100})
    colour, count = scores.kinds
    assert (colour.kind, colour.asked, colour.blind) == ("colour", 3, pytest.approx(200 / 3))
    assert (count.kind, count.asked, count.blind) == ("count", 1, 100)
    assert [reply.key for reply in said] == ["1", "2", "3", "4"]


def test_official_accuracy_is_that_of_ten_people() -> None:
    batch = Photos(["a"], texts=[(question("1", "colour?", *["red"] * 2, *["blue"] * 8),)])
    speaker = Parrot({"a": {"colour?": "red"}})
    scores, _ = evaluate(speaker, [batch], Answering(choices=["blue", "red"]))
    assert scores.numbers["accuracy"] == pytest.approx(60) and scores.kinds[0].blind == 100


def test_many_questions_are_asked_in_parts() -> None:
    many = tuple(question(f"{n:03d}", str(n), str(n)) for n in range(150))
    batch = Photos(["a", "b"], texts=[many, (question("b", "0", "1"),)])
    speaker = Parrot({"a": {str(n): str(n) for n in range(150)}, "b": {"0": "0"}})
    scores, said = evaluate(speaker, [batch], Answering())
    assert len(said) == 151 and scores.numbers["accuracy"] == pytest.approx(100 * 150 / 151)


def test_questions_without_answers_are_for_the_server() -> None:
    batch = Photos(["a"], texts=[(question("7", "colour?"),)])
    speaker = Parrot({"a": {"colour?": "red"}})
    assert by_key(replies_of(speaker, [batch], Answering())) == {"7": "red"}
    with pytest.raises(ValueError, match="1 of 1 questions have no answers to compare with, the first is 7"):
        evaluate(speaker, [batch], Answering())
    with pytest.raises(ValueError, match="0 of 0 questions"):
        evaluate(speaker, [], Answering())


def test_classes_are_first_captions() -> None:
    records = [
        ImageRecord(image_id=name, source="x", uri="file:///x", captions=captions)
        for name, captions in (("a", ("tench", "fish")), ("b", ("crane",)), ("c", ()), ("d", ("crane",)))
    ]
    names = class_names(records)
    assert names == ["crane", "tench"]
    batch = Photos(["a", "b"], [("tench", "fish"), ("crane",)])
    scores, said = evaluate(Parrot({"a": "tench", "b": "tench"}), [batch], Classifying(names=names))
    assert scores.numbers == {"accuracy": 50} and by_key(said) == {"a": "tench", "b": "tench"}
    for captions in ((), ("cat",)):
        with pytest.raises(ValueError, match="image a is of class .*which is none of the 2"):
            evaluate(Parrot({"a": "tench"}), [Photos(["a"], [captions])], Classifying(names=names))
    with pytest.raises(ValueError, match="no photo to classify"):
        evaluate(Parrot({}), [], Classifying(names=names))


# ---- runs

BATCHES = [Photos([f"{n}", f"{n + 1}"], [(f"ball {n}",), (f"ball {n + 1}",)]) for n in range(0, 6, 2)]
SAYS = {str(n): f"ball {n}" for n in range(6)}


def test_a_photo_that_comes_twice_ends_the_run() -> None:
    with pytest.raises(ValueError, match="image 0 comes twice"):
        evaluate(Parrot(SAYS), [BATCHES[0], BATCHES[0]], Captioning())
    twice = [Reply(key="0", image_id="0", text="x", truth=("y",))]
    with pytest.raises(ValueError, match="0 was answered twice"):
        evaluate(Parrot(SAYS), BATCHES[:1], Captioning(), gathered=lambda said: [said, twice])


def test_ranks_score_together() -> None:
    whole, said = evaluate(Parrot(SAYS), BATCHES, Captioning())
    others = replies_of(Parrot(SAYS), BATCHES[1:], Captioning())
    part, together = evaluate(Parrot(SAYS), BATCHES[:1], Captioning(), gathered=lambda said: [others, said])
    assert part == whole and together == said


class BrokenOff(Exception):
    pass


def broken_after(count: int) -> Any:
    yield from BATCHES[:count]
    raise BrokenOff


def test_a_run_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    path, about = tmp_path / "a" / "journal.jsonl", {"task": "captions", "checkpoint": "x"}
    expected, said = evaluate(Parrot(SAYS), BATCHES, Captioning())
    with Journal(path, about=about) as journal, pytest.raises(BrokenOff):
        evaluate(Parrot(SAYS), broken_after(2), Captioning(), journal=journal)
    # A kill may cut the last line off anywhere.
    path.write_bytes(path.read_bytes()[:-9])
    speaker = Parrot(SAYS)
    done: list[int] = []
    with Journal(path, about=about) as journal:
        again = evaluate(speaker, BATCHES, Captioning(), journal=journal, progress=done.append)
    assert again == (expected, said) and speaker.looks == 2 and done == [2, 4, 6]
    with Journal(path, about=about) as journal:
        again = evaluate(speaker, BATCHES, Captioning(), journal=journal)
    assert again == (expected, said) and speaker.looks == 2


def test_a_photo_without_questions_is_done_as_well(tmp_path: Path) -> None:
    batch = Photos(["a", "b"], texts=[(), (question("1", "colour?", "red"),)])
    speaker = Parrot({"b": {"colour?": "red"}})
    for looks in (1, 1):
        with Journal(tmp_path / "journal", about={}) as journal:
            scores, _ = evaluate(speaker, [batch], Answering(), journal=journal)
        assert speaker.looks == looks and scores.numbers["accuracy"] == 100


def test_the_journal_of_another_evaluation_is_refused_and_kept(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", about={"checkpoint": "x"}):
        pass
    before = (tmp_path / "journal").read_bytes()
    with pytest.raises(ValueError, match="is the journal of another evaluation") as told:
        Journal(tmp_path / "journal", about={"checkpoint": "y"})
    assert "\n" not in str(told.value) and (tmp_path / "journal").read_bytes() == before


# ---- a Prismer on scenes

MODALITIES: tuple[Modality, ...] = ("depth", "seg", "detection", "ocr")
LABELS = {"depth": "truth_depth", "seg": "truth_seg", "detection": "truth_detection", "ocr": "truth_ocr"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    folder = tmp_path_factory.mktemp("scenes")
    records, _ = split(Scenes(count=5, seed=7, size=64))
    store = LabelStore.create(str(folder / "store"), write_manifest(folder, records), shard_size=3)
    label(store, [create(name) for name in ("image", *LABELS.values())])
    return store


@pytest.fixture(scope="module")
def speaker(store: LabelStore, tmp_path_factory: pytest.TempPathFactory) -> PrismerSpeaker:
    """Of random weights, which let what it says depend on the photo."""
    folder = tmp_path_factory.mktemp("tokens")
    records = [record for shard in store.plan.shards() for record in store.records(shard)]
    asked = [question for record in records for question in scene_questions(record)]
    texts = [text for record in records for text in record.captions]
    write_words([*texts, *(one.question for one in asked), *(one.answers[0] for one in asked)], folder)
    tokens = Tokens(folder)
    cards = {modality: store.card(store.column_of(name)) for modality, name in LABELS.items()}
    tables = {name: class_table(cards[name], RandomEncoder()) for name in ("seg", "detection")}
    tables["ocr"] = extended(None, words_of(store, cards["ocr"]), RandomEncoder())
    config = PrismerConfig.of("tiny", experts=MODALITIES, resolution=64, label_resolution=64, words=len(tokens))
    # Tripled below: twice as loud besides, it would say nothing but one special token.
    config = config.model_copy(update={"from_scratch": False, "stem_width": 0})
    torch.manual_seed(0)
    model = Prismer(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "norm" not in name:
                parameter.mul_(3.0)
    method = PrismerMethod(model=model, inputs=Inputs(config, cards=cards, tables=tables))
    return PrismerSpeaker(method, tokens, manner=Manner(caption_tokens=(4, 12)))


def batches(store: LabelStore, size: int, text_of: Any = drawn_caption) -> Any:
    return photos_in_order(
        store, labels=LABELS, resolution=64, label_resolution=64, batch_size=size, ranks=ALONE, text_of=text_of
    )


def test_photos_come_once_in_the_stores_order(store: LabelStore) -> None:
    records = [record for shard in store.plan.shards() for record in store.records(shard)]
    found = list(batches(store, 2, AllQuestions(scene_questions)))
    assert [image for batch in found for image in batch.ids] == [record.image_id for record in records]
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert found[0].texts[1] == scene_questions(records[1]) and found[0].captions[0] == records[0].captions
    halves = [
        photos_in_order(
            store,
            labels=LABELS,
            resolution=64,
            label_resolution=64,
            batch_size=2,
            ranks=Ranks(rank=rank, count=2, device=torch.device("cpu")),
        )
        for rank in (0, 1)
    ]
    assert sorted(image for half in halves for batch in half for image in batch.ids) == sorted(
        record.image_id for record in records
    )


@pytest.mark.parametrize("choices", [None, ("red", "the large blue ball", "2", "left", "small", "green", "0", "right")])
def test_what_is_said_does_not_depend_on_the_batch(choices: Any, store: LabelStore, speaker: PrismerSpeaker) -> None:
    task = Answering(choices=choices)
    runs = [evaluate(speaker, batches(store, size, AllQuestions(scene_questions)), task) for size in (1, 2, 5)]
    assert runs[0] == runs[1] == runs[2]
    scores, said = runs[0]
    assert len({reply.text for reply in said}) > 1, "these weights say the same of everything"
    assert {kind.kind for kind in scores.kinds} >= {"colour", "count", "word"}
    assert all(0 <= kind.percent <= 100 for kind in scores.kinds)


def test_captions_of_scenes_do_not_depend_on_the_batch(store: LabelStore, speaker: PrismerSpeaker) -> None:
    runs = [evaluate(speaker, batches(store, size), Captioning()) for size in (1, 3, 5)]
    assert runs[0] == runs[1] == runs[2]
    scores, said = runs[0]
    assert len({reply.text for reply in said}) > 1 and scores.numbers["CIDEr"] >= 0
    assert all(reply.text.endswith(".") and reply.truth for reply in said)


def test_a_prismer_chooses_a_class(store: LabelStore, speaker: PrismerSpeaker) -> None:
    records = [record for shard in store.plan.shards() for record in store.records(shard)]
    task = Classifying(names=class_names(records))
    assert evaluate(speaker, batches(store, 2), task) == evaluate(speaker, batches(store, 5), task)


def test_a_caption_is_as_long_as_its_manner_says(store: LabelStore, speaker: PrismerSpeaker) -> None:
    batch = next(iter(batches(store, 5)))
    for prefix, words in (("", 5), ("a red", 3)):
        changed = speaker.in_manner(Manner(caption_tokens=(6, 6), prefix=prefix))
        texts = changed.caption(changed.look(batch), range(5))
        assert {len(text.split()) for text in texts} == {words}, "bos, prefix and eos are tokens as well"


def test_nothing_is_asked_where_there_is_nothing_to_ask(speaker: PrismerSpeaker) -> None:
    seen = torch.empty(0)
    assert speaker.caption(seen, []) == speaker.answer(seen, [], []) == speaker.choose(seen, [], [], ["red"]) == []
