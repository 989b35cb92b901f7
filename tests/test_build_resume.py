"""A build that is killed at any moment: started again it writes what it would have, and reads no finished source twice."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from bench.original_files import write_all
from jobs.building import build_manifest
from jobs.sources_file import SourcesFile, load_sources
from manifests.build import build
from manifests.cleaning import CaptionRules
from manifests.manifest import Manifest
from manifests.sources import Cc3m, Cc12m, Coco, Sbu, VisualGenome
from pipeline.errors import JobError
from tests.conftest import ROOT

BUILDER = """
import sys
import time
from jobs.building import build_manifest
from jobs.sources_file import load_sources

def told(what, done, total):
    print(what, done, flush=True)
    if sys.argv[4:] and what == sys.argv[4] and done >= int(sys.argv[5]):
        time.sleep(600)  # to be killed here, however late the one who kills is

if __name__ == "__main__":
    build_manifest(load_sources(sys.argv[1]), sys.argv[2], workers=int(sys.argv[3]), progress=told)
"""


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lists")
    write_all(folder, scale=0.002)
    return folder


@pytest.fixture(scope="module")
def whole(lists: Path) -> bytes:
    """The manifest of a build that nobody disturbed."""
    out = lists / "whole.parquet"
    build_manifest(load_sources(str(lists / "sources.yaml")), str(out))
    return out.read_bytes()


def started(lists: Path, out: Path, workers: int, *until: object) -> subprocess.Popen[str]:
    script = out.with_name("builder.py")
    script.write_text(BUILDER)
    return subprocess.Popen(
        [sys.executable, str(script), str(lists / "sources.yaml"), str(out), str(workers), *map(str, until)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def killed_at(lists: Path, out: Path, count: int, step: str, done: int) -> None:
    """SIGKILL when the build says that it is so far; its workers end by themselves."""
    process = started(lists, out, count, step, done)
    assert process.stdout is not None
    for line in process.stdout:
        what, _, number = line.rpartition(" ")
        if what == step and int(number) >= done:
            break
    else:
        raise AssertionError(f"the build ended before {step} {done}")
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive, "workers outlive the build"


@pytest.mark.parametrize(
    ("workers", "step", "done"),
    [(1, "reading", 1), (2, "reading", 18_000), (2, "finding what is one picture", 20), (1, "writing", 30)],
)
def test_a_killed_build_taken_up_again_writes_the_same_file(
    tmp_path: Path, lists: Path, whole: bytes, workers: int, step: str, done: int
) -> None:
    out = tmp_path / "m.parquet"
    killed_at(lists, out, workers, step, done)
    assert not out.exists() and (tmp_path / ".m.parquet.build").exists()
    assert started(lists, out, workers).wait() == 0
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["builder.py", "m.parquet", "m.parquet.report.json"]


def test_an_interrupt_stops_all_workers_and_says_that_the_command_goes_on(tmp_path: Path, lists: Path) -> None:
    out = tmp_path / "m.parquet"
    command = [sys.executable, "-m", "jobs.cli", "manifest", "build", str(lists / "sources.yaml"), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (tmp_path / ".m.parquet.build").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in said and "Traceback" not in said
    deadline = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def test_a_full_disk_is_one_line(tmp_path: Path, lists: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("manifests.buckets.BucketWriter.write", full)
    with pytest.raises(JobError, match="m.parquet: No space left on device; sources that were read"):
        build_manifest(load_sources(str(lists / "sources.yaml")), str(tmp_path / "m.parquet"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_ten_kills_at_random_moments(tmp_path: Path, lists: Path, whole: bytes) -> None:
    out = tmp_path / "m.parquet"
    chance = random.Random(4)
    for _ in range(10):
        process = started(lists, out, 2)
        time.sleep(chance.uniform(0.8, 4))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert started(lists, out, 2).wait() == 0
    assert out.read_bytes() == whole


def refuse(*_: object, **__: object) -> Iterator[pa.RecordBatch]:
    raise AssertionError("read again")


def test_finished_sources_are_not_read_again_unless_something_of_them_has_changed(
    tmp_path: Path, lists: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.parquet"
    killed_at(lists, out, 1, "finding what is one picture", 1)
    sources = load_sources(str(lists / "sources.yaml"))
    kinds = (Coco, VisualGenome, Cc3m, Sbu, Cc12m)
    with monkeypatch.context() as patched:
        for kind in kinds:
            patched.setattr(kind, "batches", refuse)
        build_manifest(sources, str(out))
    assert out.read_bytes() == whole
    out.unlink()

    killed_at(lists, out, 1, "finding what is one picture", 1)
    list_of_cc3m = Path(sources.images[2].path)  # type: ignore[union-attr]
    before = list_of_cc3m.read_bytes()
    try:
        list_of_cc3m.write_bytes(before + b"one more caption\thttp://images.example.org/more.jpg\n")
        with monkeypatch.context() as patched:
            for kind in kinds:
                if kind is not Cc3m:
                    patched.setattr(kind, "batches", refuse)
            report = build_manifest(sources, str(out))
        assert len(report.manifest) == len(Manifest.open(str(lists / "whole.parquet"))) + 1
    finally:
        list_of_cc3m.write_bytes(before)


@pytest.mark.parametrize("change", [{"captions": CaptionRules(lower_case=True)}, {"seed": 9}], ids=["captions", "seed"])
def test_other_rules_and_another_seed_read_everything_again(
    tmp_path: Path, lists: Path, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = load_sources(str(lists / "sources.yaml"))
    two = SourcesFile(images=sources.images[2:4], seed=sources.seed)
    out = tmp_path / "m.parquet"
    with monkeypatch.context() as patched:
        patched.setattr("manifests.build.joined", refuse)
        with pytest.raises(AssertionError):
            build_manifest(two, str(out))
    assert len(list((tmp_path / ".m.parquet.build").glob("source-*"))) == 2
    with monkeypatch.context() as patched:
        patched.setattr(Cc3m, "batches", refuse)
        with pytest.raises(AssertionError, match="read again"):
            build_manifest(two.model_copy(update=change), str(out))
    again = build(two.images, str(out), **({"seed": two.seed} | change))  # type: ignore[arg-type]
    fresh = build(two.images, str(tmp_path / "fresh.parquet"), **({"seed": two.seed} | change))  # type: ignore[arg-type]
    assert again.manifest.fingerprint == fresh.manifest.fingerprint
    assert not (tmp_path / ".m.parquet.build").exists()
