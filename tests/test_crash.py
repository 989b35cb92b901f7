"""Killed at random moments, resumed each time; and two jobs on one store at once. Nothing is lost, doubled or different."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from pipeline.audit import audit, repair
from pipeline.store import LabelStore
from tests.jobs_at_work import (
    committed_cells,
    kill_group,
    labels_of,
    make_photos,
    run,
    stand_in,
    start,
    wait_for,
    write_job,
)

EXPERTS = [{"grey": {"use": "tests.stand_ins:Grey", "delay": 0.05}}, stand_in("darkness"), stand_in("squares")]


def expect_whole(store: Path, undisturbed: Path) -> None:
    """Every cell once, all audits clean, nothing left lying about after a sweep, and the very labels of a quiet run."""
    opened = LabelStore.open(str(store))
    assert all(len(opened.committed(column)) == len(opened.plan) for column in opened.columns())
    report = audit(opened, deep=True, grace_seconds=0)
    assert not report.findings, report.findings
    repair(opened, report, grace_seconds=0)
    for column in opened.columns():
        files = [path.name for path in (store / opened.folder(column)).iterdir()]
        receipts = [name for name in files if name.startswith("shard-") and name.endswith(".json")]
        tables = [name for name in files if name.endswith(".parquet")]
        assert len(receipts) == len(tables) == len(opened.plan), "one receipt and one table a cell, and no others"
    assert labels_of(store) == labels_of(undisturbed)


@pytest.fixture
def undisturbed(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of photos, and the store of a run over it that nobody disturbed."""
    photos = make_photos(tmp_path / "photos", 240)
    job = write_job(tmp_path / "quiet.yaml", store=tmp_path / "quiet", photos=photos, experts=EXPERTS, shard_size=4)
    done = run("label", job)
    assert done.returncode == 0, done.stderr
    return photos, tmp_path / "quiet"


@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.long)])
def test_sigkill_of_the_whole_process_group_at_random_moments(
    tmp_path: Path, undisturbed: tuple[Path, Path], kills: int
) -> None:
    photos, quiet = undisturbed
    store = tmp_path / "store"
    job = write_job(tmp_path / "job.yaml", store=store, photos=photos, experts=EXPERTS, shard_size=4)
    moments = random.Random(kills)
    progress = []
    for kill in range(kills):
        process = start("label", job)
        if kill % 5 == 0:  # anywhere: while planning, while Ray starts, while models load
            time.sleep(moments.uniform(0, 8))
        else:  # in the middle of the work
            before = committed_cells(store)
            wait_for(lambda before=before: committed_cells(store) > before, 120, process)
            time.sleep(moments.uniform(0, 0.4))
        assert process.poll() is None, "the job ended before it could be killed: it is too short for this test"
        kill_group(process)
        progress.append(committed_cells(store))
    assert progress == sorted(progress) and progress[-1] > 0, "what is committed stays committed"
    assert run("label", job).returncode == 0
    expect_whole(store, quiet)


def test_two_jobs_on_one_store_at_once(tmp_path: Path, undisturbed: tuple[Path, Path]) -> None:
    photos, quiet = undisturbed
    store = tmp_path / "store"
    job = write_job(tmp_path / "job.yaml", store=store, photos=photos, experts=EXPERTS, shard_size=4)
    both = [start("label", job), start("label", job)]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    expect_whole(store, quiet)
