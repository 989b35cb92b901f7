"""A round: one store, labelled by drivers that are started again whenever they end before the work does."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.nodes import Nodes, workers
from tests.chaos.obedient import Orders
from tests.chaos.places import Place
from tests.jobs_at_work import ROOT

#: Seconds without a new cell after which a job counts as hanging.
STUCK = 600.0
#: Seconds for which a fault may still end a driver that was started after it: a cluster takes a while to notice what it lost.
AFTERMATH = 60.0


class Lost(Exception):
    """Something that must not happen did."""


@dataclass
class Driver:
    """One start of `label`. ``ended_by``: the fault that was to end it."""

    process: subprocess.Popen[bytes]
    said: Path
    started: float
    ended_by: str = ""
    judged: bool = False

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def last_words(self) -> str:
        return self.said.read_text(errors="replace")[-2000:]


class Round:
    """``job``: the job file; ``log``: the file for all drivers' lines of JSON. ``random``: decides everything that is left to chance."""

    def __init__(self, *, name: str, place: Place, job: Path, nodes: Nodes, orders: Orders, seed: str) -> None:
        self.name = name
        self.place = place
        self.nodes = nodes
        self.orders = orders
        self.random = random.Random(seed)
        self.drivers: list[Driver] = []
        self.findings: list[str] = []
        self.exits: Counter[str] = Counter()
        self.done = False
        self.recovered: dict[str, float] = {}
        self._recovering: list[tuple[str, float]] = []
        self._job = job
        self._log = job.with_suffix(".log")
        self._read = 0
        self._committed: Counter[str] = Counter()
        self._runs: set[str] = set()
        self._last_news = time.monotonic()
        self._blamed = [(float("inf"), "S3 call")] if place.kind == "S3" else []
        self._numbers = iter(range(10_000))

    # ---- what is going on

    @property
    def at_work(self) -> list[Driver]:
        return [driver for driver in self.drivers if driver.alive]

    @property
    def news(self) -> int:
        """Cells that drivers have told of so far."""
        self._look()
        return sum(self._committed.values())

    @property
    def runs(self) -> set[str]:
        """Runs that began to label."""
        self._look()
        return self._runs

    def _look(self) -> None:
        if not self._log.exists():
            return
        with self._log.open("rb") as log:
            log.seek(self._read)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                told = json.loads(line)
                self._runs.add(told["run"])
                if told["event"] == "cell" and told["outcome"] == "committed":
                    self._committed[told["cell"]] += 1
                    self._last_news = time.monotonic()
                    self._all_recovered()
                elif told["event"] == "cell" and told["outcome"] == "refused":
                    self.findings.append(f"{told['cell']} was refused: {told.get('why')}")

    # ---- drivers

    def start_driver(self, *, clock: float = 0.0) -> Driver:
        number = len(self.drivers)
        said = self._job.with_suffix(f".{number}.err")
        command = [sys.executable, "-m", "jobs.cli", "label", str(self._job), "--log", str(self._log)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | self.place.environment
        with said.open("wb") as out:
            process = subprocess.Popen(
                [*command, "--address", self.nodes.address],
                cwd=ROOT,
                env=environment | ({"CHAOS_CLOCK": str(clock)} if clock else {}),
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        driver = Driver(process, said, time.monotonic())
        self.drivers.append(driver)
        self._last_news = time.monotonic()
        return driver

    def end_all(self) -> None:
        for driver in self.at_work:
            driver.process.kill()
        for driver in self.drivers:
            driver.process.wait()

    def _judge(self) -> None:
        """Looks at how drivers ended that have: as their exit codes are documented, and for a reason."""
        for driver in self.drivers:
            code = driver.process.poll()
            if code is None or driver.judged:
                continue
            driver.judged = True
            self.exits[str(code)] += 1
            since = {kind for when, kind in self._blamed if when > driver.started - AFTERMATH}
            words = driver.last_words()
            if code == 0:
                self.done = True
                self._all_recovered()
            elif not _as_documented(code, driver.ended_by, since, words):
                after = ", ".join(sorted(since)) or "nothing"
                self.findings.append(f"a driver ended with exit code {code} after {after}: {words[-600:]}")

    def keep_going(self) -> None:
        """As a scheduler does it: a driver that ended before the work did is started again."""
        self._judge()
        if not self.done and not self.at_work:
            self.start_driver()

    def until(self, condition: Callable[[], bool], seconds: float = 600.0, *, restart: bool = True) -> bool:
        """Whether ``condition`` came true before the work was done. Raises Lost where nothing moves any more."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if restart:
                self.keep_going()
            else:
                self._judge()
            if condition():
                return True
            if self.done and not self.at_work:
                return False
            self._look()
            if time.monotonic() - self._last_news > STUCK:
                raise Lost(
                    f"{self.name}: no new cell for {STUCK:.0f} s after {[kind for _, kind in self._blamed[-3:]]}{self._dump()}"
                )
            if len(self.findings) > 20:
                raise Lost(f"{self.name}: {self.findings[0]}")
            time.sleep(0.1)
        return False

    def _dump(self) -> str:
        return "".join(f"\n--- driver: {driver.last_words()}" for driver in self.at_work) + f"\n--- workers {workers()}"

    # ---- faults

    def blame(self, kind: str) -> None:
        """What happens to drivers at work, and to those that start soon, may be for this fault."""
        self._blamed.append((time.monotonic(), kind))

    def hit(self, kind: str, relieved: float) -> None:
        """A fault hit and was over at that time: from then on it counts how long no cell comes."""
        self._recovering.append((kind, relieved))

    def _all_recovered(self) -> None:
        for kind, since in self._recovering:
            self.recovered[kind] = max(self.recovered.get(kind, 0.0), time.monotonic() - since)
        self._recovering.clear()

    def number(self) -> int:
        return next(self._numbers)

    def twice(self) -> list[str]:
        """Cells that more than one driver or worker was told to have committed."""
        self._look()
        return [cell for cell, times in self._committed.items() if times > 1]

    def finish(self) -> None:
        """Lets it come to its end, undisturbed."""
        self.until(lambda: self.done and not self.at_work, seconds=1800)
        if not self.done:
            raise Lost(f"{self.name}: not done after half an hour undisturbed")


def _as_documented(code: int, ended_by: str, since: set[str], words: str) -> bool:
    """Whether docs/operations.md and docs/cluster.md let a driver end so, after these faults."""
    match code:
        case -9:
            return ended_by != ""
        case 130:
            return ended_by == "driver preempted"
        case 3:
            return bool(since) and "error: " in words
        case 2:  # the cluster went before the driver had reached it
            return "cluster lost" in since and "cannot reach the cluster" in words
        case 1:  # Ray ends a driver that lost its node without a word; `submit` knows
            return "cluster lost" in since and "Traceback" not in words
    return False
