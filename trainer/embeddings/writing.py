"""What `expert-labels embed` does: a folder of embeddings for a store, made once and added to when there is something new.

what the store has: lists of classes, words -> what the folder lacks -> an encoder, if anything -> tables
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from expert_zoo.card import ExpertCard
from pipeline.store import LabelStore
from trainer.embeddings.basis import fit
from trainer.embeddings.clip_text import ClipEncoder, Progress, encoder_name, load_clip
from trainer.embeddings.folder import Embeddings
from trainer.embeddings.origin import Encoder, Method, Origin
from trainer.embeddings.random_vectors import RandomEncoder
from trainer.embeddings.released import ReleasedEncoder
from trainer.embeddings.table import EmbeddingTable, key_of
from trainer.embeddings.words import words_of

Say = Callable[[str], None]

#: Words that a basis is fitted on, at most: 26 for each of CLIP's channels.
SAMPLE = 20_000
#: Words between two times that they are written: without a GPU, minutes of work that a kill would cost.
AT_ONCE = 10_000


@dataclass(frozen=True, kw_only=True)
class Means:
    """How vectors are made.

    method    see Origin
    prompt    for classes, with {} in the name's place (clip)
    seed      of random
    released  the folder of the released tables (released)
    weights_folder, device   of CLIP: as for experts; "auto" is a GPU where there is one
    """

    method: Method = "clip"
    prompt: str = "{}"
    seed: int = 0
    released: str | None = None
    weights_folder: str | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """origin: of the folder's tables. lists: of classes that were added; words: likewise; known: words that were there before."""

    origin: Origin
    lists: int
    words: int
    known: int


def embed(store: LabelStore, out: str, *, means: Means, say: Say, progress: Progress | None = None) -> Embedded:
    """Puts into the folder ``out`` a table for every list of classes of ``store``, and every word that was read there.

    What ``out`` has already is kept as it is; it may have been made for other stores. Each file appears whole, so that after a
    kill the same call goes on. Raises ValueError: nothing to embed, weights missing, or a folder of another origin.
    """
    cards = [card for card in store.columns().values() if card.spec.class_names or card.spec.kind == "words"]
    if not cards:
        raise ValueError(
            f"{store.storage.url} has neither classes nor words; expected labels of segmentation, detection or OCR: without them no "
            "embeddings are needed"
        )
    folder = Embeddings(out)
    begun = folder.origin()
    lists = {card.spec.class_names: card for card in cards if card.spec.class_names}
    missing = [card for names, card in lists.items() if not folder.has_classes(names)]
    words = sorted({word for card in cards if card.spec.kind == "words" for word in words_of(store, card)})
    old = folder.words() if folder.has_words() else None
    new = [word for word, row in zip(words, old.rows(words) if old else [-1] * len(words), strict=True) if row < 0]
    known = len(old.names) if old else 0
    if begun is not None:
        _check_asked(begun, means, out)
        if old is not None and not missing and not new:
            return Embedded(origin=begun, lists=0, words=0, known=known)
    encoder = make_encoder(means, folder, say=say, progress=progress)
    if begun is not None:
        _check_origin(encoder.origin, begun, out)
    for card in missing:
        table = class_table(card, encoder)
        folder.put_classes(table)
        say(f"{len(table.names)} classes of {card.name}")
    for begin in range(0, max(len(new), old is None), AT_ONCE):
        old = extended(old, new[begin : begin + AT_ONCE], encoder)
        folder.put_words(old)
        say(f"{len(old.names) - known} words")
    return Embedded(origin=encoder.origin, lists=len(missing), words=len(new), known=known)


def make_encoder(means: Means, folder: Embeddings, *, say: Say, progress: Progress | None = None) -> Encoder:
    """The encoder of ``folder``, for more of its vectors. Raises ValueError where weights or released files are missing.

    At the first use of CLIP in a folder its basis is fitted, which takes minutes without a GPU.
    """
    if means.method == "random":
        return RandomEncoder(seed=means.seed)
    if means.method == "released":
        if means.released is None:
            raise ValueError("`--method released` needs `--released FOLDER`: the folder `dataset` of NVlabs/prismer")
        return ReleasedEncoder(
            Path(means.released).expanduser(), clip=lambda: load_clip(means.weights_folder, device=means.device)
        )
    texts = load_clip(means.weights_folder, device=means.device)
    basis, name = folder.basis(), encoder_name(means.weights_folder)
    if basis is None:
        sample = texts.vocabulary(SAMPLE)
        say(f"fitting the basis on {len(sample)} whole words of CLIP's vocabulary, once for this folder")
        vectors_ND = texts.encode(sample, progress=progress)
        basis = fit(vectors_ND, encoder=name, fitted_on=f"{len(sample)} whole words of the tokenizer's vocabulary")
        folder.put_basis(basis)
    elif basis.encoder != name:
        raise ValueError(
            f"{folder.url} was begun with {basis.encoder}, the weights at hand are {name}; name another folder, or the weights that "
            "it was begun with"
        )
    return ClipEncoder(texts, basis, prompt=means.prompt, progress=progress)


def means_of(origin: Origin, *, released: str | None = None, weights_folder: str | None = None) -> Means:
    """What it takes to make more vectors of that origin."""
    return Means(
        method=origin.method, prompt=origin.prompt, seed=origin.seed, released=released, weights_folder=weights_folder
    )


def class_table(card: ExpertCard, encoder: Encoder) -> EmbeddingTable:
    """The vectors of the expert's classes. Raises ValueError as the encoder does."""
    names = card.spec.class_names
    return EmbeddingTable(
        names=names,
        vectors_NC=encoder.classes(names, whose=card.column),
        background_C=encoder.background(),
        origin=encoder.origin,
    )


def extended(table: EmbeddingTable | None, words: Sequence[str], encoder: Encoder) -> EmbeddingTable:
    """``table`` (None: an empty one) with those of ``words`` that it lacks at its end, so that no row of it changes."""
    known = set(table.names) if table else set()
    new = sorted({key for word in words if (key := key_of(word))} - known)
    vectors_NC = encoder.words(new) if new else np.empty((0, len(encoder.background())), np.float32)
    if table is None:
        return EmbeddingTable(
            names=tuple(new), vectors_NC=vectors_NC, background_C=encoder.background(), origin=encoder.origin
        )
    return replace(table, names=(*table.names, *new), vectors_NC=np.concatenate([table.vectors_NC, vectors_NC]))


def _check_asked(begun: Origin, means: Means, out: str) -> None:
    """As `_check_origin`, as far as it can be told without loading anything."""
    asked: dict[str, object] = {"method": means.method}
    if means.method == "clip":
        asked["prompt"] = means.prompt
    elif means.method == "random":
        asked["seed"] = means.seed
    _check_origin(begun.model_copy(update=asked), begun, out)


def _check_origin(asked: Origin, begun: Origin, out: str) -> None:
    if difference := asked.difference(begun):
        raise ValueError(
            f"{out} has embeddings of another kind, and asked is {difference}; name another folder for these"
        )
