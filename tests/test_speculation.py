"""Second copies of the last units: a worker that dawdles is not waited for, and nothing is counted or committed twice."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from manifests.record import path_id
from pipeline.audit import audit
from pipeline.choices import Unit
from pipeline.filling import CellResult
from pipeline.journal import Journal
from pipeline.labeller import Effort, Labeller
from pipeline.speculation import COPIES, Answers, Idle, copied
from pipeline.store import LabelStore
from tests.jobs_at_work import labels_of, make_photos, run, stand_in, write_job
from tests.small_store import small_store
from tests.stand_ins import Grey


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """Two shards, of which the second is not labelled."""
    store = small_store(tmp_path, [Grey()], photos=6, shard_size=3)
    column = Grey().card.column
    store.remove_files(store.receipt(column, store.plan.shard(1)))
    store.withdraw(column, 1)
    return store


def units(store: LabelStore) -> list[Unit]:
    return [Unit(shard=shard, columns=(Grey().card.column,)) for shard in store.plan.shards()]


def test_the_last_units_are_copied_the_very_last_one_first(store: LabelStore) -> None:
    first, second = units(store)
    assert copied([first, second], 2) == [second, first]
    assert copied([first, second], 1) == [] and copied([first], 2) == []
    assert len(copied([first] * 500, 3)) == 3 * COPIES


def test_a_copy_is_done_if_its_unit_is_late_and_only_then(store: LabelStore) -> None:
    labeller = Labeller(store, [Grey()], effort=Effort())
    asked: list[int] = []

    def do(unit: Unit) -> list[CellResult]:
        def label(journal: Journal) -> list[CellResult]:
            asked.append(unit.shard.index)
            return labeller.label(unit.shard, unit.columns, journal)

        return Idle(store, "run", late=0.3).do(unit, unit.shard.name, label)

    done, late = units(store)
    assert do(done) == [] and asked == [], "committed: nothing to do"
    Journal(store.storage, "run", late.shard.name)
    start = time.monotonic()
    (result,) = do(late)
    assert time.monotonic() - start >= 0.3 and result.receipt and asked == [1]
    store.withdraw(Grey().card.column, 1)
    Journal(store.storage, "run", late.shard.name)
    assert do(late) == [] and asked == [1], "a second attempt: the first one died"


def test_every_unit_has_one_answer() -> None:
    one, two = ([CellResult(column="a", shard=shard, images=1)] for shard in (0, 1))
    answers = Answers(3)
    assert answers.counts("pack0", one, copy=False) and not answers.counts("pack0", [], copy=True)
    assert answers.counts("pack0", two, copy=True) and not answers.counts("pack0", two, copy=False)
    assert not answers.complete
    assert answers.counts("pack1", two, copy=False) and answers.complete


def test_a_unit_whose_first_worker_found_it_committed_is_not_counted_again_with_its_copy() -> None:
    left = [CellResult(column="a", shard=0, images=1)]
    answers = Answers(2)
    assert answers.counts("pack0", left, copy=False) and not answers.counts("pack0", left, copy=True)
    assert not answers.complete


@pytest.mark.long  # half a minute alone, and once more than four beside other work
def test_a_worker_that_dawdles_is_not_waited_for(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 24)
    at = path_id("photo0011.png")
    dawdling = {"dawdling": {"use": "tests.stand_ins:Dawdling", "at": at, "log": str(tmp_path / "met")}}
    store = tmp_path / "store"
    about = {"photos": photos, "experts": [dawdling, stand_in("squares")], "shard_size": 4}
    job = write_job(tmp_path / "job.yaml", store=store, patience={"late": 2}, **about)  # type: ignore[arg-type]
    done = run("label", job, "--json", timeout=240)
    assert done.returncode == 0 and (tmp_path / "met").exists(), done.stderr
    for column in json.loads(done.stdout)["columns"].values():
        assert column["cells"] == {"asked": 6, "committed": 6, "left": 0, "refused": 0}
        assert column["rows"].get("failed", 0) == 0 and sum(column["rows"].values()) == 24
    opened = LabelStore.open(str(store))
    assert not audit(opened, deep=True).findings and not (store / "attempts").exists()
    quiet = write_job(tmp_path / "quiet.yaml", store=tmp_path / "quiet", **about)  # type: ignore[arg-type]
    assert run("label", quiet).returncode == 0 and labels_of(tmp_path / "quiet") == labels_of(store)
