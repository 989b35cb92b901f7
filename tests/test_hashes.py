"""Hashes of Arrow columns: equal where values are, whatever the batch; different where they differ."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pyarrow as pa
import pytest

from pipeline import hashes as module
from pipeline.hashes import combined, hashes

LISTS = pa.list_(pa.string())


def values(count: int) -> list[str]:
    draw = random.Random(3)
    return ["".join(draw.choices("ab\0é", k=draw.randrange(0, 9))) for _ in range(count)]


@pytest.mark.parametrize("piece", [4, 64, 1 << 16])
@pytest.mark.parametrize("kind", ["text", "lists", "numbers"])
def test_equal_where_values_are(kind: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE", piece)
    monkeypatch.setattr(module, "_POWERS", module._POWERS[:piece])
    words = values(3000)
    column = {
        "text": pa.array(words),
        "lists": pa.array([words[n : n + len(words[n]) // 2] for n in range(len(words))], LISTS),
        "numbers": pa.array([None if "é" in word else len(word) - 2 for word in words], pa.int32()),
    }[kind]
    found = hashes(column).tolist()
    by_value: dict[str, int] = {}
    for value, number in zip(map(repr, column.to_pylist()), found, strict=True):
        assert by_value.setdefault(value, number) == number
    assert len(set(by_value.values())) == len(by_value), "no two values share one"
    assert hashes(column.slice(777, 1000)).tolist() == found[777:1777]
    assert hashes(column.slice(0, 0)).tolist() == [] and hashes(column.slice(5, 1)).tolist() == found[5:6]


def test_long_ones_and_empty_ones() -> None:
    long = ["x" * n for n in (65_535, 65_536, 65_537, 200_000)]
    texts = ["", "x", *long, "x" * 199_999 + "y", "y" + "x" * 199_999, "", "\0", "\0\0"]
    found = hashes(pa.array(texts)).tolist()
    assert found[0] == found[8] and len(set(found)) == len(texts) - 1
    assert [hashes(pa.array([text]))[0] for text in texts] == found
    assert hashes(pa.array([""] * 5)).tolist() == [found[0]] * 5


def test_where_a_list_is_cut_counts() -> None:
    lists = [[], [""], ["", ""], ["ab"], ["a", "b"], ["b", "a"], ["", "ab"], ["ab", ""]]
    assert len(set(hashes(pa.array(lists, LISTS)).tolist())) == len(lists)


def test_the_order_of_parts_counts() -> None:
    parts = [hashes(pa.array([word])) for word in ("a", "b", "c")]
    found = {int(combined(*order)[0]) for order in itertools.permutations(parts)}
    assert len(found) == 6


def test_they_are_spread() -> None:
    """Every bit is set in about half of them."""
    found = hashes(pa.array([f"image-{number:06d}" for number in range(20_000)]))
    shares = [((found >> np.uint64(bit)) & np.uint64(1)).mean() for bit in range(64)]
    assert min(shares) > 0.48 and max(shares) < 0.52


def test_the_same_on_every_machine() -> None:
    """As it was when this was written."""
    assert hashes(pa.array(["coco_000000391895"])).tolist() == [18258319021475265480]
