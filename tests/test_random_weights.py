"""Labels of seeded random weights are called noise wherever a user meets them, and real ones never are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expert_zoo.weights.folder import WeightsFolder
from expert_zoo.weights.lock import BY_HAND, SEEDED
from jobs.cli import app
from pipeline.exports.hf import HuggingFace
from pipeline.exports.run import export
from pipeline.store import LabelStore
from tests.small_store import small_store
from tests.stand_ins import Grey
from tests.weights_server import Weighty

runner = CliRunner()


def weighty(root: Path, *, source: str) -> Weighty:
    """Loaded, with weights that are said to come from ``source``."""
    unknown = Weighty(weights_folder=str(root))
    place = unknown.folder.path(unknown.checkpoint)
    place.mkdir(parents=True)
    (place / "offset.txt").write_bytes(b"0.25")
    WeightsFolder(root).record(unknown.checkpoint, source=source)
    known = Weighty(weights_folder=str(root))
    known.load("cpu")
    return known


@pytest.mark.parametrize(("source", "random"), [(SEEDED, True), (BY_HAND, False)])
def test_a_store_says_which_labels_are_noise(tmp_path: Path, source: str, random: bool) -> None:
    small_store(tmp_path, [weighty(tmp_path / "weights", source=source), Grey()], photos=4, shard_size=4)
    store = LabelStore.open(str(tmp_path / "store"))  # what it says comes from its files alone
    for column, card in store.columns().items():
        noise = random and card.name == "weighty"
        assert card.random_weights == store.receipt(column, store.plan.shard(0)).random_weights == noise

    told = runner.invoke(app, ["status", store.storage.url]).stdout
    assert ("\nrandom weights, so the labels are noise: weighty\n" in told) == random
    found = json.loads(runner.invoke(app, ["status", store.storage.url, "--json"]).stdout)["columns"]
    assert {column["expert"]: column["random_weights"] for column in found} == {"weighty": random, "grey": False}

    done = runner.invoke(app, ["preview", store.storage.url, "--out", str(tmp_path / "page")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "page/preview.html").read_text().count("random weights: the labels are noise") == int(random)
    export(store, str(tmp_path / "out"), HuggingFace())
    assert (tmp_path / "out/README.md").read_text().count("Random weights: the labels are noise") == int(random)


def test_a_receipt_from_before_says_nothing_of_it(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=4, shard_size=4)
    name = f"{store.folder(store.column_of('grey'))}/shard-000000.json"
    old = json.loads(store.storage.read(name))
    del old["random_weights"]
    store.storage.replace(name, json.dumps(old).encode())
    assert store.receipt(store.column_of("grey"), store.plan.shard(0)).random_weights is False
