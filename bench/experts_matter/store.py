"""The store that all arms read: scenes with exact labels, a noise expert, and depth that is partly noise."""

from __future__ import annotations

from pathlib import Path

from bench.experts_matter.arms import SHARES, TRUTH, Scale
from bench.experts_matter.learning import write_tokenizer
from jobs.job import Job
from jobs.labelling import label
from jobs.terminal import say
from pipeline.errors import JobError
from pipeline.store import LabelStore
from trainer.embeddings.writing import Means, embed

EXPERTS = "bench.experts_matter.experts"
TRAIN_SEED, VAL_SEED = 101, 102


def prepare(scale: Scale, folder: Path) -> None:
    """Store, embeddings and tokenizer in ``folder``; what is there already is kept. Raises ExpertLabelsError."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = label(job_of(scale, folder), say)
    if not summary.complete or summary.interrupted:
        raise JobError("the scenes are not all labelled yet; run the same command again")
    store = LabelStore.open(str(folder / "store"))
    embed(store, str(folder / "embeddings"), means=Means(method="random"), say=say)
    write_tokenizer(store, folder)


def job_of(scale: Scale, folder: Path) -> Job:
    """The labelling job, as one would write it in YAML."""
    scenes = {"source": "scenes", "size": scale.size}
    return Job.model_validate(
        {
            "store": str(folder / "store"),
            "images": [
                {**scenes, "name": "train", "split": "train", "count": scale.train, "seed": TRAIN_SEED},
                {**scenes, "name": "val", "split": "val", "count": scale.val, "seed": VAL_SEED},
            ],
            "experts": [
                "image",
                *(name for name in TRUTH.values() if name != "noise"),
                {"noise": {"use": f"{EXPERTS}:Noise"}},
                *(
                    {f"corrupted_depth_{share}": {"use": f"{EXPERTS}:CorruptedDepth", "share": share}}
                    for share in SHARES
                ),
            ],
            "shard_size": 100,
        }
    )
