"""Photos at http and https addresses, read with a time limit, a size limit and a look at whom we are connected to.

    address -> host -> its addresses, each checked -> connection -> status -> body, in blocks

An address comes from a list that somebody on the web has made, so it is not trusted: no file:// by a redirect, no
service of the machine or of its cloud, no endless body. Nothing of the environment goes out: no proxy settings, no
.netrc, no cookies, no referrer. urllib3's connections are used by themselves, since its pools would follow redirects
and choose addresses where nobody looks; a list of millions of addresses has few of one host anyway.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import random
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from functools import cache
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import DecodeError, HTTPError, ProtocolError, ReadTimeoutError

from manifests.location import web_uri
from pipeline.errors import in_one_line
from pipeline.limits import Limits, PhotoError, Web

#: Seconds before the second attempt; doubled for each further one, and never longer than the longest.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
_PASSING = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 524}
_REDIRECTS = {301, 302, 303, 307, 308}
_BLOCK_BYTES = 1 << 16
_OPTED_OUT = {"noai", "noimageai", "noindex", "noimageindex"}
#: A connection that was there and went away; one that never came to be is likely to stay so.
_BROKEN = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, ssl.SSLEOFError, ProtocolError)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def read_web(uri: str, limits: Limits) -> bytes:
    """The file at an http(s) address. Thread-safe; waits where `Web.connections` others of this process are at work.

    Raises PhotoError with one of these codes, and MemoryError:

    missing (404, 410), refused (any other 4xx), server error (5xx), no connection, timed out, cut off (the body is
    shorter than was said), too many bytes, corrupt (an encoding that cannot be undone), too many redirects, forbidden
    address (not http(s), with a user name, or a host that is not on the public internet), opted out
    """
    web = limits.web
    for attempt in range(web.retries + 1):
        try:
            with _slots(web.connections):
                return _follow(uri, limits)
        except _Passing as trouble:
            if attempt == web.retries:
                raise PhotoError(trouble.reason) from trouble
            pause = max(trouble.wait, FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            time.sleep(min(pause, LONGEST_PAUSE))
    raise AssertionError("the last attempt returns or raises")


class _Passing(PhotoError):
    """What may be over in a while. ``wait``: seconds that the server asks for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


_SLOTS: dict[int, threading.BoundedSemaphore] = {}
_SLOTS_LOCK = threading.Lock()


def _slots(connections: int) -> threading.BoundedSemaphore:
    with _SLOTS_LOCK:
        return _SLOTS.setdefault(connections, threading.BoundedSemaphore(connections))


def _begin_anew() -> None:
    """A process that was forked has none of the threads that hold a slot or the lock."""
    global _SLOTS_LOCK
    _SLOTS_LOCK = threading.Lock()
    _SLOTS.clear()


os.register_at_fork(after_in_child=_begin_anew)


def _follow(uri: str, limits: Limits) -> bytes:
    deadline = time.monotonic() + limits.web.timeout
    address, target = uri, uri
    for _ in range(limits.web.redirects + 1):
        try:
            address = web_uri(urljoin(address, target))
        except ValueError as error:
            raise PhotoError(f"forbidden address: {in_one_line(error)}") from error
        found = _get(address, limits, deadline)
        if isinstance(found, bytes):
            return found
        target = found
    raise PhotoError(f"too many redirects: more than {limits.web.redirects}, the last to {address[:200]}")


def _get(address: str, limits: Limits, deadline: float) -> bytes | str:
    """The body, or where to look instead."""
    connection = _connection(address, limits.web, deadline)
    # Time limits of sockets are for one read each, so a server could send a byte now and then for ever.
    alarm = threading.Timer(max(0.0, deadline - time.monotonic()), connection.cut)
    alarm.daemon = True
    alarm.start()
    try:
        split = urlsplit(address)
        connection.request(
            "GET",
            split.path + (f"?{split.query}" if split.query else ""),
            headers={"User-Agent": limits.web.user_agent, "Accept": "image/*, */*;q=0.5", "Connection": "close"},
            preload_content=False,
        )
        answer = _answer(connection.getresponse(), limits)
        if connection.is_cut:  # a body without a stated length has then ended like any other
            raise TimeoutError
        return answer
    except PhotoError:
        if connection.is_cut:
            raise PhotoError(_timed_out(limits)) from None
        raise
    except DecodeError as error:
        raise PhotoError(f"corrupt: {in_one_line(error)}") from error
    except (OSError, HTTPError, http.client.HTTPException, ValueError) as error:
        if connection.is_cut or isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError):
            raise PhotoError(_timed_out(limits)) from error
        kind = _Passing if isinstance(error, _BROKEN) else PhotoError
        raise kind(f"no connection: {in_one_line(error)}") from error
    finally:
        alarm.cancel()
        connection.close()


def _timed_out(limits: Limits) -> str:
    return f"timed out: more than {limits.web.timeout:g} seconds"


# ------------------------------------------------------------------------------------------------ connections


class _Checked(HTTPConnection):
    """A connection to none but the addresses that we are allowed to reach, and which another thread can cut."""

    private = False
    deadline = 0.0
    is_cut = False
    opened: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        # The one place where urllib3 looks up a host: what is checked here is what is connected to, whatever the name
        # server says the next time.
        self.opened = _connected(self.host, self.port, private=self.private, deadline=self.deadline)
        self._check_time()
        return self.opened

    def connect(self) -> None:
        super().connect()
        self.opened = self.sock  # with TLS it is another object now; and `sock` is forgotten when the answer begins
        self._check_time()

    def _check_time(self) -> None:
        if self.is_cut:  # perhaps before there was anything to cut
            raise TimeoutError

    def cut(self) -> None:
        """Ends every wait on the connection."""
        self.is_cut = True
        if self.opened is not None:
            with suppress(OSError):
                socket.socket.shutdown(self.opened, socket.SHUT_RDWR)


class _CheckedTls(_Checked, HTTPSConnection):
    pass


@cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def _connection(address: str, web: Web, deadline: float) -> _Checked:
    split = urlsplit(address)
    timeout = max(0.01, deadline - time.monotonic())
    host = split.hostname or ""
    connection: _Checked
    if split.scheme == "https":
        connection = _CheckedTls(host, split.port, timeout=timeout, ssl_context=_trust())
    else:
        connection = _Checked(host, split.port, timeout=timeout)
    connection.private, connection.deadline = web.private, deadline
    return connection


def _connected(host: str, port: int, *, private: bool, deadline: float) -> socket.socket:
    """Raises PhotoError where no address of the host is allowed, OSError where none answers."""
    last: OSError | PhotoError | None = None
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, address) in enumerate(found):
        if not private and not is_public(str(address[0])):
            last = last or PhotoError(f"forbidden address: {host} is {address[0]}, which is not on the public internet")
            continue
        opened = socket.socket(family, kind, protocol)
        try:
            # An address that does not answer leaves time for the others: IPv6 is often stated and not there.
            opened.settimeout(max(0.01, deadline - time.monotonic()) / (len(found) - number))
            opened.connect(address)
            opened.settimeout(max(0.01, deadline - time.monotonic()))
        except OSError as error:
            opened.close()
            last = error
        else:
            return opened
    raise last or OSError(f"{host} has no address")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and stands for no other that is not (IPv4 within IPv6)."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inside = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inside = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(str(inside))
        if ip.is_reserved or ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


# ------------------------------------------------------------------------------------------------ answers


def _answer(response: urllib3.HTTPResponse, limits: Limits) -> bytes | str:
    status = response.status
    if status in _REDIRECTS:
        location = response.headers.get("Location", "")
        if not location:
            raise PhotoError(f"refused: HTTP {status} without a place to go")
        # Header lines are Latin-1 to Python; what servers mean is UTF-8.
        return location.encode("latin-1", "replace").decode("utf-8", "replace")
    if status != 200:
        code = "missing" if status in (404, 410) else "server error" if status >= 500 else "refused"
        reason = f"{code}: HTTP {status} {re.sub('[^ -~]', '?', response.reason or '')[:60]}".rstrip()
        if status in _PASSING:
            asked = response.headers.get("Retry-After", "")
            raise _Passing(reason, float(asked) if re.fullmatch("[0-9]{1,6}", asked) else 0.0)
        raise PhotoError(reason)
    if limits.web.opt_out:
        _check_opt_out(response.headers.get("X-Robots-Tag", ""), limits.web.user_agent)
    stated = response.headers.get("Content-Length", "")
    if re.fullmatch("[0-9]+", stated):
        limits.check_bytes(int(stated))
    blocks: list[bytes] = []
    size = 0
    try:
        # A body that was compressed although we did not ask for it comes out in pieces too: a bomb ends at the limit.
        while block := response.read(_BLOCK_BYTES, decode_content=True):
            blocks.append(block)
            size += len(block)
            limits.check_bytes(size)
    except ReadTimeoutError as error:
        raise TimeoutError from error
    except ProtocolError as error:
        raise _Passing(f"cut off: before the end of {stated or 'all'} bytes") from error
    return b"".join(blocks)


def _check_opt_out(tags: str, user_agent: str) -> None:
    """Raises PhotoError where the owner asks that the photo be not used. "bot: noai" is for that bot only."""
    concerns_us = True
    for tag in tags.lower().split(","):
        agent, colon, directive = tag.rpartition(":")
        if colon:
            concerns_us = agent.strip() in user_agent.lower()
        if concerns_us and directive.strip() in _OPTED_OUT:
            raise PhotoError(f"opted out: X-Robots-Tag says {directive.strip()}")
