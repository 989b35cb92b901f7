"""The watchdog: a photo on which an expert hangs costs one row; calls that hold the interpreter's lock are ended as well."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from manifests.record import path_id
from pipeline.journal import MAX_DEATHS, MAX_HANGS, READ, Journal
from pipeline.reader import LabelReader
from pipeline.storage import LocalStorage
from pipeline.store import LabelStore
from tests.conftest import ROOT
from tests.jobs_at_work import make_photos, run, stand_in, write_job

NAME = "attempts/run/unit.json"
WORKER = """
import pathlib, re, sys, time
from pipeline.journal import Journal
from pipeline.storage import LocalStorage
from pipeline import watchdog
watchdog.GRACE = 1.0
patience = watchdog.Patience(floor=0.5, times=4, loading=1)
journal = Journal(LocalStorage(pathlib.Path(sys.argv[1])), "run", "unit")
dog = watchdog.Watchdog(patience, tell=lambda what: print(what, flush=True))
"""


def worker(folder: Path, does: str, *, loading: float = 1) -> tuple[int, str, float]:
    """Exit code, what was said and seconds of a process with a watchdog that does that."""
    start = time.monotonic()
    command = [sys.executable, "-c", WORKER.replace("loading=1", f"loading={loading}") + does, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, time.monotonic() - start


def entries(folder: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((folder / NAME).read_text())
    return found


def test_silence_is_written_down_with_what_it_was_at_and_ends_the_process(tmp_path: Path) -> None:
    code, said, _ = worker(tmp_path, "dog.begin(journal); journal.enter('depth', ['a', 'b']); time.sleep(60)")
    assert code == -signal.SIGKILL and "unit.json: depth a, b" in said
    (entry,) = entries(tmp_path)
    assert entry["stage"] == "depth" and entry["ids"] == ["a", "b"] and 0.5 <= float(str(entry["hung"])) < 10
    again = Journal(LocalStorage(tmp_path), "run", "unit")
    assert again.suspects == {"a", "b"} and again.talkative and not again.convicted("depth")


def test_who_holds_the_lock_with_the_first_batch_does_not_get_the_patience_for_loading(tmp_path: Path) -> None:
    does = "dog.begin(None); time.sleep(0.3); dog.begin(journal); re.match('(a*)*b', 'a' * 60)"
    code, _, seconds = worker(tmp_path, does, loading=30)
    assert code == -signal.SIGKILL and seconds < 40, "46 seconds, if it were"


def test_a_call_that_holds_the_interpreters_lock_is_ended_too(tmp_path: Path) -> None:
    code, said, seconds = worker(tmp_path, "dog.begin(journal); time.sleep(0.3); re.match('(a*)*b', 'a' * 60)")
    assert code == -signal.SIGKILL and said == "" and seconds < 40


def test_a_loading_that_hangs_is_ended(tmp_path: Path) -> None:
    code, said, _ = worker(tmp_path, "dog.begin(None); time.sleep(60)")
    assert code == -signal.SIGKILL and "loading the experts" in said


@pytest.mark.parametrize(
    "does",
    [
        "dog.begin(journal)\nfor _ in range(20): time.sleep(0.1); dog.beat()",
        "dog.begin(journal); dog.end(); time.sleep(2)",
        "dog.begin(journal); dog.answered(5.0); time.sleep(2)",
    ],
    ids=["signs of life", "nothing to do", "batches that take long"],
)
def test_no_hang(tmp_path: Path, does: str) -> None:
    code, said, _ = worker(tmp_path, f"{does}\nprint('done')")
    assert (code, said) == (0, "done\n")


def test_two_hangs_alone_convict_and_the_row_says_so(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for _ in range(2):
        journal = Journal(storage, "run", "unit")
        journal.enter(READ, ["a"])
        journal.hung(7.04)
    journal = Journal(storage, "run", "unit")
    assert journal.convicted(READ) == {"a"}
    assert journal.verdict(READ, "a") == "hung: no sign of life for 7.0 s reading this photo alone"
    assert journal.verdict("depth", "a").startswith("killed its worker")


def test_a_unit_that_hangs_with_no_photo_in_common_is_given_up_sooner_than_one_that_dies(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for _ in range(MAX_HANGS):
        journal = Journal(storage, "run", "unit")
        assert not journal.given_up
        journal.hung(7.0)
    assert Journal(storage, "run", "unit").given_up and MAX_HANGS < MAX_DEATHS


def test_a_photo_on_which_an_expert_hangs_costs_one_row(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 16)
    at = path_id("photo0005.png")
    log = tmp_path / "hangs"
    troubled = {"troubled": {"use": "tests.stand_ins:Troubled", "trouble": "hang", "at": at, "log": str(log)}}
    store = tmp_path / "store"
    job = write_job(
        tmp_path / "job.yaml",
        store=store,
        photos=photos,
        experts=[troubled, stand_in("grey")],
        shard_size=8,
        patience={"floor": 3, "times": 20},
    )
    done = run("label", job, "--json", timeout=240)
    assert done.returncode == 0, done.stderr
    rows = {sample.record.image_id: sample.labels for sample in LabelReader(LabelStore.open(str(store))).samples()}
    assert rows[at]["troubled"].reason.startswith("hung: no sign of life for") and rows[at]["grey"].status == "ok"
    assert sum(labels["troubled"].status == "failed" for labels in rows.values()) == 1
    assert len(log.read_text().splitlines()) == 3, "with its batch, and twice alone"
