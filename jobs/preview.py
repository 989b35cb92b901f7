"""`expert-labels preview`: labels beside their photos, as one HTML page that needs no network and one PNG sheet."""

from __future__ import annotations

import base64
import html
import io
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import IO, Literal

from PIL import Image

from expert_zoo.card import ExpertCard
from expert_zoo.labels import Label, Picture
from pipeline.decode import Limits, PhotoError
from pipeline.paint import Image_HW3, contact_sheet, paint, paint_photo, picture_pixels, show_photo
from pipeline.photos import read_photo
from pipeline.reader import Sample

#: What can be said of one image and one expert: a Label's status, or that the store has none.
Answer = Literal["ok", "empty", "failed", "missing"]
ANSWERS: tuple[Answer, ...] = ("ok", "empty", "failed", "missing")

PAGE_HEIGHT, SHEET_HEIGHT = 288, 160
JPEG_QUALITY, PNG_LEVEL = 85, 1
_TEMPLATE = Path(__file__).with_name("preview.html")
_ROWS_HERE = "<!-- rows -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What was written. ``sheet`` is None where no image was shown; ``shown`` images of the ``read`` ones."""

    page: Path
    sheet: Path | None
    shown: int
    read: int


def write_preview(
    samples: Iterable[Sample],
    cards: Mapping[str, ExpertCard],
    out: Path,
    *,
    title: str,
    columns: Sequence[str] | None = None,
    status: Answer | None = None,
    limit: int | None = None,
    sheet_rows: int = 24,
    limits: Limits | None = None,
) -> Preview:
    """Write ``out`` (a folder: preview.html and preview.png in it; or a file ending in .html, the sheet beside it).

    One row an image: the photo (from an ``image`` column, else from where the record says), then ``columns`` (expert
    names in that order; default: all but the photo's). ``status``: only images with such an answer in one of the
    columns. ``limit``: stop after that many rows (at least 1). The sheet shows the first ``sheet_rows`` of them. Rows are written as
    they come, so memory does not grow with their number, and both files replace their predecessors only when whole.

    Raises ValueError for a column without a card.
    """
    chosen = list(columns) if columns is not None else [n for n, card in cards.items() if card.spec.kind != "image"]
    for name in chosen:
        if name not in cards:
            raise ValueError(f"no column {name!r} to preview; the store has {', '.join(cards) or 'none'}")
    page = out if out.suffix == ".html" else out / "preview.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    counts: dict[str, Counter[Answer]] = {name: Counter() for name in chosen}
    on_sheet: list[tuple[str, list[tuple[str, Image_HW3]]]] = []
    read = shown = 0
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n") as rows:
        for sample in samples:
            read += 1
            answers = {name: answer_of(sample.labels.get(name)) for name in chosen}
            for name, answer in answers.items():
                counts[name][answer] += 1
            if status is not None and status not in answers.values():
                continue
            shown += 1
            photo = _photo(sample, cards, limits or Limits())
            rows.write(_row(sample, answers, _pictures(sample, chosen, cards, photo, PAGE_HEIGHT)))
            if len(on_sheet) < sheet_rows:
                small = _pictures(sample, chosen, cards, photo, SHEET_HEIGHT)
                caption = "  ".join((sample.record.image_id, *sample.record.captions[:1]))
                on_sheet.append((caption, list(zip(("photo", *chosen), small, strict=True))))
            if shown == limit:
                break
        rows.seek(0)
        _write_page(
            page,
            rows,
            title=html.escape(title),
            summary=f"{shown} images shown, {read} read: labels by expert and status",
            counts=_counts(counts),
            heads="<th>photo</th>" + "".join(_head(cards[name]) for name in chosen),
        )
    sheet = page.with_suffix(".png") if on_sheet else None
    if sheet is not None:
        with _replacing(sheet) as file:
            file.write(_encoded(contact_sheet(on_sheet), "PNG"))
    return Preview(page=page, sheet=sheet, shown=shown, read=read)


def answer_of(label: Label | None) -> Answer:
    return "missing" if label is None else label.status


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """The photo under the labels, or why there is none, and the (height, width) of the upright original if known."""

    photo_HW3: Image_HW3 | None
    why_not: str
    size: tuple[int, int] | None


def _photo(sample: Sample, cards: Mapping[str, ExpertCard], limits: Limits) -> _Shown:
    # A photo from the store may be smaller than the one that boxes were found in: the sample knows the real size.
    size = (sample.height, sample.width) if sample.height is not None and sample.width is not None else None
    try:
        photo_HW3 = _stored_photo(sample, cards)
        if photo_HW3 is None:
            photo_HW3 = read_photo(sample.record, limits).pixels_HW3
    except PhotoError as error:
        return _Shown(None, str(error), size)
    height, width = photo_HW3.shape[:2]
    # Every column scales it again: once from millions of pixels is enough.
    shrink = min(1.0, 2 * PAGE_HEIGHT / height)
    small_HW3 = show_photo(photo_HW3, max(1, round(shrink * height)), max(1, round(shrink * width)))
    return _Shown(small_HW3, "", size or (height, width))


def _stored_photo(sample: Sample, cards: Mapping[str, ExpertCard]) -> Image_HW3 | None:
    for name, label in sample.labels.items():
        if name in cards and cards[name].spec.kind == "image" and isinstance(label.value, Picture):
            return picture_pixels(label.value)
    return None


def _pictures(
    sample: Sample, columns: Iterable[str], cards: Mapping[str, ExpertCard], shown: _Shown, height: int
) -> Iterator[Image_HW3]:
    """The photo, then one picture per column."""
    yield paint_photo(shown.photo_HW3, height=height, reason=shown.why_not, image_size=shown.size)
    for name in columns:
        yield paint(cards[name].spec, sample.labels.get(name), shown.photo_HW3, height=height, image_size=shown.size)


def _row(sample: Sample, answers: Mapping[str, Answer], pictures: Iterator[Image_HW3]) -> str:
    record = sample.record
    size = f"{sample.width} x {sample.height}" if sample.width is not None else "size unknown"
    notes = " · ".join(note for note in (record.source, record.split, size, record.license) if note)
    captions = "".join(f"<p>{html.escape(caption)}</p>" for caption in record.captions)
    cells = [
        f'<td class="about">{_button(next(pictures), record.image_id)}'
        f'<p class="name">{html.escape(record.image_id)}</p><p class="soft">{html.escape(notes)}</p>{captions}</td>'
    ]
    for name, answer in answers.items():
        label = sample.labels.get(name)
        reason = label.reason if label is not None else ""
        said = answer if not reason else f"{answer}: {reason}" if answer != "ok" else reason
        why = f'<p class="why">{html.escape(said)}</p>' if answer != "ok" or reason else ""
        alt = " · ".join(part for part in (name, record.image_id, said if why else "") if part)
        cells.append(
            f'<td class="{answer}"><span class="column">{html.escape(name)}</span>{_button(next(pictures), alt)}{why}</td>'
        )
    return f'<tr data-status="{" ".join(sorted(set(answers.values())))}">{"".join(cells)}</tr>\n'


def _button(picture_HW3: Image_HW3, alt: str) -> str:
    height, width = picture_HW3.shape[:2]
    image = f'<img src="{_data_uri(picture_HW3)}" width="{width}" height="{height}" alt="{html.escape(alt)}">'
    return f'<button type="button">{image}</button>'


def _head(card: ExpertCard) -> str:
    use = "" if card.commercial_use else ", no commercial use"
    random = ["random weights: the labels are noise"] if card.random_weights else []
    notes = (f"version {card.version}", card.summary, f"licence: {card.licence}{use}", *random)
    return f"<th>{html.escape(card.name)}{''.join(f'<small>{html.escape(note)}</small>' for note in notes)}</th>"


def _counts(counts: Mapping[str, Counter[Answer]]) -> str:
    lines = [f"<thead><tr><th>expert</th>{''.join(f'<th>{answer}</th>' for answer in ANSWERS)}</tr></thead>"]
    for name, counted in counts.items():
        lines.append(f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{counted[a]}</td>' for a in ANSWERS)}</tr>")
    return "".join(lines)


def _write_page(page: Path, rows: IO[str], **fields: str) -> None:
    """The template with its fields filled in and the rows, of any number, copied to their place."""
    before, after = Template(_TEMPLATE.read_text("utf-8")).substitute(fields, rows=_ROWS_HERE).split(_ROWS_HERE)
    with _replacing(page) as file, io.TextIOWrapper(file, "utf-8", newline="\n") as text:
        text.write(before)
        shutil.copyfileobj(rows, text)
        text.write(after)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` when all of it is written, and leaves nothing behind when not."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(beside).chmod(0o644)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _data_uri(picture_HW3: Image_HW3) -> str:
    """The picture as JPEG or PNG, whichever is smaller, for the ``src`` of an image."""
    png, jpeg = _encoded(picture_HW3, "PNG"), _encoded(picture_HW3, "JPEG")
    kind, data = ("png", png) if len(png) <= len(jpeg) else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encoded(picture_HW3: Image_HW3, kind: Literal["PNG", "JPEG"]) -> bytes:
    buffer = io.BytesIO()
    # Deflate's default level takes twice the time for pages that are 2 % smaller.
    Image.fromarray(picture_HW3).save(buffer, kind, quality=JPEG_QUALITY, compress_level=PNG_LEVEL)
    return buffer.getvalue()
