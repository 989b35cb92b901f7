"""The faults: each is tried on a round at work and tells whether it really hit."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tests.chaos.nodes import alive, kill, workers
from tests.chaos.obedient import SLOW, SLOWED
from tests.chaos.places import ObjectStore, SmallDisk
from tests.chaos.rounds import Round

#: Seconds that a driver has to end after SIGTERM: Kubernetes gives 30, and then kills.
GRACE = 30.0
#: Seconds of a slow disk, and what every fsync and link takes then.
SLOW_PERIOD, SLOWNESS = 6.0, 0.4
#: Seconds by which clocks are wrong, to either side.
SKEWS = (-93_784.0, -3_600.0, -7.5, 7.5, 3_600.0, 93_784.0)


@dataclass(frozen=True)
class Hit:
    """``seconds``: that something took which is told beside the fault, if anything is. ``relieved``: when the trouble was over."""

    relieved: float
    seconds: float | None = None
    calls: int = 0


Fault = Callable[[Round], Hit | None]


def driver_killed(round: Round) -> Hit | None:
    found = round.at_work
    if not found:
        return None
    driver = round.random.choice(found)
    driver.ended_by = "driver killed"
    return Hit(time.monotonic()) if kill([driver.process.pid]) else None


def worker_killed(round: Round) -> Hit | None:
    found = workers()
    if not found or not round.at_work:
        return None
    return Hit(time.monotonic()) if kill([round.random.choice(found)]) else None


def all_workers_killed(round: Round) -> Hit | None:
    """As the system does it that runs out of memory."""
    return Hit(time.monotonic()) if round.at_work and kill(workers()) else None


def node_lost(round: Round) -> Hit | None:
    hit = round.nodes.lose(round.random.randrange(100)) and bool(round.at_work)
    gone = time.monotonic()
    round.nodes.join()
    return Hit(gone) if hit else None


def node_preempted(round: Round) -> Hit | None:
    seconds = round.nodes.preempt(round.random.randrange(100), grace=GRACE)
    gone = time.monotonic()
    round.nodes.join()
    return Hit(gone, seconds) if seconds is not None and round.at_work else None


def cluster_lost(round: Round) -> Hit | None:
    """The driver has to notice by itself."""
    if not round.at_work:
        return None
    round.nodes.lose_all()
    gone = time.monotonic()
    round.until(lambda: not round.at_work, 200, restart=False)
    took = time.monotonic() - gone
    for driver in round.at_work:
        round.findings.append(f"a driver whose cluster is gone did not end in 200 s: {driver.last_words()}")
        driver.ended_by = "cluster lost"
        driver.process.kill()
    round.nodes.start()
    return Hit(time.monotonic(), took)


def preempted(round: Round) -> Hit | None:
    found = round.at_work
    if not found:
        return None
    driver = round.random.choice(found)
    driver.ended_by = "driver preempted"
    begun = time.monotonic()
    with suppress(ProcessLookupError):
        os.kill(driver.process.pid, signal.SIGTERM)
    while driver.alive and time.monotonic() - begun < GRACE:
        time.sleep(0.02)
    took = time.monotonic() - begun
    if driver.alive:
        round.findings.append(f"a driver did not end {GRACE:.0f} s after SIGTERM: {driver.last_words()}")
        driver.process.kill()
        driver.process.wait()
    if driver.process.returncode == 0:  # it was at its end anyhow
        return None
    return Hit(time.monotonic(), took)


def _obeyed(round: Round, kind: str, what: str = "") -> int | None:
    """Gives an order to whichever worker takes it first: its process id, or None where nobody took it."""
    name = round.orders.give(kind, round.number(), what)
    round.until(lambda: round.orders.taken_by(name) is not None, 90)
    round.orders.withdraw(name)
    return round.orders.taken_by(name)


def hanging(round: Round, how: str = "asleep") -> Hit | None:
    """Counts whether the watchdog ends it or the job ends before: second copies may do the work of a worker that hangs."""
    pid = _obeyed(round, "hang", how)
    begun = time.monotonic()
    if pid is None:
        return None
    if not round.until(lambda: not alive(pid), 300) and round.at_work:
        round.findings.append(f"a worker that hangs, {how}, was not ended in 300 s")
    return Hit(time.monotonic(), time.monotonic() - begun)


def hanging_with_lock(round: Round) -> Hit | None:
    return hanging(round, "holding the lock")


def write_failed(round: Round) -> Hit | None:
    """Until a driver has given up for it."""
    before = len(round.at_work)
    if _obeyed(round, "io") is None:
        return None
    begun = time.monotonic()
    if not round.until(lambda: len(round.at_work) < before, 120, restart=False):
        round.findings.append("no driver ended in 120 s after a write that failed")
    return Hit(time.monotonic(), time.monotonic() - begun)


def workers_clock(round: Round) -> Hit | None:
    return None if _obeyed(round, "clock", str(round.random.choice(SKEWS))) is None else Hit(time.monotonic())


def drivers_clock(round: Round) -> Hit | None:
    """The driver is replaced by one with a wrong clock."""
    for driver in round.at_work:
        driver.ended_by = "driver's clock"
        driver.process.kill()
        driver.process.wait()
    begun = len(round.runs)
    round.start_driver(clock=round.random.choice(SKEWS))
    return Hit(time.monotonic()) if round.until(lambda: len(round.runs) > begun, 180) else None


def second_driver(round: Round) -> Hit | None:
    """Both label at once for a while; then one is killed, as often as not."""
    if len(round.at_work) != 1:
        return None
    begun, new = len(round.runs), round.start_driver()
    if not round.until(lambda: len(round.runs) > begun or not new.alive, 180) or len(round.at_work) < 2:
        return None
    return Hit(time.monotonic())


def disk_full(round: Round) -> Hit | None:
    """Full to the last byte until the driver has given up for it; then the room is there again."""
    assert isinstance(round.place, SmallDisk)
    drivers = round.at_work
    if not drivers:
        return None
    round.place.fill()
    begun = time.monotonic()
    round.until(lambda: not round.at_work, 120, restart=False)
    took = time.monotonic() - begun
    if round.at_work:
        round.findings.append("a driver goes on for 120 s on a disk that is full")
    round.place.free()
    said = [os.strerror(errno.ENOSPC) in driver.last_words() for driver in drivers]
    return Hit(time.monotonic(), took) if any(said) else None


def disk_slow(round: Round) -> Hit | None:
    slow, slowed = round.orders.folder / SLOW, round.orders.folder / SLOWED
    before = slowed.stat().st_size if slowed.exists() else 0
    slow.write_text(str(SLOWNESS))
    end = time.monotonic() + SLOW_PERIOD
    round.until(lambda: time.monotonic() > end, SLOW_PERIOD + 1)
    slow.unlink()
    calls = (slowed.stat().st_size if slowed.exists() else 0) - before
    return Hit(time.monotonic(), calls=calls) if calls else None


def store_away(round: Round) -> Hit | None:
    """Every call is answered with 503 until the drivers have given up."""
    assert isinstance(round.place, ObjectStore)
    if not round.at_work:
        return None
    server = round.place.server
    before, kinds = server.share, server.kinds
    server.share, server.kinds = 1.0, ("503",)
    begun = time.monotonic()
    round.until(lambda: not round.at_work, 180, restart=False)
    took = time.monotonic() - begun
    server.share, server.kinds = before, kinds
    if round.at_work:
        round.findings.append("a driver goes on for 180 s without its store")
    return Hit(time.monotonic(), took)


#: Kind: the fault, and what it is in words.
FAULTS: dict[str, tuple[Fault, str]] = {
    "driver killed": (driver_killed, "SIGKILL for a `label`, at work or starting"),
    "worker killed": (worker_killed, "SIGKILL for one process that labels"),
    "all workers killed": (all_workers_killed, "SIGKILL for all processes that label, at once"),
    "node lost": (node_lost, "SIGKILL for a raylet and all its processes; another node joins"),
    "cluster lost": (
        cluster_lost,
        "SIGKILL for all nodes with the head; another cluster is started when the driver has ended",
    ),
    "driver preempted": (preempted, f"SIGTERM for a `label`; {GRACE:.0f} s to end"),
    "node preempted": (node_preempted, f"SIGTERM for a raylet, SIGKILL after {GRACE:.0f} s; another node joins"),
    "expert hangs": (hanging, "an expert sleeps for an hour within a batch"),
    "expert hangs, holding the lock": (
        hanging_with_lock,
        "the same inside a call that never lets go of the interpreter",
    ),
    "write failed": (write_failed, "EIO of one fsync or link"),
    "disk full": (disk_full, "a disk of 24 MiB filled to the last byte, until the driver has ended"),
    "disk slow": (disk_slow, f"each fsync and link takes {SLOWNESS} s longer, for {SLOW_PERIOD:.0f} s"),
    "worker's clock wrong": (workers_clock, "jumps by 7.5 s, an hour or 26 hours, ahead or back, while it labels"),
    "driver's clock wrong": (drivers_clock, "killed and started again with a clock that is off as much"),
    "two drivers": (second_driver, "a second `label` of the same job beside the first"),
    "S3 away": (store_away, "503 to all calls, until the drivers have ended"),
}
#: What is tried in which place, and how often in comparison.
MIX: dict[str, dict[str, float]] = {
    "disk": {
        "worker killed": 14, "driver killed": 4, "node lost": 4, "all workers killed": 2, "driver preempted": 3,
        "node preempted": 1, "expert hangs": 2, "expert hangs, holding the lock": 0.4, "write failed": 1.5, "disk slow": 1,
        "worker's clock wrong": 2, "driver's clock wrong": 1, "two drivers": 1.2, "cluster lost": 0.4,
    },
    "small disk": {"disk full": 4, "disk slow": 2, "write failed": 2, "worker killed": 3, "driver killed": 1, "driver preempted": 1},
    "S3": {"worker killed": 4, "driver killed": 2, "node lost": 1, "driver preempted": 1, "two drivers": 1, "S3 away": 0.5},
}  # fmt: skip
