"""Names of pictures (ids and keys) as 64-bit numbers, which can be sorted and compared by the million."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

#: One name of one row: what a build joins records and guards by.
NAME = np.dtype([("name", "<u8"), ("row", "<u4")])

_DIGIT = np.full(256, 255, np.uint8)
_DIGIT[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_URL, _URL_LENGTH = np.frombuffer(b"url:", np.uint8), 20


def order_key(seed: int, image_id: str) -> bytes:
    """The 8 bytes whose order is the order of a manifest: BLAKE2b-64 of the id, keyed with the seed (uint64, little-endian)."""
    return hashlib.blake2b(image_id.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()


def order_keys(seed: int, image_ids: pa.Array) -> np.ndarray:
    """`order_key` of each id as uint64 (N,), whose order is the order of the bytes."""
    blake2b, key = hashlib.blake2b, seed.to_bytes(8, "little")
    digests = [blake2b(text, digest_size=8, key=key).digest() for text in image_ids.cast(pa.binary()).to_pylist()]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def name_numbers(keys: pa.Array) -> np.ndarray:
    """Keys (text) as uint64 (N,): of a `url_key` the number that it writes out, of all others their BLAKE2b-64."""
    numbers = np.zeros(len(keys), np.uint64)
    if not len(keys):
        return numbers
    offsets = np.frombuffer(keys.buffers()[1], np.int32)[keys.offset : keys.offset + len(keys) + 1]
    data = np.frombuffer(keys.buffers()[2] or b"", np.uint8)
    lengths = np.diff(offsets)
    rows = np.flatnonzero(lengths == _URL_LENGTH)
    letters = data[offsets[rows, None] + np.arange(_URL_LENGTH)] if len(rows) else np.zeros((0, _URL_LENGTH), np.uint8)
    digits = _DIGIT[letters[:, 4:]]
    plain = (letters[:, :4] == _URL).all(1) & (digits < 16).all(1)
    octets = (digits[plain, 0::2] << 4) | digits[plain, 1::2]
    numbers[rows[plain]] = np.ascontiguousarray(octets).view(">u8").ravel()
    others = np.ones(len(keys), bool)
    others[rows[plain]] = False
    texts = keys.filter(pa.array(others)).cast(pa.binary()).to_pylist()
    digests = b"".join([hashlib.blake2b(text, digest_size=8).digest() for text in texts])
    numbers[others] = np.frombuffer(digests, ">u8")
    return numbers
