"""Networks that training begins with: fetched from a Hub on this machine by what a recipe names, looked for before work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from expert_zoo.weights.folder import ENVIRONMENT
from jobs.cli import app
from pipeline.errors import ExpertLabelsError, JobError
from tests.weights_server import Server, serving
from trainer.launch import train
from trainer.networks import NETWORKS, check_at_hand, folder_of, places_of, weights_file_of
from trainer.recipe import RECIPES, load_recipe

runner = CliRunner()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The networks' repositories with a few bytes in each file; of CLIP base only the pickled form, as there is."""
    with serving() as running:
        for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", "good")
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "weights"))
        for checkpoint in NETWORKS.values():
            files = {file.hub_path or file.path: f"{checkpoint.name} {file.path}".encode() for file in checkpoint.files}
            if checkpoint.name == "clip-vit-base-patch16":
                files["pytorch_model.bin"] = files.pop("model.safetensors")
            commits = running.repositories.setdefault(checkpoint.repo, {})
            commit = checkpoint.revision or "c" * 40
            commits[commit] = commits.get(commit, {}) | files
            if checkpoint.revision:
                commits["f" * 40] = {"config.json": b"newer"}
        yield running


def rows(*words: str) -> list[dict[str, Any]]:
    done = runner.invoke(app, [*words, "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), (done.exception, done.output)
    return list(json.loads(done.stdout))


def test_a_recipe_s_networks_are_fetched_at_their_revisions_and_then_at_hand(server: Server, tmp_path: Path) -> None:
    asked = ["--recipe", "pretrain_base"]
    expected = ["clip-vit-base-patch16", "roberta-base", "clip-vit-large-patch14"]
    assert [(row["checkpoint"], row["state"]) for row in rows("weights", "list", *asked)] == [
        (name, "missing") for name in expected
    ]
    recipe = load_recipe("pretrain_base")
    with pytest.raises(ExpertLabelsError) as raised:
        train(recipe, tmp_path / "run")
    told = str(raised.value)
    assert "`method.clip`: clip-vit-base-patch16 is not at hand" in told and "\n" not in told
    assert "run `expert-labels weights fetch --recipe RECIPE.yaml`" in told
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]

    fetched = rows("weights", "fetch", *asked)
    assert [(row["checkpoint"], row["did"]) for row in fetched] == [(name, "fetched") for name in expected]
    assert [row["revision"] for row in fetched] == [NETWORKS[name].revision for name in expected]
    assert (tmp_path / "weights/clip-vit-base-patch16/pytorch_model.bin").exists()
    assert {row["state"] for row in rows("weights", "verify", *asked)} == {"at hand"}
    check_at_hand(recipe)

    (tmp_path / "weights/roberta-base/tokenizer.json").write_bytes(b"another")
    with pytest.raises(ExpertLabelsError, match="is damaged.*weights fetch --recipe RECIPE.yaml"):
        check_at_hand(recipe)
    assert runner.invoke(app, ["weights", "verify", *asked]).exit_code == 1
    rows("weights", "fetch", *asked)
    check_at_hand(recipe)


def test_a_released_prismer_is_fetched_by_its_name(server: Server, tmp_path: Path) -> None:
    changes = yaml.safe_load((RECIPES / "coco_caption_base.yaml").read_text())
    changes["method"] |= {"weights": "pretrain_prismer_base"}
    del changes["start_from"]
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(changes))
    done = runner.invoke(app, ["weights", "fetch", "--recipe", str(file)])
    assert done.exit_code == 0, done.output
    assert "licence: pretrain_prismer_base is for non-commercial use (CC-BY-NC-SA-4.0" in done.stderr
    at = tmp_path / "weights/pretrain_prismer_base/pytorch_model.bin"
    assert at.read_bytes() == b"pretrain_prismer_base pytorch_model.bin"
    assert weights_file_of("pretrain_prismer_base") == at
    check_at_hand(load_recipe(str(file)))


def test_folders_of_one_s_own_are_taken_as_they_are(server: Server, tmp_path: Path) -> None:
    own = tmp_path / "mine"
    recipe = load_recipe(
        "pretrain_base", {"method.clip": str(own), "method.roberta": None, "method.tokenizer": None, "start_from": "x"}
    )
    assert folder_of(str(own)) == own and [place.checkpoint for place in places_of(recipe)] == [None]
    with pytest.raises(
        ExpertLabelsError, match="not at hand: .*mine has no model.safetensors or pytorch_model.bin; name a"
    ):
        check_at_hand(recipe)
    own.mkdir()
    (own / "model.safetensors").write_bytes(b"")
    with pytest.raises(ExpertLabelsError, match="has no config.json"):
        check_at_hand(recipe)
    (own / "config.json").write_text("{}")
    check_at_hand(recipe)
    # A folder elsewhere that is named as a network is: what lies there has no lock, so nobody says what it must be.
    named = tmp_path / "elsewhere" / "roberta-base"
    named.mkdir(parents=True)
    (named / "tokenizer.json").write_text("{}")
    check_at_hand(load_recipe("coco_caption_base", {"method.tokenizer": str(named)}))


def test_networks_are_fetched_by_name_too(server: Server, tmp_path: Path) -> None:
    (row,) = rows("weights", "fetch", "--networks", "roberta-large", "--weights", str(tmp_path / "other"))
    assert row["did"] == "fetched" and (tmp_path / "other/roberta-large/tokenizer.json").exists()
    found = runner.invoke(app, ["weights", "fetch", "--networks", "bert"])
    assert isinstance(found.exception, JobError) and "no network 'bert'; expected some of clip-vit" in str(
        found.exception
    )
    done = runner.invoke(app, ["weights", "fetch", "--recipe", "scenes_captions", "--json"])
    assert done.exit_code == 0 and {row["checkpoint"] for row in json.loads(done.stdout)} <= {"clip-vit-large-patch14"}
