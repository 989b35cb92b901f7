"""Orders and selections: every example once an epoch, shuffled within windows, the same everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manifests.record import ImageRecord
from pipeline.errors import StoreError
from pipeline.plan import ShardPlan
from pipeline.store import LabelStore
from tests.small_store import write_manifest
from trainer.data import chance
from trainer.data.chance import Chance, permutation
from trainer.data.order import Order, share
from trainer.data.selection import WHOLE, Selection

COUNTS = np.array([5, 5, 0, 7, 5, 1, 3])


def test_chance_is_the_published_generator() -> None:
    states = [n * chance._STEP & chance._MASK for n in (1, 2, 3)]
    assert [chance._mixed(state) for state in states] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    draws = [Chance(7, 1, index).uniform() for index in range(4000)]
    assert abs(np.mean(draws) - 0.5) < 0.02 and abs(np.std(draws) - 12**-0.5) < 0.01
    assert len(set(draws)) == 4000 and min(draws) >= 0 and max(draws) < 1


def test_chance_depends_on_its_keys_alone() -> None:
    def three(*keys: int) -> list[float]:
        stream = Chance(*keys)
        return [stream.uniform(-1, 2) for _ in range(3)]

    assert three(1, 2) == three(1, 2) and len(set(three(1, 2))) == 3
    assert not set(three(1, 2)) & (set(three(2, 1)) | set(three(1, 3)) | set(three(1)))
    assert sorted({Chance(0, index).below(5) for index in range(200)}) == [0, 1, 2, 3, 4]


def test_a_permutation_never_changes() -> None:
    # Written down once: a run that was begun years ago has to go on with it.
    assert permutation(10, 42, 3).tolist() == [8, 2, 6, 1, 4, 7, 0, 5, 3, 9]
    states = [(chance._state((42, 3)) + n * chance._STEP) & chance._MASK for n in range(10)]
    assert permutation(10, 42, 3).tolist() == sorted(range(10), key=lambda n: chance._mixed(states[n]))
    places = [permutation(6, seed).tolist().index(0) for seed in range(3000)]
    counts = np.bincount(places, minlength=6)
    assert counts.min() > 430 and counts.max() < 570, "every place is as likely, 500 each"


@pytest.mark.parametrize("window", [1, 2, 3, 100])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_an_epoch_has_every_example_once(window: int, seed: int | None) -> None:
    order = Order(COUNTS, seed=seed, epoch=2, window=window)
    found = [order[position] for position in range(len(order))]
    assert len(order) == 26
    assert sorted(found) == [(shard, place) for shard, count in enumerate(COUNTS) for place in range(count)]
    backwards = Order(COUNTS, seed=seed, epoch=2, window=window)
    assert [backwards[position] for position in reversed(range(26))] == found[::-1], "any position by itself"
    if seed is None:
        assert found == sorted(found)
    for outside in (-1, 26):
        with pytest.raises(IndexError):
            order[outside]


def test_a_window_holds_its_shards_and_no_others() -> None:
    order = Order(COUNTS, seed=5, epoch=0, window=3)
    found = [order[position] for position in range(len(order))]
    for window in range(3):
        here = [place for position, place in enumerate(found) if order.window_of(position) == window]
        shards = order.shards_of(window)
        assert {shard for shard, _ in here} == {shard for shard in shards if COUNTS[shard]}
        assert len(here) == sum(COUNTS[shard] for shard in shards)
    assert order.shards_of(3) == [] and len(order.shards_of(2)) == 1
    mixed = [shard for shard, _ in found[:12]]
    assert mixed != sorted(mixed, key=mixed.index), "shards of a window alternate"


def test_epochs_and_seeds_differ() -> None:
    orders = [Order(COUNTS, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order[position] for position in range(26)) for order in orders}) == 4
    with pytest.raises(ValueError, match="expected one or more"):
        Order(COUNTS, seed=0, epoch=0, window=0)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("size", [1, 4, 7, 12])
def test_ranks_share_a_batch(ranks: int, size: int) -> None:
    batch = range(100, 100 + size)
    shares = [share(batch, rank, ranks) for rank in range(ranks)]
    assert [position for part in shares for position in part] == list(batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# ---- selections


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    records = [
        ImageRecord(
            image_id=f"i{n}",
            source="test",
            uri=f"file:///none/{n}",
            split="train" if n % 3 else "val",
            captions=tuple(f"{n} {c}" for c in range(n % 4)),
        )
        for n in range(11)
    ]
    return LabelStore.create(str(tmp_path / "store"), write_manifest(tmp_path, records), shard_size=4)


def examples(selection: Selection) -> list[tuple[int, int, int]]:
    return [
        (shard, *selection.at(shard, place))
        for shard, count in enumerate(selection.counts_S.tolist())
        for place in range(count)
    ]


def test_everything_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = ShardPlan(manifest="0" * 64, images=11, shard_size=4, seed=0)
    selection = Selection.everything(plan)
    assert examples(selection) == [(n // 4, n % 4, WHOLE) for n in range(11)]
    assert len(selection) == 11 and selection.fingerprint == plan.fingerprint


def test_images_can_be_chosen(store: LabelStore) -> None:
    selection = Selection.images(store, lambda record: record.split == "train")
    assert examples(selection) == [(n // 4, n % 4, WHOLE) for n in range(11) if n % 3]


def test_every_caption_can_be_an_example(store: LabelStore) -> None:
    selection = Selection.items(store, lambda record: len(record.captions))
    assert examples(selection) == [(n // 4, n % 4, item) for n in range(11) for item in range(n % 4)]
    assert len(selection) == 0 + 1 + 2 + 3 + 0 + 1 + 2 + 3 + 0 + 1 + 2


def test_selections_have_fingerprints_of_their_own(store: LabelStore) -> None:
    found = [
        Selection.everything(store.plan),
        Selection.images(store, lambda record: True),
        Selection.items(store, lambda record: 1),
        Selection.images(store, lambda record: record.image_id != "i3"),
    ]
    assert len({selection.fingerprint for selection in found}) == 4
    again = Selection.images(store, lambda record: record.image_id != "i3")
    assert again.fingerprint == found[3].fingerprint


def test_a_selection_of_nothing_is_told(store: LabelStore) -> None:
    with pytest.raises(StoreError, match="none of the 11 images of .* is selected; expected one or more"):
        Selection.images(store, lambda record: record.split == "test")
