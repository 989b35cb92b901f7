"""What lies where in a tar: its headers are read and nothing else, so that its files can be read later without unpacking.

The members of datasets' tars are small texts around photos of some ten kilobytes: one read of a few kilobytes behind a
photo shows the headers up to the next. Formats: ustar, GNU and PAX long names, sizes beyond 8 GB; POSIX.1-2001, "pax".
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from zlib import adler32

from manifests.location import filesystem, local_path, openable

#: Bytes of a file from an offset on; fewer where it ends.
ReadAt = Callable[[int, int], bytes]

#: What a member or a tar can be left out for.
CUT = "tar cut short; its whole members are used"
DAMAGED = "damaged tar; the members before the damage are used"
NOT_A_TAR = "not a tar"
COMPRESSED = "compressed tar, which cannot be read by offset; decompress it"
OUTSIDE = "tar member whose name leads out of the tar"
NOT_A_FILE = "tar member that is no file (a link, a pipe or a device)"

#: A header, and what the contents of members are padded to.
HEADER_BYTES = 512
#: How much is read at once: from a disk what holds the headers between two photos; from a store, where a request costs as
#: much as some megabytes, all there is.
_LOCAL = 8192
_REMOTE = 4 << 20
_LONGEST_NAME = 1 << 20
#: Adler-32's lower half is one more than the sum of the bytes modulo this, and many times faster than `sum`.
_ADLER = 65521
_BLANKS = 8 * ord(" ")
_COMPRESSIONS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_PAX_RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")


class Member(NamedTuple):
    """A regular file in a tar, whose bytes are from ``start`` up to ``end``; or something else, for which ``trouble`` is
    one of the phrases above."""

    name: str
    start: int
    end: int
    trouble: str = ""


class Window:
    """A file of ``size`` bytes of which the last few that were read are still there. Not thread-safe."""

    def __init__(self, read_at: ReadAt, size: int, reach: int) -> None:
        self.size = size
        self._read_at, self._reach = read_at, reach
        self._seen, self._at = b"", 0

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` on, fewer where the file ends. Raises OSError."""
        return self.read_about(offset, length)[:length]

    def read_about(self, offset: int, length: int) -> bytes:
        """The same, and whatever of the bytes after them is there already."""
        start = offset - self._at
        if not 0 <= start <= len(self._seen) - length:
            wanted = min(max(length, self._reach), self.size - offset)
            self._seen, self._at, start = self._read_at(offset, wanted) if wanted > 0 else b"", offset, 0
        return self._seen[start:]


@contextmanager
def opened(uri: str) -> Iterator[Window]:
    """The file of a record's ``uri``, not on the web. Raises OSError, and ValueError for an unknown scheme."""
    path = local_path(uri) if uri.startswith("file://") else None
    if path is None:
        files, name = filesystem(openable(uri), use_listings_cache=False)
        yield Window(lambda start, size: files.cat_file(name, start=start, end=start + size), files.size(name), _REMOTE)
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # Else the system reads ahead, and so all the photos.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        yield Window(lambda start, size: os.pread(descriptor, size, start), os.fstat(descriptor).st_size, _LOCAL)
    finally:
        os.close(descriptor)


def members(tar: Window) -> Iterator[Member]:
    """All files of a tar in its order; folders are skipped.

    Where it is cut or damaged, the last thing is a Member that says so. Every header's checksum is compared, and every
    member must end within the file. Raises OSError.
    """
    size = tar.size
    offset, piece, low, high = 0, b"", 0, 0
    long_name, long_size = "", -1
    while True:
        # A dataset has tens of millions of headers: this loop is plain so as to be fast.
        if not low <= offset <= high - HEADER_BYTES:
            piece = tar.read_about(offset, HEADER_BYTES)
            low, high = offset, offset + len(piece)
            if len(piece) < HEADER_BYTES:
                yield Member("", offset, size, CUT if offset else NOT_A_TAR)
                return
        header = piece[offset - low : offset - low + HEADER_BYTES]
        if not header[0] and not header.strip(b"\0"):
            return
        field = header[148:156]
        try:
            stated, length = int(field[:6], 8), int(header[124:135], 8)
        except ValueError:
            stated, length = _number(field), _number(header[124:136])
        # The sum counts the field that holds it as blanks; Adler-32 of eight bytes is their sum and one.
        if stated < 0 or ((adler32(header) & 0xFFFF) - (adler32(field) & 0xFFFF) + _BLANKS - stated) % _ADLER:
            yield Member("", offset, size, DAMAGED if offset else _what_else(header))
            return
        start = offset + HEADER_BYTES
        if long_size >= 0:
            length = long_size
        end = start + length
        kind = header[156:157]
        if length < 0 or (length > _LONGEST_NAME and kind in b"xLKgX"):
            yield Member("", offset, size, DAMAGED)
            return
        if end > size:
            yield Member(long_name or _name(header), start, size, CUT)
            return
        offset = end + -length % HEADER_BYTES
        if kind in b"0\x007":
            name = long_name or _name(header)
            long_name, long_size = "", -1
            if name.endswith("/"):
                continue
            outside = name.startswith("/") or (".." in name and ".." in name.split("/"))
            yield Member(name, start, end, OUTSIDE if outside else "")
        elif kind in b"xX":
            data = piece[start - low : end - low] if end <= high else tar.read(start, length)
            if b"path=" in data or b"size=" in data:  # most only state a time to the microsecond
                long_name, long_size = _pax(data, long_name)
        elif kind == b"L":
            long_name = _text(tar.read(start, length).rstrip(b"\0"))
        elif kind not in b"gK":
            if kind != b"5":
                yield Member(long_name or _name(header), start, end, NOT_A_FILE)
            long_name, long_size = "", -1


def is_header_of(header: bytes, length: int) -> bool:
    """Whether 512 bytes are the header of a member with so many bytes: what stands before a member whose place is right.

    Where an extended header states the size (beyond 8 GB) only that they are a header.
    """
    if len(header) < HEADER_BYTES:
        return False
    field = header[148:156]
    summed = (adler32(header) & 0xFFFF) - (adler32(field) & 0xFFFF) + _BLANKS
    return (summed - _number(field)) % _ADLER == 0 and (_number(header[124:136]) == length or length >= 8 << 30)


def _what_else(header: bytes) -> str:
    return COMPRESSED if header.startswith(_COMPRESSIONS) else NOT_A_TAR


def _number(field: bytes) -> int:
    """An octal number, or a binary one where the first bit is set; -1 for anything else."""
    try:
        return int(field.rstrip(b"\0 "), 8)
    except ValueError:
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        digits = field.strip(b"\0 ").partition(b"\0")[0]
        return int(digits, 8) if re.fullmatch(b"[0-7]+", digits) else 0 if not digits else -1


def _name(header: bytes) -> str:
    name = header[: header.find(b"\0", 0, 100)] if not header[99] else header[:100].partition(b"\0")[0]
    if header[345] and header[257:263] == b"ustar\0":
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return _text(name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _pax(data: bytes, name: str) -> tuple[str, int]:
    """The name and size that an extended header states; -1 for the size where it states none."""
    size, at = -1, 0
    while record := _PAX_RECORD.match(data, at):
        length = int(record[1])
        value = data[record.end() : at + length - 1]
        if record[2] == b"path":
            name = _text(value)
        elif record[2] == b"size" and value.isdigit():
            size = int(value)
        if length <= record.end() - at:
            break
        at += length
    return name, size
