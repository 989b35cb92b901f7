"""From lines to words: order, cutting, and what an expert may do to a word's spelling."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from expert_zoo.labels import Words
from expert_zoo.ocr.words import Line, words_of


def line(text: str, x0: float, y0: float, x1: float, y1: float, score: float = 0.9) -> Line:
    """An upright line whose characters are all equally wide."""
    places = [(n + 0.5) / len(text) for n, char in enumerate(text) if not char.isspace()]
    return Line(
        corners_42=np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64),
        text=text,
        places_K=np.array(places),
        scores=[score] * len(text),
    )


def as_they_are(corners_42: NDArray[np.float64]) -> NDArray[np.float64]:
    return corners_42


def cut(*lines: Line, **options: Any) -> Words:
    label = words_of(lines, min_score=0.5, to_photo=as_they_are, **options)
    assert isinstance(label.value, Words)
    return label.value


def test_a_line_is_cut_at_its_spaces_and_its_ends_are_kept() -> None:
    found = cut(line("ab  cd e", 100, 10, 180, 30))
    assert found.texts == ("ab", "cd", "e")
    lefts, rights = found.polygons_N42[:, 0, 0], found.polygons_N42[:, 1, 0]
    assert lefts[0] == 100 and rights[-1] == 180
    assert (rights[:-1] <= lefts[1:]).all() and (lefts < rights).all()
    np.testing.assert_allclose(
        found.polygons_N42[1].mean(axis=0), (150, 20), atol=1.0
    )  # c and d: 40 to 60 of 80 pixels


def test_a_words_score_is_its_own_characters_mean() -> None:
    mixed = Line(
        corners_42=line("ab c", 0, 0, 40, 10).corners_42,
        text="ab c",
        places_K=np.array([0.125, 0.375, 0.875]),
        scores=[1.0, 0.5, 0.0, 0.6, 0.1],  # a space between, and one that stands beyond the text
    )
    np.testing.assert_allclose(cut(mixed).scores_N, [0.75, 0.6])


def test_words_below_the_threshold_are_left_out_and_none_is_empty() -> None:
    poor, good = line("poor", 0, 0, 40, 10, score=0.3), line("good", 50, 0, 90, 10)
    assert cut(poor, good).texts == ("good",)
    assert words_of([poor], min_score=0.5, to_photo=as_they_are).status == "empty"
    assert words_of([], min_score=0.5, to_photo=as_they_are).status == "empty"


def test_rows_run_down_and_words_across_either_way() -> None:
    page = (line("c d", 0, 40, 40, 60), line("B", 60, 2, 80, 22), line("a", 0, 0, 40, 20), line("F", 60, 41, 80, 61))
    assert cut(*page).texts == ("a", "B", "c", "d", "F")
    assert cut(*page, right_to_left=True).texts == ("B", "a", "F", "d", "c")
    assert cut(*page, spelling=str.lower).texts == ("a", "b", "c", "d", "f")


def test_corners_are_moved_to_the_photo() -> None:
    label = words_of([line("a", 10, 10, 20, 30)], min_score=0.5, to_photo=lambda corners_42: corners_42 * (2, 3))
    assert isinstance(label.value, Words)
    assert label.value.polygons_N42[0].tolist() == [[20, 30], [40, 30], [40, 90], [20, 90]]
