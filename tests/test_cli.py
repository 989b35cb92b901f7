"""The commands as a shell sees them: output, exit codes, JSON. Those that start Ray are in test_label_job.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.errors import StoreError
from pipeline.store import LabelStore
from tests.jobs_at_work import ROOT, make_photos, stand_in, write_job
from tests.small_store import every_kind, small_store

runner = CliRunner()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of 8 photos, one of them broken, that only reading commands may share."""
    return small_store(tmp_path_factory.mktemp("cli"), every_kind(), photos=8, broken=(3,)).storage.url


def shell(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own: what `main` makes of errors is only seen from outside."""
    command = [sys.executable, "-m", "jobs.cli", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_every_command_has_help_that_says_more_than_its_name() -> None:
    top = runner.invoke(app, ["--help"])
    commands = ["label", "retry", "status", "failures", "audit", "preview", "export", "experts", "version", "manifest"]
    assert top.exit_code == 0 and all(command in top.output for command in commands)
    for command in [*([c] for c in commands), *(["manifest", c] for c in ("build", "show", "stats", "check"))]:
        found = runner.invoke(app, [*command, "--help"])
        assert found.exit_code == 0 and len(found.output) > 250, command


def test_status_lists_columns_and_with_failures_their_reasons(store: str) -> None:
    quick = json.loads(runner.invoke(app, ["status", store, "--json"]).stdout)
    assert quick["complete"] and all(column["rows"] is None for column in quick["columns"])
    slow = runner.invoke(app, ["status", store, "--failures"])
    assert slow.exit_code == 0 and "x empty file" in slow.stdout


def test_failures_names_image_expert_and_reason(store: str) -> None:
    rows = json.loads(runner.invoke(app, ["failures", store, "-c", "grey", "--json"]).stdout)
    assert len(rows) == 1 and rows[0]["column"].startswith("grey@") and rows[0]["reason"].startswith("empty file")
    assert rows[0]["uri"].endswith("photo%203.png") and rows[0]["image_id"].startswith("photo-3-")
    everybody = runner.invoke(app, ["failures", store]).stdout.splitlines()
    assert len(everybody) == len(LabelStore.open(store).columns())
    assert len(runner.invoke(app, ["failures", store, "--limit", "2"]).stdout.splitlines()) == 2


def test_audit_is_clean_or_exit_code_1_and_repair_takes_back(tmp_path: Path) -> None:
    opened = small_store(tmp_path, every_kind(), photos=8)
    url = opened.storage.url
    clean = runner.invoke(app, ["audit", url, "--deep"])
    assert clean.exit_code == 0 and "0 errors" in clean.stdout
    column = next(column for column in opened.columns() if column.startswith("grey@"))
    tar = next((Path(url) / opened.folder(column)).glob("shard-000000.*.tar"))
    tar.write_bytes(tar.read_bytes()[:-700])
    broken = runner.invoke(app, ["audit", url])
    assert broken.exit_code == 1 and f"error: {column}/shard-000000" in broken.stdout
    repaired = runner.invoke(app, ["audit", url, "--repair", "--json"])
    assert repaired.exit_code == 0 and json.loads(repaired.stdout)["repairs"]["withdrawn"] == [[column, 0]]
    assert 0 not in LabelStore.open(url).committed(column)


def test_audit_against_nothing_comparable_is_one_line(store: str) -> None:
    found = shell("audit", store, "--against", "truth")
    assert found.returncode == 2 and found.stderr.startswith("error: ") and found.stderr.count("\n") == 1


def test_preview_writes_a_page_and_a_sheet(store: str, tmp_path: Path) -> None:
    done = runner.invoke(app, ["preview", store, "--out", str(tmp_path), "-c", "grey", "-c", "image", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["shown"] == 8 and (tmp_path / "preview.png").stat().st_size > 1000
    failed = runner.invoke(app, ["preview", store, "--out", str(tmp_path / "f"), "--status", "failed", "--json"])
    assert json.loads(failed.stdout)["shown"] == 1


def test_export_and_its_verification(store: str, tmp_path: Path) -> None:
    out = str(tmp_path / "tars")
    assert runner.invoke(app, ["export", store, "--format", "webdataset", "--out", out]).exit_code == 0
    assert "nothing wrong" in runner.invoke(app, ["export", store, "--out", out, "--verify"]).stdout
    next(Path(out).glob("*.tar")).unlink()
    assert runner.invoke(app, ["export", store, "--out", out, "--verify"]).exit_code == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--format: expected webdataset, hf, coco or prismer"),
        (["--format", "coco", "--photos"], "leave --photos out"),
        (["--format", "hf", "--dataset", "a=cc12m"], "--embeddings and --dataset are for --format prismer"),
        (["--format", "prismer", "--dataset", "a"], "expected SOURCE=DATASET"),
        (["--verify", "--format", "hf"], "run it with --out alone"),
        (["--verify"], "is no export: export.json is missing"),
    ],
)
def test_what_an_export_cannot_do_is_one_line(store: str, tmp_path: Path, options: list[str], said: str) -> None:
    done = shell("export", store, "--out", str(tmp_path / "out"), *options)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_export_says_what_it_left_out(store: str, tmp_path: Path) -> None:
    done = shell("export", store, "--format", "coco", "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 0 and "not exported: grey: map is no COCO result" in done.stderr
    assert json.loads(done.stdout)["columns_left"].keys() >= {"grey"}


def test_experts_lists_every_card_and_shows_one(tmp_path: Path) -> None:
    table = runner.invoke(app, ["experts"])
    assert table.exit_code == 0 and "pocket_depth" in table.stdout and "Apache-2.0" in table.stdout
    card = json.loads(runner.invoke(app, ["experts", "ocr", "--json"]).stdout)
    assert card["name"] == "ocr" and card["weights"][0]["sha256"]
    assert "did you mean 'ocr'" in shell("experts", "ocrr").stderr


def test_manifest_build_show_stats_check(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 6)
    (photos / "photo0001.txt").write_text("a caption\n", encoding="utf-8")
    sources = tmp_path / "sources.yaml"
    sources.write_text(yaml.safe_dump({"images": [{"source": "folder", "path": str(photos)}], "seed": 3}))
    out = str(tmp_path / "m.parquet")
    built = json.loads(runner.invoke(app, ["manifest", "build", str(sources), "--out", out, "--json"]).stdout)
    assert built["images"] == 6 and len(built["fingerprint"]) == 64
    assert built["sources"] == [{"source": "folder", "read": 6, "left_out": 0, "merged": 0, "images": 6, "captions": 1}]
    assert json.loads(Path(f"{out}.report.json").read_text("utf-8")) | {"manifest": out} == built
    shown = json.loads(runner.invoke(app, ["manifest", "show", out, "--limit", "6", "--json"]).stdout)
    assert sorted(record["captions"] for record in shown)[-1] == ["a caption"]
    assert json.loads(runner.invoke(app, ["manifest", "stats", out, "--json"]).stdout)[0]["captions"] == 1
    assert runner.invoke(app, ["manifest", "check", out]).exit_code == 0
    Path(out).write_bytes(b"not a manifest")
    assert shell("manifest", "check", out).returncode == 2


def test_a_dry_run_forecasts_and_leaves_nothing_behind(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 9)
    job = write_job(
        tmp_path / "job.yaml",
        store=tmp_path / "store",
        photos=photos,
        experts=[stand_in("grey"), stand_in("squares")],
        shard_size=4,
    )
    done = runner.invoke(app, ["label", str(job), "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [expert["cells"] for expert in found["experts"]] == [3, 3] and found["images"] == 9
    assert found["seconds"] > 0 and found["total"]["bytes"] > 0
    assert f"{tmp_path / 'store'}: a new store" in done.stderr, (
        "of the job's store is spoken, not of the one made aside"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml", "photos"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["label", "none.yaml"], "no file none.yaml"),
        (["status", "nowhere"], "no store at nowhere"),
        (["manifest", "show", "none.parquet"], "cannot read none.parquet"),
        (["preview", "nowhere"], "no store at nowhere"),
        (["status", "foo://bar"], "foo"),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_code_2(tmp_path: Path, words: list[str], said: str) -> None:
    done = shell(*words, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_a_missing_folder_is_one_line_before_ray_starts(tmp_path: Path) -> None:
    job = write_job(
        tmp_path / "job.yaml", store=tmp_path / "store", photos=tmp_path / "none", experts=[stand_in("grey")]
    )
    done = shell("label", str(job))
    told = done.stderr.splitlines()
    assert (
        done.returncode == 2 and told[-1].startswith(f"error: {tmp_path / 'none'}") and "Traceback" not in done.stderr
    )
    assert not any("Ray" in line for line in told)
    assert not (tmp_path / "store").exists()


def test_a_store_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a folder")
    photos = make_photos(tmp_path / "photos", 2)
    done = shell(
        "label",
        str(write_job(tmp_path / "j.yaml", store=tmp_path / "store", photos=photos, experts=[stand_in("grey")])),
    )
    assert (
        done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.splitlines()[-1].startswith("error: ")
    )
    assert (tmp_path / "store").read_text() == "not a folder"


def test_a_dry_run_with_an_expert_that_does_not_load_is_one_line(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 2)
    job = write_job(tmp_path / "j.yaml", store=tmp_path / "s", photos=photos, experts=[stand_in("unloadable")])
    done = shell("label", str(job), "--dry-run")
    assert (
        done.returncode == 2
        and "expert 'unloadable' cannot be loaded" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_a_column_copied_in_from_another_store_is_refused(tmp_path: Path) -> None:
    ours = small_store(tmp_path / "ours", every_kind()[:2], photos=6)
    other = small_store(tmp_path / "other", every_kind()[:2], photos=7)
    column = next(column for column in ours.columns() if column.startswith("grey@"))
    for path in (Path(ours.storage.url) / ours.folder(column)).iterdir():
        path.unlink()
    for path in (Path(other.storage.url) / other.folder(column)).iterdir():
        path.rename(Path(ours.storage.url) / ours.folder(column) / path.name)
    from jobs.labelling import _check_first_receipt

    with pytest.raises(StoreError, match="belongs to plan"):
        _check_first_receipt(ours, column)


def test_a_store_of_other_images_is_not_touched(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 4)
    job = write_job(tmp_path / "a.yaml", store=tmp_path / "store", photos=photos, experts=[stand_in("grey")])
    other = write_job(
        tmp_path / "b.yaml", store=tmp_path / "store", photos=photos, experts=[stand_in("grey")], shard_size=2, seed=9
    )
    from jobs.job import load_job
    from jobs.planning import open_or_plan

    open_or_plan(load_job(str(job)))
    before = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()}
    done = shell("label", str(other))
    assert (
        done.returncode == 2 and "shard_size 512 there, 2 in the job" in done.stderr and "seed 0 there" in done.stderr
    )
    assert {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()} == before


def test_a_store_that_workers_cannot_see_is_refused(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 4)
    job = write_job(tmp_path / "job.yaml", store=Path("m"), photos=photos, experts=[stand_in("grey")])
    job.write_text(job.read_text().replace("store: m", "store: memory://m"))
    done = shell("label", str(job))
    assert done.returncode == 2 and "only this process sees it" in done.stderr
