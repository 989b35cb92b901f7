"""Watching a store: rates and time left from receipts' times, only new receipts read, a table in place or lines of JSON."""

from __future__ import annotations

import datetime
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.watching import lines_of, watch
from pipeline.errors import StoreError
from pipeline.pace import Watch
from pipeline.receipt import Seconds
from pipeline.storage import LocalStorage
from pipeline.store import LabelStore
from tests.small_store import label, small_store
from tests.stand_ins import Grey, Squares, Troubled

NOW = 1_800_000_000.0


def made_at(store: LabelStore, column: str, shard: int, *, ago: float, wait: float, compute: float) -> None:
    """Rewrites a receipt as if the cell had been committed ``ago`` seconds before NOW."""
    receipt = store.receipt(column, store.plan.shard(shard))
    when = datetime.datetime.fromtimestamp(NOW - ago, datetime.UTC).isoformat(timespec="seconds")
    changed = receipt.model_copy(update={"committed_at": when, "seconds": Seconds(wait=wait, compute=compute)})
    store.storage.replace(f"{store.folder(column)}/shard-{shard:06d}.json", changed.to_bytes())


def test_rate_time_left_and_waiting_come_from_the_receipts_of_the_last_minutes(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey(), Squares()], photos=40, shard_size=10)
    grey, squares = (store.column_of(name) for name in ("grey", "squares"))
    for column in (grey, squares):
        store.withdraw(column, 3)
        made_at(store, column, 0, ago=9000, wait=50, compute=1)  # yesterday's, so to say
        made_at(store, column, 1, ago=60, wait=1, compute=19)
        made_at(store, column, 2, ago=20, wait=2, compute=18)
    pace = Watch(str(tmp_path / "store")).look(now=NOW)
    # Shard 1 was begun 20 + 20 seconds before both its cells were committed, 60 seconds ago: 20 images in 100 seconds.
    for column in pace.columns:
        assert (column.done, column.shards, column.images, column.left) == (3, 4, 30, 10)
        assert column.rate == pytest.approx(20 / 100) and column.seconds_left == pytest.approx(50)
        assert column.wait_share == pytest.approx(3 / 40) and column.last_commit == pytest.approx(20)
    assert (pace.rate, pace.seconds_left, pace.wait_share) == pytest.approx((0.4, 50, 3 / 40)) and not pace.complete
    later = Watch(str(tmp_path / "store")).look(now=NOW + 3600)
    assert {(c.rate, c.seconds_left, c.wait_share) for c in later.columns} == {(0.0, None, None)}
    assert later.seconds_left is None
    told = "\n".join(lines_of(later))
    assert "grey: no cell for 60.3 min; does its job still run?" in told and "unknown left" in told


def test_a_cell_that_takes_longer_than_the_window_still_has_a_rate(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=30, shard_size=10)
    (grey,) = store.columns()
    store.withdraw(grey, 2)
    made_at(store, grey, 0, ago=1400, wait=0, compute=1000)
    made_at(store, grey, 1, ago=400, wait=0, compute=1000)
    (column,) = Watch(str(tmp_path / "store"), window=300).look(now=NOW).columns
    assert column.rate == pytest.approx(20 / 2400)


def test_workers_whose_clocks_are_ahead_do_not_turn_rates_round(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=20, shard_size=10)
    (grey,) = store.columns()
    made_at(store, grey, 0, ago=-100, wait=0, compute=10)
    made_at(store, grey, 1, ago=-110, wait=0, compute=10)
    (column,) = Watch(str(tmp_path / "store")).look(now=NOW).columns
    assert column.rate == pytest.approx(1.0) and column.last_commit == 0


def test_a_second_look_reads_only_new_receipts_and_forgets_those_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = Troubled(trouble="fail", at="photo-4")
    store = small_store(tmp_path, [sick], photos=12, shard_size=4, broken=[1])
    (column,) = store.columns()
    store.withdraw(column, 2)
    (tmp_path / "store" / store.folder(column) / "shard-000000.json").write_text("?")
    looks = Watch(str(tmp_path / "store"))
    (found,) = looks.look().columns
    assert (found.done, found.failed, found.damaged) == (2, 1, 1)
    read: list[str] = []
    before = LocalStorage.read
    monkeypatch.setattr(LocalStorage, "read", lambda self, name: (read.append(name), before(self, name))[1])
    looks.look()
    assert [name[-17:] for name in read if "shard-" in name] == ["shard-000000.json"], "it may have been mended"
    store.withdraw(column, 0)
    label(store, [sick])
    read.clear()
    (found,) = looks.look().columns
    assert sorted(name[-17:] for name in read if "shard-" in name) == ["shard-000000.json", "shard-000002.json"]
    assert (found.done, found.failed, found.damaged) == (3, 2, 0), (
        "the broken photo 1 is in shard 0, photo 4 in shard 1"
    )


def test_what_was_withdrawn_between_two_looks_is_missing(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=8, shard_size=4)
    looks = Watch(str(tmp_path / "store"))
    assert looks.look().complete
    store.withdraw(store.column_of("grey"), 1)
    (column,) = looks.look().columns
    assert (column.done, column.left) == (1, 4)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def while_asleep(do: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens to the store between two looks."""
    monkeypatch.setattr("jobs.watching.time.sleep", lambda _: do())


def test_a_terminal_sees_a_table_drawn_over_itself_until_the_store_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small_store(tmp_path, [Grey(), Squares()], photos=8, shard_size=4)
    store.withdraw(store.column_of("grey"), 1)
    while_asleep(lambda: label(store, [Grey()]), monkeypatch)
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    assert watch(Watch(str(tmp_path / "store")), every=1.0, as_json=False, out=out).complete
    first, second = out.getvalue().split("\x1b[5A\x1b[J")
    assert "grey       1/2" in first and "squares    2/2" in first and "in all" in first
    assert "grey       2/2" in second and second.endswith("complete\n")
    assert all(len(line) < 60 for line in re.split(r"\n|\x1b\[\w+", out.getvalue()))


def test_elsewhere_every_look_is_a_line_of_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = small_store(tmp_path, [Grey(), Squares()], photos=8, shard_size=4)
    store.withdraw(store.column_of("grey"), 1)
    store.withdraw(store.column_of("squares"), 0)
    while_asleep(lambda: label(store, [Grey()]), monkeypatch)
    url = str(tmp_path / "store")
    done = CliRunner().invoke(app, ["status", url, "--watch", "-c", "grey"])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["complete"], line["columns"][0]["done"]) for line in lines] == [(False, 1), (True, 2)]
    assert [len(line["columns"]) for line in lines] == [1, 1], "squares is not complete, and was not asked for"


def test_what_cannot_be_watched_is_said(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=4, shard_size=4)
    with pytest.raises(StoreError, match="no column 'gray'"):
        Watch(store.storage.url, columns=["gray"]).look()
    with pytest.raises(StoreError, match="no store"):
        Watch(str(tmp_path / "none")).look()
