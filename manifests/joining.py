"""Which rows are one picture: rows that share an id or a key, or that are near in content, however many steps apart.

Names come as 64-bit numbers in buckets on disk; a bucket is sorted, equal neighbours are edges, and a picture is a connected
component of the graph of edges. A picture is known by its first row, in the order of the sources and of their files.

Memory: one bucket of names, and 16 bytes for each edge, so what counts is how many rows are repeats. Two different names
are taken for one with probability 2**-64 a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from manifests.buckets import BUCKETS


@dataclass(frozen=True, slots=True)
class Names:
    """Names of rows: ``name`` uint64 (N,), ``row`` int64 (N,) counted over all sources."""

    name: np.ndarray
    row: np.ndarray

    def sorted(self) -> Names:
        order = np.lexsort((self.row, self.name))
        return Names(self.name[order], self.row[order])

    @staticmethod
    def of_all(names: Iterable[Names]) -> Names:
        found = list(names)
        if not found:
            return Names(np.empty(0, np.uint64), np.empty(0, np.int64))
        return Names(np.concatenate([n.name for n in found]), np.concatenate([n.row for n in found]))


class Pictures:
    """Rows put together: a union of sets in which each row is alone until an edge says otherwise."""

    def __init__(self) -> None:
        self._edges: list[np.ndarray] = []
        self._rows = np.empty(0, np.int64)
        self._roots = np.empty(0, np.int64)

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Row ``first[i]`` and row ``second[i]`` are one picture. Taken in by `settle`."""
        apart = first != second
        if apart.any():
            self._edges.append(np.stack([first[apart], second[apart]]))

    def settle(self) -> None:
        """Take in what was joined since the last time."""
        if not self._edges:
            return
        edges = np.concatenate([np.stack([self._rows, self._roots]), *self._edges], axis=1)
        self._edges = []
        rows, numbers = np.unique(edges, return_inverse=True)
        first, second = numbers.reshape(edges.shape)
        label = np.arange(len(rows))
        while True:
            low, high = np.minimum(label[first], label[second]), np.maximum(label[first], label[second])
            apart = low != high
            if not apart.any():
                break
            first, second = first[apart], second[apart]
            np.minimum.at(label, high[apart], low[apart])
            while not np.array_equal(shorter := label[label], label):
                label = shorter
        self._rows, self._roots = rows, rows[label]

    def roots(self, rows: np.ndarray) -> np.ndarray:
        """The first row of the picture of each row."""
        if not len(self._rows):
            return rows
        places = np.minimum(np.searchsorted(self._rows, rows), len(self._rows) - 1)
        return np.where(self._rows[places] == rows, self._roots[places], rows)

    @property
    def members(self) -> tuple[np.ndarray, np.ndarray]:
        """All rows that share their picture with another, ascending, and the first row of each one's picture."""
        return self._rows, self._roots


def join_equal(pictures: Pictures, names: Names) -> None:
    """Rows with equal names are one picture."""
    names = names.sorted()
    again = names.name[1:] == names.name[:-1]
    pictures.join(names.row[:-1][again], names.row[1:][again])


def join_content(pictures: Pictures, names: Names, most: int | None) -> np.ndarray:
    """The same for names that are of the files' content; the result: first rows of pictures that are placeholders.

    A content that more than ``most`` pictures have, so far known as different ones, is what a web site sends in place of a
    photo that is gone: these pictures are not joined.
    """
    contents, group = np.unique(names.name, return_inverse=True)
    group, roots = np.unique(np.stack([group, pictures.roots(names.row)]), axis=1)
    sizes = np.bincount(group, minlength=len(contents))
    crowded = sizes[group] > (len(group) if most is None else most)
    same = (group[1:] == group[:-1]) & ~crowded[1:]
    pictures.join(roots[:-1][same], roots[1:][same])
    return roots[crowded]


def near_pairs(hashes: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of all pairs of ``hashes`` (uint64, each once) that differ in at most ``distance`` bits.

    Two such hashes are equal in at least one of distance + 1 pieces: only those are compared. The time grows with the
    number of hashes that share a piece, which is what limits the distance.
    """
    edges = np.linspace(0, 64, distance + 2).astype(int)
    firsts, seconds = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        piece = hashes & np.uint64(((1 << (high - low)) - 1) << low)
        order = np.argsort(piece, kind="stable")
        piece, ordered = piece[order], hashes[order]
        places = np.arange(len(order))
        for step in range(1, len(order)):
            places = places[: np.searchsorted(places, len(order) - step)]
            places = places[piece[places] == piece[places + step]]
            if not len(places):
                break
            near = places[np.bitwise_count(ordered[places] ^ ordered[places + step]) <= distance]
            firsts.append(order[near])
            seconds.append(order[near + step])
    return np.concatenate(firsts), np.concatenate(seconds)


#: Why a row is left out, where it is not by a guard; files that cannot be read count down from here.
PLACEHOLDER = -1


@dataclass(frozen=True, slots=True)
class Joined:
    """What of the rows is one picture and what is left out.

    ``members``, ``roots``: rows that share their picture, ascending, and the first row of it. ``out``: rows that are left
    out, ascending, and ``why`` the number of the reason: of a guard; PLACEHOLDER; below that, of a file that cannot be
    read.
    """

    members: np.ndarray
    roots: np.ndarray
    out: np.ndarray
    why: np.ndarray


def joined(
    *,
    ids: Callable[[int], Names],
    keys: Callable[[int], Names],
    content: Callable[[int], Names],
    near: Names,
    unreadable: Sequence[np.ndarray],
    guards: Sequence[np.ndarray],
    distance: int,
    most: int | None,
    on_bucket: Callable[[int], None],
) -> Joined:
    """Join all rows. ``ids``, ``keys``, ``content``: the names of a bucket; ``near``: perceptual hashes, joined where they
    differ in at most ``distance`` bits; ``unreadable``: rows for each reason why; ``guards``: names to keep out, sorted.
    """
    pictures = Pictures()
    hits: list[tuple[np.ndarray, int]] = []

    def watch(named: Names) -> None:
        hits.extend((named.row[_is_in(named.name, guard)], number) for number, guard in enumerate(guards))

    for bucket in range(BUCKETS):
        named = keys(bucket)
        watch(named)
        join_equal(pictures, named)
        join_equal(pictures, ids(bucket))
        on_bucket(bucket + 1)
    pictures.settle()
    for bucket in range(BUCKETS):
        named = content(bucket)
        watch(named)
        hits.append((join_content(pictures, named, most), PLACEHOLDER))
    pictures.settle()
    _join_near(pictures, near, distance, most)
    return _without(_left_out(pictures, hits), unreadable)


def _join_near(pictures: Pictures, near: Names, distance: int, most: int | None) -> None:
    near = near.sorted()
    hashes, starts, sizes = np.unique(near.name, return_index=True, return_counts=True)
    usual = sizes <= (most if most is not None else len(near.row))
    firsts = near.row[starts]
    same = np.repeat(usual, sizes)
    pictures.join(near.row[same], np.repeat(firsts, sizes)[same])
    one, other = near_pairs(hashes[usual], distance)
    pictures.join(firsts[usual][one], firsts[usual][other])
    pictures.settle()


def _left_out(pictures: Pictures, hits: list[tuple[np.ndarray, int]]) -> Joined:
    """Whole pictures: what keeps one row out keeps out all that are the same. The first guard counts."""
    members, roots = pictures.members
    touched = np.concatenate([pictures.roots(rows) for rows, _ in hits])
    why = np.concatenate([np.full(len(rows), number) for rows, number in hits])
    order = np.lexsort((np.where(why == PLACEHOLDER, len(hits), why), touched))
    out_roots, first = np.unique(touched[order], return_index=True)
    why = why[order][first]
    if not len(out_roots):
        return Joined(members, roots, out_roots, why)
    place = np.minimum(np.searchsorted(out_roots, roots), len(out_roots) - 1)
    struck = out_roots[place] == roots
    alone = ~np.isin(out_roots, roots)
    out = np.concatenate([members[struck], out_roots[alone]])
    order = np.argsort(out, kind="stable")
    why = np.concatenate([why[place[struck]], why[alone]])
    return Joined(members[~struck], roots[~struck], out[order], why[order])


def _without(found: Joined, unreadable: Sequence[np.ndarray]) -> Joined:
    """The same without rows whose files cannot be read: of a picture that has others, those stay."""
    if not unreadable:
        return found
    rows = np.concatenate(unreadable)
    why = np.concatenate([np.full(len(some), PLACEHOLDER - 1 - number) for number, some in enumerate(unreadable)])
    more = ~np.isin(rows, found.out)
    rows, why = rows[more], why[more]
    stays = ~np.isin(found.members, rows)
    members, roots = found.members[stays], found.roots[stays]
    _, first, group = np.unique(roots, return_index=True, return_inverse=True)
    out, why = np.concatenate([found.out, rows]), np.concatenate([found.why, why])
    order = np.argsort(out, kind="stable")
    return Joined(members, members[first][group], out[order], why[order])


def _is_in(names: np.ndarray, sorted_names: np.ndarray) -> np.ndarray:
    if not len(sorted_names):
        return np.zeros(len(names), bool)
    places = np.minimum(np.searchsorted(sorted_names, names), len(sorted_names) - 1)
    return sorted_names[places] == names
