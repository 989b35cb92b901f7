"""A folder of everything that can be wrong with a photo goes the whole way: source, manifest, plan, experts, audit, retry.

In one process, without Ray: what a cluster adds is in test_label_job.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from expert_zoo.catalog import create
from expert_zoo.expert import Expert
from manifests.build import build
from manifests.record import path_id
from manifests.sources import Folder
from pipeline.audit import audit
from pipeline.reader import LabelReader, Sample
from pipeline.store import LabelStore
from tests.photo_files import Expectation, encode, make_bad_folder, picture
from tests.small_store import label
from tests.stand_ins import Grey, Troubled

#: There when the manifest is built, gone when it is read.
VANISHING = "vanishing.jpg"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelStore, dict[str, Expectation], Path]:
    """The store of a bad folder, one of whose files vanished between plan and read; what is expected of each file."""
    folder = tmp_path_factory.mktemp("bad")
    photos = folder / "photos"
    expected = make_bad_folder(photos)
    (photos / VANISHING).write_bytes(encode(picture()))
    report = build([Folder(path=str(photos))], str(folder / "manifest.parquet"))
    store = LabelStore.create(str(folder / "store"), report.manifest, shard_size=10)
    (photos / VANISHING).unlink()
    trouble = [
        Troubled(trouble=trouble, at=path_id("good.jpg"), name=f"troubled_{trouble}")
        for trouble in ("raise", "nan", "shape", "kind", "count", "nothing")
    ]
    experts: list[Expert] = [Grey(), *trouble]
    for name in ("image", "ocr", "pocket_depth", "pocket_detection"):
        experts.append(create(name))
        experts[-1].load("cpu")
    label(store, experts)
    return store, expected | {VANISHING: Expectation(code="missing")}, photos


def samples(store: LabelStore) -> dict[str, Sample]:
    return {sample.record.image_id: sample for sample in LabelReader(store).samples()}


def test_every_file_is_a_row_with_the_status_and_reason_it_deserves(
    labelled: tuple[LabelStore, dict[str, Expectation], Path],
) -> None:
    store, expected, photos = labelled
    found = samples(store)
    files = {name: wanted for name, wanted in expected.items() if path_id(name) in found}
    left_out = set(expected) - set(files)
    assert left_out <= {"directory.jpg", "fifo.jpg", "loop.jpg"}, (
        "a source leaves out what is no file, and nothing else"
    )
    for name, wanted in files.items():
        sample = found[path_id(name)]
        for expert, answer in sample.labels.items():
            if wanted.code:
                assert answer.status == "failed" and answer.reason.startswith(f"{wanted.code}: "), (
                    name,
                    expert,
                    answer,
                )
            elif name != "good.jpg":
                assert answer.status != "failed", (name, expert, answer.reason)
                assert answer.reason.startswith(wanted.note) and bool(answer.reason) == bool(wanted.note), (
                    name,
                    expert,
                )
        size = (None, None) if wanted.code else wanted.size
        assert (sample.width, sample.height) == size, name
    good = {expert: answer.reason for expert, answer in found[path_id("good.jpg")].labels.items() if answer.reason}
    assert sorted(good) == [f"troubled_{t}" for t in ("count", "kind", "nan", "nothing", "raise", "shape")]
    assert {reason.split(":")[0] for reason in good.values()} == {"expert raised", "bad label"}


def test_the_store_is_whole_and_a_file_that_came_back_is_retried(
    labelled: tuple[LabelStore, dict[str, Expectation], Path],
) -> None:
    store, _, photos = labelled
    assert not audit(store, deep=True).findings
    before = samples(store)
    (photos / VANISHING).write_bytes(encode(picture()))
    label(store, [Grey()], retry=True)
    after = samples(store)
    assert after[path_id(VANISHING)].labels["grey"].status == "ok"
    changed = [i for i in after if after[i].labels["grey"].status != before[i].labels["grey"].status]
    assert changed == [path_id(VANISHING)] and not audit(store, deep=True).errors
