"""Experts that read what another expert said of a photo: in one pack, in a later run, after a retry, and where nobody said anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import Label, Scores, Text
from expert_zoo.spec import LabelSpec
from jobs.planning import open_or_plan
from pipeline.journal import Journal
from pipeline.labeller import Effort, Labeller
from pipeline.reader import LabelReader
from pipeline.store import LabelStore
from tests.small_store import label, write_manifest, write_photos
from tests.stand_ins import card


class Teller(Expert):
    """Says the photo's number, nothing of every third, and fails on those in ``fails``."""

    def __init__(self, fails: Sequence[int] = ()) -> None:
        self.card = card("teller", LabelSpec(kind="text", quantity="caption", flip="none"))
        self._fails = fails

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        return [self.one(int(photo.uri.split("%20")[1].split(".")[0])) for photo in photos]

    def one(self, number: int) -> Label:
        if number in self._fails:
            return Label.failed("dislike: this number")
        return Label.ok(Text("x" * (10 + number), -1.0)) if number % 3 else Label.empty()


class Judge(Expert):
    """The lengths of all texts."""

    def __init__(self, reads: str) -> None:
        self.card = card("judge", LabelSpec(kind="score", quantity="match", flip="none"), processing={"also": reads})
        self.reads = (reads,)

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        texts = [(*photo.captions, *(photo.said[c] for c in self.reads if c in photo.said)) for photo in photos]
        return [
            Label.ok(Scores(np.array([len(t) for t in found], np.float32))) if found else Label.empty()
            for found in texts
        ]


COLUMN = Teller().card.column


def new_store(tmp_path: Path) -> LabelStore:
    """Seven photos in shards of three, number n with n % 3 captions."""
    manifest = write_manifest(tmp_path, write_photos(tmp_path / "photos", photos=7))
    return LabelStore.create(str(tmp_path / "store"), manifest, shard_size=3)


def expected(number: int) -> list[float]:
    own = [float(len(f"caption {n} of photo {number}")) for n in range(number % 3)]
    return [*own, 10.0 + number] if number % 3 else own


def scores(store: LabelStore) -> list[list[float] | str]:
    labels = [sample.labels["judge"] for sample in LabelReader(store, ["judge"]).samples()]
    return [found.value.values_N.tolist() if isinstance(found.value, Scores) else found.status for found in labels]


WHOLE = [expected(number) or "empty" for number in range(7)]


@pytest.mark.parametrize("turned", [False, True])
def test_in_one_pack_in_any_order(tmp_path: Path, turned: bool) -> None:
    store = new_store(tmp_path)
    experts: list[Expert] = [Teller(), Judge(COLUMN)]
    label(store, experts[::-1] if turned else experts)
    assert scores(store) == WHOLE


def test_in_a_later_run(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    label(store, [Teller()])
    label(store, [Judge(COLUMN)])
    assert scores(store) == WHOLE


def test_before_there_is_anything_to_read_the_cell_is_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    label(store, [Teller()])
    store.withdraw(COLUMN, 1)
    results = {result.shard: result.refused for result in label(store, [Judge(COLUMN)])}
    assert results[0] == results[2] == "" and "is not there yet" in results[1]
    assert store.committed(Judge(COLUMN).card.column) == {0, 2}
    label(store, [Teller(), Judge(COLUMN)])
    assert scores(store) == WHOLE


def test_a_name_without_version_is_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    (result, *_) = label(store, [Judge("teller")])
    assert "teller@version" in result.refused


def test_whom_it_reads_failed_and_was_asked_again(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    label(store, [Teller(fails=(1, 4)), Judge(COLUMN)])
    assert scores(store) == [*WHOLE[:1], "failed", *WHOLE[2:4], "failed", *WHOLE[5:]]
    reason = next(iter(LabelReader(store, ["judge"]).samples([store.plan.shard(1)]))).labels
    assert all("nothing to read" in r.reason for r in reason.values() if r.status == "failed")
    label(store, [Teller(), Judge(COLUMN)], retry=True)
    assert scores(store) == WHOLE


def test_a_retry_of_the_reader_alone_reads_the_store(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    label(store, [Teller(fails=(1,)), Judge(COLUMN)])
    label(store, [Teller()], retry=True)
    label(store, [Judge(COLUMN)], retry=True)
    assert scores(store) == WHOLE


def test_one_pack_sees_a_photo_once_for_both(tmp_path: Path) -> None:
    """The text is told to the very object that other experts see: what was sent to a device for it is not sent again."""
    seen: list[int] = []

    class Watching(Judge):
        def label(self, photos: Sequence[Photo]) -> list[Label]:
            seen.extend(map(id, photos))
            return super().label(photos)

    class WatchingTeller(Teller):
        def label(self, photos: Sequence[Photo]) -> list[Label]:
            seen.extend(map(id, photos))
            return super().label(photos)

    store = new_store(tmp_path)
    experts = [WatchingTeller(), Watching(COLUMN)]
    for expert in experts:
        store.add_column(expert.card)
    shard = store.plan.shard(0)
    columns = [expert.card.column for expert in experts]
    Labeller(store, experts, effort=Effort()).label(shard, columns, Journal(store.storage, "run", shard.name))
    assert len(seen) == 6 and len(set(seen)) == 3


def test_a_dry_run_measures_whoever_reads(tmp_path: Path) -> None:
    """What it reads is committed in the store, and not in the one that is made for measuring."""
    from jobs.forecast import forecast
    from jobs.job import load_job

    photos = tmp_path / "photos"
    write_photos(photos, photos=7)
    job = tmp_path / "job.yaml"
    experts = (
        f"[{{teller: {{use: tests.test_said:Teller}}}}, {{judge: {{use: tests.test_said:Judge, reads: {COLUMN}}}}}]"
    )
    job.write_text(
        f"store: {tmp_path}/store\nimages: [{{source: folder, path: {photos}}}]\nshard_size: 3\nray: {{cpus: 1}}\nexperts: {experts}\n"
    )
    store = open_or_plan(load_job(str(job))).store
    label(store, [Teller()])
    found = forecast(load_job(str(job)), lambda _: None)
    (column,) = found.costs.experts
    assert column.column == Judge(COLUMN).card.column and column.images == 7 and column.bytes_per_image > 0
