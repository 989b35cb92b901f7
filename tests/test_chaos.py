"""The chaos suite's short form: some kills on a cluster of two nodes. `make chaos` is the long one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store import LabelStore
from tests.chaos.campaign import SIZES, Campaign, schedule
from tests.chaos.faults import FAULTS, MIX
from tests.chaos.nodes import Nodes, nodes
from tests.chaos.obedient import Orders
from tests.chaos.places import SmallDisk, disk, may_mount, small_disk
from tests.chaos.tally import BEGIN, END, Kind, Tally, write_into
from tests.conftest import ROOT, write_manifest, write_photos
from tests.jobs_at_work import make_photos, run, stand_in, write_job


def test_the_seed_decides_what_is_tried() -> None:
    first = [schedule(1, number, MIX) for number in range(40)]
    assert first == [schedule(1, number, MIX) for number in range(40)] != [schedule(2, n, MIX) for n in range(40)]
    assert {kind for _, kinds in first for kind in kinds} == set(FAULTS), "forty rounds try everything"
    assert all(len(kinds) == SIZES[place].faults for place, kinds in first)


def test_the_table_counts_what_hit_and_where_something_was_lost(tmp_path: Path) -> None:
    tally = Tally(rounds=3, cells=900)
    tally.kinds = {
        "driver killed": Kind(injected=4, rounds={0, 1}, recovery=12.34),
        "expert hangs": Kind(injected=2, rounds={1}, seconds=8.1),
        "S3 call: 503": Kind(injected=70, rounds={2}),
    }
    tally.lost["1"] += 2
    assert (tally.injected, tally.kills) == (76, 4)
    rows = {row[0]: row[1:] for row in tally.rows()}
    assert rows["driver killed"] == ("4", "2", "2", "12.3", "") and rows["expert hangs"][:3] == ("2", "1", "2")
    assert rows["S3 call: 503"][:3] == ("70", "1", "0") and rows["in all"][:3] == ("76", "3", "2")
    document = tmp_path / "page.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_into(document, tally.markdown("about"))
    text = document.read_text()
    assert "| driver killed | 4 | 2 | 2 | 12.3 |  |" in text and "old" not in text and text.endswith(f"{END}\nafter\n")


def test_an_order_is_carried_out_once(tmp_path: Path) -> None:
    orders = Orders(tmp_path)
    name = orders.give("io", 7, "now")
    assert orders.taken_by(name) is None
    assert orders.take("hang") is None and orders.take("io") == "now" and orders.take("io") is None
    assert orders.taken_by(name) == os.getpid()
    late = orders.give("io", 8)
    orders.withdraw(late)
    assert orders.take("io") is None and orders.taken_by(late) is None


ORDERED = """
import os, sys, time
from pathlib import Path
from pipeline.store import LabelStore
from tests.chaos.obedient import Obedient
from tests.conftest import label_all
expert = Obedient(orders=sys.argv[2])
store = LabelStore.open(sys.argv[1])
try:
    label_all(store, [expert])
except OSError as error:
    print(error.errno, len(store.committed(expert.card.column)))
receipts = [store.receipt(expert.card.column, store.plan.shard(i)) for i in store.committed(expert.card.column)]
print(time.time() - Path(sys.argv[2]).stat().st_ctime, {r.committed_at[:4] for r in receipts})
"""


def test_orders_reach_the_disk_and_the_clock_of_whoever_labels(tmp_path: Path) -> None:
    manifest = write_manifest(str(tmp_path / "manifest.parquet"), write_photos(tmp_path / "photos", 4))
    LabelStore.create(str(tmp_path / "store"), manifest, shard_size=4)
    orders = Orders(tmp_path / "orders")
    orders.folder.mkdir()
    command = [sys.executable, "-c", ORDERED, str(tmp_path / "store"), str(orders.folder)]

    def said(**more: str) -> list[str]:
        done = subprocess.run(command, cwd=ROOT, env=os.environ | more, capture_output=True, text=True, check=True)
        return done.stdout.split()

    orders.give("io", 0)
    assert said()[:2] == ["5", "0"], "EIO, and no cell"
    orders.give("clock", 1, str(-40 * 365 * 86_400))
    seconds, *years = said()
    assert float(seconds) < -1e9 and years != [str({str(time.gmtime().tm_year)})]
    assert float(said(CHAOS_CLOCK="7200")[0]) > 7000


def test_a_small_disk_gets_full_and_is_free_again(tmp_path: Path) -> None:
    if not may_mount():
        pytest.skip("mounting a small disk needs root")
    with small_disk(tmp_path) as place:
        assert isinstance(place, SmallDisk)
        place.fill()
        with pytest.raises(OSError, match="No space left"):
            (place.folder / "more").write_bytes(b"one byte")
        place.free()
        (place.folder / "more").write_bytes(bytes(1000))
    assert not (tmp_path / "small/more").exists()


def test_a_disk_that_is_full_before_anything_is_planned_may_be_free_the_next_time(tmp_path: Path) -> None:
    if not may_mount():
        pytest.skip("mounting a small disk needs root")
    with small_disk(tmp_path) as place:
        assert isinstance(place, SmallDisk)
        photos = make_photos(tmp_path / "photos", 4)
        job = write_job(tmp_path / "job.yaml", store=Path(place.url), photos=photos, experts=[stand_in("grey")])
        place.fill()
        done = run("label", job)
        assert done.returncode == 3 and "No space left" in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with nodes() as running:
        yield running
        running.stop()
        assert running.left_over() == []


def test_kills_lose_nothing(tmp_path: Path, cluster: Nodes) -> None:
    """One round: a driver, a worker and a node, in some order."""
    said: list[str] = []
    campaign = Campaign(folder=tmp_path, nodes=cluster, seed=3, server=None, say=said.append)
    kinds = ["worker killed", "driver killed", "worker killed", "node lost"]
    campaign.quieten()
    with disk(tmp_path) as place:
        campaign.round(0, place, kinds, tmp_path, until=time.monotonic() + 300)
    assert campaign.tally.findings == [] and campaign.tally.lost.total() == 0, said
    assert campaign.tally.injected >= 3 and campaign.tally.cells > 0, said
