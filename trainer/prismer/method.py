"""Prismer as a method: from a recipe and a store to a model with a loss, and the data that it is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from expert_zoo.card import ExpertCard
from expert_zoo.networks.tokenizer_file import TOKENIZER
from manifests.record import ImageRecord
from pipeline.kept_texts import records_of
from pipeline.storage.cache import FileCache
from pipeline.store import LabelStore
from trainer.data.batch import Batch
from trainer.data.columns import RECORD
from trainer.data.dataset import LabelDataset
from trainer.data.finish import AS_RELEASED, Scaling
from trainer.data.selection import Selection
from trainer.embeddings.folder import Embeddings
from trainer.embeddings.origin import Origin
from trainer.embeddings.table import EmbeddingTable
from trainer.errors import RecipeError
from trainer.method import Method, Stats
from trainer.networks import folder_of, weights_file_of
from trainer.prismer.backbones import load_clip, load_roberta
from trainer.prismer.books import book_of
from trainer.prismer.checkpoint import POSITIONS, load_into
from trainer.prismer.config import CHANNELS, EMBEDDING, PrismerConfig
from trainer.prismer.inputs import Inputs
from trainer.prismer.loss import Loss, Objective, loss_of
from trainer.prismer.model import Prismer
from trainer.prismer.recipe import PrismerChoice
from trainer.prismer.released import fill_released
from trainer.prismer.stems import resized_positions
from trainer.prismer.text import TextBatch, joined
from trainer.prismer.texts import Captions, Lessons, Questions, Said, Task, Tokens, write_words
from trainer.prismer.weights import read_tensors
from trainer.ranks import Ranks
from trainer.recipe import DataChoice


class PrismerMethod(Method):
    """A Prismer that learns what the batch's texts say. The texts of a Batch are `texts.Lesson`s of the same kinds and numbers."""

    def __init__(self, *, model: Prismer, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs

    def loss(self, batch: Batch) -> tuple[Tensor, Stats]:
        photo_B3HW, labels = self.inputs(batch)
        visual_BND = self.model.encode(photo_B3HW, labels)
        # Kinds apart, for captions are longer: padded to one length, questions would cost as much.
        found = {kind: (self._loss(visual_BND, said), self._count(said)) for kind, said in _by_kind(batch).items()}
        if len(found) == 1:
            ((only, _),) = found.values()
            return only.loss, only.stats()
        total = sum(count for _, count in found.values())
        stats = {f"{kind}_{name}": pair for kind, (part, _) in found.items() for name, pair in part.stats().items()}
        return torch.stack([part.loss * (count / total) for part, count in found.values()]).sum(), stats

    def weight(self, batch: Batch) -> float:
        return float(sum(self._count(said) for said in _by_kind(batch).values()))

    def _loss(self, visual_BND: Tensor, texts: Sequence[Said]) -> Loss:
        """Of so many texts of each photo, one photo's after the other's."""
        prompts, answers, weights = zip(*texts, strict=True)
        text = joined(prompts, answers, self.model.config.text, weights=weights)
        text = TextBatch(*(tensor.to(visual_BND.device, non_blocking=True) for tensor in text))
        return loss_of(self.model.decoder(text.ids_BL, visual_BND), text, self.model.objective)

    def _count(self, texts: Sequence[Said]) -> int:
        """How many things their loss is the mean of."""
        return len(texts) if self.model.objective.per == "text" else sum(len(said.answer) for said in texts)

    def blocks(self) -> list[nn.Module]:
        return self.model.blocks()

    def checkpoint_gradients(self, on: bool) -> None:
        self.model.checkpoint_gradients(on)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """As of any method, and at any resolution of the photos."""
        name = f"model.{POSITIONS}"
        if name in weights and weights[name].ndim == 2:
            weights = {**weights, name: resized_positions(weights[name], self.model.config.grid)}
        super().start_from(weights)


def _by_kind(batch: Batch) -> dict[str, list[Said]]:
    return {kind: [said for lesson in batch.texts for said in lesson[kind]] for kind in batch.texts[0]}


class Prepared(NamedTuple):
    """What a recipe comes to. embeddings: where the vectors come from that names are shown as."""

    method: PrismerMethod
    dataset: LabelDataset
    task: Lessons
    embeddings: Origin | None


def prepared(choice: PrismerChoice, data: DataChoice, *, seed: int, folder: Path, ranks: Ranks) -> Prepared:
    """Reads the store's manifest and builds the model, on the CPU, drawing from torch's global generator.

    folder: of the run, where a tokenizer of the training texts is kept. Raises ExpertLabelsError, of which RecipeError is one.
    """
    store = LabelStore.open(data.store)
    try:
        task = _task(choice, data, store, folder, ranks)
        config = config_of(choice, task.tokenizer)
        dataset = _dataset(choice, data, config, store, task, seed)
        tables = tables_of(choice, dataset.cards)
        inputs = Inputs(
            config,
            cards=dataset.cards,
            tables=tables,
            scaling=AS_RELEASED if choice.as_released else Scaling(),
        )
        model = Prismer(config, objective=Objective(smoothing=choice.smoothing, per=choice.per))
        begin(model, choice)
        model.freeze(choice.freeze)
    except ValueError as error:
        raise RecipeError(f"`method`: {error}") from error
    return Prepared(PrismerMethod(model=model, inputs=inputs), dataset, task, origin_of(tables))


def _task(choice: PrismerChoice, data: DataChoice, store: LabelStore, folder: Path, ranks: Ranks) -> Lessons:
    book = book_of(choice.questions) if choice.questions is not None else None

    def made(tokenizer: Tokens) -> Lessons:
        tasks: dict[str, Task] = {}
        if choice.task != "question":
            weight = choice.caption_weight if choice.task == "both" else 1.0
            tasks["caption"] = Captions(
                tokenizer=tokenizer, prefix=choice.prefix, words=choice.words, tokens=choice.tokens, weight=weight
            )
        if book is not None:
            tasks["question"] = Questions(tokenizer=tokenizer, book=book, words=choice.words, tokens=choice.tokens)
        few = {"caption": 1} if choice.task == "both" else {}
        return Lessons(tasks=tasks, counts={kind: few.get(kind, choice.texts) for kind in tasks})

    if choice.tokenizer is not None:
        return made(Tokens(folder_of(choice.tokenizer)))
    if ranks.first and not (folder / TOKENIZER).exists():
        write_words([""], folder)
        task, wanted = made(Tokens(folder)), _Wanted(data)
        records = (record for _, found in records_of(store, data.select) for record in found)
        write_words((text for record in records if wanted(record) for text in task.texts(record)), folder)
    ranks.wait()
    return made(Tokens(folder))


def config_of(choice: PrismerChoice, tokenizer: Tokens) -> PrismerConfig:
    """Shape of the model, whose words are the tokenizer's. Raises ValueError."""
    config = PrismerConfig.of(
        choice.size,
        experts=choice.experts,
        resolution=choice.resolution,
        label_resolution=choice.label_resolution,
        words=len(tokenizer),
    )
    text = {
        "bos": tokenizer.bos,
        "pad": tokenizer.pad,
        "eos": tokenizer.eos,
        "pad_before_answer": choice.pad_before_answer,
    }
    return PrismerConfig.model_validate({**config.model_dump(), "text": {**config.text.model_dump(), **text}})


def _dataset(
    choice: PrismerChoice, data: DataChoice, config: PrismerConfig, store: LabelStore, task: Lessons, seed: int
) -> LabelDataset:
    unknown = set(data.labels) - set(config.experts)
    if unknown:
        raise ValueError(
            f"`data.labels` has {min(unknown)}; expected labels of {', '.join(config.experts) or 'no expert'}"
        )
    wanted = _Wanted(data)
    if data.per == "text":
        selection = Selection.items(store, lambda record: task.items(record) if wanted(record) else 0, data.select)
    else:
        # Captions of a column are known when they are read.
        of_record = RECORD in data.captions
        selection = Selection.images(
            store, lambda record: wanted(record) and task.has_texts(record, of_record), data.select
        )
    return LabelDataset(
        store,
        labels=data.labels,
        view=data.augmentation or "squash",
        resolution=config.vision.resolution,
        label_resolution=config.label_resolution,
        seed=seed,
        selection=selection,
        window=data.window,
        photos=data.photos,
        captions=data.captions,
        select=data.select,
        text_of=task,
        cache=FileCache(data.cache.folder, limit_bytes=int(data.cache.gigabytes * 1e9)) if data.cache else None,
    )


class _Wanted:
    """Whether an image is to be read; asked once of each, in the manifest's order."""

    def __init__(self, data: DataChoice) -> None:
        self._splits, self._shots = data.splits, data.shots
        self._seen: Counter[str] = Counter()

    def __call__(self, record: ImageRecord) -> bool:
        if self._splits and record.split not in self._splits:
            return False
        if self._shots is None:
            return True
        if not record.captions:
            return False
        self._seen[record.captions[0]] += 1
        return self._seen[record.captions[0]] <= self._shots


def tables_of(choice: PrismerChoice, cards: Mapping[str, ExpertCard]) -> dict[str, EmbeddingTable]:
    """Vectors of what the experts' labels name, by modality. Raises ValueError where the folder lacks them."""
    named = {name: card for name, card in cards.items() if CHANNELS[name] == EMBEDDING}  # type: ignore[index]
    if not named:
        return {}
    if choice.embeddings is None:
        raise ValueError(
            f"{', '.join(named)} are names, which are shown to a model as vectors; expected `embeddings`, a folder that "
            "`expert-labels embed` made for the store"
        )
    folder = Embeddings(choice.embeddings)
    _ = folder.origin()  # of all its tables, where nobody mixed them
    return {name: folder.words() if card.spec.kind == "words" else folder.classes(card) for name, card in named.items()}


def origin_of(tables: Mapping[str, EmbeddingTable]) -> Origin | None:
    """Of tables of one folder, which have one; None where there is no table."""
    return next((table.origin for table in tables.values()), None)


def begin(model: Prismer, choice: PrismerChoice) -> None:
    """The weights that training begins with, where the recipe names any. Raises ValueError."""
    if choice.weights is not None:
        path = weights_file_of(choice.weights)
        if path.suffix == ".safetensors":
            load_into(model, path)
        else:
            fill_released(model, read_tensors(path), path=path)
        return
    if choice.clip is not None:
        load_clip(model.encoder, folder_of(choice.clip))
    if choice.roberta is not None:
        load_roberta(model.decoder, folder_of(choice.roberta))
