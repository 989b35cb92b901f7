"""Reading one photo: from a record's URI to a Photo, or a PhotoError that says why not.

    URI -> bytes (size limit) -> pipeline.decode -> Photo

Any file whatever ends in a Photo or a PhotoError, and no read waits for a FIFO. `read_photo` is called from several threads.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO
from urllib.parse import unquote_to_bytes

from expert_zoo.expert import Photo
from manifests.location import openable
from manifests.record import ImageRecord
from pipeline.decode import Limits, PhotoError, decode
from pipeline.errors import in_one_line

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
    """The file at a record's ``uri``, undecoded. Raises PhotoError, and MemoryError. Thread-safe."""
    try:
        if uri.startswith("file://"):
            host, _, path = uri.removeprefix("file://").partition("/")
            if host not in ("", "localhost"):
                raise PhotoError(f"unreadable: a file:// URI of the host {host!r}; expected file:///path")
            return _read_local(os.fsdecode(b"/" + unquote_to_bytes(path)), limits)
        return _read_remote(uri, limits)
    except (PhotoError, MemoryError):
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PhotoError(f"missing: {uri}") from error
    except Exception as error:  # every store has exceptions of its own
        raise PhotoError(f"unreadable: {in_one_line(error)}") from error


def _read_local(path: str, limits: Limits) -> bytes:
    _check_regular(Path(path).stat(), limits)
    # The file may have become another since: without O_NONBLOCK, opening a FIFO waits for somebody to write into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(descriptor), limits)
        with open(descriptor, "rb", closefd=False) as file:
            return _read_up_to(file, limits)
    finally:
        os.close(descriptor)


def _check_regular(status: os.stat_result, limits: Limits) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a FIFO, socket or device"
        raise PhotoError(f"not a file: {kind}")
    limits.check_bytes(status.st_size)


def _read_remote(uri: str, limits: Limits) -> bytes:
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    filesystem, path = fsspec.url_to_fs(openable(uri))
    if isinstance(filesystem, LocalFileSystem):
        return _read_local(path, limits)
    with filesystem.open(path, "rb") as file:
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
