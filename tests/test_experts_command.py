"""`expert-labels experts`: the table fits a terminal and says of each expert what a user must know before choosing it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expert_zoo.card import ExpertCard
from expert_zoo.catalog import EXPERTS, create
from expert_zoo.weights.lock import BY_HAND
from expert_zoo.weights.needed import NeedsCheckpoint
from jobs.cli import app
from jobs.expert_commands import input_of
from tests.stand_ins import GREY, card

runner = CliRunner()


@pytest.fixture(autouse=True)
def empty_weights_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXPERT_LABELS_WEIGHTS", str(tmp_path))


def test_the_table_has_a_line_for_every_expert_and_fits_a_terminal() -> None:
    done = runner.invoke(app, ["experts"])
    head, *lines = done.stdout.splitlines()
    assert done.exit_code == 0 and [line.split()[0] for line in lines] == list(EXPERTS)
    assert max(map(len, [head, *lines])) <= 120
    for line, name in zip(lines, EXPERTS, strict=True):
        expert = create(name)
        where = "missing" if isinstance(expert, NeedsCheckpoint) else "in package" if expert.card.weights else "-"
        assert f"  {where}  " in line and (" yes " if expert.card.commercial_use else " no ") in line, name


def test_weights_that_are_put_there_are_at_hand() -> None:
    name, expert = next(
        (n, e)
        for n in EXPERTS
        if isinstance(e := create(n), NeedsCheckpoint) and all(not f.sha256 for f in e.checkpoint.files)
    )
    folder = expert.folder.path(expert.checkpoint)
    for file in expert.checkpoint.files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_bytes(b"anything")
    before = json.loads(runner.invoke(app, ["experts", name, "--json"]).stdout)
    expert.folder.record(expert.checkpoint, source=BY_HAND)
    after = json.loads(runner.invoke(app, ["experts", name, "--json"]).stdout)
    assert (before["weights_state"], before["version"]) == ("not locked", None)
    assert after["weights_state"] == "at hand" and len(after["version"]) == 10


def test_json_holds_the_whole_card() -> None:
    rows = json.loads(runner.invoke(app, ["experts", "--json"]).stdout)
    assert [row["name"] for row in rows] == list(EXPERTS)
    for row in rows:
        extra = {key: row.pop(key) for key in ("version", "input", "needs", "weights_state")}
        found = ExpertCard.model_validate(row)
        assert found == create(found.name).card and extra["needs"]["batch_size"] >= 1
        assert extra["version"] is None or extra["version"] == found.version


@pytest.mark.parametrize("name", EXPERTS)
def test_one_expert_is_told_in_full(name: str) -> None:
    done = runner.invoke(app, ["experts", name])
    told, about = done.stdout, create(name).card
    assert done.exit_code == 0 and told.startswith(f"{name}\n") and max(map(len, told.splitlines())) <= 150
    flat = " ".join(told.split())
    for text in (about.summary, about.network, about.licence, about.paper, about.spec.convention):
        assert " ".join(text.split()) in flat
    assert all(f"{key} {value}" in flat for key, value in {**about.preprocessing, **about.processing}.items())
    assert all(weights.file in told for weights in about.weights)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"fit": "squash", "side": 480, "channels": "RGB"}, "480x480"),
        ({"fit": "short_side", "side": 384}, "short side 384"),
        ({"long_side": 256}, "long side 256"),
        ({"long_side": None}, ""),
        ({}, ""),
    ],
)
def test_the_input_is_what_the_card_says(rules: dict[str, str | int | None], said: str) -> None:
    assert input_of(card("grey", GREY, preprocessing=rules)) == said


def test_an_expert_that_needs_an_option_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERTS, "fussy", "tests.test_catalog:Fussy")
    told = runner.invoke(app, ["experts"]).stdout
    assert "\nfussy: expert 'fussy': missing a required argument: 'side'" in told and "\npocket_depth " in told
    (row,) = [row for row in json.loads(runner.invoke(app, ["experts", "--json"]).stdout) if row["name"] == "fussy"]
    assert set(row) == {"name", "problem"}
    listed = runner.invoke(app, ["weights", "list"])
    assert listed.exit_code == 0 and "left out: expert 'fussy'" in listed.stderr and "dexined" in listed.stdout
