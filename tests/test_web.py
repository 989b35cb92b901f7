"""Photos on the web: slow, endless, moved, private and broken, from a server on the loopback interface."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import web
from pipeline.limits import Web
from pipeline.photos import Limits, PhotoError, read_bytes, read_photo
from tests.photo_files import encode, picture
from tests.test_photos import record_of
from tests.web_server import WebServer, web_server

PHOTO = encode(picture(), "PNG")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(web, "FIRST_PAUSE", 0.02)
    with web_server() as running:
        running.files["/a.png"] = PHOTO
        yield running


def limits(**settings: Any) -> Limits:
    """Those of a job that may look at the loopback interface."""
    sizes = {"max_bytes": settings.pop("max_bytes")} if "max_bytes" in settings else {}
    return Limits(web=Web(**{"private": True, "timeout": 5} | settings), **sizes)


def reason(uri: str, limit: Limits) -> str:
    with pytest.raises(PhotoError) as error:
        read_bytes(uri, limit)
    assert "\n" not in error.value.reason and len(error.value.reason) < 500
    return error.value.reason


def test_a_photo_on_the_web(server: WebServer) -> None:
    photo = read_photo(record_of(server.url("/a.png"), ("caption",)), limits())
    assert photo.data == PHOTO and photo.captions == ("caption",) and photo.format == "png"


def test_nothing_of_the_environment_goes_out(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\ndefault login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://me:secret@127.0.0.1:9")
    assert read_bytes(server.url("/a.png?size=1&x=%20"), limits(user_agent="a labeller")) == PHOTO
    ((path, headers),) = server.asked
    assert path == "/a.png?size=1&x=%20"
    assert headers == {
        "Host": f"127.0.0.1:{server.port}",
        "User-Agent": "a labeller",
        "Accept": "image/*, */*;q=0.5",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }


@pytest.mark.parametrize(
    ("status", "code", "requests"),
    [
        (404, "missing: HTTP 404 Not Found", 1), (410, "missing: HTTP 410 Gone", 1), (403, "refused: HTTP 403", 1),
        (401, "refused: HTTP 401", 1), (204, "refused: HTTP 204", 1), (302, "refused: HTTP 302 without", 1),
        (429, "refused: HTTP 429", 3), (500, "server error: HTTP 500", 3), (503, "server error: HTTP 503", 3),
        (501, "server error: HTTP 501", 1),
    ],
)  # fmt: skip
def test_every_status_has_its_reason_and_what_may_pass_is_tried_again(
    server: WebServer, status: int, code: str, requests: int
) -> None:
    server.answers["/a.png"] = [status]
    assert reason(server.url("/a.png"), limits()).startswith(code)
    assert server.count("/a.png") == requests


@pytest.mark.parametrize("trouble", [429, 500, 502, 503, 504, "reset", "short"])
def test_trouble_that_passes(server: WebServer, trouble: int | str) -> None:
    server.answers["/a.png"] = [trouble, trouble, 200]
    assert read_bytes(server.url("/a.png"), limits()) == PHOTO
    assert server.count("/a.png") == 3
    server.answers["/a.png"] = [trouble, 200]
    assert reason(server.url("/a.png"), limits(retries=0))
    assert server.count("/a.png") == 4


def test_a_server_says_how_long_to_wait(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(web.time, "sleep", pauses.append)
    server.answers["/a.png"] = [(429, {"Retry-After": "3"}), (503, {"Retry-After": "86400"}), 200]
    assert read_bytes(server.url("/a.png"), limits()) == PHOTO
    assert pauses == [3.0, web.LONGEST_PAUSE]
    server.answers["/a.png"] = [500]
    pauses.clear()
    monkeypatch.setattr(web, "FIRST_PAUSE", 1.0)
    reason(server.url("/a.png"), limits(retries=5))
    assert all(2**n / 2 <= pause <= 2**n for n, pause in enumerate(pauses)) and len(pauses) == 5


@pytest.mark.parametrize("way", ["drip", "drip headers", "silent"])
def test_a_slow_server_is_left_in_time(server: WebServer, way: str) -> None:
    server.answers["/a.png"] = [way]
    start = time.monotonic()
    assert reason(server.url("/a.png"), limits(timeout=0.6)) == "timed out: more than 0.6 seconds"
    assert time.monotonic() - start < 2 and server.count("/a.png") == 1


def test_a_slow_name_server_counts(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["/a.png"] = ["drip"]
    real = socket.getaddrinfo

    def slow(*args: Any, **more: Any) -> Any:
        time.sleep(0.4)
        return real(*args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    start = time.monotonic()
    assert reason(server.url("/a.png"), limits(timeout=0.3)).startswith("timed out: ")
    assert time.monotonic() - start < 1.5


def test_redirects_share_the_time(server: WebServer) -> None:
    server.pause = 0.25
    server.answers["/loop"] = [(302, {"Location": "/loop"})]
    start = time.monotonic()
    assert reason(server.url("/loop"), limits(timeout=0.6, redirects=100)).startswith("timed out: ")
    assert time.monotonic() - start < 2


def test_an_endless_body_ends_at_the_limit(server: WebServer) -> None:
    server.answers["/a.png"] = ["endless"]
    assert reason(server.url("/a.png"), limits(max_bytes=1_000_000)).startswith("too many bytes: ")
    server.answers["/a.png"] = [(200, {"Content-Length": str(10**12)})]
    assert reason(server.url("/a.png"), limits()).startswith(f"too many bytes: {10**12}, ")
    assert server.count("/a.png") == 2


def test_a_bomb_is_not_unpacked(server: WebServer) -> None:
    """200 MB of zeros in 1 MB of gzip, which nobody asked for."""
    server.answers["/a.png"] = ["bomb"]
    tracemalloc.start()
    try:
        assert reason(server.url("/a.png"), limits(max_bytes=3_000_000, timeout=30)).startswith("too many bytes: ")
        assert tracemalloc.get_traced_memory()[1] < 15_000_000
    finally:
        tracemalloc.stop()


def test_encodings_that_nobody_asked_for(server: WebServer) -> None:
    server.answers["/a.png"] = ["gzip"]
    assert read_bytes(server.url("/a.png"), limits()) == PHOTO
    server.answers["/a.png"] = ["not gzip"]
    assert reason(server.url("/a.png"), limits()).startswith("corrupt: ")


def test_bodies_of_another_length_than_was_said(server: WebServer) -> None:
    server.answers["/a.png"] = ["short"]
    assert reason(server.url("/a.png"), limits(retries=0)) == f"cut off: before the end of {len(PHOTO) + 10} bytes"
    server.answers["/a.png"] = ["long"]
    assert read_bytes(server.url("/a.png"), limits()) == PHOTO
    server.answers["/a.png"] = ["garbage"]
    assert reason(server.url("/a.png"), limits()).startswith("no connection: ")


def test_redirects_are_followed_and_counted(server: WebServer) -> None:
    server.files["/ä b.png"] = server.files["/%C3%A4%20b.png"] = PHOTO
    for status in (301, 302, 303, 307, 308):
        server.answers["/moved"] = [(status, {"Location": "a.png"})]
        assert read_bytes(server.url("/moved"), limits()) == PHOTO
    server.answers["/raw"] = [(302, {"Location": "/ä b.png".encode().decode("latin-1")})]
    assert read_bytes(server.url("/raw"), limits()) == PHOTO
    server.answers["/loop"] = [(302, {"Location": "/loop"})]
    before = server.count("/loop")
    assert reason(server.url("/loop"), limits(redirects=3)).startswith("too many redirects: more than 3")
    assert server.count("/loop") == before + 4
    assert reason(server.url("/moved"), limits(redirects=0)).startswith("too many redirects: ")


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/a.jpg",
        "gopher://127.0.0.1/",
        "http://me:secret@127.0.0.1/",
        "data:,x",
        "http://[::1/a.png",
    ],
)
def test_a_redirect_leads_to_no_other_kind_of_address(server: WebServer, location: str) -> None:
    server.answers["/moved"] = [(302, {"Location": location})]
    assert reason(server.url("/moved"), limits()).startswith("forbidden address: ")


# ------------------------------------------------------------------------------------------------ whom we talk to


def answering(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[list[str]]]) -> list[str]:
    """A name server: each look-up of a host takes the next of its answers."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **more: Any) -> Any:
        if host not in names:
            return real(host, port, *args, **more)
        asked.append(host)
        answers = names[host]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [answer for address in found for answer in real(address, port, *args, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1",
     "169.254.169.254", "[fe80::1]", "192.168.1.1", "100.64.0.1", "[fd00::1]", "224.0.0.1", "[64:ff9b::7f00:1]",
     "[2002:7f00:1::]", "[::7f00:1]", "[fec0::1]", "255.255.255.255", "198.18.0.1"],
)  # fmt: skip
def test_private_addresses_in_every_spelling_are_forbidden(server: WebServer, host: str) -> None:
    assert reason(f"http://{host}:{server.port}/a.png", Limits()).startswith("forbidden address: ")
    assert server.asked == []


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address: str) -> None:
    assert web.is_public(address)


def test_a_redirect_to_a_private_address_is_forbidden(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host is taken for a public one, the second is what it is."""
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1")
    answering(monkeypatch, {"public.example": [["127.0.0.1"]], "inside.example": [["127.0.0.2"]]})
    public = f"http://public.example:{server.port}"
    for location in (f"http://inside.example:{server.port}/a.png", "http://169.254.169.254/latest/meta-data/"):
        server.answers["/moved"] = [(302, {"Location": location})]
        assert reason(f"{public}/moved", Limits()).startswith("forbidden address: ")
    server.answers["/moved"] = [(302, {"Location": "/a.png"})]
    assert read_bytes(f"{public}/moved", Limits()) == PHOTO
    assert server.count("/a.png") == 1


def test_a_name_that_changes_its_address_gains_nothing(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: public when it is checked, private when it is connected to. There is one look-up for both."""
    asked = answering(monkeypatch, {"rebind.example": [["192.0.2.1"], ["127.0.0.1"]]})
    monkeypatch.setattr(web, "is_public", lambda address: address == "192.0.2.1")
    connected: list[Any] = []

    def connect(self: socket.socket, address: Any) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert reason(f"http://rebind.example:{server.port}/a.png", Limits()).startswith("no connection: ")
    assert connected == [("192.0.2.1", server.port)] and asked == ["rebind.example"]


def test_of_several_addresses_the_private_ones_are_not_tried(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, {"both.example": [["127.0.0.2", "127.0.0.1"]]})
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1")
    assert read_bytes(f"http://both.example:{server.port}/a.png", Limits()) == PHOTO


def test_the_https_connection_is_checked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason("https://127.0.0.1:9/a.png", Limits()).startswith("forbidden address: ")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def hang_up() -> None:
            connection, _ = listening.accept()
            connection.recv(100)
            connection.sendall(b"this is not TLS")
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        address = f"https://127.0.0.1:{listening.getsockname()[1]}/a.png"
        assert reason(address, limits(retries=0)).startswith("no connection: SSLError: ")
        thread.join()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_certificates_are_verified(server: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tls.example -keyout key.pem -out cert.pem"
    names = ["-addext", "subjectAltName=DNS:tls.example"]
    subprocess.run([*command.split(), *names], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    answering(monkeypatch, {"tls.example": [["127.0.0.1"]], "other.example": [["127.0.0.1"]]})
    with web_server(context) as secure:
        secure.files["/a.png"] = PHOTO
        secure.answers["/drip"] = ["drip"]
        address = f"https://tls.example:{secure.port}"
        assert reason(f"{address}/a.png", limits()).startswith("no connection: SSLCertVerificationError: ")
        trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        monkeypatch.setattr(web, "_trust", lambda: trusting)
        assert read_bytes(f"{address}/a.png", limits()) == PHOTO
        server.answers["/moved"] = [(301, {"Location": f"{address}/a.png"})]
        assert read_bytes(server.url("/moved"), limits()) == PHOTO
        assert reason(f"https://other.example:{secure.port}/a.png", limits()).startswith("no connection: SSLCert")
        assert reason(f"{address}/a.png", Limits()).startswith("forbidden address: ")
        start = time.monotonic()
        assert reason(f"{address}/drip", limits(timeout=0.5)).startswith("timed out: ")
        assert time.monotonic() - start < 2


def test_an_address_that_does_not_answer_leaves_time_for_another(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, {"two.example": [["192.0.2.1", "127.0.0.1"]]})
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if address[0] == "192.0.2.1":
            time.sleep(self.gettimeout() or 60)
            raise TimeoutError
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert read_bytes(f"http://two.example:{server.port}/a.png", limits(timeout=1)) == PHOTO


def test_a_forked_process_reads_too(server: WebServer) -> None:
    """As workers of a loader may be: the parent's slots are taken by threads that the child does not have."""
    limit = limits(connections=1)
    server.answers["/slow"] = ["silent"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(reason, server.url("/slow"), limits(connections=1, timeout=3))
        while not server.count("/slow"):
            time.sleep(0.01)
        child = os.fork()
        if not child:
            try:
                os._exit(0 if read_bytes(server.url("/a.png"), limit) == PHOTO else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert not waiting.done()
        server.closing.set()
        waiting.result()


def test_no_host_and_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert reason(f"http://127.0.0.1:{port}/", limits()).startswith("no connection: ConnectionRefusedError")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert reason("http://nowhere.example/", limits()).startswith("no connection: gaierror")
    assert reason(f"http://{'a' * 70}.example/", limits()).startswith("no connection: ")
    for address in ("http://user:secret@host/a.jpg", "http:///a.jpg"):
        assert reason(address, limits()).startswith("forbidden address: ")


# ------------------------------------------------------------------------------------------------ manners


def test_connections_at_a_time_are_bounded(server: WebServer) -> None:
    server.pause = 0.05
    limit = limits(connections=3)
    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(lambda _: read_bytes(server.url("/a.png"), limit), range(24))) == {PHOTO}
    assert server.most_at_work == 3


@pytest.mark.parametrize(
    ("tags", "used"),
    [("noai", False), ("nofollow, NoImageAI", False), ("otherbot: noai", True), ("otherbot: nofollow, noai", True),
     ("expert-labels: noindex", False), ("nofollow", True), ("unavailable_after: 25 Jun 2030 15:00:00 PST", True)],
)  # fmt: skip
def test_owners_can_opt_out(server: WebServer, tags: str, used: bool) -> None:
    server.answers["/a.png"] = [(200, {"X-Robots-Tag": tags})]
    if used:
        assert read_bytes(server.url("/a.png"), limits()) == PHOTO
    else:
        assert reason(server.url("/a.png"), limits()).startswith("opted out: X-Robots-Tag says ")
    assert read_bytes(server.url("/a.png"), limits(opt_out=False)) == PHOTO


def test_a_page_in_place_of_a_photo_is_told(server: WebServer) -> None:
    server.files["/page"] = b"<!DOCTYPE html><html>gone</html>"
    server.files["/nothing"] = b""
    for path, why in (("/page", "not an image: HTML"), ("/nothing", "empty file: 0 bytes")):
        with pytest.raises(PhotoError, match=why):
            read_photo(record_of(server.url(path)), limits())


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_thread_and_no_socket_is_left(server: WebServer) -> None:
    server.answers["/slow"] = ["silent"]
    read_bytes(server.url("/a.png"), limits())
    files, threads = open_files(), set(threading.enumerate())
    for _ in range(20):
        read_bytes(server.url("/a.png"), limits())
        reason(server.url("/none"), limits())
    reason(server.url("/slow"), limits(timeout=0.2))
    server.closing.set()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        # Connections of the server are of this process too, and end a moment later.
        if open_files() <= files and set(threading.enumerate()) <= threads:
            return
        time.sleep(0.02)
    raise AssertionError((open_files(), files, threading.enumerate()))


def test_settings_are_checked() -> None:
    for wrong in ({"timeout": 0}, {"timeout": float("inf")}, {"retries": -1}, {"connections": 0}, {"proxy": "x"},
                  {"user_agent": ""}, {"user_agent": "a\r\nX: y"}, {"user_agent": "ü"}):  # fmt: skip
        with pytest.raises(ValidationError):
            Web(**wrong)
