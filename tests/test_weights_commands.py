"""`expert-labels weights` and what a job file says of weights, as a shell sees them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from expert_zoo.catalog import EXPERTS, create
from expert_zoo.weights.needed import NeedsCheckpoint
from jobs.cli import app
from jobs.job import load_choices, load_job
from jobs.labelling import label
from jobs.planning import packs_of
from jobs.weights_asked import TRAINING
from pipeline.errors import JobError
from tests.jobs_at_work import ROOT, labels_of, make_photos, write_job
from tests.weights_server import Server, serving, sha256
from trainer.networks import NETWORKS

runner = CliRunner()
USE = "tests.weights_server:Weighty"
OFFSET = b"0.25"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("EXPERT_LABELS_WEIGHTS", str(tmp_path / "default"))
    with serving() as running:
        running.files["/offset.txt"] = OFFSET
        yield running


def job_file(
    tmp_path: Path, server: Server, *, free: bool = True, own: dict[str, Any] | None = None, **more: Any
) -> Path:
    options: dict[str, Any] = {"use": USE, "url": f"{server.url}/offset.txt", "free": free, **(own or {})}
    photos = make_photos(tmp_path / "photos", 4)
    return write_job(
        tmp_path / "job.yaml", store=tmp_path / "store", photos=photos, experts=[{"weighty": options}], **more
    )


def run(*words: str) -> Result:
    return runner.invoke(app, list(words))


def rows(*words: str) -> list[dict[str, Any]]:
    done = run(*words, "--json")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return list(json.loads(done.stdout))


# ---- the commands


def test_fetch_list_and_verify_tell_the_life_of_a_checkpoint(server: Server, tmp_path: Path) -> None:
    job = ["--job", str(job_file(tmp_path, server, free=False))]
    (before,) = rows("weights", "list", *job)
    assert before["state"] == "missing" and before["folder"] == str(tmp_path / "default/weighty")
    missing = run("weights", "verify", *job)
    assert missing.exit_code == 1 and "`expert-labels weights fetch --experts weighty`" in missing.stdout

    fetched = run("weights", "fetch", *job)
    assert fetched.exit_code == 0 and "fetched" in fetched.stdout
    assert "licence: weighty is for non-commercial use (CC-BY-NC-4.0; https://example.org/weighty)" in fetched.stderr
    assert rows("weights", "fetch", *job)[0]["did"] == "at hand"
    (after,) = rows("weights", "list", *job)
    assert (after["state"], after["bytes"], after["commercial_use"]) == ("at hand", len(OFFSET), False)
    assert run("weights", "verify", *job).exit_code == 0

    (tmp_path / "default/weighty/offset.txt").write_bytes(b"0.26")
    assert rows("weights", "list", *job)[0]["state"] == "at hand", "list reads nothing"
    damaged = run("weights", "verify", *job)
    assert damaged.exit_code == 1 and sha256(b"0.26") in damaged.stdout and sha256(OFFSET) in damaged.stdout
    assert rows("weights", "verify", *job)[0]["state"] == "damaged"
    assert rows("weights", "fetch", *job)[0]["did"] == "fetched" and run("weights", "verify", *job).exit_code == 0


def test_the_folder_is_the_option_s_then_the_job_s_then_the_environment_s(server: Server, tmp_path: Path) -> None:
    job = job_file(tmp_path, server, weights=str(tmp_path / "of the job"))
    run("weights", "fetch", "--job", str(job))
    run("weights", "fetch", "--job", str(job), "--weights", str(tmp_path / "named"))
    assert (tmp_path / "of the job/weighty/offset.txt").exists() and (tmp_path / "named/weighty/offset.txt").exists()
    assert not (tmp_path / "default").exists()


def test_files_put_there_by_hand_are_recorded_without_a_network(server: Server, tmp_path: Path) -> None:
    job = ["--job", str(job_file(tmp_path, server))]
    nothing = run("weights", "fetch", *job, "--at-hand")
    assert nothing.exit_code == 2 and "error: no file" in nothing.stderr
    (tmp_path / "default/weighty").mkdir(parents=True)
    (tmp_path / "default/weighty/offset.txt").write_bytes(OFFSET)
    assert rows("weights", "fetch", *job, "--at-hand")[0]["source"] == "put there by hand"
    assert run("weights", "verify", *job).exit_code == 0 and server.seen == []


def test_one_checkpoint_that_cannot_be_had_does_not_keep_the_others_back(server: Server, tmp_path: Path) -> None:
    job = job_file(tmp_path, server)
    content = yaml.safe_load(job.read_text())
    content["experts"] = [{"weighty": {"use": USE, "url": f"{server.url}/none", "weights_folder": str(tmp_path / "a")}}]
    job.write_text(yaml.safe_dump(content))
    done = run("weights", "fetch", "--job", str(job))
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.exit_code == 2 and len(told) == 1 and "not there any more (404)" in told[0]


def test_every_checkpoint_of_the_catalog_is_listed_once_with_its_licence(tmp_path: Path) -> None:
    found = rows("weights", "list", "--weights", str(tmp_path / "none"))
    needing = {name for name in EXPERTS if isinstance(create(name), NeedsCheckpoint)}
    assert needing and {name for row in found for name in row["experts"]} == {*needing, TRAINING}
    of_training = {row["checkpoint"] for row in found if TRAINING in row["experts"]}
    assert of_training == set(NETWORKS) and {"roberta-base", "pretrain_prismerz_large"} < of_training
    assert len({row["checkpoint"] for row in found}) == len(found)
    assert all(row["licence"] and row["page"].startswith("https://") and row["state"] == "missing" for row in found)
    assert not (tmp_path / "none").exists(), "looking makes nothing"
    verified = run("weights", "verify", "--weights", str(tmp_path / "none"))
    assert verified.exit_code == 0, "nothing was asked for by name, so nothing is missing"
    widest = max(map(len, run("weights", "list").stdout.splitlines()))
    assert widest <= 120


def test_seeded_checkpoints_are_written_recorded_and_not_taken_for_real_ones(tmp_path: Path) -> None:
    done = run("weights", "seed", "--experts", "edge", "--small", "--weights", str(tmp_path))
    assert done.exit_code == 0, done.output
    (row,) = rows("weights", "verify", "--experts", "edge", "--weights", str(tmp_path))
    assert (row["state"], row["source"]) == ("random", "seeded random weights")


def test_nobody_writes_gigabytes_by_leaving_the_names_out(tmp_path: Path) -> None:
    refused = run("weights", "seed", "--weights", str(tmp_path / "none"))
    assert isinstance(refused.exception, JobError) and not (tmp_path / "none").exists()
    parameters = {e.checkpoint.name: e.card.parameters for e in map(create, EXPERTS) if isinstance(e, NeedsCheckpoint)}
    told = f"--all writes {len(parameters)} checkpoint(s), about {4 * sum(parameters.values()) / 1e9:.1f} GB"
    assert "name experts with --experts" in str(refused.exception) and told in str(refused.exception)


def test_all_are_seeded_but_those_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: object, folder: Path, *, small: bool) -> None:
        (folder / "half.txt").write_text("half")
        raise ValueError("one library is missing")

    for name in [name for name in EXPERTS if name not in ("edge", "normal")]:
        monkeypatch.delitem(EXPERTS, name)
    monkeypatch.setattr("expert_zoo.normal.expert.Normal.seed", fails)
    done = run("weights", "seed", "--all", "--small", "--weights", str(tmp_path))
    assert done.exit_code == 0 and "left out: normal: one library is missing" in done.stderr
    assert "dexined-biped" in done.stdout and "nll-angmf" not in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".weights.lock")) == [
        "dexined-biped",
        "weights.lock",
    ], "half a checkpoint does not lie under the name of a whole one"
    alone = run("weights", "seed", "--experts", "normal", "--small", "--weights", str(tmp_path))
    assert isinstance(alone.exception, JobError) and str(alone.exception) == "one library is missing"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fetch"], "fetch what?"),
        (["fetch", "--experts", "dept"], "unknown expert 'dept'; did you mean"),
        (["list", "--experts", "ocr", "--job", "x"], "expected one of them"),
        (["list", "--job", "none.yaml"], "no file none.yaml"),
        (["fetch", "--experts", "pocket_depth,"], "unknown expert ''"),
    ],
)
def test_what_cannot_be_asked_is_one_line(words: list[str], said: str) -> None:
    found = run("weights", *words)
    assert isinstance(found.exception, JobError) and said in str(found.exception) and "\n" not in str(found.exception)


def test_experts_that_carry_their_weights_have_nothing_to_fetch() -> None:
    done = run("weights", "fetch", "--experts", "pocket_depth,ocr")
    assert done.exit_code == 0 and "pocket_depth, ocr: nothing to fetch" in done.stderr


def test_ctrl_c_says_how_to_go_on(server: Server, tmp_path: Path) -> None:
    server.files["/offset.txt"] = OFFSET + b"0" * 3_000_000
    server.trouble["/offset.txt"] = ["stall 1500000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "weights", "fetch", "--job", str(job_file(tmp_path, server))],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    end = time.monotonic() + 30
    while time.monotonic() < end and not any(part.stat().st_size for part in (tmp_path / "default").rglob("*.part")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted: what arrived is kept" in told and "Traceback" not in told
    assert rows("weights", "fetch", "--job", str(tmp_path / "job.yaml"))[0]["did"] == "fetched"
    assert server.ranges("/offset.txt")[-1].startswith("bytes=")


# ---- the job file


def test_a_lock_that_was_not_copied_or_is_another_s_is_said(server: Server, tmp_path: Path) -> None:
    job = str(job_file(tmp_path, server))
    run("weights", "fetch", "--job", job)
    lock = tmp_path / "default/weights.lock"
    kept = lock.read_text()
    lock.unlink()
    for content, said in ((None, f"but there is no {lock}"), ("{}", f"but {lock} does not state their digests")):
        if content is not None:
            lock.write_text(content)
        with pytest.raises(
            JobError, match=f"of the weights of weighty the digests are unknown: .*{said}; copy"
        ) as caught:
            load_job(job)
        assert f"`expert-labels weights fetch --job {job} --at-hand`" in str(caught.value)
        listed = run("weights", "list", "--job", job)
        assert "not locked" in listed.stdout and said in listed.stdout
        verified = run("weights", "verify", "--job", job)
        assert verified.exit_code == 1 and said in verified.stdout
    # Of a folder where the checkpoint is another one.
    lock.write_text(
        kept.replace(f'"bytes": {len(OFFSET)}', '"bytes": 977').replace(f'"bytes":{len(OFFSET)}', '"bytes":977')
    )
    (row,) = rows("weights", "list", "--job", job)
    assert (row["state"], row["why"]) == ("damaged", f"{tmp_path}/default/weighty/offset.txt has 4 bytes, expected 977")
    with pytest.raises(JobError, match=r"not at hand.*\(/.*/offset.txt has 4 bytes, expected 977\)"):
        label(load_job(job), lambda _: None)
    run("weights", "fetch", "--job", job, "--at-hand")
    lock.unlink()
    assert run("weights", "fetch", "--job", job, "--at-hand").exit_code == 0, "what the line said to run"
    assert load_job(job).create_experts()[0].card.version


def test_weights_and_recipe_become_options_of_those_that_take_them(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_file(tmp_path, server, weights="w", recipe="prismer")
    content = yaml.safe_load(job.read_text())
    content["experts"] += ["image"]
    job.write_text(yaml.safe_dump(content))
    weighty, image = load_choices(str(job)).experts
    assert weighty.options["weights_folder"] == str(tmp_path / "w") and weighty.options["recipe"] == "prismer"
    assert image.options == {}
    run("weights", "fetch", "--job", str(job))
    (pack,) = packs_of(load_job(str(job)), cpus=1, gpus=0)
    assert pack.experts[0].options == weighty.options, "what a worker gets"
    assert pack.experts[0].create().card.processing == {"recipe": "prismer"}


def test_an_expert_s_own_options_win(server: Server, tmp_path: Path) -> None:
    own = {"recipe": "best", "weights_folder": str(tmp_path / "own")}
    (choice,) = load_choices(str(job_file(tmp_path, server, own=own, weights="w", recipe="prismer"))).experts
    assert choice.options["recipe"] == "best" and choice.options["weights_folder"] == str(tmp_path / "own")


def test_a_recipe_that_no_expert_knows_is_an_error(server: Server, tmp_path: Path) -> None:
    job = job_file(tmp_path, server, recipe="prismer")
    job.write_text(yaml.safe_dump(yaml.safe_load(job.read_text()) | {"experts": ["image", "truth_depth"]}))
    with pytest.raises(JobError, match="`recipe`: none of image, truth_depth knows recipes"):
        load_job(str(job))
    with pytest.raises(JobError, match=r"job\.yaml: `recipe`: "):
        load_job(str(job_file(tmp_path, server, recipe="tasty")))


def test_unknown_weights_are_said_when_the_job_is_loaded(server: Server, tmp_path: Path) -> None:
    job = str(job_file(tmp_path, server))
    with pytest.raises(
        JobError,
        match=f"weights of weighty are unknown here.*`expert-labels weights fetch --job {job}`.*{tmp_path}/default\\)$",
    ):
        load_job(job)
    run("weights", "fetch", "--job", job)
    assert load_job(job).create_experts()[0].card.version


def test_missing_weights_are_said_before_ray_starts(server: Server, tmp_path: Path) -> None:
    """Their digest is in the lock, so the column has a name; the file is not there."""
    job = str(job_file(tmp_path, server))
    run("weights", "fetch", "--job", job)
    (tmp_path / "default/weighty/offset.txt").unlink()
    said: list[str] = []
    with pytest.raises(
        JobError, match=rf"the weights of weighty are not at hand.*\(no file {tmp_path}/default/weighty/offset.txt\)$"
    ):
        label(load_job(job), said.append)
    assert not any("starting Ray" in line for line in said)


def test_a_job_runs_air_gapped_on_a_copied_folder_and_keeps_the_licence(server: Server, tmp_path: Path) -> None:
    """Workers find the folder that only the job file names; the licence is said first and stands in every receipt."""
    job = job_file(tmp_path, server, free=False, weights=str(tmp_path / "copied"))
    run("weights", "fetch", "--job", str(job), "--weights", str(tmp_path / "fetched"))
    shutil.copytree(tmp_path / "fetched", tmp_path / "copied")
    shutil.rmtree(tmp_path / "fetched")
    asked = len(server.seen)
    environment = {name: value for name, value in os.environ.items() if name != "EXPERT_LABELS_WEIGHTS"}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "label", str(job)],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    licence = lines.index("licence: weighty is for non-commercial use (CC-BY-NC-4.0)")
    assert licence < next(number for number, line in enumerate(lines) if "starting Ray" in line)
    (column,) = labels_of(tmp_path / "store")
    assert len(labels_of(tmp_path / "store")[column]) == 4 and len(server.seen) == asked
    receipt = json.loads(next((tmp_path / "store/labels" / column).glob("shard-*.json")).read_text())
    assert (receipt["licence"], receipt["commercial_use"]) == ("CC-BY-NC-4.0", False)
    assert f"@{load_job(str(job)).create_experts()[0].card.version}" in column
