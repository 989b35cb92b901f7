"""The official accuracy of VQA, and lists of answers to choose from.

An answer counts min(n / 3, 1), where n of nine people gave the same; the mean over the ten ways to leave one of the ten people
out. Answers are compared in a simple form: punctuation, articles and number words do not count. Source: VQA, arXiv:1505.00468,
section 3; the rules are those of the evaluation server (visualqa.org/evaluation.html).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = {"a", "an", "the"}
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_WITH_COMMA = re.compile(r"\d,\d")
_LONE_PERIOD = re.compile(r"\.(?!\d)")
#: Words in which a forgotten apostrophe is put in.
_SHORTENED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd
    how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't
    'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll
    they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've
    who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll
    you're you've
"""
_APOSTROPHES = {
    word[:place] + word[place + 1 :]: word
    for word in _SHORTENED.split()
    for place, letter in enumerate(word)
    if letter == "'"
}


def simple(answer: str) -> str:
    """The form in which answers are compared."""
    return _without_articles(_without_marks(_on_one_line(answer)))


def accuracy(answer: str, given: Sequence[str]) -> float:
    """0 to 1. ``given``: what people answered, ten of them in VQA. Raises ValueError where nobody did."""
    if not given:
        raise ValueError("a question without answers; expected those of the people who were asked, ten in VQA")
    truths, said = [_on_one_line(one) for one in given], _on_one_line(answer)
    # Where all agree, the server compares as it is written.
    if len(set(truths)) > 1:
        truths, said = [simple(one) for one in truths], simple(said)
    same = sum(truth == said for truth in truths)
    return sum(min((same - (truth == said)) / 3, 1.0) for truth in truths) / len(truths)


def agreed(given: Sequence[str]) -> str:
    """What most people answered, as most of them wrote it, in lower case. Raises ValueError where nobody did.

    Of equals the shorter, then the first in the alphabet.
    """
    if not given:
        raise ValueError("a question without answers; expected those of the people who were asked, ten in VQA")
    form = _foremost(Counter(simple(one) for one in given))
    return _foremost(Counter(_on_one_line(one).lower() for one in given if simple(one) == form))


def shares(given: Sequence[str]) -> dict[str, float]:
    """Each different answer and the share of people who gave it: what it weighs in training on VQA (after ALBEF, arXiv:2107.07651)."""
    return {answer: count / len(given) for answer, count in Counter(given).most_common()}


def answer_list(given: Iterable[Sequence[str]], *, most: int | None = None, at_least: int = 1) -> list[str]:
    """Answers to choose from: those agreed on for ``at_least`` questions, the ``most`` frequent of them, frequent ones first.

    given: for each question what people answered. For VQAv2, at_least=9 gives the usual list of some 3,129. Answers that are
    compared as one stand there once, as they are written most often. Raises ValueError where none is left.
    """
    spellings: dict[str, Counter[str]] = {}
    for each in given:
        answer = agreed(each)
        spellings.setdefault(simple(answer), Counter())[answer] += 1
    asked = sum(counts.total() for counts in spellings.values())
    often = {_foremost(counts): counts.total() for form, counts in spellings.items() if form}
    frequent = sorted((one for one in often if often[one] >= at_least), key=lambda one: (-often[one], len(one), one))
    if not frequent[:most]:
        raise ValueError(
            f"no answer stands for {at_least} of {asked} questions; expected questions with answers, or a smaller number"
        )
    return frequent[:most]


def _foremost(counts: Counter[str]) -> str:
    return min(counts, key=lambda one: (-counts[one], len(one), one))


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_marks(text: str) -> str:
    found = text
    for mark in _MARKS:
        beside_a_blank = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if beside_a_blank or _DIGITS_WITH_COMMA.search(text) else " ")
    return _LONE_PERIOD.sub("", found)


def _without_articles(text: str) -> str:
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)
