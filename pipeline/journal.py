"""The attempts journal: finds the image that kills its worker process, within a few deaths.

A worker that dies cannot tell what killed it, so it says beforehand what it is about to do. That costs one small file a
unit; saying more costs more, so the journal becomes talkative only where a worker of the same run has already died:

    1st attempt   announces the unit
    2nd attempt   announces every micro-batch and stage (read, or the expert's name): a death leaves a few suspects
    later ones    label each suspect by itself; an image that was alone at work in two deaths is convicted

A convicted image's row becomes failed at the stage that died, and the rest of the unit is labelled. Two deaths, because a
preempted machine takes an innocent image with it once, hardly twice. Entries of another run do not count: they stem from a
driver that was killed, which says nothing about images.
"""

from __future__ import annotations

import json
from collections import Counter

from pipeline.storage import Storage
from pipeline.store import ATTEMPTS

#: A unit that killed this many workers is given up: some poison is not an image.
MAX_DEATHS = 30
READ = "read"
#: Reason code of rows whose photo was convicted.
KILLED = "killed its worker"


class Journal:
    """The journal of one unit in one run. Construct it at the start of every attempt; call `done` at its end."""

    def __init__(self, storage: Storage, run: str, unit: str) -> None:
        self._storage = storage
        self._name = f"{ATTEMPTS}/{run}/{unit}.json"
        try:
            self._attempts: list[dict[str, object]] = json.loads(storage.read(self._name))
        except (FileNotFoundError, ValueError):  # absent or, since it is not durable, cut by a machine that went down
            self._attempts = []
        self._fatal = [(str(died["stage"]), _ids(died)) for died in self._attempts if died]
        self._attempts.append({})
        self._save()

    @property
    def deaths(self) -> int:
        """Workers that this unit has killed so far in this run."""
        return len(self._attempts) - 1

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

    def enter(self, stage: str, image_ids: list[str]) -> None:
        """About to do ``stage`` with these images. Silent on a first attempt."""
        if self.talkative:
            self._attempts[-1] = {"stage": stage, "ids": image_ids}
            self._save()

    def done(self) -> None:
        self._storage.delete(self._name)

    def _save(self) -> None:
        # Not durable: the page cache outlives a process, and a machine that goes down was not killed by an image.
        self._storage.replace(self._name, json.dumps(self._attempts).encode(), durable=False)


def _ids(died: dict[str, object]) -> list[str]:
    ids = died["ids"]
    assert isinstance(ids, list)
    return [str(image_id) for image_id in ids]
