"""A server on the loopback interface, in a thread of its own, for the time of a block."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol, TypeVar


class Served(Protocol):
    """What requests are answered from. ``closing`` is set when the block ends, so that no answer waits any longer."""

    port: int
    closing: threading.Event


S = TypeVar("S", bound=Served)


@contextmanager
def on_loopback(served: S, handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[S]:
    """``served``, with its port. ``handler`` finds it as its attribute ``served``."""
    bound = type("Handler", (handler,), {"served": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), bound) as running:
        running.daemon_threads = True
        if tls is not None:
            running.socket = tls.wrap_socket(running.socket, server_side=True)
        served.port = running.server_address[1]
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield served
        finally:
            served.closing.set()
            running.shutdown()
            thread.join()
