"""Who may import whom, what must not be loaded by whom, and how long a file may become."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

from tests.conftest import ROOT, run_python

CONTRACTS = tuple(f"expert_zoo.{name}" for name in ("labels", "spec", "card", "expert", "catalog", "classes"))
#: What a trainer needs beside the contracts: labels' geometry, and networks of its own from the weights folder.
FOR_TRAINERS = tuple(f"expert_zoo.{name}" for name in ("mirror", "occlusion", "networks", "weights"))
#: What of ours each package may import: these modules and what is inside them.
FLOORS: dict[str, tuple[str, ...]] = {
    "manifests": ("manifests",),
    "expert_zoo": ("expert_zoo", "manifests.scenes"),
    "pipeline": ("pipeline", "manifests", *CONTRACTS),
    "trainer": ("trainer", "pipeline", "manifests", *CONTRACTS, *FOR_TRAINERS),
    "jobs": ("jobs", "trainer", "pipeline", "manifests", "expert_zoo"),
}
#: Heavy libraries and the only files that may import them, even inside a function.
ONLY: dict[str, tuple[str, ...]] = {
    "ray": ("jobs/job_server.py", "pipeline/cluster.py", "pipeline/telemetry.py", "trainer/launch.py"),
    "torch": ("expert_zoo/", "trainer/", "jobs/"),
    "timm": ("expert_zoo/", "trainer/"),
    "transformers": ("expert_zoo/", "trainer/"),
    "torchvision": ("expert_zoo/", "trainer/"),
    "easyocr": ("expert_zoo/",),
    "detectron2": ("expert_zoo/",),
    "huggingface_hub": ("expert_zoo/weights/",),
    "onnxruntime": ("expert_zoo/",),
    "rapidocr": ("expert_zoo/",),
    "typer": ("jobs/",),
    "tqdm": ("jobs/", "expert_zoo/pocket/", "trainer/"),
}
TOO_VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "misc", "tools", "stuff"}
LONGEST = 350

FILES = sorted(path for package in FLOORS for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> list[tuple[int, str]]:
    """Line and full name of everything that a file imports anywhere in it: ``a.b`` for both ``import a.b`` and
    ``from a import b``."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; the floors are told by full names"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def inside(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in allowed)


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {"manifests", "expert_zoo", "pipeline", "jobs"}
    own = [name for _, name in imports(Path(__file__))]
    assert "ast" in own and "tests.conftest.ROOT" in own and "expert_zoo.catalog.EXPERTS" in own


def test_no_package_imports_from_above() -> None:
    wrong = []
    for path in FILES:
        where = path.relative_to(ROOT)
        for line, name in imports(path):
            if name.split(".")[0] in FLOORS and not inside(name, FLOORS[where.parts[0]]):
                wrong.append(f"{where}:{line} imports {name}")
    assert wrong == []


def test_heavy_libraries_stay_where_they_are_needed() -> None:
    wrong = []
    for path in FILES:
        where = path.relative_to(ROOT).as_posix()
        for line, name in imports(path):
            if not where.startswith(ONLY.get(name.split(".")[0], ("",))):
                wrong.append(f"{where}:{line} imports {name}")
    assert wrong == []


def test_no_expert_is_named_in_the_pipeline() -> None:
    from expert_zoo.catalog import EXPERTS
    from expert_zoo.spec import Kind, Quantity

    # "depth", "image", ... are also kinds and quantities, which the pipeline may well speak of.
    names = set(EXPERTS) - {*get_args(Kind), *get_args(Quantity)}
    wrong = []
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Constant) and node.value in names
            if named or (isinstance(node, ast.Constant) and str(node.value).startswith("expert_zoo.")):
                wrong.append(f"{path.name}:{node.lineno} names {node.value!r}")
    assert wrong == []


LIGHT = [
    "expert_zoo, manifests, pipeline, jobs",
    "expert_zoo.catalog, expert_zoo.labels, expert_zoo.spec, expert_zoo.card",
    "manifests.build, manifests.manifest",
    "pipeline.store, pipeline.labeller, pipeline.reader, pipeline.journal",
]


@pytest.mark.parametrize("modules", LIGHT)
def test_a_fresh_interpreter_loads_nothing_heavy(modules: str) -> None:
    code = f"import sys, {modules}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = set(run_python(code).split())
    assert modules.split(",")[0].split(".")[0] in loaded
    assert (
        loaded
        & {
            "torch",
            "ray",
            "timm",
            "transformers",
            "onnxruntime",
            "rapidocr",
            "safetensors",
            "easyocr",
            "huggingface_hub",
        }
        == set()
    )


def test_importing_the_packages_costs_nothing() -> None:
    loaded = run_python("import sys, expert_zoo, manifests, pipeline, jobs; print(*sys.modules)").split()
    assert {"numpy", "cv2", "pyarrow", "pydantic"} & set(loaded) == set()


def test_modules_say_what_they_are_about() -> None:
    assert [path for path in FILES if path.stem in TOO_VAGUE or path.parent.name in TOO_VAGUE] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_can_be_read_in_one_go(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says in its first lines what it is for"
