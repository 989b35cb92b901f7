"""ImageRecord: one image of a manifest; Rejection: one thing left out; and the Arrow schema that stores records."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

#: Ids become tar member names and file names, and WebDataset splits names at the first dot: no dots, no slashes.
ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("captions", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("license", pa.string(), nullable=False),
        pa.field("keys", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False),
    ]
)
#: A source's batch has at most this many rows, and `batched` ends one at about this many bytes of text.
BATCH_ROWS = 32_768
BATCH_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One image.

    ``image_id``: stable, unique in its manifest, matches ID_PATTERN. ``uri``: where the photo is (file://, s3://,
    scenes://, ...); percent-encoded ASCII where it is a URL. ``width``, ``height``: pixels as the source's own files
    state them, None where they do not. ``captions``: in the source's order, white space folded. ``split``: the source's
    own word (train, val, restval, ...), "" where it has none. ``license``: as stated by the source, "" where it is not.
    ``keys``: other names of the same picture, a kind and a value: ``coco:391895``, ``flickr:6273011878`` (the number of
    the photo), ``url:...`` (`url_key`), ``sha256:<64 hexadecimal digits>`` of the file. A manifest's build takes two
    records that share a key for one picture, and leaves pictures out by key.

    Raises ValueError on an id that could not be a file name.
    """

    image_id: str
    source: str
    uri: str
    width: int | None = None
    height: int | None = None
    captions: tuple[str, ...] = ()
    split: str = ""
    license: str = ""
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not ID_PATTERN.fullmatch(self.image_id):
            raise ValueError(
                f"image id {self.image_id!r} from {self.source!r}: expected 1 to 128 of A-Z a-z 0-9 _ - (a letter or digit "
                "first); make one with manifests.record.path_id"
            )


@dataclass(frozen=True, slots=True)
class Rejection:
    """One thing that a source left out: an image, a folder, a caption.

    ``what`` tells the user which; ``reason`` is a phrase from a small set, because reports count by it. ``count``: of
    things of one kind, where there are thousands; ``what`` is then the first of them.
    """

    source: str
    what: str
    reason: str
    count: int = 1


def path_id(path: str) -> str:
    """A stable, path-safe id for a relative path of any characters: a readable part, then 12 digits of its hash.

    Two different paths share an id with probability 2**-48 a pair; the manifest build reports such a pair as duplicates.
    """
    digest = hashlib.blake2s(path.encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9]+", "-", path.rsplit(".", 1)[0]).strip("-")[-48:].strip("-")
    return f"{readable}-{digest}" if readable else digest


def url_key(url: str) -> str:
    """The key of a picture by its address: "url:" and 16 digits of BLAKE2s of the URL.

    White space around it and the scheme do not count: http and https are one address. Two different addresses share a
    key with probability 2**-64 a pair.
    """
    bare = url.strip().removeprefix("http://").removeprefix("https://")
    return "url:" + hashlib.blake2s(bare.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


_FLICKR = re.compile(r"https?://(?:[\w-]+\.)*(?:static)?flickr\.com/\d+/(\d+)_")


def flickr_key(url: str) -> str | None:
    """``flickr:4385058960`` for http://static.flickr.com/2723/4385058960_b0f291553e.jpg; None for what is no such address.

    COCO, Visual Genome and SBU are photos from Flickr: by this number a photo that two of them have is known as one.
    """
    match = _FLICKR.match(url.strip())
    return f"flickr:{match[1]}" if match else None


def fold(text: str) -> str:
    """``text`` with every run of white space as one blank and none at the ends.

    Halves of surrogate pairs, which JSON allows and UTF-8 does not, become U+FFFD.
    """
    folded = " ".join(text.split())
    try:
        folded.encode("utf-8")
    except UnicodeEncodeError:
        folded = re.sub("[\ud800-\udfff]", "\ufffd", folded)
    return folded


def to_batch(records: Sequence[ImageRecord]) -> pa.RecordBatch:
    """The records as one Arrow batch of SCHEMA, in order."""
    columns = [pa.array([getattr(r, field.name) for r in records], field.type) for field in SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def batched(found: Iterable[ImageRecord | Rejection]) -> Iterator[pa.RecordBatch | Rejection]:
    """What a source has found one by one, as `Source.batches` hands it on: records in batches, rejections as they come.

    Records keep their order, and so do rejections; a rejection may come before records that were found before it.
    Memory: one batch.
    """
    pending: list[ImageRecord] = []
    size = 0
    for item in found:
        if isinstance(item, Rejection):
            yield item
            continue
        pending.append(item)
        size += len(item.uri) + sum(map(len, item.captions))
        if len(pending) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield to_batch(pending)
            pending, size = [], 0
    if pending:
        yield to_batch(pending)


def with_keys(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch as SCHEMA has it; one of a manifest of format 1, which knew no keys, gets empty ones."""
    columns = list(batch.columns)
    if len(columns) == len(SCHEMA) - 1:
        columns.append(pa.array([[]] * batch.num_rows, SCHEMA.field("keys").type))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def from_batch(batch: pa.RecordBatch) -> Iterator[ImageRecord]:
    """The rows of a batch of SCHEMA, or of one that lacks ``keys``, as records, in order."""
    for image_id, source, uri, width, height, captions, split, licence, keys in zip(
        *(column.to_pylist() for column in with_keys(batch).columns), strict=True
    ):
        yield ImageRecord(
            image_id=image_id,
            source=source,
            uri=uri,
            width=width,
            height=height,
            captions=tuple(captions),
            split=split,
            license=licence,
            keys=tuple(keys),
        )
