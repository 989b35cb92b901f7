"""Evaluation while training: the loop asks for numbers now and then, and every rank does its share of the photos.

Photos, their order and the search are those of `expert-labels evaluate`, and the network is in float32 whatever the training's
precision: a checkpoint that is evaluated again has the numbers that were logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from expert_zoo.card import ExpertCard
from pipeline.store import LabelStore
from trainer.data.loader import Loader
from trainer.embeddings.words import words_of
from trainer.errors import RecipeError, TrainingError
from trainer.evaluation.asked import Asked, asked
from trainer.evaluation.choice import EvaluationChoice
from trainer.evaluation.photos_in_order import photos_in_order
from trainer.evaluation.prismer_speaker import PrismerSpeaker, manner_of
from trainer.evaluation.run import replies_of_all
from trainer.evaluation.speaker import Speaker
from trainer.evaluation.tasks import Reply
from trainer.fingerprint import StoreFingerprint
from trainer.method import Method
from trainer.prismer.method import Prepared, PrismerMethod, tables_of
from trainer.ranks import Ranks
from trainer.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class During:
    """An evaluation that may be asked for again and again. photos: this rank's share of them."""

    choice: EvaluationChoice
    ask: Asked
    photos: Loader
    speaker: Callable[[Method], Speaker]
    ranks: Ranks

    def __str__(self) -> str:
        return f"evaluation: {self.choice.task} of {len(self.photos.dataset.selection):,} photos"

    def numbers(self, method: Method) -> dict[str, float]:
        """By task and measure, such as captions/CIDEr; the same on all ranks. Raises TrainingError, on all of them where one fails."""
        try:
            said = replies_of_all(self.speaker(method), self.photos, self.ask.task, self.ranks)
        finally:
            # Until the next time no process waits with its part of the store open.
            self.photos.close()
        # Some measures are Java programs of two gigabytes.
        return self.ranks.by_first(lambda: self._scored(said))

    def _scored(self, said: Sequence[Reply]) -> dict[str, float]:
        task = self.ask.task
        try:
            scores = task.score(said)
        except ValueError as error:
            raise TrainingError(f"evaluation: {error}") from error
        return {f"{task.name}/{name}": number for name, number in scores.numbers.items()}


def during_training(recipe: Recipe, prepared: Prepared, ranks: Ranks) -> During | None:
    """None where the recipe has no ``evaluation``. Everything is looked up here, before the first step.

    Raises RecipeError, StoreError: what is asked about is not there, or means something else than what is trained on.
    """
    choice, config = recipe.evaluation, prepared.method.model.config
    if choice is None:
        return None
    store = LabelStore.open(choice.store or recipe.data.store)
    try:
        cards = prepared.dataset.cards
        if choice.store is not None:
            cards = _cards_of(store, recipe, cards)
        ask = asked(choice, store, trained_on=recipe.method.questions, known=True)
        photos = photos_in_order(
            store,
            labels={name: card.column for name, card in cards.items()},
            resolution=config.vision.resolution,
            label_resolution=config.label_resolution,
            batch_size=choice.batch,
            ranks=ranks,
            wanted=ask.wanted,
            text_of=ask.text_of,
            photos=recipe.data.photos,
            workers=recipe.data.workers,
            cache=prepared.dataset.reader.cache,
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"`evaluation`: {error}") from error

    def speaker(method: Method) -> PrismerSpeaker:
        assert isinstance(method, PrismerMethod)
        return PrismerSpeaker(method, prepared.task.tokenizer, manner=manner_of(recipe.method))

    return During(choice=choice, photos=photos, ask=ask, speaker=speaker, ranks=ranks)


def _cards_of(store: LabelStore, recipe: Recipe, trained: Mapping[str, ExpertCard]) -> dict[str, ExpertCard]:
    """The experts by modality in another store than that of training. Raises ValueError, CheckpointError unless they mean the same."""
    cards = {name: store.card(store.column_of(card.name)) for name, card in trained.items()}
    of_training, here = (StoreFingerprint.of(found, examples="", images=0) for found in (trained, cards))
    here.check_classes(of_training, where="the model")
    for name, table in tables_of(recipe.method, cards).items():
        words = words_of(store, cards[name]) if cards[name].spec.kind == "words" else []
        unknown = [word for word, row in zip(words, table.rows(words), strict=True) if row < 0]
        if unknown:
            raise ValueError(
                f"{len(unknown)} words of {store.storage.url} have no vectors, such as {unknown[0]!r}; run `expert-labels embed` on it, "
                "into the same folder"
            )
    return cards
