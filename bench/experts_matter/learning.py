"""One run: a tiny Prismer learns captions and questions of scenes at once, then is asked for both.

The encoder sees a photo once for all of its texts, which is most of the work; else everything is as in any training: the same
reader, loop, checkpoints and resume.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.experts_matter.arms import Arm, Scale
from expert_zoo.networks.tokenizer_file import TOKENIZER
from manifests.annotations.questions import Question
from manifests.record import ImageRecord
from pipeline.store import LabelStore
from trainer import generators
from trainer.data.augmentation import Augmentation
from trainer.data.batch import Batch
from trainer.data.chance import Chance
from trainer.data.dataset import LabelDataset
from trainer.data.loader import Loader
from trainer.data.selection import Selection
from trainer.embeddings.folder import Embeddings
from trainer.evaluation.photos_in_order import photos_in_order
from trainer.evaluation.prismer_speaker import Manner, PrismerSpeaker
from trainer.evaluation.questions import AllQuestions
from trainer.evaluation.run import evaluate
from trainer.evaluation.tasks import Answering, Captioning
from trainer.fingerprint import StoreFingerprint
from trainer.loop import Loop
from trainer.method import Stats
from trainer.prismer.config import CHANNELS, EMBEDDING, PrismerConfig
from trainer.prismer.inputs import Inputs
from trainer.prismer.loss import Loss, Objective, loss_of
from trainer.prismer.method import PrismerMethod
from trainer.prismer.model import Prismer
from trainer.prismer.text import TextBatch, joined
from trainer.prismer.texts import Captions, Said, Tokens, question_form, write_words
from trainer.questions import scene_questions
from trainer.ranks import Ranks
from trainer.ranks import joined as joined_ranks
from trainer.training import (
    BatchChoice,
    CheckpointChoice,
    LogChoice,
    OptimizerChoice,
    ScheduleChoice,
    Training,
)

WORDS, TOKENS = 40, 60
RESULT = "result.json"
_questions = functools.lru_cache(maxsize=None)(scene_questions)


@dataclass(frozen=True, kw_only=True)
class SceneTexts:
    """What is learned of a photo: one of its captions, and questions, each kind of them as often as any other."""

    tokenizer: Tokens
    scale: Scale

    def __call__(self, record: ImageRecord, captions: tuple[str, ...], item: int, chance: Chance) -> list[Said]:
        said = [Captions(tokenizer=self.tokenizer, words=WORDS, tokens=TOKENS)(record, captions, item, chance)]
        kinds: dict[str, list[Question]] = {}
        for question in _questions(record):
            kinds.setdefault(question.kind, []).append(question)
        for _ in range(self.scale.questions):
            of_kind = kinds[sorted(kinds)[chance.below(len(kinds))]]
            asked = of_kind[chance.below(len(of_kind))]
            prompt = self.tokenizer.ids(question_form(asked.question, words=WORDS))
            answer = self.tokenizer.ids(f" {asked.answers[0].capitalize()}")
            said.append(Said([self.tokenizer.bos, *prompt], [*answer, self.tokenizer.eos], 1.0))
        return said


class ManyTexts(PrismerMethod):
    """A Prismer that learns a caption and as many questions of each photo. The texts of a Batch are lists of Said.

    caption_weight: of the captions' loss beside the questions'.
    """

    def __init__(self, *, model: Prismer, inputs: Inputs, caption_weight: float) -> None:
        super().__init__(model=model, inputs=inputs)
        self.caption_weight = caption_weight

    def loss(self, batch: Batch) -> tuple[Tensor, Stats]:
        photo_B3HW, labels = self.inputs(batch)
        visual_BND = self.model.encode(photo_B3HW, labels)
        # Apart, for captions are twice as long: padded to one length, questions would cost twice as much.
        captions = self._texts_loss([texts[0] for texts in batch.texts], visual_BND)
        questions = self._texts_loss([said for texts in batch.texts for said in texts[1:]], visual_BND)
        stats = {f"caption_{name}": pair for name, pair in captions.stats().items()}
        stats |= {f"question_{name}": pair for name, pair in questions.stats().items()}
        return questions.loss + self.caption_weight * captions.loss, stats

    def weight(self, batch: Batch) -> float:
        return float(len(batch))

    def _texts_loss(self, texts: Sequence[Said], visual_BND: Tensor) -> Loss:
        prompts, answers, weights = zip(*texts, strict=True)
        text = joined(prompts, answers, self.model.config.text, weights=weights)
        text = TextBatch(*(tensor.to(visual_BND.device, non_blocking=True) for tensor in text))
        return loss_of(self.model.decoder(text.ids_BL, visual_BND), text, self.model.objective)


def training_of(scale: Scale, seed: int) -> Training:
    """The settings of every run."""
    return Training(
        seed=seed,
        steps=scale.steps,
        batch=BatchChoice(size=scale.batch, most_per_rank=scale.batch),
        schedule=ScheduleChoice(peak=scale.peak, least=scale.peak / 100, warm_up=scale.warm_up),
        optimizer=OptimizerChoice(clip=1.0, decay="matrices"),
        checkpoints=CheckpointChoice(every=200, keep=1),
        log=LogChoice(every=50, tensorboard=False),
    )


def write_tokenizer(store: LabelStore, folder: Path) -> None:
    """Of all words of the training scenes; the same for all arms."""
    if not (folder / TOKENIZER).exists():
        texts: list[str] = []
        for record in records_of(store, "train"):
            texts += record.captions
            texts += [text for asked in _questions(record) for text in (asked.question, *asked.answers)]
        write_words(texts, folder)


def records_of(store: LabelStore, split: str) -> list[ImageRecord]:
    return [r for shard in store.plan.shards() for r in store.records(shard) if r.split == split]


def learn(arm: Arm, seed: int, scale: Scale, folder: Path) -> dict[str, object]:
    """Trains the arm, or goes on, and evaluates it; what is found is kept in ``folder``/runs. Raises ExpertLabelsError."""
    run = folder / "runs" / f"{arm.name}-{seed}"
    run.mkdir(parents=True, exist_ok=True)
    store = LabelStore.open(str(folder / "store"))
    tokenizer = Tokens(folder)
    size = PrismerConfig.of(
        "tiny",
        experts=tuple(arm.labels),
        resolution=scale.size,
        label_resolution=scale.label_size,
        words=len(tokenizer),
    )
    ids = {"bos": tokenizer.bos, "pad": tokenizer.pad, "eos": tokenizer.eos}
    config = PrismerConfig.model_validate({**size.model_dump(), "text": {**size.text.model_dump(), **ids}})
    with joined_ranks() as ranks:
        dataset = LabelDataset(
            store,
            labels=arm.columns,
            view=Augmentation(scale=(0.8, 1.0), flip=0.0, operations=0),
            resolution=scale.size,
            label_resolution=scale.label_size,
            seed=seed,
            selection=Selection.images(store, lambda record: record.split == "train"),
            text_of=SceneTexts(tokenizer=tokenizer, scale=scale),
        )
        training = training_of(scale, seed)
        generators.seed_all(seed)
        method = _method(config, dataset, folder, scale)
        loader = Loader(dataset, batch_size=scale.batch)
        prints = StoreFingerprint.of(
            dataset.cards, examples=dataset.selection.fingerprint, images=dataset.reader.plan.images
        )
        loop = Loop(method=method, feed=loader, recipe=training, ranks=ranks, folder=run, store=prints)
        outcome = loop.run()
        if not outcome.finished:
            raise KeyboardInterrupt
        numbers = _evaluated(method, tokenizer, store, arm, scale, ranks)
    result = {"arm": arm.name, "seed": seed, "scale": asdict(scale), **numbers}
    (run / f"tmp-{RESULT}").write_text(json.dumps(result, indent=1))
    (run / f"tmp-{RESULT}").replace(run / RESULT)
    return result


def _method(config: PrismerConfig, dataset: LabelDataset, folder: Path, scale: Scale) -> ManyTexts:
    embeddings = Embeddings(str(folder / "embeddings"))
    tables = {
        name: embeddings.words() if card.spec.kind == "words" else embeddings.classes(card)
        for name, card in dataset.cards.items()
        if CHANNELS[name] == EMBEDDING  # type: ignore[index]
    }
    model = Prismer(config, objective=Objective(smoothing=0.0))
    inputs = Inputs(config, cards=dataset.cards, tables=tables)
    return ManyTexts(model=model, inputs=inputs, caption_weight=scale.caption_weight)


def _evaluated(
    method: ManyTexts, tokenizer: Tokens, store: LabelStore, arm: Arm, scale: Scale, ranks: Ranks
) -> dict[str, object]:
    speaker = PrismerSpeaker(
        method,
        tokenizer,
        manner=Manner(beams=1, caption_tokens=(0, TOKENS), question_words=WORDS, question_tokens=TOKENS),
    )
    photos = photos_in_order(
        store,
        labels=arm.columns,
        resolution=scale.size,
        label_resolution=scale.label_size,
        batch_size=scale.batch,
        ranks=ranks,
        wanted=lambda record: record.split == "val",
        text_of=AllQuestions(_questions),
    )
    with torch.inference_mode():
        answers, _ = evaluate(speaker, photos, Answering())
        captions, said = evaluate(speaker, photos, Captioning())
    kinds = {kind.kind: {"percent": kind.percent, "blind": kind.blind, "asked": kind.asked} for kind in answers.kinds}
    return {
        "accuracy": answers.numbers["accuracy"],
        "kinds": kinds,
        "captions": captions.numbers,
        "examples": [{"image": one.image_id, "text": one.text, "truth": one.truth} for one in said[:8]],
    }


def results(folder: Path) -> Sequence[dict[str, object]]:
    """Of all runs that are done."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"runs/*/{RESULT}"))]
