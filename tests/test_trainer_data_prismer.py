"""From a store to what a Prismer takes: every modality finished, in the place and the size that its stems look at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate

from expert_zoo.image import Image
from pipeline.store import LabelStore
from tests.small_store import Signs, Slopes, small_store
from tests.stand_ins import Darkness, Grey, Squares
from trainer.data.batch import Batch, collated
from trainer.data.dataset import LabelDataset
from trainer.data.finish import rows
from trainer.embeddings.random_vectors import RandomEncoder
from trainer.embeddings.writing import class_table, extended
from trainer.prismer.config import PrismerConfig
from trainer.prismer.inputs import Inputs
from trainer.prismer.model import Prismer

SIZE = 112
LABELS = {"depth": "grey", "normal": "slopes", "seg": "darkness", "detection": "squares", "ocr": "signs"}
CONFIG = PrismerConfig.of("tiny", experts=("depth", "normal", "seg", "edge", "detection", "ocr"))


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return small_store(tmp_path, [Image(), Grey(), Slopes(), Darkness(), Squares(), Signs()], photos=4, shard_size=4)


def make(store: LabelStore) -> tuple[Batch, Inputs]:
    dataset = LabelDataset(store, labels=LABELS, view="squash", resolution=SIZE, label_resolution=SIZE, seed=None)
    batch = collated([dataset[0, position] for position in range(4)], dataset.specs, SIZE)
    assert isinstance(batch, Batch)
    encoder = RandomEncoder()
    tables = {
        "seg": class_table(dataset.cards["seg"], encoder),
        "detection": class_table(dataset.cards["detection"], encoder),
        "ocr": extended(None, ["n\u00f6ise"], encoder),
    }
    return batch, Inputs(CONFIG, cards=dataset.cards, tables=tables)


def test_a_prismer_takes_what_a_store_gives(store: LabelStore) -> None:
    batch, inputs = make(store)
    photo, labels = inputs(batch)
    torch.manual_seed(0)
    model = Prismer(CONFIG).eval()
    visual = model.encode(photo, labels)
    assert visual.shape == (4, CONFIG.visual_tokens, CONFIG.vision.width) and visual.isfinite().all()
    assert not labels["edge"].present_B.any(), "the store has no edges: present nowhere"


def test_names_are_painted_with_their_vectors(store: LabelStore) -> None:
    batch, inputs = make(store)
    _, labels = inputs(batch)
    for name in ("seg", "detection", "ocr"):
        vectors_BHWC = inputs.lookups[name](rows(batch.labels[name], inputs._tables[name].rows))
        every = vectors_BHWC.permute(0, 3, 1, 2)
        side = labels[name].map_BCHW.shape[-1]
        assert side == 4 * CONFIG.label_grid
        expected = interpolate(every, size=(side, side), mode="bilinear", align_corners=True)
        assert (labels[name].map_BCHW - expected).abs().max() < 1e-4, name
        assert labels[name].map_BCHW.std(dim=(0, 2, 3)).max() > 0.01, f"{name}: one vector everywhere"
    assert labels["detection"].instances_BHW is not None and labels["ocr"].instances_BHW is None


def test_labels_of_another_kind_are_refused(store: LabelStore) -> None:
    cards = {name: store.card(store.column_of(column)) for name, column in LABELS.items()}
    for modality, other, what in (
        ("depth", "normal", r"depth cannot be shown by slopes@.*3 channel.*expected map with 1 channel"),
        ("seg", "depth", "seg cannot be shown by grey@.*expected classes or instances or words"),
    ):
        with pytest.raises(ValueError, match=what):
            Inputs(CONFIG, cards=cards | {modality: cards[other]}, tables={})
    with pytest.raises(ValueError, match="no embeddings for seg"):
        Inputs(CONFIG, cards={"seg": cards["seg"]}, tables={})
