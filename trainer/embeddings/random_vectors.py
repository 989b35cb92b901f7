"""Vectors without CLIP: a seeded random projection of the characters of a name. For tests, demos and experiments on scenes.

    "cone" -> ^cone$ -> its runs of 1, 2 and 3 characters -> a random vector for each -> their sum, scaled

There is no meaning in them: "cat" is nearer to "car" than to "kitten". But names can be told apart by them, a name has the same
vector everywhere, and what is spelled on a sign can be told from its vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.embeddings.origin import BACKGROUND, WIDTH, Origin

LONGEST_RUN = 3
#: Length of every vector: about what the released ones have.
LENGTH = 6.0


class RandomEncoder:
    """Names to vectors of length 6. Nothing is loaded, and nothing depends on the machine."""

    def __init__(self, *, seed: int = 0) -> None:
        self.origin = Origin(
            method="random",
            encoder=f"random projection of runs of 1 to {LONGEST_RUN} characters",
            seed=seed,
            reduction="none",
            licence="none",
            commercial_use=True,
        )
        self._runs: dict[str, NDArray[np.float64]] = {}

    def classes(self, names: Sequence[str], *, whose: str) -> NDArray[np.float32]:
        return self.words(names)

    def words(self, words: Sequence[str]) -> NDArray[np.float32]:
        sums_NC = np.array([self._sum(word) for word in words]).reshape(-1, WIDTH)
        return (LENGTH * sums_NC / np.linalg.norm(sums_NC, axis=1, keepdims=True)).astype(np.float32)

    def background(self) -> NDArray[np.float32]:
        return self.words([BACKGROUND])[0]

    def _sum(self, text: str) -> NDArray[np.float64]:
        marked = f"^{text.strip().lower()}$"
        spans = [(begin, begin + n) for n in range(1, LONGEST_RUN + 1) for begin in range(len(marked) - n + 1)]
        return np.sum([self._of_run(marked[begin:end]) for begin, end in spans], axis=0)

    def _of_run(self, run: str) -> NDArray[np.float64]:
        if run not in self._runs:
            digest = hashlib.blake2b(f"{self.origin.seed} {run}".encode(), digest_size=16).digest()
            rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
            self._runs[run] = rng.standard_normal(WIDTH)
        return self._runs[run]
