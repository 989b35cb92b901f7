"""WeightsFolder: where checkpoints lie, and whether their files are the ones that were fetched. Never uses the network.

$EXPERT_LABELS_WEIGHTS or ~/.cache/expert-labels/weights
    weights.lock                    revisions and digests (expert_zoo/weights/lock.py)
    dpt-hybrid-midas/               one folder for each checkpoint
        config.json, model.safetensors
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

from expert_zoo.card import Weights
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile
from expert_zoo.weights.lock import LOCK_NAME, SEEDED, Entries, LockedFile, LockEntry, change_lock, read_lock

ENVIRONMENT = "EXPERT_LABELS_WEIGHTS"
DEFAULT = "~/.cache/expert-labels/weights"
_BLOCK = 8 << 20

#: Of a checkpoint, as far as can be told without reading it. "random": seeded ones are at hand; "not locked": files lie there, and
#: nothing says which they are; "damaged": one has another size than it should have.
State = Literal["at hand", "random", "not locked", "damaged", "missing"]


class WeightsFolder:
    """The weights folder ``root``; None: that of the environment variable EXPERT_LABELS_WEIGHTS, else one in the user's cache.

    Raises ValueError where ``root`` is no path.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        if root is not None and (not isinstance(root, str | Path) or not str(root)):
            raise ValueError(f"weights_folder is {root!r}; expected a path, or none")
        self.root = Path(root or os.environ.get(ENVIRONMENT) or DEFAULT).expanduser().absolute()

    def path(self, checkpoint: Checkpoint) -> Path:
        """The checkpoint's folder, whether or not it is there."""
        return self.root / checkpoint.name

    def entry(self, checkpoint: Checkpoint) -> LockEntry | None:
        """What the lock says of the checkpoint, of whatever revision. Raises ValueError where the lock is damaged."""
        return read_lock(self.root).get(checkpoint.name)

    def _entry_that_counts(self, checkpoint: Checkpoint) -> LockEntry | None:
        """None also where the lock tells of another revision than the one that is pinned."""
        entry = self.entry(checkpoint)
        pinned = entry is not None and entry.revision and checkpoint.revision
        return None if entry is not None and pinned and entry.revision != checkpoint.revision else entry

    def weights(self, checkpoint: Checkpoint) -> tuple[Weights, ...]:
        """The checkpoint's files for a card, from what is published and the lock alone; sha256 is "" where neither knows."""
        entry = self._entry_that_counts(checkpoint)
        found = []
        for file in checkpoint.files:
            path, stated = _stated(file, entry)
            where = entry.source if entry else checkpoint.repo or file.url or checkpoint.page
            revision = entry.revision if entry else checkpoint.revision
            found.append(
                Weights(
                    file=path,
                    where=f"{where}@{revision}" if revision else where,
                    sha256=stated.sha256,
                    bytes=stated.bytes,
                )
            )
        return tuple(found)

    def at_hand(self, checkpoint: Checkpoint) -> bool:
        """Whether every file lies there in its stated size and has a known digest; nothing is read, so it may be damaged."""
        return self.look(checkpoint)[0] in ("at hand", "random")

    def look(self, checkpoint: Checkpoint) -> tuple[State, str]:
        """(state, why it is not at hand: one line, else ""). Reads no file but the lock."""
        entry = self._entry_that_counts(checkpoint)
        state: State = "random" if entry is not None and entry.source == SEEDED else "at hand"
        why = ""
        for file in checkpoint.files:
            path, stated = _stated(file, entry)
            at = self.path(checkpoint) / path
            or_else = not stated.sha256 and (self.path(checkpoint) / file.or_else).is_file()
            if not at.is_file() and not or_else:
                return "missing", f"no file {at}"
            if not stated.sha256:
                state, why = "not locked", self._fault_of_lock(checkpoint)
            elif stated.bytes and at.stat().st_size != stated.bytes:
                state, why = "damaged", f"{at} has {at.stat().st_size:,} bytes, expected {stated.bytes:,}"
        return state, why

    def _fault_of_lock(self, checkpoint: Checkpoint) -> str:
        """Why the lock does not tell the digests of files that lie in the checkpoint's folder."""
        there, lock = self.path(checkpoint), self.root / LOCK_NAME
        if not lock.is_file():
            return f"files lie in {there}, but there is no {lock}"
        entry = self.entry(checkpoint)
        if entry is not None and entry.revision != checkpoint.revision:
            return f"{lock} states digests of {there} at revision {entry.revision}, expected {checkpoint.revision}"
        return f"files lie in {there}, but {lock} does not state their digests"

    def verified(self, checkpoint: Checkpoint, *, expert: str = "", fetch: str = "") -> Path:
        """The checkpoint's folder, every byte of its files read and their digests as stated.

        ``expert``: for whom, so that the error can name the command to run; ``fetch``: its options, where no expert is meant.
        Raises ValueError: a file is missing, or damaged, or nobody ever said what its digest is.
        """
        entry = self._entry_that_counts(checkpoint)
        fetch = f"`expert-labels weights fetch {fetch or (f'--experts {expert}' if expert else '--job JOB.yaml')}`"
        state, why = self.look(checkpoint)
        if state == "missing":
            raise ValueError(
                f"weights of {expert or checkpoint.name} are missing: {why}; run {fetch}, or name a folder that has "
                f"them by `weights:` in the job file or {ENVIRONMENT}"
            )
        if state == "not locked":
            raise ValueError(
                f"weights of {expert or checkpoint.name}: {why}, so they may be anything; copy the {LOCK_NAME} that belongs to "
                f"them, or run {fetch} (with --at-hand where there is no network)"
            )
        for file in checkpoint.files:
            path, stated = _stated(file, entry)
            at = self.path(checkpoint) / path
            check_lock_agrees(checkpoint, file, entry)
            found = digest_of(at)
            if found != stated.sha256:
                raise ValueError(
                    f"{at} is damaged: its SHA-256 is {found}, expected {stated.sha256}; run {fetch}, which brings it again"
                )
        return self.path(checkpoint)

    def record(self, checkpoint: Checkpoint, *, source: str, revision: str = "") -> None:
        """Hashes the checkpoint's files as they lie there and writes its entry in the lock, in place of an earlier one.

        ``source``: the Hub repository or page that they came from, `lock.SEEDED` or `lock.BY_HAND`. Raises ValueError where
        a file is missing or is not the published one (seeded weights never are).
        """
        files: dict[str, LockedFile] = {}
        for file in checkpoint.files:
            at = self._lying(checkpoint, file)
            files[at.relative_to(self.path(checkpoint)).as_posix()] = found = locked(at)
            if source != SEEDED and file.sha256 and at.name == Path(file.path).name and found.sha256 != file.sha256:
                raise ValueError(
                    f"{at} has SHA-256 {found.sha256}, its authors publish {file.sha256}; remove it and fetch again"
                )
        entry = LockEntry(source=source, revision=revision, licence=checkpoint.licence, files=files)

        def put(entries: Entries) -> None:
            entries[checkpoint.name] = entry

        change_lock(self.root, put)

    def _lying(self, checkpoint: Checkpoint, file: CheckpointFile) -> Path:
        folder = self.path(checkpoint)
        for path in (file.path, file.or_else):
            if path and (folder / path).is_file():
                return folder / path
        raise ValueError(
            f"no file {folder / file.path}; expected the files of checkpoint {checkpoint.name} to lie there"
        )


def _stated(file: CheckpointFile, entry: LockEntry | None) -> tuple[str, LockedFile]:
    """(path in the checkpoint's folder, size and digest) of a file: as published, else as the lock says, else unknown."""
    if entry is not None:
        if entry.source == SEEDED and file.path in entry.files:
            return file.path, entry.files[file.path]
        if file.or_else and file.or_else in entry.files and file.path not in entry.files:
            return file.or_else, entry.files[file.or_else]
        if not file.sha256 and file.path in entry.files:
            return file.path, entry.files[file.path]
    return file.path, LockedFile(bytes=file.bytes, sha256=file.sha256)


def check_lock_agrees(checkpoint: Checkpoint, file: CheckpointFile, entry: LockEntry | None) -> None:
    """Raises ValueError where the lock states another digest than the published one (seeded weights may)."""
    if entry is None or entry.source == SEEDED or not file.sha256 or file.path not in entry.files:
        return
    locked_digest = entry.files[file.path].sha256
    if locked_digest != file.sha256:
        raise ValueError(
            f"weights.lock states SHA-256 {locked_digest} for {checkpoint.name}/{file.path}, its authors publish {file.sha256}; "
            "remove that checkpoint's entry from the lock and fetch again"
        )


def locked(path: Path) -> LockedFile:
    """Size and digest of the file at ``path``, read through once."""
    return LockedFile(bytes=path.stat().st_size, sha256=digest_of(path))


def digest_of(path: Path) -> str:
    """SHA-256 of the file at ``path``, read in blocks: files are larger than memory may be."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
