"""The folder that the image names of an annotation file are relative to."""

from __future__ import annotations

import os
import posixpath
from urllib.parse import quote_from_bytes

from manifests.location import encoded_uri, filesystem, local_path

OUTSIDE = "file name leads out of the image folder"
MISSING = "image file is missing"


class ImageRoot:
    """A local folder (~ allowed) or fsspec URL. Raises ValueError where a local path is no folder.

    what: which field of the source it is, for messages; holds: what should lie there.
    """

    def __init__(self, where: str, *, holds: str, what: str = "images") -> None:
        local = local_path(where)
        if local is not None and not local.is_dir():
            raise ValueError(f"{what}: {local} is not a folder; expected the folder that holds {holds}")
        self.local = local
        self._url = where.rstrip("/")
        self._uri = local.as_uri().rstrip("/") if local else ""
        self._listed: frozenset[str] | None = None

    def uri(self, path: str) -> str | None:
        """A record's ``uri``; None for a path that leads out of the folder or cannot be a file name."""
        clean = posixpath.normpath(path)
        if clean.startswith(("/", "../")) or clean in ("..", ".") or "\0" in clean:
            return None
        try:
            if self.local is not None:
                return f"{self._uri}/{quote_from_bytes(os.fsencode(clean))}"
            return encoded_uri(f"{self._url}/{clean}")
        except UnicodeEncodeError:
            return None

    def has(self, path: str) -> bool:
        """Whether there is such a file. A remote folder is listed once, and held in memory: some 150 bytes a file."""
        clean = posixpath.normpath(path)
        if self.local is not None:
            return os.path.isfile(f"{self.local}/{clean}")  # noqa: PTH113 - a Path would be built for millions
        if self._listed is None:
            files, inside = filesystem(self._url)
            start = len(inside.rstrip("/")) + 1
            self._listed = frozenset(name[start:] for name in files.find(inside))
        return clean in self._listed
