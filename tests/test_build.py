"""What a build joins, leaves out and counts: against a plain model of the rules, record by record."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.build import BuildReport, build
from manifests.cleaning import CaptionRules
from manifests.guard import CocoGuard, KarpathyGuard, ListGuard, NocapsGuard, VqaGuard, guarded
from manifests.names import name_numbers, order_key
from manifests.record import ImageRecord, Rejection, batched, to_batch, url_key
from manifests.sources import Scenes


@dataclass(frozen=True)
class Listed:
    """A source of exactly these."""

    found: tuple[ImageRecord | Rejection, ...]
    name: str

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        return batched(self.found)


def record(
    name: str, *, source: str = "a", captions: Sequence[str] = (), keys: Sequence[str] = (), uri: str = ""
) -> ImageRecord:
    return ImageRecord(
        image_id=name, source=source, uri=uri or f"file:///{source}/{name}", captions=tuple(captions), keys=tuple(keys)
    )


def built(
    folder: Path, *sources: Sequence[ImageRecord | Rejection], **options: object
) -> tuple[BuildReport, list[ImageRecord]]:
    named = [Listed(tuple(found), name="abcdef"[number]) for number, found in enumerate(sources)]
    report = build(named, str(folder / "m.parquet"), **options)  # type: ignore[arg-type]
    return report, list(report.manifest.records())


def listed(folder: Path, *lines: str) -> ListGuard:
    (folder / "guard.txt").write_text("\n".join(lines) + "\n")
    return ListGuard(file=str(folder / "guard.txt"))


# ---- joining


def expected(records: Sequence[ImageRecord], guards: frozenset[str]) -> list[ImageRecord]:
    """The rules of joining and guarding, one record after the other."""
    pictures: list[list[int]] = []
    for number, one in enumerate(records):
        names = {f"id {one.image_id}", *one.keys}
        touched = [
            picture
            for picture in pictures
            if any(names & {f"id {records[n].image_id}", *records[n].keys} for n in picture)
        ]
        pictures = [picture for picture in pictures if picture not in touched]
        pictures.append(sorted([number, *(n for picture in touched for n in picture)]))
    made = []
    for picture in pictures:
        rows = [records[number] for number in picture]
        if any(key in guards for row in rows for key in row.keys):
            continue
        places: dict[tuple[str, str], str] = {}
        rows = [row for row in rows if places.setdefault((row.source, row.image_id), row.uri) == row.uri]
        made.append(
            replace(
                rows[0],
                captions=tuple(dict.fromkeys(caption for row in rows for caption in row.captions)),
                keys=tuple(dict.fromkeys(key for row in rows for key in row.keys)),
                split=next((row.split for row in rows if row.split), ""),
                license=next((row.license for row in rows if row.license), ""),
            )
        )
    return sorted(made, key=lambda one: order_key(5, one.image_id))


KEYS = st.sampled_from([*(f"coco:{n}" for n in range(6)), *(url_key(f"http://x/{n}") for n in range(4)), "flickr:1"])
RECORDS = st.builds(
    lambda number, captions, keys, split, licence, place: ImageRecord(
        image_id=f"i{number}",
        source="?",
        uri=f"file:///{number}-{place}",
        width=None if place else 5,
        captions=tuple(captions),
        keys=tuple(dict.fromkeys(keys)),
        split=split,
        license=licence,
    ),
    st.integers(0, 12),
    st.lists(st.sampled_from(["one", "two", "ünï", "four words in it"]), max_size=3),
    st.lists(KEYS, max_size=3),
    st.sampled_from(["", "train", "val"]),
    st.sampled_from(["", "CC0"]),
    st.sampled_from([0, 0, 0, 1]),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sources=st.lists(st.lists(RECORDS, max_size=9), min_size=1, max_size=3),
    guards=st.frozensets(KEYS.filter(lambda key: not key.startswith("url")), max_size=2),
)
def test_pictures_are_joined_merged_and_guarded_as_the_rules_say(
    tmp_path: Path, sources: list[list[ImageRecord]], guards: frozenset[str]
) -> None:
    named = [[replace(one, source="abc"[number]) for one in found] for number, found in enumerate(sources)]
    rows = [one for found in named for one in found]
    wanted = expected(rows, guards)
    options = {"seed": 5, "guards": [listed(tmp_path, *sorted(guards))] if guards else []}
    if not wanted:
        with pytest.raises(ValueError, match="no image found"):
            built(tmp_path, *named, **options)
        return
    report, found = built(tmp_path, *named, **options)
    assert found == [replace(one, captions=tuple(dict.fromkeys(one.captions))) for one in wanted]
    read = Counter(one.source for one in rows)
    for count in report.sources:
        assert count.read == count.left_out + count.merged + count.images == read[count.source]
        mine = [one for one in found if one.source == count.source]
        assert (count.images, count.captions) == (len(mine), sum(len(one.captions) for one in mine))


def test_a_chain_of_a_thousand_keys_is_one_picture(tmp_path: Path) -> None:
    chain = [record(f"i{n}", captions=[f"caption {n}"], keys=[f"coco:{n}", f"coco:{n + 1}"]) for n in range(1000)]
    order = np.random.default_rng(0).permutation(1000)
    report, (found,) = built(tmp_path, [chain[n] for n in order])
    assert found.image_id == f"i{order[0]}" and len(found.captions) == 1000 and len(found.keys) == 1001
    assert report.sources[0].merged == 999


def test_two_files_of_one_source_under_one_id_are_a_clash_and_not_one_picture(tmp_path: Path) -> None:
    first, second = record("x", captions=["a dog"], uri="file:///1"), record("x", captions=["a cat"], uri="file:///2")
    report, (found,) = built(tmp_path, [first, second])
    assert found == first
    (rejection,) = report.rejections
    assert rejection.reason == "duplicate id, another record was kept" and rejection.count == 1
    assert rejection.examples == ("x: file:///2 (kept: file:///1)",)
    # Of another source it is the same picture: its ids say so.
    _, (found,) = built(tmp_path, [first], [replace(second, source="b")])
    assert found.captions == ("a dog", "a cat") and found.uri == "file:///1"


# ---- guards


def test_every_kind_of_guard_reads_its_file(tmp_path: Path) -> None:
    def write(name: str, content: object) -> str:
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return str(tmp_path / name)

    images = [
        {"filepath": "val2014", "filename": "x.jpg", "cocoid": number, "split": split, "sentences": []}
        for number, split in ((1, "train"), (2, "val"), (3, "test"), (4, "restval"))
    ]
    karpathy = write("dataset_coco.json", {"images": images, "dataset": "coco"})
    address = "http://farm1.staticflickr.com/2/77_abc.jpg"
    coco = write(
        "image_info.json", {"images": [{"id": 9, "coco_url": "http://c/9.jpg", "flickr_url": address}], "info": {}}
    )
    nocaps = write("nocaps.json", {"images": [{"id": 0, "open_images_id": "00ab", "coco_url": "https://s3/00ab.jpg"}]})
    vqa = write("questions.json", {"questions": [{"image_id": 5, "question": "?"}, {"image_id": 5}, {"image_id": 6}]})
    text = (
        "# taken out\nval2014/COCO_val2014_000000253964.jpg 253964\n\n17\ntrain2014/COCO_train2014_000000000018.jpg\n"
    )
    text += "000000000019.jpg\nflickr:12\nhttps://live.staticflickr.com/1/13_x.jpg\n"
    ids = write("ids.txt", text)
    two = write(
        "captions.json",
        {"images": [{"id": n, "flickr_url": f"http://farm1.staticflickr.com/2/{n}0_a.jpg"} for n in (2, 4)]},
    )
    for guard, keys in (
        (KarpathyGuard(file=karpathy), ["coco:2", "coco:3"]),
        (
            KarpathyGuard(file=karpathy, addresses=(two,)),
            ["coco:2", "coco:3", "flickr:20", url_key("http://farm1.staticflickr.com/2/20_a.jpg")],
        ),
        (KarpathyGuard(file=karpathy, splits=("restval",)), ["coco:4"]),
        (CocoGuard(file=coco), ["coco:9", url_key("http://c/9.jpg"), url_key(address), "flickr:77"]),
        (NocapsGuard(file=nocaps), ["openimages:00ab", url_key("https://s3/00ab.jpg")]),
        (VqaGuard(file=vqa), ["coco:5", "coco:6"]),
        (
            ListGuard(file=ids),
            ["coco:253964", "coco:17", "coco:18", "coco:19", "flickr:12", "flickr:13",
             url_key("https://live.staticflickr.com/1/13_x.jpg")],
        ),
    ):  # fmt: skip
        assert np.array_equal(guarded(guard), np.unique(name_numbers(pa.array(keys)))), guard.name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"images": [', "broken JSON in line 1"),
        ('{"pictures": []}', "no list 'images'"),
        ('{"images": []}', "no picture in .*guard nothing"),
        ('{"images": [3]}', r"images\[0\] is no object"),
        ('{"images": [{"split": "val", "cocoid": "7"}]}', r"images\[0\] has cocoid '7'; expected the number"),
        ('{"images": [{"split": "train", "cocoid": 7}]}', "no picture in .*guard nothing"),
    ],
)
def test_a_guard_that_cannot_guard_is_said_before_any_source_is_read(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "k.json").write_text(content)

    class Unread:
        name = "unread"

        def batches(self) -> Iterator[pa.RecordBatch]:
            raise AssertionError("read")

    with pytest.raises(ValueError, match=said):
        build([Unread()], str(tmp_path / "m.parquet"), guards=[KarpathyGuard(file=str(tmp_path / "k.json"))])
    with pytest.raises(ValueError, match="cannot read"):
        build([Unread()], str(tmp_path / "m.parquet"), guards=[KarpathyGuard(file=str(tmp_path / "none.json"))])
    (tmp_path / "ids.txt").write_text("1\nwhat is this\n")
    with pytest.raises(ValueError, match="line 2: 'what is this'; expected"):
        guarded(ListGuard(file=str(tmp_path / "ids.txt")))


def test_what_a_guard_kept_out_is_counted_by_guard_and_source_and_the_first_guard_counts(tmp_path: Path) -> None:
    (tmp_path / "vqa.json").write_text(json.dumps({"questions": [{"image_id": n} for n in (1, 2, 3)]}))
    vqa = VqaGuard(file=str(tmp_path / "vqa.json"))
    ids = listed(tmp_path, "3", "4", "5")
    coco = [record(f"coco_{n}", source="a", keys=[f"coco:{n}"]) for n in range(6)]
    # A web copy has no key of COCO's; the photo of Visual Genome between them has both.
    vg = [record("vg_1", source="b", keys=["coco:1", "flickr:8"]), record("vg_2", source="b", keys=["coco:70"])]
    web = [record("web_1", source="c", keys=["flickr:8"]), record("web_2", source="c", keys=["flickr:9"])]
    report, found = built(tmp_path, coco, vg, web, guards=[vqa, ids])
    assert sorted(one.image_id for one in found) == ["coco_0", "vg_2", "web_2"]
    first, second = report.guards
    assert (first.guard, first.keys, first.kept_out) == ("vqa vqa.json", 3, {"a": 3, "b": 1, "c": 1})
    assert (second.guard, second.keys, second.kept_out) == ("list guard.txt", 3, {"a": 2})
    reasons = {(r.source, r.reason): (r.count, r.examples) for r in report.rejections}
    assert reasons["c", "kept out by guard: vqa vqa.json"] == (1, ("web_1",))
    assert reasons["a", "kept out by guard: list guard.txt"] == (2, ("coco_4", "coco_5"))
    assert {count.source: count.left_out for count in report.sources} == {"a": 5, "b": 1, "c": 1}


# ---- captions


def test_caption_rules_are_counted_by_source_with_examples(tmp_path: Path) -> None:
    captions = [
        "a cat",
        "A Cat",
        "a cat",
        "one",
        "bad \ufffd bytes",
        "word " * 300 + "end",
        "x" * 3000,
        "a fine caption",
    ]
    rows = [record("i", captions=captions), replace(record("j", captions=["x"]), source="b")]
    rules = CaptionRules(min_words=2)
    report, found = built(tmp_path, rows, captions=rules)
    assert {one.image_id: one.captions for one in found} == {"i": ("a cat", "A Cat", "a fine caption"), "j": ()}
    assert {(r.source, r.reason): (r.count, r.examples[0]) for r in report.rejections} == {
        ("a", "caption with bytes that were not UTF-8"): (1, "i: bad \ufffd bytes"),
        ("a", "caption of fewer than 2 words"): (2, "i: one"),
        ("b", "caption of fewer than 2 words"): (1, "j: x"),
        ("a", "caption of more than 256 words"): (1, f"i: {'word ' * 12}"),
        ("a", "caption repeated on its image"): (1, "i: a cat"),
    }
    _, found = built(tmp_path, rows, captions=CaptionRules(keep_all=True))
    assert {one.image_id: list(one.captions) for one in found} == {"i": captions, "j": ["x"]}


def apply(rules: CaptionRules, captions: Sequence[str]) -> list[str]:
    batch, _ = rules.apply(to_batch([record("i", captions=captions)]))
    return list(batch.column("captions").to_pylist()[0]) if batch.num_rows else []


def test_long_captions_are_dropped_or_cut_after_a_whole_word() -> None:
    assert apply(CaptionRules(max_words=3), ["one two three four", "one two three"]) == ["one two three"]
    assert apply(CaptionRules(max_words=3, long="cut"), ["one two three four"]) == ["one two three"]
    assert apply(CaptionRules(max_characters=9, long="cut"), ["one two three", "one two x three"]) == [
        "one two",
        "one two x",
    ]
    assert apply(CaptionRules(max_characters=4, long="cut"), ["ünïcödé"]) == ["ünïc"]
    assert apply(CaptionRules(max_characters=7), ["ünïcödé", "12345678"]) == ["ünïcödé"]
    huge = "kilobytes of page text " * 5000
    assert apply(CaptionRules(), [huge, "fine"]) == ["fine"]
    assert len(apply(CaptionRules(long="cut"), [huge])[0]) <= 2000


def test_lower_case_comes_before_repeats_and_repeats_may_be_kept() -> None:
    assert apply(CaptionRules(lower_case=True), ["A Dog", "a dog", "ÄH"]) == ["a dog", "äh"]
    assert apply(CaptionRules(drop_repeats=False), ["a", "a"]) == ["a", "a"]
    with pytest.raises(ValueError, match="min_words 9 is more than max_words 3"):
        CaptionRules(min_words=9, max_words=3)


def test_images_without_captions_stay_unless_they_shall_not(tmp_path: Path) -> None:
    rows = [record("i", captions=["x"]), record("j"), record("k", captions=["\ufffd"])]
    assert len(built(tmp_path, rows)[1]) == 3
    report, found = built(tmp_path, rows, captions=CaptionRules(drop_uncaptioned=True))
    assert [one.image_id for one in found] == ["i"]
    assert {r.reason: r.count for r in report.rejections}["image without a caption"] == 2
    assert (report.sources[0].read, report.sources[0].left_out) == (3, 2)
    # A picture that lost its only caption here has one there.
    kept = [record("k", source="b", captions=["fine"])]
    _, found = built(tmp_path, rows, kept, captions=CaptionRules(drop_uncaptioned=True))
    assert {one.image_id: one.source for one in found} == {"i": "a", "k": "a"}


# ---- what does not matter, and what is wrong


def test_any_number_of_workers_writes_the_same_file(tmp_path: Path) -> None:
    sources = [Scenes(count=40, seed=1, size=64), Scenes(count=30, seed=2, size=64), Scenes(count=40, seed=1, size=64)]
    files, reports = set(), set()
    for workers in (1, 2, 3):
        out = tmp_path / f"{workers}.parquet"
        report = build(sources, str(out), workers=workers, guards=[listed(tmp_path, "coco:1")])
        assert len(report.manifest) == 70 and report.sources[0].merged == 40
        files.add(out.read_bytes())
        reports.add((tmp_path / f"{out.name}.report.json").read_text())
    assert len(files) == len(reports) == 1
    assert not multiprocessing.active_children()


def test_a_source_that_fails_in_a_worker_fails_the_build_and_finished_ones_are_kept(tmp_path: Path) -> None:
    from manifests.sources import Folder

    sources = [Scenes(count=3, seed=1, size=64), Folder(path=str(tmp_path / "nowhere"))]
    for workers in (1, 2):
        with pytest.raises(ValueError, match="nowhere does not exist"):
            build(sources, str(tmp_path / "m.parquet"), workers=workers)
        assert not (tmp_path / "m.parquet").exists()
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "x.jpg").write_bytes(b"x")
    assert len(build(sources, str(tmp_path / "m.parquet")).manifest) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.parquet", "m.parquet.report.json", "nowhere"]


def test_a_source_that_makes_no_proper_batch_is_named(tmp_path: Path) -> None:
    good = to_batch([record("i")])

    @dataclass(frozen=True)
    class Bad:
        batch: pa.RecordBatch
        name: str = "bad"

        def batches(self) -> Iterator[pa.RecordBatch]:
            yield self.batch

    ids = pa.array(["../../etc/passwd"], pa.string())
    for batch, said in (
        (good.drop_columns(["keys"]), "source bad: a batch has the columns"),
        (good.set_column(0, good.schema.field(0), ids), "source bad: image id '../../etc/passwd': expected"),
    ):
        with pytest.raises(ValueError, match=said):
            build([Bad(batch)], str(tmp_path / "m.parquet"))


def test_two_builds_of_one_manifest_at_a_time_are_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "m.parquet")

    class Building:
        name = "outer"

        def batches(self) -> Iterator[pa.RecordBatch]:
            with pytest.raises(ValueError, match="is being built by another process"):
                build([Listed((record("i"),), "a")], out)
            yield to_batch([record("o")])

    assert [one.image_id for one in build([Building()], out).manifest.records()] == ["o"]
