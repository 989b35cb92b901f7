"""What a training says before its first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expert_zoo.card import ExpertCard
from pipeline.store import LabelStore
from tests.small_store import label, write_manifest, write_photos
from tests.stand_ins import Grey
from trainer.data.batch import Batch
from trainer.data.dataset import LabelDataset
from trainer.method import Method, Stats
from trainer.outline import outline


class Plain(Method):
    def __init__(self) -> None:
        super().__init__()
        self.weight_1 = torch.nn.Parameter(torch.zeros(1))

    def loss(self, batch: Batch) -> tuple[torch.Tensor, Stats]:
        return self.weight_1.sum(), {}


def test_labels_of_random_weights_are_called_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_manifest(tmp_path, write_photos(tmp_path / "photos", photos=4, broken=[1]))
    store = LabelStore.create(str(tmp_path / "store"), manifest, shard_size=4)
    label(store, [Grey()])
    dataset = LabelDataset(
        store, labels={"depth": "grey"}, view="squash", resolution=16, label_resolution=16, seed=0,
        text_of=lambda *_: "",
    )  # fmt: skip
    assert outline(Plain(), dataset)[-1].endswith("masked: 0 labels that the store lacks, 1 that failed")
    monkeypatch.setattr(ExpertCard, "random_weights", True)
    assert outline(Plain(), dataset)[-1].endswith("1 that failed; made with random weights: the labels are noise")
