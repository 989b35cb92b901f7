"""audit --drift: chance is not told, a bad cell, a bad worker and a subtly bad host are, and the exit code says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.drift import LIMIT, drift
from pipeline.errors import JobError
from pipeline.store import LabelStore
from tests.small_store import small_store
from tests.stand_ins import Darkness, Grey

CELLS = 40


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """A column of 40 cells whose numbers are chance, made by two workers on each of two hosts in turn."""
    store = small_store(tmp_path, [Grey(), Darkness()], photos=2 * CELLS, shard_size=2)
    chance = np.random.default_rng(5)
    for index in range(CELLS):
        rewrite(
            store,
            "grey",
            index,
            {"mean": 1.5 + 0.02 * chance.normal(), "spread": 0.2 + 0.01 * chance.normal(), "constant": 0.0},
            host=f"node{index % 2}",
            worker=f"GPU {index // 2 % 2}",
        )
    return store


def rewrite(store: LabelStore, name: str, index: int, numbers: dict[str, float], **more: object) -> None:
    path = Path(store.storage.url) / store.folder(store.column_of(name)) / f"shard-{index:06d}.json"
    receipt = json.loads(path.read_text())
    receipt["statistics"]["numbers"] |= numbers
    path.write_text(json.dumps(receipt | more))


def numbers_of(store: LabelStore, index: int) -> dict[str, float]:
    statistics = store.receipt(store.column_of("grey"), store.plan.shard(index)).statistics
    assert statistics is not None
    return statistics.numbers


def audited(store: LabelStore) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["audit", store.storage.url, "--drift", "--column", "grey"])
    return done.exit_code, done.stdout


def test_chance_is_not_told(store: LabelStore) -> None:
    code, said = audited(store)
    assert code == 0 and "0 cell(s) differ" in said and "40 cells of 1 column(s)" in said


def test_a_cell_of_constant_maps_is_named_with_its_worker(store: LabelStore) -> None:
    rewrite(store, "grey", 7, {"constant": 1.0, "spread": 0.0})
    code, said = audited(store)
    assert code == 1 and "/shard-000007 (node1, GPU 1): constant 1, usually 0" in said
    report = drift(store, columns=["grey"])
    assert [found.shard for found in report.cells] == [7] and not report.groups
    assert {number.number for number in report.cells[0].numbers} == {"constant", "spread"}


def test_a_shift_that_no_cell_shows_by_itself_is_seen_in_all_cells_of_a_worker(store: LabelStore) -> None:
    for index in range(CELLS):
        if (index % 2, index // 2 % 2) == (1, 0):
            rewrite(store, "grey", index, {"mean": numbers_of(store, index)["mean"] + 0.09})
    report = drift(store, columns=["grey"])
    assert [found.who for found in report.groups] == ["host node1, GPU 0"]
    assert report.groups[0].cells == CELLS // 4 and report.groups[0].numbers[0].number == "mean"
    assert report.groups[0].numbers[0].z < LIMIT
    code, said = audited(store)
    assert code == 1 and "host node1, GPU 0 (10 cells): mean 1.5" in said


def test_another_version_of_a_package_is_named(store: LabelStore) -> None:
    for index in range(0, CELLS, 3):
        rewrite(store, "grey", index, {"spread": 0.3}, packages={"torch": "9.9"})
    assert "torch 9.9" in [found.who for found in drift(store, columns=["grey"]).groups]


def test_the_small_last_cell_may_differ_more(tmp_path: Path) -> None:
    """The mean of few photos strays further: by the rule, as sqrt of how many fewer they are."""
    store = small_store(tmp_path, [Grey()], photos=9 * 16 + 1, shard_size=16)
    for index in range(9):
        rewrite(store, "grey", index, {"mean": 1.5 + 0.01 * (index - 4)})
    rewrite(store, "grey", 9, {"mean": 1.8})
    assert not [c for c in drift(store).cells if any(number.number == "mean" for number in c.numbers)]
    rewrite(store, "grey", 8, {"mean": 1.8})
    assert [c.shard for c in drift(store).cells if c.numbers[0].number == "mean"] == [8]


def test_exchanged_classes_are_seen_where_their_entropy_stays(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Darkness()], photos=24, shard_size=2)
    folder = Path(store.storage.url) / store.folder(store.column_of("darkness"))
    for index in range(12):
        receipt = json.loads((folder / f"shard-{index:06d}.json").read_text())
        receipt["statistics"]["classes"] = {"0": 0.7, "1": 0.3} if index != 5 else {"1": 0.7, "0": 0.3}
        (folder / f"shard-{index:06d}.json").write_text(json.dumps(receipt))
    (found,) = drift(store).cells
    assert found.shard == 5 and {number.number for number in found.numbers} == {"class 0", "class 1"}


def test_too_few_cells_and_old_receipts_are_said(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=20, shard_size=2)
    folder = Path(store.storage.url) / store.folder(store.column_of("grey"))
    for index in range(3):
        receipt = json.loads((folder / f"shard-{index:06d}.json").read_text())
        del receipt["statistics"]
        (folder / f"shard-{index:06d}.json").write_text(json.dumps(receipt))
    code, said = audited(store)
    assert code == 0 and "3 cells left out" in said and "too few cells to compare, 8 are needed" in said


def test_with_what_it_does_not_go(store: LabelStore) -> None:
    done = CliRunner().invoke(app, ["audit", store.storage.url, "--drift", "--deep"])
    assert isinstance(done.exception, JobError) and "without --deep and --repair" in str(done.exception)
