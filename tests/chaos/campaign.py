"""Rounds one after the other, and what they add up to."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.chaos.checks import Verdict, verdict
from tests.chaos.faults import FAULTS, MIX, Hit
from tests.chaos.nodes import Nodes, wait_until, workers
from tests.chaos.obedient import Orders
from tests.chaos.places import ObjectStore, Place, disk, object_store, small_disk
from tests.chaos.rounds import Lost, Round
from tests.chaos.tally import Tally
from tests.jobs_at_work import labels_of, make_photos
from tests.s3_server import S3Server

PHOTOS = 240
#: For each driver.
WORKERS = 2
#: Share of the calls to the object store that go wrong.
SHARE = 1 / 3
#: A fault in so many comes at once after the one before, without waiting for a cell in between.
IMPATIENT = 0.25
#: Seconds, at most, from a cell to the next fault.
LULL = 1.5


@dataclass(frozen=True)
class Size:
    """``faults``: tried in a round; ``delay``: of the expert, in seconds a photo; ``floor``: of the watchdog's patience."""

    shard_size: int
    faults: int
    delay: float
    floor: float


SIZES = {
    "disk": Size(shard_size=4, faults=16, delay=0.2, floor=8),
    "small disk": Size(shard_size=8, faults=8, delay=0.15, floor=8),
    # Calls are repeated for up to a minute before they are given up, and that is no hang.
    "S3": Size(shard_size=8, faults=6, delay=0.15, floor=120),
}


def schedule(seed: int, number: int, mix: dict[str, dict[str, float]]) -> tuple[str, list[str]]:
    """The place of a round, and its faults in turn: of the seed and the number of the round alone."""
    turns = [place for place in ("disk", "S3", "disk", "small disk") if place in mix]
    place = turns[number % len(turns)]
    chance = random.Random(f"{seed}/{number}")
    return place, chance.choices(list(mix[place]), weights=list(mix[place].values()), k=SIZES[place].faults)


class Campaign:
    """``server``: an S3 API, where ``mix`` has that place."""

    def __init__(
        self, *, folder: Path, nodes: Nodes, seed: int, server: S3Server | None, say: Callable[[str], None]
    ) -> None:
        self.tally = Tally()
        self._folder = folder
        self._nodes = nodes
        self._seed = seed
        self._server = server
        self._say = say
        self._photos = make_photos(folder / "photos", PHOTOS)
        self._undisturbed: dict[str, list[dict[str, Any]]] = {}

    def run(self, *, minutes: float, mix: dict[str, dict[str, float]] = MIX) -> None:
        """Rounds until the time is over; a round that began is finished, undisturbed."""
        self.quieten()
        until = time.monotonic() + 60 * minutes
        while time.monotonic() < until:
            number = self.tally.rounds
            kind, faults = schedule(self._seed, number, mix)
            folder = self._folder / f"round{number:03d}"
            folder.mkdir()
            with self._opened(kind, folder, number) as place:
                self.round(number, place, faults, folder, until=until)
            shutil.rmtree(folder, ignore_errors=True)

    def quieten(self) -> None:
        """Labels once with nothing in the way, to compare with."""
        folder = self._folder / "quiet"
        folder.mkdir()
        size = Size(shard_size=16, faults=0, delay=0.0, floor=120)
        round = self._prepared("quiet", Place(str(folder / "store"), folder), size, folder, "")
        round.finish()
        assert not round.findings, round.findings
        self._undisturbed = labels_of(round.place.url)

    def _opened(self, kind: str, folder: Path, number: int) -> AbstractContextManager[Place]:
        if kind == "S3":
            assert self._server is not None
            return object_store(folder, self._server, share=SHARE, seed=self._seed + number)
        return small_disk(folder) if kind == "small disk" else disk(folder)

    def _prepared(self, name: str, place: Place, size: Size, folder: Path, seed: str) -> Round:
        orders = folder / "orders"
        orders.mkdir()
        job = {
            "store": place.url,
            "images": [{"source": "folder", "path": str(self._photos)}],
            "experts": [
                {"obedient": {"use": "tests.chaos.obedient:Obedient", "orders": str(orders), "delay": size.delay}},
                {"darkness": {"use": "tests.stand_ins:Darkness"}},
                {"squares": {"use": "tests.stand_ins:Squares"}},
            ],
            "shard_size": size.shard_size,
            "packs": [{"experts": ["obedient", "darkness", "squares"], "cpus": 0.25, "actors": WORKERS}],
            "patience": {"floor": size.floor, "times": 2, "loading": 300, "late": 5},
        }
        path = folder / "job.yaml"
        path.write_text(yaml.safe_dump(job), encoding="utf-8")
        return Round(name=name, place=place, job=path, nodes=self._nodes, orders=Orders(orders), seed=seed)

    def round(self, number: int, place: Place, kinds: Sequence[str], folder: Path, *, until: float) -> None:
        """One store, disturbed by these faults in turn until that time, then finished and looked at."""
        begun = time.monotonic()
        name = f"round {number} ({place.kind})"
        round = self._prepared(name, place, SIZES[place.kind], folder, f"{self._seed}/{number}/moments")
        hits: list[tuple[str, Hit]] = []
        try:
            self._disturb(round, kinds, until, hits)
            round.finish()
            if not wait_until(lambda: not workers(), 60):
                round.findings.append(f"workers are left after their drivers ended: {workers()}")
            with place.quiet():
                found = verdict(place.url, self._undisturbed, round.twice())
        except Lost as lost:
            found = Verdict(lost=1, cells=0, swept=0, said=[str(lost)])
        finally:
            round.end_all()
        self._count(number, round, hits, found)
        self._say(
            f"{name}: {', '.join(kind for kind, _ in hits) or 'nothing hit'}; {found.cells} cells, lost {found.lost}, "
            f"{len(round.drivers)} drivers, {time.monotonic() - begun:.0f} s"
        )
        for finding in [*round.findings, *found.said]:
            self._say(f"FOUND: {finding}")

    def _count(self, number: int, round: Round, hits: Sequence[tuple[str, Hit]], found: Verdict) -> None:
        """Faults count when their round was looked at, and not before."""
        for kind, hit in hits:
            told = self.tally.of(kind)
            told.injected += 1
            told.calls += hit.calls
            told.rounds.add(number)
            told.seconds = max(told.seconds, hit.seconds or 0.0)
        self.tally.rounds += 1
        self.tally.lost[str(number)] += found.lost
        self.tally.cells += found.cells
        self.tally.swept += found.swept
        self.tally.drivers += len(round.drivers)
        self.tally.exits += round.exits
        self.tally.findings += [f"{round.name}: {finding}" for finding in [*round.findings, *found.said]]
        if isinstance(round.place, ObjectStore):
            self.tally.s3_calls += round.place.calls
            for kind, times in round.place.server.injected.items():
                told = self.tally.of(f"S3 call: {kind}")
                told.injected += times
                told.rounds.add(number)
        for kind, seconds in round.recovered.items():
            told = self.tally.of(kind)
            told.recovery = max(told.recovery, seconds)

    def _disturb(self, round: Round, kinds: Sequence[str], until: float, hits: list[tuple[str, Hit]]) -> None:
        """Tries the faults in turn, and notes those that hit in ``hits``."""
        for kind in kinds:
            news, impatient, lull = round.news, round.random.random() < IMPATIENT, round.random.uniform(0, LULL)
            if not impatient:
                round.until(lambda news=news: round.news > news)  # type: ignore[misc]
            moment = time.monotonic() + lull
            round.until(lambda moment=moment: time.monotonic() > moment)  # type: ignore[misc]
            if round.done or time.monotonic() > until:
                break
            round.blame(kind)
            hit = FAULTS[kind][0](round)
            if hit is None:
                self.tally.missed[kind] += 1
            else:
                round.hit(kind, hit.relieved)
                hits.append((kind, hit))
