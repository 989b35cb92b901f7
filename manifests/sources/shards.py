"""Shards of pictures as img2dataset and WebDataset lay them down: which there are, and what is in one.

00000.tar    00000.parquet    00000_stats.json        --output_format webdataset
00000/       00000.parquet    00000_stats.json        --output_format files
             00000.parquet    00000_stats.json        --output_format parquet: the pictures are in a column
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote_from_bytes

from manifests.location import bytes_uri
from manifests.sources.tree import IMAGE_SUFFIXES, Tree
from manifests.tar_index import COMPRESSED, Member, members, opened

#: Endings of pictures: those that folders have, and others that writers of tars have used.
ENDINGS = IMAGE_SUFFIXES | {"jfif", "avif", "jp2", "ppm", "pgm", "img", "image"}
#: A text beside a picture that is larger is not read.
SIDECAR_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Paths below the root, "" for what there is not. ``stem``: the path without ending, as "00000" or "part-2/00000"."""

    stem: str
    tar: str = ""
    folder: str = ""
    parquet: str = ""
    stats: str = ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file, or ``count`` of them, that cannot be used."""

    what: str
    reason: str
    count: int = 1


def shards(tree: Tree) -> Iterator[Shard | LeftOut]:
    """All shards below the root in the order of their names, folder by folder."""
    yield from _shards(tree, "", ())


def _shards(tree: Tree, folder: str, around: tuple[object, ...]) -> Iterator[Shard | LeftOut]:
    try:
        identity = tree.identity(folder)
        names = {name: kind for name, kind in tree.entries(folder) if not name.startswith((".", "_"))}
    except OSError as error:
        yield LeftOut(folder, f"unreadable folder ({error.strerror or type(error).__name__})")
        return
    if identity is not None and identity in around:
        yield LeftOut(folder, "link back to a folder around it")
        return
    prefix = f"{folder}/" if folder else ""
    files = {name for name, kind in names.items() if kind == "file"}
    for name in sorted(names):
        path = prefix + name
        stem, _, ending = path.rpartition(".")
        bare = name.rpartition(".")[0]
        parquet, stats = (
            prefix + beside if beside in files else "" for beside in (f"{bare}.parquet", f"{bare}_stats.json")
        )
        if names[name] == "folder":
            parquet, stats = (
                prefix + beside if beside in files else "" for beside in (f"{name}.parquet", f"{name}_stats.json")
            )
            if parquet or stats or re.fullmatch(r"\d+", name):
                yield Shard(stem=path, folder=path, parquet=parquet, stats=stats)
            else:
                yield from _shards(tree, path, (*around, identity))
        elif ending == "tar":
            yield Shard(stem=stem, tar=path, parquet=parquet, stats=stats)
        elif ending == "parquet" and f"{bare}.tar" not in files and names.get(bare) != "folder":
            yield Shard(stem=stem, parquet=path, stats=stats)
        elif re.search(r"\.(tar\.\w+|tgz|tbz2?|txz)$", name):
            yield LeftOut(path, COMPRESSED)
        elif ending == "tfrecord":
            yield LeftOut(path, "TFRecord; let img2dataset write webdataset, files or parquet")


class Pictures(Protocol):
    """The pictures of a shard."""

    @property
    def uris(self) -> dict[str, str]:
        """The ``uri`` of each picture by its key, in the order of the shard."""
        ...

    @property
    def left_out(self) -> list[LeftOut]: ...

    def sidecar(self, key: str, ending: str) -> bytes | None:
        """What lies beside a picture, as its "txt" or "json"; None where there is no such file, or one too large."""
        ...


@dataclass(slots=True)
class TarPictures:
    """What a tar holds. Memory: about 600 bytes a picture, and its texts where they were asked for."""

    uri: str
    uris: dict[str, str] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    beside: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    texts: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def sidecar(self, key: str, ending: str) -> bytes | None:
        if (key, ending) in self.texts or (key, ending) not in self.beside:
            return self.texts.get((key, ending))
        start, end = self.beside[key, ending]
        with opened(self.uri) as tar:
            return tar.read(start, end - start)


def pictures_of_tar(uri: str, *, ending: str | None, texts: bool) -> TarPictures:
    """The tar whose ``uri`` is given, of which only the headers are read, and with ``texts`` what lies beside pictures.

    ``ending``: of pictures, None for all of ENDINGS. A key is a name up to the first dot after its last slash, as in
    WebDataset. Raises OSError.
    """
    found = TarPictures(uri)
    with opened(uri) as tar:
        for member in members(tar):
            name, start, end, trouble = member
            if trouble:
                found.left_out.append(LeftOut(_printable(member), trouble))
                continue
            slash = name.rfind("/")
            dot = name.find(".", slash + 1)
            if dot <= slash + 1:  # no ending, or a hidden file
                continue
            key, kind = name[:dot], name[dot + 1 :].lower()
            if slash > 0:
                key = key.removeprefix("./")
            if kind == "txt" or kind == "json":
                if end - start <= SIDECAR_BYTES:
                    found.beside[key, kind] = start, end
                    if texts:
                        found.texts[key, kind] = tar.read(start, end - start)
            elif kind == ending if ending else kind.rpartition(".")[2] in ENDINGS:
                if key in found.uris:
                    found.left_out.append(LeftOut(_printable(member), "second picture of one sample"))
                else:
                    found.uris[key] = bytes_uri(uri, start, end)
    return found


@dataclass(slots=True)
class FolderPictures:
    """What a folder holds."""

    tree: Tree
    uris: dict[str, str] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    beside: dict[tuple[str, str], str] = field(default_factory=dict)

    def sidecar(self, key: str, ending: str) -> bytes | None:
        path = self.beside.get((key, ending))
        data = self.tree.read(path, SIDECAR_BYTES + 1) if path is not None else None
        return data if data is not None and len(data) <= SIDECAR_BYTES else None


def pictures_of_folder(tree: Tree, folder: str, *, ending: str | None) -> FolderPictures:
    """The folder at that path, as `pictures_of_tar`. Raises OSError."""
    found = FolderPictures(tree)
    root = tree.uri(folder)
    for name, kind in sorted(tree.entries(folder)):
        key, dot, after = name.partition(".")
        after = after.lower()
        if not key or not dot:
            continue
        if after in ("txt", "json"):
            found.beside[key, after] = f"{folder}/{name}"
        elif after == ending if ending else after.rpartition(".")[2] in ENDINGS:
            if kind != "file":
                found.left_out.append(LeftOut(name, "not a file (a broken link, a pipe or a device)"))
            elif key in found.uris:
                found.left_out.append(LeftOut(name, "second picture of one sample"))
            else:
                found.uris[key] = f"{root}/{quote_from_bytes(name.encode('utf-8', 'surrogateescape'))}"
    return found


def _printable(member: Member) -> str:
    return (
        (member.name or f"byte {member.start}").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    )
