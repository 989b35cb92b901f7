"""The golden sample: the first worker that commits says what it is; one that differs does not write, within a tolerance it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import ClassMap, DenseMap, Instances, Label, Scores, Text, Words
from pipeline import golden
from pipeline.audit import audit, repair
from pipeline.errors import WorkerError
from pipeline.golden import GOLDEN, GoldenSamples, recorded
from pipeline.journal import Journal
from pipeline.labeller import Effort, Labeller
from pipeline.store import LabelStore
from tests.jobs_at_work import committed_cells, labels_of, make_photos, run, write_job
from tests.small_store import every_kind, small_store
from tests.stand_ins import Changing, Grey, Squares, Troubled


def altered(expert: Expert, change: Callable[[Label], Label]) -> Expert:
    """``expert``, each of its labels changed."""
    label = expert.label
    expert.label = lambda photos: [change(one) for one in label(photos)]  # type: ignore[method-assign]
    return expert


def settled(store: LabelStore, expert: Expert) -> None:
    GoldenSamples(store, [expert]).settle(expert.card)


@pytest.mark.parametrize("number", range(9))
def test_every_kind_agrees_with_itself(tmp_path: Path, number: int) -> None:
    store = small_store(tmp_path, every_kind())
    settled(store, every_kind()[number])
    column = every_kind()[number].card.column
    first = recorded(store, column)
    settled(store, every_kind()[number])
    assert first is not None and recorded(store, column) == first, "written once"
    report = audit(store, deep=True, grace_seconds=0)
    assert not report.findings and not report.garbage
    repair(store, report, grace_seconds=0)
    assert recorded(store, column) == first


def noise(label: Label) -> Label:
    """What another device may say."""
    match label.value:
        case DenseMap(values):
            return Label.ok(DenseMap(values * np.float32(1.003)))
        case ClassMap(ids_HW):
            changed_HW = ids_HW.copy()
            changed_HW[: len(ids_HW) // 20] = 255
            return Label.ok(ClassMap(changed_HW))
        case Instances(boxes_N4, scores_N, class_ids_N, masks):
            return Label.ok(Instances(boxes_N4 + np.float32(0.2), scores_N, class_ids_N, masks))
        case Text(text, log_prob):
            return Label.ok(Text(f"{text} indeed", log_prob * 1.01))
        case Scores(values_N):
            return Label.ok(Scores(values_N + np.float32(0.01)))
    return label


def nonsense(label: Label) -> Label:
    """What a broken one may say."""
    match label.value:
        case DenseMap(values):
            return Label.ok(DenseMap(values[::-1].copy()))
        case ClassMap(ids_HW):
            return Label.ok(ClassMap(1 - ids_HW))
        case Instances():
            boxes_N4 = np.arange(24, dtype=np.float32).reshape(6, 4)
            return Label.ok(Instances(boxes_N4, np.full(6, 0.5, np.float32), np.zeros(6, np.int32)))
        case Words(polygons_N42, _, scores_N):
            return Label.ok(Words(np.repeat(polygons_N42, 4, 0), tuple("abcd"), np.repeat(scores_N, 4)))
        case Text():
            return Label.ok(Text("the the the", -9.0))
        case Scores(values_N):
            return Label.ok(Scores(values_N - np.float32(0.2)))
    return label


@pytest.mark.parametrize("kind", ["map", "classes", "instances", "text", "score"])
def test_what_machines_may_differ_by_is_tolerated_and_nonsense_is_not(tmp_path: Path, kind: str) -> None:
    def expert() -> Expert:
        return [expert for expert in every_kind() if expert.card.spec.kind == kind][0]

    store = small_store(tmp_path, [expert()])
    settled(store, expert())
    settled(store, altered(expert(), noise))
    with pytest.raises(WorkerError, match="labels the golden sample otherwise than .* where the column began"):
        settled(store, altered(expert(), nonsense))


def test_a_worker_that_disagrees_before_its_first_commit_commits_nothing(tmp_path: Path) -> None:
    """Two workers begin at the same time; the column has no golden sample yet."""
    store = small_store(tmp_path, [Grey()])
    column = Grey().card.column
    for index in store.committed(column):
        store.remove_files(store.receipt(column, store.plan.shard(index)))
        store.withdraw(column, index)
    ill = altered(Grey(), nonsense)
    workers = [(expert, GoldenSamples(store, [expert])) for expert in (Grey(), ill)]
    for number, (expert, samples) in enumerate(workers):
        labeller = Labeller(store, [expert], effort=Effort(), golden=samples)
        shard = store.plan.shard(number)
        if expert is ill:
            with pytest.raises(WorkerError, match="labels the golden sample otherwise"):
                labeller.label(shard, [column], Journal(store.storage, "run", shard.name))
        else:
            labeller.label(shard, [column], Journal(store.storage, "run", shard.name))
    assert store.committed(column) == {0}
    assert len(store.storage.names(store.folder(column))) == 5, "card, golden sample, one cell"


def test_an_expert_that_fails_records_nothing_and_is_refused_where_others_do_not(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Troubled(trouble="")])
    sick = Troubled(trouble="raise")
    settled(store, sick)
    assert recorded(store, sick.card.column) is None
    settled(store, Troubled(trouble=""))
    with pytest.raises(WorkerError, match="fails on the golden sample"):
        GoldenSamples(store, [sick])


def test_another_rendering_is_another_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = small_store(tmp_path, [Grey()])
    settled(store, Grey())
    dark = tuple(
        Photo(image_id=p.image_id, uri=p.uri, pixels_HW3=p.pixels_HW3 // 3, captions=p.captions)
        for p in golden.golden_photos()
    )
    monkeypatch.setattr(golden, "golden_photos", lambda: dark)
    settled(store, Grey())


def test_the_scenes_have_something_for_squares_to_find() -> None:
    labels = Squares().label(golden.golden_photos())
    assert [label.status for label in labels] == ["ok", "ok"]


def test_a_job_whose_expert_has_changed_ends_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 8)
    log = tmp_path / "loaded"
    changing = {"changing": {"use": "tests.stand_ins:Changing", "log": str(log), "times": 1}}
    packs = [{"experts": ["changing"], "actors": 1}]
    store = tmp_path / "store"
    job = write_job(tmp_path / "job.yaml", store=store, photos=photos, experts=[changing], packs=packs, shard_size=4)
    first = run("label", job)
    assert first.returncode == 0, first.stderr
    column = Changing(log=str(log), times=1).card.column
    assert (store / "labels" / column / GOLDEN).exists()
    before = labels_of(store)
    LabelStore.open(str(store)).withdraw(column, 1)
    second = run("label", job)
    assert second.returncode == 2 and "Traceback" not in second.stderr
    assert f"{column}: host" in second.stderr and "labels the golden sample otherwise" in second.stderr
    assert committed_cells(store) == 1
    log.unlink()  # mended
    assert run("label", job).returncode == 0 and labels_of(store) == before
