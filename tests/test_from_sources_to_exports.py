"""The whole way with 200 images: COCO, img2dataset's tars and a folder, labelled, trained on for a step, exported and read back."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
import yaml
from PIL import Image

from manifests.scenes import render_uri
from manifests.scenes.uri import scene_uri
from pipeline.reader import LabelReader
from pipeline.store import LabelStore
from tests.jobs_at_work import run

COCO, WEB, MINE = 80, 100, 40
SIDE = 96


def jpeg(number: int) -> bytes:
    """A scene, wider than high where its number is odd, so that it has a sign."""
    pixels = render_uri(scene_uri(7, number % 20, SIDE)).photo_HW3[: SIDE - 24 * (number % 2)]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_coco(folder: Path) -> dict[str, Any]:
    images = []
    for number in range(COCO):
        part, name = ("val2014", f"COCO_val2014_{number + 1:012d}.jpg")
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / name).write_bytes(jpeg(number))
        texts = [
            {"raw": f"Scene {number}, told {time}. ", "tokens": [], "imgid": number, "sentid": 2 * number + time}
            for time in range(2)
        ]
        split = ("train", "restval", "val", "test")[number % 4]
        images.append(
            {
                "filepath": part,
                "filename": name,
                "imgid": number,
                "cocoid": number + 1,
                "split": split,
                "sentences": texts,
                "sentids": [],
            }
        )
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return {
        "source": "coco",
        "images": str(folder),
        "karpathy": str(folder / "dataset_coco.json"),
        "splits": ["train", "restval", "test"],
    }


def write_web(folder: Path) -> dict[str, Any]:
    """Two tars as img2dataset writes them, one picture of which could not be downloaded."""
    folder.mkdir()
    for shard in range(2):
        rows = []
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for index in range(WEB // 2 + 1):
                key, there = f"{shard:05d}{index:04d}", index != 3
                row = {"caption": f"web picture {index}", "url": f"http://example.com/{key}.jpg", "key": key}
                rows.append(
                    row
                    | {
                        "status": "success" if there else "failed_to_download",
                        "error_message": None if there else "404",
                    }
                )
                if there:
                    members = {
                        "jpg": jpeg(index),
                        "txt": row["caption"].encode(),
                        "json": json.dumps(rows[-1]).encode(),
                    }
                    for ending, data in members.items():
                        info = tarfile.TarInfo(f"{key}.{ending}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard:05d}.parquet")
    return {"source": "img2dataset", "path": str(folder), "name": "cc12m"}


def write_mine(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    for number in range(MINE):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
        (folder / f"{number}.txt").write_text(f"my picture {number}\n")
    return {"source": "folder", "path": str(folder), "name": "mine"}


@pytest.mark.long
def test_from_sources_to_exports(tmp_path: Path) -> None:
    images = [write_coco(tmp_path / "coco"), write_web(tmp_path / "web"), write_mine(tmp_path / "mine")]
    pocket = [f"pocket_{name}" for name in ("depth", "normal", "edge", "seg", "detection")]
    experts = ["image", *pocket, {"signs": {"use": "tests.small_store:Signs"}}]
    store, embeddings = str(tmp_path / "store"), str(tmp_path / "embeddings")
    job = tmp_path / "job.yaml"
    job.write_text(
        yaml.safe_dump({"store": store, "images": images, "experts": experts, "shard_size": 64, "ray": {"cpus": 2}})
    )

    def ok(*arguments: str | Path) -> str:
        done = run(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return str(done.stdout)

    ok("label", job)
    sources = {
        record.source
        for shard in LabelStore.open(store).plan.shards()
        for record in LabelStore.open(store).records(shard)
    }
    assert sources == {"coco", "cc12m", "mine"} and LabelStore.open(store).plan.images == COCO * 3 // 4 + WEB + MINE
    ok("embed", store, "--method", "random", "--out", embeddings)

    settings = {
        "data.store": store, "data.labels": "{depth: pocket_depth, normal: pocket_normal, edge: pocket_edge, seg: pocket_seg, "
        "detection: pocket_detection, ocr: signs}", "method.embeddings": embeddings, "steps": "1", "batch.size": "4",
        "batch.most_per_rank": "4", "schedule.warm_up": "0", "data.workers": "0", "data.window": "1",
    }  # fmt: skip
    changes = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    ok("train", "scenes_captions", "--out", tmp_path / "run", *changes)

    tars, tree = tmp_path / "tars", tmp_path / "tree"
    ok("export", store, "--format", "webdataset", "--out", tars)
    ok("export", store, "--format", "prismer", "--photos", "--embeddings", embeddings, "--out", tree)
    for out in (tars, tree):
        assert "nothing wrong" in ok("export", store, "--out", out, "--verify")

    reader = LabelReader(LabelStore.open(store))
    samples = list(reader.samples())
    urls = [str(path) for path in sorted(tars.glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in found] == [sample.record.image_id for sample in samples]
    for sample, back in zip(samples, found, strict=True):
        assert back["jpg"] == sample.labels["image"].value.data  # type: ignore[union-attr]
        assert json.loads(back["json"])["captions"] == list(sample.record.captions)

    photos = {dataset: sorted((tree / "data" / dataset).rglob("*.jpg")) for dataset in ("vqav2", "cc12m", "helpers")}
    assert {name: len(paths) for name, paths in photos.items()} == {
        "vqav2": COCO * 3 // 4,
        "cc12m": WEB,
        "helpers": MINE,
    }
    listed = json.loads((tree / "data/coco_karpathy_train.json").read_text())
    assert len(listed) == COCO // 2 * 2 and all((tree / "data/vqav2" / item["image"]).exists() for item in listed)
    assert len(json.loads((tree / "data/coco_karpathy_test.json").read_text())) == COCO // 4
    words = 0
    for dataset, paths in photos.items():
        for path in paths:
            size = Image.open(path).size
            for expert in ("depth", "normal", "edge", "seg_coco", "obj_detection"):
                label = tree / "labels" / expert / dataset / path.parent.name / f"{path.stem}.png"
                assert not label.stat().st_size or cv2.imread(str(label), cv2.IMREAD_UNCHANGED).shape[1::-1] == size
            read = tree / "labels/ocr_detection" / dataset / path.parent.name / f"{path.stem}.pt"
            assert read.exists() == (size[0] > size[1])
            words += read.exists() and np.isfinite(torch.load(read, weights_only=True)[0]["features"].numpy()).all()
    assert words > 50 and all(path.with_suffix(".txt").read_text() for path in photos["cc12m"])
