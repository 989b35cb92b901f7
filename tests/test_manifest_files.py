"""The files of sources that come with the code, what a user gets wrong in one, and the command that builds from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from bench.original_files import write_all
from jobs.cli import app
from jobs.job import load_job
from jobs.sources_file import load_sources
from manifests.manifest import Manifest
from pipeline.errors import JobError
from tests.conftest import ROOT
from tests.photo_files import encode, picture

FILES = sorted((ROOT / "manifests").glob("*.yaml"))
runner = CliRunner()


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [text for item in items for text in texts(item)]


def test_there_is_a_file_for_each_dataset_and_one_for_all() -> None:
    names = {path.stem: load_sources(str(path)) for path in FILES}
    assert set(names) == {"coco", "visual_genome", "cc3m", "sbu", "cc12m", "prismer_pretrain"}
    five = [source.name for source in names["prismer_pretrain"].images]
    assert five == ["coco", "visual_genome", "cc3m", "sbu", "cc12m"]
    for name in five:
        (alone,) = names[name].images
        assert alone == next(source for source in names["prismer_pretrain"].images if source.name == name)
        assert names[name].guard, f"{name}: nothing keeps the pictures of tests out"


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_one_root_is_all_that_a_user_edits(path: Path, tmp_path: Path) -> None:
    moved = tmp_path / path.name
    moved.write_text(path.read_text("utf-8").replace("root: /data", "root: s3://bucket/all/"), "utf-8")
    before, after = load_sources(str(path)), load_sources(str(moved))
    places = [text for text in texts([entry.model_dump() for entry in (*before.images, *before.guard)]) if "/" in text]
    assert len(places) >= 3 and all(text.startswith("/data/") for text in places)
    there = [text for text in texts([entry.model_dump() for entry in (*after.images, *after.guard)]) if "/" in text]
    assert there == [text.replace("/data", "s3://bucket/all", 1) for text in places]


def test_the_same_keys_are_those_of_a_job_file(tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "manifests" / "prismer_pretrain.yaml").read_text("utf-8"))
    whole = content | {"store": "${root}/store", "experts": ["ocr"]}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(whole))
    job, sources = load_job(str(tmp_path / "job.yaml")), load_sources(str(tmp_path / "job.yaml"))
    assert job.store == "/data/store"
    for key in ("images", "captions", "guard", "duplicates", "seed"):
        assert getattr(job, key) == getattr(sources, key), key


FOLDER = {"source": "folder", "path": "${root}/photos"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"images": [FOLDER]}, "`images.0.path`: ${root} stands here and `root:`, the folder that is meant, does not"),
        (
            {"root": "/x", "images": [FOLDER | {"path": "${roo}/x"}]},
            "`images.0.path`: ${roo} is not known; expected ${root}",
        ),
        ({"root": "/x", "images": []}, "`images`"),
        ({"root": "/x", "images": [FOLDER], "guards": []}, "unknown key `guards`; did you mean `guard`?"),
        (
            {"images": [{"source": "scenes", "count": 1, "seed": 1}], "guard": [{"guard": "karpthy", "file": "x"}]},
            "karpthy",
        ),
        (
            {"images": [{"source": "scenes", "count": 1, "seed": 1}], "captions": {"min_word": 3}},
            "unknown key `captions.min_word`; did you mean `min_words`?",
        ),
        (
            {
                "root": "/x",
                "images": [{"source": "img2dataset", "path": "${root}/a"}, {"source": "img2dataset", "path": "b"}],
            },
            "two sources `img2dataset` of one name (img2dataset); give each its own `name`",
        ),
        ({"images": [{"source": "scenes", "count": 1, "seed": 1}], "duplicates": {"near": 40}}, "`duplicates.near`"),
    ],
)
def test_a_mistake_in_a_file_of_sources_is_one_line(tmp_path: Path, content: dict[str, Any], said: str) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(JobError) as caught:
        load_sources(str(path))
    message = str(caught.value)
    assert said in message and "\n" not in message and message.startswith(str(path))


def test_a_rule_for_building_beside_a_built_manifest_is_a_mistake(tmp_path: Path) -> None:
    job = {"store": "s", "manifest": "m.parquet", "experts": ["ocr"], "captions": {"min_words": 2}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    with pytest.raises(JobError, match="`captions` is a rule for building a manifest, and `manifest` is built already"):
        load_job(str(tmp_path / "job.yaml"))


def test_the_five_original_formats_become_one_manifest_on_the_command_line(tmp_path: Path) -> None:
    """Lists of all five in their forms; the photos of Visual Genome that are COCO's become one with COCO's or stay out."""
    write_all(tmp_path / "lists", scale=0.002)
    out = str(tmp_path / "all.parquet")
    command = ["manifest", "build", str(tmp_path / "lists" / "sources.yaml"), "--out", out, "--workers", "2"]
    done = runner.invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert [source["source"] for source in report["sources"]] == ["coco", "visual_genome", "cc3m", "sbu", "cc12m"]
    by_name = {source["source"]: source for source in report["sources"]}
    assert all(s["read"] == s["left_out"] + s["merged"] + s["images"] for s in report["sources"])
    assert report["images"] == sum(s["images"] for s in report["sources"]) == len(Manifest.open(out))
    assert (
        by_name["visual_genome"]["merged"] > 50 and by_name["cc12m"]["merged"] > 50 and by_name["cc3m"]["merged"] == 0
    )
    karpathy, nocaps, vqa = report["guards"]
    assert karpathy["keys"] == 20 and set(karpathy["kept_out"]) == {"visual_genome"} and vqa["kept_out"] == {}
    coco = json.loads((tmp_path / "lists" / "dataset_coco.json").read_text())["images"]
    in_manifest = {key for record in Manifest.open(out).records() for key in record.keys if key.startswith("coco:")}
    assert in_manifest >= {f"coco:{image['cocoid']}" for image in coco if image["split"] in ("train", "restval")}
    assert not in_manifest & {f"coco:{image['cocoid']}" for image in coco if image["split"] in ("val", "test")}

    printed = runner.invoke(app, command).stdout.splitlines()
    assert printed[0].startswith(f"{out}: {report['images']:,} images, fingerprint {report['fingerprint'][:16]}")
    assert any(line.split()[:2] == ["visual_genome", f"{by_name['visual_genome']['read']:,}"] for line in printed)
    assert any("guard karpathy val+test (20 keys) kept out" in line and "of visual_genome" in line for line in printed)

    key = sorted(in_manifest)[0]
    (found,) = json.loads(runner.invoke(app, ["manifest", "show", out, "--find", key, "--json"]).stdout)
    assert key in found["keys"] and found["source"] == "coco"
    (web,) = [r for r in json.loads(runner.invoke(app, ["manifest", "show", out, "--limit", "50", "--json"]).stdout)
              if r["source"] == "cc3m"][:1]  # fmt: skip
    by_address = runner.invoke(app, ["manifest", "show", out, "--find", web["uri"]])
    assert by_address.stdout.startswith(web["image_id"]) and by_address.exit_code == 0
    assert runner.invoke(app, ["manifest", "show", out, "--find", "coco:0"]).exit_code != 0
    rows = json.loads(runner.invoke(app, ["manifest", "stats", out, "--json"]).stdout)
    assert sum(row["images"] for row in rows) == report["images"]
    assert sum(row["captions"] for row in rows) == report["captions"]
    assert {row["where"] for row in rows if row["source"] == "cc12m"} == {"https"}


def test_check_reads_photos_and_says_which_cannot_be(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(6):
        (photos / f"{number}.png").write_bytes(encode(picture(), "PNG") if number != 3 else b"no photo")
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"images": [{"source": "folder", "path": str(photos)}]}))
    out = str(tmp_path / "m.parquet")
    assert runner.invoke(app, ["manifest", "build", str(tmp_path / "sources.yaml"), "--out", out]).exit_code == 0
    (photos / "4.png").unlink()
    done = runner.invoke(app, ["manifest", "check", out, "--photos", "6"])
    assert done.exit_code == 1
    assert sorted(line.split()[0].split("-")[0] for line in done.stdout.splitlines()) == ["3", "4"]
    assert "not an image" in done.stdout and "missing" in done.stdout


def test_only_a_manifest_is_replaced_by_one(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encode(picture(), "PNG"))
    sources, out = tmp_path / "sources.yaml", tmp_path / "m.parquet"
    sources.write_text(yaml.safe_dump({"images": [{"source": "folder", "path": str(tmp_path / "photos")}]}))

    def build(target: Path) -> Any:
        return runner.invoke(app, ["manifest", "build", str(sources), "--out", str(target), "--workers", "1"])

    before = sources.read_bytes()
    refused = build(sources)
    assert isinstance(refused.exception, JobError) and "is there and is no manifest" in str(refused.exception)
    assert sources.read_bytes() == before
    out.touch()
    assert build(out).exit_code == 0, "an empty file is nothing to lose"
    whole = out.read_bytes()
    assert build(out).exit_code == 0 and out.read_bytes() == whole
    out.write_bytes(whole[: len(whole) // 2])
    assert build(out).exit_code == 0 and out.read_bytes() == whole, "a damaged manifest can be built again"
