"""S3 when it gives trouble: nothing is lost, nothing is there twice, nothing half, and nobody's key is told."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ExpertLabelsError, StoreError, Unreachable
from pipeline.storage import S3Storage, open_storage, s3_calls, s3_transfer
from pipeline.storage import s3 as asked_once
from tests.s3_server import BUCKET, KEY, KINDS, SECRET, S3Server
from tests.test_storage import make

MANY = b"0123456789" * 60_000


@pytest.fixture
def storage(s3_url: str) -> S3Storage:
    storage = open_storage(s3_url)
    assert isinstance(storage, S3Storage)
    storage.offers()
    return storage


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test has time for."""
    monkeypatch.setattr(s3_calls, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(s3_calls, "LONGEST_PAUSE", 0.01)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """moto, as S3, wants 5 MiB of every part but the last, unless told otherwise."""
    import moto.s3.models as models

    monkeypatch.setattr(s3_transfer, "PART_BYTES", 100_000)
    monkeypatch.setattr(models, "S3_UPLOAD_PART_MIN_SIZE", 1)
    yield


# ---- a third of the calls goes wrong


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_trouble_passes(
    storage: S3Storage, s3: S3Server, quick: None, small_parts: None, kind: str
) -> None:
    with s3.trouble(0.34 if kind != "silent" else 0.1, kinds=(kind,), seed=3):
        for number in range(3 if kind == "silent" else 4):
            assert storage.publish(f"f/r{number}.json", b"%d" % number * 1000)
            assert not storage.publish(f"f/r{number}.json", b"other")
        make(storage, "f/data.tar", MANY[:50], MANY[50:])
        make(storage, "tmp-1", MANY)
        assert storage.settle("tmp-1", "lasting")
        assert storage.replace_if("f/r0.json", lambda old: old[:1] == b"0", b"new")
        assert not storage.replace_if("f/r0.json", lambda old: old[:1] == b"0", b"newer")
        assert (
            sorted(storage.names("f"))
            == ["data.tar", "r0.json", "r1.json", "r2.json", "r3.json"][: None if kind != "silent" else -1]
        )
        assert storage.read("f/r0.json") == b"new" and storage.read("f/r2.json") == b"2" * 1000
        with storage.open("f/data.tar") as stream:
            assert stream.read() == MANY
        storage.delete("f/r2.json")
        assert not storage.exists("f/r2.json") and storage.read("lasting") == MANY
    assert s3.injected[kind] >= (3 if kind == "silent" else 5), s3.injected
    assert storage.names("") and not [name for name in storage.names("") if name.startswith("tmp-")]


def test_of_threads_in_trouble_one_publishes(storage: S3Storage, s3: S3Server, quick: None) -> None:
    """Also where the winner's answer was lost and it finds its own file: else nobody would have won."""
    kinds = tuple(kind for kind in KINDS if kind != "silent")
    with s3.trouble(0.3, kinds=kinds, seed=5):
        for round_ in range(12):
            won: list[int] = []

            def publish(index: int, won: list[int] = won, name: str = f"r{round_}") -> None:
                if storage.publish(name, b"%d" % index * 100):
                    won.append(index)

            threads = [threading.Thread(target=publish, args=(index,)) for index in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(won) == 1 and storage.read(f"r{round_}") == b"%d" % won[0] * 100
    assert s3.injected.total() > 20


def test_of_retries_at_once_one_gives_way(storage: S3Storage) -> None:
    storage.publish("r", b"old")
    late: list[bool] = []

    def stands(data: bytes) -> bool:
        if data == b"old" and not late:
            late.append(True)
            assert storage.replace_if("r", lambda old: old == b"old", b"first")
        return data == b"old"

    assert not storage.replace_if("r", stands, b"second")
    assert storage.read("r") == b"first"


def test_what_does_not_pass_is_told_in_one_line(storage: S3Storage, s3: S3Server, quick: None) -> None:
    with s3.trouble(1.0, kinds=("SlowDown",)), pytest.raises(Unreachable) as told:
        storage.publish("x", b"1")
    assert s3.injected.total() == s3_calls.TRIES
    assert f"put_object of {storage.url}/x: 10 tries in " in str(told.value)
    assert "the last one ended with 503 SlowDown; look at the object store" in str(told.value)
    assert not storage.exists("x")


def test_pauses_double_and_are_bounded() -> None:
    pauses = [[s3_calls.pause(turn) for _ in range(50)] for turn in range(1, 30)]
    for turn, found in enumerate(pauses):
        longest = min(0.1 * 2**turn, 20.0)
        assert longest / 2 <= min(found) < max(found) <= longest
    assert 20 < sum(map(max, pauses[: s3_calls.TRIES - 1])) < 60


# ---- stores without conditional PUTs


@pytest.mark.parametrize("conditions", ["refused", "ignored"])
def test_a_store_without_conditions_is_found_out_once(
    s3_url: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, conditions: str
) -> None:
    asked_once._offers.cache_clear()
    monkeypatch.setattr(s3, "conditions", conditions)
    try:
        storage = open_storage(s3_url)
        assert isinstance(storage, S3Storage)
        assert storage.publish("a", b"1") and not storage.publish("a", b"2") and storage.read("a") == b"1"
        assert storage.replace_if("a", lambda old: old == b"1", b"3") and storage.read("a") == b"3"
        make(storage, "tmp-1", b"x")
        assert storage.settle("tmp-1", "b")
        assert open_storage(f"{s3_url}/deeper").publish("c", b"1")
        assert (storage.offers().if_none_match, storage.offers().if_match) == (False, False)
        probes = {path for method, path in s3.calls if method == "PUT" and s3_url[5:] in path and "/tmp-" in path}
        assert len(probes) == 2, "one probe, and the temporary file"
        assert len([record for record in caplog.records if "does not offer" in record.getMessage()]) == 1
        assert sorted(storage.names("")) == ["a", "b", "deeper"], "the probe is gone"
    finally:
        asked_once._offers.cache_clear()


# ---- many files, large files, unfinished files


def test_listings_come_by_pages(storage: S3Storage, s3: S3Server) -> None:
    names = [f"shard-{index:06d}.json" for index in range(1203)]
    import moto.s3.models as models

    for name in names:  # put there by the back door: over HTTP it takes half a minute
        models.s3_backends["123456789012"]["aws"].put_object(BUCKET, storage.path(f"labels/grey/{name}"), b"{}")
    storage.replace("labels/grey/deeper/x", b"{}")
    s3.calls.clear()
    assert sorted(storage.names("labels/grey")) == sorted([*names, "deeper"])
    assert len(s3.calls) == 2, "of a thousand each"
    assert len(list(storage.entries("labels/grey"))) == 1203


def test_parts_are_sent_a_few_at_once(
    storage: S3Storage, small_parts: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now, most, total = 0, 0, 0
    lock = threading.Lock()
    real = s3_calls.S3Calls.call

    def counting(self: s3_calls.S3Calls, operation: str, key: str | None = None, **parameters: Any) -> dict[str, Any]:
        nonlocal now, most, total
        if operation != "upload_part":
            return real(self, operation, key, **parameters)
        with lock:
            now, total = now + 1, total + 1
            most = max(most, now)
        try:
            return real(self, operation, key, **parameters)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(s3_calls.S3Calls, "call", counting)
    data = os.urandom(3_456_789)
    make(storage, "x.tar", *(data[at : at + 12_345] for at in range(0, len(data), 12_345)))
    assert total == 35 and 2 <= most <= s3_transfer.AT_ONCE
    assert storage.read("x.tar") == data
    storage.download("x.tar", tmp_path / "x.tar")
    assert (tmp_path / "x.tar").read_bytes() == data
    with storage.open("x.tar") as stream:
        assert stream.seek(-10, os.SEEK_END) == len(data) - 10 and stream.read() == data[-10:]


def test_a_killed_upload_leaves_nothing_that_counts(storage: S3Storage, small_parts: None) -> None:
    storage.replace("labels/a", b"1")
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_die_in_the_middle, args=(storage,))
    child.start()
    child.join(30)
    assert child.exitcode == 9
    assert storage.names("labels") == ["a"] and not storage.exists("labels/x.tar")
    assert storage.end_uploads(older=1e9) == [], "it may still be at work"
    assert storage.end_uploads(older=0) == ["labels/x.tar"]
    assert storage.end_uploads(older=0) == []


def _die_in_the_middle(storage: S3Storage) -> None:
    file = storage.create("labels/x.tar")
    file.write(MANY)
    os._exit(9)


def test_a_discarded_upload_is_taken_back(storage: S3Storage, small_parts: None) -> None:
    file = storage.create("x.tar")
    file.write(MANY)
    file.discard()
    assert storage.end_uploads(older=0) == [] and storage.names("") == []


# ---- forks and threads


def test_a_forked_process_makes_connections_of_its_own(storage: S3Storage, small_parts: None) -> None:
    """As the workers of a DataLoader do; their parent has used its connections, its loop and its threads before."""
    make(storage, "x.tar", MANY)
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    children = [context.Process(target=_read_in_child, args=(storage, number, results)) for number in range(3)]
    for child in children:
        child.start()
    assert sorted(results.get(timeout=30) for _ in children) == [(0, True), (1, True), (2, True)]
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert storage.read("x.tar") == MANY and sorted(storage.names("of")) == ["0", "1", "2"]


def _read_in_child(storage: S3Storage, number: int, results: Any) -> None:
    with storage.open("x.tar") as stream:
        same = stream.read() == MANY
    make(storage, f"of/{number}", MANY)
    results.put((number, same and storage.read_range("x.tar", 5, 5) == b"56789"))


# ---- keys


def test_no_key_in_errors_logs_or_files(
    storage: S3Storage,
    s3: S3Server,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    told = []
    with caplog.at_level(logging.DEBUG, logger="pipeline"):
        with s3.trouble(1.0, kinds=("500",)), pytest.raises(Unreachable) as error:
            storage.replace("x", b"1")
        told.append(str(error.value))
        storage.publish("y", b"1")
        with pytest.raises(StoreError) as refused:
            open_storage(f"s3://{KEY}:{SECRET}@{BUCKET}/store")
        told.append(str(refused.value))
        with pytest.raises(ExpertLabelsError) as absent:
            open_storage("s3://nobodys-bucket/store").replace("x", b"1")
        assert "there is no bucket nobodys-bucket" in str(absent.value)
        told.append(str(absent.value))
    everything = " ".join([*told, caplog.text, *capfd.readouterr(), repr(storage), repr(vars(storage.calls))])
    assert SECRET not in everything and KEY not in everything
    assert error.value.__cause__ is None and error.value.__suppress_context__ is False


def test_without_credentials_it_says_where_they_may_be(
    s3_url: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    with pytest.raises(Unreachable, match="no credentials found; expected AWS_ACCESS_KEY_ID"):
        open_storage(s3_url).read("x")
    S3FileSystem.clear_instance_cache()


def test_an_answer_that_will_not_change_is_one_line(storage: S3Storage) -> None:
    with pytest.raises(
        Unreachable, match="upload_part of s3://labels/x: the store refuses with 400 InvalidArgument; look at"
    ):
        storage.calls.call("upload_part", "x", UploadId="none", PartNumber=20_000, Body=b"1")
