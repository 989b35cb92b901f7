"""Headers of tars, against the standard library's reader and against damage of every kind."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.tar_index import CUT, Member, Window, members

NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=120)
PATHS = st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map("/".join)


def made(entries: list[tuple[str, bytes]], kind: int, **more: object) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in more.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def found_in(data: bytes, reach: int = 8192) -> list[Member]:
    return list(members(Window(lambda start, size: data[start : start + size], len(data), reach)))


def by_tarfile(data: bytes) -> list[tuple[str, int, int]]:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        return [(m.name, m.offset_data, m.offset_data + m.size) for m in tar if m.isfile()]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    entries=st.lists(st.tuples(PATHS, st.binary(max_size=3000)), max_size=8),
    kind=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    reach=st.sampled_from([512, 4096, 1 << 20]),
    fraction=st.booleans(),
)
def test_the_same_as_the_standard_library(
    entries: list[tuple[str, bytes]], kind: int, reach: int, fraction: bool
) -> None:
    data = made(entries, kind, mtime=1.5 if fraction and kind == tarfile.PAX_FORMAT else 1)
    # A name that begins with a slash is refused here, which the standard library leaves to the caller.
    expected = [(name, start, end) for name, start, end in by_tarfile(data) if not name.startswith("/")]
    assert [(m.name, m.start, m.end) for m in found_in(data, reach) if not m.trouble] == expected


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_cut_anywhere_keeps_exactly_what_is_whole(kind: int) -> None:
    long = "l" * (90 if kind == tarfile.USTAR_FORMAT else 300)
    data = made([(f"{n}{long}.jpg", bytes([n]) * (700 * n)) for n in range(6)], kind)
    whole = found_in(data)
    assert len(whole) == 6
    for end in [*range(1, len(data), 101), *range(512, len(data), 512)]:
        found = found_in(data[:end])
        kept = [m for m in found if not m.trouble]
        assert kept == [m for m in whole if m.end <= end and m in found]
        assert len(kept) >= sum(m.end + 511 <= end for m in whole)
        at_the_end = end >= -(-whole[-1].end // 512) * 512 + 512  # one block of zeros says that it is
        assert at_the_end or found[-1].trouble


def test_damage_never_gives_a_member_that_is_not_there() -> None:
    """Bits turned over at random: a header is known by its checksum, so names and places are right or not given."""
    chance = random.Random(7)
    entries = [(f"{n:06d}.jpg", chance.randbytes(chance.randrange(2000))) for n in range(12)]
    data = made(entries, tarfile.PAX_FORMAT, mtime=1.5)
    whole = {(m.name, m.start, m.end) for m in found_in(data)}
    damaged = 0
    for _ in range(600):
        broken = bytearray(data)
        for _ in range(chance.choice([1, 1, 3, 40])):
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        found = found_in(bytes(broken))
        assert all(0 <= m.start <= m.end <= len(data) for m in found)
        good = {(m.name, m.start, m.end) for m in found if not m.trouble}
        damaged += good != whole
        assert good <= whole
    assert damaged > 100


def test_noise_ends_and_says_so(tmp_path: Path) -> None:
    chance = random.Random(3)
    for size in (1, 511, 512, 5000):
        for _ in range(50):
            found = found_in(chance.randbytes(size))
            assert len(found) == 1 and found[0].trouble
    assert found_in(bytes(1024)) == [] and found_in(b"")[0].trouble
    data = made([("a", b"x" * 600)], tarfile.GNU_FORMAT)
    assert found_in(data[:1600])[-1].trouble == CUT
