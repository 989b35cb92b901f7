"""One file from one URL, resumable: what arrived stays in a .part file beside the target, across retries and across kills."""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

#: (what is downloaded, bytes so far, bytes in all or 0 where unknown), called after every block.
Progress = Callable[[str, int, int], None]

_BLOCK = 1 << 20
_TIMEOUT = 30.0
#: Seconds between attempts that brought nothing; any progress starts the count anew.
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
_AGAIN = {408, 425, 429, 500, 502, 503, 504}


def download(
    url: str,
    part: Path,
    *,
    size: int,
    what: str,
    progress: Progress,
    headers: Mapping[str, str] | None = None,
    if_refused: str = "see it in a browser",
) -> None:
    """Completes ``part`` with the bytes behind ``url``, beginning where it ends.

    ``size``: of the whole file, 0 where unknown. ``headers``: sent to the host of ``url`` only, never to where it redirects.
    ``if_refused``: the way out where the server wants to know who asks.
    Dropped connections and busy servers are tried again with growing pauses. Raises ValueError: refused, not there, a web page
    in place of a file, no connection, or no room.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        have = part.stat().st_size if part.exists() else 0
        if size and have > size:
            part.unlink()
            have = 0
        if size and have == size:
            return
        try:
            if _attempt(url, part, size=size, what=what, headers=headers or {}, progress=progress):
                return
            why = "the connection was dropped"
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # nothing lies behind what is there: it is not a piece of this file
                part.unlink()
                continue
            if error.code not in _AGAIN:
                raise ValueError(_refusal(what, url, error.code, if_refused)) from error
            why = f"{_host(url)} answers {error.code}"
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ValueError(
                    f"{what}: no room left at {part.parent}; make some, run the same command again and it goes on"
                ) from error
            if isinstance(error, OSError) and error.filename:  # a folder that may not be written, not the network
                raise
            why = f"cannot reach {_host(url)} ({getattr(error, 'reason', None) or error or type(error).__name__})"
        failures = 0 if part.exists() and part.stat().st_size > have else failures + 1
        if failures > len(_PAUSES):
            raise ValueError(
                f"{what}: {why}; what arrived is kept: run the same command again with a network, or copy a weights folder "
                "here (docs/weights.md)"
            )
        if failures:
            time.sleep(_PAUSES[failures - 1])


def _attempt(url: str, part: Path, *, size: int, what: str, headers: Mapping[str, str], progress: Progress) -> bool:
    """One request. False where it ended before the file did."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})  # noqa: S310 - see _opener
    for name, value in headers.items():
        request.add_unredirected_header(name, value)
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _opener().open(request, timeout=_TIMEOUT) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise ValueError(
                f"{what}: {_host(url)} answers with a web page, not with a file; get it with a browser ({url}), put it at "
                f"{part.parent}, then run `expert-labels weights fetch` with --at-hand"
            )
        if answer.status != 206:  # the whole file: the server knows no ranges
            have = 0
        length = answer.headers.get("Content-Length")
        whole = have + int(length) if length else size
        if size and whole != size:
            raise ValueError(
                f"{what}: {_host(url)} has {whole} bytes, expected {size}; it is another file than the one asked for"
            )
        _check_room(part, whole - have, what)
        with part.open("r+b" if have else "wb") as stream:
            stream.seek(have)
            done = have + _copy(answer, stream, lambda copied: progress(what, have + copied, whole))
            stream.flush()
            os.fsync(stream.fileno())
    return done == whole if whole else True


def _copy(source: IO[bytes], target: IO[bytes], progress: Callable[[int], None]) -> int:
    copied = 0
    while block := source.read(_BLOCK):
        target.write(block)
        copied += len(block)
        progress(copied)
    return copied


def _check_room(part: Path, wanted: int, what: str) -> None:
    free = shutil.disk_usage(part.parent).free
    if wanted > free:
        raise ValueError(
            f"{what}: {wanted / 1e6:.0f} MB are to come, {part.parent} has room for {free / 1e6:.0f} MB; make room, or name "
            "another folder with --weights"
        )


def _refusal(what: str, url: str, code: int, if_refused: str) -> str:
    if code in (401, 403):
        return f"{what}: {_host(url)} refuses {url} ({code}); {if_refused}"
    if code in (404, 410):
        return f"{what}: not there any more ({code}): {url}; get it elsewhere, put it in place and use --at-hand"
    return f"{what}: {_host(url)} answers {code} for {url}"


def _host(url: str) -> str:
    return urlsplit(url).netloc


class _KeepsHeadersAtHome(urllib.request.HTTPRedirectHandler):
    """A redirect inside one host (a renamed repository) keeps the token; one to another host never sees it."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        if found is not None and urlsplit(newurl)[:2] == urlsplit(req.full_url)[:2]:
            for name, value in req.unredirected_hdrs.items():
                found.add_unredirected_header(name, value)
        return found


def _opener() -> urllib.request.OpenerDirector:
    """http and https only, through the proxies of the environment; no file:, no ftp:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
        _KeepsHeadersAtHome,
    ):
        opener.add_handler(handler())
    return opener
