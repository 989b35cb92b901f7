"""A job with all six kinds of Prismer's labels, end to end: seeded weights, inputs of 96 pixels, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from expert_zoo.labels import ClassMap, DenseMap
from pipeline.audit import audit
from pipeline.reader import LabelReader
from pipeline.store import LabelStore
from tests.jobs_at_work import ROOT, run
from tests.seeded_zoo import WITHOUT_DETECTRON2, options_of

SIX = ("depth", "normal", "edge", "seg_coco", "detection", "ocr")
#: Where detectron2 is not installed, as in CI, objects come from the detector that needs no compiler.
NAMES = tuple("detection_rtdetr" if name == "detection" and WITHOUT_DETECTRON2 else name for name in SIX)
SCENES = 5


def write_job(folder: Path, weights: Path, recipe: str) -> Path:
    job = yaml.safe_load((ROOT / "jobs" / "prismer.yaml").read_text())
    assert tuple(job["experts"]) == SIX
    job["experts"] = [{name: options_of(name)} for name in NAMES]
    job |= {"images": [{"source": "scenes", "count": SCENES, "seed": 5, "size": 160}], "shard_size": 3}
    job |= {"store": str(folder / "store"), "weights": str(weights), "recipe": recipe, "ray": {"cpus": 1}}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


@pytest.mark.parametrize("recipe", ["best", "prismer"])
def test_all_six_kinds_of_labels(tmp_path: Path, seeded_weights: Path, recipe: str) -> None:
    done = run("label", write_job(tmp_path, seeded_weights, recipe), "--json")
    assert done.returncode == 0, done.stderr
    seeded = ", ".join(name for name in NAMES if name != "ocr")
    assert f"random weights: {seeded}: `expert-labels weights seed` wrote them" in done.stderr
    rows = {column.split("@")[0]: found["rows"] for column, found in json.loads(done.stdout)["columns"].items()}
    assert tuple(rows) == NAMES and all(found["failed"] == 0 for found in rows.values())

    store = LabelStore.open(str(tmp_path / "store"))
    assert audit(store, deep=True).findings == []
    cards = {card.name: card for card in LabelReader(store).cards.values()}
    squashed = recipe == "prismer"
    assert cards["seg_coco"].preprocessing["channels"] == ("BGR" if squashed else "RGB")
    assert cards["depth"].spec.dtype == ("uint8" if squashed else "uint16")
    for sample in LabelReader(store).samples():
        for name in ("depth", "normal", "edge"):
            value = sample.labels[name].value
            assert isinstance(value, DenseMap) and max(value.values.shape[:2]) <= 4 * 96
        classes = sample.labels["seg_coco"].value
        assert isinstance(classes, ClassMap) and classes.ids_HW.max() < 133

    again = run("label", tmp_path / "job.yaml")
    assert again.returncode == 0 and "nothing to do" in again.stderr


def test_without_weights_one_line_says_what_to_run(tmp_path: Path) -> None:
    done = run("label", write_job(tmp_path, tmp_path / "nowhere", "best"))
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "expert-labels weights fetch" in done.stderr and not (tmp_path / "store").exists()
