"""Addresses: parts of files in fragments, and web addresses as lists spell them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.location import Bytes, Cell, bytes_uri, cell_uri, encoded_uri, openable, split_part, web_uri

NAMES = [
    "plain.tar",
    "a#bytes=1-2.tar",
    "100% #1?.tar",
    "%23.tar",
    "ünï 名前.tar",
    "a&column=b.tar",
    "x#row=1&column=y",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_a_file_of_any_name(name: str) -> None:
    for uri, opened in (
        (Path("/a", name).as_uri(), f"/a/{name}"),
        (encoded_uri(f"memory://a/{name}"), f"memory://a/{name}"),
    ):
        assert split_part(uri) == (uri, None) and "#" not in uri
        for part, made in (
            (Bytes(1536, 20480), bytes_uri(uri, 1536, 20480)),
            (Cell(17, "image.bytes"), cell_uri(uri, 17, "image.bytes")),
        ):
            assert made.isascii() and split_part(made) == (uri, part)
            assert openable(split_part(made)[0]) == opened


@given(row=st.integers(0, 10**18 - 1), column=st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_any_column_comes_back(row: int, column: str) -> None:
    made = cell_uri("file:///a.parquet", row, column)
    assert made.isascii() and made.count("#") == 1
    assert split_part(made) == ("file:///a.parquet", Cell(row, column))


def test_the_form_of_a_part_is_fixed() -> None:
    assert bytes_uri("file:///a.tar", 0, 512) == "file:///a.tar#bytes=0-512"
    assert cell_uri("s3://b/p.parquet", 3, "image.bytes") == "s3://b/p.parquet#row=3&column=image.bytes"


@pytest.mark.parametrize(
    "part",
    ["bytes=", "bytes=5-4", "bytes=-1-4", "bytes=1-", "bytes=1-9e9", f"bytes=0-{10**18}", "row=1", "row=1&column="],
)
def test_a_part_that_says_nothing_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="expected #bytes=START-END"):
        split_part(f"file:///a.tar#{part}")


def test_what_is_no_part_belongs_to_the_name_and_the_web_has_no_parts() -> None:
    for uri in ("memory://a#1.jpg", "http://host/a.tar#bytes=0-4", "https://host/a#row=1&column=b", "scenes://1/2"):
        assert split_part(uri) == (uri, None)


@pytest.mark.parametrize(
    ("listed", "uri"),
    [
        ("http://host/a.jpg", "http://host/a.jpg"),
        (" https://Host:8080/a%20b.jpg?x=1&y=%C3%A9#top \n", "https://Host:8080/a%20b.jpg?x=1&y=%C3%A9"),
        ("http://host/a b é.jpg?q=ü", "http://host/a%20b%20%C3%A9.jpg?q=%C3%BC"),
        ("http://host", "http://host/"),
        ('HTTP://host/[1]|"<>.jpg', "http://host/%5B1%5D%7C%22%3C%3E.jpg"),
        ("http://bücher.example/a.jpg", "http://xn--bcher-kva.example/a.jpg"),
        ("http://[2001:db8::1]:80/a.jpg", "http://[2001:db8::1]:80/a.jpg"),
    ],
)
def test_web_addresses_as_lists_spell_them(listed: str, uri: str) -> None:
    assert web_uri(listed) == uri and web_uri(uri) == uri


@pytest.mark.parametrize(
    "listed",
    [
        "", "host/a.jpg", "ftp://host/a.jpg", "file:///etc/passwd", "http:///a.jpg", "http://user:secret@host/a.jpg",
        "http://user@host/a.jpg", "http://[::1/a.jpg", "http://host:port/a.jpg", "http://ho st/a.jpg", "http://host\0/a.jpg", "http://host%2f/a", "simplecache::http://host/a.jpg",
        f"http://{'ü' * 70}.example/a.jpg", "javascript:alert(1)", "data:image/png;base64,AAAA",
    ],
)  # fmt: skip
def test_what_is_no_address_of_a_picture_is_refused(listed: str) -> None:
    with pytest.raises(ValueError, match="is no address of a picture"):
        web_uri(listed)
