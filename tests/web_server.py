"""A server on the loopback interface that behaves as servers on the web do, well and badly."""

from __future__ import annotations

import gzip
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.loopback import on_loopback


@dataclass
class WebServer:
    """``files``: bodies by path. ``answers`` by path, each entry for one request, the last one for all that follow:

    a status; (status, headers); or a word: "reset", "short" (less than was said), "long" (more than was said), "endless",
    "drip" (a byte now and then), "drip headers", "silent", "bomb" (gzip of zeros), "gzip", "not gzip", "garbage"
    """

    files: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, list[Any]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    at_work: int = 0
    most_at_work: int = 0
    pause: float = 0.0
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def count(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.asked)


@cache
def bomb() -> bytes:
    """200 MB of zeros as gzip."""
    packer = zlib.compressobj(wbits=31)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(200)) + packer.flush()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: WebServer

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        served = self.served
        with served.lock:
            served.asked.append((self.path, dict(self.headers.items())))
            served.at_work += 1
            served.most_at_work = max(served.most_at_work, served.at_work)
        try:
            if served.pause:
                time.sleep(served.pause)
            self._answer()
        except OSError:
            pass  # the client had enough
        finally:
            with served.lock:
                served.at_work -= 1
            self.close_connection = True

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        answers = self.served.answers.get(path, [200])
        what = answers.pop(0) if len(answers) > 1 else answers[0]
        body = self.served.files.get(path, b"")
        match what:
            case 200 if path not in self.served.files:
                self._say(404, {}, b"nothing here")
            case int():
                self._say(what, {}, body)
            case (int(status), dict(headers)):
                self._say(status, headers, body)
            case "reset":
                self.connection.close()
            case "short":
                self._say(200, {"Content-Length": str(len(body) + 10)}, body)
            case "long":
                self._say(200, {"Content-Length": str(len(body))}, body + b"more")
            case "endless":
                self._say(200, {"Content-Length": None}, b"")
                while not self.served.closing.is_set():
                    self.wfile.write(b"\xff\xd8" * 50_000)
            case "drip":
                self._say(200, {"Content-Length": None}, b"")
                while not self.served.closing.wait(0.05):
                    self.wfile.write(b"x")
            case "drip headers":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                while not self.served.closing.wait(0.05):
                    self.wfile.write(b"X-A: b\r\n")
            case "silent":
                self.served.closing.wait(30)
            case "bomb":
                self._say(200, {"Content-Encoding": "gzip"}, bomb())
            case "gzip":
                self._say(200, {"Content-Encoding": "gzip"}, gzip.compress(body))
            case "not gzip":
                self._say(200, {"Content-Encoding": "gzip"}, body)
            case "garbage":
                self.wfile.write(b"\x00\x01\x02 this is not HTTP\r\n\r\n")
            case _:
                raise AssertionError(what)

    def _say(self, status: int, headers: dict[str, str | None], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def web_server(tls: ssl.SSLContext | None = None) -> Iterator[WebServer]:
    with on_loopback(WebServer(), _Handler, tls) as server:
        yield server
