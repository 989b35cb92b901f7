"""A trained model asked about the photos of a store: opened for their labels, on a device, photo after photo."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from manifests.record import ImageRecord
from pipeline.errors import JobError
from pipeline.store import LabelStore
from trainer.data.dataset import drawn_caption
from trainer.data.loader import Loader
from trainer.embeddings.words import words_of
from trainer.evaluation.photos_in_order import photos_in_order
from trainer.evaluation.prismer_speaker import PrismerSpeaker, manner_of
from trainer.fingerprint import StoreFingerprint
from trainer.ranks import DeviceName, Ranks, joined
from trainer.trained import Trained, cards_of, open_trained

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What it takes to ask: this rank's batches of photos, and who replies."""

    trained: Trained
    speaker: PrismerSpeaker
    photos: Loader
    ranks: Ranks


@contextmanager
def asking(
    url: str,
    store: LabelStore,
    *,
    say: Say,
    device: DeviceName = "auto",
    batch_size: int = 32,
    weights: str | None = None,
    silent: Collection[str] = (),
    wanted: Callable[[ImageRecord], bool] | None = None,
    text_of: Callable[..., Any] = drawn_caption,
) -> Iterator[Asking]:
    """The model of the run or checkpoint at ``url``, ready for the wanted photos of ``store`` with all of its experts' labels.

    weights: folder of weights, for vectors of words that were never read before. silent: modalities that are left out, because
    their experts failed on every photo. Raises ExpertLabelsError where the store has not the labels that the model knows.
    """
    with joined(device) as ranks:
        cards = cards_of(url)
        here = {name: store.card(store.column_of(card.name)) for name, card in cards.items()}
        readers = [card for card in here.values() if card.spec.kind == "words"]
        words = sorted({word for card in readers for word in words_of(store, card)})
        trained = open_trained(url, words=words, silent=silent, weights=weights)
        begun = trained.about.store
        if begun is not None:
            prints = StoreFingerprint.of(here, examples="", images=store.plan.images)
            for note in prints.check_classes(begun, where=trained.url):
                if ranks.first:
                    say(note)
        config = trained.method.model.config
        try:
            photos = photos_in_order(
                store,
                labels={name: card.column for name, card in here.items() if name not in silent},
                resolution=config.vision.resolution,
                label_resolution=config.label_resolution,
                batch_size=batch_size,
                ranks=ranks,
                wanted=wanted,
                text_of=text_of,
                photos=trained.recipe.data.photos,
            )
        except ValueError as error:
            raise JobError(str(error)) from error
        trained.method.to(ranks.device)
        speaker = PrismerSpeaker(trained.method, trained.tokenizer, manner=manner_of(trained.recipe.method))
        yield Asking(trained=trained, speaker=speaker, photos=photos, ranks=ranks)
