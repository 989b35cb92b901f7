"""Whatever ends a worker, and at whichever call: a cell is there as a whole or not at all, and labelling again mends it.

Run as a program, this module is the worker: `python -m tests.test_commit_crash SCENARIO FOLDER` forks one child for every
call of the scenario that changes a file, and ends the child there by os._exit.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from expert_zoo.expert import Expert
from manifests.manifest import Manifest
from manifests.record import ImageRecord
from pipeline.audit import audit, repair
from pipeline.difference import difference
from pipeline.errors import StoreError
from pipeline.growing import grow
from pipeline.labeller import Effort
from pipeline.lacking import missing_cells
from pipeline.reader import LabelReader
from pipeline.receipt import installed_packages
from pipeline.storage import TEMPORARY
from pipeline.store import LabelStore
from tests.conftest import ROOT, audited, everything, label_all, run_python, unnamed_files, write_manifest, write_photos
from tests.faults import IO_ERROR, NO_SPACE, Faults, die
from tests.stand_ins import Squares, Troubled

SHARD_SIZE = 4
SCENARIOS = ("label", "retry", "plan", "grow")
#: One reader and one encoder, so that the order of the calls is the same in every child.
EFFORT = Effort(read_threads=1, encode_threads=1)


def experts(trouble: str) -> list[Expert]:
    """A column with a tar and one without. Trouble "fail" leaves failed rows that trouble "" mends; one card for both."""
    return [Troubled(trouble=trouble, at="photo-00"), Squares()]


COLUMNS = [expert.card.column for expert in experts("")]


def prepare(folder: Path, scenario: str) -> None:
    """The state before: a manifest, and a planned store (label) whose cells have failed rows (retry) or that lacks images (grow)."""
    records = write_photos(folder / "photos", 6)
    manifest = write_manifest(str(folder / "manifest.parquet"), records)
    if scenario == "grow":
        asked = [*records[2:], dataclasses.replace(records[0], captions=("new",))]
        write_manifest(str(folder / "asked.parquet"), asked)
        manifest = write_manifest(str(folder / "manifest.parquet"), records[:5])
    if scenario == "plan":
        return
    store = LabelStore.create(str(folder / "before"), manifest, shard_size=SHARD_SIZE)
    for expert in experts(""):
        store.add_column(expert.card)
    if scenario == "retry":
        label_all(store, experts("fail"), effort=Effort(failure_limit=1.0))


def act(folder: Path, store: Path, scenario: str) -> None:
    """What is disturbed: labels the first shard, or asks again for its failed rows, or plans a store or grows it."""
    if scenario == "plan":
        LabelStore.create(str(store), Manifest.open(str(folder / "manifest.parquet")), shard_size=SHARD_SIZE)
        return
    opened = LabelStore.open(str(store))
    if scenario == "grow":
        tempfile.tempdir = str(folder)  # where what a death leaves is cleared away with the test's own
        take_over(opened, folder)
        return
    label_all(opened, experts(""), retry=scenario == "retry", effort=EFFORT, shards=[opened.plan.shard(0)])


def take_over(store: LabelStore, folder: Path) -> LabelStore:
    asked = Manifest.open(str(folder / "asked.parquet"))
    return grow(store, asked, difference(store, asked))


def copy_of_before(folder: Path, name: str) -> Path:
    if (folder / "before").exists():
        shutil.copytree(folder / "before", folder / name)
    return folder / name


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a forked child that does ``work``."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def count(folder: Path, store: Path, scenario: str) -> None:
    with Faults().installed() as faults:
        act(folder, store, scenario)
    (folder / "calls.json").write_text(json.dumps(faults.calls))


def disturb(folder: Path, store: Path, scenario: str, at: int) -> None:
    with Faults(die, at=at).installed():
        act(folder, store, scenario)


def main(scenario: str, folder: Path) -> None:
    assert "torch" not in sys.modules, "a fork with torch's threads would prove nothing"
    import pandas  # noqa: F401 - pyarrow imports it on first use: once here, not a second long in every child
    import PIL.Image  # noqa: F401 - so does the reading of photos

    installed_packages()
    assert in_child(partial(count, folder, copy_of_before(folder, "undisturbed"), scenario)) == 0
    calls = json.loads((folder / "calls.json").read_text())
    for at in range(len(calls)):
        code = in_child(partial(disturb, folder, copy_of_before(folder, f"{at:03d}"), scenario, at))
        assert code == 9, f"child {at} ended with {code} instead of dying at {calls[at]}"


def die_everywhere(folder: Path, scenario: str) -> list[str]:
    """One store ``NNN`` under ``folder`` for every call that the scenario died at; the calls."""
    command = [sys.executable, "-m", "tests.test_commit_crash", scenario, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    calls: list[str] = json.loads((folder / "calls.json").read_text())
    return calls


def calls_of(folder: Path, scenario: str) -> list[str]:
    count(folder, copy_of_before(folder, "undisturbed"), scenario)
    calls: list[str] = json.loads((folder / "calls.json").read_text())
    return calls


def label_everything(store: LabelStore) -> dict[tuple[str, int], list[tuple[object, ...]]]:
    for shard, lacking in missing_cells(store, COLUMNS):
        label_all(store, [e for e in experts("") if e.card.column in lacking], shards=[shard], run="again")
    assert list(missing_cells(store, COLUMNS)) == []
    return everything(store, COLUMNS)


def committed_cells(store: LabelStore) -> dict[str, list[tuple[object, ...]]]:
    """Labels of the first shard's committed cells, each of them audited."""
    shard = store.plan.shard(0)
    return {column: audited(store, column, shard)[1] for column in COLUMNS if store.is_committed(column, shard)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], list[tuple[object, ...]]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    prepare(folder, "label")
    return label_everything(LabelStore.open(str(folder / "before")))


Labels = dict[tuple[str, int], list[tuple[object, ...]]]


def test_dying_anywhere_while_labelling(tmp_path: Path, undisturbed: Labels) -> None:
    prepare(tmp_path, "label")
    calls = die_everywhere(tmp_path, "label")
    assert {"open", "write", "fsync", "link", "unlink", "replace", "mkdir"} == set(calls)
    seen = set()
    for at, call in enumerate(calls):
        store = LabelStore.open(str(tmp_path / f"{at:03d}"))
        cells = committed_cells(store)
        assert all(labels == undisturbed[column, 0] for column, labels in cells.items()), (at, call)
        seen.add(len(cells))
        assert label_everything(store) == undisturbed, (at, call)
    assert seen == {0, 1, 2}


def test_dying_anywhere_while_mending_failed_rows(tmp_path: Path, undisturbed: Labels) -> None:
    prepare(tmp_path, "retry")
    before = committed_cells(LabelStore.open(str(tmp_path / "before")))
    calls = die_everywhere(tmp_path, "retry")
    seen = set()
    for at, call in enumerate(calls):
        store = LabelStore.open(str(tmp_path / f"{at:03d}"))
        cells = committed_cells(store)
        for column in COLUMNS:
            assert cells[column] in (before[column], undisturbed[column, 0]), (at, call)
        seen.add(cells == before)
        label_all(store, experts(""), retry=True, run="again")
        assert everything(store, COLUMNS) == undisturbed, (at, call)
    assert seen == {True, False}


def test_dying_anywhere_while_planning(tmp_path: Path, undisturbed: Labels) -> None:
    prepare(tmp_path, "plan")
    manifest = Manifest.open(str(tmp_path / "manifest.parquet"))
    calls = die_everywhere(tmp_path, "plan")
    assert len(calls) > 10
    for at, call in enumerate(calls):
        place = str(tmp_path / f"{at:03d}")
        store = LabelStore.create(place, manifest, shard_size=SHARD_SIZE)
        found = [record for shard in store.plan.shards() for record in store.records(shard)]
        assert found == list(manifest.records()), (at, call)
    for expert in experts(""):
        store.add_column(expert.card)
    assert label_everything(store) == undisturbed


def records_of(store: LabelStore) -> list[ImageRecord]:
    return [record for shard in store.plan.shards() for record in store.records(shard)]


def check_grown_or_not(folder: Path, place: Path, old: list[ImageRecord], new: list[ImageRecord]) -> bool:
    """Whether it had grown; either way it is whole, and is as it should be after another `grow`."""
    store = LabelStore.open(str(place))
    found = records_of(store)
    assert found in (old, new)
    for expert in experts(""):
        assert [s.record for s in LabelReader(store, [expert.card.name]).samples()] == found
    assert not audit(store, deep=True).findings
    asked = Manifest.open(str(folder / "asked.parquet"))
    assert difference(store, asked).nothing == (found == new)
    if found == old:
        store = take_over(store, folder)
    assert records_of(store) == new
    report = audit(store, grace_seconds=0)
    repair(store, report, grace_seconds=0)
    assert not audit(store, deep=True).findings and not audit(store).garbage
    assert records_of(LabelStore.open(str(place))) == new
    return found == new


def old_and_new(folder: Path) -> tuple[list[ImageRecord], list[ImageRecord]]:
    old = records_of(LabelStore.open(str(folder / "before")))
    asked = list(Manifest.open(str(folder / "asked.parquet")).records())
    return old, [asked[-1], *asked[:-1]]


def test_dying_anywhere_while_growing(tmp_path: Path) -> None:
    prepare(tmp_path, "grow")
    label_everything(LabelStore.open(str(tmp_path / "before")))
    old, new = old_and_new(tmp_path)
    calls = die_everywhere(tmp_path, "grow")
    assert {"open", "write", "fsync", "link", "mkdir"} <= set(calls)
    grown = [check_grown_or_not(tmp_path, tmp_path / f"{at:03d}", old, new) for at in range(len(calls))]
    link = calls.index("link")
    assert not any(grown[: link + 1]) and all(grown[link + 1 :]), "the link is the moment"


@pytest.mark.parametrize("error", [IO_ERROR, NO_SPACE], ids=["EIO", "ENOSPC"])
def test_a_disk_error_anywhere_while_growing(
    tmp_path: Path, error: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    prepare(tmp_path, "grow")
    label_everything(LabelStore.open(str(tmp_path / "before")))
    old, new = old_and_new(tmp_path)
    calls = calls_of(tmp_path, "grow")
    link = calls.index("link")
    committing = link - 1 - calls[:link][::-1].index("open")  # from here on the growth may be there for all we know
    assert committing > 10
    for at, call in enumerate(calls):
        place = copy_of_before(tmp_path, f"{at:03d}")
        try:
            with Faults(error, at=at).installed():
                act(tmp_path, place, "grow")
        except OSError:
            left = LabelStore.open(str(place)).storage.names("growth")
            assert at >= committing or not left, (at, call, left)
        check_grown_or_not(tmp_path, place, old, new)


@pytest.mark.parametrize("error", [IO_ERROR, NO_SPACE], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("scenario", ["label", "retry"])
def test_a_disk_error_anywhere(tmp_path: Path, undisturbed: Labels, scenario: str, error: Callable[[], None]) -> None:
    prepare(tmp_path, scenario)
    before = committed_cells(LabelStore.open(str(tmp_path / "before")))
    raised = 0
    calls = calls_of(tmp_path, scenario)
    for at, call in enumerate(calls):
        place = copy_of_before(tmp_path, f"{at:03d}")
        try:
            with Faults(error, at=at).installed():
                act(tmp_path, place, scenario)
        except OSError:
            raised += 1
        store = LabelStore.open(str(place))
        cells = committed_cells(store)
        for column, labels in cells.items():
            assert labels in (before.get(column), undisturbed[column, 0]), (at, call)
        assert set(before) <= set(cells)
        left = {name for column in COLUMNS for name in unnamed_files(store, column)}
        assert call == "unlink" or not any(name.startswith(TEMPORARY) for name in left), (at, call)
        if scenario == "retry":
            label_all(store, experts(""), retry=True, run="again")
        assert label_everything(store) == undisturbed, (at, call)
    assert raised >= len(calls) - calls.count("unlink") - calls.count("mkdir")


@pytest.mark.parametrize("error", [IO_ERROR, NO_SPACE], ids=["EIO", "ENOSPC"])
def test_a_disk_error_before_the_receipt_leaves_no_data_file(tmp_path: Path, error: Callable[[], None]) -> None:
    prepare(tmp_path, "label")
    calls = calls_of(tmp_path, "label")
    calls = calls[: calls.index("link")]
    receipt_opened = len(calls) - 1 - calls[::-1].index("open")  # from here on the receipt may be there for all we know
    tried = 0
    for at in range(receipt_opened):
        place = copy_of_before(tmp_path, f"{at:03d}")
        try:
            with Faults(error, at=at).installed():
                act(tmp_path, place, "label")
        except OSError:
            tried += 1
            store = LabelStore.open(str(place))
            assert {name for column in COLUMNS for name in unnamed_files(store, column)} == set(), (at, calls[at])
    assert tried > 5


@pytest.mark.parametrize("error", [IO_ERROR, NO_SPACE], ids=["EIO", "ENOSPC"])
def test_a_disk_error_anywhere_while_planning(tmp_path: Path, error: Callable[[], None]) -> None:
    prepare(tmp_path, "plan")
    manifest = Manifest.open(str(tmp_path / "manifest.parquet"))
    for at, call in enumerate(calls_of(tmp_path, "plan")):
        place = tmp_path / f"{at:03d}"
        try:
            with Faults(error, at=at).installed():
                act(tmp_path, place, "plan")
        except OSError:
            pass
        store = LabelStore.create(str(place), manifest, shard_size=SHARD_SIZE)
        assert [r for s in store.plan.shards() for r in store.records(s)] == list(manifest.records()), (at, call)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_power_cut_finds_the_files_before_the_name_that_promises_them(tmp_path: Path, scenario: str) -> None:
    """What is not synced may be lost in any order: data, then their entries in the folder, then the receipt's name, then
    that name's entry."""
    prepare(tmp_path, scenario)
    place = copy_of_before(tmp_path, "traced")
    with Faults().installed() as faults:
        act(tmp_path, place, scenario)
    steps = [(call, Path(path)) for call, path in zip(faults.calls, faults.paths, strict=True)]
    promises = [at for at, (call, path) in enumerate(steps) if call in ("link", "replace") and path.suffix == ".json"]
    promises = [at for at in promises if "attempts" not in steps[at][1].parts]  # the journal need not be durable
    assert len(promises) == (2 if scenario == "label" else 1)
    for promise in promises:
        folder = steps[promise][1].parent
        created = {path for call, path in steps[:promise] if call == "open" and path.parent == folder}
        assert len(created) >= 2
        for file in created:
            last_write = max(at for at, step in enumerate(steps[:promise]) if step == ("write", file))
            synced = [at for at, step in enumerate(steps[:promise]) if step == ("fsync", file) and at > last_write]
            assert synced, f"{file.name} may be lost after {steps[promise]}"
            assert ("fsync", folder) in steps[synced[0] : promise], f"the entry of {file.name} may be lost"
        assert ("fsync", folder) in steps[promise:], "the promise itself may be lost after it was given"


PLANNERS = """
import os, sys, time
import pandas  # by pyarrow on first use, once here instead of in every child
from manifests.manifest import Manifest
from pipeline.errors import StoreError
from pipeline.store import LabelStore
folder, sizes = sys.argv[1], [int(size) for size in sys.argv[2:]]
for turn in range(8):
    start = time.monotonic() + 0.02
    children = []
    for who, size in enumerate(sizes):
        children.append(os.fork())
        if not children[-1]:
            manifest = Manifest.open(f"{folder}/manifest-{who}.parquet")
            while time.monotonic() < start: pass
            try:
                LabelStore.create(f"{folder}/store-{turn}", manifest, shard_size=size)
                os._exit(0)
            except StoreError as error:
                os._exit(3 if "\\n" not in str(error) else 4)
            finally:
                os._exit(5)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.parametrize(
    ("counts", "sizes", "codes"),
    [((6, 6), (4, 4), {"0 0"}), ((6, 7), (4, 4), {"0 3", "3 0"}), ((6, 6), (4, 5), {"0 3", "3 0"})],
    ids=["the same", "another manifest", "another shard size"],
)
def test_two_processes_planning_at_once(
    tmp_path: Path, counts: tuple[int, int], sizes: tuple[int, int], codes: set[str]
) -> None:
    records = write_photos(tmp_path / "photos", max(counts))
    for who, number in enumerate(counts):
        write_manifest(str(tmp_path / f"manifest-{who}.parquet"), records[:number])
    found = run_python(PLANNERS, str(tmp_path), *map(str, sizes)).splitlines()
    assert len(found) == 8 and set(found) <= codes, found
    for turn, line in enumerate(found):
        store = LabelStore.open(str(tmp_path / f"store-{turn}"))
        winner = line.split().index("0")
        assert (store.plan.images, store.plan.shard_size) == (counts[winner], sizes[winner])
        assert [r for s in store.plan.shards() for r in store.records(s)] == records[: counts[winner]]
        assert all(len(store.records(shard)) == len(shard) for shard in store.plan.shards())
        assert sorted(store.storage.names("")) == ["manifest.parquet", "store.json"]


def test_planning_after_a_death_with_another_shard_size(tmp_path: Path) -> None:
    """9 images in shards of 5 and of 6 are two shards each: only a look at their sizes tells them apart."""
    records = write_photos(tmp_path / "photos", 9)
    manifest = write_manifest(str(tmp_path / "manifest.parquet"), records)
    store = LabelStore.create(str(tmp_path / "store"), manifest, shard_size=6)
    store.storage.delete("store.json")  # what a death between the two files leaves
    with pytest.raises(StoreError, match="shards of 6"):
        LabelStore.create(str(tmp_path / "store"), manifest, shard_size=5)
    again = LabelStore.create(str(tmp_path / "store"), manifest, shard_size=6)
    assert [len(again.records(shard)) for shard in again.plan.shards()] == [6, 3]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
