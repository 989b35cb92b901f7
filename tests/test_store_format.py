"""docs/store-format.md is true: its reader reads a store, and its tables are those of the code."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage

from expert_zoo.card import ExpertCard
from expert_zoo.labels import ClassMap, DenseMap, Instances, Picture, Scores, Text, Words
from expert_zoo.spec import LabelSpec
from manifests.record import SCHEMA
from pipeline.codec import _BY_KIND, table_schema
from pipeline.difference import difference
from pipeline.golden import Golden
from pipeline.growing import grow
from pipeline.growth import CHANGED_SCHEMA, DROPPED_SCHEMA, Growth, GrowthFile
from pipeline.plan import ShardPlan
from pipeline.reader import LabelReader
from pipeline.receipt import Receipt
from pipeline.store import LabelStore
from tests.small_store import every_kind, label, small_store, write_manifest, write_photos
from tests.stand_ins import Grey

DOCUMENT = (Path(__file__).parent.parent / "docs" / "store-format.md").read_text("utf-8")


def section(title: str) -> str:
    (found,) = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", DOCUMENT, re.DOTALL | re.MULTILINE)
    return str(found)


def table(title: str) -> list[list[str]]:
    """The cells of a section's table, without its two head lines."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def plain(kind: pa.DataType) -> str:
    """An Arrow type in the document's words."""
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.list_size} {plain(kind.value_type)}"
    return f"list of {plain(kind.value_type)}" if pa.types.is_list(kind) else str(kind)


def same(value: Any, read: Any) -> bool:
    match value:
        case None:
            return read is None
        case DenseMap(values):
            return read.dtype == np.float32 and np.array_equal(read, values)
        case ClassMap(ids_HW):
            return bool(read.dtype == ids_HW.dtype) and np.array_equal(read, ids_HW)
        case Picture(data, _):
            return np.array_equal(read, np.asarray(PillowImage.open(io.BytesIO(data))))
        case Instances():
            masks = None if value.masks is None else list(value.masks)
            return read["boxes"] == value.boxes_N4.tolist() and read["masks"] == masks
        case Words():
            return read["texts"] == list(value.texts) and read["polygons"] == value.polygons_N42.reshape(-1, 8).tolist()
        case Text():
            return bool(read == {"text": value.text, "log_prob": value.log_prob})
        case Scores():
            return bool(read == {"scores": value.values_N.tolist()})
    raise AssertionError(value)


def test_the_reader_of_the_document_reads_a_store(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", section("Reading a column"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/store-format.md", "exec"), names)
    store = small_store(tmp_path, every_kind(), photos=9, shard_size=4, broken=[2])
    # What no receipt names must not be read.
    for path in (tmp_path / "store" / "labels").glob("*/shard-000001.*.*"):
        (path.parent / f"shard-000001.00000000ffff{path.suffix}").write_bytes(b"not of a cell")
    samples = list(LabelReader(store).samples())
    statuses = set()
    for column, card in store.columns().items():
        read = list(names["read_column"](store.storage.url, column))
        assert [image_id for image_id, _, _ in read] == [sample.record.image_id for sample in samples]
        for sample, (_, status, value) in zip(samples, read, strict=True):
            label = sample.labels[card.name]
            assert status == label.status and same(label.value, value), (column, sample.record.image_id)
            statuses.add((card.spec.kind, status))
    assert {kind for kind, status in statuses if status == "ok"} == set(_BY_KIND)
    assert {status for _, status in statuses} == {"ok", "empty", "failed"}


def test_rows_are_as_documented() -> None:
    documented: dict[str, list[tuple[str, str]]] = {}
    for kind, column, kind_of_value, _ in table("Rows: the Parquet file"):
        documented.setdefault(kind, []).append((column, kind_of_value))
    common = documented.pop("every kind")
    assert set(documented) == set(_BY_KIND)
    for kind, columns in documented.items():
        dense = {"dtype": "uint8", "channels": 1} if kind in ("map", "classes") else {}
        more: dict[str, Any] = {"class_names": ("a",)} if kind in ("classes", "instances") else {}
        more |= {"ignore": 255} if kind == "classes" else {}
        resample = {"map": "bilinear", "classes": "nearest"}.get(kind, "none")
        spec = LabelSpec.model_validate({"kind": kind, "quantity": "photo", "resample": resample, **dense, **more})
        found = [(f.name, plain(f.type) + ("" if f.nullable else ", never null")) for f in table_schema(spec)]
        assert found == common + columns, kind


def test_a_written_file_has_the_documented_types(tmp_path: Path) -> None:
    """Parquet keeps the types, the names of list elements included, and whether a column may be null."""
    small_store(tmp_path, every_kind(), photos=2)
    for card in (expert.card for expert in every_kind()):
        (path,) = (tmp_path / "store" / "labels" / card.column).glob("*.parquet")
        assert pq.read_schema(path).equals(table_schema(card.spec), check_metadata=False)
        assert {b"expert_card", b"plan", b"shard"} <= set(pq.read_metadata(path).metadata)


def test_the_manifest_is_as_documented() -> None:
    documented = [(name, kind, nullable == "yes") for name, kind, nullable, _ in table("manifest.parquet")]
    assert documented == [(field.name, plain(field.type), field.nullable) for field in SCHEMA]


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("store.json", ShardPlan),
        ("growth/0001.json", Growth),
        ("expert.json", ExpertCard),
        ("spec", LabelSpec),
        ("golden.json", Golden),
        ("The receipt: shard-000042.json", Receipt),
    ],
)
def test_json_fields_are_as_documented(title: str, model: Any) -> None:
    assert [line[0] for line in table(title)] == list(model.model_fields)


def test_plan_fingerprint_as_documented() -> None:
    import hashlib
    import json

    plan = ShardPlan(manifest="ab" * 32, images=1000, shard_size=64, seed=3)
    text = json.dumps([1, "ab" * 32, 1000, 64, 3])
    assert plan.fingerprint == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert ", " in text


def test_lists_of_a_growth_are_as_documented() -> None:
    told = section("Files of a growth")
    assert [(f.name, plain(f.type)) for f in DROPPED_SCHEMA] == [
        ("shard", "int32"), ("row", "int32"), ("image_id", "string"),
    ]  # fmt: skip
    assert list(CHANGED_SCHEMA) == [*list(DROPPED_SCHEMA)[:2], *SCHEMA]
    assert all(f"`{name}`" in told for name in GrowthFile.model_fields)


def test_a_grown_store_is_as_documented(tmp_path: Path) -> None:
    """Its reader leaves dropped images out and finds those that came; fingerprints are made as it says."""
    import hashlib
    import json

    (code,) = re.findall(r"```python\n(.*?)```", section("Reading a column"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/store-format.md", "exec"), names)
    records = write_photos(tmp_path / "photos", photos=12)
    store = LabelStore.create(str(tmp_path / "store"), write_manifest(tmp_path, records[:9]), shard_size=4)
    label(store, [Grey()])
    manifest = write_manifest(tmp_path, [*records[:1], *records[2:]])
    store = grow(store, manifest, difference(store, manifest))
    label(store, [Grey()])
    column = store.column_of("grey")
    read = [image_id for image_id, _, _ in names["read_column"](store.storage.url, column)]
    assert read == [record.image_id for n, record in enumerate(records) if n != 1]
    growth = json.loads((tmp_path / "store" / "growth" / "0001.json").read_text())
    first = json.loads((tmp_path / "store" / "store.json").read_text())

    def digest(value: list[object]) -> str:
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]

    parts = [
        digest([1, first["manifest"], first["images"], first["shard_size"], first["seed"]]),
        digest([1, growth["fingerprint"], growth["manifest"]["rows"], first["shard_size"], growth["seed"], 3]),
    ]
    dropped = pq.read_table(tmp_path / "store" / "growth" / growth["dropped"]["name"])
    places = np.array(dropped["shard"]) * first["shard_size"] + np.array(dropped["row"])
    places_digest = hashlib.sha256(places.astype("<i8").tobytes()).hexdigest()
    assert growth["after"] == parts[0] and growth["plan"] == digest([*parts, places_digest]) == store.plan.fingerprint
    for index, part in [(0, 0), (3, 1)]:
        receipt = json.loads((tmp_path / "store" / "labels" / column / f"shard-{index:06d}.json").read_text())
        assert (receipt["format"], receipt["plan"]) == (part + 1, parts[part])
    assert [r.image_id for r in store.records(store.plan.shard(3))] == [r.image_id for r in records[9:]]
    assert growth["input"] == manifest.fingerprint
