"""What a training has made, opened again without the store it was trained on: to evaluate, to caption, to look into.

<run>/experts.json       by modality, the cards of the experts whose labels it learned from
<run>/tokenizer.json     where its words are its own
<run>/checkpoints/       weights, and the recipe with all choices
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from expert_zoo.card import ExpertCard
from expert_zoo.networks.tokenizer_file import TOKENIZER
from pipeline.errors import in_one_line
from pipeline.storage import open_storage
from trainer.checkpoint import About, Checkpoint
from trainer.data.finish import AS_RELEASED, Scaling
from trainer.embeddings.folder import Embeddings
from trainer.embeddings.table import EmbeddingTable
from trainer.embeddings.writing import extended, make_encoder, means_of
from trainer.errors import CheckpointError
from trainer.networks import folder_of
from trainer.prismer.inputs import Inputs
from trainer.prismer.loss import Objective
from trainer.prismer.method import PrismerMethod, begin, config_of, origin_of, tables_of
from trainer.prismer.model import Prismer
from trainer.prismer.texts import Tokens
from trainer.recipe import Recipe
from trainer.snapshot import frozen_digest, weights_of

EXPERTS = "experts.json"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A method in eval on the CPU. cards: of the experts, by modality. about: of the checkpoint at ``url``."""

    url: str
    about: About
    recipe: Recipe
    method: PrismerMethod
    tokenizer: Tokens
    cards: Mapping[str, ExpertCard]


def write_experts(cards: Mapping[str, ExpertCard], folder: Path) -> None:
    """Keeps the cards with the run, for those who have the run and not the store."""
    text = json.dumps({name: card.model_dump(mode="json") for name, card in cards.items()}, indent=1)
    beside = folder / f"tmp-{EXPERTS}"
    beside.write_text(text, encoding="utf-8")
    beside.replace(folder / EXPERTS)


def cards_of(url: str) -> dict[str, ExpertCard]:
    """The experts of the run or checkpoint at ``url``, by modality. Raises CheckpointError where they are not told."""
    run = _run_of(url)
    try:
        found = json.loads(open_storage(run).read(EXPERTS))
        return {name: ExpertCard.read(json.dumps(card).encode()) for name, card in found.items()}
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"no {run}/{EXPERTS}; expected the folder of a run, or of one of its checkpoints"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{run}/{EXPERTS} does not tell the experts: {in_one_line(error)}") from error


def open_trained(
    url: str, *, words: Sequence[str] = (), silent: Collection[str] = (), weights: str | None = None
) -> Trained:
    """The model of the run or checkpoint at ``url``, a folder or any URL that fsspec knows. Raises CheckpointError.

    words: that were read on the photos to come; those without a vector get one. silent: modalities without a label on any of
    them. weights: folder of weights, for vectors by CLIP.
    """
    checkpoint = Checkpoint.open(url)
    where = checkpoint.url
    cards = cards_of(url)
    try:
        recipe = Recipe.model_validate(checkpoint.about.recipe)
    except ValidationError as error:
        problem = error.errors()[0]
        raise CheckpointError(
            f"{where} has a recipe that this version does not know: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        ) from error
    choice = recipe.method
    try:
        tokenizer = Tokens(folder_of(choice.tokenizer)) if choice.tokenizer else _own_tokenizer(_run_of(url))
        config = config_of(choice, tokenizer)
        tables = tables_of(choice, cards)
        here, store = origin_of(tables), checkpoint.about.store
        if here is not None and store is not None and store.embeddings is not None:
            here.check_same(store.embeddings, where=where)
        tables = _with_words(tables, cards, choice.embeddings, words, weights)
        scaling = AS_RELEASED if choice.as_released else Scaling()
        model = Prismer(config, objective=Objective(smoothing=choice.smoothing, per=choice.per))
        if checkpoint.about.frozen is not None:
            begin(model, choice)
        model.freeze(choice.freeze)
        heard = {name: card for name, card in cards.items() if name not in silent}
        method = PrismerMethod(model=model, inputs=Inputs(config, cards=heard, tables=tables, scaling=scaling))
        method.start_from(weights_of(checkpoint))
    except ValueError as error:
        raise CheckpointError(f"{where} cannot be opened: {error}") from error
    if checkpoint.about.frozen not in (None, frozen_digest(method)):
        raise CheckpointError(
            f"{where} was trained beside other frozen weights than those that its recipe names now; expected the same files"
        )
    return Trained(
        url=where, about=checkpoint.about, recipe=recipe, method=method.eval(), tokenizer=tokenizer, cards=cards
    )


def _run_of(url: str) -> str:
    """The folder of the run that has the checkpoint, or is it."""
    url = url.rstrip("/")
    above, _, name = url.rpartition("/")
    run, _, checkpoints = above.rpartition("/")
    of_one = checkpoints == "checkpoints" or above == "checkpoints"
    return (run or ".") if of_one and name and not open_storage(url).exists(EXPERTS) else url


def _own_tokenizer(run: str) -> Tokens:
    """Of the training's words. The library reads it from a local file."""
    storage = open_storage(run)
    try:
        data = storage.read(TOKENIZER)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"no {run}/{TOKENIZER}; expected all files of the run") from None
    with tempfile.TemporaryDirectory(prefix="expert-labels-") as folder:
        (Path(folder) / TOKENIZER).write_bytes(data)
        return Tokens(Path(folder))


def _with_words(
    tables: dict[str, EmbeddingTable],
    cards: Mapping[str, ExpertCard],
    embeddings: str | None,
    words: Sequence[str],
    weights: str | None,
) -> dict[str, EmbeddingTable]:
    """The tables, with vectors for words that they lack."""
    for name in [name for name in tables if cards[name].spec.kind == "words"]:
        table = tables[name]
        if min(table.rows(words), default=0) < 0:
            assert embeddings is not None, "tables come from there"
            encoder = make_encoder(
                means_of(table.origin, weights_folder=weights), Embeddings(embeddings), say=lambda line: None
            )
            table.origin.check_same(encoder.origin, where=embeddings)
            tables[name] = extended(table, words, encoder)
    return tables
