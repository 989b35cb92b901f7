"""A store that grows and shrinks: nothing is labelled twice, nothing is renumbered, and everybody who reads agrees."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import pipeline.growing
from expert_zoo.expert import Expert
from jobs.summary import ColumnSummary, Summary
from manifests.manifest import METADATA_KEY, Manifest
from manifests.record import ImageRecord
from pipeline.against import agreement
from pipeline.audit import audit, repair
from pipeline.difference import Difference, difference
from pipeline.errors import JobError, StoreError, UnknownFormat
from pipeline.growing import grow
from pipeline.lacking import failed_cells, missing_cells
from pipeline.plan import ShardPlan
from pipeline.reader import LabelReader
from pipeline.receipt import Receipt
from pipeline.status import failed_rows, status
from pipeline.store import LabelStore
from tests.conftest import everything, label_all, write_manifest, write_photos
from tests.small_store import Match
from tests.stand_ins import Grey, Squares, Troubled

SIZE = 4


def experts() -> list[Expert]:
    return [Grey(), Squares()]


COLUMNS = [expert.card.column for expert in experts()]


@pytest.fixture
def photos(tmp_path: Path) -> list[ImageRecord]:
    return write_photos(tmp_path / "photos", 20)


def manifest_of(folder: Path, records: Sequence[ImageRecord], name: str = "asked") -> Manifest:
    return write_manifest(str(folder / f"{name}.parquet"), records)


def labelled(folder: Path, records: Sequence[ImageRecord], url: str | None = None) -> LabelStore:
    manifest = manifest_of(folder, records, "first")
    store = LabelStore.create(url or str(folder / "store"), manifest, shard_size=SIZE)
    label_all(store, experts())
    return store


def grown(store: LabelStore, folder: Path, records: Sequence[ImageRecord]) -> LabelStore:
    manifest = manifest_of(folder, records)
    return grow(store, manifest, difference(store, manifest))


def records_of(store: LabelStore) -> list[ImageRecord]:
    return [record for shard in store.plan.shards() for record in store.records(shard)]


def bytes_of(store: LabelStore) -> dict[str, bytes]:
    root = Path(store.storage.url)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# ---- what it does


def test_new_images_become_shards_after_the_last(tmp_path: Path, photos: list[ImageRecord], url: str) -> None:
    store = labelled(tmp_path, photos[:10], url)
    before = everything(store, COLUMNS)
    asked = [*photos[10:15], *photos[:10], photos[15]]
    store = grown(store, tmp_path, asked)
    assert [(s.index, s.start, s.stop) for s in store.plan.shards()] == [
        (0, 0, 4), (1, 4, 8), (2, 8, 10), (3, 0, 4), (4, 4, 6),
    ]  # fmt: skip
    assert records_of(store) == [*photos[:10], *photos[10:16]], "new ones in the manifest's order"
    assert [(s.index, lacking) for s, lacking in missing_cells(store, COLUMNS)] == [(3, COLUMNS), (4, COLUMNS)]
    label_all(store, experts())
    after = everything(store, COLUMNS)
    assert {cell: after[cell] for cell in before} == before
    assert [store.receipt(COLUMNS[0], shard).format for shard in store.plan.shards()] == [1, 1, 1, 2, 2]
    found = LabelReader(store).samples()
    assert [(s.record, sorted(s.labels)) for s in found] == [(r, ["grey", "squares"]) for r in records_of(store)]
    assert not audit(store, deep=True).findings
    assert difference(store, manifest_of(tmp_path, asked)).nothing


def test_nothing_that_is_there_is_written_again(tmp_path: Path, photos: list[ImageRecord]) -> None:
    store = labelled(tmp_path, photos[:10])
    before = bytes_of(store)
    store = grown(store, tmp_path, [*photos[2:], dataclasses.replace(photos[1], captions=("other",))])
    after = bytes_of(store)
    assert {name: after.get(name) for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"growth"}


def test_dropped_images_are_left_out_by_all_who_read(tmp_path: Path, photos: list[ImageRecord]) -> None:
    store = labelled(tmp_path, photos[:10])
    before = {s.record.image_id: s for s in LabelReader(store).samples()}
    left = [*photos[:1], *photos[2:5], *photos[6:10]]
    old = store
    store = grown(store, tmp_path, left)
    assert (store.plan.images, len(store.plan)) == (8, 3)
    assert [len(shard) for shard in store.plan.shards()] == [3, 3, 2] and store.plan.shard(0).rows == 4
    assert records_of(store) == left
    reader = pickle.loads(pickle.dumps(LabelReader(store)))
    found = list(reader.samples())
    assert [s.record for s in found] == left
    for sample in found:
        was = before[sample.record.image_id]
        assert np.array_equal(sample.labels["grey"].value.values, was.labels["grey"].value.values)
        assert sample.labels["squares"].status == was.labels["squares"].status
    told = status(store, failures=True)
    assert (told.images, told.dropped, told.growths, told.complete) == (8, 2, 1, True)
    for column in told.columns:
        assert column.images == 8 and column.rows is not None and len(column.rows) == 8
    assert not audit(store, deep=True).findings
    assert len(list(LabelReader(old).samples())) == 10, "who opened it before sees it as it was"


def test_they_come_back_with_their_labels(tmp_path: Path, photos: list[ImageRecord]) -> None:
    store = labelled(tmp_path, photos[:10])
    labels = everything(store, COLUMNS)
    smaller = grown(store, tmp_path, photos[3:10])
    assert smaller.plan.fingerprint != store.plan.fingerprint
    manifest = manifest_of(tmp_path, photos[:10])
    found = difference(smaller, manifest)
    assert found.counts == {
        "new": 0, "gone": 0, "restored": 3, "moved": 0, "with other captions": 0, "otherwise changed": 0,
    }  # fmt: skip
    again = grow(smaller, manifest, found)
    assert everything(again, COLUMNS) == labels
    assert again.plan.fingerprint == store.plan.fingerprint, "the same images in the same rows"


def test_a_shard_without_images_lacks_nothing(tmp_path: Path, photos: list[ImageRecord]) -> None:
    store = labelled(tmp_path, photos[:10])
    store = grown(store, tmp_path, photos[4:10])
    assert [len(shard) for shard in store.plan.shards()] == [0, 4, 2]
    store.add_column(Troubled(trouble="").card)
    column = store.column_of("troubled")
    assert [shard.index for shard, _ in missing_cells(store, [column])] == [1, 2]
    found = status(store)
    assert found.shards == 2 and [c.missing for c in found.columns] == [0, 0, 2]
    assert audit(store).missing == 2
    assert [s.record for s in LabelReader(store, ["grey"]).samples()] == photos[4:10]


def test_nobody_is_asked_for_dropped_images(tmp_path: Path, photos: list[ImageRecord]) -> None:
    log = tmp_path / "asked.txt"
    store = labelled(tmp_path, photos[:10])
    store = grown(store, tmp_path, [photos[n] for n in range(10) if n not in (0, 2, 7)])
    Path(photos[2].uri.removeprefix("file://").replace("%20", " ")).unlink()
    sick = Troubled(trouble="count-nothing", log=str(log))
    results = label_all(store, [sick])
    assert len(log.read_text().split()) == 7
    column = sick.card.column
    told = Summary({column: ColumnSummary(asked=3)})
    for result in results:
        told.add(result)
    counted = told.to_json()["columns"][column]
    assert (counted["rows"], counted["reasons"], counted["dropped"]) == ({"ok": 7, "empty": 0, "failed": 0}, {}, 3)
    assert "3 image(s) are not in the input any more: nobody was asked for their labels" in told.lines()
    with store.read(column, store.plan.shard(0), dropped=True) as cell:
        assert [(row["status"], row["reason"].partition(":")[0]) for row in cell.rows] == [
            ("failed", "dropped"), ("ok", ""), ("failed", "dropped"), ("ok", ""),
        ]  # fmt: skip
    assert not list(failed_cells(store, [column])) and not list(failed_rows(store, [column]))
    assert status(store, failures=True).columns[2].rows.failed == 0  # type: ignore[union-attr]
    assert not audit(store, deep=True).findings
    # Restored, they are failed rows as any others.
    store = grown(store, tmp_path, [photos[n] for n in range(10) if n != 2])
    assert [(shard.index, c) for shard, c in failed_cells(store, [column])] == [(0, [column]), (1, [column])]
    label_all(store, [sick], retry=True)
    assert not list(failed_cells(store, [column]))
    assert [s.labels["troubled"].status for s in LabelReader(store, [column]).samples()] == ["ok"] * 9
    assert not audit(store, deep=True).findings


def test_retry_keeps_the_rows_of_dropped_images(tmp_path: Path, photos: list[ImageRecord]) -> None:
    store = LabelStore.create(str(tmp_path / "store"), manifest_of(tmp_path, photos[:4], "first"), shard_size=SIZE)
    from pipeline.labeller import Effort

    label_all(store, [Troubled(trouble="fail")], effort=Effort(failure_limit=1.0))
    store = grown(store, tmp_path, [photos[0], photos[2]])
    label_all(store, [Troubled(trouble="")], retry=True)
    with store.read(store.column_of("troubled"), store.plan.shard(0), dropped=True) as cell:
        assert [row["status"] for row in cell.rows] == ["ok", "failed", "ok", "failed"]
    assert not audit(store, deep=True).findings


def test_records_that_changed(tmp_path: Path, photos: list[ImageRecord]) -> None:
    store = labelled(tmp_path, photos[:10])
    moved = dataclasses.replace(photos[1], uri=photos[1].uri.replace("photo", "foto"), width=40, height=30)
    told = dataclasses.replace(photos[9], captions=("a photo", "another"), split="train")
    asked = [moved, told, photos[0], *photos[2:9], photos[10]]
    found = difference(store, manifest_of(tmp_path, asked))
    assert str(found) == (
        f"1 new ({photos[10].image_id}); 1 moved ({moved.image_id}); 1 with other captions ({told.image_id}); "
        f"1 otherwise changed ({told.image_id})"
    )
    store = grown(store, tmp_path, asked)
    assert records_of(store) == [photos[0], moved, *photos[2:9], told, photos[10]]
    assert difference(store, manifest_of(tmp_path, asked)).nothing
    # The next growth keeps what it does not change, and takes over what changes again.
    again = dataclasses.replace(told, captions=("yet another",))
    asked = [moved, again, *photos[2:9], photos[10]]
    store = grown(store, tmp_path, asked)
    assert records_of(store) == [moved, *photos[2:9], again, photos[10]]
    assert [r.image_id for r in store.records(store.plan.shard(0), dropped=True)] == [r.image_id for r in photos[:4]]
    store = grown(store, tmp_path, photos[:11])
    assert records_of(store) == photos[:11]
    assert not audit(store, deep=True).findings


def test_captions_stay_where_scores_count_them(tmp_path: Path, photos: list[ImageRecord]) -> None:
    photos = [dataclasses.replace(record, captions=("one", "two")) for record in photos[:4]]
    store = LabelStore.create(str(tmp_path / "store"), manifest_of(tmp_path, photos, "first"), shard_size=SIZE)
    label_all(store, [Match()])
    asked = [dataclasses.replace(photos[0], captions=("one",), split="val"), *photos[1:]]
    manifest = manifest_of(tmp_path, asked)
    found = difference(store, manifest)
    assert (found.captions_left, found.counts["with other captions"], found.counts["otherwise changed"]) == (1, 0, 1)
    store = grow(store, manifest, found)
    assert records_of(store) == [dataclasses.replace(photos[0], split="val"), *photos[1:]]
    assert difference(store, manifest).nothing and difference(store, manifest).captions_left == 1
    scores = [s.labels["match"].value.values_N for s in LabelReader(store).samples()]
    assert [len(values) for values in scores] == [2] * 4


def test_the_same_picture_under_another_id(tmp_path: Path, photos: list[ImageRecord]) -> None:
    first = [dataclasses.replace(r, keys=(f"coco:{n}", f"url:{n:016x}")) for n, r in enumerate(photos[:6])]
    store = labelled(tmp_path, first)
    renamed = dataclasses.replace(photos[2], image_id="vg_17", source="vg", keys=("vg:17", "coco:2"))
    other = dataclasses.replace(photos[3], image_id="vg_18", keys=("vg:18",))
    asked = [*first[:2], *first[4:], renamed, other]
    manifest = manifest_of(tmp_path, asked)
    found = difference(store, manifest)
    assert (found.new, found.gone, int(found.renamed_N.sum())) == (1, 1, 1)
    store = grow(store, manifest, found)
    stays = dataclasses.replace(renamed, image_id=first[2].image_id)
    assert records_of(store) == [first[0], first[1], stays, first[4], first[5], other]
    assert difference(store, manifest).nothing
    assert not list(missing_cells(store, COLUMNS))[1:], "one shard, for the image whose keys are its own"


def test_keys_alone_are_no_difference(tmp_path: Path, photos: list[ImageRecord]) -> None:
    """A store of a format that knew none is not changed by sources that do."""
    store = labelled(tmp_path, photos[:4])
    assert difference(
        store, manifest_of(tmp_path, [dataclasses.replace(r, keys=("sha256:0",)) for r in photos[:4]])
    ).nothing


def test_labels_are_compared_over_all_parts(tmp_path: Path, photos: list[ImageRecord]) -> None:
    store = labelled(tmp_path, photos[:6])
    store = grown(store, tmp_path, photos[1:9])
    label_all(store, [*experts(), Grey(name="truth_grey")])
    (row,) = agreement(store, "truth")
    assert row.metrics["compared"] == 8


def by_hand(records: Sequence[ImageRecord], asked: Sequence[ImageRecord]) -> dict[str, int]:
    have = {record.image_id: record for record in records}
    want = {record.image_id: record for record in asked}
    both = [(have[name], want[name]) for name in have.keys() & want.keys()]
    return {
        "new": len(want.keys() - have.keys()),
        "gone": len(have.keys() - want.keys()),
        "moved": sum((a.uri, a.width, a.height) != (b.uri, b.width, b.height) for a, b in both),
        "with other captions": sum(a.captions != b.captions for a, b in both),
        "otherwise changed": sum((a.source, a.split, a.license) != (b.source, b.split, b.license) for a, b in both),
    }


def test_many_growths_at_random(tmp_path: Path) -> None:
    """Against sets in memory: what is counted, what is read afterwards, where labelled images stand."""
    draw = random.Random(5)

    def some(count: int) -> list[ImageRecord]:
        numbers = draw.sample(range(90), count)
        return [
            ImageRecord(
                image_id=f"i{n}", source=draw.choice("aab"), uri=f"file:///{draw.choice('xxxy')}/{n}",
                width=draw.choice((None, 0, 1)), captions=tuple("cd"[: draw.choice((0, 0, 1, 2))]),
            )
            for n in numbers
        ]  # fmt: skip

    records = some(30)
    store = LabelStore.create(str(tmp_path / "store"), manifest_of(tmp_path, records, "first"), shard_size=7)
    places: dict[str, tuple[int, int]] = {}
    for turn in range(12):
        asked = some(draw.randrange(1, 60))
        manifest = manifest_of(tmp_path, asked, f"asked-{turn}")
        found = difference(store, manifest)
        before = {shard.index: store.records(shard, dropped=True) for shard in store.plan.shards()}
        expected = by_hand(records_of(store), asked)
        everyone = {record.image_id for shard in before.values() for record in shard}
        back = {r.image_id for r in asked} & (everyone - {r.image_id for r in records_of(store)})
        counts = found.counts
        assert counts["restored"] == len(back)
        assert counts["new"] == expected["new"] - len(back) and counts["gone"] == expected["gone"]
        if not back:  # of those that come back, other records count as changed too
            assert {word: counts[word] for word in expected} == expected
        store = grow(store, manifest, found)
        now = {record.image_id: record for record in records_of(store)}
        assert now == {record.image_id: record for record in asked} and store.plan.images == len(asked)
        for shard in store.plan.shards():
            for row, record in enumerate(store.records(shard, dropped=True)):
                assert places.setdefault(record.image_id, (shard.index, row)) == (shard.index, row)
        assert difference(store, manifest).nothing
        half = {shard.index for shard in store.plan.shards() if draw.random() < 0.5}
        assert store.plan.images_of(half) == sum(len(store.plan.shard(index)) for index in half)
    assert store.plan.growths[-1].number == 12  # type: ignore[attr-defined]


# ---- what can go wrong


def test_of_two_growers_one_wins(tmp_path: Path, photos: list[ImageRecord], url: str) -> None:
    store = labelled(tmp_path, photos[:6], url)
    asked = [manifest_of(tmp_path, photos[:8], "one"), manifest_of(tmp_path, photos[2:6], "other")]
    differences = [difference(store, manifest) for manifest in asked]
    first = grow(store, asked[0], differences[0])
    names = sorted(store.storage.names("growth"))
    with pytest.raises(StoreError, match="grown by another process in the meantime") as caught:
        grow(store, asked[1], differences[1])
    assert "\n" not in str(caught.value)
    assert sorted(store.storage.names("growth")) == names
    now = LabelStore.open(store.storage.url)
    assert now.plan.fingerprint == first.plan.fingerprint and records_of(now) == photos[:8]


def test_an_answer_that_got_lost_is_no_defeat(
    tmp_path: Path, photos: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = labelled(tmp_path, photos[:6])
    publish = store.storage.publish

    def twice(name: str, data: bytes) -> bool:
        publish(name, data)
        return publish(name, data)

    monkeypatch.setattr(store.storage, "publish", twice)
    assert records_of(grown(store, tmp_path, photos[:9])) == photos[:9]


def test_an_image_twice_in_the_input(tmp_path: Path, photos: list[ImageRecord]) -> None:
    store = labelled(tmp_path, photos[:4])
    with pytest.raises(JobError, match=f"{photos[5].image_id} stands there twice"):
        difference(store, manifest_of(tmp_path, [*photos[:6], photos[5]]))


def spoil_number(folder: Path) -> None:
    (folder / "0001.json").rename(folder / "0002.json")


def spoil_origin(folder: Path) -> None:
    found = json.loads((folder / "0001.json").read_text())
    (folder / "0001.json").write_text(json.dumps(found | {"after": "0" * 16}))


def spoil_format(folder: Path) -> None:
    (folder / "0001.json").write_text('{"format": 2}')


def spoil_json(folder: Path) -> None:
    (folder / "0001.json").write_text("{")


def spoil_dropped(folder: Path) -> None:
    next(folder.glob("*.dropped.parquet")).unlink()


def swap_dropped(folder: Path) -> None:
    """The list of another growth, as long as this one's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = next(folder.glob("*.dropped.parquet"))
    table = pq.read_table(path)
    column = pa.array([row + 1 for row in table["row"].to_pylist()], pa.int32())
    pq.write_table(table.set_column(1, table.schema.field("row"), column), path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_number, r"expected 1, 2, \.\.\.: restore"),
        (spoil_origin, "came from another store or was changed"),
        (spoil_format, "has format 2; this version knows 1"),
        (spoil_json, "is not a growth"),
        (spoil_dropped, "cannot read .*dropped.parquet"),
        (swap_dropped, "came from another store or was changed"),
    ],
)
def test_a_growth_that_was_touched(tmp_path: Path, photos: list[ImageRecord], spoil: object, said: str) -> None:
    store = grown(labelled(tmp_path, photos[:6]), tmp_path, photos[1:9])
    assert callable(spoil)
    spoil(tmp_path / "store" / "growth")
    with pytest.raises(StoreError, match=said):
        LabelStore.open(store.storage.url)


@pytest.mark.parametrize("kind", ["manifest", "changed"])
def test_an_audit_finds_a_growth_file_that_is_not_whole(tmp_path: Path, photos: list[ImageRecord], kind: str) -> None:
    asked = [*photos[1:9], dataclasses.replace(photos[0], captions=("c",))]
    store = grown(labelled(tmp_path, photos[:6]), tmp_path, asked)
    (path,) = (tmp_path / "store" / "growth").glob(f"*.{kind}.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    assert any(path.name in finding.what for finding in audit(store, deep=True).errors)
    path.write_bytes(whole[:-7])
    found = audit(store)
    assert any(path.name in finding.what for finding in found.errors) and not repair(store, found).withdrawn
    path.write_bytes(whole)
    assert not audit(store, deep=True).findings


def test_files_of_a_growth_that_never_was_are_swept(tmp_path: Path, photos: list[ImageRecord]) -> None:
    store = grown(labelled(tmp_path, photos[:6]), tmp_path, photos[1:9])
    folder = tmp_path / "store" / "growth"
    left = folder / "0002.0123456789ab.manifest.parquet"
    left.write_bytes(b"half")
    assert [piece.young for piece in audit(store).garbage] == [True]
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    report = audit(store)
    assert [piece.name for piece in report.garbage] == [f"growth/{left.name}"]
    # A growth that was committed since the audit keeps its files.
    later = grown(store, tmp_path, photos[1:12])
    report.garbage += [
        report.garbage[0].model_copy(update={"name": f"growth/{file.name}"})
        for file in later.plan.growths[-1].files  # type: ignore[attr-defined]
    ]
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    assert repair(store, report).swept == [f"growth/{left.name}"]
    assert records_of(LabelStore.open(store.storage.url)) == photos[1:12]


def test_an_audit_that_began_before_the_growth(tmp_path: Path, photos: list[ImageRecord]) -> None:
    """What came meanwhile is not beyond the plan."""
    old = labelled(tmp_path, photos[:6])
    store = grown(old, tmp_path, photos[1:12])
    label_all(store, experts())
    before = bytes_of(store)
    report = audit(old, deep=True, grace_seconds=0)
    assert not report.findings and not report.garbage and report.cells == 8
    repair(old, report, grace_seconds=0)
    assert bytes_of(store) == before


def test_lists_of_earlier_growths_are_swept(tmp_path: Path, photos: list[ImageRecord]) -> None:
    store = grown(labelled(tmp_path, photos[:6]), tmp_path, [dataclasses.replace(photos[0], split="a"), *photos[2:9]])
    assert not audit(store).garbage
    store = grown(store, tmp_path, [dataclasses.replace(photos[0], split="b"), *photos[3:9]])
    folder = tmp_path / "store" / "growth"
    old = sorted(
        f"growth/{path.name}" for kind in ("dropped", "changed") for path in folder.glob(f"0001.*.{kind}.parquet")
    )
    for path in folder.glob("*.parquet"):
        os.utime(path, (0, 0))
    report = audit(store)
    assert sorted(piece.name for piece in report.garbage) == old and all(piece.young for piece in report.garbage)
    assert not repair(store, report).swept, "the last growth is young: somebody may still read them"
    for path in folder.glob("*.json"):
        os.utime(path, (0, 0))
    report = audit(store)
    assert sorted(repair(store, report).swept) == old
    again = LabelStore.open(store.storage.url)
    assert records_of(again) == records_of(store) and not audit(again, deep=True).findings and not audit(again).garbage


def test_a_version_that_knows_nothing_of_growth(
    tmp_path: Path, photos: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the store as it was planned, and takes nothing away of what came later."""
    store = grown(labelled(tmp_path, photos[:6]), tmp_path, photos[1:9])
    label_all(store, experts())
    before = bytes_of(store)
    first = ShardPlan.model_validate_json((tmp_path / "store" / "store.json").read_text())
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.receipt.FORMATS", (1,))
        patch.setattr("pipeline.store.grown", lambda storage, plan: plan)
        old = LabelStore.open(store.storage.url)
        assert old.plan == first and records_of(old) == photos[:6]
        assert [s.record for s in LabelReader(old).samples()] == photos[:6]
        with pytest.raises(UnknownFormat):
            Receipt.read((tmp_path / "store" / "labels" / COLUMNS[0] / "shard-000002.json").read_bytes())
        repair(old, audit(old, deep=True, grace_seconds=0), grace_seconds=0)
    after = bytes_of(store)
    assert {n: d for n, d in before.items() if n.startswith("labels")} == {
        n: d for n, d in after.items() if n.startswith("labels")
    }


def test_a_growth_of_another_store_is_refused(tmp_path: Path, photos: list[ImageRecord]) -> None:
    grown(labelled(tmp_path, photos[:6]), tmp_path, photos[1:9])
    (tmp_path / "b").mkdir()
    other = labelled(tmp_path / "b", photos[:7])
    shutil.copytree(tmp_path / "store" / "growth", tmp_path / "b" / "store" / "growth")
    with pytest.raises(StoreError, match="came from another store"):
        LabelStore.open(other.storage.url)


def test_what_is_read_and_written_of_large_ones_does_not_depend_on_batches(
    tmp_path: Path, photos: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.difference._ROWS", 3)
    monkeypatch.setattr(pipeline.growing, "_ROWS", 3)
    monkeypatch.setattr(pipeline.growing, "_LIST_ROWS", 2)
    monkeypatch.setattr(pipeline.growing, "_BUCKETS", 3)
    test_records_that_changed(tmp_path, photos)
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            path.unlink()
    test_many_growths_at_random(tmp_path / "random")
    shutil.rmtree(tmp_path / "store")
    test_the_same_picture_under_another_id(tmp_path, photos)


def test_a_difference_says_what_it_is(tmp_path: Path, photos: list[ImageRecord]) -> None:
    store = labelled(tmp_path, photos[:6])
    found: Difference = difference(store, manifest_of(tmp_path, photos[2:11]))
    ids = [record.image_id for record in photos]
    assert str(found) == f"5 new ({ids[6]}, {ids[7]}, {ids[8]}, ...); 2 gone ({ids[0]}, {ids[1]})"


def test_a_store_whose_manifest_knows_no_keys(tmp_path: Path, photos: list[ImageRecord]) -> None:
    """Of format 1, as older versions made them."""
    import pyarrow.parquet as pq

    store = labelled(tmp_path, photos[:6])
    path = tmp_path / "store" / "manifest.parquet"
    table = pq.read_table(path)
    about = pq.read_metadata(path).metadata[METADATA_KEY].replace(b'"format": 2', b'"format": 1')
    table = table.drop_columns(["keys"]).replace_schema_metadata({METADATA_KEY: about})
    pq.write_table(table, path, row_group_size=SIZE)
    store = LabelStore.open(store.storage.url)
    assert records_of(store) == photos[:6] and not audit(store, deep=True).findings
    keyed = [dataclasses.replace(record, keys=(f"coco:{n}",)) for n, record in enumerate(photos)]
    assert difference(store, manifest_of(tmp_path, keyed[:6])).nothing
    other = dataclasses.replace(keyed[0], image_id="other")
    store = grown(store, tmp_path, [*keyed[1:8], other, dataclasses.replace(keyed[1], captions=("c",))][1:])
    assert [r.image_id for r in records_of(store)] == [*(r.image_id for r in [*photos[1:8]]), "other"]
    assert not audit(store, deep=True).findings
    # Images that came with keys are known by them from then on.
    again = [*keyed[1:7], dataclasses.replace(keyed[7], image_id="seven"), other]
    assert difference(store, manifest_of(tmp_path, again)).counts["new"] == 0
