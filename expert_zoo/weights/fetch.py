"""Bringing a checkpoint's files into the weights folder: what `expert-labels weights fetch` does, and nothing else ever does.

lock entry or published digest -> what lies there already -> the rest, resumable -> digests -> entry in the lock
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from expert_zoo.weights import hub
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile
from expert_zoo.weights.download import Progress, download
from expert_zoo.weights.folder import WeightsFolder, check_lock_agrees, digest_of
from expert_zoo.weights.lock import BY_HAND, SEEDED, LockedFile, LockEntry

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One file to have: where from, and its size (0: unknown) and SHA-256 ("": unknown)."""

    path: str
    url: str
    repo: str = ""
    member: str = ""
    expected: LockedFile


def fetch(folder: WeightsFolder, checkpoint: Checkpoint, *, say: Say, progress: Progress) -> bool:
    """Makes ``checkpoint`` lie whole in ``folder``. True if something was brought, False if it was there already.

    Without a revision and digests in the checkpoint or the lock it takes the newest and records what that is. Killed at any
    moment, the next call goes on; two at once wait for each other. Raises ValueError, one line.
    """
    from filelock import FileLock

    if _lies_whole(folder, checkpoint):  # before the lock: the folder may be one that only others can write
        return False
    folder.root.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.root / f".{checkpoint.name}.busy"):
        if _lies_whole(folder, checkpoint):
            return False
        entry = folder.entry(checkpoint)
        if entry is not None and entry.source == SEEDED:
            say(f"{checkpoint.name}: random weights lie there; the real ones take their place")
            shutil.rmtree(folder.path(checkpoint), ignore_errors=True)
            entry = None
        for file in checkpoint.files:
            check_lock_agrees(checkpoint, file, entry)
        wanted, source, revision = _plan(folder, checkpoint, entry)
        for file, want in zip(checkpoint.files, wanted, strict=True):
            _bring(folder.path(checkpoint), checkpoint, want, say=say, progress=progress)
            if want.path == file.or_else:  # else the first choice of another revision would be taken for this one's
                (folder.path(checkpoint) / file.path).unlink(missing_ok=True)
        folder.record(checkpoint, source=source, revision=revision)
        return True


def record_at_hand(folder: WeightsFolder, checkpoint: Checkpoint) -> None:
    """Records files that a person put there; no network. Where the lock knows them, they must be those that it knows."""
    if folder.entry(checkpoint) is None:
        folder.record(checkpoint, source=BY_HAND)
    folder.verified(checkpoint)


def _lies_whole(folder: WeightsFolder, checkpoint: Checkpoint) -> bool:
    entry = folder.entry(checkpoint)
    if (entry is not None and entry.source == SEEDED) or not folder.at_hand(checkpoint):
        return False
    try:
        folder.verified(checkpoint)
    except ValueError:
        return False
    return True


def _plan(folder: WeightsFolder, checkpoint: Checkpoint, entry: LockEntry | None) -> tuple[list[_Wanted], str, str]:
    """(files to have, their source, its revision). The lock's digests count where its revision does."""
    revision = checkpoint.revision or (entry.revision if entry else "")
    recorded = entry.files if entry and entry.revision == revision else {}
    repository = None
    if checkpoint.repo and any(not file.url for file in checkpoint.files):
        repository = hub.repository(checkpoint.repo, revision)
        revision = repository.commit
    wanted = []
    for file in checkpoint.files:
        if file.url:
            known = recorded.get(file.path, LockedFile(bytes=file.bytes, sha256=file.sha256))
            expected = LockedFile(bytes=file.bytes or known.bytes, sha256=file.sha256 or known.sha256)
            want = _Wanted(path=file.path, url=file.url, member=file.member, expected=expected)
        elif repository is not None:
            want = _of_repository(repository, checkpoint, file, recorded)
        else:
            raise ValueError(
                f"no program can fetch {checkpoint.name}/{file.path}: get it at {checkpoint.page}, put it at "
                f"{folder.path(checkpoint) / file.path} and run the same command with --at-hand"
            )
        wanted.append(want)
    return wanted, checkpoint.repo if repository else checkpoint.page, revision


def _of_repository(
    repository: hub.Repository, checkpoint: Checkpoint, file: CheckpointFile, recorded: dict[str, LockedFile]
) -> _Wanted:
    here, there = file.path, file.hub_path or file.path
    published = file.sha256
    chosen_else = (
        file.or_else and file.path not in recorded and (file.or_else in recorded or there not in repository.files)
    )
    if chosen_else:
        here = there = file.or_else
        published = ""
    if there not in repository.files:
        raise ValueError(
            f"{repository.name} has no file {there} at revision {repository.commit}; expected the files that "
            f"{checkpoint.name} names, see {checkpoint.page}"
        )
    stated = repository.files[there]
    known = published or (recorded[here].sha256 if here in recorded else "")
    if known and stated.sha256 and known != stated.sha256:
        raise ValueError(
            f"{repository.name}/{there} has SHA-256 {stated.sha256} at revision {repository.commit}, expected {known}; copy a "
            "weights folder that has the right one, or remove the checkpoint's entry from weights.lock to take what is there now"
        )
    expected = LockedFile(bytes=stated.bytes, sha256=known or stated.sha256)
    return _Wanted(path=here, url=repository.url(there), repo=repository.name, expected=expected)


def _bring(folder: Path, checkpoint: Checkpoint, want: _Wanted, *, say: Say, progress: Progress) -> None:
    """The file of ``want`` in ``folder``: kept where it is the right one, else downloaded and then checked."""
    target, expected = folder / want.path, want.expected
    what = f"{checkpoint.name}/{want.path}"
    if target.is_file() and expected.sha256:
        if digest_of(target) == expected.sha256:
            return
        say(f"{what}: damaged or of another revision; fetched again")
    # A piece of one revision is never continued with another.
    mark = hashlib.sha256(f"{want.url} {want.expected.sha256}".encode()).hexdigest()[:8]
    part = target.with_name(f"{target.name}.{mark}.part")
    size = 0 if want.member else expected.bytes
    if want.repo:
        headers, if_refused = hub.token_headers(), hub.if_refused(want.repo)
    else:
        headers, if_refused = {}, f"see {checkpoint.page}"
    resumed = part.exists()
    while True:
        download(want.url, part, size=size, what=what, progress=progress, headers=headers, if_refused=if_refused)
        arrived = _unpacked(part, want.member, what) if want.member else part
        found = digest_of(arrived)
        if not expected.sha256 or found == expected.sha256:
            break
        arrived.unlink()
        part.unlink(missing_ok=True)
        if not resumed:
            raise ValueError(
                f"{what}: what {want.url} sends has SHA-256 {found}, expected {expected.sha256}; it was removed: ask its authors "
                f"({checkpoint.page}), or copy the file from where it is right"
            )
        resumed = False  # the piece from an earlier run may have been the culprit
    arrived.replace(target)
    for left in target.parent.glob(f"{target.name}.*.part"):  # of this and of other revisions
        left.unlink()


def _unpacked(archive: Path, member: str, what: str) -> Path:
    """The file ``member`` of the zip archive, beside it."""
    out = archive.with_name(f"{archive.name}.member.part")
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(member) as source, out.open("wb") as target:
            shutil.copyfileobj(source, target, 8 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        archive.unlink()
        raise ValueError(
            f"{what}: the archive that arrived has no whole member {member} ({error}); fetch again"
        ) from error
    return out
