"""One run: a tiny Prismer learns captions and questions of scenes at once, then is asked for both.

Everything is as in any training: the same reader, loop, checkpoints and resume. Only the questions are the experiment's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from bench.experts_matter.arms import Arm, Scale
from bench.experts_matter.questions import ScenesBook, questions_of
from expert_zoo.networks.tokenizer_file import TOKENIZER
from manifests.record import ImageRecord
from pipeline.store import LabelStore
from trainer import generators
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
from trainer.prismer.config import CHANNELS, EMBEDDING, PrismerConfig
from trainer.prismer.inputs import Inputs
from trainer.prismer.loss import Objective
from trainer.prismer.method import PrismerMethod
from trainer.prismer.model import Prismer
from trainer.prismer.texts import Captions, Lessons, Questions, Tokens, write_words
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


def lessons_of(tokenizer: Tokens, scale: Scale) -> Lessons:
    """What is learned of a photo: one of its captions, and questions, each kind of them as often as any other."""
    captions = Captions(tokenizer=tokenizer, words=WORDS, tokens=TOKENS, weight=scale.caption_weight)
    questions = Questions(tokenizer=tokenizer, book=ScenesBook(), words=WORDS, tokens=TOKENS)
    return Lessons(
        tasks={"caption": captions, "question": questions}, counts={"caption": 1, "question": scale.questions}
    )


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
            texts += [text for asked in questions_of(record) for text in (asked.question, *asked.answers)]
        write_words(texts, folder)


def records_of(store: LabelStore, split: str) -> list[ImageRecord]:
    return [r for shard in store.plan.shards() for r in store.records(shard) if r.split == split]


def learn(arm: Arm, seed: int, scale: Scale, folder: Path) -> dict[str, object]:
    """Trains the arm, or goes on, and evaluates it; what is found is kept in ``folder``/runs. Raises ExpertLabelsError."""
    scale = replace(scale, steps=scale.steps * arm.times)
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
    # Without dropout: the steps are too few for a model to learn anything by heart.
    ids = {"bos": tokenizer.bos, "pad": tokenizer.pad, "eos": tokenizer.eos, "dropout": 0.0}
    config = PrismerConfig.model_validate({**size.model_dump(), "text": {**size.text.model_dump(), **ids}})
    with joined_ranks() as ranks:
        dataset = LabelDataset(
            store,
            labels=arm.columns,
            view="squash",  # whole: where a thing is in the picture is not where it is in a crop
            resolution=scale.size,
            label_resolution=scale.label_size,
            seed=seed,
            selection=Selection.images(store, lambda record: record.split == "train"),
            text_of=lessons_of(tokenizer, scale),
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


def _method(config: PrismerConfig, dataset: LabelDataset, folder: Path, scale: Scale) -> PrismerMethod:
    embeddings = Embeddings(str(folder / "embeddings"))
    tables = {
        name: embeddings.words() if card.spec.kind == "words" else embeddings.classes(card)
        for name, card in dataset.cards.items()
        if CHANNELS[name] == EMBEDDING  # type: ignore[index]
    }
    model = Prismer(config, objective=Objective(smoothing=0.0))
    inputs = Inputs(config, cards=dataset.cards, tables=tables)
    return PrismerMethod(model=model, inputs=inputs)


def _evaluated(
    method: PrismerMethod, tokenizer: Tokens, store: LabelStore, arm: Arm, scale: Scale, ranks: Ranks
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
        text_of=AllQuestions(questions_of),
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
