"""Where a round's store lies: on this machine's disk, on a disk so small that it gets full, or behind a loopback S3 in trouble."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.s3_server import BUCKET, KEY, SECRET, S3Server

#: Bytes of the small disk.
SMALL = 24 << 20


class Place:
    """A disk. ``environment``: what drivers need to find the store, beyond their own; workers have their node's."""

    kind = "disk"

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.environment: dict[str, str] = {}

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """No trouble while somebody looks whether all is well."""
        yield


class SmallDisk(Place):
    kind = "small disk"

    def fill(self) -> None:
        """To the last byte."""
        with (self.folder / "filler").open("wb", buffering=0) as filler:
            for size in (1 << 20, 1 << 12, 1):
                while True:
                    try:
                        filler.write(bytes(size))
                    except OSError as error:
                        assert error.errno == errno.ENOSPC, error
                        break

    def free(self) -> None:
        (self.folder / "filler").unlink()


class ObjectStore(Place):
    """``share`` of the calls to ``server`` go wrong, while it is not `quiet`."""

    kind = "S3"

    def __init__(self, folder: Path, server: S3Server, share: float) -> None:
        super().__init__(f"s3://{BUCKET}/{uuid.uuid4().hex}/store", folder)
        self.server = server
        self.share = share
        self.environment = server.environment()
        self._before = len(server.calls)

    @property
    def calls(self) -> int:
        """To the server since this place was opened, but for quiet times."""
        return len(self.server.calls) - self._before

    @contextmanager
    def quiet(self) -> Iterator[None]:
        before, self.server.share = self.server.share, 0.0
        calls = len(self.server.calls)
        try:
            yield
        finally:
            self.server.share = before
            self._before += len(self.server.calls) - calls


@contextmanager
def disk(folder: Path) -> Iterator[Place]:
    yield Place(str(folder / "store"), folder)


@contextmanager
def small_disk(folder: Path) -> Iterator[Place]:
    """Raises PermissionError where this user may not mount one."""
    small = folder / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "chaos", str(small)], capture_output=True, text=True
    )
    if mounted.returncode:
        raise PermissionError(f"no small disk: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(str(small / "store"), small)
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def may_mount() -> bool:
    return os.geteuid() == 0 and shutil.which("mount") is not None


@contextmanager
def object_store(folder: Path, server: S3Server, *, share: float, seed: int) -> Iterator[Place]:
    with server.trouble(share, seed=seed):
        yield ObjectStore(folder, server, share)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """With its bucket."""
    import boto3

    server = S3Server()
    boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    ).create_bucket(Bucket=BUCKET)
    try:
        yield server
    finally:
        server.stop()
