"""`expert-labels grow`, and what `label` says of a store whose images are not those of the job."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from jobs.cli import app
from jobs.job import load_job
from jobs.labelling import prepare, retry
from manifests.build import build
from pipeline.errors import StoreError
from pipeline.lacking import missing_cells
from pipeline.store import LabelStore
from tests.conftest import label_all
from tests.jobs_at_work import make_photos, stand_in, write_job
from tests.stand_ins import Grey

runner = CliRunner()


@pytest.fixture
def job(tmp_path: Path) -> Path:
    photos = make_photos(tmp_path / "photos", 6)
    return write_job(
        tmp_path / "job.yaml", store=tmp_path / "store", photos=photos, experts=[stand_in("grey")], shard_size=4
    )


def prepared(job: Path) -> tuple[LabelStore, list[str]]:
    said: list[str] = []
    loaded = load_job(str(job))
    return prepare(loaded, loaded.create_experts(), said.append), said


def invoked(*arguments: str) -> str:
    done = runner.invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def change(job: Path, **keys: object) -> None:
    job.write_text(yaml.safe_dump(yaml.safe_load(job.read_text()) | keys))


def test_a_folder_that_changed(tmp_path: Path, job: Path) -> None:
    store, _ = prepared(job)
    label_all(store, [Grey()])
    make_photos(tmp_path / "photos", 9)
    (tmp_path / "photos" / "photo0002.png").unlink()
    opened, said = prepared(job)
    assert len(opened.plan) == 2 and not said, "a resume does not look into the folder"
    told = invoked("grow", str(job), "--dry-run")
    assert "6 images; the job asks for 8" in told and "  3 new: photo000" in told and "  1 gone: photo0002-" in told
    assert "nothing was changed" in told and not (tmp_path / "store" / "growth").exists()
    found = json.loads(invoked("grow", str(job), "--json"))
    assert found["counts"] | {"new": 3, "gone": 1} == found["counts"] and found["shards"] == {"before": 2, "after": 3}
    store, _ = prepared(job)
    assert store.plan.images == 8
    assert [(shard.index, len(shard)) for shard, _ in missing_cells(store, list(store.columns()))] == [(2, 3)]
    assert "the same images: nothing to take over" in invoked("grow", str(job))
    assert [path.name for path in (tmp_path / "store" / "growth").glob("*.json")] == ["0001.json"]
    assert "8 images in 3 shard(s) of 4; grown 1 time(s), 1 image(s) dropped" in invoked(
        "status", str(tmp_path / "store")
    )


def test_label_says_what_differs_and_does_nothing(tmp_path: Path, job: Path) -> None:
    prepared(job)
    more = make_photos(tmp_path / "more", 2, seed=1)
    sources = yaml.safe_load(job.read_text())["images"]
    change(job, images=[*sources, {"source": "folder", "path": str(more), "name": "more"}])
    before = sorted(path.name for path in (tmp_path / "store").rglob("*"))
    for run in (lambda: prepared(job), lambda: retry(load_job(str(job)), lambda line: None)):
        with pytest.raises(StoreError) as caught:
            run()
        message = str(caught.value)
        assert "has 6 images, and the job asks for others: 2 new (" in message and "\n" not in message
        assert "`expert-labels grow JOB.yaml` takes this over" in message
    assert sorted(path.name for path in (tmp_path / "store").rglob("*")) == before
    invoked("grow", str(job))
    store, said = prepared(job)
    assert store.plan.images == 8 and not said, "now it is what the store was made from"


def test_the_same_images_written_otherwise(tmp_path: Path, job: Path) -> None:
    prepared(job)
    (tmp_path / "there").mkdir()
    change(job, images=[{"source": "folder", "path": str(tmp_path / "there" / ".." / "photos")}])
    store, said = prepared(job)
    assert len(said) == 2 and "reading them to compare" in said[0] and "the same 6 images" in said[1]
    plan = store.plan.fingerprint
    assert "nothing to take over" in invoked("grow", str(job))
    store, said = prepared(job)
    assert not said and store.plan.fingerprint == plan and store.plan.images == 6


def test_rules_count_as_the_images_do(tmp_path: Path, job: Path) -> None:
    store, _ = prepared(job)
    (tmp_path / "photos" / "photo0001.txt").write_text("word\n")
    assert "1 with other captions" in invoked("grow", str(job))
    change(job, captions={"min_words": 3})
    with pytest.raises(StoreError, match="the job asks for others: 1 with other captions"):
        prepared(job)
    invoked("grow", str(job))
    store, said = prepared(job)
    assert not said and all(not r.captions for shard in store.plan.shards() for r in store.records(shard))


def test_photos_that_moved(tmp_path: Path, job: Path) -> None:
    store, _ = prepared(job)
    label_all(store, [Grey()])
    shutil.move(tmp_path / "photos", tmp_path / "elsewhere")
    change(job, images=[{"source": "folder", "path": str(tmp_path / "elsewhere")}])
    with pytest.raises(StoreError, match="6 moved"):
        prepared(job)
    invoked("grow", str(job))
    store, _ = prepared(job)
    assert not list(missing_cells(store, list(store.columns())))
    assert all("/elsewhere/" in r.uri for shard in store.plan.shards() for r in store.records(shard))


def test_a_job_with_a_manifest(tmp_path: Path, job: Path) -> None:
    loaded = load_job(str(job))
    build(loaded.images, str(tmp_path / "m.parquet"), seed=0)
    content = yaml.safe_load(job.read_text())
    del content["images"]
    job.write_text(yaml.safe_dump(content | {"manifest": str(tmp_path / "m.parquet")}))
    prepared(job)
    make_photos(tmp_path / "photos", 7)
    build(loaded.images, str(tmp_path / "m.parquet"), seed=0)
    with pytest.raises(StoreError, match=r"1 new \(photo0006-"):
        prepared(job)
    invoked("grow", str(job))
    store, said = prepared(job)
    assert store.plan.images == 7 and not said


@pytest.mark.parametrize(("key", "value"), [("shard_size", 5), ("seed", 3)])
def test_what_is_fixed_stays_fixed(job: Path, key: str, value: int) -> None:
    prepared(job)
    change(job, **{key: value})
    with pytest.raises(
        StoreError, match=f"planned otherwise: {key} . there, {value} in the job; a store is never re-cut"
    ):
        prepared(job)
    done = runner.invoke(app, ["grow", str(job)])
    assert isinstance(done.exception, StoreError) and "never re-cut" in str(done.exception)


def test_there_is_no_store(job: Path) -> None:
    done = runner.invoke(app, ["grow", str(job)])
    assert isinstance(done.exception, StoreError) and "`expert-labels label JOB.yaml` makes one" in str(done.exception)


def test_a_long_reading_of_sources_is_shown(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(job)

    def lines() -> list[str]:
        return runner.invoke(app, ["grow", str(job), "--dry-run"]).stderr.splitlines()

    assert len(lines()) == 1, "a short one is not"
    monkeypatch.setattr("jobs.planning.PATIENCE", 0.0)
    assert len(lines()) > 1 and all(": " in line for line in lines())
