"""The job file: whatever a user gets wrong is one line that names the place, before Ray starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from jobs.job import Job, load_job
from jobs.planning import packs_of, shared_out
from pipeline.errors import JobError
from pipeline.plan import Shard

GOOD = {
    "store": "s",
    "images": [{"source": "folder", "path": "photos"}],
    "experts": ["image", {"ocr": {"batch_size": 2}}],
}


def load(tmp_path: Path, content: object) -> Job:
    path = tmp_path / "job.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return load_job(str(path))


def test_a_good_job_has_its_experts_in_order_with_their_options(tmp_path: Path) -> None:
    job = load(tmp_path, GOOD | {"experts": [{"image": {"long_side": 64, "batch_size": 3}}, "ocr"]})
    assert [choice.name for choice in job.experts] == ["image", "ocr"]
    assert job.experts[0].options == {"long_side": 64} and job.experts[0].batch_size == 3
    assert job.create_experts()[0].card.version != load(tmp_path, GOOD).create_experts()[0].card.version


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shard_sizes": 3}, "unknown key `shard_sizes`; did you mean `shard_size`?"),
        ({"images": [{"source": "folder", "path": "p", "caption": "x.csv"}]}, "did you mean `captions`?"),
        ({"images": [{"source": "foldr", "path": "p"}]}, "foldr"),
        ({"images": [{"source": "folder"}]}, "path"),
        ({"experts": ["pocket_dept"]}, "did you mean 'pocket_depth'?"),
        ({"experts": [{"image": {"longside": 3}}]}, "has no option 'longside'; it takes"),
        ({"experts": [{"mine": {"use": "no_such_module:X"}}]}, "cannot import 'no_such_module:X'"),
        ({"experts": []}, "experts"),
        ({"experts": ["ocr", "ocr"]}, "ocr named more than once"),
        ({"shard_size": 0}, "shard_size"),
        ({"store": ""}, "store"),
        ({"experts": [{"image": [1, 2]}]}, "image: expected options as `key: value`, got [1, 2]"),
        ({"experts": [{"image": "small"}]}, "image: expected options as `key: value`, got 'small'"),
        (
            {"images": [{"source": "folder", "path": "a"}, {"source": "folder", "path": "b"}]},
            "give each its own `name`",
        ),
        ({"ray": {"address": "auto", "cpus": 2}}, "the cluster at an address has its own"),
        ({"packs": [{"experts": ["ocr", "image"], "cpus": float("inf")}]}, "cpus"),
        ({"failure_limit": 2}, "failure_limit"),
        ({"limits": {"max_pixel": 3}}, "max_pixels"),
        ({"packs": [{"experts": ["ocr"]}]}, "image"),
        ({"packs": [{"experts": ["ocr", "image"], "actors": [4, 2]}]}, "expected a number from 1, or [fewest, most]"),
        ({"manifest": "m.parquet"}, "either `images`"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(JobError) as caught:
        load(tmp_path, GOOD | change)
    message = str(caught.value)
    assert said in message and "\n" not in message and message.startswith(str(tmp_path / "job.yaml"))


@pytest.mark.parametrize("content", ["store: [", "- a list", "", "store: !!python/object/apply:os.getcwd []"])
def test_what_is_not_a_job_is_said_so(tmp_path: Path, content: str) -> None:
    with pytest.raises(JobError, match=r"job\.yaml"):
        load(tmp_path, content)


def test_a_missing_job_file_names_one_to_copy(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no file .*photos.yaml"):
        load_job(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("name", ["demo.yaml", "photos.yaml"])
def test_the_shipped_jobs_are_valid(name: str) -> None:
    assert load_job(str(Path(__file__).parents[1] / "jobs" / name)).experts


def test_packs_fill_the_cluster_and_share_out_the_cells(tmp_path: Path) -> None:
    job = load(tmp_path, GOOD)
    (on_cpus,) = packs_of(job, cpus=6, gpus=0)
    assert on_cpus.actors == (6, 6) and on_cpus.cpus == 1 and on_cpus.gpus == 0
    (on_gpus,) = packs_of(job, cpus=32, gpus=4)
    assert on_gpus.actors == (4, 4) and on_gpus.gpus == 1 and on_gpus.cpus == 8

    split = load(
        tmp_path, GOOD | {"packs": [{"experts": ["ocr"], "actors": [1, 3]}, {"experts": ["image"], "cpus": 2}]}
    )
    experts = split.create_experts()
    image, ocr = (expert.card.column for expert in experts)
    shard = Shard(index=0, start=0, stop=4)
    packs = packs_of(split, cpus=8, gpus=0)
    assert packs[0].actors == (1, 3) and packs[1].actors == (2, 2)
    work = shared_out([(shard, [image, ocr]), (shard, [image])], packs, experts)
    assert [[unit.columns for unit in units] for _, units in work] == [[(ocr,)], [(image,), (image,)]]
