"""Local and remote storage keep one contract: whole or absent, first writer wins, nothing outside the root."""

from __future__ import annotations

import errno
import hashlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.storage import LocalStorage, Storage, open_storage
from tests.conftest import run_python
from tests.faults import IO_ERROR, NO_LINKS, NO_SPACE, Faults


@pytest.fixture
def storage(url: str) -> Storage:
    return open_storage(url)


@pytest.fixture
def busy() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def make(storage: Storage, name: str, *pieces: bytes) -> None:
    with storage.create(name) as file:
        for piece in pieces:
            file.write(piece)


def at_once(count: int, work: Callable[[int], None]) -> None:
    """``work(index)`` in so many threads, started together; the first exception of any comes through."""
    barrier = threading.Barrier(count)
    raised: list[BaseException] = []

    def run(index: int) -> None:
        try:
            barrier.wait(10)
            work(index)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def test_all_ways_to_name_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my store #1 \u00e9"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    ways = [
        str(folder),
        folder.name,
        f"~/{folder.name}",
        folder.as_uri(),
        f"local://{folder}",
        f"{tmp_path}/x/../{folder.name}",
    ]
    for number, way in enumerate(ways):
        storage = open_storage(way)
        assert isinstance(storage, LocalStorage) and storage.root == folder == Path(storage.url), way
        assert storage.publish(f"n{number}", b"x")
    assert len(list(folder.iterdir())) == len(ways)


# ---- one contract


def test_a_data_file_tells_its_bytes_and_digest(storage: Storage) -> None:
    with storage.create("folder/data.bin") as file:
        file.write(b"one ")
        file.write(memoryview(b"two"))
    assert storage.read("folder/data.bin") == b"one two"
    assert (file.bytes, file.sha256) == (7, hashlib.sha256(b"one two").hexdigest())


def test_a_data_file_never_overwrites_another(storage: Storage) -> None:
    make(storage, "a", b"first")
    with pytest.raises(FileExistsError):
        storage.create("a")
    assert storage.read("a") == b"first"


def test_an_error_while_writing_leaves_no_data_file(storage: Storage) -> None:
    with pytest.raises(RuntimeError, match="in the middle"), storage.create("a") as file:
        file.write(b"half")
        raise RuntimeError("in the middle")
    assert not storage.exists("a") and storage.names("") == []


def test_publish_is_won_by_the_first(storage: Storage) -> None:
    assert storage.publish("folder/x.json", b"first")
    assert not storage.publish("folder/x.json", b"second")
    assert storage.read("folder/x.json") == b"first"
    assert storage.names("folder") == ["x.json"]


@pytest.mark.parametrize("durable", [True, False])
def test_replace_makes_and_overwrites(storage: Storage, durable: bool) -> None:
    storage.replace("folder/x", b"old", durable=durable)
    storage.replace("folder/x", b"new", durable=durable)
    assert storage.read("folder/x") == b"new"
    assert storage.names("folder") == ["x"]


def test_settle_moves_once(storage: Storage) -> None:
    make(storage, "tmp-1", b"first")
    make(storage, "tmp-2", b"second")
    assert storage.settle("tmp-1", "lasting")
    assert not storage.settle("tmp-2", "lasting")
    assert storage.read("lasting") == b"first"
    assert storage.names("") == ["lasting"]


def test_listing(storage: Storage) -> None:
    for name in ("folder/a", "folder/b", "folder/deeper/c", "other"):
        storage.publish(name, name.encode())
    assert sorted(storage.names("folder")) == ["a", "b", "deeper"]
    assert sorted(storage.names("")) == ["folder", "other"]
    entries = sorted(storage.entries("folder"), key=lambda entry: entry.name)
    assert [(entry.name, entry.bytes) for entry in entries] == [("a", 8), ("b", 8)]
    assert all(-1 < entry.age < 60 for entry in entries)


def test_absent_things(storage: Storage) -> None:
    assert storage.names("nowhere") == [] and list(storage.entries("nowhere")) == []
    assert not storage.exists("nowhere/x")
    storage.delete("nowhere/x")
    for look in (storage.read, storage.open):
        with pytest.raises(FileNotFoundError):
            look("nowhere/x")


def test_delete_and_prune(storage: Storage) -> None:
    storage.publish("folder/a", b"1")
    storage.prune("folder")
    assert storage.exists("folder/a")
    storage.delete("folder/a")
    storage.prune("folder")
    assert not storage.exists("folder/a") and storage.names("folder") == []


def test_empty_data(storage: Storage) -> None:
    assert storage.publish("a", b"") and not storage.publish("a", b"x")
    make(storage, "b")
    storage.replace("c", b"")
    assert [storage.read(name) for name in "abc"] == [b"", b"", b""]


def test_streams_are_seekable_and_independent(storage: Storage) -> None:
    storage.publish("a", b"0123456789")
    with storage.open("a") as one, storage.open("a") as other:
        one.seek(5)
        assert other.read(2) == b"01"
        assert one.read(2) == b"56"


def test_a_deleted_file_can_be_made_again(storage: Storage) -> None:
    storage.publish("a", b"1")
    storage.delete("a")
    assert storage.publish("a", b"2") and storage.read("a") == b"2"


OUTSIDE = [
    "../x", "/x", "a/../b", "a//b", ".hidden", "a/.hidden", "a\0b", "..", "a/", "a/..", "./a", "a\\..\\b", "a\n",
    "~/x", "C:/x", "a b", "a\u2215b", "a\u2044b", "\uff0e\uff0e/x", "a\uff0fb", "memory://other/x", "a?b", "a#b", "a%2e%2e",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_could_leave_the_root_are_refused(storage: Storage, name: str) -> None:
    for use in (
        storage.create, storage.open, storage.read, storage.exists, storage.delete,
        lambda name: storage.publish(name, b"x"), lambda name: storage.replace(name, b"x"),
        lambda name: storage.settle(name, "a"), lambda name: storage.settle("a", name),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="no name inside a store"):
            use(name)


@pytest.mark.parametrize("folder", ["..", "../x", "/", "a/..", ".hidden", "a/."])
def test_folders_outside_the_root_are_refused(storage: Storage, folder: str) -> None:
    for use in (storage.names, lambda name: list(storage.entries(name)), storage.prune):
        if use == storage.prune and not isinstance(storage, LocalStorage):
            continue  # nothing to prune: it has no folders
        with pytest.raises(ValueError, match="no name inside a store"):
            use(folder)


# ---- many at once


def test_of_eight_threads_one_publishes(storage: Storage, busy: None) -> None:
    for round_ in range(20):
        won: list[int] = []

        def publish(index: int, won: list[int] = won, name: str = f"r{round_}") -> None:
            if storage.publish(name, b"%d" % index * 1000):
                won.append(index)

        at_once(8, publish)
        assert len(won) == 1
        assert storage.read(f"r{round_}") == b"%d" % won[0] * 1000
    assert sorted(storage.names("")) == sorted(f"r{round_}" for round_ in range(20))


def test_of_eight_threads_one_settles(storage: Storage, busy: None) -> None:
    won: list[int] = []

    def settle(index: int) -> None:
        make(storage, f"tmp-{index}", b"%d" % index)
        if storage.settle(f"tmp-{index}", "lasting"):
            won.append(index)

    at_once(8, settle)
    assert len(won) == 1 and storage.read("lasting") == b"%d" % won[0] and storage.names("") == ["lasting"]


def test_of_four_processes_one_publishes(tmp_path: Path) -> None:
    code = """
import os, sys, time
from pipeline.storage import open_storage
storage, start, children = open_storage(sys.argv[1]), time.monotonic() + 0.2, []
for who in range(4):
    if not os.fork():
        try:
            while time.monotonic() < start: pass
            won = [n for n in range(100) if storage.publish(f"n{n}", b"%d" % who * 500)]
            storage.publish(f"won-{who}", repr(won).encode())
        finally:
            os._exit(0)
for _ in range(4): os.wait()
"""
    run_python(code, str(tmp_path / "store"))
    storage = open_storage(str(tmp_path / "store"))
    winners = {who: eval(storage.read(f"won-{who}")) for who in range(4)}
    assert sorted(n for won in winners.values() for n in won) == list(range(100))
    assert all(storage.read(f"n{n}") == b"%d" % who * 500 for who, won in winners.items() for n in won)
    assert len(storage.names("")) == 104


@pytest.mark.parametrize("durable", [True, False])
def test_a_reader_never_sees_a_mixture(storage: Storage, busy: None, durable: bool) -> None:
    sizes = (10, 300_000)
    storage.replace("x", b"0" * sizes[0])
    until = time.monotonic() + 0.3

    def work(index: int) -> None:
        turn = 0
        while time.monotonic() < until:
            if index < 2:
                storage.replace("x", b"%d" % index * sizes[(turn := turn + 1) % 2], durable=durable)
            else:
                data = storage.read("x")
                assert len(data) in sizes and len(set(data)) == 1

    at_once(4, work)
    assert storage.names("") == ["x"]


def test_readers_in_threads_do_not_disturb_each_other(storage: Storage, busy: None) -> None:
    storage.publish("x", bytes(range(256)) * 100)

    def read(_: int) -> None:
        for _ in range(50):
            assert storage.read("x") == bytes(range(256)) * 100
            with storage.open("x") as stream:
                stream.seek(300)
                assert stream.read(3) == bytes((44, 45, 46))

    at_once(4, read)


# ---- a disk that gives trouble


def test_publishing_without_hard_links(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    with Faults(NO_LINKS, at=0, only="link").installed() as faults:
        assert storage.publish("x", b"first")
    assert faults.calls == ["link"]
    with Faults(NO_LINKS, at=0, only="link").installed():
        assert not storage.publish("x", b"second")
    assert storage.read("x") == b"first" and storage.names("") == ["x"]


@pytest.mark.parametrize("act", [NO_SPACE, IO_ERROR], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("how", ["publish", "replace", "create"])
def test_a_failing_disk_leaves_nothing_half_made(tmp_path: Path, how: str, act: Callable[[], None]) -> None:
    def write(storage: Storage) -> None:
        match how:
            case "publish":
                assert storage.publish("f/x", b"new" * 5000)
            case "replace":
                storage.replace("f/x", b"new" * 5000)
            case "create":
                make(storage, "f/x", b"new" * 5000)

    with Faults().installed() as counted:
        write(open_storage(str(tmp_path / "counting")))
    assert {"open", "write", "fsync"} <= set(counted.calls)
    for at, call in enumerate(counted.calls):
        storage = open_storage(str(tmp_path / str(at)))
        if call == "unlink":
            continue  # what cannot be removed stays; the sweep of an audit finds it by its name
        with Faults(act, at=at).installed(), pytest.raises(OSError, match="space|Input/output"):
            write(storage)
        # Only the last fsync comes after the file is there, and whole.
        done = "link" in counted.calls[:at] or "replace" in counted.calls[:at]
        assert storage.names("f") == (["x"] if done else []), f"call {at}: {call}"
        assert not done or storage.read("f/x") == b"new" * 5000


def test_a_failing_replace_keeps_what_was_there(tmp_path: Path) -> None:
    with Faults().installed() as counted:
        open_storage(str(tmp_path / "counting")).replace("x", b"new")
    for at, call in enumerate(counted.calls):
        storage = open_storage(str(tmp_path / str(at)))
        storage.replace("x", b"old")
        try:
            with Faults(NO_SPACE, at=at).installed():
                storage.replace("x", b"new")
        except OSError as error:
            assert error.errno == errno.ENOSPC
        assert storage.read("x") in (b"old", b"new"), call
        assert len(storage.names("")) == 1 or call == "unlink"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for at in range(12):
        try:
            with Faults(NO_SPACE, at=at).installed():
                storage.publish(f"a{at}", b"x" * 20_000)
                make(storage, f"b{at}", b"x" * 20_000)
                storage.replace(f"c{at}", b"x")
        except OSError:
            continue
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_that_was_swept_while_it_was_written_is_no_success(tmp_path: Path) -> None:
    """Else a receipt would promise a file that has no name any more."""
    storage = open_storage(str(tmp_path))
    file = storage.create("x.tar")
    file.write(b"little, still in the buffer")
    storage.delete("x.tar")
    with pytest.raises(FileNotFoundError, match="x.tar was removed while it was being written.*label again"):
        file.close()
    assert storage.names("") == []


@pytest.mark.parametrize("how", ["publish", "create", "replace"])
def test_new_folders_survive_a_power_cut(tmp_path: Path, how: str) -> None:
    """The name of every folder that was made stands in its parent, which is synced, once."""
    storage = open_storage(str(tmp_path / "store"))
    write = {"publish": storage.publish, "create": lambda name, data: make(storage, name, data)}.get(
        how, storage.replace
    )
    synced = []
    for name in ("labels/a/x", "labels/a/y"):
        with Faults().installed() as faults:
            write(name, b"1")
        synced.append([path for call, path in zip(faults.calls, faults.paths, strict=True) if call == "fsync"])
    parents = [str(tmp_path), str(tmp_path / "store"), str(tmp_path / "store" / "labels")]
    assert [synced[0].count(parent) for parent in parents] == [1, 1, 1]
    assert not set(synced[1]) & set(parents), "what was there already costs nothing"
