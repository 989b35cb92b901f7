"""The main job end to end: a process of its own on a local Ray, with cheap experts."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from manifests.record import path_id
from pipeline.reader import LabelReader
from pipeline.store import LabelStore
from tests.jobs_at_work import committed_cells, labels_of, make_photos, run, stand_in, start, wait_for, write_job


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", 24)


def test_label_fills_the_grid_and_a_second_run_touches_nothing(tmp_path: Path, photos: Path) -> None:
    (photos / "broken.jpg").write_text("<html>not a photo</html>")
    store = tmp_path / "store"
    experts = [stand_in("grey"), stand_in("squares")]
    job = write_job(tmp_path / "job.yaml", store=store, photos=photos, experts=experts, shard_size=10)
    first = run("label", job, "--json")
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    grey, squares = summary["columns"].values()
    assert grey["rows"] == {"ok": 24, "empty": 0, "failed": 1} and grey["reasons"] == {"not an image": 1}
    assert squares["rows"]["ok"] + squares["rows"]["empty"] == 24 and squares["rows"]["empty"] >= 8
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}

    second = run("label", job)
    assert second.returncode == 0 and "nothing to do" in second.stderr
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before
    assert not (store / "attempts").exists()

    # One more expert is one more column: the others stay untouched.
    job = write_job(
        tmp_path / "job.yaml", store=store, photos=photos, experts=[*experts, stand_in("darkness")], shard_size=10
    )
    assert run("label", job).returncode == 0
    after = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    assert before.items() <= after.items() and len(LabelStore.open(str(store)).columns()) == 3


def test_a_photo_that_kills_its_worker_costs_one_row_and_at_most_four_deaths(tmp_path: Path, photos: Path) -> None:
    poison = path_id("photo0007.png")
    deaths = tmp_path / "deaths"
    troubled = {"troubled": {"use": "tests.stand_ins:Troubled", "trouble": "kill", "at": poison, "log": str(deaths)}}
    store = tmp_path / "store"
    job = write_job(
        tmp_path / "job.yaml", store=store, photos=photos, experts=[troubled, stand_in("grey")], shard_size=12
    )
    done = run("label", job, "--json")
    assert done.returncode == 0, done.stderr
    rows = {sample.record.image_id: sample.labels for sample in LabelReader(LabelStore.open(str(store))).samples()}
    assert rows[poison]["troubled"].status == "failed" and "killed its worker" in rows[poison]["troubled"].reason
    assert rows[poison]["grey"].status == "ok", "only the expert that it killed fails on it"
    assert sum(labels["troubled"].status == "failed" for labels in rows.values()) == 1
    assert 1 <= len(deaths.read_text().splitlines()) <= 4


def test_a_broken_expert_fills_nothing_and_is_named(tmp_path: Path, photos: Path) -> None:
    troubled = {"troubled": {"use": "tests.stand_ins:Troubled", "trouble": "nan"}}
    store = tmp_path / "store"
    job = write_job(
        tmp_path / "job.yaml", store=store, photos=photos, experts=[troubled, stand_in("grey")], shard_size=24
    )
    done = run("label", job)
    assert done.returncode == 1
    assert "troubled failed on 24 of 24 readable photos of shard-000000" in done.stdout and "NaN" in done.stdout
    assert committed_cells(store) == 1, "the healthy expert's cell is committed"


def test_an_expert_that_does_not_load_ends_the_job_in_one_line(tmp_path: Path, photos: Path) -> None:
    job = write_job(tmp_path / "job.yaml", store=tmp_path / "store", photos=photos, experts=[stand_in("unloadable")])
    done = run("label", job)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "expert 'unloadable' cannot be loaded" in done.stderr and "copy them beside it" in done.stderr


def test_a_pack_that_fits_nowhere_is_said_so_instead_of_waited_for(tmp_path: Path, photos: Path) -> None:
    packs = [{"experts": ["grey"], "cpus": 64}]
    job = write_job(tmp_path / "job.yaml", store=tmp_path / "s", photos=photos, experts=[stand_in("grey")], packs=packs)
    done = run("label", job)
    assert done.returncode == 2 and "the pack of grey wants 64 CPUs" in done.stderr and "Traceback" not in done.stderr


def test_retry_asks_again_for_failed_rows_only(tmp_path: Path, photos: Path) -> None:
    good = (photos / "photo0004.png").read_bytes()
    for name in ("photo0004.png", "photo0015.png"):
        (photos / name).write_bytes(b"")
    store = tmp_path / "store"
    job = write_job(tmp_path / "job.yaml", store=store, photos=photos, experts=[stand_in("grey")], shard_size=8)
    assert run("label", job).returncode == 0
    before = labels_of(store)
    assert [row["status"] for rows in before.values() for row in rows].count("failed") == 2

    (photos / "photo0004.png").write_bytes(good)  # one of the two is mended
    again = run("retry", job)
    assert again.returncode == 0, again.stderr
    after = labels_of(store)
    mended = path_id("photo0004.png")
    for column, rows in after.items():
        for old, new in zip(before[column], rows, strict=True):
            if new["image_id"] == mended:
                assert old["reason"].startswith("empty file") and new["status"] == "ok" and new["member"]
            else:
                assert old == new
    third = run("retry", job)
    assert "1 cell(s) with failed rows" in third.stderr, "the other row is still failed, and may be asked again"
    assert third.returncode == 0 and "1 cells stayed as they were" in third.stdout


def test_an_interrupt_ends_the_run_cleanly_and_the_next_one_finishes(tmp_path: Path, photos: Path) -> None:
    store = tmp_path / "store"
    slow = {"grey": {"use": "tests.stand_ins:Grey", "delay": 0.8}}
    job = write_job(tmp_path / "job.yaml", store=store, photos=photos, experts=[slow], shard_size=2)
    for sent in (signal.SIGINT, signal.SIGTERM):
        before = committed_cells(store)
        process = start("label", job)
        assert wait_for(lambda before=before: committed_cells(store) > before, 120, process)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "run the same command again" in err and "Traceback" not in err
    assert 2 <= committed_cells(store) < 12
    assert run("label", job).returncode == 0 and committed_cells(store) == 12


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_a_sigterm_while_ray_starts_is_an_interrupt_too(tmp_path: Path, photos: Path, seconds: float) -> None:
    """Ray answers SIGTERM itself from the first step of its start on, with an exit code of its own."""
    slow = {"grey": {"use": "tests.stand_ins:Grey", "delay": 60}}
    process = start("label", write_job(tmp_path / "job.yaml", store=tmp_path / "store", photos=photos, experts=[slow]))
    assert process.stderr is not None
    assert any("starting Ray" in line for line in process.stderr), "it did not come so far"
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err


@pytest.mark.long  # Ray tries for two minutes
def test_a_cluster_that_is_not_there_is_told_within_minutes(tmp_path: Path, photos: Path) -> None:
    job = write_job(tmp_path / "job.yaml", store=tmp_path / "store", photos=photos, experts=[stand_in("grey")])
    done = run("label", job, "--address", "127.0.0.1:1", timeout=300)
    assert done.returncode == 2 and "cannot reach the cluster at 127.0.0.1:1" in done.stderr, done.stderr
