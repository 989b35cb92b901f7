"""What a training is about to do, in a few lines, before the first step."""

from __future__ import annotations

from pipeline.reader import LabelReader
from trainer.data.dataset import LabelDataset
from trainer.method import Method

#: Shards whose receipts are read to count labels that failed.
_LOOKED_AT = 64


def outline(method: Method, dataset: LabelDataset) -> list[str]:
    """Parameters and how many of them are trained, examples, and for every modality the labels that will be masked."""
    total = sum(parameter.numel() for parameter in method.parameters())
    trained = sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
    reader = dataset.reader
    lines = [
        f"{total:,} parameters, {trained:,} of them trained ({trained / total:.1%})",
        f"{len(dataset.selection):,} examples an epoch, of {reader.plan.images:,} images in {reader.store.storage.url}",
    ]
    for modality, card in dataset.cards.items():
        noise = "; made with random weights: the labels are noise" if card.random_weights else ""
        lines.append(f"{modality}: {card.column}, {_masked(reader, card.name)}{noise}")
    return lines


def _masked(reader: LabelReader, name: str) -> str:
    """How many of an expert's labels are missing, and how many failed."""
    column, plan = reader.cards[name].column, reader.plan
    committed = sorted(reader.committed[name])
    missing = sum(len(shard) for shard in plan.shards() if shard.index not in reader.committed[name])
    looked_at = committed[:: max(1, -(-len(committed) // _LOOKED_AT))]
    rows = [reader.store.receipt(column, plan.shard(index)).rows for index in looked_at]
    failed, counted = sum(found.failed for found in rows), sum(map(len, rows))
    whole = "" if len(looked_at) == len(committed) else f" of {counted:,} that were looked at"
    if not missing and not failed:
        return f"no label masked{whole}"
    return f"masked: {missing:,} labels that the store lacks, {failed:,} that failed{whole}"
