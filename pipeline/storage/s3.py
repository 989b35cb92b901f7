"""An S3 API: Amazon's, or that of another store. What it promises beyond whole objects is found out, once per process."""

from __future__ import annotations

import functools
import io
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, cast

from pipeline.storage.contract import TEMPORARY, DataFile, Entry, checked
from pipeline.storage.remote import RemoteStorage
from pipeline.storage.s3_calls import Refused, S3Calls, signed
from pipeline.storage.s3_transfer import Ranges, Upload, copy, download

log = logging.getLogger(__name__)

#: What a stream reads at once; a larger read is a request of its own.
_READ_AHEAD_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Offers:
    """Which conditions of a PUT the store keeps: only if there is no such object, only over the object that was read."""

    if_none_match: bool
    if_match: bool


class S3Storage(RemoteStorage):
    """Objects of one bucket below one prefix. `publish`, `settle` and `replace_if` are exclusive where the store `offers` it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.shared = True
        self.calls = S3Calls(self.url)

    def __reduce__(self) -> tuple[type[S3Storage], tuple[str]]:
        return S3Storage, (self.url,)

    def path(self, name: str) -> str:
        return f"{self.calls.prefix}/{checked(name)}" if self.calls.prefix else checked(name)

    def _folder(self, folder: str) -> str:
        path = self.path(folder) if folder else self.calls.prefix
        return f"{path}/" if path else ""

    # ---- writing

    def create(self, name: str) -> DataFile:
        if self.exists(name):
            raise FileExistsError(f"{self.url}/{name} is there already")
        return DataFile(self, name, cast(IO[bytes], Upload(self.calls, self.path(name))))

    def _finish(self, stream: Any) -> None:
        stream.finish()

    def _abandon(self, stream: Any, name: str) -> None:
        stream.abandon()
        self.delete(name)

    def publish(self, name: str, data: bytes) -> bool:
        """As the contract says where the store `offers` it; else of two in the same instant both may hear that they won."""
        path, signature = self.path(name), signed()
        condition = {"IfNoneMatch": "*"} if self.offers().if_none_match else {}
        if not condition and self.exists(name):
            return False
        won = self._put(name, data, signature, **condition)
        return won and (bool(condition) or self.calls.made(path, signature))

    def _put(self, name: str, data: bytes, signature: dict[str, str], **condition: str) -> bool:
        """False where the condition does not hold, or there is no object to hold it against."""
        try:
            self.calls.call("put_object", self.path(name), Body=data, Metadata=signature, **condition)
        except FileNotFoundError:
            return False
        except Refused as refused:
            if refused.status != 412:
                raise
            return self.calls.made(self.path(name), signature)
        return True

    def replace(self, name: str, data: bytes, *, durable: bool = True) -> None:
        self.calls.call("put_object", self.path(name), Body=data)

    def replace_if(self, name: str, stands: Callable[[bytes], bool], data: bytes) -> bool:
        """As the contract says, and where the store `offers` it, of two in the same instant one gives way."""
        try:
            found = self.calls.call("get_object", self.path(name))
        except FileNotFoundError:
            return False
        if not stands(found["Body"]):
            return False
        return self._put(name, data, signed(), **({"IfMatch": found["ETag"]} if self.offers().if_match else {}))

    def settle(self, temporary: str, name: str) -> bool:
        source, target = self.path(temporary), self.path(name)
        size = self.size(temporary)
        if size == 0:  # there are no parts of nothing
            done = self.publish(name, b"")
        elif self.exists(name):
            done = False
        else:
            done = True
            try:
                copy(self.calls, source, target, size, **({"IfNoneMatch": "*"} if self.offers().if_none_match else {}))
            except Refused as refused:
                if refused.status != 412:
                    raise
                done = False
        self.delete(temporary)
        return done

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.calls.call("delete_object", self.path(name))

    def end_uploads(self, *, older: float) -> list[str]:
        """Ends uploads below the root that were begun ``older`` seconds ago and never finished; the names of their files."""
        ended = []
        for page in self._pages("list_multipart_uploads", ("KeyMarker", "UploadIdMarker"), Prefix=self._folder("")):
            now = _server_time(page)
            for upload in page.get("Uploads", []):
                if now - _seconds(upload["Initiated"]) >= older:
                    with suppress(Refused):  # finished or ended since
                        self.calls.call("abort_multipart_upload", upload["Key"], UploadId=upload["UploadId"])
                    ended.append(upload["Key"].removeprefix(self._folder("")))
        return ended

    # ---- reading

    def open(self, name: str) -> IO[bytes]:
        return io.BufferedReader(Ranges(self.calls, self.path(name)), _READ_AHEAD_BYTES)

    def read(self, name: str) -> bytes:
        return bytes(self.calls.call("get_object", self.path(name))["Body"])

    def size(self, name: str) -> int:
        return int(self.calls.call("head_object", self.path(name))["ContentLength"])

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        if length <= 0:
            return b""
        try:
            return bytes(
                self.calls.call("get_object", self.path(name), Range=f"bytes={offset}-{offset + length - 1}")["Body"]
            )
        except Refused as refused:
            if refused.status == 416:  # it begins where the file ends
                return b""
            raise

    def download(self, name: str, to: Path) -> None:
        download(self.calls, self.path(name), to)

    def exists(self, name: str) -> bool:
        try:
            self.calls.call("head_object", self.path(name))
        except FileNotFoundError:
            return False
        return True

    def names(self, folder: str) -> list[str]:
        root = self._folder(folder)
        found = []
        for page in self._listing(root):
            found += [item["Key"][len(root) :] for item in page.get("Contents", [])]
            found += [item["Prefix"][len(root) : -1] for item in page.get("CommonPrefixes", [])]
        return [name for name in found if name]

    def entries(self, folder: str) -> Iterator[Entry]:
        root = self._folder(folder)
        for page in self._listing(root):
            now = _server_time(page)  # ages by one clock: that of the server, which is also that of the files
            for item in page.get("Contents", []):
                if name := item["Key"][len(root) :]:
                    yield Entry(name, int(item["Size"]), now - _seconds(item["LastModified"]))

    def _listing(self, root: str) -> Iterator[dict[str, Any]]:
        page: dict[str, Any] = {"IsTruncated": True}
        while page.get("IsTruncated"):
            token = {"ContinuationToken": page["NextContinuationToken"]} if "NextContinuationToken" in page else {}
            page = self.calls.call("list_objects_v2", Prefix=root, Delimiter="/", **token)
            yield page

    def _pages(self, operation: str, markers: tuple[str, ...], **parameters: str) -> Iterator[dict[str, Any]]:
        page: dict[str, Any] = {"IsTruncated": True}
        while page.get("IsTruncated"):
            after = {marker: page[f"Next{marker}"] for marker in markers if page.get(f"Next{marker}")}
            page = self.calls.call(operation, **parameters, **after)
            yield page

    # ---- what the store offers

    def offers(self) -> Offers:
        """Found out by trying on an object of its own, once per process for every bucket of every endpoint."""
        return _offers(os.getpid(), self.calls.endpoint, self.calls.bucket, _Asked(self))

    def probe(self) -> Offers:
        """Tries it. Some stores refuse a condition, others do not look at it: both do not offer it."""
        path = self.path(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            self.calls.call("put_object", path, Body=b"")
            offers = Offers(
                if_none_match=self._refuses(path, IfNoneMatch="*"),
                if_match=self._refuses(path, IfMatch=f'"{"0" * 32}"'),
            )
        finally:
            self.calls.call("delete_object", path)
        if not offers.if_none_match:
            log.warning(
                "%s does not offer conditional PUTs: see docs/object-stores.md before two jobs share it", self.url
            )
        return offers

    def _refuses(self, path: str, **condition: str) -> bool:
        try:
            self.calls.call("put_object", path, Body=b"", **condition)
        except Refused as refused:
            return refused.status == 412
        return False


@dataclass(frozen=True)
class _Asked:
    """Whom to ask; all that lie in the same bucket get the same answer."""

    storage: S3Storage

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked)

    def __hash__(self) -> int:
        return 0


@functools.cache
def _offers(process: int, endpoint: str, bucket: str, asked: _Asked) -> Offers:
    return asked.storage.probe()


def _seconds(when: Any) -> float:
    return when.timestamp() if isinstance(when, datetime) else time.time()


def _server_time(page: dict[str, Any]) -> float:
    date = page.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return time.time()
