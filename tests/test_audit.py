"""Audit and repair: every kind of damage planted one by one, found by exactly the audit that should find it, and healed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expert_zoo.card import ExpertCard
from expert_zoo.labels import ClassMap, DenseMap
from pipeline.audit import audit, repair
from pipeline.errors import StoreError, UnknownFormat
from pipeline.plan import Shard
from pipeline.reader import LabelReader
from pipeline.storage import Entry, LocalStorage
from pipeline.store import LabelStore
from tests.damages import DAMAGES, SHARD, Cell, cell, column_folder, data_path, flip, flip_in, receipt_path, swap_rows
from tests.small_store import Slopes, every_kind, label, small_store
from tests.stand_ins import Darkness, Grey, Squares, Troubled


def experts() -> list[Any]:
    return [Grey(), Darkness(), Squares(), Troubled(trouble="fail", at="photo-6"), Slopes()]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    small_store(folder, experts(), photos=10, shard_size=5)
    return folder / "store"


@pytest.fixture
def store(template: Path, tmp_path: Path) -> LabelStore:
    shutil.copytree(template, tmp_path / "store")
    return LabelStore.open(str(tmp_path / "store"))


def contents(store: LabelStore) -> dict[str, bytes]:
    root = Path(store.storage.url)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def labels_of(store: LabelStore) -> list[tuple[str, dict[str, str]]]:
    """Every label of the store as comparable text."""

    def text(value: Any) -> str:
        match value:
            case DenseMap() | ClassMap():
                array = value.values if isinstance(value, DenseMap) else value.ids_HW
                return f"{array.shape} {array.dtype} {hashlib.sha256(array.tobytes()).hexdigest()}"
        return repr(value)

    return [
        (s.record.image_id, {name: f"{label.status} {label.reason} {text(label.value)}" for name, label in s.labels.items()})
        for s in LabelReader(store).samples()
    ]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_healed(store: LabelStore, damage: str) -> None:
    plant, seen_by_shallow, sentence = DAMAGES[damage]
    healthy, labels = contents(store), labels_of(store)
    assert not audit(store, deep=True).findings
    column = store.column_of(plant(store))

    shallow, deep = audit(store), audit(store, deep=True)
    assert bool(shallow.findings) == seen_by_shallow
    for report in (shallow, deep) if seen_by_shallow else (deep,):
        assert set(report.damaged) == {(column, SHARD)}
        assert re.search(sentence, report.errors[0].what), report.errors[0].what
        assert not report.warnings

    repairs = repair(store, deep)
    assert repairs.withdrawn == [(column, SHARD)] and not repairs.beyond
    others = {name: data for name, data in healthy.items() if f"{column}/shard-{SHARD:06d}" not in name}
    assert others.items() <= contents(store).items(), "repair touched another cell"
    after = audit(store, deep=True)
    assert (after.errors, after.missing) == ([], 1)

    label(store, experts())
    healed = audit(store, deep=True)
    assert (healed.findings, healed.missing, healed.cells) == ([], 0, 10)
    assert labels_of(store) == labels


def test_most_damages_leave_no_garbage(store: LabelStore) -> None:
    """Withdrawing takes the receipt and exactly the cell's own two files."""
    before = set(contents(store))
    plant, _, _ = DAMAGES["rows swapped"]
    column = store.column_of(plant(store))
    repairs = repair(store, audit(store, deep=True))
    gone = before - set(contents(store))
    assert gone == {name for name in before if f"{column}/shard-{SHARD:06d}" in name} and len(gone) == 3
    assert set(repairs.swept) == {name for name in gone if not name.endswith(".json")} and repairs.bytes_freed > 0


def test_a_healthy_store_of_every_kind(tmp_path: Path) -> None:
    store = small_store(tmp_path, every_kind(), photos=7, shard_size=4, broken=[2])
    seen: list[tuple[int, int]] = []
    report = audit(store, deep=True, progress=lambda done, total: seen.append((done, total)))
    assert (report.findings, report.garbage, report.cells, report.missing, report.rows) == ([], [], 18, 0, 63)
    assert seen == [(done, 18) for done in range(1, 19)]
    assert audit(store, columns=["grey"]).cells == 2
    with pytest.raises(StoreError, match="no column 'gray'"):
        audit(store, columns=["gray"])


def test_every_flipped_byte_is_found(store: LabelStore) -> None:
    """Wherever the bit: the deep audit neither misses it nor falls over it."""
    rng = random.Random(1)
    for ending in ("tar", "parquet"):
        path = data_path(store, "slopes", ending)
        size = path.stat().st_size
        for at in [0, 100, 130, 150, size - 1, *rng.sample(range(size), 25)]:
            flip(path, at)
            report = audit(store, columns=["slopes"], deep=True)
            assert set(report.damaged) == {(store.column_of("slopes"), SHARD)}, f"byte {at} of the {ending}"
            flip(path, at)
    assert not audit(store, columns=["slopes"], deep=True).findings


def test_exchanged_axes_are_a_warning(store: LabelStore) -> None:
    cell = Cell(store, "darkness")
    landscape = next(row for row, about in enumerate(cell.rows) if about["width"] > 1.2 * about["height"])
    cell.replace_map(landscape, np.zeros((64, 40), np.uint8))
    cell.commit()
    report = audit(store, deep=True)
    assert not report.errors and "look exchanged" in report.warnings[0].what
    assert not repair(store, report).withdrawn


def test_many_problems_of_one_cell_are_told_in_few_lines(store: LabelStore) -> None:
    cell = Cell(store, "darkness")
    for row in range(5):
        cell.replace_map(row, np.full((9, 9), 7, np.uint8))
    cell.members += [("a", b""), ("b", b"")]
    cell.commit()
    report = audit(store, deep=True)
    assert len(report.errors) == 4 and report.errors[-1].what == "and 4 more of this kind in the same cell"
    assert repair(store, report).withdrawn == [(store.column_of("darkness"), SHARD)]


def test_a_receipt_beyond_the_plan(store: LabelStore) -> None:
    path = receipt_path(store, "squares")
    (path.parent / "shard-000077.json").write_bytes(path.read_bytes())
    report = audit(store)
    assert set(report.damaged) == {(store.column_of("squares"), 77)}
    assert any("there is no shard 77" in finding.what for finding in report.errors)
    repair(store, report)
    assert not audit(store, deep=True).findings, "the files that the strange receipt named belong to shard 1"


def test_manifest_and_card_are_for_the_user(store: LabelStore, tmp_path: Path) -> None:
    other = small_store(tmp_path / "other", [Grey()], photos=5, shard_size=3)
    manifest = Path(store.storage.url) / "manifest.parquet"
    kept = manifest.read_bytes()
    manifest.write_bytes((Path(other.storage.url) / "manifest.parquet").read_bytes())
    report = audit(store)
    assert [f.shard for f in report.errors] == [None] and "restore it" in report.errors[0].what
    assert repair(store, report).beyond == report.errors
    manifest.write_bytes(kept[: len(kept) // 2])
    assert "not a whole Parquet file" in audit(store).errors[0].what
    manifest.write_bytes(kept)
    card = column_folder(store, "grey") / "expert.json"
    card.write_text(card.read_text().replace('"network": "none"', '"network": "two"'))
    report = audit(store)
    assert "changed by hand" in report.errors[0].what and report.errors[0].column.startswith("grey@")
    card.write_text("{")
    assert "cannot be used" in audit(store).errors[0].what
    card.unlink()
    assert "cannot be used" in audit(store).errors[0].what and audit(store).cells == 8


# ---- garbage


def plant_garbage(store: LabelStore, *, age: float) -> set[str]:
    """One of every kind of garbage, none of which a receipt names."""
    root, folder = Path(store.storage.url), column_folder(store, "grey")
    names = [
        folder / "shard-000001.0123456789ab.tar",
        folder / "shard-000001.0123456789ab.parquet",
        folder / "tmp-0123456789abcdef0123456789abcdef",
        root / f"{'0a' * 16}.manifest.parquet",
        root / "tmp-abc",
        root / "attempts" / "run7" / "shard-000001.all.json",
    ]
    for path in names:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left over")
        stamp = path.stat().st_mtime - age
        os.utime(path, (stamp, stamp))
    # Else the commit of a moment ago makes the other attempt young.
    os.utime(folder / "shard-000001.json", (0, 0))
    return {str(path.relative_to(root)) for path in names}


@pytest.mark.parametrize(("age", "young"), [(0, True), (3500, True), (3700, False)])
def test_garbage_young_and_old(store: LabelStore, age: float, young: bool) -> None:
    healthy = set(contents(store))
    planted = plant_garbage(store, age=age)
    report = audit(store, deep=True)
    assert not report.findings, "garbage is no damage"
    assert {garbage.name for garbage in report.garbage} == planted
    for garbage in report.garbage:
        assert (garbage.bytes, garbage.young) == (9, young) and abs(garbage.age - age) < 60
    repairs = repair(store, report)
    assert set(repairs.swept) == (set() if young else planted)
    assert {garbage.name for garbage in repairs.kept} == (planted if young else set())
    assert set(contents(store)) == healthy | (planted if young else set())
    assert (Path(store.storage.url) / "attempts" / "run7").exists() == young
    assert repairs.bytes_freed == (0 if young else 9 * len(planted))


def test_what_a_retry_replaced_a_moment_ago_is_young(store: LabelStore) -> None:
    for path in column_folder(store, "troubled").iterdir():
        os.utime(path, (0, 0))
    label(store, [Troubled(trouble="", at="nobody")], retry=True)
    report = audit(store, deep=True)
    assert [garbage.why for garbage in report.garbage] == ["replaced by a retry"] * 2
    assert all(garbage.young for garbage in report.garbage), "a reader may still be in it"
    assert not repair(store, report).swept
    os.utime(receipt_path(store, "troubled"), (0, 0))
    assert len(repair(store, report).swept) == 2
    assert not audit(store, deep=True).findings and not audit(store).garbage


def test_strangers_are_told_and_left_alone(store: LabelStore) -> None:
    folder = column_folder(store, "grey")
    for name in ("notes.txt", ".DS_Store", "shard-000001.tar.bak"):
        (folder / name).write_text("mine")
        os.utime(folder / name, (0, 0))
    report = audit(store)
    assert len(report.warnings) == 3 and not report.errors and not report.garbage
    assert {"notes.txt", ".DS_Store", "shard-000001.tar.bak"} == {f.what.split()[0] for f in report.warnings}
    repair(store, report)
    assert (folder / "notes.txt").read_text() == "mine"


# ---- beside running jobs


def test_a_cell_committed_after_the_listing_is_no_garbage(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files were listed (with the time of long ago) before their receipt existed."""
    column = store.column_of("squares")
    kept = receipt_path(store, "squares").read_bytes()
    store.withdraw(column, SHARD)
    os.utime(data_path(store, "squares", "parquet"), (0, 0))
    before = audit(store)
    assert [garbage.young for garbage in before.garbage] == [False]
    listing = LocalStorage.entries

    def committing(self: LocalStorage, folder: str) -> Iterator[Entry]:
        found = list(listing(self, folder))
        if folder.endswith(column):
            receipt_path(store, "squares").write_bytes(kept)
        return iter(found)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "entries", committing)
        report = audit(store)
        assert not report.garbage and not report.findings
        store.withdraw(column, SHARD)
        assert not repair(store, before).swept, "the report is older than the commit"
    os.utime(receipt_path(store, "squares"), (0, 0))
    assert not repair(store, before).swept, "the report is much older than the commit"
    assert not audit(store, deep=True).findings


def test_files_committed_after_the_listing_are_looked_up(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = LocalStorage.entries
    young = f"shard-{SHARD:06d}."
    monkeypatch.setattr(
        LocalStorage, "entries", lambda self, folder: (e for e in listing(self, folder) if young not in e.name)
    )
    assert not audit(store).findings


def test_a_cell_mended_since_the_audit_is_left_alone(store: LabelStore) -> None:
    column = store.column_of(flip_in("tar")(store))
    report = audit(store, deep=True)
    store.withdraw(column, SHARD)
    label(store, [Grey()])
    repairs = repair(store, report)
    assert (repairs.withdrawn, repairs.changed) == ([], [(column, SHARD)])
    assert store.is_committed(column, Shard(index=SHARD, start=0, stop=1)) and not audit(store, deep=True).errors


def test_audits_beside_labelling_and_retrying(tmp_path: Path) -> None:
    """A job that fills, retries and refills cells as fast as it can never looks damaged."""
    store = small_store(tmp_path, [Grey()], photos=8, shard_size=2)
    sick, well = Troubled(trouble="fail", at="photo-1"), Troubled(trouble="", at="nobody")
    stop, wrong = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            report = audit(store, deep=True)
            wrong.extend(report.errors)
            wrong.extend(garbage for garbage in report.garbage if not garbage.young)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(6):
            label(store, [sick])
            label(store, [well], retry=True)
            for shard in store.plan.shards():
                receipt = store.receipt(well.card.column, shard)
                store.withdraw(well.card.column, shard.index)
                store.remove_files(receipt)
    finally:
        stop.set()
        watcher.join()
    assert not wrong


def test_a_column_that_is_being_added_is_no_finding(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is there before its card is."""
    seen = []
    link = LocalStorage._link

    def looked_at(self: LocalStorage, temporary: Path, target: Path) -> bool:
        if target.name == "expert.json":
            seen.append(audit(store))
        return link(self, temporary, target)

    monkeypatch.setattr(LocalStorage, "_link", looked_at)
    store.add_column(Grey(name="newcomer").card)
    (report,) = seen
    assert not report.findings and not report.garbage
    assert not audit(store).findings


# ---- a repair that is killed


@pytest.mark.parametrize("step", range(1, 14))
def test_repair_killed_at_any_removal(store: LabelStore, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    healthy = labels_of(store)
    flip_in("tar")(store)
    cell("squares", swap_rows)(store)
    receipt_path(store, "darkness").write_text("no JSON")
    plant_garbage(store, age=4000)
    report = audit(store, deep=True)
    assert len(report.damaged) == 3
    removals = 0
    delete = LocalStorage.delete

    def failing(self: LocalStorage, name: str) -> None:
        nonlocal removals
        removals += 1
        if removals == step:
            raise KeyboardInterrupt
        delete(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "delete", failing)
        try:
            repair(store, report)
        except KeyboardInterrupt:
            assert removals == step
        else:
            assert step > removals == 12, "3 receipts, 3 files of theirs, 6 left over; darkness's two are young"
    again = audit(store, deep=True)
    assert set(again.damaged) <= set(report.damaged), "the killed repair damaged a cell"
    repair(store, again)
    label(store, experts())
    assert not audit(store, deep=True).findings
    assert labels_of(store) == healthy


def test_memory_store(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey(), Squares()], photos=5, shard_size=2, url=f"memory://{tmp_path.name}")
    assert not audit(store, deep=True).findings
    folder = store.folder(store.column_of("grey"))
    name = next(name for name in store.storage.names(folder) if name.endswith(".tar"))
    data = store.storage.read(f"{folder}/{name}")
    store.storage.replace(f"{folder}/{name}", data[:1000] + b"!" + data[1001:])
    with store.storage.create(f"{folder}/shard-000000.00ff00ff00ff.tar") as file:
        file.write(b"left")
    report = audit(store, deep=True, parallel=2)
    assert len(report.damaged) == 1 and [garbage.young for garbage in report.garbage] == [True]
    assert len(repair(store, report, grace_seconds=0).swept) == 3
    label(store, [Grey()])
    after = audit(store, deep=True)
    assert (after.findings, after.garbage, after.missing) == ([], [], 0)


# ---- stores that a newer version wrote


def test_fields_that_are_not_known_are_ignored(store: LabelStore) -> None:
    before = labels_of(store)
    root = Path(store.storage.url)
    for path in (root / "store.json", *root.glob("labels/*/*.json")):
        found = json.loads(path.read_text()) | {"fresh": {"a": 1}}
        for part in ("rows", "table", "tar", "seconds"):
            if isinstance(found.get(part), dict):
                found[part]["fresh"] = 1
        path.write_text(json.dumps(found))
    newer = LabelStore.open(store.storage.url)
    report = audit(newer, deep=True)
    assert (report.findings, report.garbage, report.cells) == ([], [], 10)
    assert labels_of(newer) == before and not repair(newer, report).withdrawn


def test_a_field_of_the_spec_that_is_not_known_is_part_of_the_version(store: LabelStore) -> None:
    """As a newer version has it: the column's folder is named after it."""
    folder = column_folder(store, "squares")
    about = json.loads((folder / "expert.json").read_text())
    about["spec"]["fresh"] = "new"
    column = ExpertCard.read(json.dumps(about).encode()).column
    assert column != folder.name
    (folder / "expert.json").write_text(json.dumps(about))
    for path in folder.glob("shard-*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"column": column}))
    folder.rename(folder.with_name(column))
    assert not audit(store, deep=True).findings
    assert all("squares" in sample.labels for sample in LabelReader(store, ["squares"]).samples())


@pytest.mark.parametrize("body", ["ours", "strange"])
@pytest.mark.parametrize("number", [3, "1.1", None])
def test_a_receipt_of_another_format_is_left_alone(store: LabelStore, body: str, number: object) -> None:
    """Nobody here knows which files it names, so all that may be its own stay, however old."""
    path = receipt_path(store, "grey")
    found = json.loads(path.read_text()) if body == "ours" else {"files": ["shard-000001.0123456789ab.tar"]}
    path.write_text(json.dumps(found | {"format": number}))
    (path.parent / "shard-000001.0123456789ab.tar").write_bytes(b"perhaps of the newer version")
    for old in path.parent.iterdir():
        os.utime(old, (0, 0))
    before = contents(store)
    report = audit(store, deep=True)
    assert [f.what for f in report.errors] == [
        f"the receipt has format {number}; this version knows 1 and 2: use the version of expert-labels that wrote it"
    ]
    assert not report.damaged and not report.garbage
    repairs = repair(store, report)
    assert repairs.beyond == report.errors and not repairs.withdrawn and contents(store) == before
    with pytest.raises(UnknownFormat, match=f"shard-000001.json: the receipt has format {number}"):
        store.receipt(store.column_of("grey"), store.plan.shard(SHARD))


def test_a_sweep_spares_what_a_receipt_of_another_format_may_name(store: LabelStore) -> None:
    """It was committed after the audit."""
    plant_garbage(store, age=4000)
    report = audit(store)
    path = receipt_path(store, "grey")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    os.utime(path, (0, 0))
    repair(store, report)
    assert (path.parent / "shard-000001.0123456789ab.tar").exists()


def test_a_sweep_takes_the_folder_of_a_run_whose_driver_was_killed(store: LabelStore) -> None:
    journal = Path(store.storage.url) / "attempts/0123456789ab"
    journal.mkdir(parents=True)
    repair(store, audit(store))
    assert not journal.parent.exists()
    (journal / "kept").mkdir(parents=True)
    repair(store, audit(store))
    assert journal.exists(), "what is not empty stays"
