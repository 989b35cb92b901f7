"""`expert-labels export`: from what was asked for to a layout, and what only PyTorch can write for one of them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from expert_zoo.card import ExpertCard
from pipeline.errors import JobError
from pipeline.exports.coco import Coco
from pipeline.exports.hf import HuggingFace
from pipeline.exports.layout import Layout
from pipeline.exports.prismer import PrismerTree
from pipeline.exports.record import read_record
from pipeline.exports.webdataset import WebDataset
from pipeline.storage import open_storage


def layout_of(
    name: str, *, photos: bool = False, embeddings: str | None = None, datasets: Mapping[str, str] | None = None
) -> Layout:
    """The layout ``name``, with what was asked of it. Raises JobError where it cannot do that."""
    if name != "prismer" and (embeddings or datasets):
        raise JobError(f"--embeddings and --dataset are for --format prismer; {name} has no use for them")
    if name == "coco" and photos:
        raise JobError("COCO results hold no photos; leave --photos out")
    match name:
        case "webdataset":
            return WebDataset(photos=photos)
        case "hf":
            return HuggingFace(photos=photos)
        case "coco":
            return Coco()
        case "prismer":
            try:
                vectors = TorchVectors(embeddings) if embeddings else None
                return PrismerTree(photos=photos, vectors=vectors, datasets=datasets)
            except ValueError as error:
                raise JobError(str(error)) from error
    raise JobError(f"no layout {name!r}; expected webdataset, hf, coco or prismer")


def layout_at(out_url: str) -> Layout:
    """The layout of the export at ``out_url``, as it was asked for. Raises StoreError where there is none."""
    record = read_record(open_storage(out_url))
    asked: dict[str, Any] = {"photos": record.settings.get("photos", False)} if record.layout != "coco" else {}
    return layout_of(
        record.layout,
        embeddings=record.settings.get("embeddings"),
        datasets=record.settings.get("datasets"),
        **asked,
    )


def datasets_of(named: Sequence[str] | None) -> dict[str, str]:
    """``SOURCE=DATASET`` as a mapping. Raises JobError."""
    found = {}
    for text in named or ():
        source, equals, dataset = text.partition("=")
        if not (source and equals and dataset):
            raise JobError(f"--dataset {text!r}; expected SOURCE=DATASET, such as my_photos=cc12m")
        found[source] = dataset
    return found


class TorchVectors:
    """Vectors of an embeddings folder in the files of the released code. Raises ValueError where the folder has none."""

    def __init__(self, url: str) -> None:
        from trainer.embeddings.folder import Embeddings

        self._folder = Embeddings(url)
        self.url = self._folder.url
        self._words: Any = None

    def word_file(self, texts: list[str]) -> bytes:
        import torch

        if self._words is None:
            self._words = self._folder.words()
        rows = self._words.rows(texts)
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
