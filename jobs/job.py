"""The job file: YAML in, a validated `Job` out. Everything a user can get wrong is one line here, before Ray starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from expert_zoo.catalog import accepts
from expert_zoo.expert import Expert
from expert_zoo.weights.needed import not_locked, weights_folders
from jobs.sources_file import ImageChoices, models_of_images
from jobs.yaml_file import read_yaml, validated
from pipeline.choices import ExpertChoice
from pipeline.errors import JobError
from pipeline.limits import Limits, Web
from pipeline.plan import SHARD_SIZE
from pipeline.watchdog import Patience


class PackChoice(BaseModel):
    """Experts that share one actor, and the pool of such actors. ``actors``: a number, or [fewest, most]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experts: tuple[str, ...] = Field(min_length=1)
    cpus: float | None = Field(None, gt=0, allow_inf_nan=False)
    gpus: float | None = Field(None, ge=0, allow_inf_nan=False)
    actors: tuple[int, int] | None = None

    @field_validator("actors", mode="before")
    @classmethod
    def _is_a_range(cls, actors: Any) -> Any:
        return (actors, actors) if isinstance(actors, int) else actors

    @model_validator(mode="after")
    def _can_run(self) -> Self:
        if self.actors is not None and not 1 <= self.actors[0] <= self.actors[1]:
            raise ValueError(f"actors {list(self.actors)}: expected a number from 1, or [fewest, most]")
        return self


class RayChoice(BaseModel):
    """Where to run. ``address``: of a cluster ("auto" for the one on this machine), else one is started here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str | None = None
    cpus: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if self.address and self.cpus:
            raise ValueError("cpus are of a Ray that is started here; the cluster at an address has its own")
        return self


def _expert_list(value: Any) -> Any:
    """``- ocr`` and ``- image: {long_side: 512, batch_size: 4}`` become choices; what is not ours is an option."""
    if not isinstance(value, list):
        raise ValueError("expected a list of expert names")
    choices: list[dict[str, Any]] = []
    for item in value:
        if isinstance(item, str):
            choices.append({"name": item})
        elif isinstance(item, dict) and len(item) == 1:
            ((name, settings),) = item.items()
            if not isinstance(settings, dict | None):
                raise ValueError(f"{name}: expected options as `key: value`, got {settings!r}")
            settings = dict(settings or {})
            ours = {key: settings.pop(key) for key in ("use", "batch_size") if key in settings}
            choices.append({"name": name, "options": settings, **ours})
        else:
            raise ValueError(f"expected a name, or one name with its options, got {item!r}")
    return choices


class Job(ImageChoices):
    """What to label, with which experts, into which store. See docs/job-file.md for every field with its default."""

    store: str = Field(min_length=1)
    manifest: str | None = None
    experts: Annotated[tuple[ExpertChoice, ...], BeforeValidator(_expert_list)] = Field(min_length=1)
    weights: str | None = Field(None, min_length=1)
    recipe: Literal["best", "prismer"] | None = None
    shard_size: int = Field(SHARD_SIZE, gt=0)
    failure_limit: float = Field(0.5, ge=0, le=1)
    patience: Patience = Patience()
    limits: Limits = Limits()
    read_threads: int | None = Field(None, gt=0)
    encode_threads: int | None = Field(None, gt=0)
    ahead: int = Field(32, ge=0)
    packs: tuple[PackChoice, ...] = ()
    ray: RayChoice = RayChoice()

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if bool(self.images) == (self.manifest is not None):
            raise ValueError(
                "give either `images` (sources to build a manifest from) or `manifest` (one already built)"
            )
        rules = [
            key for key in ("captions", "guard", "duplicates") if getattr(self, key) != Job.model_fields[key].default
        ]
        if self.manifest is not None and rules:
            raise ValueError(
                f"`{rules[0]}` is a rule for building a manifest, and `manifest` is built already; give it there"
            )
        names = [choice.name for choice in self.experts]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"experts: {', '.join(sorted(twice))} named more than once")
        packed = [name for pack in self.packs for name in pack.experts]
        if self.packs and sorted(packed) != sorted(names):
            wrong = sorted(set(names) ^ set(packed)) or sorted(name for name in packed if packed.count(name) > 1)
            raise ValueError(f"packs: every expert stands in exactly one pack; look at {', '.join(wrong)}")
        return self

    def at(self, address: str | None) -> Self:
        """The same job on the cluster at ``address``; None: where it says itself."""
        return self if address is None else self.model_copy(update={"ray": RayChoice(address=address)})

    def create_experts(self) -> list[Expert]:
        """The job's experts, not loaded. Raises JobError for an unknown name or option."""
        try:
            return [choice.create() for choice in self.experts]
        except ValueError as error:
            raise JobError(f"experts: {error}") from error


def load_job(path: str) -> Job:
    """The job at ``path``, checked as far as it can be without doing it. Raises JobError: one line, with file and place."""
    job = load_choices(path)
    nameless = [expert for expert in job.create_experts() if any(not w.sha256 for w in expert.card.weights)]
    if nameless:
        names = ", ".join(expert.card.name for expert in nameless)
        if unlocked := not_locked(nameless):
            raise JobError(
                f"{path}: experts: of the weights of {', '.join(unlocked)} the digests are unknown: "
                f"{'; '.join(dict.fromkeys(unlocked.values()))}; copy the weights.lock that belongs to them, or run "
                f"`expert-labels weights fetch --job {path} --at-hand`, which records the files as they are"
            )
        raise JobError(
            f"{path}: experts: the weights of {names} are unknown here, and so the names of their columns; run "
            f"`expert-labels weights fetch --job {path}`, or name a folder that has them by `weights:` or EXPERT_LABELS_WEIGHTS "
            f"(not in the weights.lock of {weights_folders(nameless)})"
        )
    try:
        return _with_columns_read(job)
    except JobError as error:
        raise JobError(f"{path}: {error}") from error


def load_choices(path: str) -> Job:
    """The job at ``path`` whose experts' weights need not be known yet. Raises JobError as `load_job` does."""
    job = validated(Job, path, read_yaml(path), known=_models())
    try:
        job = _with_choices_of_all(job)
        job.create_experts()
    except JobError as error:
        raise JobError(f"{path}: {error}") from error
    return job


def _with_choices_of_all(job: Job) -> Job:
    """``weights`` and ``recipe`` become options of every expert that takes them and says nothing else itself.

    Folders become absolute here: a worker starts elsewhere, perhaps on another machine.
    """
    defaults = {"weights_folder": job.weights, "recipe": job.recipe}
    try:
        takers = {c.name: {o for o in defaults if accepts(c.name, o, use=c.use)} for c in job.experts}
    except ValueError as error:
        raise JobError(f"experts: {error}") from error
    if job.recipe and not any("recipe" in taken for taken in takers.values()):
        raise JobError(f"`recipe`: none of {', '.join(takers)} knows recipes; leave `recipe: {job.recipe}` out")
    choices = []
    for choice in job.experts:
        options = {o: v for o, v in defaults.items() if v is not None and o in takers[choice.name]} | choice.options
        if isinstance(options.get("weights_folder"), str):
            options["weights_folder"] = str(Path(options["weights_folder"]).expanduser().absolute())
        choices.append(choice.model_copy(update={"options": options}))
    return job.model_copy(update={"experts": tuple(choices)})


def _with_columns_read(job: Job) -> Job:
    """An expert that reads what another one says names its column: another version of the one makes another version of the other."""
    columns = {expert.card.name: expert.card.column for expert in job.create_experts()}
    choices = []
    for choice, expert in zip(job.experts, job.create_experts(), strict=True):
        for name in expert.reads:
            if "@" not in name and name not in columns:
                raise JobError(
                    f"experts: {choice.name} reads what {name} says; name {name} among the experts too, or its column ({name}@version)"
                )
            if "@" not in name:
                choice = choice.model_copy(update={"options": choice.options | {"also": columns[name]}})
        choices.append(choice)
    return job.model_copy(update={"experts": tuple(choices)})


def _models() -> list[type[BaseModel]]:
    return [Job, Limits, Web, PackChoice, RayChoice, *models_of_images()]
