"""A Hub and a file server on this machine, with everything that goes wrong on real ones; and an expert that needs weights."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np

from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import DenseMap, Label
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile
from expert_zoo.weights.folder import WeightsFolder
from tests.loopback import on_loopback
from tests.stand_ins import GREY, card


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Server:
    """``files``: bytes by path, for plain URLs. ``repositories``: name -> commit -> path -> bytes; the last commit is the newest.

    ``trouble`` by path, each entry for one request: a status code, "drop N" (the connection breaks after N bytes), "stall N"
    (it sends N bytes, then nothing), "page" (HTML), "whole" (no ranges).
    """

    files: dict[str, bytes] = field(default_factory=dict)
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    trouble: dict[str, list[int | str]] = field(default_factory=dict)
    seen: list[tuple[str, str, str]] = field(default_factory=list)  # (path, Range, Authorization)
    port: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ranges(self, path: str) -> list[str]:
        """The Range header of each request for ``path``, "" for none."""
        return [asked for seen, asked, _ in self.seen if seen == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Server

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        served = self.served
        served.seen.append((path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
        trouble = served.trouble.get(path, [])
        what = trouble.pop(0) if trouble else None
        parts = path.strip("/").split("/")
        if isinstance(what, int):
            self._say(what, b"no")
        elif what == "page":
            self._say(200, b"<html>confirm</html>", kind="text/html")
        elif parts[:2] == ["api", "models"]:
            self._model("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "")
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        elif path in served.files:
            self._send(served.files[path], what)
        else:
            self._say(404, b"nothing here", code="EntryNotFound")

    def _model(self, name: str, revision: str) -> None:
        commits = self.served.repositories.get(name)
        if commits is None:
            return self._say(404, b"{}", code="RepoNotFound")
        if revision and revision not in commits:
            return self._say(404, b"{}", code="RevisionNotFound")
        commit = revision or list(commits)[-1]
        siblings = []
        for path, data in commits[commit].items():
            big = {"lfs": {"sha256": sha256(data), "size": len(data), "pointerSize": 130}} if len(data) > 100 else {}
            siblings.append({"rfilename": path, "size": len(data), "blobId": "b", **big})
        about = {
            "id": name,
            "modelId": name,
            "sha": commit,
            "siblings": siblings,
            "gated": "auto" if name in self.served.gated else False,
        }
        return self._say(200, json.dumps(about).encode(), kind="application/json")

    def _resolve(self, name: str, commit: str, path: str) -> None:
        """As the Hub does: small files at once, large ones by way of another host."""
        data = self.served.repositories[name][commit].get(path)
        if name in self.served.gated and self.headers.get("Authorization") != "Bearer good":
            return self._say(403, b"", code="GatedRepo")
        if data is None:
            return self._say(404, b"", code="EntryNotFound")
        if len(data) <= 100:
            return self._send(data, None)
        self.served.files[f"/cdn/{sha256(data)}"] = data
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.served.port}/cdn/{sha256(data)}")
        self.send_header("Content-Length", "0")
        return self.end_headers()

    def _send(self, data: bytes, what: int | str | None) -> None:
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and what != "whole" else 0
        if start and start >= len(data):
            return self._say(416, b"")
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        verb, _, count = str(what).partition(" ")
        if verb in ("drop", "stall"):
            self.wfile.write(data[start : start + int(count)])
            self.wfile.flush()
            if verb == "stall":
                self.served.closing.wait(30)
            self.close_connection = True
        else:
            self.wfile.write(data[start:])
        return None

    def _say(self, status: int, body: bytes, *, code: str = "", kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Server]:
    with on_loopback(Server(), _Handler) as server:
        yield server


def checkpoint(name: str = "grey", **more: Any) -> Checkpoint:
    about: dict[str, Any] = {
        "files": (
            CheckpointFile(path="config.json"),
            CheckpointFile(path="model.safetensors", or_else="pytorch_model.bin"),
        ),
        "repo": f"lab/{name}",
        "licence": "MIT",
        "commercial_use": True,
        "page": f"https://example.org/{name}",
    }
    return Checkpoint(name=name, **(about | more))


class Weighty(Expert):
    """Brightness plus what its weights file says: an expert whose labels depend on weights that are fetched."""

    def __init__(
        self, *, url: str = "", free: bool = True, recipe: str = "best", weights_folder: str | None = None
    ) -> None:
        file = CheckpointFile(path="offset.txt", url=url)
        self.checkpoint = checkpoint(
            "weighty", repo="", files=(file,), licence="MIT" if free else "CC-BY-NC-4.0", commercial_use=free
        )
        self.folder = WeightsFolder(weights_folder)
        self.card = card(
            "weighty",
            GREY,
            weights=self.folder.weights(self.checkpoint),
            processing={"recipe": recipe},
            licence=self.checkpoint.licence,
            commercial_use=free,
        )
        self._offset: float | None = None

    def load(self, device: str) -> None:
        folder = self.folder.verified(self.checkpoint, expert="weighty")
        self._offset = float((folder / "offset.txt").read_text())

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        assert self._offset is not None
        return [
            Label.ok(DenseMap(photo.pixels_HW3[::8, ::8].mean(axis=2, dtype=np.float32) / 255 + self._offset))
            for photo in photos
        ]
