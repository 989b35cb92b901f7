"""Pairs of URL and caption, as the web datasets are published: millions of rows, column by column.

Such a list says where pictures were, not where they are. With ``fetch`` its URLs become the records' addresses, and
photos are downloaded when they are labelled; without it nothing can be labelled, which is said once per batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2s
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.location import web_uri
from manifests.record import SCHEMA, Rejection, url_key
from manifests.sources.caption_text import captions_of
from manifests.sources.lines import not_utf8, printable
from manifests.sources.url_keys import keys_of_url

NOT_FETCHED = "only a URL: download with img2dataset and name its output by `source: img2dataset`, or say `fetch: true`"
NO_URL = "not an http or https URL"

_URL = r"(?i)^\s*https?://[^/\s]"
#: What `web_uri` leaves as it is, for certain.
_PLAIN = (
    r"^https?://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*(\?[A-Za-z0-9._~!$&'()*+,;=:@%/-]+)?$"
)
#: Where an address may tell more of a picture than where it is.
_ELSEWHERE = r"flickr|coco|VG_100K"
#: Of a column of lists of captions or keys.
TEXTS = SCHEMA.field("captions").type


class Pairs(NamedTuple):
    """Rows of a list. ``urls``, ``captions``: string arrays of one length, their bytes as in the file; or ``captions`` are
    lists (TEXTS), whose texts are sound. ``what``: names a row for the user. ``ids``: image ids, None and null where they are
    to be made from the URL."""

    urls: pa.StringArray
    captions: pa.Array
    what: Callable[[int], str]
    ids: pa.StringArray | None = None


class WebImages(NamedTuple):
    """What all records of a list have in common. ``prefix``: of their ids. ``order``: how the columns are to come."""

    name: str
    prefix: str
    fetch: bool
    order: str
    where: str
    split: str = ""
    license: str = ""


def web_batches(
    rows: Iterable[Pairs | pa.RecordBatch | Rejection], about: WebImages
) -> Iterator[pa.RecordBatch | Rejection]:
    """One record per row: id ``prefix_<12 digits of the URL's BLAKE2s>``, its URL as uri, and as keys what the URL says
    of the picture: COCO's and Visual Genome's are from Flickr, and so known by its number of them. What is no longer or not to
    become a record passes through.

    Raises ValueError where the first rows have URLs for captions.
    """
    checked = False
    for pairs in rows:
        if not isinstance(pairs, Pairs):
            yield pairs
            continue
        if not len(pairs.urls):
            continue
        if not checked:
            check_order(pairs.urls, pairs.captions, about)
            checked = True
        if not about.fetch:
            yield Rejection(about.name, pairs.what(0), NOT_FETCHED, len(pairs.urls))
            continue
        yield from _batch(pairs, about)


def looks_like_url(texts: pa.StringArray) -> pa.BooleanArray:
    """Which strings begin as an http or https URL does."""
    return pc.match_substring_regex(texts, _URL).fill_null(False)


def web_id(prefix: str, url: str) -> str:
    """The image id of the picture at ``url``: the same wherever a list of it lies."""
    return f"{prefix}_{blake2s(url.encode('utf-8', 'surrogateescape'), digest_size=6).hexdigest()}"


def check_order(urls: pa.StringArray, captions: pa.Array, about: WebImages) -> None:
    """Raises ValueError where the captions of most rows look like URLs, and the URLs do not."""
    if not pa.types.is_string(captions.type):
        return
    count = len(urls)
    right, wrong = looks_like_url(urls).true_count, looks_like_url(captions).true_count
    if wrong > count / 2 > right:
        raise ValueError(
            f"{about.where}: {wrong} of the first {count} rows have a URL for a caption; expected {about.order}"
        )


def constant(value: str, count: int) -> pa.StringArray:
    """An Arrow column of one value."""
    return pa.repeat(pa.scalar(value, pa.string()), count)


def one_each(texts: pa.StringArray) -> pa.ListArray:
    """A column of lists of one text each."""
    return pa.ListArray.from_arrays(pa.array(np.arange(len(texts) + 1, dtype=np.int32)), texts, type=TEXTS)


def _batch(pairs: Pairs, about: WebImages) -> Iterator[pa.RecordBatch | Rejection]:
    urls, captions, ids = pairs.urls.fill_null(""), pairs.captions, pairs.ids
    refused: dict[str, pa.BooleanArray] = {}
    if pa.types.is_string(captions.type):
        captions, refused = captions_of(captions)
    bad = not_utf8(urls)
    if bad is not None:
        urls = pc.if_else(bad, "", urls)
    urls = pc.utf8_trim_whitespace(urls)
    uris = _uris(urls)
    no_url = uris.is_null()
    if no_url.true_count:
        refused = {NO_URL: no_url, **refused}
    if refused:
        left = np.ones(len(urls), bool)
        for reason, mask in refused.items():
            for row in np.flatnonzero(mask.to_numpy(zero_copy_only=False) & left).tolist():
                left[row] = False
                yield Rejection(about.name, f"{pairs.what(row)}: {printable(pairs.urls[row])}", reason)
        urls, uris, captions = (column.filter(pa.array(left)) for column in (urls, uris, captions))
        ids = None if ids is None else ids.filter(pa.array(left))
    if len(urls):
        yield _records(urls, uris, captions, ids, about)


def _uris(urls: pa.StringArray) -> pa.StringArray:
    """What `web_uri` makes of each; null where it is no address."""
    odd = pc.invert(pc.match_substring_regex(urls, _PLAIN))
    if not odd.true_count:
        return urls
    encoded: list[str | None] = []
    for url in urls.filter(odd).to_pylist():
        try:
            encoded.append(web_uri(url))
        except ValueError:
            encoded.append(None)
    return pc.replace_with_mask(urls, odd, pa.array(encoded, pa.string()))


def _records(
    urls: pa.StringArray, uris: pa.StringArray, captions: pa.Array, ids: pa.StringArray | None, about: WebImages
) -> pa.RecordBatch:
    count = len(urls)
    texts = urls.to_pylist()
    if pc.any(pc.match_substring_regex(urls, _ELSEWHERE)).as_py():
        keys = pa.array([keys_of_url(url) for url in texts], TEXTS)
    else:
        keys = one_each(pa.array([url_key(url) for url in texts], pa.string()))
    made = pa.array([web_id(about.prefix, url) for url in texts], pa.string())
    columns = {
        "image_id": made if ids is None else pc.coalesce(ids.cast(pa.string()), made),
        "source": constant(about.name, count),
        "uri": uris,
        "width": pa.nulls(count, pa.int32()),
        "height": pa.nulls(count, pa.int32()),
        "captions": one_each(captions) if pa.types.is_string(captions.type) else captions,
        "split": constant(about.split, count),
        "license": constant(about.license, count),
        "keys": keys,
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)
