"""JSON in pieces: the same entries as the parser of the whole, whatever the window cuts; broken places are named."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import json_parts
from manifests.json_parts import parts

LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


def whole(where: str, **options: Any) -> Any:
    """The file's value put together again."""
    found: dict[str, Any] = {}
    for part in parts(where, expected="a test", **options):
        if part.first < 0:
            (found[part.key],) = part.values
        else:
            assert part.first == len(found.setdefault(part.key, []))
            found[part.key] += part.values
    return found.get("", found) if set(found) <= {""} else found


@settings(max_examples=50, deadline=None)
@given(
    content=st.lists(VALUE, max_size=8) | st.dictionaries(st.text(min_size=1), VALUE, max_size=4),
    indent=st.sampled_from([None, 1]),
)
def test_pieces_are_what_the_whole_is(
    tmp_path_factory: pytest.TempPathFactory, content: Any, indent: int | None
) -> None:
    file = tmp_path_factory.mktemp("json") / "x.json"
    file.write_text(
        json.dumps(content, indent=indent, ensure_ascii=len(str(content)) % 2 == 0),
        encoding="utf-8",
        errors="surrogatepass",
    )
    if content:
        assert whole(str(file)) == content


@pytest.mark.parametrize("window", [1, 7, 64])
def test_wherever_the_window_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(json_parts, "_WINDOW", window)
    monkeypatch.setattr(json_parts, "_MARGIN", 16)
    pick = random.Random(window)
    words = ["é", "}, {", '"', "\\", "\n", "a" * 300, "\U0001f600", "]"]
    entries = [
        {"caption": " ".join(pick.choices(words, k=5)), "n": pick.choice([1, -12.5e-3, 1e300, None, True])}
        for _ in range(60)
    ]
    content = {"info": {"x": [1, {}]}, "images": entries, "empty": [], "numbers": [12, 345, -6.5e-7, 8], "last": "x"}
    for ascii_only in (True, False):
        file = tmp_path / "x.json"
        file.write_text(json.dumps(content, ensure_ascii=ascii_only, indent=2), encoding="utf-8")
        assert whole(str(file), needed=("images", "empty")) == content
        file.write_text("\ufeff " + json.dumps(entries, ensure_ascii=ascii_only) + " \n", encoding="utf-8")
        assert whole(str(file), needed=("",)) == entries


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1, column 1 \(nothing in it\)"),
        ("7", r"line 1, column 1 \(neither a list nor an object\)"),
        ("[1, 2", r"line 1, column 6 \(expecting ',' or '\]'\); is it cut short\? expected a test"),
        ("[1 2]", r"line 1, column 4 \(expecting ','"),
        ("[1,\n 2,\n]", r"line 3, column 1 \(Expecting value\)"),
        ('[\n{"a": 1},\n{"a" 1}]', r"line 3, column 6 \(Expecting ':' delimiter\)"),
        ('["abc', r"line 1, column 2 \(Unterminated string"),
        ("{1: 2}", r"line 1, column 2 \(expecting a name"),
        ('{"a" 2}', r"line 1, column 6 \(expecting ':'\)"),
        ('{"a": 2', r"line 1, column 8 \(expecting ',' or '\}'\)"),
        ("[] []", r"line 1, column 4 \(more after the end\)"),
        ("[" * 100_000, r"brackets within brackets"),
    ],
)
def test_broken_json_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"x.json: broken JSON in .*{message}"):
        list(parts(str(file), expected="a test"))


def test_the_place_is_that_in_the_file_and_not_in_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_parts, "_WINDOW", 50)
    monkeypatch.setattr(json_parts, "_MARGIN", 20)
    good = ",\n".join('{"caption": "a b c d e f"}' for _ in range(100))
    file = tmp_path / "x.json"
    file.write_text(f'[{good},\n  {{"caption": oops}}]')
    with pytest.raises(ValueError, match=r"line 101, column 15 \(Expecting value\)"):
        list(parts(str(file), expected="a test"))
    file.write_text(f"[{good.replace(chr(10), ' ')}, oops]")
    with pytest.raises(ValueError, match=rf"line 1, column {1 + len(good) + 3} \("):
        list(parts(str(file), expected="a test"))


def test_what_is_needed_is_missed(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('{"images": {"a": 1}, "info": []}')
    with pytest.raises(ValueError, match="an object with images, info and no list 'images'; expected a test"):
        list(parts(str(file), expected="a test", needed=("images",)))
    with pytest.raises(ValueError, match="x.json: an object; expected a test"):
        list(parts(str(file), expected="a test", needed=("",)))
    file.write_text("[]")
    with pytest.raises(ValueError, match="a list and no list 'images'; expected a test"):
        list(parts(str(file), expected="a test", needed=("images",)))


def test_bytes_that_are_not_utf8_stay_in_their_text(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(b'["caf\xe9", "caf\xc3\xa9"]')
    assert whole(str(file)) == ["caf\udce9", "café"]


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_parts, "_WINDOW", 1 << 18)
    file = tmp_path / "x.json"
    entry = json.dumps({"url": "https://example.com/a.jpg", "caption": "word " * 20})
    file.write_text("[" + ",".join([entry] * 120_000) + "]")
    tracemalloc.start()
    try:
        assert sum(len(part.values) for part in parts(str(file), expected="a test")) == 120_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 15e6 and peak < 8e6
