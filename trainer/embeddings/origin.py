"""Origin: where vectors come from. A model trained with vectors of one origin makes nothing of those of another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator

#: Channels of every vector.
WIDTH = 64
#: The text whose vector stands where there is no class and no word.
BACKGROUND = "background"

Method = Literal["clip", "random", "released"]


class Encoder(Protocol):
    """What makes vectors, all of one ``origin``. Arrays are float32, one row of 64 for each name, in order."""

    @property
    def origin(self) -> Origin: ...

    def classes(self, names: Sequence[str], *, whose: str) -> NDArray[np.float32]:
        """``whose`` classes they are, for errors. Raises ValueError where there is none for these."""
        ...

    def words(self, words: Sequence[str]) -> NDArray[np.float32]:
        """Of words as `key_of` writes them."""
        ...

    def background(self) -> NDArray[np.float32]:
        """One vector: where there is no class and no word."""
        ...


class Origin(BaseModel):
    """What decides a vector, but for the name that it stands for.

    method    clip: CLIP's text embedding, reduced; released: the same, as the authors of Prismer made them; random: no meaning
              in it, names that are spelled alike are near
    encoder   the network with the digest of its weights, or the random projection
    seed      of the random projection
    prompt    what becomes of a class name before it is encoded, with {} in its place; words are encoded as they are
    reduction from the encoder's width to 64, with the digest of its numbers
    licence, commercial_use   of the vectors
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method
    encoder: str
    seed: int = 0
    prompt: str = "{}"
    reduction: str
    licence: str
    commercial_use: bool

    @field_validator("prompt")
    @classmethod
    def _has_a_place_for_the_name(cls, prompt: str) -> str:
        if prompt.count("{}") != 1 or any(brace in prompt.replace("{}", "") for brace in "{}"):
            raise ValueError(f"prompt {prompt!r}; expected a text with one {{}} in the place of the name")
        return prompt

    def difference(self, other: Origin) -> str | None:
        """In what vectors of this origin differ from those of the other, in words; None where they mean the same."""
        for field in ("method", "encoder", "seed", "prompt", "reduction"):
            ours, theirs = getattr(self, field), getattr(other, field)
            if ours != theirs:
                return f"{field} {ours!r} in place of {theirs!r}"
        return None

    def check_same(self, begun: Origin, *, where: str) -> None:
        """Raises ValueError unless these vectors mean to a model what those did that ``where`` was trained with."""
        if difference := self.difference(begun):
            raise ValueError(
                f"these are not the embeddings that {where} was trained with: {difference}; name the folder of those, or train anew"
            )


def digest_of(names: Sequence[str]) -> str:
    """16 hexadecimal digits that tell a list of names from any other, order included."""
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:16]
