"""Fetching over a network that does everything wrong: what arrives is what was asked for, or one line says why not."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from expert_zoo.weights import download
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile
from expert_zoo.weights.fetch import fetch, record_at_hand
from expert_zoo.weights.folder import WeightsFolder
from expert_zoo.weights.lock import BY_HAND, LOCK_NAME, SEEDED, LockedFile
from tests.conftest import ROOT
from tests.weights_server import Server, checkpoint, serving, sha256

MODEL = bytes(range(256)) * 12_000  # three blocks of a download
OLD = {"config.json": b"{}", "model.safetensors": b"old" + MODEL}
NEW = {"config.json": b"{'new': 1}", "model.safetensors": b"new" + MODEL}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with serving() as running:
        running.repositories["lab/grey"] = {"a" * 40: OLD, "b" * 40: NEW}
        running.files["/model.bin"] = MODEL
        for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", "good")
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setattr(download, "_PAUSES", (0.0, 0.0))
        yield running


def direct(server: Server, **more: object) -> Checkpoint:
    file = CheckpointFile.model_validate({"path": "model.bin", "url": f"{server.url}/model.bin"} | more)
    return checkpoint("direct", repo="", files=(file,))


def bring(root: Path, wanted: Checkpoint) -> bool:
    return fetch(WeightsFolder(root), wanted, say=lambda line: None, progress=lambda what, done, total: None)


def refused(root: Path, wanted: Checkpoint) -> str:
    """The one line of a fetch that cannot be."""
    with pytest.raises(ValueError) as caught:
        bring(root, wanted)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parts(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.endswith(".part")]


# ---- the Hub


def test_the_newest_revision_is_fetched_recorded_and_then_left_alone(server: Server, tmp_path: Path) -> None:
    wanted, folder = checkpoint(), WeightsFolder(tmp_path)
    told: list[tuple[str, int, int]] = []
    assert fetch(folder, wanted, say=lambda line: None, progress=lambda *now: told.append(now))
    assert (folder.verified(wanted) / "model.safetensors").read_bytes() == NEW["model.safetensors"]
    entry = folder.entry(wanted)
    assert entry is not None and (entry.source, entry.revision) == ("lab/grey", "b" * 40)
    size = len(NEW["model.safetensors"])
    mine = [(done, total) for what, done, total in told if what == "grey/model.safetensors"]
    assert mine[-1] == (size, size) and len(mine) > 2 and mine == sorted(mine)
    asked = len(server.seen)
    assert not bring(tmp_path, wanted) and len(server.seen) == asked, "whole: no network is touched"
    assert parts(tmp_path) == []


def test_a_pinned_revision_is_fetched_and_a_new_pin_replaces_it(server: Server, tmp_path: Path) -> None:
    for revision, files in (("a" * 40, OLD), ("b" * 40, NEW)):
        wanted = checkpoint(revision=revision)
        assert bring(tmp_path, wanted)
        assert (WeightsFolder(tmp_path).verified(wanted) / "model.safetensors").read_bytes() == files[
            "model.safetensors"
        ]


def test_a_copied_lock_brings_exactly_its_revision(server: Server, tmp_path: Path) -> None:
    wanted = checkpoint()
    del server.repositories["lab/grey"]["b" * 40]
    bring(tmp_path / "one", wanted)
    server.repositories["lab/grey"]["b" * 40] = NEW
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / LOCK_NAME).write_bytes((tmp_path / "one" / LOCK_NAME).read_bytes())
    before = WeightsFolder(tmp_path / "two").weights(wanted)
    assert bring(tmp_path / "two", wanted)
    assert (tmp_path / "two/grey/model.safetensors").read_bytes() == OLD["model.safetensors"]
    assert WeightsFolder(tmp_path / "two").weights(wanted) == before
    assert (tmp_path / "two" / LOCK_NAME).read_bytes() == (tmp_path / "one" / LOCK_NAME).read_bytes()


@pytest.mark.parametrize("changed", ["config.json", "model.safetensors"])
def test_a_revision_that_is_not_what_the_lock_says_is_refused(server: Server, tmp_path: Path, changed: str) -> None:
    """The digest of a small file is not told by the Hub, so it is found wrong only when it is here."""
    bring(tmp_path, checkpoint())
    (tmp_path / "grey" / changed).unlink()
    other = NEW | {changed: NEW[changed][:-1] + b"?"}
    server.repositories["lab/grey"]["b" * 40] = other
    assert f"{sha256(other[changed])}" in refused(tmp_path, checkpoint())
    assert not (tmp_path / "grey" / changed).exists() and parts(tmp_path) == []


def test_the_second_choice_is_taken_where_the_first_is_not_there(server: Server, tmp_path: Path) -> None:
    server.repositories["lab/grey"]["c" * 40] = {"config.json": b"{}", "pytorch_model.bin": MODEL}
    bring(tmp_path, checkpoint())
    assert sorted(path.name for path in (tmp_path / "grey").iterdir()) == ["config.json", "pytorch_model.bin"]
    # What was chosen stays chosen, or a copied lock would not reproduce it.
    server.repositories["lab/grey"]["c" * 40]["model.safetensors"] = MODEL
    (tmp_path / "grey/pytorch_model.bin").unlink()
    assert bring(tmp_path, checkpoint()) and (tmp_path / "grey/pytorch_model.bin").exists()


def test_a_file_may_have_another_name_at_the_hub(server: Server, tmp_path: Path) -> None:
    wanted = checkpoint(files=(CheckpointFile(path="net.safetensors", hub_path="model.safetensors"),))
    bring(tmp_path, wanted)
    assert (tmp_path / "grey/net.safetensors").read_bytes() == NEW["model.safetensors"]


def test_the_token_is_told_to_the_hub_and_to_nobody_else(server: Server, tmp_path: Path) -> None:
    bring(tmp_path, checkpoint())
    bring(tmp_path, direct(server))
    told = {path.split("/")[1]: authorization for path, _, authorization in server.seen}
    assert told == {"api": "Bearer good", "lab": "Bearer good", "cdn": "", "model.bin": ""}


def test_gated_missing_and_misnamed_are_told_apart(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.gated.add("lab/grey")
    monkeypatch.setenv("HF_TOKEN", "bad")
    assert f"accept the licence at {server.url}/lab/grey, log in" in refused(tmp_path, checkpoint())
    assert "(403)" in refused(tmp_path, checkpoint())
    monkeypatch.setenv("HF_TOKEN", "good")
    assert bring(tmp_path, checkpoint())
    assert "no repository lab/none" in refused(tmp_path, checkpoint("none"))
    assert f"no revision {'d' * 40}" in refused(tmp_path, checkpoint(revision="d" * 40))
    odd = checkpoint("odd", repo="lab/grey", files=(CheckpointFile(path="net.pt"),))
    assert f"lab/grey has no file net.pt at revision {'b' * 40}" in refused(tmp_path, odd)


def test_offline_is_one_line_and_what_is_whole_needs_no_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(tmp_path, checkpoint())
    gone = "http://127.0.0.1:9"
    monkeypatch.setenv("HF_ENDPOINT", gone)
    assert not bring(tmp_path, checkpoint())
    assert f"cannot reach {gone} for lab/other" in refused(tmp_path, checkpoint("other"))
    wanted = checkpoint("direct", repo="", files=(CheckpointFile(path="m", url=f"{gone}/m"),))
    assert "cannot reach 127.0.0.1:9" in refused(tmp_path, wanted)


def test_a_new_pin_without_the_first_choice_leaves_nothing_of_the_old_one(server: Server, tmp_path: Path) -> None:
    server.repositories["lab/grey"]["c" * 40] = {"config.json": b"{}", "pytorch_model.bin": MODEL}
    bring(tmp_path, checkpoint(revision="b" * 40))
    (tmp_path / "grey/pytorch_model.bin.12345678.part").write_bytes(b"piece of a third one")
    bring(tmp_path, checkpoint(revision="c" * 40))
    assert sorted(path.name for path in (tmp_path / "grey").iterdir()) == ["config.json", "pytorch_model.bin"]
    assert WeightsFolder(tmp_path).weights(checkpoint(revision="c" * 40))[1].sha256 == sha256(MODEL)


def test_whole_weights_in_a_folder_that_may_not_be_written_are_at_hand(server: Server, tmp_path: Path) -> None:
    bring(tmp_path / "w", checkpoint())
    for busy in (tmp_path / "w").glob(".*"):
        busy.unlink()
    assert not bring(tmp_path / "w", checkpoint())
    assert [path.name for path in (tmp_path / "w").iterdir() if path.name.startswith(".")] == []


# ---- one file


def test_a_dropped_connection_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.trouble["/model.bin"] = ["drop 1500000", 503, "drop 1200000"]
    bring(tmp_path, direct(server, sha256=sha256(MODEL)))
    assert (tmp_path / "direct/model.bin").read_bytes() == MODEL
    starts = [int(asked.removeprefix("bytes=").rstrip("-") or 0) for asked in server.ranges("/model.bin")]
    assert starts[0] == 0 and 0 < starts[1] == starts[2] < starts[3] < len(MODEL)


def test_a_connection_that_never_holds_is_given_up_and_gone_on_with_later(server: Server, tmp_path: Path) -> None:
    server.trouble["/model.bin"] = ["drop 1100000", 500, 503, 429]
    assert "answers 429; what arrived is kept" in refused(tmp_path, direct(server))
    (part,) = parts(tmp_path)
    assert part.stat().st_size > 1_000_000
    assert bring(tmp_path, direct(server)) and (tmp_path / "direct/model.bin").read_bytes() == MODEL
    assert server.ranges("/model.bin")[-1].startswith("bytes=1")


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.trouble["/model.bin"] = ["drop 1500000", "whole"]
    bring(tmp_path, direct(server))
    assert (tmp_path / "direct/model.bin").read_bytes() == MODEL


def test_the_wrong_bytes_are_removed_and_never_recorded(server: Server, tmp_path: Path) -> None:
    wanted = direct(server, sha256="ab" * 32)
    assert f"SHA-256 {sha256(MODEL)}, expected {'ab' * 32}" in refused(tmp_path, wanted)
    assert list((tmp_path / "direct").iterdir()) == [] and WeightsFolder(tmp_path).entry(wanted) is None
    assert len(server.ranges("/model.bin")) == 1
    assert "has 3072000 bytes, expected 7" in refused(tmp_path, direct(server, bytes=7))


def test_a_foreign_piece_left_by_an_earlier_run_is_found_out_and_fetched_anew(server: Server, tmp_path: Path) -> None:
    wanted = direct(server, sha256=sha256(MODEL))
    server.trouble["/model.bin"] = ["drop 1100000", 500, 500, 500]
    refused(tmp_path, wanted)
    (part,) = parts(tmp_path)
    part.write_bytes(b"x" * 1_500_000)
    assert bring(tmp_path, wanted) and (tmp_path / "direct/model.bin").read_bytes() == MODEL


def test_a_piece_that_is_longer_than_the_file_is_no_piece_of_it(server: Server, tmp_path: Path) -> None:
    server.trouble["/model.bin"] = ["drop 1100000", 500, 500, 500]
    refused(tmp_path, direct(server))
    (part,) = parts(tmp_path)
    part.write_bytes(MODEL + b"more")
    assert bring(tmp_path, direct(server)) and (tmp_path / "direct/model.bin").read_bytes() == MODEL


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (404, "not there any more (404)"),
        (403, "refuses http://127.0.0.1"),
        ("page", "answers with a web page, not with a file"),
        (418, "answers 418"),
    ],
)
def test_what_trying_again_cannot_help_is_said_at_once(
    server: Server, tmp_path: Path, trouble: int | str, said: str
) -> None:
    server.trouble["/model.bin"] = [trouble]
    assert said in refused(tmp_path, direct(server)) and len(server.seen) == 1


def test_a_member_of_an_archive_is_taken_out_of_it(server: Server, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("craft.pth", MODEL)
    server.files["/craft.zip"] = packed.getvalue()
    more = {"path": "craft.pth", "url": f"{server.url}/craft.zip", "member": "craft.pth", "sha256": sha256(MODEL)}
    wanted = direct(server, **more)
    bring(tmp_path, wanted)
    assert [path.name for path in (tmp_path / "direct").iterdir()] == ["craft.pth"]
    assert WeightsFolder(tmp_path).verified(wanted) and (tmp_path / "direct/craft.pth").read_bytes() == MODEL
    assert "has no whole member nothing" in refused(tmp_path / "two", direct(server, **more | {"member": "nothing"}))


def test_no_room_is_said_before_and_while_bytes_come(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        usage = namedtuple("usage", "total used free")
        patch.setattr(download.shutil, "disk_usage", lambda _: usage(1, 1, 1_000_000))
        assert "3 MB are to come" in refused(tmp_path, direct(server))
    with monkeypatch.context() as patch:

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(download, "_copy", full)
        assert "no room left at" in refused(tmp_path, direct(server))
    assert bring(tmp_path, direct(server))


# ---- folders


def test_what_is_damaged_is_fetched_again_and_nothing_else(server: Server, tmp_path: Path) -> None:
    bring(tmp_path, checkpoint())
    path = tmp_path / "grey/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (tmp_path / "grey/config.json").touch()
    server.seen.clear()
    said: list[str] = []
    assert fetch(WeightsFolder(tmp_path), checkpoint(), say=said.append, progress=lambda *_: None)
    assert path.read_bytes() == NEW["model.safetensors"] and "grey/model.safetensors: damaged" in said[0]
    assert not any(path.endswith("config.json") for path, _, _ in server.seen)


def test_real_weights_take_the_place_of_seeded_ones(server: Server, tmp_path: Path) -> None:
    folder, wanted = WeightsFolder(tmp_path), checkpoint()
    (tmp_path / "grey").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "grey" / name).write_bytes(b"random")
    folder.record(wanted, source=SEEDED)
    assert bring(tmp_path, wanted)
    assert (folder.verified(wanted) / "model.safetensors").read_bytes() == NEW["model.safetensors"]
    entry = folder.entry(wanted)
    assert entry is not None and entry.source == "lab/grey"


def test_what_no_program_can_fetch_is_put_there_by_hand(tmp_path: Path) -> None:
    wanted = checkpoint("hand", repo="", files=(CheckpointFile(path="net.pt"),))
    folder = WeightsFolder(tmp_path)
    assert f"get it at https://example.org/hand, put it at {tmp_path}/hand/net.pt" in refused(tmp_path, wanted)
    with pytest.raises(ValueError, match="no file .*net.pt"):
        record_at_hand(folder, wanted)
    (tmp_path / "hand").mkdir()
    (tmp_path / "hand/net.pt").write_bytes(b"net")
    record_at_hand(folder, wanted)
    entry = folder.entry(wanted)
    assert entry is not None and entry.source == BY_HAND
    assert entry.files == {"net.pt": LockedFile(bytes=3, sha256=sha256(b"net"))}
    assert folder.verified(wanted) and not bring(tmp_path, wanted)
    (tmp_path / "hand/net.pt").write_bytes(b"not")
    with pytest.raises(ValueError, match="is damaged"):
        record_at_hand(folder, wanted)


def test_several_fetches_at_once_lose_nothing_and_fetch_nothing_twice(server: Server, tmp_path: Path) -> None:
    names = ["grey", "blue", "red"]
    for name in names:
        server.repositories[f"lab/{name}"] = {"a" * 40: OLD}
    wanted = [checkpoint(name) for name in names for _ in range(2)]
    with ThreadPoolExecutor(6) as pool:
        brought = list(pool.map(lambda one: bring(tmp_path, one), wanted))
    assert sorted(brought) == [False] * 3 + [True] * 3
    folder = WeightsFolder(tmp_path)
    assert all(folder.verified(one) for one in wanted)
    assert len([path for path, _, _ in server.seen if path.endswith("model.safetensors")]) == 3


def test_killed_in_the_middle_the_next_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.trouble["/model.bin"] = ["stall 2500000"]
    code = (
        "import sys; from pathlib import Path; from tests.weights_server import checkpoint\n"
        "from expert_zoo.weights.checkpoint import CheckpointFile; from expert_zoo.weights.fetch import fetch\n"
        "from expert_zoo.weights.folder import WeightsFolder\n"
        "wanted = checkpoint('direct', repo='', files=(CheckpointFile(path='model.bin', url=sys.argv[2]),))\n"
        "fetch(WeightsFolder(sys.argv[1]), wanted, say=print, progress=lambda *now: None)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), f"{server.url}/model.bin"], cwd=ROOT)
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end and not any(part.stat().st_size >= 2 << 20 for part in parts(tmp_path)):
            time.sleep(0.02)
        (part,) = parts(tmp_path)
        assert part.stat().st_size == 2 << 20 and process.poll() is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "direct/model.bin").exists() and not (tmp_path / LOCK_NAME).exists()
    wanted = direct(server)
    assert bring(tmp_path, wanted) and WeightsFolder(tmp_path).verified(wanted)
    assert (tmp_path / "direct/model.bin").read_bytes() == MODEL
    assert server.ranges("/model.bin") == ["", f"bytes={2 << 20}-"] and parts(tmp_path) == []
