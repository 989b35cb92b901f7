"""What a caption may be, for all sources: folded, UTF-8, not empty, not a document. And why one is left out."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from manifests.record import fold
from manifests.sources.lines import not_utf8

#: More than any caption has; alternative texts of web pages now and then are whole documents.
CAPTION_BYTES = 10_000

EMPTY = "empty caption"
LONG = f"caption of more than {CAPTION_BYTES} bytes"
NOT_UTF8 = "caption is not UTF-8"

_RAW_BYTE = re.compile("[\udc80-\udcff]")
#: What `fold` would change, for RE2, whose \\s is ASCII.
_UNFOLDED = (
    r"^ | $|  |[\t\n\v\f\r\x1c-\x1f]"
    r"|[\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
)


def caption_of(text: str) -> tuple[str, str]:
    """The caption that ``text`` is and "", or "" and why it is none.

    Bytes that were not UTF-8 are known by the surrogates that they were read as.
    """
    if not text.isascii() and _RAW_BYTE.search(text):
        return "", NOT_UTF8
    folded = fold(text)
    if not folded:
        return "", EMPTY
    if len(folded) > CAPTION_BYTES or (len(folded) * 4 > CAPTION_BYTES and len(folded.encode()) > CAPTION_BYTES):
        return "", LONG
    return folded, ""


def captions_of(texts: pa.StringArray) -> tuple[pa.StringArray, dict[str, pa.BooleanArray]]:
    """The same for an array: captions, of which those in one of the masks by reason are not to be used.

    The bytes of the array need not be UTF-8; what is null is empty. Every row is in one mask at most.
    """
    refused: dict[str, pa.BooleanArray] = {}
    texts = texts.fill_null("")
    bad = not_utf8(texts)
    if bad is not None:
        refused[NOT_UTF8] = bad
        texts = pc.if_else(bad, "?", texts)
    unfolded = pc.match_substring_regex(texts, _UNFOLDED)
    if pc.any(unfolded).as_py():
        folded = [fold(text) for text in texts.filter(unfolded).to_pylist()]
        texts = pc.replace_with_mask(texts, unfolded, pa.array(folded, pa.string()))
    length = pc.binary_length(texts)
    for reason, mask in ((EMPTY, pc.equal(length, 0)), (LONG, pc.greater(length, CAPTION_BYTES))):
        if pc.any(mask).as_py():
            refused[reason] = mask
    return texts, refused
