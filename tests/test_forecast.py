"""What labelling would cost: multiplied right, from calibration and from receipts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.receipt import Seconds
from tests.jobs_at_work import make_photos, stand_in, write_job
from tests.small_store import small_store
from tests.stand_ins import Grey, Squares

runner = CliRunner()


def told(*arguments: str) -> dict[str, dict[str, float]]:
    """The experts by name, and "total"."""
    done = runner.invoke(app, ["forecast", *arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    return {expert["column"].split("@")[0]: expert for expert in found["experts"]} | {"total": found["total"]}


def test_a_store_forecasts_any_number_of_images_from_its_receipts(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey(), Squares()], photos=12, shard_size=5)
    stored = {}
    for column in store.columns():
        for shard in store.plan.shards():
            receipt = store.receipt(column, shard)
            seconds = Seconds(read=99.0, wait=0.1 * shard.rows, compute=0.4 * shard.rows, encode=99.0, write=99.0)
            changed = receipt.model_copy(update={"seconds": seconds})
            store.storage.replace(f"{store.folder(column)}/{shard.name}.json", changed.to_bytes())
            name = column.split("@")[0]
            stored[name] = stored.get(name, 0) + receipt.stored
    url = store.storage.url
    found = told(url, "--images", "7200000", "--price", "2.5", "--gpus", "0.5")
    for name in ("grey", "squares"):
        assert found[name]["hours"] == pytest.approx(7_200_000 * 0.5 / 3600 * 0.5) == pytest.approx(500)
        assert found[name]["money"] == pytest.approx(1250) and found[name]["measured_on"] == 12
        assert found[name]["bytes"] == pytest.approx(7_200_000 * stored[name] / 12)
    assert found["total"]["hours"] == pytest.approx(1000) and found["total"]["money"] == pytest.approx(2500)
    lines = runner.invoke(app, ["forecast", url, "--images", "7200000", "--price", "2.5"]).stdout.splitlines()
    assert lines[1].split()[:7] == ["grey", "7200000", "500.0", f"{stored['grey'] / 12000:.1f}", "1000", "h", "2500.00"]
    assert lines[3].split()[:4] == ["all", "2000", "h", "5000.00"] and "time: of one GPU" in lines[4]
    unpriced = runner.invoke(app, ["forecast", url, "--images", "7200000"]).stdout.splitlines()
    assert "money" in lines[0] and "money" not in unpriced[0] and len({len(line) for line in unpriced[:3]}) == 1


def test_without_a_number_it_is_for_what_is_missing(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey(), Squares()], photos=12, shard_size=5)
    assert "nothing is missing" in runner.invoke(app, ["forecast", store.storage.url]).stdout
    store.withdraw(store.column_of("grey"), 1)
    found = told(store.storage.url)
    assert set(found) == {"grey", "total"}
    assert (found["grey"]["images"], found["grey"]["measured_on"], found["grey"]["money"]) == (5, 7, None)


def test_a_column_without_a_cell_cannot_be_forecast_from_receipts(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=4, shard_size=4)
    store.add_column(Squares().card)
    done = runner.invoke(app, ["forecast", store.storage.url])
    assert done.exit_code != 0 and "no cell of squares" in str(done.exception)
    assert set(told(store.storage.url, "--images", "100", "-c", "grey")) == {"grey", "total"}


def test_a_job_is_measured_here_and_nothing_is_left_behind(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 30)
    store = tmp_path / "store"
    slow = {"grey": {"use": "tests.stand_ins:Grey", "delay": 0.05}}
    job = write_job(tmp_path / "job.yaml", store=store, photos=photos, experts=[slow, stand_in("squares")])
    found = told(str(job), "--images", "72000", "--price", "1")
    assert found["grey"]["measured_on"] == 12 and not store.exists()
    assert found["grey"]["seconds_per_image"] > found["squares"]["seconds_per_image"]
    assert found["grey"]["hours"] == pytest.approx(72000 * found["grey"]["seconds_per_image"] / 3600)
    assert found["grey"]["hours"] > 0.05 / 4 * 20 * 0.9, "a delay of 0.05 s for a batch of four, or more"
    assert told(str(job))["grey"]["images"] == 30
    dry = runner.invoke(app, ["label", str(job), "--dry-run"], catch_exceptions=False).stdout.splitlines()
    assert dry[0].startswith("30 images in 1 shard(s); measured on 12 of them") and "cells missing" in dry[1]
    assert (
        dry[2].split()[:3] == ["grey", "1", "30"] and dry[4].startswith("all ") and dry[6].startswith("in all about ")
    )


def test_an_expert_that_always_fails_is_not_forecast_as_if_it_worked(tmp_path: Path) -> None:
    experts = [{"troubled": {"use": "tests.stand_ins:Troubled", "trouble": "raise"}}]
    job = write_job(
        tmp_path / "job.yaml", store=tmp_path / "s", photos=make_photos(tmp_path / "photos", 4), experts=experts
    )
    done = runner.invoke(app, ["label", str(job), "--dry-run"], catch_exceptions=False)
    assert "troubled failed on 2 of 2 readable photos" in done.stderr and "numbers below are of failing" in done.stderr
    assert "RuntimeError: I do not like this photo (stand_ins.py:" in done.stderr, "the line of whoever wrote it"
