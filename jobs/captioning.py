"""Photos to captions: labelled by the experts that a trained model knows, then described by it; and a picture of all that."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from expert_zoo.labels import Words
from jobs.labelled_photos import choices_for, labelled, records_of
from manifests.location import replacing
from pipeline.lettering import wrapped, write
from pipeline.paint import Image_HW3, paint, paint_photo
from pipeline.photos import Limits, read_photo
from pipeline.reader import LabelReader, Sample

if TYPE_CHECKING:
    from jobs.asking import Say
    from trainer.ranks import DeviceName

#: Of a photo in the picture, and of a label beside it; pixels.
PHOTO_HEIGHT, LABEL_HEIGHT = 256, 126
_GAP, _LETTERS = 6, 17
_MARKS = ".,!?;:\"'"
_SAYING = {"says", "say", "saying", "reads", "read", "reading", "spells", "word", "words"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned:
    """``caption`` of the photo that was named ``photo``; ``labels``: status by modality."""

    photo: str
    caption: str
    labels: dict[str, str]


def caption(
    photos: Sequence[str],
    checkpoint: str,
    out: str,
    *,
    say: Say,
    job: str | None = None,
    weights: str | None = None,
    device: DeviceName = "auto",
) -> list[Captioned]:
    """Captions in the order of ``photos``; their picture is written to ``out``. Raises ExpertLabelsError."""
    import torch

    from jobs.asking import asking
    from trainer.evaluation.run import replies_of
    from trainer.evaluation.tasks import Captioning
    from trainer.trained import cards_of

    cards = cards_of(checkpoint)
    records = records_of(photos)
    choices = choices_for(cards, job=job, weights=weights)
    gpu = device != "cpu" and torch.cuda.is_available()
    with tempfile.TemporaryDirectory(prefix="expert-labels-") as folder:
        if choices:
            say(f"labelling {len(records)} photo(s): {', '.join(choice.name for choice in choices)}")
        store = labelled(records, choices, Path(folder), gpu=gpu)
        reader = LabelReader(store)
        samples = list(reader.samples())
        names = {modality: card.name for modality, card in cards.items()}
        silent = [
            modality
            for modality, name in names.items()
            if all(sample.labels[name].status == "failed" for sample in samples)
        ]
        with asking(checkpoint, store, say=say, device=device, weights=weights, silent=silent) as asked:
            replies = replies_of(asked.speaker, asked.photos, Captioning())
        read = {sample.record.image_id: _words(sample) for sample in samples}
        said = {reply.image_id: as_read(reply.text, read[reply.image_id]) for reply in replies}
        rows = [_row(sample, said[sample.record.image_id], names, reader) for sample in samples]
        reader.close()
    _write(rows, out)
    by_uri = {record.uri: photo for record, photo in zip(records, dict.fromkeys(photos), strict=True)}
    return [
        Captioned(
            photo=by_uri[sample.record.uri],
            caption=said[sample.record.image_id],
            labels={modality: sample.labels[name].status for modality, name in names.items()},
        )
        for sample in samples
    ]


def as_read(caption: str, words: Iterable[str]) -> str:
    """``caption`` with words that stand on something written as they stand there: a model of Prismer's knows no capitals.

    Only what follows "says", "reads" and the like, and was read on the photo: a stop sign stays one.
    """
    known = {word.lower(): word for text in words for word in text.split()}
    found, quoted = [], False
    for word in caption.split(" "):
        core = word.strip(_MARKS)
        quoted = quoted and core.lower() in known
        found.append(word.replace(core, known[core.lower()], 1) if quoted else word)
        quoted = quoted or core.lower() in _SAYING
    return " ".join(found)


def _words(sample: Sample) -> list[str]:
    """All that was read on the photo, by whatever experts."""
    values = [label.value for label in sample.labels.values()]
    return [text for value in values if isinstance(value, Words) for text in value.texts]


def _row(sample: Sample, text: str, names: Mapping[str, str], reader: LabelReader) -> Image_HW3:
    """The photo with its labels beside it, in two lines, and what was said of it below."""
    photo_HW3 = read_photo(sample.record, Limits()).pixels_HW3
    big = paint_photo(photo_HW3, height=PHOTO_HEIGHT)
    tiles = [
        (modality, paint(reader.cards[name].spec, sample.labels[name], photo_HW3, height=LABEL_HEIGHT))
        for modality, name in names.items()
    ]
    across = -(-len(tiles) // 2)
    step = (tiles[0][1].shape[1] if tiles else 0) + _GAP
    width = max(2 * _GAP + big.shape[1] + across * step, 420)
    lines = wrapped(text or "(nothing)", _LETTERS, width - 2 * _GAP)
    image = Image.new("RGB", (width, PHOTO_HEIGHT + 3 * _GAP + round(len(lines) * 1.3 * _LETTERS)), (255, 255, 255))
    image.paste(Image.fromarray(big), (_GAP, _GAP))
    for number, (_, tile) in enumerate(tiles):
        left = 2 * _GAP + big.shape[1] + number % across * step
        top = _GAP + number // across * (PHOTO_HEIGHT - LABEL_HEIGHT)
        image.paste(Image.fromarray(tile), (left, top))
    return _lettered(image, lines)


def _lettered(image: Image.Image, lines: Sequence[str]) -> Image_HW3:
    for number, line in enumerate(lines):
        top = PHOTO_HEIGHT + 1.5 * _GAP + number * 1.3 * _LETTERS
        write(image, (_GAP, top), line, _LETTERS)
    return np.asarray(image)


def _write(rows: Sequence[Image_HW3], out: str) -> None:
    sheet = np.full((sum(row.shape[0] for row in rows), max(row.shape[1] for row in rows), 3), 255, np.uint8)
    top = 0
    for row in rows:
        sheet[top : top + row.shape[0], : row.shape[1]] = row
        top += row.shape[0]
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG")
    with replacing(out) as file:
        file.write(buffer.getvalue())
