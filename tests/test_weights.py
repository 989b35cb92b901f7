"""The weights folder and its lock: what is said to lie there lies there, byte for byte, and nothing is ever asked of a network."""

from __future__ import annotations

import json
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile
from expert_zoo.weights.folder import WeightsFolder
from expert_zoo.weights.lock import BY_HAND, LOCK_NAME, SEEDED, read_lock
from tests.conftest import run_python
from tests.stand_ins import GREY, card
from tests.weights_server import checkpoint, sha256

MODEL = b"weights" * 40


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something asked for a network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def put(folder: WeightsFolder, wanted: Checkpoint, **files: bytes) -> None:
    for name, data in {"config.json": b"{}", "model.safetensors": MODEL, **files}.items():
        path = folder.path(wanted) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def recorded(root: Path, wanted: Checkpoint | None = None) -> tuple[WeightsFolder, Checkpoint]:
    folder, wanted = WeightsFolder(root), wanted or checkpoint()
    put(folder, wanted)
    folder.record(wanted, source="lab/grey", revision="f00")
    return folder, wanted


def test_the_folder_is_the_one_named_then_the_environment_s_then_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPERT_LABELS_WEIGHTS", str(tmp_path / "env"))
    assert WeightsFolder(tmp_path / "named").root == tmp_path / "named"
    assert WeightsFolder().root == tmp_path / "env" and not (tmp_path / "env").exists()
    monkeypatch.delenv("EXPERT_LABELS_WEIGHTS")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert WeightsFolder().root == tmp_path / ".cache/expert-labels/weights"
    assert WeightsFolder("~/w").root == tmp_path / "w"
    monkeypatch.chdir(tmp_path)
    assert WeightsFolder("w").root == tmp_path / "w", "a worker may start elsewhere"


@pytest.mark.parametrize("root", [3, True, ["w"], ""])
def test_a_folder_that_is_no_path_is_refused(root: Any) -> None:
    with pytest.raises(ValueError, match="weights_folder is .*; expected a path"):
        WeightsFolder(root)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a\\b"])
def test_a_file_stays_inside_its_folder(path: str) -> None:
    with pytest.raises(ValidationError, match="inside the checkpoint's folder"):
        CheckpointFile(path=path)


def test_checkpoints_are_strict() -> None:
    for wrong in ({"name": "../x"}, {"name": ""}, {"files": ()}, {"licens": "MIT"}):
        with pytest.raises(ValidationError):
            Checkpoint.model_validate(checkpoint().model_dump() | wrong)
    with pytest.raises(ValidationError, match="64"):
        CheckpointFile(path="x", sha256="ABC")
    with pytest.raises(ValidationError, match="expected http or https"):
        CheckpointFile(path="x", url="file:///etc/passwd")


def test_a_recorded_checkpoint_is_at_hand_whole_and_gives_a_card_its_version(tmp_path: Path, no_sockets: None) -> None:
    folder, wanted = WeightsFolder(tmp_path), checkpoint()
    unknown = card("grey", GREY, weights=folder.weights(wanted))
    assert [weights.sha256 for weights in unknown.weights] == ["", ""] and not folder.at_hand(wanted)
    with pytest.raises(ValueError, match="`expert-labels weights fetch --experts grey`") as caught:
        _ = unknown.version
    assert "\n" not in str(caught.value) and "config.json, model.safetensors" in str(caught.value)
    recorded(tmp_path)
    assert folder.at_hand(wanted) and folder.verified(wanted) == tmp_path / "grey"
    known = card("grey", GREY, weights=folder.weights(wanted))
    assert [(w.file, w.sha256, w.bytes) for w in known.weights][1] == ("model.safetensors", sha256(MODEL), len(MODEL))
    assert known.weights[1].where == "lab/grey@f00" and len(known.version) == 10


def test_other_weights_are_another_version_and_other_places_are_not(tmp_path: Path) -> None:
    (one, wanted), (two, _) = recorded(tmp_path / "one"), recorded(tmp_path / "two")
    two.record(wanted, source="elsewhere")
    same = [card("grey", GREY, weights=folder.weights(wanted)).version for folder in (one, two)]
    put(two, wanted, **{"model.safetensors": MODEL + b"!"})
    two.record(wanted, source="lab/grey", revision="f00")
    other = card("grey", GREY, weights=two.weights(wanted)).version
    assert same[0] == same[1] != other


def test_what_is_missing_is_said_with_the_command_to_run(tmp_path: Path) -> None:
    folder, wanted = recorded(tmp_path)
    (tmp_path / "grey/model.safetensors").unlink()
    assert not folder.at_hand(wanted)
    with pytest.raises(
        ValueError, match=r"no file .*model\.safetensors; run `expert-labels weights fetch --experts depth`"
    ):
        folder.verified(wanted, expert="depth")
    with pytest.raises(ValueError, match="--job JOB.yaml"):
        WeightsFolder(tmp_path / "none").verified(wanted)


def test_a_flipped_bit_is_found_and_both_digests_are_named(tmp_path: Path) -> None:
    folder, wanted = recorded(tmp_path)
    path = tmp_path / "grey/model.safetensors"
    flipped = bytearray(MODEL)
    flipped[len(MODEL) // 2] ^= 1
    path.write_bytes(flipped)
    assert folder.at_hand(wanted), "same size: only reading it can tell"
    with pytest.raises(ValueError, match=f"{sha256(bytes(flipped))}, expected {sha256(MODEL)}") as caught:
        folder.verified(wanted)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    path.write_bytes(MODEL[:-1])
    assert not folder.at_hand(wanted)
    with pytest.raises(ValueError, match="is damaged"):
        folder.verified(wanted)


def test_files_that_nobody_recorded_are_not_trusted(tmp_path: Path) -> None:
    folder, wanted = WeightsFolder(tmp_path), checkpoint()
    put(folder, wanted)
    assert not folder.at_hand(wanted)
    with pytest.raises(
        ValueError, match=r"files lie in .*/grey, but there is no .*/weights\.lock, so they may be.*--at-hand"
    ):
        folder.verified(wanted)


def test_the_second_choice_of_a_file_is_taken_under_its_own_name(tmp_path: Path) -> None:
    folder, wanted = WeightsFolder(tmp_path), checkpoint()
    put(folder, wanted, **{"pytorch_model.bin": b"pickled"})
    (tmp_path / "grey/model.safetensors").unlink()
    folder.record(wanted, source="lab/grey")
    assert folder.verified(wanted) and folder.at_hand(wanted)
    assert [w.file for w in folder.weights(wanted)] == ["config.json", "pytorch_model.bin"]
    assert folder.weights(wanted)[1].sha256 == sha256(b"pickled")


def published(sha: str) -> Checkpoint:
    return checkpoint(files=(CheckpointFile(path="config.json"), CheckpointFile(path="model.safetensors", sha256=sha)))


def test_a_published_digest_wins_over_the_lock_and_a_difference_is_an_error(tmp_path: Path) -> None:
    folder, _ = recorded(tmp_path)
    assert folder.verified(published(sha256(MODEL)))
    other = published("ab" * 32)
    assert folder.weights(other)[1].sha256 == "ab" * 32
    with pytest.raises(ValueError, match=f"weights.lock states SHA-256 {sha256(MODEL)} .*publish {'ab' * 32}"):
        folder.verified(other)
    with pytest.raises(ValueError, match="its authors publish"):
        folder.record(other, source="lab/grey")
    assert folder.verified(published(sha256(MODEL))), "the refused record left the lock as it was"


def test_seeded_weights_are_nobody_s_published_ones_and_still_whole(tmp_path: Path) -> None:
    folder, wanted = WeightsFolder(tmp_path), published("ab" * 32)
    put(folder, wanted)
    folder.record(wanted, source=SEEDED)
    assert folder.verified(wanted) and folder.at_hand(wanted)
    assert folder.weights(wanted)[1].sha256 == sha256(MODEL) and folder.weights(wanted)[1].where == SEEDED


def test_another_revision_than_the_pinned_one_does_not_count(tmp_path: Path) -> None:
    folder, wanted = recorded(tmp_path)
    pinned = wanted.model_copy(update={"revision": "beef"})
    assert not folder.at_hand(pinned) and folder.weights(pinned)[0].sha256 == ""
    with pytest.raises(ValueError, match="states digests of .*/grey at revision f00, expected beef"):
        folder.verified(pinned)
    folder.record(wanted, source=BY_HAND)
    assert folder.verified(pinned), "what a person put there has no revision"


def test_the_lock_is_sorted_json_that_survives_neighbours(tmp_path: Path) -> None:
    wanted = [checkpoint(name) for name in ("zebra", "apple", "mango", "fig", "kiwi", "lime", "plum", "pear")]
    for one in wanted:
        put(WeightsFolder(tmp_path), one)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: WeightsFolder(tmp_path).record(one, source=one.repo), wanted))
    found = json.loads((tmp_path / LOCK_NAME).read_text())
    assert list(found) == sorted(one.name for one in wanted)
    assert list(found["fig"]["files"]) == ["config.json", "model.safetensors"] and found["fig"]["licence"] == "MIT"
    assert not [
        path for path in tmp_path.iterdir() if path.name.startswith(f".{LOCK_NAME}") and "busy" not in path.name
    ]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"grey": 3}', b"\xff\xfe"])
def test_a_lock_that_is_none_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_NAME).write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*weights\.lock") as caught:
        WeightsFolder(tmp_path).weights(checkpoint())
    assert "\n" not in str(caught.value)


def test_a_newer_lock_may_say_more(tmp_path: Path) -> None:
    folder, wanted = recorded(tmp_path)
    lock = json.loads((tmp_path / LOCK_NAME).read_text())
    lock["grey"]["fetched_at"] = "yesterday"
    (tmp_path / LOCK_NAME).write_text(json.dumps(lock))
    assert folder.verified(wanted) and read_lock(tmp_path)["grey"].revision == "f00"


def test_a_copied_folder_works_without_any_network_and_without_write_access(tmp_path: Path, no_sockets: None) -> None:
    _, wanted = recorded(tmp_path / "there")
    shutil.copytree(tmp_path / "there", tmp_path / "here")
    shutil.rmtree(tmp_path / "there")
    (tmp_path / "here").chmod(0o555)
    try:
        folder = WeightsFolder(tmp_path / "here")
        before = sorted(path.name for path in folder.root.rglob("*"))
        assert folder.verified(wanted) and folder.weights(wanted)[0].sha256
        assert sorted(path.name for path in folder.root.rglob("*")) == before
    finally:
        (tmp_path / "here").chmod(0o755)


def test_asking_about_weights_loads_no_library_that_could_fetch_them() -> None:
    code = (
        "import sys, expert_zoo.weights.folder as f, expert_zoo.weights.needed, expert_zoo.weights.fetch; f.WeightsFolder('/nowhere'); "
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = set(run_python(code).split())
    assert "expert_zoo" in loaded and not loaded & {"huggingface_hub", "torch", "transformers", "requests", "filelock"}
