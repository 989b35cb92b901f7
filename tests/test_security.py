"""What this project promises of itself in docs/security.md: no code out of data, and stores that somebody made to do harm."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from pipeline.audit import audit
from pipeline.errors import ExpertLabelsError, StoreError
from pipeline.repair import repair
from pipeline.store import LabelStore
from tests.conftest import ROOT
from tests.damages import SHARD, edit_receipt, receipt_path
from tests.small_store import small_store
from tests.stand_ins import Grey, Squares
from tests.test_floors import FILES

#: Calls that run what they are given, and the only files that may make them, each for a reason that stands there.
RUNS_CODE = {
    "pickle.load": (),
    "pickle.loads": (),
    "pickle.Unpickler": (),
    "marshal.loads": (),
    "shelve.open": (),
    "joblib.load": (),
    "os.system": (),
    "os.popen": (),
    "eval": (),
    "exec": (),
    "compile": (),
    # each with a SafeLoader of its own
    "yaml.load": ("expert_zoo/detection/detectron/configuration.py", "jobs/yaml_file.py"),
    "yaml.unsafe_load": (),
    "yaml.full_load": (),
    "tarfile.TarFile.extractall": (),
    "shutil.unpack_archive": (),
}


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.unparse(given.value) for given in call.keywords if given.arg == name), None)


def dangers(source: str, where: str) -> list[str]:
    """What in a module could run code that came as data."""
    found = []
    for name, call in calls(ast.parse(source)):
        at = f"{where}:{call.lineno} {name}"
        if name in RUNS_CODE and where not in RUNS_CODE[name]:
            found.append(at)
        if name == "torch.load" and keyword(call, "weights_only") != "True":
            found.append(f"{at} without weights_only=True")
        if keyword(call, "shell") not in (None, "False"):
            found.append(f"{at} with a shell")
        if keyword(call, "allow_pickle") not in (None, "False") or keyword(call, "trust_remote_code") not in (
            None,
            "False",
        ):
            found.append(f"{at} trusts what it reads")
        if name.endswith((".extractall", ".extract")):
            found.append(f"{at} lets an archive name files")
    return found


def test_no_code_out_of_data() -> None:
    assert [found for path in FILES for found in dangers(path.read_text(), path.relative_to(ROOT).as_posix())] == []


@pytest.mark.parametrize(
    "source",
    [
        "pickle.loads(data)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(command, shell=True)",
        "eval(text)",
        "np.load(path, allow_pickle=True)",
        "tar.extractall(folder)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_a_danger_is_seen(source: str) -> None:
    assert len(dangers(source, "pipeline/x.py")) == 1


def test_every_unpickler_refuses_names_that_it_does_not_know() -> None:
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any("Unpickler" in ast.unparse(base) for base in node.bases):
                found.append(path.name)
                methods = {method.name for method in node.body if isinstance(method, ast.FunctionDef)}
                assert "find_class" in methods, path
    assert found == ["array_pickle.py"]


# ---- stores that somebody made to do harm


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return small_store(tmp_path, [Grey(), Squares()], photos=4, shard_size=2)


@pytest.mark.parametrize(
    "name", ["../../../victim", "/{folder}/victim", "x/../../../../victim", "..", "", "a\x00b", "~/victim"]
)
def test_a_receipt_that_names_a_file_elsewhere_neither_reads_nor_removes_it(
    store: LabelStore, tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"not yours")
    told = json.loads(receipt_path(store, "grey").read_text())
    edit_receipt(store, "grey", table=told["table"] | {"name": name.format(folder=tmp_path)})
    column = store.column_of("grey")
    shard = store.plan.shard(SHARD)
    with pytest.raises(StoreError):
        store.read(column, shard)
    report = audit(store)
    assert (column, SHARD) in report.damaged
    repair(store, report, grace_seconds=0.0)
    assert victim.read_bytes() == b"not yours"
    assert not store.is_committed(column, shard) and store.is_committed(store.column_of("squares"), shard)


DEEP = b"[" * 200_000
HUGE = b'{"format": ' + b"9" * 100_000 + b"}"


@pytest.mark.parametrize("content", [DEEP, HUGE, b"null", b"[]", b"\xff\xfe", b"", b'{"format": 1}', b"NaN"])
@pytest.mark.parametrize("name", ["store.json", "card", "receipt"])
def test_json_that_is_none_or_far_too_much_is_one_line(store: LabelStore, name: str, content: bytes) -> None:
    column = store.column_of("grey")
    shard = store.plan.shard(SHARD)
    file = {
        "store.json": "store.json",
        "card": f"labels/{column}/expert.json",
        "receipt": f"labels/{column}/{shard.name}.json",
    }[name]
    store.storage.replace(file, content)
    with pytest.raises(ExpertLabelsError):
        LabelStore.open(store.storage.url).read(column, shard)


@pytest.mark.parametrize(
    "classes",
    [
        ["wrong"],
        [f"class {i}" for i in range(100_000)],
        ["\x1b[2J\x1b]0;owned\x07"],
        ["</script><script>alert(1)</script>"],
    ],
)
def test_a_card_with_a_foreign_list_of_classes_is_not_the_cards_column(store: LabelStore, classes: list[str]) -> None:
    column = store.column_of("squares")
    name = f"labels/{column}/expert.json"
    card = json.loads(store.storage.read(name))
    card["spec"]["class_names"] = classes
    store.storage.replace(name, json.dumps(card).encode())
    opened = LabelStore.open(store.storage.url)
    with pytest.raises(StoreError):  # the list is part of the version, which the folder's name states
        opened.add_column(Squares().card)
    assert any(finding.column == column for finding in audit(opened).errors)
