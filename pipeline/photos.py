"""Reading one photo: from a record's URI to a Photo, or a PhotoError that says why not.

    URI -> bytes (size limit) -> pipeline.decode -> Photo

    file://...                  open, pread              any fsspec URL     one request
    ...#bytes=1536-20480        these bytes only         ...#row=17&column=image.bytes    pipeline.parquet_cells
    http://, https://           pipeline.web

Any file whatever ends in a Photo or a PhotoError, and no read waits for a FIFO. `read_photo` is called from several threads.
"""

from __future__ import annotations

import os
from typing import IO

from expert_zoo.expert import Photo
from manifests.location import Bytes, Cell, openable, split_part
from manifests.record import ImageRecord
from manifests.tar_index import HEADER_BYTES, is_header_of
from pipeline.decode import decode
from pipeline.errors import in_one_line
from pipeline.limits import Limits, PhotoError
from pipeline.parquet_cells import read_cell
from pipeline.places import local_file, open_regular, opened_store
from pipeline.web import read_web

__all__ = ["Limits", "PhotoError", "read_bytes", "read_photo"]

_BLOCK_BYTES = 1 << 20


def read_photo(record: ImageRecord, limits: Limits) -> Photo:
    """The photo of ``record``: uint8 RGB, upright. A cut JPEG, PNG, ... is decoded as far as it goes and carries a note.

    The first frame of an animation or of several pages; 16-bit greys scaled to 8 bits; transparency composited on white;
    CMYK and YCCK converted without colour profile; the EXIF orientation applied. Thread-safe.

    Raises PhotoError, and nothing else, whatever the file is.
    """
    try:
        if record.uri.startswith("scenes://"):
            return _render(record, limits)
        data = read_bytes(record.uri, limits)
        pixels_HW3, ending, note = decode(data, limits)
    except PhotoError:
        raise
    except MemoryError as error:
        raise PhotoError(f"out of memory: {in_one_line(error)}") from error
    except Exception as error:  # decoders raise whatever they like on broken files
        raise PhotoError(f"corrupt: {in_one_line(error)}") from error
    return Photo(
        image_id=record.image_id,
        uri=record.uri,
        pixels_HW3=pixels_HW3,
        data=data,
        format=ending,
        captions=record.captions,
        note=note,
    )


def read_bytes(uri: str, limits: Limits) -> bytes:
    """The file, or part of a file, at a record's ``uri``, undecoded. Raises PhotoError, and MemoryError. Thread-safe."""
    try:
        file, part = split_part(uri)
        if isinstance(part, Cell):
            return read_cell(file, part, limits)
        if uri.startswith("file://"):
            return _read_local(local_file(file), part, limits)
        if uri.startswith(("http://", "https://")):
            return read_web(uri, limits)
        return _read_remote(file, part, limits)
    except (PhotoError, MemoryError):
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PhotoError(f"missing: {uri}") from error
    except Exception as error:  # every store has exceptions of its own
        raise PhotoError(f"unreadable: {in_one_line(error)}") from error


def _read_local(path: str, part: Bytes | None, limits: Limits) -> bytes:
    with open_regular(path) as (descriptor, size):
        if part is not None:
            _check_inside(part, size, limits)
            wider = _with_header(path, part)
            return _member(_read_range(descriptor, wider), part, wider)
        limits.check_bytes(size)
        with open(descriptor, "rb", closefd=False) as file:
            return _read_up_to(file, limits)


def _read_range(descriptor: int, part: Bytes) -> bytes:
    data = os.pread(descriptor, part.end - part.start, part.start)
    while len(data) < part.end - part.start:  # a read may be shorter than asked for, of network disks most of all
        more = os.pread(descriptor, part.end - part.start - len(data), part.start + len(data))
        if not more:
            raise PhotoError(f"missing: bytes {part.start} to {part.end}; the file ends at {part.start + len(data)}")
        data += more
    return data


def _with_header(path: str, part: Bytes) -> Bytes:
    """A member of a tar with the header before it."""
    is_member = path.endswith(".tar") and part.start >= HEADER_BYTES
    return Bytes(part.start - HEADER_BYTES, part.end) if is_member else part


def _member(data: bytes, part: Bytes, wider: Bytes) -> bytes:
    """Without the header. Raises PhotoError where it is none, or of a member of another size.

    A tar that was written anew since the manifest was built has other photos at the same places, which would be labelled
    with the captions of those that were there.
    """
    if wider is part:
        return data
    length = part.end - part.start
    if not is_header_of(data[:HEADER_BYTES], length):
        raise PhotoError(f"missing: no member of {length} bytes at {part.start}; was the tar written anew since?")
    return data[HEADER_BYTES:]


def _check_inside(part: Bytes, size: int, limits: Limits) -> None:
    limits.check_bytes(part.end - part.start)
    if part.end > size:
        raise PhotoError(f"missing: bytes {part.start} to {part.end}; the file has {size}")


def _read_remote(uri: str, part: Bytes | None, limits: Limits) -> bytes:
    files, path = opened_store(openable(uri))
    if part is not None:
        limits.check_bytes(part.end - part.start)
        wider = _with_header(path, part)
        data = bytes(files.cat_file(path, start=wider.start, end=wider.end)) if wider.end > wider.start else b""
        if len(data) != wider.end - wider.start:
            raise PhotoError(f"missing: bytes {wider.start} to {wider.end}; {len(data)} came")
        return _member(data, part, wider)
    with files.open(path, "rb") as file:
        size = getattr(file, "size", None)
        if isinstance(size, int):
            limits.check_bytes(size)
        return _read_up_to(file, limits)


def _read_up_to(file: IO[bytes], limits: Limits) -> bytes:
    """All of the file, in blocks: it may be longer than its filesystem said."""
    blocks: list[bytes] = []
    size = 0
    while block := file.read(_BLOCK_BYTES):
        blocks.append(block)
        size += len(block)
        limits.check_bytes(size)
    return b"".join(blocks)


def _render(record: ImageRecord, limits: Limits) -> Photo:
    from manifests.scenes import render_uri

    try:
        pixels_HW3 = render_uri(record.uri).photo_HW3
    except ValueError as error:
        raise PhotoError(f"missing: {in_one_line(error)}") from error
    limits.check_pixels(pixels_HW3.shape[1], pixels_HW3.shape[0])
    return Photo(image_id=record.image_id, uri=record.uri, pixels_HW3=pixels_HW3, captions=record.captions)
