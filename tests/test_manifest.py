"""Manifests: the order, the fingerprint, duplicates, what is not a manifest, and memory that does not grow."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.build import build
from manifests.manifest import METADATA_KEY, Manifest, cut
from manifests.names import order_key
from manifests.record import (
    BATCH_ROWS,
    SCHEMA,
    ImageRecord,
    Rejection,
    batched,
    flickr_key,
    from_batch,
    to_batch,
    url_key,
)
from pipeline.store import LabelStore


@dataclass(frozen=True)
class Listed:
    """A source of exactly these records and rejections."""

    found: tuple[ImageRecord | Rejection, ...]
    name: str = "listed"

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        return batched(self.found)


def record(number: int, source: str = "listed", caption: str = "a cat") -> ImageRecord:
    size = None if number % 3 else 100 + number
    captions = tuple(f"{caption} {again}" for again in range(number % 4))
    uri = f"file:///photos/{number}.jpg"
    return ImageRecord(image_id=f"i{number}", source=source, uri=uri, width=size, height=size, captions=captions)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


RECORDS = tuple(record(number) for number in range(500))


def test_holds_every_record_once_in_the_order_of_the_keyed_hash(tmp_path: Path) -> None:
    report = build([Listed(RECORDS)], str(tmp_path / "m.parquet"), seed=7)
    expected = sorted(RECORDS, key=lambda r: order_key(7, r.image_id))
    assert list(report.manifest.records()) == expected
    assert len(report.manifest) == 500 and report.images == {"listed": 500} and report.rejections == ()
    assert names(tmp_path) == ["m.parquet", "m.parquet.report.json"], "nothing else is left behind"


def test_order_and_fingerprint_do_not_depend_on_the_order_of_sources_and_records(tmp_path: Path) -> None:
    shuffled = list(RECORDS)
    random.Random(1).shuffle(shuffled)
    first = build([Listed(RECORDS)], str(tmp_path / "a.parquet"))
    second = build([Listed(tuple(shuffled[200:])), Listed(tuple(shuffled[:200]))], str(tmp_path / "b.parquet"))
    assert first.manifest.fingerprint == second.manifest.fingerprint
    assert list(first.manifest.records()) == list(second.manifest.records())


@pytest.mark.parametrize(
    "change",
    [
        {"captions": ("a dog",)},
        {"captions": ("a c", "at")},
        {"captions": ()},
        {"width": 5},
        {"uri": "file:///photos/other.jpg"},
        {"source": "other"},
        {"split": "val"},
        {"license": "CC0"},
        {"image_id": "j1"},
        {"keys": ("coco:1",)},
    ],
    ids=str,
)
def test_the_fingerprint_changes_with_every_field(tmp_path: Path, change: dict) -> None:
    before = build([Listed(RECORDS)], str(tmp_path / "a.parquet")).manifest
    changed = (RECORDS[0], replace(RECORDS[1], **change), *RECORDS[2:])
    after = build([Listed(changed)], str(tmp_path / "b.parquet")).manifest
    assert before.fingerprint != after.fingerprint


def test_the_seed_decides_the_order(tmp_path: Path) -> None:
    one, two = (build([Listed(RECORDS)], str(tmp_path / f"{seed}.parquet"), seed=seed).manifest for seed in (1, 2))
    assert (one.seed, two.seed) == (1, 2) and one.fingerprint != two.fingerprint
    assert list(one.records()) != list(two.records())
    with pytest.raises(ValueError, match="seed -1: expected"):
        build([Listed(RECORDS)], str(tmp_path / "x.parquet"), seed=-1)


@pytest.mark.parametrize("rows", [1, 7, 100, 499, 500, 501, 100_000])
def test_batches_are_of_exactly_that_many_rows_whatever_the_row_groups(tmp_path: Path, rows: int) -> None:
    source = build([Listed(RECORDS)], str(tmp_path / "m.parquet")).manifest
    written = cut(source, str(tmp_path / "cut.parquet"), 33)
    again = Manifest.open(str(tmp_path / "cut.parquet"))
    assert pq.ParquetFile(tmp_path / "cut.parquet").num_row_groups == -(-500 // 33)
    assert again.fingerprint == source.fingerprint == written.fingerprint
    batches = list(again.batches(rows))
    assert [batch.num_rows for batch in batches] == [min(rows, 500 - at) for at in range(0, 500, rows)]
    assert pa.Table.from_batches(batches) == pa.Table.from_batches(source.batches(64))


def test_repeats_become_one_record_and_are_counted(tmp_path: Path) -> None:
    alone = build([Listed(RECORDS)], str(tmp_path / "a.parquet")).manifest
    report = build([Listed(RECORDS), Listed(RECORDS), Listed(RECORDS[:10])], str(tmp_path / "b.parquet"))
    assert report.manifest.fingerprint == alone.fingerprint and report.rejections == ()
    (count,) = report.sources
    assert (count.read, count.merged, count.left_out, count.images) == (1010, 510, 0, 500)
    assert count.captions == sum(len(r.captions) for r in RECORDS)


def test_of_records_with_one_id_the_first_source_gives_the_place_and_all_give_captions(tmp_path: Path) -> None:
    here = replace(record(1, source="a"), captions=("one", "two"), keys=("coco:1",))
    there = replace(record(1, source="b"), uri="file:///a.jpg", captions=("two", "three"), split="val", license="CC0")
    other = replace(record(1, source="c"), captions=("two", "four", "one"), split="train", keys=("coco:1", "flickr:1"))
    for number, order in enumerate([(here, there, other), (other, there, here)]):
        sources = [Listed((found, record(2 + place)), name=found.source) for place, found in enumerate(order)]
        report = build(sources, str(tmp_path / f"{number}.parquet"))
        (found,) = (r for r in report.manifest.records() if r.image_id == "i1")
        first = order[0]
        assert (found.source, found.uri, found.width, found.height) == (
            first.source,
            first.uri,
            first.width,
            first.height,
        )
        assert found.captions == (("one", "two", "three", "four"), ("two", "four", "one", "three"))[number]
        assert (found.license, found.split) == ("CC0", ("val", "train")[number])
        assert found.keys == (("coco:1", "flickr:1"), ("coco:1", "flickr:1"))[number]
        assert report.images == {first.source: 1, order[1].source: 0, order[2].source: 0, "listed": 3}
        assert {s.source: s.merged for s in report.sources} == {
            first.source: 0, order[1].source: 1, order[2].source: 1, "listed": 0
        }  # fmt: skip


def test_rejections_are_counted_by_source_and_reason_with_five_examples(tmp_path: Path) -> None:
    refused = [Rejection("listed", f"photo {number}", "broken link") for number in range(9)]
    random.Random(3).shuffle(refused)
    source = Listed((*refused, RECORDS[0], Rejection("listed", "x", "unreadable")))
    report = build([source], str(tmp_path / "m.parquet"))
    assert [(r.reason, r.count) for r in report.rejections] == [("broken link", 9), ("unreadable", 1)]
    assert report.rejections[0].examples == tuple(f"photo {number}" for number in range(5))


def test_no_image_is_an_error_that_says_what_was_rejected_and_leaves_nothing(tmp_path: Path) -> None:
    source = Listed((Rejection("listed", "file:///photos/x.jpg", "broken link"),))
    with pytest.raises(ValueError, match=r"no image found.*listed.*1 x broken link, such as file:///photos/x.jpg"):
        build([source], str(tmp_path / "m.parquet"))
    assert names(tmp_path) == []


def test_a_source_that_fails_half_way_leaves_the_old_manifest(tmp_path: Path) -> None:
    class Failing:
        name = "failing"

        def batches(self) -> Iterator[pa.RecordBatch]:
            yield to_batch(RECORDS[:1])
            raise ValueError("line 2 is broken")

    out = str(tmp_path / "m.parquet")
    old = build([Listed(RECORDS)], out).manifest
    with pytest.raises(ValueError, match="line 2 is broken"):
        build([Failing()], out)
    assert Manifest.open(out) == old and names(tmp_path) == ["m.parquet", "m.parquet.report.json"]


def test_a_place_that_cannot_be_written_is_an_error_before_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out, message in (("file/m.parquet", "cannot write the manifest .*file"), ("", "it is a folder; expected")):
        with pytest.raises(ValueError, match=message):
            build([Listed(RECORDS)], str(tmp_path / out))
    assert names(tmp_path) == ["file"]


def test_works_on_other_filesystems_and_under_strange_names(tmp_path: Path) -> None:
    for url in ("memory://manifests/some dir/m.parquet", str(tmp_path / "a b::c#é\n*" / "m.parquet")):
        built = build([Listed(RECORDS)], url).manifest
        assert Manifest.open(url) == built
        assert pickle.loads(pickle.dumps(built)).count == 500
        built.verify()
    assert [path.rsplit("/", 1)[1] for path in fsspec.filesystem("memory").find("/manifests")] == [
        "m.parquet",
        "m.parquet.report.json",
    ]


def test_what_is_no_manifest_is_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"

    def refuses(pattern: str) -> None:
        with pytest.raises(ValueError, match=pattern):
            Manifest.open(str(path))

    refuses("cannot read .*No such file")
    path.write_bytes(b"")
    refuses("not a whole Parquet file")
    path.write_text("<html>not found</html>")
    refuses("not a whole Parquet file")
    pq.write_table(pa.table({"a": [1]}), path)
    refuses("no manifest .*lacks the metadata")
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({METADATA_KEY: b"{}"}), path)
    refuses("metadata is broken")
    about = {"format": 1, "fingerprint": "0" * 64, "count": 1, "seed": 0}
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({METADATA_KEY: json.dumps(about)}), path)
    refuses("its columns are a int64; expected image_id string, source string")
    newer = json.dumps({**about, "format": 3})
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({METADATA_KEY: newer}), path)
    refuses("format 3, this version reads up to 2; update")
    build([Listed(RECORDS)], str(path))
    path.write_bytes(path.read_bytes()[:-100])
    refuses("not a whole Parquet file")


def test_verify_notices_changed_and_damaged_rows(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    manifest = build([Listed(RECORDS)], str(path)).manifest
    manifest.verify()
    table = pq.read_table(path)
    swapped = table.take([1, 0, *range(2, 500)])
    pq.write_table(swapped.cast(SCHEMA).replace_schema_metadata(pq.read_metadata(path).metadata), path)
    with pytest.raises(ValueError, match="was changed after it was built"):
        Manifest.open(str(path)).verify()

    manifest = build([Listed(RECORDS)], str(path)).manifest
    data = bytearray(path.read_bytes())
    data[50:400] = bytes(350)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged|was changed"):
        Manifest.open(str(path)).verify()


def test_a_manifest_replaced_while_in_use_is_noticed(tmp_path: Path) -> None:
    manifest = build([Listed(RECORDS)], str(tmp_path / "m.parquet")).manifest
    build([Listed(RECORDS[:9])], str(tmp_path / "m.parquet"))
    with pytest.raises(ValueError, match="replaced by another manifest"):
        next(manifest.records())


def test_the_fingerprint_is_the_documented_one() -> None:
    """Computed here a second time, record by record, from the docstring of Fingerprint."""
    import hashlib

    from manifests.fingerprint import Fingerprint

    records = [replace(RECORDS[2], captions=("é", "", "two words")), RECORDS[3], replace(RECORDS[5], captions=())]
    records = [replace(r, keys=keys) for r, keys in zip(records, (("coco:1", "url:é"), (), ("flickr:2",)), strict=True)]
    running = Fingerprint()
    for batch in (to_batch(records).slice(0, 1), to_batch(records).slice(1, 0), to_batch(records).slice(1)):
        running.update(batch)

    def text(values: list[str]) -> list[bytes]:
        encoded = [value.encode() for value in values]
        return [b"".join(len(value).to_bytes(4, "little") for value in encoded), b"".join(encoded)]

    streams: list[bytes] = []
    for field in SCHEMA.names:
        values = [getattr(r, field) for r in records]
        if field in ("width", "height"):
            streams.append(b"".join((-1 if v is None else v).to_bytes(4, "little", signed=True) for v in values))
        elif field in ("captions", "keys"):
            streams.append(b"".join(len(v).to_bytes(4, "little") for v in values))
            streams += text([item for v in values for item in v])
        else:
            streams += text(values)
    whole = b"expert-labels manifest 1\n" + (3).to_bytes(8, "little")
    whole += b"".join(hashlib.sha256(stream).digest() for stream in streams)
    assert running.hexdigest() == hashlib.sha256(whole).hexdigest()


def test_a_manifest_of_format_1_opens_and_has_the_fingerprint_of_its_records_today(tmp_path: Path) -> None:
    """What an earlier version wrote: no column of keys, `format` 1, a fingerprint that knows nothing of keys."""
    today = build([Listed(RECORDS)], str(tmp_path / "today.parquet"), seed=3).manifest
    about = {"format": 1, "fingerprint": today.fingerprint, "count": len(today), "seed": 3}
    table = pq.read_table(tmp_path / "today.parquet").drop_columns(["keys"])
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(about)}), tmp_path / "old.parquet")
    old = Manifest.open(str(tmp_path / "old.parquet"))
    old.verify()
    assert list(old.records()) == list(today.records()) and old.fingerprint == today.fingerprint
    assert [list(from_batch(b)) for b in old.batches(70)] == [list(from_batch(b)) for b in today.batches(70)]

    store = LabelStore.create(str(tmp_path / "store"), old, shard_size=100)
    written = json.dumps({**about, "format": 1}).encode()
    for number, row_group in enumerate(range(0, 500, 100)):
        assert store.records(store.plan.shard(number)) == list(old.records())[row_group : row_group + 100]
    path = tmp_path / "store" / "manifest.parquet"
    with pq.ParquetWriter(path, without_keys := table.schema.remove_metadata()) as writer:
        for start in range(0, 500, 100):
            writer.write_table(table.slice(start, 100).cast(without_keys))
        writer.add_key_value_metadata({METADATA_KEY: written})
    again = LabelStore.open(str(tmp_path / "store"))
    assert [r for s in again.plan.shards() for r in again.records(s)] == list(today.records())


def test_a_fingerprint_of_an_earlier_version_is_what_it_was() -> None:
    """Computed by the version that knew no keys, of the records that it could hold."""
    from manifests.fingerprint import Fingerprint

    running = Fingerprint()
    running.update(to_batch(RECORDS[:40]))
    assert running.hexdigest() == "cfe2babb6bb448845fbf0a627cb04c94bc55157d7828d837bb65b2faeea682d8"


def test_one_address_is_one_key_whatever_the_scheme() -> None:
    assert (
        url_key("http://a.example/x.jpg") == url_key(" https://a.example/x.jpg\n") != url_key("http://a.example/y.jpg")
    )
    assert len(url_key("http://a.example/x.jpg")) == len("url:") + 16


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://static.flickr.com/2723/4385058960_b0f291553e.jpg", "flickr:4385058960"),
        ("http://farm7.staticflickr.com/6116/6255196340_da26cf2c9e_z.jpg", "flickr:6255196340"),
        ("https://live.staticflickr.com/65535/51_a.jpg", "flickr:51"),
        ("https://farm3.static.flickr.com/2/51_a.jpg", "flickr:51"),
        ("https://www.flickr.com/photos/somebody/51", None),
        ("https://notflickr.com/2/51_a.jpg", None),
        ("https://example.org/?u=http://static.flickr.com/2/51_a.jpg", None),
    ],
)
def test_a_photo_of_flickr_is_known_by_its_number(url: str, key: str | None) -> None:
    assert flickr_key(url) == key


def test_batches_end_where_they_are_full_of_rows_or_of_text() -> None:
    many = [record(number) for number in range(BATCH_ROWS + 3)]
    refused = Rejection("listed", "x", "unreadable")
    found = list(batched([*many[:5], refused, *many[5:]]))
    assert found[0] is refused and [b.num_rows for b in found[1:] if isinstance(b, pa.RecordBatch)] == [BATCH_ROWS, 3]
    long = [record(number * 4 + 1, caption="x" * (1 << 20)) for number in range(40)]
    sizes = [b.num_rows for b in batched(long) if isinstance(b, pa.RecordBatch)]
    assert len(sizes) == 3 and sum(sizes) == 40


MEMORY_PROBE = """
import resource, sys
from manifests.build import build
from manifests.record import ImageRecord, batched

class Many:
    name = "many"
    def batches(self):
        return batched(self.records())
    def records(self):
        for n in range(int(sys.argv[1])):
            yield ImageRecord(image_id=f"i{n}", source="many", uri=f"file:///photos/{n}.jpg", captions=("word " * 100,))

manifest = build([Many()], sys.argv[2]).manifest
assert sum(batch.num_rows for batch in manifest.batches(512)) == int(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """140,000 records more are 80 MB of captions and URIs more; the process may take a fraction of that."""
    peaks_mib = [
        float(
            subprocess.run(
                [sys.executable, "-c", MEMORY_PROBE, str(count), str(tmp_path / "m.parquet")],
                cwd=Path(__file__).parents[1],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for count in (60_000, 200_000)
    ]
    assert peaks_mib[1] - peaks_mib[0] < 40, peaks_mib
