"""docs/experts.md: every expert has its section and its picture, and what stands there is what its card says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from bench.expert_pictures import SCENES, WIDTH, Weights, draw, picture_of_group, picture_of_instances, save
from expert_zoo.card import ExpertCard
from expert_zoo.catalog import EXPERTS, accepts, create
from expert_zoo.detection.detectron.zoo import INSTALL
from expert_zoo.expert import Expert
from expert_zoo.spec import LabelSpec
from expert_zoo.weights.needed import NeedsCheckpoint
from jobs.expert_commands import input_of
from manifests.build import build
from manifests.sources import Scenes
from pipeline.store import LabelStore
from tests.seeded_zoo import SIDE, runs_here
from tests.small_store import label
from tests.test_docs import ROOT, blocks, section, table

PAGE = ROOT / "docs/experts.md"
PICTURES = ROOT / "docs/experts"
#: Bytes of one picture.
LARGEST = 60_000
#: Compiled where it is installed.
COMPILED = {"detection"}


def section_of(name: str) -> str:
    """The section with ``name`` in its heading."""
    sections = re.split(r"^(?=##+ )", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    found = [text for text in sections if text.startswith("### ") and f"`{name}`" in text.splitlines()[0]]
    assert len(found) == 1, f"{name} has {len(found)} sections"
    return found[0]


def names_in(cell: str) -> set[str]:
    """The experts that a cell names."""
    return set(re.findall(r"`(\w+)`", cell)) & set(EXPERTS)


def facts_of(text: str) -> dict[str, str]:
    """The table without headings at a section's end."""
    (lines,) = re.findall(r"^\| \| \|\n\|---\|---\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return dict(re.findall(r"^\| (\w+) \| (.*) \|$", lines, re.MULTILINE))


def fed(card: ExpertCard) -> str:
    return ", ".join(filter(None, (input_of(card), str(card.preprocessing.get("channels", ""))))) or "-"


def label_of(spec: LabelSpec) -> str:
    match spec.kind:
        case "map":
            channels = f"{spec.channels} channel{'' if spec.channels == 1 else 's'}"
            ends = "{:g} to {:g}".format(*spec.value_range) if spec.value_range else "a range of its own for each map"
            return f"`map`: {spec.dtype}, {channels}, {ends}"
        case "classes":
            return f"`classes`: {spec.dtype}, {len(spec.class_names)} names, {spec.ignore} means none of them"
        case "instances":
            return f"`instances`: {len(spec.class_names)} names"
    return f"`{spec.kind}`"


def weights_of(expert: Expert) -> str:
    if isinstance(expert, NeedsCheckpoint):
        return f"`{expert.checkpoint.name}`"
    return "in the package" if expert.card.weights else "none"


def parameters_of(card: ExpertCard) -> str:
    return f"{card.parameters / 1e6:.2f} M" if card.parameters else "none"


def licence_of(card: ExpertCard) -> str:
    return f"{card.licence}; {'commercial use allowed' if card.commercial_use else 'no commercial use'}"


def facts(expert: Expert) -> dict[str, str]:
    needs, options = expert.needs, inspect.signature(type(expert)).parameters
    device = f"GPU, about {needs.device_memory_gib:g} GiB" if needs.gpu else "CPU"
    return {
        "fed": fed(expert.card),
        "label": label_of(expert.card.spec),
        "weights": weights_of(expert),
        "parameters": parameters_of(expert.card),
        "licence": licence_of(expert.card),
        "device": f"{device}; {needs.batch_size} photos a call",
        "options": ", ".join(f"`{option}`" for option in options) or "none",
    }


@pytest.mark.parametrize("name", EXPERTS)
def test_an_experts_section_says_what_its_card_says(name: str) -> None:
    text = section_of(name)
    told = facts_of(text)
    if "label" not in told:  # several experts share the section, and differ in this
        told["label"] = dict(table(text, "expert"))[f"`{name}`"]
    assert told == facts(create(name))


@pytest.mark.parametrize("name", EXPERTS)
def test_an_expert_has_a_picture(name: str) -> None:
    (picture,) = re.findall(r"^!\[[^\]]+\]\((experts/\w+\.jpg)\)$", section_of(name), re.MULTILINE)
    with Image.open(PAGE.parent / picture) as image:
        assert image.format == "JPEG" and image.width == WIDTH


def test_every_picture_is_small_and_stands_on_the_page() -> None:
    shown = re.findall(r"\]\(experts/(\w+\.jpg)\)", PAGE.read_text("utf-8"))
    assert sorted(shown) == sorted(path.name for path in PICTURES.iterdir())
    assert all((PICTURES / name).stat().st_size < LARGEST for name in shown)


def test_variants_of_an_expert_say_what_their_cards_say() -> None:
    seen = set()
    for name in EXPERTS:
        text = section_of(name)
        for given, weights, parameters, licence in table(text, "with") if "| with |" in text else []:
            options: dict[str, Any] = yaml.safe_load(given.strip("`"))
            expert = create(name, options=options)
            told = (weights, parameters, licence)
            assert told == (weights_of(expert), parameters_of(expert.card), licence_of(expert.card)), f"{name}: {given}"
            seen.add(name)
    assert seen == {name for name in EXPERTS if accepts(name, "size") or accepts(name, "network")}


def test_the_table_for_choosing_names_all_experts_and_their_licences() -> None:
    rows = table(section(PAGE, "Choosing"), "to get")
    named: set[str] = set()
    for what, taken, prismer, uncompiled, commercial in rows:
        row = names_in(taken) | names_in(prismer)
        assert names_in(uncompiled) == row - COMPILED, what
        assert names_in(commercial) == {name for name in row if create(name).card.commercial_use}, what
        named |= row
    assert named == {name for name in EXPERTS if not name.startswith(("pocket_", "truth_"))}


def test_the_table_of_recipes_names_those_who_have_them_and_what_they_are_fed() -> None:
    named: set[str] = set()
    for names, best, prismer, _ in table(section(PAGE, "Recipes"), "expert"):
        for name in names_in(names):
            assert best == fed(create(name, options={"recipe": "best"}).card), name
            assert prismer == fed(create(name, options={"recipe": "prismer"}).card), name
        named |= names_in(names)
    assert named == {name for name in EXPERTS if accepts(name, "recipe")}


def test_the_jobs_on_the_page_name_options_that_there_are_and_detectron2_comes_from_the_commit_that_is_known() -> None:
    given = [entry for block in blocks(PAGE, "yaml") for entry in yaml.safe_load(block)["experts"]]
    assert [name for entry in given for name in entry] == ["detection_open", "detection"]
    for entry in given:
        for name, options in entry.items():
            assert all(accepts(name, option) for option in options), entry
    assert blocks(PAGE, "bash") == [f"{INSTALL}\n"]
    source = re.findall(r"'(detectron2 @ .*)'", INSTALL)
    assert len(source) == 1 and source[0] in (ROOT / "setup.cfg").read_text("utf-8"), "the extra names another one"


def test_the_occlusion_resolved_map_is_read_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = build([Scenes(count=2, seed=5)], "manifest.parquet").manifest
    experts = [create("pocket_detection"), create("pocket_depth")]
    label(LabelStore.create("out/demo/store", manifest, shard_size=2), experts)
    (code,) = blocks(PAGE, "python")
    exec(compile(code, "experts.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "(96, 96)" in line and 0.05 < float(line.split()[-1]) < 0.95, "some of the pixels show a thing"


# ---- its pictures


def test_experts_with_weights_at_hand_draw_their_own_labels(seeded_weights: Path, tmp_path: Path) -> None:
    names = [name for name in SCENES if runs_here(name)]
    mine = draw(tmp_path / "own", Weights(folder=str(seeded_weights), side=SIDE), names)
    assert mine == names
    exact = draw(tmp_path / "exact", Weights(), names)
    assert exact == [name for name in names if not isinstance(create(name), NeedsCheckpoint)]
    for name in names:
        same = (tmp_path / "own" / f"{name}.jpg").read_bytes() == (tmp_path / "exact" / f"{name}.jpg").read_bytes()
        assert same == (name in exact), f"{name}: random weights do not say what is true"


def test_the_committed_pictures_are_those_that_are_drawn(tmp_path: Path) -> None:
    """Up to what another version of the JPEG library may round."""
    names = ["normal", "seg_coco", "match"]
    draw(tmp_path, Weights(), names)
    save(picture_of_group("truth_", with_photo=False), tmp_path / "truth.jpg")
    save(picture_of_instances(), tmp_path / "instances.jpg")
    for path in tmp_path.iterdir():
        drawn, kept = (np.asarray(Image.open(at), np.int16) for at in (path, PICTURES / path.name))
        assert drawn.shape == kept.shape and np.abs(drawn - kept).mean() < 2, path.name
    with pytest.raises(ValueError, match="no picture of depht; expected some of"):
        draw(tmp_path, Weights(), ["depht"])
