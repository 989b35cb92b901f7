"""Checkpoint: the files of one set of weights, where they come from and what one may do with them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, field_validator

#: A checkpoint's name is a folder's name: nothing that could climb out of the weights folder.
CHECKPOINT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SHA256 = re.compile(r"[0-9a-f]{64}")


class CheckpointFile(BaseModel):
    """One file of a checkpoint.

    path      in the checkpoint's folder, e.g. "model.safetensors"
    hub_path  its path in the Hub repository, where that differs
    url       direct URL, where it does not come from the Hub
    member    the file inside the zip archive at ``url``, where that is an archive
    or_else   what is taken from the Hub where ``path`` is not there ("pytorch_model.bin" for "model.safetensors"), under its
              own name
    sha256    of ``path`` as published; "" where nobody publishes one: then the lock records it at the first fetch
    bytes     likewise, 0 where unknown
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    hub_path: str = ""
    url: str = ""
    member: str = ""
    or_else: str = ""
    sha256: str = ""
    bytes: int = Field(0, ge=0)

    @field_validator("path", "or_else")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if path and (".." in parts or path.startswith("/") or "\\" in path):
            raise ValueError(f"path {path!r}: expected one inside the checkpoint's folder")
        return path

    @field_validator("url")
    @classmethod
    def _is_of_the_web(cls, url: str) -> str:
        if url and not url.startswith(("https://", "http://")):
            raise ValueError(f"url {url!r}: expected http or https")
        return url

    @field_validator("sha256")
    @classmethod
    def _is_a_digest(cls, sha256: str) -> str:
        if sha256 and not SHA256.fullmatch(sha256):
            raise ValueError(f"sha256 {sha256!r}: expected 64 lower case hexadecimal digits, or none")
        return sha256


class Checkpoint(BaseModel):
    """One set of frozen weights.

    name      folder in the weights folder, e.g. "dpt-hybrid-midas"
    repo      Hub repository; "" where all files have a URL, or must be put there by hand
    revision  commit of the repository, pinned where it is known; "" is the newest at the first fetch, which the lock records
    page      where a person reads about it, and can get it by hand
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    repo: str = ""
    revision: str = ""
    files: tuple[CheckpointFile, ...] = Field(min_length=1)
    licence: str
    commercial_use: bool
    page: str

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not CHECKPOINT_NAME.fullmatch(name):
            raise ValueError(f"checkpoint name {name!r}: expected letters, digits, '.', '_' and '-'")
        return name
