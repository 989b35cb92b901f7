"""The preview page: escaped, offline, filterable, and written a row at a time."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expert_zoo.card import ExpertCard
from expert_zoo.labels import DenseMap, Label, Picture, Text, instances
from expert_zoo.spec import LabelSpec
from jobs.preview import write_preview
from manifests.record import ImageRecord
from pipeline.reader import Sample

DEPTH = LabelSpec(kind="map", quantity="depth", dtype="uint16", channels=1, units="m", resample="bilinear")
EVIL = "<script>alert('x')</script> & \"quoted\" <img src=http://example.com/x.png onerror=alert(1)>"


def card(name: str, spec: LabelSpec, *, commercial_use: bool = True) -> ExpertCard:
    return ExpertCard(
        name=name, summary="Made up.", network="none", spec=spec, licence="Free <b>", commercial_use=commercial_use
    )


CARDS = {
    "image": card("image", LabelSpec(kind="image", quantity="photo")),
    "depth": card("depth", DEPTH, commercial_use=False),
    "caption": card("caption", LabelSpec(kind="text", quantity="caption")),
}


def photo_bytes(size: tuple[int, int] = (60, 80)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), (200, 30, 60), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def sample(name: str, depth: Label | None = None, caption: Label | None = None, text: str = "a dog") -> Sample:
    labels = {"image": Label.ok(Picture(photo_bytes(), "png"))}
    labels |= {key: label for key, label in (("depth", depth), ("caption", caption)) if label is not None}
    record = ImageRecord(image_id=name, source="made", uri="file:///nowhere.png", captions=(text,), license="CC0 <i>")
    return Sample(record, labels, 60, 80)


GOOD = Label.ok(DenseMap(np.linspace(1, 9, 60 * 80, dtype=np.float32).reshape(60, 80)))
SAMPLES = [
    sample("good", GOOD, Label.ok(Text("fine", -1.0))),
    sample("evil", Label.failed(f"broken: {EVIL}"), Label.ok(Text(EVIL, -1.0), note="cut off"), text=EVIL),
    sample("gone", Label.empty()),
]


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text of each row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: list[dict[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.append((tag, found))
        if tag == "tr" and "data-status" in found:
            self.rows.append({"status": found["data-status"], "text": ""})

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1]["text"] += data


@pytest.fixture
def page(tmp_path: Path) -> Page:
    preview = write_preview(iter(SAMPLES), CARDS, tmp_path, title="store <1> $rows")
    assert preview.page == tmp_path / "preview.html" and (preview.shown, preview.read) == (3, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preview.html", "preview.png"]
    return Page(preview.page.read_text("utf-8"))


def test_data_never_becomes_markup(page: Page) -> None:
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1 and "b" not in tags and "i" not in tags
    assert all(not key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert EVIL in page.rows[1]["text"] and f"failed: broken: {EVIL}" in page.rows[1]["text"]


def test_the_page_refers_to_nothing_outside_itself(page: Page) -> None:
    for tag, attributes in page.tags:
        assert attributes.get("src", "data:").startswith("data:") and "href" not in attributes, tag
        assert tag not in ("link", "iframe", "object", "embed")
    text = (Path(write_preview.__code__.co_filename).parent / "preview.html").read_text("utf-8")
    assert not re.search(r"https?://|url\(|@import|fetch\(|\$\{", text)


def test_rows_can_be_filtered_by_status_and_by_text(page: Page) -> None:
    assert [row["status"] for row in page.rows] == ["ok", "failed ok", "empty missing"]
    options = [attributes["value"] for tag, attributes in page.tags if tag == "option"]
    assert options == ["", "failed", "empty", "missing"]
    assert any(attributes.get("type") == "search" for _, attributes in page.tags)
    for row, name in zip(page.rows, ("good", "evil", "gone"), strict=True):
        assert name in row["text"]
    assert "cut off" in page.rows[1]["text"], "the note of a label that is ok"


def test_every_picture_decodes_and_the_photo_is_the_photo(page: Page) -> None:
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img" and "src" in attributes]
    assert len(sources) == 3 * 3
    pictures = [Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))) for source in sources]
    assert {picture.size for picture in pictures} == {(384, 288)}
    assert pictures[0].convert("RGB").getpixel((100, 100)) == (200, 30, 60)


def test_head_and_counts_name_each_expert(tmp_path: Path) -> None:
    text = write_preview(iter(SAMPLES), CARDS, tmp_path, title="store").page.read_text("utf-8")
    head = text[text.index('<table class="rows">') : text.index("<tbody>", text.index('<table class="rows">'))]
    assert CARDS["depth"].version in head and "Free &lt;b&gt;, no commercial use" in head
    assert "<tr><td>depth</td><td>1</td><td>1</td><td>1</td><td>0</td></tr>" in text  # ok, empty, failed, missing
    assert "<tr><td>caption</td><td>2</td><td>0</td><td>0</td><td>1</td></tr>" in text


def test_the_sheet_has_the_first_rows(tmp_path: Path) -> None:
    one = write_preview(iter(SAMPLES), CARDS, tmp_path / "one.html", title="s", sheet_rows=1)
    all_rows = write_preview(iter(SAMPLES), CARDS, tmp_path / "all.html", title="s")
    assert one.sheet == tmp_path / "one.png" and all_rows.sheet is not None
    small, large = Image.open(one.sheet), Image.open(all_rows.sheet)
    assert small.width == large.width and large.height > 2.5 * small.height
    assert small.convert("RGB").getpixel((30, 60)) == (200, 30, 60)


def test_columns_status_and_limit_choose_what_is_shown(tmp_path: Path) -> None:
    failed = write_preview(iter(SAMPLES), CARDS, tmp_path / "f.html", title="s", status="failed")
    assert (failed.shown, failed.read) == (1, 3)
    missing = write_preview(iter(SAMPLES), CARDS, tmp_path / "m.html", title="s", status="missing", columns=["depth"])
    assert (missing.shown, missing.sheet) == (0, None) and "no commercial use" in missing.page.read_text("utf-8")
    columns = write_preview(iter(SAMPLES), CARDS, tmp_path / "c.html", title="s", columns=["caption"], limit=2)
    assert (columns.shown, columns.read) == (2, 2) and "version " + CARDS[
        "depth"
    ].version not in columns.page.read_text()
    with pytest.raises(ValueError, match="no column 'depht'"):
        write_preview(iter(SAMPLES), CARDS, tmp_path, title="s", columns=["depht"])


def test_no_more_samples_are_read_than_shown(tmp_path: Path) -> None:
    def endless() -> Iterator[Sample]:
        while True:
            yield SAMPLES[0]

    assert write_preview(endless(), CARDS, tmp_path, title="s", limit=3).read == 3


def test_a_photo_that_cannot_be_read_is_a_tile(tmp_path: Path) -> None:
    record = ImageRecord(image_id="lost", source="made", uri=(tmp_path / "no.jpg").as_uri())
    preview = write_preview(
        [Sample(record, {"depth": GOOD}, None, None)], CARDS, tmp_path, title="s", columns=["depth"]
    )
    assert preview.shown == 1 and preview.sheet is not None


def test_a_photo_without_image_column_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(photo_bytes())
    record = ImageRecord(image_id="p", source="made", uri=(tmp_path / "p.png").as_uri())
    preview = write_preview([Sample(record, {"depth": GOOD}, 60, 80)], CARDS, tmp_path, title="s", columns=["depth"])
    assert preview.sheet is not None
    assert Image.open(preview.sheet).convert("RGB").getpixel((30, 60)) == (200, 30, 60)


def test_boxes_over_a_large_photo_of_no_stated_size_are_in_its_own_pixels(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(photo_bytes((2000, 4000)))
    record = ImageRecord(image_id="large", source="made", uri=(tmp_path / "large.png").as_uri())
    cards = {"objects": card("objects", LabelSpec(kind="instances", quantity="objects", class_names=("a",)))}
    label = instances([[2000, 1000, 4000, 2000]], [0.9], [0])
    sheet = write_preview([Sample(record, {"objects": label}, None, None)], cards, tmp_path, title="s").sheet
    assert sheet is not None
    pixels = np.asarray(Image.open(sheet).convert("RGB"))[25:185, 332:652]  # the second column
    drawn = (pixels != (200, 30, 60)).any(axis=2)
    assert not drawn[:50].any() and drawn[159, 160:].all() and not drawn[120:159, :158].any()


def test_an_interrupted_preview_leaves_the_old_page_and_no_litter(tmp_path: Path) -> None:
    write_preview(iter(SAMPLES), CARDS, tmp_path, title="old")

    def broken() -> Iterator[Sample]:
        yield SAMPLES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_preview(broken(), CARDS, tmp_path, title="new")
    assert "<h1>old</h1>" in (tmp_path / "preview.html").read_text("utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preview.html", "preview.png"]
