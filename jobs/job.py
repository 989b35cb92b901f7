"""The job file: YAML in, a validated `Job` out. Everything a user can get wrong is one line here, before Ray starts."""

from __future__ import annotations

import difflib
from inspect import get_annotations
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from expert_zoo.catalog import accepts
from expert_zoo.expert import Expert
from expert_zoo.weights.needed import weights_folders
from manifests.sources import AnySource, Folder
from pipeline.choices import ExpertChoice
from pipeline.errors import JobError
from pipeline.limits import Limits, Web
from pipeline.plan import SHARD_SIZE

Model = TypeVar("Model", bound=BaseModel)


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


class SourcesFile(BaseModel):
    """What `manifest build` reads; a whole job file will do as well."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: tuple[AnySource, ...] = Field(min_length=1)
    seed: int = 0


class Job(BaseModel):
    """What to label, with which experts, into which store. See docs/job-file.md for every field with its default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str = Field(min_length=1)
    images: tuple[AnySource, ...] = ()
    manifest: str | None = None
    experts: Annotated[tuple[ExpertChoice, ...], BeforeValidator(_expert_list)] = Field(min_length=1)
    weights: str | None = Field(None, min_length=1)
    recipe: Literal["best", "prismer"] | None = None
    shard_size: int = Field(SHARD_SIZE, gt=0)
    seed: int = 0
    failure_limit: float = Field(0.5, ge=0, le=1)
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
        folders = [source.name for source in self.images if isinstance(source, Folder)]
        if len(folders) != len(set(folders)):
            raise ValueError(
                "images: two folders of one name; give each its own `name`, which keeps their image ids apart"
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
        raise JobError(
            f"{path}: experts: the weights of {names} are unknown here, and so the names of their columns; run "
            f"`expert-labels weights fetch --job {path}`, or name a folder that has them by `weights:` or EXPERT_LABELS_WEIGHTS "
            f"(not in the weights.lock of {weights_folders(nameless)})"
        )
    return job


def load_choices(path: str) -> Job:
    """The job at ``path`` whose experts' weights need not be known yet. Raises JobError as `load_job` does."""
    job = _validated(Job, path, _read_yaml(path))
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


def load_sources(path: str) -> SourcesFile:
    """The ``images`` and ``seed`` of the file at ``path``. Raises JobError as `load_job` does."""
    found = _read_yaml(path)
    if "experts" in found:
        found = {key: found[key] for key in ("images", "seed") if key in found}
    return _validated(SourcesFile, path, found)


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JobError(f"no file {path}; `jobs/photos.yaml` in the repository is a job to copy") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise JobError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise JobError(f"{path}: expected `key: value` lines (docs/job-file.md), found {type(found).__name__}")
    return found


def _validated(model: type[Model], path: str, found: dict[str, Any]) -> Model:
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise JobError(f"{path}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    """One line for the first of pydantic's findings: where, what, and the name that was probably meant."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-"))
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        close = difflib.get_close_matches(key, _known_keys(), n=1)
        return f"unknown key `{place}`" + (
            f"; did you mean `{close[0]}`?" if close else "; docs/job-file.md lists all keys"
        )
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return (f"`{place}`: {message}" if place else message) + more


def _known_keys() -> list[str]:
    sources = get_args(get_args(AnySource)[0])
    return [key for model in (Job, Limits, Web, PackChoice, RayChoice, *sources) for key in get_annotations(model)]
