"""A job on a cluster: what is refused before it is sent, what is sent, and what becomes of it when it dies."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from jobs import cli, submitting
from jobs.job import load_choices
from jobs.job_server import JobServer, NoAnswer, NoSuchJob
from jobs.parcel import packed
from jobs.submitting import follow, submit
from manifests.manifest import Manifest
from pipeline.choices import Pack, Unit
from pipeline.errors import ClusterFailure, JobError, Unreachable, WorkerError
from pipeline.labeller import Effort
from pipeline.store import LabelStore
from tests.ray_head import free_ports

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
    assert (
        f"@127.0.0.1:{port}" in said
        and "no cluster answers" in said
        and "ray[default]" in said
        and "secret" not in said
    )
    for wrong in ("127.0.0.1:6379", "ray://127.0.0.1:10001", "http://", "http://host:port", "auto"):
        assert "expected the dashboard" in refused(write_job(tmp_path), address=wrong)


def test_where_something_else_answers(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = refused(write_job(tmp_path), address=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "is no Ray dashboard" in said


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

    said = "a summary:\nexpert  cells  ok  empty  failed"

    def log(self, name: str) -> str:
        return self.said


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


def test_a_driver_that_left_exit_code_1_without_a_word_was_ended_by_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeServer, "endings", [("FAILED", 1)] * 3)
    monkeypatch.setattr(FakeServer, "said", "Running entrypoint\n64 of 64 labels (100%)\n")
    server: Any = FakeServer(None)
    server.sent.append({})
    assert follow(server, "run-1", say=print, show=print) == ("crashed", 1)
    monkeypatch.setattr(FakeServer, "said", "Traceback (most recent call last):\n")
    assert follow(server, "run-1", say=print, show=print) == ("incomplete", 1)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ClusterFailure("gone"), 3),
        (Unreachable("away"), 3),
        (WorkerError("no"), 2),
        (JobError("no"), 2),
        (OSError(28, "full"), 3),
        (OSError(13, "not allowed"), 2),
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
    (said,) = actor({"units": np.array([f"[{unit.model_dump_json()}]"]), "copy": np.array([False])})
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


def test_headers_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobError, match="RAY_JOB_HEADERS"):
        monkeypatch.setenv("RAY_JOB_HEADERS", "[]")
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
            JobServer(f"http://127.0.0.1:{server.server_port}")
