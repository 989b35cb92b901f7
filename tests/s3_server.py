"""An S3 API on the loopback (moto's), which can be told to give trouble: errors, lost answers, broken and silent connections.

Options that a test wants of s3fs go through fsspec's configuration, as a user's do, so that subprocesses have them too.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "labels"
SECRET = "wJalrXUtnFEMIsecretNEVERshown"
KEY = "AKIALOOPBACKONLY"
#: Seconds without a byte after which the client gives a call up.
READ_TIMEOUT = 1

KINDS = ("500", "503", "SlowDown", "lost", "reset", "cut", "silent")


class S3Server:
    """``faults``: what happens to how many of a million calls; ``conditions``: whether it knows If-None-Match and If-Match.

    A "lost" call is done and answered with 500; a "reset" one is done or not, and the connection breaks; of a "cut" one half
    of the answer comes; a "silent" one is done and not answered.
    """

    def __init__(self) -> None:
        self.share = 0.0
        self.kinds: tuple[str, ...] = KINDS
        self.conditions = "kept"
        self.injected: Counter[str] = Counter()
        self.calls: list[tuple[str, str]] = []
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._random = random.Random(0)
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._app, threaded=True)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def environment(self) -> dict[str, str]:
        """What a process needs to find it."""
        options = {"endpoint_url": self.endpoint, "config_kwargs": {"read_timeout": READ_TIMEOUT}}
        return {
            "FSSPEC_S3": json.dumps(options),
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @contextmanager
    def trouble(self, share: float, *, kinds: tuple[str, ...] = KINDS, seed: int = 0) -> Iterator[S3Server]:
        """A ``share`` of the calls goes wrong, in one of the ``kinds``."""
        self.injected.clear()
        self._random = random.Random(seed)
        self.share, self.kinds = share, kinds
        try:
            yield self
        finally:
            self.share = 0.0

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        with self._lock:
            self.calls.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
            fault = self._random.choice(self.kinds) if self._random.random() < self.share else ""
            before = self._random.random() < 0.5
            if fault:
                self.injected[fault] += 1
        named = [name for name in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH") if name in environ]
        if named and environ["REQUEST_METHOD"] in ("PUT", "POST") and self.conditions != "kept":
            if self.conditions == "refused":
                return _error(environ, start_response, "501 Not Implemented", "NotImplemented")
            for name in named:
                environ.pop(name)
        match fault:
            case "500":
                return _error(environ, start_response, "500 Internal Server Error", "InternalError")
            case "503":
                return _error(environ, start_response, "503 Service Unavailable", "ServiceUnavailable")
            case "SlowDown":
                return _error(environ, start_response, "503 Slow Down", "SlowDown")
            case "reset" if before:
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                return _error(environ, start_response, "500 Internal Server Error", "InternalError")
        if not fault:
            with self._lock:  # moto looks and then writes; a real store does it in one
                return list(self._moto(environ, start_response))
        answer: list[Any] = []
        with self._lock:
            body = b"".join(self._moto(environ, lambda *status: answer.extend(status[:2])))
        match fault:
            case "lost":
                return _error(environ, start_response, "500 Internal Server Error", "InternalError", read=False)
            case "reset":
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            case "silent":
                time.sleep(READ_TIMEOUT * 1.5)
            case "cut":
                start_response(*answer)
                if environ["REQUEST_METHOD"] == "GET" and len(body) > 1:
                    environ["werkzeug.socket"].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\0" * 8)
                    return _half(body, environ["werkzeug.socket"])
                return [body]
        start_response(*answer)
        return [body]


def _half(body: bytes, connection: socket.socket) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    connection.shutdown(socket.SHUT_RDWR)
    yield b""


def _error(
    environ: dict[str, Any], start_response: Callable[..., Any], status: str, code: str, *, read: bool = True
) -> list[bytes]:
    if read:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = f"<Error><Code>{code}</Code><Message>told by the test, {SECRET}</Message></Error>".encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
