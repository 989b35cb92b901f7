"""Jobs on a real cluster of two nodes: killed and sent again, followed, listed, stopped; and what its token lets in."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.audit import audit
from pipeline.store import LabelStore
from tests.conftest import ROOT
from tests.jobs_at_work import committed_cells, labels_of, wait_for
from tests.ray_head import Head, ray_head
from tests.test_submit import write_job


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as found:
        yield found


def driver_of(job: Path) -> psutil.Process | None:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "jobs.cli" in words and "label" in words and job.name in words:
            return process
    return None


def test_the_token_decides_and_is_never_shown(head: Head) -> None:
    for token, said in (("", "no token found here"), ("wrong-token", "RAY_AUTH_TOKEN found here")):
        done = head.run("jobs", "list", token=token)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and said in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1 and "wrong-token" not in done.stderr
    done = head.run("jobs", "list", "--json")
    assert done.returncode == 0 and json.loads(done.stdout) == [] and head.token not in done.stdout + done.stderr


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.long)])
def test_a_job_whose_driver_is_killed_is_sent_again_and_labels_nothing_twice(
    tmp_path: Path, head: Head, kills: int
) -> None:
    job = write_job(tmp_path)
    store = tmp_path / "store"
    command = head.command("submit", str(job), "--json", "--retries", str(kills))
    process = subprocess.Popen(
        command, cwd=ROOT, env=head.with_token(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        kept: dict[tuple[str, int], str] = {}
        for _ in range(kills):
            before = committed_cells(store)
            # Workers of the attempt that was killed may still commit a cell: it is the next driver that counts.
            wait_for(lambda before=before: driver_of(job) and committed_cells(store) > before, 240, process)
            driver = driver_of(job)
            assert driver is not None, "the job ended before it could be killed: it is too short for this test"
            driver.kill()
            driver.wait(10)
            for place, attempt in kept.items():
                assert attempts_in(store)[place] == attempt
            kept = attempts_in(store)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, err
    found = json.loads(out)
    assert found["ending"] == "done" and len(found["attempts"]) == kills + 1 and head.token not in out + err
    assert f"{found['run']}: attempt 1 died (exit code" in err and "48 images in 12 shard(s); 24 cell(s) missing" in err
    resumed = attempts_in(store)
    assert len(resumed) == 24 and kept and kept.items() <= resumed.items(), "what was committed was left alone"
    opened = LabelStore.open(str(store))
    report = audit(opened, deep=True, grace_seconds=0)
    assert not report.findings and report.missing == 0
    assert all(len(rows) == len({row["image_id"] for row in rows}) == 48 for rows in labels_of(store).values())
    listed = json.loads(head.run("jobs", "list", "--json").stdout)
    mine = [(row["attempt"], row["ending"]) for row in listed if row["run"] == found["run"]]
    assert mine == [(name, "crashed") for name in found["attempts"][:-1]] + [(found["attempts"][-1], "done")]


def attempts_in(store: Path) -> dict[tuple[str, int], str]:
    """For every committed cell, the attempt that made it."""
    opened = LabelStore.open(str(store))
    return {
        (column, index): opened.receipt(column, opened.plan.shard(index)).attempt
        for column in opened.columns()
        for index in opened.committed(column)
    }


def test_a_job_that_nobody_waits_for_is_listed_read_and_stopped(tmp_path: Path, head: Head) -> None:
    job = write_job(tmp_path, experts=[{"grey": {"use": "tests.stand_ins:Grey", "delay": 4.0}}])
    sent = head.run("submit", str(job), "--detach", "--json")
    assert sent.returncode == 0, sent.stderr
    run = json.loads(sent.stdout)["run"]
    again = head.run("submit", str(job))
    assert again.returncode == 2 and f"{run}-1 --follow" in again.stderr, again.stderr
    end = time.monotonic() + 240
    while not committed_cells(tmp_path / "store"):
        assert time.monotonic() < end, head.run("jobs", "logs", run).stdout
        time.sleep(0.2)
    assert "12 cell(s) missing" in head.run("jobs", "logs", run).stdout
    (row,) = [row for row in json.loads(head.run("jobs", "list", "--json").stdout) if row["run"] == run]
    assert (row["ending"], row["store"]) == ("running", str(tmp_path / "store"))
    done = head.run("jobs", "stop", run)
    assert done.returncode == 0 and "stopped" in done.stderr, done.stderr
    assert head.run("jobs", "logs", run, "--follow").returncode == 130
    assert driver_of(job) is None
    unknown = head.run("jobs", "stop", "label-none")
    assert unknown.returncode == 2 and unknown.stderr.startswith("error: no job label-none")


def test_a_job_that_the_cluster_finds_wrong_is_not_sent_again(tmp_path: Path, head: Head) -> None:
    job = write_job(tmp_path, packs=[{"experts": ["truth_depth", "grey"], "cpus": 1}], manifest=None)
    (tmp_path / "store").mkdir()
    (tmp_path / "store/store.json").write_text("{}")
    done = head.run("submit", str(job), "--json")
    assert done.returncode == 2, done.stderr
    found = json.loads(done.stdout)
    assert (found["ending"], found["exit_code"], len(found["attempts"])) == ("wrong", 2, 1) and "error: " in done.stderr


def test_the_named_address_wins_over_the_environment(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = head.environment | {"RAY_ADDRESS": "http://127.0.0.1:1", "RAY_AUTH_TOKEN": head.token}
    done = subprocess.run(
        head.command("jobs", "list"), cwd=ROOT, env=theirs, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
