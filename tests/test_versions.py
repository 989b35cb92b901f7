"""No version changes without somebody meaning it: those of all cards stand in tests/data/expert_versions.json.

A changed version makes users relabel everything with that expert. Where that is meant, `python -m tests.test_versions` writes
the file anew, and the commit says why. Digests of weights are made up from their names here, so that none must be at hand.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from expert_zoo.catalog import EXPERTS, accepts, create
from expert_zoo.expert import Expert
from expert_zoo.weights.lock import LockedFile, LockEntry, change_lock
from tests.seeded_zoo import OPTIONS

KEPT = Path(__file__).parent / "data" / "expert_versions.json"


def variants(name: str) -> list[str]:
    return ["best", "prismer"] if accepts(name, "recipe") else ["best"]


def version_of(name: str, recipe: str, root: Path) -> str:
    options = dict(OPTIONS.get(name, {}))
    options |= {"recipe": recipe} if accepts(name, "recipe") else {}
    options |= {"weights_folder": str(root)} if accepts(name, "weights_folder") else {}
    expert = create(name, options=options)
    if accepts(name, "weights_folder"):
        _lock(expert, root)
        expert = create(name, options=options)
    return expert.card.version


def _lock(expert: Expert, root: Path) -> None:
    """A lock that knows a digest for every file of the expert's checkpoint."""
    checkpoint = expert.checkpoint  # type: ignore[attr-defined]
    digests = {
        file.path: hashlib.sha256(f"{checkpoint.name}/{file.path}".encode()).hexdigest() for file in checkpoint.files
    }
    files = {file.path: LockedFile(bytes=1, sha256=file.sha256 or digests[file.path]) for file in checkpoint.files}
    change_lock(root, lambda entries: entries.update({checkpoint.name: LockEntry(source="made up", files=files)}))


def versions(root: Path) -> dict[str, dict[str, str]]:
    return {name: {recipe: version_of(name, recipe, root) for recipe in variants(name)} for name in EXPERTS}


@pytest.fixture(scope="module")
def kept() -> dict[str, dict[str, str]]:
    return dict(json.loads(KEPT.read_text()))


def test_every_expert_has_its_version_kept(kept: dict[str, dict[str, str]]) -> None:
    assert sorted(kept) == sorted(EXPERTS), "run `python -m tests.test_versions` and look at what it changes"


@pytest.mark.parametrize("name", EXPERTS)
def test_no_version_changed_in_silence(name: str, kept: dict[str, dict[str, str]], tmp_path: Path) -> None:
    for recipe in variants(name):
        assert version_of(name, recipe, tmp_path) == kept[name][recipe], (
            f"{name}, {recipe}: the card says something else than before, so users would relabel with it; if that is meant, "
            "run `python -m tests.test_versions`"
        )


def test_the_two_recipes_never_share_a_column(kept: dict[str, dict[str, str]]) -> None:
    both = {name: found for name, found in kept.items() if len(found) == 2}
    assert {"depth", "normal", "edge", "seg_coco", "seg_ade", "detection", "ocr", "ocr_easyocr"} <= set(both)
    assert all(found["best"] != found["prismer"] for found in both.values())


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        KEPT.write_text(json.dumps(versions(Path(folder)), indent=1, sort_keys=True) + "\n")
