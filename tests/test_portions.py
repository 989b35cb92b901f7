"""Units go out in portions: what is in them, and that a worker that dies in the middle of one costs nothing that was done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manifests.record import path_id
from pipeline.audit import audit
from pipeline.choices import Unit
from pipeline.plan import Shard
from pipeline.portions import LARGEST, PORTIONS, portions
from pipeline.reader import LabelReader
from pipeline.speculation import copied
from pipeline.store import LabelStore
from tests.jobs_at_work import make_photos, run, stand_in, write_job


def units(count: int) -> list[Unit]:
    return [Unit(shard=Shard(index=n, start=n, stop=n + 1), columns=("grey@0123456789",)) for n in range(count)]


@pytest.mark.parametrize(("count", "workers"), [(1, 1), (64, 2), (5000, 1), (5000, 7), (20_000, 64)])
def test_every_unit_goes_out_once_and_the_last_ones_alone(count: int, workers: int) -> None:
    asked = units(count)
    found = list(portions(asked, workers))
    assert [unit for portion in found for unit in portion] == asked
    sizes = [len(portion) for portion in found]
    assert sizes == sorted(sizes, reverse=True) and max(sizes) <= LARGEST
    left = count
    for size in sizes:
        assert size == 1 or size * PORTIONS * workers <= left, "more than a small part of a worker's share of the rest"
        left -= size
    alone = [portion[0] for portion in found if len(portion) == 1]
    assert set(map(id, copied(asked, workers))) <= set(map(id, alone)), "a copy never waits behind another unit"


def test_a_million_units_are_some_ten_thousand_tasks() -> None:
    asked = units(1) * 1_000_000
    assert sum(1 for _ in portions(asked, 64)) < 30_000


def test_a_worker_that_dies_in_a_portion_costs_one_row(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 150)
    poison, deaths = path_id("photo0077.png"), tmp_path / "deaths"
    troubled = {"troubled": {"use": "tests.stand_ins:Troubled", "trouble": "kill", "at": poison, "log": str(deaths)}}
    store = tmp_path / "store"
    experts = [troubled, stand_in("grey")]
    packs = [{"experts": ["troubled", "grey"], "actors": 1}]
    job = write_job(
        tmp_path / "job.yaml", store=store, photos=photos, experts=experts, packs=packs, shard_size=1, failure_limit=1.0
    )
    log = tmp_path / "log"
    done = run("label", job, "--json", "--log", str(log))
    assert done.returncode == 0, done.stderr
    for column in json.loads(done.stdout)["columns"].values():
        assert column["cells"] == {"asked": 150, "committed": 150, "left": 0, "refused": 0}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    cells = [line["cell"] for line in lines if line["event"] == "cell"]
    assert len(cells) == len(set(cells)) == 300, "each answer once"
    opened = LabelStore.open(str(store))
    rows = {sample.record.image_id: sample.labels for sample in LabelReader(opened).samples()}
    assert [image for image, labels in rows.items() if labels["troubled"].status == "failed"] == [poison]
    assert all(labels["grey"].status in ("ok", "empty") for labels in rows.values()) and len(rows) == 150
    assert 1 <= len(deaths.read_text().splitlines()) <= 4
    assert not audit(opened, deep=True).findings and not (store / "attempts").exists()
