"""FileCache: whole files only, never more than it may hold, shared by processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.storage import RemoteStorage
from pipeline.storage.cache import FileCache
from pipeline.storage.contract import TEMPORARY

FORK = multiprocessing.get_context("fork")


class Slow(RemoteStorage):
    """Files of a local folder as if they were far away: they come in pieces, and every download is noted in a log."""

    def __init__(self, folder: Path, *, pause: float = 0.0) -> None:
        super().__init__(folder.as_uri())
        self._from = folder
        self._pause = pause

    def download(self, name: str, to: Path) -> None:
        with (self._from / "log").open("a") as log:
            log.write(f"{name}\n")
        data = self.read(name)
        with to.open("r+b") as stream:
            for start in range(0, len(data), 100):
                stream.write(data[start : start + 100])
                stream.flush()
                time.sleep(self._pause)

    def log(self) -> list[str]:
        path = self._from / "log"
        return path.read_text().split() if path.exists() else []


def content(name: str) -> bytes:
    return (name.encode() * 1000)[:1000]


@pytest.fixture
def far(tmp_path: Path) -> Slow:
    (tmp_path / "far").mkdir()
    for name in "abcdefgh":
        (tmp_path / "far" / name).write_bytes(content(name))
    return Slow(tmp_path / "far")


def kept(cache: FileCache) -> set[str]:
    return {path.name for path in cache.folder.rglob("*") if path.is_file() and path.parent.name != "locks"}


def read(cache: FileCache, far: Slow, name: str) -> bytes:
    with cache.open(far, name) as stream:
        return stream.read()


def test_what_was_opened_longest_ago_goes(tmp_path: Path, far: Slow) -> None:
    cache = FileCache(tmp_path / "cache", limit_bytes=3500)
    for name in "abcabac":
        assert read(cache, far, name) == content(name)
    assert far.log() == ["a", "b", "c"] and cache.size() == 3000
    assert read(cache, far, "d") == content("d")
    assert kept(cache) == {"a", "c", "d"} and cache.size() <= cache.limit_bytes
    assert read(cache, far, "b") == content("b")
    assert kept(cache) == {"c", "d", "b"}


def test_who_has_a_file_open_keeps_it(tmp_path: Path, far: Slow) -> None:
    cache = FileCache(tmp_path / "cache", limit_bytes=1000)
    with cache.open(far, "a") as stream:
        cache.fetch(far, "b")
        assert kept(cache) == {"b"} and stream.read() == content("a")


def test_two_storages_do_not_mix(tmp_path: Path, far: Slow) -> None:
    (tmp_path / "farther").mkdir()
    (tmp_path / "farther" / "a").write_bytes(b"another")
    cache = FileCache(tmp_path / "cache", limit_bytes=10_000)
    assert read(cache, far, "a") == content("a")
    assert read(cache, Slow(tmp_path / "farther"), "a") == b"another"


def test_a_file_larger_than_the_cache_is_told(tmp_path: Path, far: Slow) -> None:
    with pytest.raises(
        StoreError, match="a file of 1000 bytes .* does not fit into the cache .* of 999 bytes; expected"
    ):
        FileCache(tmp_path / "cache", limit_bytes=999).open(far, "a")
    with pytest.raises(ValueError, match="expected a positive number"):
        FileCache(tmp_path / "cache", limit_bytes=0)


def test_a_file_that_is_not_there_leaves_nothing(tmp_path: Path, far: Slow) -> None:
    cache = FileCache(tmp_path / "cache", limit_bytes=9999)
    with pytest.raises(FileNotFoundError):
        cache.open(far, "z")
    assert kept(cache) == set()


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path, far: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FileCache(tmp_path / "cache", limit_bytes=9999)

    def breaks(storage: Slow, name: str, to: Path) -> None:
        to.write_bytes(b"half")
        raise TimeoutError("the network is gone")

    def cuts(storage: Slow, name: str, to: Path) -> None:
        to.write_bytes(b"half")

    for download, error in ((breaks, TimeoutError), (cuts, StoreError)):
        with monkeypatch.context() as patch:
            patch.setattr(Slow, "download", download)
            with pytest.raises(error):
                cache.open(far, "a")
        assert kept(cache) == set()
    assert read(cache, far, "a") == content("a")


def in_processes(count: int, work: Callable[[int], None]) -> None:
    children = [FORK.Process(target=work, args=(number,)) for number in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * count


def test_processes_share_a_download(tmp_path: Path, far: Slow) -> None:
    far._pause = 0.02
    cache = FileCache(tmp_path / "cache", limit_bytes=10_000)

    def work(number: int) -> None:
        for name in "abc":
            assert read(cache, far, name) == content(name)

    in_processes(4, work)
    assert sorted(far.log()) == ["a", "b", "c"], "the others waited for the one that was first"


def test_processes_that_fight_for_room_read_whole_files(tmp_path: Path, far: Slow) -> None:
    far._pause = 0.0005
    cache = FileCache(tmp_path / "cache", limit_bytes=4000)

    def work(number: int) -> None:
        for turn in range(25):
            name = "abcdefgh"[(number * 3 + turn * (number + 1)) % 8]
            assert read(cache, far, name) == content(name)
            assert cache.size() <= cache.limit_bytes

    in_processes(3, work)
    assert not any(name.startswith(TEMPORARY) for name in kept(cache))


def test_a_download_whose_process_was_killed_is_swept(tmp_path: Path, far: Slow) -> None:
    cache = FileCache(tmp_path / "cache", limit_bytes=3000)
    slow = Slow(tmp_path / "far", pause=1.0)
    child = FORK.Process(target=cache.fetch, args=(slow, "a"))
    child.start()
    deadline = time.monotonic() + 20
    while not slow.log() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    (left,) = kept(cache)
    assert left.startswith(TEMPORARY) and cache.size() == 1000, "it may still be at work, for all that others know"
    assert read(cache, far, "a") == content("a"), "its lock went with it"
    (path,) = cache.folder.rglob(left)
    os.utime(path, (time.time() - 7200,) * 2)
    for name in "bc":
        cache.fetch(far, name)
    assert kept(cache) == {"a", "b", "c"}
