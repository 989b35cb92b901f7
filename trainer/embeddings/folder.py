"""A folder of embeddings: what `expert-labels embed` writes for a store, and what training and captioning open.

    classes-<digest of the names>.safetensors    one for every list of classes
    words.safetensors                            all words that were read; others are added at its end
    basis.safetensors                            from CLIP's width to 64 (method clip)

All tables of a folder have one origin. It lies in a local folder or under any URL that fsspec knows.
"""

from __future__ import annotations

from collections.abc import Iterator

from expert_zoo.card import ExpertCard
from pipeline.storage import open_storage
from trainer.embeddings.basis import Basis, basis_bytes, read_basis
from trainer.embeddings.origin import Origin, digest_of
from trainer.embeddings.table import EmbeddingTable, read_table, table_bytes

WORDS_FILE, BASIS_FILE = "words.safetensors", "basis.safetensors"


class Embeddings:
    """The tables in the folder ``url``. Nothing is read before it is asked for."""

    def __init__(self, url: str) -> None:
        self._storage = open_storage(url)
        self.url = self._storage.url

    def origin(self) -> Origin | None:
        """Of all tables; None where there is none yet. Raises ValueError where they differ: files were mixed by hand."""
        found: Origin | None = None
        for table in self._tables():
            if found is not None and table.origin != found:
                raise ValueError(
                    f"{self.url} has tables of two origins, {found.encoder!r} and {table.origin.encoder!r}; expected one: remove the "
                    "folder and run `expert-labels embed` again"
                )
            found = table.origin
        return found

    def classes(self, card: ExpertCard) -> EmbeddingTable:
        """Of the expert's classes. Raises ValueError where the folder has no table of these, in this order."""
        names = card.spec.class_names
        table = self._read(_file_of(names))
        if table is None:
            raise ValueError(
                f"{self.url} has no embeddings of the {len(names)} classes of {card.column}; run `expert-labels embed` on the store "
                "whose labels are to be used"
            )
        table.check_classes(names, whose=card.column)
        return table

    def words(self) -> EmbeddingTable:
        """Of all words. Raises ValueError where the folder has no such table."""
        table = self._read(WORDS_FILE)
        if table is None:
            raise ValueError(
                f"{self.url} has no embeddings of words; run `expert-labels embed` on the store whose labels are to be used"
            )
        return table

    def basis(self) -> Basis | None:
        """None where none was fitted."""
        data = self._bytes(BASIS_FILE)
        return None if data is None else read_basis(data, where=f"{self.url}/{BASIS_FILE}")

    def has_classes(self, names: tuple[str, ...]) -> bool:
        return self._storage.exists(_file_of(names))

    def has_words(self) -> bool:
        return self._storage.exists(WORDS_FILE)

    def put_classes(self, table: EmbeddingTable) -> None:
        self._storage.replace(_file_of(table.names), table_bytes(table))

    def put_words(self, table: EmbeddingTable) -> None:
        self._storage.replace(WORDS_FILE, table_bytes(table))

    def put_basis(self, basis: Basis) -> None:
        self._storage.replace(BASIS_FILE, basis_bytes(basis))

    def _tables(self) -> Iterator[EmbeddingTable]:
        for name in sorted(self._storage.names("")):
            if name == WORDS_FILE or (name.startswith("classes-") and name.endswith(".safetensors")):
                table = self._read(name)
                assert table is not None
                yield table

    def _read(self, name: str) -> EmbeddingTable | None:
        data = self._bytes(name)
        return None if data is None else read_table(data, where=f"{self.url}/{name}")

    def _bytes(self, name: str) -> bytes | None:
        try:
            return self._storage.read(name)
        except (FileNotFoundError, NotADirectoryError):
            return None


def _file_of(names: tuple[str, ...]) -> str:
    return f"classes-{digest_of(names)}.safetensors"
