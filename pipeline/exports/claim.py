"""One export at a time in one place: two would write into each other's files.

On a disk the claim is a lock that the system lets go of when its process dies, whatever kills it. Elsewhere it is a file that
says until when it holds, renewed with every shard; what a killed export leaves behind runs out by itself.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import StoreError
from pipeline.storage import LocalStorage, Storage

LOCK, CLAIM = "export.lock", "export.claim.json"
#: Longer than any shard takes.
HOLDS_SECONDS = 1800.0


@contextmanager
def claimed(out: Storage) -> Iterator[Callable[[], None]]:
    """Yields what renews the claim. Raises StoreError where somebody else has it."""
    if isinstance(out, LocalStorage):
        with _locked(out):
            yield lambda: None
        return
    _take(out)
    try:
        yield lambda: out.replace(CLAIM, _claim())
    finally:
        out.delete(CLAIM)


@contextmanager
def _locked(out: LocalStorage) -> Iterator[None]:
    from filelock import FileLock, Timeout

    out.root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out.path(LOCK), timeout=0):
            yield
    except Timeout:
        raise StoreError(
            f"another export is at work in {out.url}; wait until it has ended, or name another folder"
        ) from None


def _take(out: Storage) -> None:
    if out.publish(CLAIM, _claim()):
        return
    try:
        found = json.loads(out.read(CLAIM))
        until, who = float(found["until"]), f"process {found['process']} of {found['host']}"
    except FileNotFoundError:
        until, who = 0.0, ""
    except (ValueError, KeyError, TypeError):
        until, who = float("inf"), "somebody"
    if until > time.time():
        raise StoreError(
            f"{who} is at work in {out.url}, or was killed there a short while ago; wait at most "
            f"{HOLDS_SECONDS / 60:.0f} minutes, remove {CLAIM} if you know that it has ended, or name another place"
        )
    mine = _claim()
    out.replace(CLAIM, mine)
    # No storage replaces on condition: of two who find a claim that ran out, the later one has it.
    if out.read(CLAIM) != mine:
        raise StoreError(f"another export has just begun in {out.url}; wait until it has ended, or name another place")


def _claim() -> bytes:
    about = {"host": socket.gethostname(), "process": os.getpid(), "until": time.time() + HOLDS_SECONDS}
    return json.dumps(about).encode()
