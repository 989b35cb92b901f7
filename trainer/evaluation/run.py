"""Run: batch after batch through a model, and what it said of each photo, once.

With a journal a run that was broken off goes on: photos whose answers stand there are read, but not asked about again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from pipeline.errors import ExpertLabelsError
from trainer.errors import TrainingError
from trainer.evaluation.speaker import Speaker
from trainer.evaluation.tasks import Reply, Scores, Task
from trainer.ranks import Ranks

#: Photos done so far.
Progress = Callable[[int], None]


def evaluate(
    speaker: Speaker,
    batches: Iterable[Any],
    task: Task,
    *,
    journal: Journal | None = None,
    gathered: Callable[[list[Reply]], list[list[Reply]]] | None = None,
    progress: Progress | None = None,
) -> tuple[Scores, list[Reply]]:
    """The scores of ``task`` and all that was said, by key.

    batches: every photo once; of several ranks, each rank's share. gathered: what every rank said, on every rank
    (Ranks.gathered). Raises ValueError as `replies_of` and the task do.
    """
    said = replies_of(speaker, batches, task, journal=journal, progress=progress)
    everything = by_all(gathered(said) if gathered else [said])
    return task.score(everything), everything


def replies_of_all(speaker: Speaker, batches: Iterable[Any], task: Task, ranks: Ranks) -> list[Reply]:
    """What is said of all ranks' photos, by key, on every rank. batches: of this rank's share.

    Raises TrainingError on every rank where one of them fails: none must wait for it.
    """
    said, problem = list[Reply](), ""
    try:
        said = replies_of(speaker, batches, task)
    except (ExpertLabelsError, ValueError) as error:
        problem = str(error)
    found = ranks.gathered((said, problem))
    for _, wrong in found:
        if wrong:
            raise TrainingError(f"evaluation: {wrong}")
    return by_all(part for part, _ in found)


def by_all(parts: Iterable[Sequence[Reply]]) -> list[Reply]:
    """What all ranks said, by key. Raises ValueError where two of them had one photo."""
    everything = sorted((one for part in parts for one in part), key=lambda one: one.key)
    for one, other in zip(everything, everything[1:], strict=False):
        if one.key == other.key:
            raise ValueError(f"{one.key} was answered twice; expected every photo in one rank's share")
    return everything


def replies_of(
    speaker: Speaker,
    batches: Iterable[Any],
    task: Task,
    *,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> list[Reply]:
    """What the model says of every photo, in their order. Raises ValueError where a photo comes twice."""
    said: list[Reply] = []
    seen_ids: set[str] = set()
    with torch.inference_mode():
        for batch in batches:
            for image in batch.ids:
                if image in seen_ids:
                    raise ValueError(
                        f"image {image} comes twice; expected every image once: evaluate in the store's order, one example an image"
                    )
                seen_ids.add(image)
            new = [row for row, image in enumerate(batch.ids) if journal is None or image not in journal.done]
            found = list(task.ask(speaker, speaker.look(batch), batch, new)) if new else []
            if journal is not None:
                journal.add([batch.ids[row] for row in new], found)
                found = [one for image in batch.ids for one in journal.done[image]]
            said += found
            if progress is not None:
                progress(len(seen_ids))
    return said


class Journal:
    """What was said so far, in a local file of JSON lines: what is evaluated, then a line for each photo.

    about: all that decides what is said (checkpoint, store, task, search). Of a line that was broken off while it was written nothing
    counts. Raises ValueError where the file is the journal of something else.
    """

    def __init__(self, path: Path, *, about: Mapping[str, Any]) -> None:
        self.path = path
        self.done: dict[str, list[Reply]] = {}
        header = json.dumps({"about": dict(about)}, sort_keys=True)
        whole = self._read(header)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: IO[str] = path.open("r+" if whole else "w", encoding="utf-8")
        if whole:
            self._stream.truncate(whole)
            self._stream.seek(0, os.SEEK_END)
        else:
            self._stream.write(f"{header}\n")

    def _read(self, header: str) -> int:
        """Fills ``done``; how many bytes of the file are whole lines."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.decode("utf-8").splitlines()
        if not lines:
            return 0
        if lines[0] != header:
            raise ValueError(
                f"{self.path} is the journal of another evaluation ({lines[0][:200]}); name another file, or remove it to begin anew"
            )
        for line in lines[1:]:
            entry = json.loads(line)
            self.done[entry["image"]] = [_restored(one) for one in entry["said"]]
        return len(whole)

    def add(self, images: Iterable[str], said: Iterable[Reply]) -> None:
        """Photos that are done now, and what was said of them."""
        found: dict[str, list[Reply]] = {image: [] for image in images}
        for one in said:
            found[one.image_id].append(one)
        for image, ones in found.items():
            self._stream.write(json.dumps({"image": image, "said": [asdict(one) for one in ones]}) + "\n")
        self._stream.flush()
        self.done |= found

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _restored(entry: dict[str, Any]) -> Reply:
    return Reply(**entry | {"truth": tuple(entry["truth"])})
