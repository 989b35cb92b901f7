"""A walk over a folder of photos, local or behind an fsspec URL: same names, same order, whatever the disk says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import quote_from_bytes

from manifests.location import encoded_uri, filesystem, local_path

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "jpe", "png", "webp", "bmp", "tif", "tiff", "gif"})

Kind = Literal["folder", "file", "other"]


class Tree(Protocol):
    """A folder and what is below it. Paths are relative, with /, "" for the folder itself."""

    def entries(self, folder: str) -> Iterator[tuple[str, Kind]]:
        """Names in a folder, in any order; links are followed. Raises OSError where the folder cannot be read."""
        ...

    def identity(self, folder: str) -> tuple[int, int] | None:
        """What is equal for two paths exactly if they are one folder; None where there are no links. Raises OSError."""
        ...

    def read(self, file: str, limit: int) -> bytes:
        """The first ``limit`` bytes of a file. Raises OSError."""
        ...

    def uri(self, path: str) -> str:
        """The ``uri`` of a record."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """An image file. ``sidecar``: the text file of the same stem beside it, if there is one."""

    path: str
    sidecar: str | None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that looked like an image or a folder and is not used."""

    path: str
    reason: str


def open_tree(where: str) -> Tree:
    """The folder at a local path (~ allowed) or fsspec URL. Raises ValueError where there is none."""
    local = local_path(where)
    return _LocalTree(local) if local is not None else _RemoteTree(where)


def walk(tree: Tree) -> Iterator[Found | LeftOut]:
    """All image files below the folder, depth first, each folder by the bytes of its names; hidden names are skipped.

    Links are followed; a folder inside itself is left out, so the walk ends. Memory: the names in one folder and in the
    folders around it (roughly 200 bytes a name).
    """
    ancestors: list[tuple[int, int] | None] = []
    levels: list[Iterator[tuple[Kind, str, str | None]]] = []

    def enter(folder: str) -> LeftOut | None:
        try:
            identity = tree.identity(folder)
            if identity is not None and identity in ancestors:
                return LeftOut(folder, "link back to a folder around it")
            levels.append(iter(_listing(tree, folder)))
        except OSError as error:
            return LeftOut(folder, f"unreadable folder ({error.strerror or type(error).__name__})")
        ancestors.append(identity)
        return None

    refused = enter("")
    if refused:
        yield refused
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
            ancestors.pop()
            continue
        kind, path, sidecar = entry
        if kind == "folder":
            refused = enter(path)
            if refused:
                yield refused
        elif kind == "file":
            yield Found(path, sidecar)
        else:
            yield LeftOut(path, "not a file (a broken link, a pipe or a device)")


def _listing(tree: Tree, folder: str) -> Iterator[tuple[Kind, str, str | None]]:
    """Sub-folders and images of one folder in order. The folder is read at once, so that a failure leaves out all of it."""
    names: list[tuple[bytes, Kind]] = []
    sidecars: dict[str, str] = {}
    for name, kind in tree.entries(folder):
        if name.startswith("."):
            continue
        stem, _, suffix = name.rpartition(".")
        suffix = suffix.lower()
        if kind == "folder" or (stem and suffix in IMAGE_SUFFIXES):
            names.append((os.fsencode(name), kind))
        elif stem and suffix == "txt" and kind == "file":
            sidecars[stem] = min(name, sidecars.get(stem, name))
    names.sort()
    prefix = f"{folder}/" if folder else ""

    def paths() -> Iterator[tuple[Kind, str, str | None]]:
        for raw, kind in names:
            name = os.fsdecode(raw)
            sidecar = sidecars.get(name.rpartition(".")[0])
            yield kind, prefix + name, prefix + sidecar if sidecar else None

    return paths()


class _LocalTree:
    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise ValueError(f"{root} {what}; expected a folder of photos")
        self._root = str(root)
        self._uri = root.as_uri().rstrip("/")

    def entries(self, folder: str) -> Iterator[tuple[str, Kind]]:
        with os.scandir(self._at(folder)) as listing:
            for entry in listing:
                yield entry.name, _kind(entry)

    def identity(self, folder: str) -> tuple[int, int]:
        found = os.stat(self._at(folder))  # noqa: PTH116 - a Path would be built for every folder
        return found.st_dev, found.st_ino

    def read(self, file: str, limit: int) -> bytes:
        with open(self._at(file), "rb") as stream:  # noqa: PTH123 - as above, for every photo
            return stream.read(limit)

    def uri(self, path: str) -> str:
        return f"{self._uri}/{quote_from_bytes(os.fsencode(path))}"

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


def _kind(entry: os.DirEntry[str]) -> Kind:
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else "other"
    except OSError:
        return "other"


class _RemoteTree:
    def __init__(self, url: str) -> None:
        self._files, root = filesystem(url, use_listings_cache=False)
        self._root = root.rstrip("/")
        try:
            is_folder = self._files.isdir(self._root)
        except OSError as error:
            raise ValueError(f"cannot read {url}: {error}; expected a folder of photos") from error
        if not is_folder:
            raise ValueError(f"{url} does not exist or is not a folder; expected a folder of photos")

    def entries(self, folder: str) -> Iterator[tuple[str, Kind]]:
        for entry in self._files.ls(self._at(folder), detail=True):
            name = entry["name"].rstrip("/").rpartition("/")[2]
            # Object stores list a folder's own empty marker among its content.
            if entry["name"].strip("/") != self._at(folder).strip("/"):
                yield name, "folder" if entry["type"] == "directory" else "file"

    def identity(self, folder: str) -> None:
        return None

    def read(self, file: str, limit: int) -> bytes:
        with self._files.open(self._at(file), "rb") as stream:
            return stream.read(limit)

    def uri(self, path: str) -> str:
        return encoded_uri(self._files.unstrip_protocol(self._at(path)))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root
