"""A job on a cluster: what is refused before it is sent, what is sent, and what becomes of it when it dies."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from jobs import cli, submitting
from jobs.job import load_choices
from jobs.job_server import JobServer, NoAnswer, NoSuchJob, without_password
from jobs.parcel import packed
from jobs.submitting import follow, submit
from manifests.manifest import Manifest
from pipeline.audit import audit
from pipeline.choices import Pack, Unit
from pipeline.errors import ClusterFailure, JobError, Unreachable, WorkerError
from pipeline.labeller import Effort
from pipeline.store import LabelStore
from tests.conftest import ROOT
from tests.jobs_at_work import committed_cells, labels_of, wait_for
from tests.ray_head import Head, free_ports, ray_head

GREY = {"grey": {"use": "tests.stand_ins:Grey", "delay": 0.1}}


def write_job(folder: Path, **more: object) -> Path:
    """A job of 48 scenes in 12 shards, under a name of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    job: dict[str, object] = {"store": str(folder / "store"), "images": [{"source": "scenes", "seed": 5, "count": 48}]}
    job |= {"experts": ["truth_depth", GREY], "shard_size": 4}
    path = folder / f"job-{uuid.uuid4().hex[:8]}.yaml"
    path.write_text(yaml.safe_dump(job | more), encoding="utf-8")
    return path


# What is refused here, where a mistake costs seconds


def refused(job: Path, *, address: str = "http://127.0.0.1:1") -> str:
    with pytest.raises(JobError) as found:
        submit(str(job), address=address, retries=0, detach=False, code=True, say=print, show=print)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_a_job_that_is_wrong_is_found_before_anybody_is_asked(tmp_path: Path) -> None:
    assert "unknown key `shard_sise`" in refused(write_job(tmp_path, shard_sise=4))
    assert "no file" in refused(tmp_path / "none.yaml")


def test_places_of_this_folder_mean_nothing_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "`store`: out/store is relative" in refused(write_job(tmp_path, store="out/store"))
    (tmp_path / "photos").mkdir()
    images = [{"source": "folder", "path": "photos", "split": "photos"}]
    assert "`images.0.path`: photos is relative" in refused(write_job(tmp_path, images=images))
    for place in ("s3://bucket/store", "~/store", "/mnt/store"):
        assert "no cluster answers" in refused(write_job(tmp_path, store=place)), "these may be sent"


def test_where_no_cluster_is(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    said = refused(write_job(tmp_path), address=f"http://someone:secret@127.0.0.1:{port}/")
    assert f"no cluster answers at http://127.0.0.1:{port}" in said and "ray[default]" in said and "secret" not in said
    for wrong in ("127.0.0.1:6379", "ray://127.0.0.1:10001", "http://", "http://host:port", "auto"):
        assert "expected the dashboard" in refused(write_job(tmp_path), address=wrong)


def test_where_something_else_answers(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = refused(write_job(tmp_path), address=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "is no Ray dashboard" in said


def test_what_is_shown_of_an_address() -> None:
    assert without_password("https://me:pw@head:8265/a?token=x") == "https://head:8265/a"
    assert without_password("/mnt/store") == "/mnt/store"


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_token_file_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    if content is not None:
        (tmp_path / "token").write_text(content)
    assert "RAY_AUTH_TOKEN_PATH" in refused(write_job(tmp_path))


# What is sent


def test_the_parcel_holds_the_job_the_code_and_the_users_own_experts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_experts.py").write_text("from tests.stand_ins import Grey\n")
    (tmp_path / "secrets.txt").write_text("not asked for")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = write_job(tmp_path, experts=[{"grey": {"use": "my_experts:Grey"}}])
    with packed(str(path), load_choices(str(path)), code=True) as parcel:
        names = {file.relative_to(parcel.folder).as_posix() for file in parcel.folder.rglob("*") if file.is_file()}
        assert (parcel.folder / path.name).read_bytes() == path.read_bytes()
        assert {
            path.name,
            "my_experts.py",
            "jobs/cli.py",
            "pipeline/cluster.py",
        } <= names and "secrets.txt" not in names
        assert any(name.endswith(".safetensors") for name in names) and not any("__pycache__" in name for name in names)
        command = [
            sys.executable,
            "-I",
            "-c",
            f"import sys; sys.path.insert(0, {str(parcel.folder)!r}); import jobs.cli",
        ]
        subprocess.run(command + [], check=True, timeout=120)
    with packed(str(path), load_choices(str(path)), code=False) as parcel:
        assert sorted(file.name for file in parcel.folder.iterdir()) == sorted(["my_experts.py", path.name])


# What becomes of it


class FakeServer:
    """A job server whose jobs end as ``endings`` say: a Ray status and the exit code of the driver."""

    endings: list[tuple[str, int | None]] = []
    sent: list[dict[str, Any]] = []
    address = "http://head:8265"

    def __init__(self, address: str | None) -> None:
        self.sent.clear()

    def jobs(self) -> list[Any]:
        return []

    def submit(self, name: str, entrypoint: str, *, folder: Path, metadata: dict[str, str]) -> None:
        assert (folder / "jobs/cli.py").is_file()
        self.sent.append({"name": name, "entrypoint": entrypoint, **metadata})

    def follow(self, name: str, seen: int, show: Any) -> int:
        return seen

    def job(self, name: str) -> Any:
        status, code = self.endings[len(self.sent) - 1]
        status_of = SimpleNamespace(value=status, is_terminal=lambda: status != "RUNNING")
        return SimpleNamespace(status=status_of, driver_exit_code=code)

    def log(self, name: str) -> str:
        return ""


DEAD = [("FAILED", -9), ("FAILED", 137), ("FAILED", None), ("FAILED", 3), ("FAILED", 130)]


@pytest.mark.parametrize(
    ("endings", "retries", "ending", "attempts"),
    [
        ([("SUCCEEDED", 0)], 3, "done", 1),
        ([*DEAD[:3], ("SUCCEEDED", 0)], 3, "done", 4),
        ([*DEAD[3:], ("FAILED", 1)], 3, "incomplete", 3),
        (DEAD, 2, "crashed", 3),
        (DEAD, 0, "crashed", 1),
        ([("FAILED", 2)], 3, "wrong", 1),
        ([("FAILED", 127)], 3, "wrong", 1),
        ([("STOPPED", None)], 3, "stopped", 1),
    ],
)
def test_who_dies_is_sent_again_and_who_is_wrong_is_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    endings: list[tuple[str, int | None]],
    retries: int,
    ending: str,
    attempts: int,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(submitting, "JobServer", FakeServer)
    monkeypatch.setattr(submitting.time, "sleep", pauses.append)
    FakeServer.endings = endings
    job = write_job(tmp_path, store="s3://key:secret@bucket/store")
    found = submit(str(job), address=None, retries=retries, detach=False, code=True, say=print, show=print)
    assert (found.ending, len(found.attempts)) == (ending, attempts)
    names = [sent["name"] for sent in FakeServer.sent]
    assert names == found.attempts == [f"{found.run}-{number}" for number in range(1, attempts + 1)]
    assert {sent["expert_labels_run"] for sent in FakeServer.sent} == {found.run}
    assert FakeServer.sent[0]["entrypoint"] == f"python -m jobs.cli label {job.name} --address auto"
    assert "secret" not in json.dumps(FakeServer.sent) and "secret" not in str(found.to_json())
    assert pauses == [2.0 * 2**number for number in range(attempts - 1)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ClusterFailure("gone"), 3),
        (Unreachable("away"), 3),
        (WorkerError("no"), 2),
        (JobError("no"), 2),
        (OSError(28, "full"), 2),
    ],
)
def test_exit_codes_tell_failures_of_machines_from_mistakes(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code


@pytest.mark.parametrize(
    ("error", "passing"),
    [(OSError(28, "no space left"), True), (Unreachable("away"), True), (WorkerError("no"), False)],
)
def test_a_worker_tells_a_place_that_failed_from_a_job_that_is_wrong(
    url: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, error: Exception, passing: bool
) -> None:
    from pipeline.cluster import PackActor

    def fail(*_: object, **__: object) -> None:
        raise error

    store = LabelStore.create(url, manifest, shard_size=5)
    monkeypatch.setattr("pipeline.cluster.load_pack", lambda *_, **__: SimpleNamespace(label=fail))
    pack = Pack(name="pack0", experts=(), cpus=1, gpus=0, actors=(1, 1), effort=Effort())
    actor = PackActor(url, pack.model_dump_json(), "run", False)
    unit = Unit(shard=store.plan.shard(0), columns=("grey@0",))
    said = actor({"unit": np.array([unit.model_dump_json()])})
    assert said["passing"] == [passing] and str(error) in said["trouble"][0]


def test_a_cluster_that_is_away_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[Any] = iter([5, NoAnswer("away"), NoAnswer("away"), NoSuchJob("forgotten")])

    class Away(FakeServer):
        def follow(self, name: str, seen: int, show: Any) -> int:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return int(answer)

        def job(self, name: str) -> Any:
            return SimpleNamespace(status=SimpleNamespace(value="RUNNING", is_terminal=lambda: False))

    monkeypatch.setattr(submitting.time, "sleep", lambda seconds: None)
    said: list[str] = []
    server: Any = Away(None)
    assert follow(server, "run-1", say=said.append, show=print) == ("crashed", None), "a head that is new knows no jobs"
    assert said == ["away; asking again for 600 s"]
    answers = iter([NoAnswer("away"), NoAnswer("away")])
    with pytest.raises(NoAnswer):
        follow(server, "run-1", say=said.append, show=print, patience=-1)


# On a real cluster


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
            assert wait_for(lambda before=before: committed_cells(store) > before, 90, process), process.communicate()
            driver = driver_of(job)
            assert driver is not None, "the job ended before it could be killed: it is too short for this test"
            driver.kill()
            driver.wait(10)
            for place, attempt in kept.items():
                assert attempts_in(store)[place] == attempt
            kept = attempts_in(store)
        out, err = process.communicate(timeout=150)
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
    end = time.monotonic() + 90
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


def test_the_server_is_spoken_to_in_this_process_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobError, match="RAY_JOB_HEADERS"):
        monkeypatch.setenv("RAY_JOB_HEADERS", "[]")
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
            JobServer(f"http://127.0.0.1:{server.server_port}")
