"""Vectors that stand for words and classes, in files of PyTorch as the released code of Prismer reads them."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from expert_zoo.card import ExpertCard
from pipeline.errors import StoreError


class Vectors:
    """Of the embeddings folder ``url``."""

    def __init__(self, url: str) -> None:
        from trainer.embeddings.folder import Embeddings

        self._folder = Embeddings(url)
        self.url = self._folder.url
        self._words: Any = None
        self._lock = threading.Lock()

    def check(self, cards: Iterable[ExpertCard]) -> None:
        """Raises StoreError where the folder lacks what these columns name, but single words, which are found out as they come."""
        try:
            for card in cards:
                if card.spec.kind == "words":
                    self._folder.words()
                elif card.spec.class_names:
                    self._folder.classes(card)
        except ValueError as error:
            raise StoreError(str(error)) from error

    def word_file(self, texts: list[str]) -> bytes:
        """The file of an image's words, numbered in their order. Raises StoreError for a word that the folder lacks.
        Thread-safe.
        """
        import torch

        with self._lock:
            if self._words is None:
                self._words = self._folder.words()
        rows = self._words.rows(texts)
        unknown = [text for text, row in zip(texts, rows, strict=True) if row < 0 and text.strip()]
        if unknown:
            raise StoreError(
                f"{self.url} has no vector of the word {unknown[0]!r}; run `expert-labels embed` on the store again"
            )
        vectors_NC = torch.from_numpy(self._words.vectors_NC[rows])
        background_C = torch.from_numpy(self._words.background_C)
        # Each vector by itself: a row of a table would take the whole table along.
        return _saved(
            {
                number: {"features": (vectors_NC[number] if row >= 0 else background_C).clone(), "text": text}
                for number, (row, text) in enumerate(zip(rows, texts, strict=True))
            }
        )

    def feature_files(self, classes: Mapping[str, ExpertCard]) -> dict[str, bytes]:
        """Name -> bytes of the files of these columns' classes, and of what stands for none of them."""
        import torch

        found = {}
        for name, card in classes.items():
            table = self._folder.classes(card)
            features = {"labels": list(table.names), "features": torch.from_numpy(table.vectors_NC.copy())}
            found[f"{name}_features.pt"] = _saved(features)
            found["background_features.pt"] = _saved(torch.from_numpy(table.background_C.copy()))
        return found


def _saved(value: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
