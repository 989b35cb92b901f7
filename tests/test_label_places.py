"""Labelling end to end where no photo is a file of its own: members of a tar, cells of a Parquet, addresses on the web."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from expert_zoo.labels import Picture
from pipeline.reader import LabelReader
from pipeline.store import LabelStore
from tests.img2dataset_output import Downloaded, write_shard
from tests.jobs_at_work import run, stand_in, write_job
from tests.photo_files import encode, picture
from tests.test_hf_parquet import cells
from tests.web_server import web_server

PHOTOS = [encode(picture(seed=seed), "PNG") for seed in range(12)]


def test_photos_of_a_tar_a_parquet_and_the_web(tmp_path: Path) -> None:
    samples = [Downloaded(f"http://h/{n}", f"tar {n}", PHOTOS[n]) for n in range(5)]
    write_shard(tmp_path / "web", 0, samples, form="webdataset")
    pq.write_table(
        pa.table({"image": cells(*PHOTOS[5:9], b"<html>", b""), "caption": [f"cell {n}" for n in range(5, 11)]}),
        tmp_path / "hf.parquet",
        row_group_size=2,
    )
    with web_server() as server:
        server.files |= {"/9.png": PHOTOS[9], "/10.png": PHOTOS[10]}
        server.answers["/10.png"] = [503, 200]
        server.answers["/slow.png"] = ["drip"]
        server.answers["/moved.png"] = [(302, {"Location": "file:///etc/passwd"})]
        lines = ["url\tcaption"]
        lines += [server.url(f"/{name}.png") + f"\tweb {name}" for name in ("9", "10", "none", "slow", "moved")]
        (tmp_path / "list.tsv").write_text("\n".join(lines) + "\n")
        job = write_job(
            tmp_path / "job.yaml",
            store=tmp_path / "store",
            photos=tmp_path,
            experts=[stand_in("grey"), "image"],
            images=[
                {"source": "img2dataset", "path": str(tmp_path / "web")},
                {"source": "hf_parquet", "path": str(tmp_path / "hf.parquet")},
                {"source": "table", "path": str(tmp_path / "list.tsv"), "fetch": True},
            ],
            limits={"web": {"private": True, "timeout": 1.5}},
            shard_size=8,
        )
        done = run("label", job, "--json")
        assert done.returncode == 0, done.stderr
        reasons = {"missing": 1, "not an image": 1, "empty file": 1, "timed out": 1, "forbidden address": 1}
        for column in json.loads(done.stdout)["columns"].values():
            assert column["rows"] == {"ok": 11, "empty": 0, "failed": 5} and column["reasons"] == reasons
        asked = len(server.asked)
        # A resume asks nobody again.
        assert run("label", job).returncode == 0 and len(server.asked) == asked
    kept = {}
    for sample in LabelReader(LabelStore.open(str(tmp_path / "store"))).samples():
        image = sample.labels["image"].value
        if isinstance(image, Picture):
            (kept[image.data],) = sample.record.captions
    names = [f"tar {n}" for n in range(5)] + [f"cell {n}" for n in range(5, 9)] + ["web 9", "web 10"]
    assert kept == dict(zip(PHOTOS, names, strict=False))
