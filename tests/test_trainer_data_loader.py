"""The loader's promise: the same global batches, bit for bit, on any number of ranks and workers, also after a resume."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expert_zoo.image import Image
from pipeline.errors import DamagedCell, StoreError
from pipeline.storage import RemoteStorage
from pipeline.storage.cache import FileCache
from pipeline.store import LabelStore
from tests.small_store import Caption, Match, Signs, Slopes, small_store
from tests.stand_ins import Darkness, Grey, Squares, Troubled
from trainer.data.augmentation import Augmentation
from trainer.data.batch import Batch
from trainer.data.dataset import LabelDataset
from trainer.data.loader import Loader
from trainer.data.selection import Selection

LABELS = {"depth": "grey", "normal": "slopes", "seg": "darkness", "detection": "squares", "ocr": "signs"}
EXPERTS = (Image, Grey, Slopes, Darkness, Squares, Signs, Caption)
PHOTOS, BATCH = 23, 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    folder = tmp_path_factory.mktemp("loader")
    return small_store(folder, [expert() for expert in EXPERTS], photos=PHOTOS, shard_size=4)


def make_dataset(store: LabelStore, **changes: Any) -> LabelDataset:
    settings: dict[str, Any] = {
        "labels": LABELS,
        "view": Augmentation(),
        "resolution": 32,
        "label_resolution": 24,
        "seed": 7,
        "window": 2,
    }
    return LabelDataset(store, **settings | changes)


def make_loader(store: LabelStore, dataset: dict[str, Any] | None = None, **changes: Any) -> Loader:
    return Loader(make_dataset(store, **dataset or {}), **{"batch_size": BATCH} | changes)


def parts(batch: Batch) -> list[tuple[Any, ...]]:
    """Every example of a batch as values that compare, all of its tensors included."""
    found = []
    for one in batch.split(len(batch)):
        values = [one.photo_B3SS, one.to_photo_B23, one.turn_B22]
        for label in one.labels.values():
            values += [label.pixels_BCss, label.present_B, label.scale_B, label.bias_B]
            # Padding depends on batch mates; what it pads does not.
            real = label.class_ids_BN[0] >= 0 if label.class_ids_BN is not None else slice(None)
            values += [label.class_ids_BN[0, real] if label.class_ids_BN is not None else None]
            values += [label.boxes_BN4[0, real] if label.boxes_BN4 is not None else None]
        tensors = tuple(None if value is None else value.numpy().tobytes() for value in values)
        words = tuple(label.texts for label in one.labels.values())
        found.append((one.ids, one.positions_B.tolist(), one.texts, one.captions, one.items_B.tolist(), words, tensors))
    return found


def batches_of(loader: Loader, count: int) -> list[list[tuple[Any, ...]]]:
    """The next ``count`` batches, over ends of epochs."""
    found: list[list[tuple[Any, ...]]] = []
    while len(found) < count:
        for batch in loader:
            found.append(parts(batch))
            if len(found) == count:
                break
    return found


def together(loaders: list[Loader], count: int) -> list[list[tuple[Any, ...]]]:
    """Global batches: the ranks' shares one after the other."""
    of_ranks = [batches_of(loader, count) for loader in loaders]
    return [[example for share in step for example in share] for step in zip(*of_ranks, strict=True)]


@pytest.fixture(scope="module")
def undisturbed(store: LabelStore) -> list[list[tuple[Any, ...]]]:
    """13 global batches of 5 an epoch, by one rank that reads for itself."""
    return batches_of(make_loader(store), 13)


def test_an_epoch_has_whole_batches_of_different_images(undisturbed: list[list[tuple[Any, ...]]]) -> None:
    for first in (0, 5):
        epoch = [example[0][0] for batch in undisturbed[first : first + 5] for example in batch]
        assert len(epoch) == len(set(epoch)) == 20
    orders = [tuple(example[0][0] for batch in undisturbed[first : first + 5] for example in batch) for first in (0, 5)]
    assert orders[0] != orders[1]
    again = {example[0][0]: example[-1] for batch in undisturbed[:5] for example in batch}
    other = {example[0][0]: example[-1] for batch in undisturbed[5:10] for example in batch}
    both = set(again) & set(other)
    assert both and all(again[name] != other[name] for name in both), "cut otherwise in every epoch"


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 2), (2, 0), (2, 2), (4, 0)])
def test_ranks_and_workers_change_nothing(
    store: LabelStore, undisturbed: list[list[tuple[Any, ...]]], ranks: int, workers: int
) -> None:
    loaders = [make_loader(store, rank=rank, ranks=ranks, workers=workers) for rank in range(ranks)]
    assert together(loaders, 7) == undisturbed[:7]
    for loader in loaders:
        loader.close()


@pytest.mark.parametrize("done", [0, 3, 5, 8, 10])
@pytest.mark.parametrize(("ranks_then", "workers_then", "ranks", "workers"), [(1, 2, 2, 0), (4, 0, 1, 2), (2, 0, 4, 0)])
def test_a_resume_goes_on_exactly(
    store: LabelStore,
    undisturbed: list[list[tuple[Any, ...]]],
    done: int,
    ranks_then: int,
    workers_then: int,
    ranks: int,
    workers: int,
) -> None:
    """After batch 0, 3 (in an epoch), 5 (at its end), 8, 10, with another number of ranks and workers."""
    before = [make_loader(store, rank=rank, ranks=ranks_then, workers=workers_then) for rank in range(ranks_then)]
    assert together(before, done) == undisturbed[:done]
    states = [loader.state_dict() for loader in before]
    assert all(state == states[0] for state in states) and pickle.loads(pickle.dumps(states[0])) == states[0]
    after = [make_loader(store, rank=rank, ranks=ranks, workers=workers) for rank in range(ranks)]
    for loader in after:
        loader.load_state_dict(states[0])
    assert together(after, 3) == undisturbed[done : done + 3]
    for loader in before + after:
        loader.close()


def test_the_state_is_what_was_handed_out_not_what_was_read_ahead(store: LabelStore) -> None:
    loader = make_loader(store, workers=2)
    found = iter(loader)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batches"]) == (0, 0)
    next(found)
    next(found)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batches"]) == (0, 2)
    list(found)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batches"]) == (1, 0)
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iteration_that_was_left_is_gone_on_with(
    store: LabelStore, undisturbed: list[list[tuple[Any, ...]]], workers: int
) -> None:
    loader = make_loader(store, workers=workers)
    found = []
    for stop in (2, 1, 4):
        found += batches_of(loader, stop)
    assert found == undisturbed[:7]
    loader.load_state_dict(loader.state_dict() | {"epoch": 0, "batches": 1})
    assert batches_of(loader, 2) == undisturbed[1:3]
    loader.close()


@pytest.mark.parametrize("first", [0, 4, 7])
def test_steps_are_global_batches_in_micro_batches(
    store: LabelStore, undisturbed: list[list[tuple[Any, ...]]], first: int
) -> None:
    loader = make_loader(store, accumulated=2)
    assert loader.per_epoch == 5
    steps = loader.steps(first)
    for expected in undisturbed[first : first + 3]:
        micro = next(steps)
        assert [len(batch) for batch in micro] == [2, 2]
        assert [example for batch in micro for example in parts(batch)] == expected


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_in_evaluation_every_image_comes_once(store: LabelStore, ranks: int) -> None:
    settings = {"view": "squash", "seed": None}
    seen: list[int] = []
    for rank in range(ranks):
        loader = make_loader(store, settings, rank=rank, ranks=ranks, drop_last=False)
        batches = list(loader)
        assert [batch.positions_B.tolist() for batch in batches] == [
            share
            for start in range(0, PHOTOS, BATCH)
            if (share := list(_share(start, min(start + BATCH, PHOTOS), rank, ranks)))
        ]
        seen += [position for batch in batches for position in batch.positions_B.tolist()]
    assert sorted(seen) == list(range(PHOTOS))


def _share(start: int, stop: int, rank: int, ranks: int) -> range:
    count = stop - start
    return range(start + count * rank // ranks, start + count * (rank + 1) // ranks)


def test_evaluation_depends_on_no_seed_and_no_order(store: LabelStore) -> None:
    once = batches_of(make_loader(store, {"view": "centre", "seed": None}, batch_size=6, drop_last=False), 4)
    names = [example[0][0] for batch in once for example in batch]
    assert names == [record.image_id for shard in store.plan.shards() for record in store.records(shard)]


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_draws_nothing_from_global_generators(store: LabelStore, workers: int) -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), float(np.random.rand()), random.random()  # noqa: NPY002

    def seed() -> None:
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        random.seed(1)

    seed()
    expected = draw()
    seed()
    loader = make_loader(store, workers=workers)
    batches_of(loader, 2)
    assert draw() == expected
    loader.close()


def test_a_state_of_another_run_is_refused(store: LabelStore) -> None:
    loader = make_loader(store)
    state = loader.state_dict()
    for name, value in (("seed", 8), ("batch_size", 5), ("window", 3), ("examples", "another store")):
        with pytest.raises(ValueError, match=f"state has {name} .* expected the same"):
            loader.load_state_dict(state | {name: value})
    assert loader.state_dict() == state
    everything = make_loader(store, {"selection": Selection.images(store, lambda record: True)})
    with pytest.raises(ValueError, match="state has examples"):
        everything.load_state_dict(state)


def test_batches_that_cannot_be_are_refused(store: LabelStore) -> None:
    with pytest.raises(ValueError, match="a batch of 4 for 3 ranks; expected a multiple"):
        make_loader(store, ranks=3)
    with pytest.raises(ValueError, match="an epoch has 23 examples, a batch 24"):
        make_loader(store, batch_size=24)
    with pytest.raises(ValueError, match="in 5 parts; expected at most"):
        next(iter(make_loader(store))).split(5)
    with pytest.raises(ValueError, match="needs a seed"):
        make_dataset(store, seed=None)
    with pytest.raises(ValueError, match="expected an Augmentation, or squash or centre"):
        make_dataset(store, view="crop")


def test_a_dataset_can_be_sent_to_another_process(store: LabelStore) -> None:
    dataset = make_dataset(store)
    copy = pickle.loads(pickle.dumps(dataset))
    one, other = dataset[2, 9], copy[2, 9]
    assert one.image_id == other.image_id and np.array_equal(one.photo_SS3, other.photo_SS3)


# ---- what goes wrong


def cut(store: LabelStore, column: str, shard: int) -> None:
    receipt = store.receipt(column, store.plan.shard(shard))
    assert receipt.tar is not None
    path = Path(store.storage.url, store.folder(column), receipt.tar.name)
    path.write_bytes(path.read_bytes()[:700])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_cell_is_one_line_from_any_process(tmp_path: Path, workers: int) -> None:
    store = small_store(tmp_path, [Image(), Grey()], photos=8, shard_size=4)
    cut(store, Grey().card.column, 1)
    loader = make_loader(store, {"labels": {"depth": "grey"}}, workers=workers)
    with pytest.raises(DamagedCell, match="the tar ends after") as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    loader.close()


def test_another_photo_stands_in_for_one_that_cannot_be_read(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=8, shard_size=4, broken=(2,))
    loader = make_loader(store, {"labels": {"depth": "grey"}})
    examples = [(name, why) for batch in loader for name, why in zip(batch.ids, batch.replaced, strict=True)]
    names = [name for name, _ in examples]
    (broken,) = {record.image_id for shard in store.plan.shards() for record in store.records(shard)} - set(names)
    ((place, reason),) = [(place, why) for place, (_, why) in enumerate(examples) if why]
    assert names[place] == names[(place + 1) % 8], "the next one of the order"
    assert reason == (f"image {broken}: empty file: 0 bytes",)
    strict = make_loader(store, {"labels": {"depth": "grey"}, "unreadable": "raise"})
    with pytest.raises(StoreError, match=f"image {broken}: empty file: 0 bytes; expected a photo"):
        list(strict)


def test_photos_that_are_all_gone_are_told(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=8, shard_size=4)
    for path in (tmp_path / "photos").iterdir():
        path.unlink()
    with pytest.raises(StoreError, match="none of 8 photos in a row can be read, the first being image .*: missing"):
        list(make_loader(store, {"labels": {"depth": "grey"}}))


def test_columns_that_are_of_no_use_are_told_at_once(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey(), Caption(), Match()], photos=8, shard_size=4)
    for labels, what in (
        ({"depth": "edge"}, "no column 'edge'"),
        ({"depth": "caption"}, "kind text; expected map or classes"),
        ({"depth": "match"}, "kind score; expected map"),
    ):
        with pytest.raises(StoreError, match=what):
            make_dataset(store, labels=labels)
    with pytest.raises(StoreError, match="kind map; expected text"):
        make_dataset(store, labels={}, captions=("grey",))
    store.add_column(Darkness().card)
    with pytest.raises(StoreError, match="no committed cell, so there is no label for seg; expected some"):
        make_dataset(store, labels={"seg": "darkness"})


def test_a_column_of_failures_is_told_at_once(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Troubled(trouble="fail"), Grey()], photos=8, shard_size=4)
    with pytest.raises(
        StoreError, match=r"all 8 labels of troubled@.* failed \(dislike\).* for depth; expected labels"
    ):
        make_dataset(store, labels={"depth": "troubled"})
    make_dataset(store, labels={"depth": "grey"})


# ---- remote stores


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[LabelStore]:
    yield small_store(
        tmp_path, [expert() for expert in EXPERTS], photos=PHOTOS, shard_size=4, url=f"memory://{tmp_path.name}"
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_remote_store_reads_the_same_through_a_cache(
    remote: LabelStore, store: LabelStore, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = tmp_path / "downloads"
    inner = RemoteStorage.download

    def download(storage: RemoteStorage, name: str, to: Path) -> None:
        with downloads.open("a") as log:
            log.write(f"{name}\n")
        inner(storage, name, to)

    monkeypatch.setattr(RemoteStorage, "download", download)
    cache = FileCache(tmp_path / "cache", limit_bytes=50_000_000)
    cached = make_loader(remote, {"cache": cache}, workers=workers)
    found = batches_of(cached, 7)
    cached.close()
    direct = make_loader(remote)
    assert found == batches_of(direct, 7)
    names = downloads.read_text().split()
    assert len(names) == len(set(names)) > 0, "every file once, whoever came first"
    assert len(names) <= 6 * 12


def test_the_next_window_comes_while_this_one_is_read(remote: LabelStore, tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache", limit_bytes=50_000_000)
    loader = make_loader(remote, {"cache": cache})
    order = loader.dataset.order(0)
    next(iter(loader))
    loader._ahead.close()  # downloads that were begun end
    here = {int(path.name[6:12]) for path in cache.folder.rglob("shard-*")}
    assert here <= set(order.shards_of(0)) | set(order.shards_of(1)) and set(order.shards_of(0)) <= here


def test_a_cache_that_two_windows_do_not_fit_is_refused(remote: LabelStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a cache of 5000 bytes; two windows of 2 shards are about .* expected"):
        make_dataset(remote, cache=FileCache(tmp_path / "cache", limit_bytes=5000))
