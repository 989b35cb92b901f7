"""Files on their way to and from an S3 API, in pieces, several at a time and never too many."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.storage.s3_calls import Refused, S3Calls, signed

#: Pieces on their way at once, of all files of a process. Times PART_BYTES, and as much again in buffers, is the memory they take.
AT_ONCE = 8
#: S3 wants at least 5 MiB. Every thousand pieces it doubles, for there may be 10,000: together more than the largest object.
PART_BYTES = 8 << 20
#: Pieces of a copy stay on the server, which takes up to 5 GiB.
COPY_BYTES = 1 << 30


class _Lanes:
    """Threads that send and fetch pieces for a process. Who asks for more than there is room for waits."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="s3")
        self._room = threading.BoundedSemaphore(2 * AT_ONCE)

    def send(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        self._room.acquire()
        try:
            future = self._threads.submit(work, *arguments)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future


_lanes: _Lanes | None = None


def lanes() -> _Lanes:
    """Those of this process: threads do not survive a fork."""
    global _lanes
    if _lanes is None or _lanes.process != os.getpid():
        _lanes = _Lanes()
    return _lanes


class Upload(io.RawIOBase):
    """An object being written. It is there, whole, when `finish` comes back; until then nobody can see any of it."""

    def __init__(self, calls: S3Calls, key: str) -> None:
        self._calls = calls
        self._key = key
        self._buffer = bytearray()
        self._parts: _Parts | None = None

    def write(self, data: Any) -> int:
        self._buffer += data
        while len(self._buffer) >= (size := self._part_bytes()):
            if self._parts is None:
                self._parts = _Parts(self._calls, self._key)
            self._parts.send(bytes(self._buffer[:size]))
            del self._buffer[:size]
        return len(data)

    def _part_bytes(self) -> int:
        return PART_BYTES << (len(self._parts) // 1000 if self._parts else 0)

    def finish(self) -> None:
        if self._parts is None:
            self._calls.call("put_object", self._key, Body=bytes(self._buffer))
        else:
            if self._buffer:
                self._parts.send(bytes(self._buffer))
            self._parts.complete()
        self._buffer.clear()

    def abandon(self) -> None:
        """Takes back what is on its way; what could not be taken back is nobody's file, and `audit --repair` ends it."""
        self._buffer.clear()
        if self._parts is not None:
            self._parts.abort()


class _Parts:
    """One multipart upload."""

    def __init__(self, calls: S3Calls, key: str) -> None:
        self._calls = calls
        self._key = key
        self._signature = signed()
        answer = calls.call("create_multipart_upload", key, Metadata=self._signature)
        self._upload = {"UploadId": answer["UploadId"]}
        self._sent: list[Future[str]] = []

    def __len__(self) -> int:
        return len(self._sent)

    def send(self, data: bytes) -> None:
        for future in self._sent:
            if future.done():
                future.result()  # what went wrong is said now, not after the rest of the file
        self._sent.append(lanes().send(self._send, len(self._sent) + 1, data))

    def _send(self, number: int, data: bytes) -> str:
        answer = self._calls.call("upload_part", self._key, PartNumber=number, Body=data, **self._upload)
        return str(answer["ETag"])

    def copy(self, key: str, size: int) -> None:
        """All of another object of the bucket."""
        for start in range(0, size, COPY_BYTES):
            last = min(start + COPY_BYTES, size) - 1
            self._sent.append(lanes().send(self._copy, len(self._sent) + 1, key, f"bytes={start}-{last}"))

    def _copy(self, number: int, key: str, part: str) -> str:
        source = {"Bucket": self._calls.bucket, "Key": key}
        answer = self._calls.call(
            "upload_part_copy", self._key, PartNumber=number, CopySource=source, CopySourceRange=part, **self._upload
        )
        return str(answer["CopyPartResult"]["ETag"])

    def complete(self, **condition: str) -> None:
        """Makes the object of the parts. Raises Refused with status 412 where ``condition`` does not hold."""
        parts = [{"PartNumber": number + 1, "ETag": future.result()} for number, future in enumerate(self._sent)]
        try:
            self._calls.call(
                "complete_multipart_upload", self._key, MultipartUpload={"Parts": parts}, **self._upload, **condition
            )
        except Refused:
            # Where the answer to an earlier try got lost, the upload is not there any more, or its object stands in its way.
            if not self._calls.made(self._key, self._signature):
                raise

    def abort(self) -> None:
        for future in self._sent:
            future.cancel()
        for future in self._sent:
            with suppress(BaseException):
                future.result()
        with suppress(Exception):
            self._calls.call("abort_multipart_upload", self._key, **self._upload)


def copy(calls: S3Calls, source: str, target: str, size: int, **condition: str) -> None:
    """``source`` under another key, on the server. Raises Refused with status 412 where ``condition`` does not hold."""
    parts = _Parts(calls, target)
    try:
        parts.copy(source, size)
        parts.complete(**condition)
    except BaseException:
        parts.abort()
        raise


def download(calls: S3Calls, key: str, to: Path) -> None:
    """The whole object to a local path. An object that was replaced meanwhile is Refused, never a mixture."""
    found = calls.call("head_object", key)
    size = int(found["ContentLength"])
    with to.open("wb") as stream:

        def fetch(start: int) -> None:
            part = f"bytes={start}-{min(start + PART_BYTES, size) - 1}"
            os.pwrite(stream.fileno(), calls.call("get_object", key, Range=part, IfMatch=found["ETag"])["Body"], start)

        coming = [lanes().send(fetch, start) for start in range(0, size, PART_BYTES)]
        for future in coming:
            with suppress(Exception):
                future.result()  # all must be done before the file is closed
        for future in coming:
            future.result()


class Ranges(io.RawIOBase):
    """An object as a file to read anywhere in: every read is one request. Wrap it in a BufferedReader."""

    def __init__(self, calls: S3Calls, key: str) -> None:
        found = calls.call("head_object", key)
        self._calls = calls
        self._key = key
        self._size = int(found["ContentLength"])
        self._etag = found["ETag"]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        last = min(self._at + len(buffer), self._size) - 1
        if last < self._at:
            return 0
        data = self._calls.call("get_object", self._key, Range=f"bytes={self._at}-{last}", IfMatch=self._etag)["Body"]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
