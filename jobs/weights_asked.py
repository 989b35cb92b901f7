"""Which checkpoints a user means by experts, a job file, a recipe or networks of training, and the state that each is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expert_zoo.weights.checkpoint import Checkpoint
from expert_zoo.weights.folder import State, WeightsFolder
from jobs.terminal import say
from pipeline.choices import ExpertChoice
from pipeline.errors import JobError

#: Who needs a network that is no expert's.
TRAINING = "training"


@dataclass(frozen=True, slots=True)
class Needed:
    """A checkpoint, the folder where it belongs, and the experts that need it there; `TRAINING` stands for no expert."""

    folder: WeightsFolder
    checkpoint: Checkpoint
    experts: tuple[str, ...]

    def to_json(self, **more: object) -> dict[str, Any]:
        entry, checkpoint = self.folder.entry(self.checkpoint), self.checkpoint
        return {
            "checkpoint": checkpoint.name,
            "experts": list(self.experts),
            **more,
            "bytes": sum(weights.bytes for weights in self.folder.weights(checkpoint)),
            "revision": entry.revision if entry else checkpoint.revision,
            "source": entry.source if entry else checkpoint.repo or checkpoint.page,
            "licence": checkpoint.licence,
            "commercial_use": checkpoint.commercial_use,
            "page": checkpoint.page,
            "folder": str(self.folder.path(checkpoint)),
        }


def choices_of(experts: str | None, job: str | None) -> list[ExpertChoice]:
    """The experts asked for; the whole catalog where none are."""
    from expert_zoo.catalog import EXPERTS
    from jobs.job import load_choices

    if experts is not None and job is not None:
        raise JobError("--experts and --job both say which experts; expected one of them")
    if job is not None:
        return list(load_choices(job).experts)
    names = [name.strip() for name in experts.split(",")] if experts is not None else list(EXPERTS)
    return [ExpertChoice(name=name) for name in dict.fromkeys(names)]


def needed_by_experts(experts: str | None, job: str | None, weights: str | None) -> list[Needed]:
    """Each checkpoint once, in the order of the experts. Raises JobError for unknown names and options."""
    from expert_zoo.catalog import accepts, create
    from expert_zoo.weights.needed import NeedsCheckpoint

    found: dict[Path, Needed] = {}
    carried = []
    for choice in choices_of(experts, job):
        try:
            given = (
                {"weights_folder": weights}
                if weights and accepts(choice.name, "weights_folder", use=choice.use)
                else {}
            )
            expert = create(choice.name, use=choice.use, options=choice.options | given)
        except ValueError as error:
            if experts or job:
                raise JobError(str(error)) from error
            say(
                f"left out: {error}; --job JOB.yaml takes options from a job file"
            )  # the whole catalog was meant, and this one needs an option
            continue
        if not isinstance(expert, NeedsCheckpoint):
            carried.append(choice.name)
            continue
        place = expert.folder.path(expert.checkpoint)
        users = found[place].experts if place in found else ()
        found[place] = Needed(expert.folder, expert.checkpoint, (*users, choice.name))
    if carried and (experts or job):
        say(f"{', '.join(carried)}: nothing to fetch, their weights are in a package or there are none")
    return list(found.values())


def seeded_bytes(choices: Sequence[ExpertChoice]) -> int:
    """About how large seeded checkpoints of full size are for ``choices``: four bytes a parameter, a checkpoint once."""
    from expert_zoo.weights.needed import NeedsCheckpoint

    experts = [choice.create() for choice in choices]
    return sum({e.checkpoint.name: 4 * e.card.parameters for e in experts if isinstance(e, NeedsCheckpoint)}.values())


def all_needed(
    experts: str | None, job: str | None, recipe: str | None, networks: str | None, weights: str | None
) -> list[Needed]:
    """Of experts and of training; of both where nothing is named. Raises ExpertLabelsError."""
    named = recipe is not None or networks is not None
    found = [] if named and experts is None and job is None else needed_by_experts(experts, job, weights)
    if named or (experts is None and job is None):
        found += _of_training(recipe, networks, weights)
    return list({needed.folder.path(needed.checkpoint): needed for needed in reversed(found)}.values())[::-1]


def _of_training(recipe: str | None, networks: str | None, weights: str | None) -> list[Needed]:
    """The networks of a recipe, those that are named, or all."""
    from trainer.networks import CLIP_OF_EMBEDDINGS, NETWORKS, places_of, vectors_are_missing
    from trainer.recipe import load_recipe

    found = []
    if recipe is not None:
        chosen = load_recipe(recipe)
        for place in places_of(chosen):
            if place.checkpoint is None:
                say(f"{place.key}: {place.folder} is a folder of your own, from which nothing can be fetched")
                continue
            folder = WeightsFolder(weights) if weights else place.weights_folder
            found.append(Needed(folder, place.checkpoint, (TRAINING,)))
        if vectors_are_missing(chosen):
            found.append(Needed(WeightsFolder(weights), CLIP_OF_EMBEDDINGS, (TRAINING,)))
        if not found:
            say(f"{recipe}: nothing to fetch, it begins with no network of other people")
    names = [name.strip() for name in networks.split(",")] if networks is not None else [] if recipe else list(NETWORKS)
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        raise JobError(f"no network {unknown[0]!r}; expected some of {', '.join(NETWORKS)}")
    return found + [Needed(WeightsFolder(weights), NETWORKS[name], (TRAINING,)) for name in names]


def state_of(needed: Needed) -> tuple[State, str]:
    """(state, why it is not at hand), after reading every byte."""
    folder, checkpoint = needed.folder, needed.checkpoint
    try:
        of_training = needed.experts == (TRAINING,)
        folder.verified(
            checkpoint,
            expert="" if of_training else needed.experts[0],
            fetch=f"--networks {checkpoint.name}" if of_training else "",
        )
    except ValueError as error:
        state = folder.look(checkpoint)[0]
        return state if state in ("missing", "not locked") else "damaged", str(error)
    return folder.look(checkpoint)
