"""The attempts journal: finds the image that kills its worker process, within a few deaths.

A worker that dies cannot tell what killed it, so it says beforehand what it is about to do. That costs one small file a
unit; saying more costs more, so the journal becomes talkative only where a worker of the same run has already died:

    1st attempt   announces the unit
    2nd attempt   announces every micro-batch and stage (read, or the expert's name): a death leaves a few suspects
    later ones    label each suspect by itself; an image that was alone at work in two deaths is convicted

A convicted image's row becomes failed at the stage that died, and the rest of the unit is labelled. Two deaths, because a
preempted machine takes an innocent image with it once, hardly twice. Entries of another run do not count: they stem from a
driver that was killed, which says nothing about images. A worker that hangs is killed by the watchdog (pipeline/watchdog.py), which
knows what it was at even in a first attempt; a hang counts as a death, and the row says `hung`.
"""

from __future__ import annotations

import json
from collections import Counter

from pipeline.storage import Storage
from pipeline.store import ATTEMPTS

#: A unit that killed this many workers is given up: some poison is not an image.
MAX_DEATHS = 30
READ = "read"
#: A unit whose workers hung this often is given up: each time costs the watchdog's patience.
MAX_HANGS = 12
#: Reason codes of rows whose photo was convicted.
KILLED = "killed its worker"
HUNG = "hung"


class Journal:
    """The journal of one unit in one run. Construct it at the start of every attempt; call `done` at its end."""

    def __init__(self, storage: Storage, run: str, unit: str) -> None:
        self._storage = storage
        self._name = f"{ATTEMPTS}/{run}/{unit}.json"
        try:
            self._attempts: list[dict[str, object]] = json.loads(storage.read(self._name))
        except (FileNotFoundError, ValueError):  # absent or, since it is not durable, cut by a machine that went down
            self._attempts = []
        self._fatal = [(str(died["stage"]), _ids(died)) for died in self._attempts if "stage" in died]
        self._hangs = [died for died in self._attempts if "hung" in died]
        self._now: dict[str, object] = {}
        self._attempts.append({})
        self._save()

    @staticmethod
    def attempts(storage: Storage, run: str, unit: str) -> int:
        """How often ``unit`` was begun and not ended in that run, without beginning it."""
        try:
            return len(json.loads(storage.read(f"{ATTEMPTS}/{run}/{unit}.json")))
        except (FileNotFoundError, ValueError):
            return 0

    @property
    def deaths(self) -> int:
        """Workers that this unit has killed so far in this run."""
        return len(self._attempts) - 1

    @property
    def given_up(self) -> bool:
        """Whether so many workers died or hung that it is not for an image."""
        return self.deaths >= MAX_DEATHS or len(self._hangs) >= MAX_HANGS

    @property
    def talkative(self) -> bool:
        """Whether `enter` must be told of every step, one after the other."""
        return self.deaths > 0

    @property
    def suspects(self) -> set[str]:
        """Ids that were at work when a worker died: to be labelled each by itself."""
        return {image_id for _, ids in self._fatal for image_id in ids}

    def convicted(self, stage: str) -> set[str]:
        """Ids of images that were alone at ``stage`` in two deaths: rows to fail there without trying again."""
        alone = Counter(ids[0] for at, ids in self._fatal if at == stage and len(ids) == 1)
        return {image_id for image_id, times in alone.items() if times >= 2}

    def verdict(self, stage: str, image_id: str) -> str:
        """The reason of a convicted image's row."""
        hangs = [died for died in self._hangs if died.get("stage") == stage and died.get("ids") == [image_id]]
        if hangs:
            where = "reading" if stage == READ else f"in {stage} with"
            return f"{HUNG}: no sign of life for {hangs[-1]['hung']} s {where} this photo alone"
        if stage == READ:
            return f"{KILLED}: reading this photo ended two worker processes"
        return f"{KILLED}: this photo ended two worker processes in {stage}"

    def enter(self, stage: str, image_ids: list[str]) -> None:
        """About to do ``stage`` with these images. Writes nothing on a first attempt."""
        self._now = {"stage": stage, "ids": image_ids}
        if self.talkative:
            self._attempts[-1] = self._now
            self._save()

    def leave(self) -> None:
        """Done with what `enter` said."""
        self._now = {}

    def hung(self, seconds: float) -> str:
        """Writes down that the process is about to be killed for its silence; returns what it was at. From another thread."""
        self._attempts[-1] = self._now | {"hung": round(seconds, 1)}
        self._save()
        ids = self._now.get("ids", [])
        return f"{self._name}: {self._now.get('stage', 'reading or writing')} {', '.join(map(str, ids)) if isinstance(ids, list) else ''}"

    def done(self) -> None:
        self._storage.delete(self._name)

    def _save(self) -> None:
        # Not durable: the page cache outlives a process, and a machine that goes down was not killed by an image.
        self._storage.replace(self._name, json.dumps(self._attempts).encode(), durable=False)


def _ids(died: dict[str, object]) -> list[str]:
    ids = died["ids"]
    assert isinstance(ids, list)
    return [str(image_id) for image_id in ids]
