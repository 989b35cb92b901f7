"""EmbeddingTable: names and their vectors, as one file of the safetensors format.

    tensors   vectors (names x 64, float32), background (64)
    metadata  "embeddings": JSON with format, names, digest (of the names) and origin

Shapes: N names, C = 64 channels.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError

from trainer.embeddings.origin import WIDTH, Origin, digest_of

FORMAT = 1
_KEY = "embeddings"


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingTable:
    """vectors_NC: row i stands for names[i]. background_C: where there is none of them. float32."""

    names: tuple[str, ...]
    vectors_NC: NDArray[np.float32]
    background_C: NDArray[np.float32]
    origin: Origin

    def __post_init__(self) -> None:
        assert self.vectors_NC.shape == (len(self.names), WIDTH) and self.background_C.shape == (WIDTH,)

    @property
    def digest(self) -> str:
        """Of the names, in their order."""
        return digest_of(self.names)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    def rows(self, words: Sequence[str]) -> list[int]:
        """The row of each word, whatever its case; -1 for one that is not in the table."""
        return [self._rows.get(key_of(word), -1) for word in words]

    def check_classes(self, names: Sequence[str], *, whose: str) -> None:
        """Raises ValueError unless the table is of these classes in this order."""
        if self.names == tuple(names):
            return
        place = next((i for i, pair in enumerate(zip(self.names, names, strict=False)) if pair[0] != pair[1]), None)
        differ = "" if place is None else f", class {place} is {names[place]!r} and here {self.names[place]!r}"
        raise ValueError(
            f"the embeddings are of {len(self.names)} other classes than the {len(names)} of {whose}{differ}; "
            "run `expert-labels embed` on the store whose labels are to be used"
        )


def key_of(word: str) -> str:
    """How a word that was read stands in a table: case does not count, as in the released labels."""
    return word.strip().lower()


def table_bytes(table: EmbeddingTable) -> bytes:
    """The file that holds ``table``."""
    about = {
        "format": FORMAT,
        "digest": table.digest,
        "origin": table.origin.model_dump(mode="json"),
        "names": list(table.names),
    }
    tensors = {
        "vectors": np.ascontiguousarray(table.vectors_NC),
        "background": np.ascontiguousarray(table.background_C),
    }
    return safetensors.numpy.save(tensors, {_KEY: json.dumps(about)})


def read_table(data: bytes, *, where: str) -> EmbeddingTable:
    """The table in a file's bytes. ``where``: its name, for errors. Raises ValueError where it is none, or was damaged."""
    try:
        about = json.loads(metadata_of(data)[_KEY])
        tensors = safetensors.numpy.load(data)
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}, this version reads {FORMAT}")
        table = EmbeddingTable(
            names=tuple(about["names"]),
            vectors_NC=tensors["vectors"],
            background_C=tensors["background"],
            origin=Origin.model_validate(about["origin"]),
        )
        if table.digest != about["digest"]:
            raise ValueError("its names are not those that it was written with")
    except (SafetensorError, ValidationError, ValueError, KeyError, TypeError, AssertionError) as error:
        why = str(error).strip().partition("\n")[0] or "its numbers and its names do not fit"
        raise ValueError(
            f"{where} is no table of embeddings: {why}; remove it and run `expert-labels embed` again"
        ) from error
    return table


def metadata_of(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, which the library tells of local files only. Raises ValueError, KeyError."""
    if len(data) < 8:
        raise ValueError(f"it has {len(data)} bytes")
    (length,) = struct.unpack_from("<Q", data)
    header: dict[str, dict[str, str]] = json.loads(data[8 : 8 + length])
    return header["__metadata__"]
