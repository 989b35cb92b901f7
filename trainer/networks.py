"""Networks of other people that training begins with, or makes vectors with: where they are published, and where they lie here.

A recipe names one by its name, then it lies in the weights folder, or by a folder of any place. Revisions are those that public
documents name; the released Prismers' newest one is recorded when it is first fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from expert_zoo.networks.pretrained import CONFIG, PICKLED, SAFETENSORS
from expert_zoo.networks.tokenizer_file import TOKENIZER
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile
from expert_zoo.weights.folder import WeightsFolder
from trainer.errors import RecipeError

if TYPE_CHECKING:
    from trainer.recipe import Recipe

FETCH = "`expert-labels weights fetch --recipe RECIPE.yaml`"
_HUB = "https://huggingface.co"


def _of_transformers(repo: str, revision: str, *, licence: str = "MIT") -> Checkpoint:
    files = (
        CheckpointFile(path=CONFIG),
        CheckpointFile(path=SAFETENSORS, or_else=PICKLED),
        CheckpointFile(path=TOKENIZER),
    )
    name = repo.partition("/")[2]
    return Checkpoint(
        name=name,
        repo=repo,
        revision=revision,
        files=files,
        licence=licence,
        commercial_use=True,
        page=f"{_HUB}/{repo}",
    )


def _prismer(name: str) -> Checkpoint:
    file = CheckpointFile(path=PICKLED, hub_path=f"{name}/{PICKLED}")
    page = f"{_HUB}/shikunl/prismer"
    return Checkpoint(
        name=name, repo="shikunl/prismer", files=(file,), licence="CC-BY-NC-SA-4.0", commercial_use=False, page=page
    )


#: Whose text encoder makes embeddings.
CLIP_OF_EMBEDDINGS: Final = _of_transformers(
    "openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41"
)
_ALL = (
    _of_transformers("openai/clip-vit-base-patch16", "57c216476eefef5ab752ec549e440a49ae4ae5f3"),
    _of_transformers("openai/clip-vit-large-patch14-336", "ce19dc912ca5cd21c8a653c79e251e808ccabcd1"),
    CLIP_OF_EMBEDDINGS,
    _of_transformers("FacebookAI/roberta-base", "e2da8e2f811d1448a5b465c236feacd80ffbac7b"),
    _of_transformers("FacebookAI/roberta-large", "722cf37b1afa9454edce342e7895e588b6ff1d59"),
    *(
        _prismer(f"{what}_{kind}_{size}")
        for what in ("pretrain", "caption", "vqa")
        for kind in ("prismer", "prismerz")
        for size in ("base", "large")
    ),
)
#: By name.
NETWORKS: Final[dict[str, Checkpoint]] = {checkpoint.name: checkpoint for checkpoint in _ALL}


@dataclass(frozen=True, kw_only=True)
class Place:
    """key: of the recipe. folder: where the files are looked for. checkpoint: what it is by its name; None for one of the user's own."""

    key: str
    folder: Path
    checkpoint: Checkpoint | None

    @property
    def weights_folder(self) -> WeightsFolder:
        """The weights folder that it lies in."""
        return WeightsFolder(self.folder.parent)


def folder_of(value: str) -> Path:
    """The folder that a recipe means: a known name stands for that network in the weights folder, where there is no such path."""
    path = Path(value).expanduser()
    if value in NETWORKS and not path.exists():
        return WeightsFolder().path(NETWORKS[value])
    return path.absolute()


def weights_file_of(value: str) -> Path:
    """The file that a recipe's `method.weights` means: a path, or the name of a released Prismer."""
    path = folder_of(value)
    return path / PICKLED if value in NETWORKS else path


def places_of(recipe: Recipe) -> Iterator[Place]:
    """Every network that the recipe begins with, its folder once for each of its keys."""
    method = recipe.method
    for key in ("clip", "roberta", "tokenizer"):
        value = getattr(method, key)
        if value is not None:
            yield _place(f"method.{key}", folder_of(value))
    if method.weights is not None and weights_file_of(method.weights).suffix != ".safetensors":
        yield _place("method.weights", weights_file_of(method.weights).parent)


def _place(key: str, folder: Path) -> Place:
    return Place(key=key, folder=folder, checkpoint=NETWORKS.get(folder.name))


def vectors_are_missing(recipe: Recipe) -> bool:
    """Whether the recipe shows names as vectors that are not made yet, or that CLIP made and may have to add to."""
    from trainer.embeddings.folder import Embeddings

    if recipe.method.embeddings is None:
        return False
    try:
        origin = Embeddings(recipe.method.embeddings).origin()
    except (OSError, ValueError):
        return True
    return origin is None or origin.method != "random"


def check_at_hand(recipe: Recipe) -> None:
    """Before anything else is done. Reads every byte of what a lock beside it tells the digests of. Raises RecipeError."""
    for place in places_of(recipe):
        known = place.checkpoint
        missing = _missing(place)
        if missing:
            what = f"{known.name} is" if known else "it is"
            way_out = f"run {FETCH}, or name a folder that has them" if known else "name a folder that has them"
            raise RecipeError(f"`{place.key}`: {what} not at hand: {place.folder} has no {missing}; {way_out}")
    for folder, known in {place.folder: place.checkpoint for place in places_of(recipe)}.items():
        if known is not None and WeightsFolder(folder.parent).entry(known) is not None:
            try:
                WeightsFolder(folder.parent).verified(known, fetch="--recipe RECIPE.yaml")
            except ValueError as error:
                raise RecipeError(str(error)) from error


def _missing(place: Place) -> str:
    """What the folder lacks, in words; "" if nothing."""
    there = {name for name in (CONFIG, SAFETENSORS, PICKLED, TOKENIZER) if (place.folder / name).is_file()}
    if place.key == "method.tokenizer":
        return "" if TOKENIZER in there else TOKENIZER
    if place.key == "method.weights":
        return "" if place.checkpoint is None or PICKLED in there else PICKLED
    if not there & {SAFETENSORS, PICKLED}:
        return f"{SAFETENSORS} or {PICKLED}"
    return "" if CONFIG in there else CONFIG
