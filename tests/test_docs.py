"""The documents: what they tell a reader to type works, what they name exists, what their tables say is so."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import typer.main
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from expert_zoo.catalog import EXPERTS, create
from expert_zoo.labels import DenseMap
from jobs.cli import app
from jobs.job import Job, PackChoice, RayChoice, load_job
from jobs.planning import open_or_plan
from jobs.sources_file import ImageChoices, SourcesFile
from manifests.build import build
from manifests.cleaning import CaptionRules
from manifests.duplicates import Duplicates
from manifests.guard import AnyGuard
from manifests.scenes import render_uri
from manifests.sources import AnySource, Scenes
from pipeline.audit import agreement
from pipeline.errors import JobError
from pipeline.limits import Limits, Web
from pipeline.reader import LabelReader
from pipeline.store import LabelStore
from pipeline.watchdog import Patience
from tests.small_store import label

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("manifests", "expert_zoo", "pipeline", "jobs", "tests", "bench", "docs")
BY_NAME = [pytest.param(path, id=path.name) for path in DOCUMENTS]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def code_spans(path: Path) -> list[str]:
    """Inline code of a document; its blocks are left out."""
    return re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    )


def section(path: Path, heading: str) -> str:
    return re.split(r"\n## ", path.read_text("utf-8").split(f"\n## {heading}\n")[1])[0]


def table(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose first heading is ``first``, without heading and rule."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# ---- docs/add-an-expert.md


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of docs/add-an-expert.md, as a reader would save them, and the reader in it."""
    document = ROOT / "docs/add-an-expert.md"
    for block in blocks(document, "python") + blocks(document, "yaml"):
        (tmp_path / name_of(block)).write_text(block, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("my_experts", "my_network"):
        sys.modules.pop(name, None)


def name_of(block: str) -> str:
    """The file that a block is to be saved as."""
    name = block.splitlines()[0].removeprefix("# ")
    assert Path(name).suffix in (".py", ".yaml"), f"the first line of a block says its file's name, not {name!r}"
    return name


def test_the_worked_example_labels_scenes_as_its_document_says(workshop: Path) -> None:
    job = load_job("edges.yaml")
    experts = job.create_experts()
    store = open_or_plan(job).store
    assert all(result.receipt and not result.receipt.rows.failed for result in label(store, experts))
    samples = list(LabelReader(store, ["gradient_edge"]).samples())
    assert len(samples) == job.images[0].count == 24  # type: ignore[union-attr]
    for sample in samples[:3]:
        value = sample.labels["gradient_edge"].value
        assert isinstance(value, DenseMap)
        grey = cv2.cvtColor(render_uri(sample.record.uri).photo_HW3, cv2.COLOR_RGB2GRAY) / 255
        right, left, below, above = grey[1:-1, 2:], grey[1:-1, :-2], grey[2:, 1:-1], grey[:-2, 1:-1]
        a, c, g, i = grey[:-2, :-2], grey[:-2, 2:], grey[2:, :-2], grey[2:, 2:]
        across, down = (c + 2 * right + i - a - 2 * left - g) / 4, (g + 2 * below + i - a - 2 * above - c) / 4
        expected = np.minimum(np.sqrt(across**2 + down**2), 1)
        assert np.abs(value.values[1:-1, 1:-1] - expected).max() < 0.6 / 255, "but for the rounding to 8 bits"
    (row,) = agreement(store, "truth")
    (printed,) = re.findall(r"gradient_edge +truth_edge +f1 +([\d.]+)", (ROOT / "docs/add-an-expert.md").read_text())
    assert row.metrics["f1"] == pytest.approx(float(printed), abs=0.005)


def test_the_worked_network_labels_as_its_document_says(workshop: Path) -> None:
    runpy.run_path("make_weights.py")
    with pytest.raises(JobError, match="of the weights of texture the digests are unknown: files lie in .*--at-hand`"):
        load_job("texture.yaml")
    done = CliRunner().invoke(app, ["weights", "fetch", "--job", "texture.yaml", "--at-hand"])
    assert done.exit_code == 0 and done.stdout.split()[:3] == ["tiny-texture", "recorded", "6"], done.output
    assert "tiny-texture  recorded  6 kB" in (ROOT / "docs/add-an-expert.md").read_text("utf-8")
    job = load_job("texture.yaml")
    store = open_or_plan(job).store
    assert all(result.receipt and not result.receipt.rows.failed for result in label(store, job.create_experts()))
    samples = list(LabelReader(store, ["texture"]).samples())
    values = [sample.labels["texture"].value for sample in samples]
    assert len(values) == 8 and all(isinstance(value, DenseMap) and value.values.shape == (64, 64) for value in values)


def test_the_tests_of_the_worked_examples_pass(workshop: Path) -> None:
    """As a reader runs them."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "test_my_experts.py",
        "test_my_network.py",
    ]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0 and "7 passed" in done.stdout, done.stdout


# ---- README.md


def test_the_reader_of_the_readme_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = build([Scenes(count=2, seed=5)], "manifest.parquet").manifest
    label(LabelStore.create("out/demo/store", manifest, shard_size=2), [create("pocket_depth")])
    (code,) = blocks(ROOT / "README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    lines = sorted(capsys.readouterr().out.splitlines())
    assert [line.split()[0] for line in lines] == ["scene_5_000000", "scene_5_000001"]
    assert all(0.5 < float(line.split()[1]) < 20 for line in lines), "metres to the things of a room"


# ---- docs/job-file.md


def stated(cell: str) -> Any:
    """What a cell of the column ``default`` says: a value, "required", or None where words or nothing stand there."""
    if cell == "required":
        return cell
    text = cell.strip("`")
    quoted = cell.startswith(("`", '"')) or re.fullmatch(r"[\d.]+|true|false", text)
    return yaml.safe_load(text) if quoted else None


def actual(model: type[BaseModel], field: str) -> Any:
    info = model.model_fields[field]
    return "required" if info.is_required() else None if info.default in ((), None) else info.default


def fields_of_a_job() -> dict[str, Any]:
    """Every key with its default; those of nested sections with a dot."""
    nested: dict[str, type[BaseModel]] = {
        "limits": Limits,
        "patience": Patience,
        "ray": RayChoice,
        "captions": CaptionRules,
        "duplicates": Duplicates,
    }
    flat = {name: actual(Job, name) for name in Job.model_fields if name not in nested}
    for outer, model in nested.items():
        assert Job.model_fields[outer].default == model()
        flat |= {f"{outer}.{name}": actual(model, name) for name in model.model_fields}
    assert flat.pop("limits.web") == Web()
    return flat | {f"limits.web.{name}": actual(Web, name) for name in Web.model_fields}


def test_the_job_file_table_names_exactly_the_fields_of_a_job_with_their_defaults() -> None:
    rows = table((ROOT / "docs/job-file.md").read_text("utf-8"), "key")
    told = {key: stated(default) for keys, default, _ in rows for key in re.findall(r"`([^`]+)`", keys)}
    assert told == fields_of_a_job()


SOURCES = {model.model_fields["source"].default: model for model in get_args(get_args(AnySource)[0])}
#: Sections of docs/sources.md and the sources that their tables are about.
SECTIONS = {
    "Folder": ["folder"],
    "COCO": ["coco"],
    "Visual Genome": ["visual_genome"],
    "NoCaps": ["nocaps"],
    "Conceptual Captions (CC3M and CC12M)": ["cc3m", "cc12m"],
    "SBU": ["sbu"],
    "Lists of BLIP and Prismer": ["caption_list"],
    "Any table": ["table"],
    "img2dataset": ["img2dataset"],
    "Parquet with pictures": ["hf_parquet"],
    "Scenes": ["scenes"],
}


def test_every_source_has_a_section() -> None:
    assert {name for names in SECTIONS.values() for name in names} == set(SOURCES)
    for document in ("docs/sources.md", "docs/job-file.md"):
        assert set(SOURCES) <= set(re.findall(r"`(\w+)`", (ROOT / document).read_text("utf-8"))), document


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_section_of_a_source_names_exactly_its_fields_and_its_example_is_valid(heading: str) -> None:
    text = section(ROOT / "docs/sources.md", heading)
    told = {key.strip("`"): stated(default) for key, default, _ in table(text, "key")}
    # False and None are both "no" to a reader.
    told = {key: value or None for key, value in told.items()}
    for name in SECTIONS[heading]:
        model = SOURCES[name]
        fields = {
            f: actual(model, f) or None for f in model.model_fields if f not in {"source", "name", "split", "license"}
        }
        assert told == {f: list(value) if isinstance(value, tuple) else value for f, value in fields.items()}, name
        assert {"name", "split"} <= set(model.model_fields)
        assert ("license" in model.model_fields) == (name not in ("coco", "nocaps", "scenes"))
    found = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found
    for block in found:
        read = SourcesFile.model_validate(yaml.safe_load(block))
        assert {source.source for source in read.images} <= set(SECTIONS[heading])


def test_the_table_of_packs_names_exactly_their_fields() -> None:
    packs = table(section(ROOT / "docs/job-file.md", "Packs"), "key")
    assert {key.strip("`"): stated(default) for key, default, _ in packs} == {
        field: actual(PackChoice, field) for field in PackChoice.model_fields
    }


def test_the_tables_of_manifests_name_exactly_the_rules_with_their_defaults() -> None:
    document = ROOT / "docs/manifests.md"
    for heading, first, model in (("Captions", "rule", CaptionRules), ("Duplicates", "key", Duplicates)):
        told = {key.strip("`"): stated(default) for key, default, _ in table(section(document, heading), first)}
        assert told == {field: actual(model, field) for field in model.model_fields}
    guards = {cells[0].strip("`"): cells for cells in table(section(document, "Guards"), "guard")}
    models = {model.model_fields["guard"].default: model for model in get_args(get_args(AnyGuard)[0])}
    assert set(guards) == set(models)
    for name, model in models.items():
        assert ("`addresses`" in guards[name][3]) == ("addresses" in model.model_fields)
    keys = {keys.strip("`") for keys, _, _ in table(section(document, "Building"), "key")}
    assert keys == set(ImageChoices.model_fields)


def options_of(name: str) -> dict[str, Any]:
    """The options of an expert with their defaults: "required", or None for those that mean nothing is set."""
    module, _, class_name = EXPERTS[name].partition(":")
    found = inspect.signature(getattr(importlib.import_module(module), class_name)).parameters.values()
    plain = {p.name: list(p.default) if isinstance(p.default, tuple) else p.default for p in found}
    return {
        option: "required" if value is inspect.Parameter.empty else value or None for option, value in plain.items()
    }


def test_the_job_file_document_names_the_options_of_experts_and_its_jobs_load(tmp_path: Path) -> None:
    text = section(ROOT / "docs/job-file.md", "Experts")
    options = {name: options_of(name) for name in EXPERTS}
    shared = {o.strip("`"): (stated(default), takers.split(", ")) for o, default, takers, _ in table(text, "option")}
    for option, (default, takers) in shared.items():
        assert takers == [name for name in EXPERTS if option in options[name]], option
        assert all((options[name].pop(option) or None) == (default or None) for name in takers), option
    told: dict[str, dict[str, Any]] = {name: {} for name in EXPERTS}
    name = ""
    for first, option, default, _ in table(text, "expert"):
        name = first.strip("`") or name
        told[name][option.strip("`")] = stated(default) or None
    assert told == options
    job, packs = blocks(ROOT / "docs/job-file.md", "yaml")
    (tmp_path / "job.yaml").write_text(job)
    assert [choice.name for choice in load_job(str(tmp_path / "job.yaml")).experts] == ["ocr", "image"]
    whole = yaml.safe_load(job) | yaml.safe_load(packs)
    whole["experts"] = [name for pack in whole["packs"] for name in pack["experts"]]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(whole))
    assert load_job(str(tmp_path / "job.yaml")).packs[1].actors == (4, 4)


# ---- all documents


def commands_of(path: Path) -> set[str]:
    found = {span for span in code_spans(path) if span.startswith("expert-labels ")}
    lines = "\n".join(blocks(path, "console") + blocks(path, "bash")).splitlines()
    return found | {line.removeprefix("$ ") for line in lines if line.removeprefix("$ ").startswith("expert-labels ")}


def test_every_command_and_option_that_is_named_exists() -> None:
    group: Any = typer.main.get_command(app)
    known = {option for command in walk(group) for parameter in command.params for option in parameter.opts}
    seen = set()
    for path in DOCUMENTS:
        for line in commands_of(path):
            words = line.split()[1:]
            command = group
            while isinstance(getattr(command, "commands", None), dict) and words:
                assert words[0] in command.commands, f"{path.name}: `{line}`: there is no command {words[0]!r}"
                seen.add(words[0])
                command = command.commands[words.pop(0)]
            options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            strange = [word for word in words if word.startswith("-") and word not in options]
            assert not strange, f"{path.name}: `{line}`: no option {strange}"
        for span in code_spans(path):
            if span.startswith("--"):
                assert span.split()[0] in known | {"--help"}, f"{path.name}: no command has the option `{span}`"
    assert seen >= {"label", "retry", "status", "audit", "preview", "export", "experts"}, "the README shows them all"


def walk(command: Any) -> Iterator[Any]:
    """A command of the command line and all below it."""
    yield command
    for below in getattr(command, "commands", {}).values():
        yield from walk(below)


@pytest.mark.parametrize("path", BY_NAME)
def test_every_file_module_and_make_target_that_is_named_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert (
        set(re.findall(r"`make ([a-z-]+)", text)) | set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)) <= targets
    )
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), f"python -m {module}"
    own = {name_of(block) for block in blocks(path, "python")} if path.name == "add-an-expert.md" else set()
    files = rf"(?<![\w/])(?:{'|'.join(PACKAGES)})/[\w/-]*(?:\.\w+|/(?=[`\s]))"
    for named in re.findall(files, text):
        assert (ROOT / named).exists(), f"`{named}`"
    for span in code_spans(path):
        if re.fullmatch(r"\w+\.py", span) and span not in own:
            assert any(next((ROOT / package).rglob(span), None) for package in PACKAGES), f"`{span}`"


def test_the_way_of_an_image_names_what_is_in_its_files() -> None:
    rows = table(section(ROOT / "docs/architecture.md", "One image's way"), "step")
    assert 5 <= len(rows) < 10, "under ten files"
    for _, file, told in rows:
        spans = re.findall(r"`([^`]+)`", f"{file} {told}")
        paths = [ROOT / span for span in spans if span.endswith(".py") and "/" in span]
        code = "\n".join(path.read_text("utf-8") for path in paths)
        for span in spans:
            if re.fullmatch(r"[\w.]+", span) and not span.endswith(".py"):
                assert all(re.search(rf"\b{name}\b", code) for name in span.split(".")), f"`{span}` in {file}"


@pytest.mark.parametrize("path", BY_NAME)
def test_relative_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8"))
    for link in (link for link in links if "://" not in link):
        file, _, anchor = link.partition("#")
        target = (path.parent / file) if file else path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, link
