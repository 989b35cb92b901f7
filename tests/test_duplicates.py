"""Duplicates by content: equal files, the same photo in another size, placeholders, files that are gone."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from manifests.build import build
from manifests.duplicates import Duplicates, Seen
from manifests.joining import near_pairs
from manifests.location import bytes_uri
from manifests.manifest import Manifest
from manifests.scenes import render_uri, scene_uri
from manifests.sources import Folder, Scenes
from pipeline.content import LookAtFiles, perceptual_hash
from pipeline.limits import Limits
from tests.test_build import Listed, built, record


@dataclass
class Counting:
    """Looks at files, and remembers at which."""

    looked: list[str] = field(default_factory=list)

    def __call__(self, uris: Sequence[str], near: bool) -> list[Seen]:
        self.looked += uris
        return LookAtFiles(Limits())(uris, near)


def photo(number: int) -> np.ndarray:
    return render_uri(scene_uri(77, number, 200)).photo_HW3


def jpeg(pixels: np.ndarray, quality: int = 92) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def folder_of(folder: Path, files: dict[str, bytes]) -> Folder:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        (folder / name).with_suffix(".txt").write_text(f"{name}\n")
    return Folder(path=str(folder))


def captions(manifest: Manifest) -> set[tuple[str, ...]]:
    return {one.captions for one in manifest.records()}


def test_equal_files_become_one_record_with_the_captions_of_all(tmp_path: Path) -> None:
    one, other = jpeg(photo(0)), jpeg(photo(1))
    source = folder_of(tmp_path / "photos", {"a.jpg": one, "b.jpg": other, "deep/c.jpg": one})
    rules = Duplicates(content=True)
    report = build([source], str(tmp_path / "m.parquet"), duplicates=rules, look=LookAtFiles(Limits()))
    assert captions(report.manifest) == {("a.jpg", "deep/c.jpg"), ("b.jpg",)}
    assert report.sources[0].merged == 1
    for found in report.manifest.records():
        file = one if "a.jpg" in found.captions else other
        assert found.keys == (f"sha256:{hashlib.sha256(file).hexdigest()}",)
    assert len(build([source], str(tmp_path / "m.parquet")).manifest) == 3, "unless it is asked for nothing is read"


def test_what_a_source_says_of_its_files_counts_and_they_are_not_read(tmp_path: Path) -> None:
    data = jpeg(photo(0))
    known = f"sha256:{hashlib.sha256(data).hexdigest()}"
    source = folder_of(tmp_path / "photos", {"a.jpg": data})
    (mine,) = build([source], str(tmp_path / "x.parquet")).manifest.records()
    rows = [mine, record("there", keys=[known], uri="file:///nowhere.jpg")]
    look = Counting()
    _, (found,) = built(tmp_path, rows, duplicates=Duplicates(content=True), look=look)
    assert look.looked == [mine.uri] and found.uri == mine.uri and found.keys == (known,)
    # Without looking, two sources' own hashes are keys like others.
    report, (found,) = built(tmp_path, rows[1:], [record("again", source="b", keys=[known])])
    assert found.image_id == "there" and report.sources[1].merged == 1


def test_a_photo_in_another_size_or_compression_is_near_and_another_photo_is_not(tmp_path: Path) -> None:
    photos = {f"{n}.jpg": jpeg(photo(n)) for n in range(6)}
    half = cv2.resize(photo(0), (100, 100), interpolation=cv2.INTER_AREA)
    source = folder_of(
        tmp_path / "photos",
        photos | {"half.jpg": jpeg(half), "poor.jpg": jpeg(photo(0), 20), "broken.jpg": b"no photo"},
    )
    results = {}
    for near in (None, 4):
        rules = Duplicates(content=True, near=near)
        report = build([source], str(tmp_path / "m.parquet"), duplicates=rules, look=LookAtFiles(Limits()), workers=1)
        results[near] = captions(report.manifest)
    assert len(results[None]) == 9
    assert ("0.jpg", "half.jpg", "poor.jpg") in results[4] and len(results[4]) == 7
    assert ("broken.jpg",) in results[4], "what cannot be decoded is for labelling to say"


def test_a_content_that_many_have_is_a_placeholder(tmp_path: Path) -> None:
    gone = jpeg(photo(9))
    source = folder_of(tmp_path / "photos", {"a.jpg": jpeg(photo(0)), **{f"gone/{n}.jpg": gone for n in range(6)}})
    look = LookAtFiles(Limits())
    rules = Duplicates(content=True, most=5)
    report = build([source], str(tmp_path / "m.parquet"), duplicates=rules, look=look)
    assert captions(report.manifest) == {("a.jpg",)}
    (rejection,) = report.rejections
    assert rejection.count == 6 and rejection.reason == "a placeholder: more than 5 pictures have this content"
    assert (report.sources[0].left_out, report.sources[0].merged) == (6, 0)
    for most in (6, None):
        rules = Duplicates(content=True, most=most)
        report = build([source], str(tmp_path / "m.parquet"), duplicates=rules, look=look)
        assert len(report.manifest) == 2 and report.sources[0].merged == 5
    # One picture with a row for each caption is no placeholder, however many rows those are.
    uri = (tmp_path / "photos" / "a.jpg").as_uri()
    rows = [record("a", captions=[f"caption {n}"], uri=uri) for n in range(9)]
    _, (found,) = built(tmp_path, rows, duplicates=Duplicates(content=True, most=5), look=look)
    assert len(found.captions) == 9


def test_files_that_cannot_be_read_are_left_out_with_the_reason_and_their_copies_stay(tmp_path: Path) -> None:
    uri = folder_of(tmp_path / "photos", {"a.jpg": jpeg(photo(0))}).path + "/a.jpg"
    there = Path(uri).as_uri()
    rows = [
        record("gone", uri="file:///nowhere/x.jpg"),
        record("vg_1", captions=["of the lost copy"], keys=["coco:1"], uri="file:///nowhere/1.jpg"),
        record("cut", uri=bytes_uri(there, 5, 10**7)),
    ]
    copy = record("coco_1", source="b", captions=["of the copy"], keys=["coco:1"], uri=there)
    options = {"duplicates": Duplicates(content=True), "look": LookAtFiles(Limits())}
    report, (found,) = built(tmp_path, rows, [copy], **options)
    assert (found.image_id, found.captions) == ("coco_1", ("of the copy",))
    (rejection,) = report.rejections
    assert (rejection.reason, rejection.count) == ("file cannot be read: missing", 3)
    assert rejection.examples == ("cut", "gone", "vg_1")


def test_pictures_that_are_rendered_or_on_the_web_are_not_looked_at(tmp_path: Path) -> None:
    look = Counting()
    rows = [record("w", uri="https://example.org/x.jpg")]
    report = build(
        [Scenes(count=2, seed=1, size=64), Listed(tuple(rows), "a")],
        str(tmp_path / "m.parquet"),
        duplicates=Duplicates(content=True, near=2),
        look=look,
    )
    assert len(report.manifest) == 3 and look.looked == []


def test_what_was_seen_is_kept_and_a_changed_file_is_looked_at_again(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "photos", {f"{n}.jpg": jpeg(photo(n)) for n in range(4)})

    def looked(rules: Duplicates, folder: Folder = source) -> list[str]:
        look = Counting()
        build([folder], str(tmp_path / "m.parquet"), duplicates=rules, look=look)
        return sorted(uri.rpartition("/")[2] for uri in look.looked)

    assert len(looked(Duplicates(content=True))) == 4
    assert looked(Duplicates(content=True)) == []
    assert len(looked(Duplicates(content=True, near=3))) == 4, "a perceptual hash needs another look"
    assert looked(Duplicates(content=True, near=1)) == looked(Duplicates(content=True)) == []
    changed = tmp_path / "photos" / "2.jpg"
    changed.write_bytes(jpeg(photo(8)))
    assert looked(Duplicates(content=True)) == ["2.jpg"]
    data = changed.read_bytes()
    os.utime(changed, ns=(1, 1))
    assert looked(Duplicates(content=True)) == ["2.jpg"] and changed.read_bytes() == data
    (tmp_path / "m.parquet.seen.sqlite").write_bytes(b"something else, of more than a hundred bytes" * 9)
    with pytest.raises(ValueError, match="m.parquet.seen.sqlite: .*: delete it"):
        looked(Duplicates(content=True))


def test_a_look_that_fails_half_way_keeps_what_it_saw(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "photos", {f"{n}.jpg": jpeg(photo(n)) for n in range(8)})

    @dataclass
    class Failing(Counting):
        def __call__(self, uris: Sequence[str], near: bool) -> list[Seen]:
            if len(self.looked) >= 4:
                raise KeyboardInterrupt
            return super().__call__(uris, near)

    first, second = Failing(), Counting()
    rules = Duplicates(content=True)
    with pytest.raises(KeyboardInterrupt):
        build([source], str(tmp_path / "m.parquet"), duplicates=rules, look=first)
    build([source], str(tmp_path / "m.parquet"), duplicates=rules, look=second)
    assert len(first.looked) >= 4 and set(first.looked) | set(second.looked) == {
        (tmp_path / "photos" / f"{n}.jpg").as_uri() for n in range(8)
    }
    assert not set(first.looked) & set(second.looked)


def test_workers_look_as_one_does(tmp_path: Path) -> None:
    files = {f"{n}.jpg": jpeg(photo(n % 5), 92 - n % 2) for n in range(20)}
    source = folder_of(tmp_path / "photos", files)
    rules = Duplicates(content=True, near=4, most=None)
    written = set()
    for workers in (1, 2):
        out = tmp_path / f"{workers}.parquet"
        report = build([source], str(out), duplicates=rules, look=LookAtFiles(Limits()), workers=workers)
        assert len(report.manifest) == 5
        written.add(out.read_bytes())
    assert len(written) == 1


# ---- perceptual hashes


def test_a_perceptual_hash_is_the_documented_one() -> None:
    """Computed a second time, from the definition of the discrete cosine transform."""
    pixels_HW3 = photo(3)
    small = cv2.resize(cv2.cvtColor(pixels_HW3, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    waves = np.cos(np.pi / 32 * (np.arange(32) + 0.5)[None] * np.arange(1, 9)[:, None])
    low = waves @ small.astype(np.float64) @ waves.T
    bits = "".join(str(int(value > 0)) for value in low.ravel())
    assert perceptual_hash(pixels_HW3) == f"{int(bits, 2):016x}"
    assert perceptual_hash(np.full((50, 60, 3), 200, np.uint8)) == ""


@pytest.mark.parametrize("distance", [0, 1, 3, 8])
def test_near_pairs_are_all_pairs_that_differ_in_at_most_so_many_bits(distance: int) -> None:
    rng = np.random.default_rng(distance)
    centres = rng.integers(0, 2**63, 40, dtype=np.uint64)
    noise = np.array(
        [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 6), replace=False)) for _ in range(400)], np.uint64
    )
    hashes = np.unique(np.concatenate([centres, rng.choice(centres, 400) ^ noise]))
    one, other = near_pairs(hashes, distance)
    found = {tuple(sorted(pair)) for pair in zip(one.tolist(), other.tolist(), strict=True)}
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    wanted = {(a, b) for a, b in zip(*np.nonzero(apart <= distance), strict=True) if a < b}
    assert found == wanted and (distance == 0 or len(wanted) > 10)
