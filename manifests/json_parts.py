"""Large JSON files read in pieces: a list, or an object of lists, whose entries are parsed some thousands at a time.

The files of datasets are one JSON value of up to gigabytes. Parsed whole they take several times their size of memory;
here the standard library's parser is given one entry after the other from a window of a few megabytes.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, NoReturn

from manifests.location import open_binary

#: Entries that are handed on at once, at most.
ENTRIES = 4096
_WINDOW = 4 << 20
#: An entry that begins nearer to the end of the window waits for the next piece of the file.
_MARGIN = 1 << 16
_LARGEST_ENTRY = 256 << 20
_BLANK = re.compile(r"[ \t\n\r]*")


class Part(NamedTuple):
    """Some of the entries of a list: those of ``key`` ("" where the file itself is the list) from number ``first`` on.

    A member of the object that is no list is a part by itself with ``first`` -1 and one value. Every list begins with a
    part, if with an empty one.
    """

    key: str
    first: int
    values: list[Any]


def parts(where: str, *, expected: str, needed: tuple[str, ...] = ()) -> Iterator[Part]:
    """The entries of the JSON file at a path or URL, in its order. Memory: a few megabytes, or the largest entry.

    ``needed``: the lists that the object must have, ("",) for a file that is a list itself; () takes both. Bytes that are not UTF-8 become
    halves of surrogate pairs, as those of file names do, so that only the text that has them is lost.

    Raises ValueError, naming line and column, where the JSON is broken, and where it is or has not what is ``needed``;
    ``expected`` says in words what the file should be. What comes before a broken place has then been handed on.
    """
    with open_binary(where) as stream:
        window = _Window(stream, where, expected)
        opening = window.next_character()
        if opening not in ("[", "{"):
            window.fail("neither a list nor an object" if opening else "nothing in it")
        if needed and (opening == "[") != (needed == ("",)):
            what = "an object" if opening == "{" else f"a list and no list {needed[0]!r}"
            raise ValueError(f"{where}: {what}; expected {expected}")
        members: list[str] = []
        lists: set[str] = set()
        for part in _list(window, "") if opening == "[" else _members(window):
            if not members or members[-1] != part.key:
                members.append(part.key)
            if part.first >= 0:
                lists.add(part.key)
            yield part
        if window.next_character():
            window.fail("more after the end")
    for key in needed:
        if key not in lists:
            found = ", ".join(members) or "nothing in it"
            raise ValueError(f"{where}: an object with {found} and no list {key!r}; expected {expected}")


def _members(window: _Window) -> Iterator[Part]:
    window.at += 1
    if window.next_character() == "}":
        window.at += 1
        return
    while True:
        if window.next_character() != '"':
            window.fail("expecting a name in double quotes")
        key = window.value()
        if window.next_character() != ":":
            window.fail("expecting ':'")
        window.at += 1
        if window.next_character() == "[":
            yield from _list(window, key)
        else:
            yield Part(key, -1, [window.value()])
        if window.ends("}"):
            return


def _list(window: _Window, key: str) -> Iterator[Part]:
    window.at += 1
    first = 0
    values: list[Any] = []
    if window.next_character() == "]":
        window.at += 1
        yield Part(key, 0, [])
        return
    while True:
        values.append(window.value())
        over = window.ends("]")
        if over or len(values) == ENTRIES:
            yield Part(key, first, values)
            first += len(values)
            values = []
        if over:
            return


class _Window:
    """The piece of the file that is in memory; ``at`` is where in it reading has come."""

    def __init__(self, stream: BinaryIO, where: str, expected: str) -> None:
        self._stream = stream
        self._where = where
        self._expected = expected
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._decode = json.JSONDecoder().raw_decode
        self._lines = 0  # ended before the window
        self._column = 0  # characters of the window's first line that were before it
        self._over = False
        self._text = ""
        self.at = 0
        while not self._text and not self._over:
            self._more()
        if self._text.startswith("\ufeff"):
            self.at = 1

    def next_character(self) -> str:
        """The next one that is no white space, which ``at`` then points to; "" at the end of the file."""
        while True:
            blank = _BLANK.match(self._text, self.at)
            assert blank is not None
            self.at = blank.end()
            if self.at < len(self._text):
                return self._text[self.at]
            if self._over:
                return ""
            self._more()

    def value(self) -> Any:
        """The value that begins at the next character."""
        if len(self._text) - self.at < _MARGIN and not self._over:
            self._more()
        self.next_character()
        while True:
            try:
                found, end = self._decode(self._text, self.at)
            except json.JSONDecodeError as error:
                # A value that is cut off by the window fails at its end, or where its last string begins.
                cut_off = error.pos > len(self._text) - _MARGIN or error.msg.startswith("Unterminated")
                if self._over or not cut_off:
                    self.fail(error.msg, at=error.pos)
            except RecursionError:
                self.fail("brackets within brackets without end")
            else:
                if self._over or end < len(self._text) - 4:  # "12" may be the beginning of 12.5e-3
                    self.at = end
                    return found
            if len(self._text) - self.at > _LARGEST_ENTRY:
                self.fail(f"an entry of more than {_LARGEST_ENTRY >> 20} MiB")
            self._more()

    def ends(self, bracket: str) -> bool:
        """Whether the closing bracket comes next; after a comma it does not."""
        found = self._text[self.at : self.at + 1]
        if found not in (",", bracket) or not found:
            found = self.next_character()
        if found not in (",", bracket) or not found:
            self.fail(f"expecting ',' or '{bracket}'")
        self.at += 1
        return found == bracket

    def _more(self) -> None:
        """Forget what was read, and read on: as much again as there is left of an entry that is large."""
        ended = self._text.count("\n", 0, self.at)
        self._column = self.at - self._text.rfind("\n", 0, self.at) - 1 if ended else self._column + self.at
        self._lines += ended
        left = self._text[self.at :]
        data = self._stream.read(max(_WINDOW, len(left)))
        self._over = not data
        self._text = left + self._decoder.decode(data, final=self._over)
        self.at = 0

    def fail(self, message: str, *, at: int | None = None) -> NoReturn:
        at = self.at if at is None else at
        ended = self._text.count("\n", 0, at)
        column = at - self._text.rfind("\n", 0, at) if ended else self._column + at + 1
        raise ValueError(
            f"{self._where}: broken JSON in line {self._lines + ended + 1}, column {column} ({message}); is it cut short? "
            f"expected {self._expected}"
        )
