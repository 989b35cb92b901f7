"""The part of a job file that says which images: sources, and the rules by which they become a manifest."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jobs.yaml_file import read_yaml, validated
from manifests.cleaning import CaptionRules
from manifests.duplicates import Duplicates
from manifests.guard import AnyGuard
from manifests.sources import AnySource

#: Sources whose image ids say where a picture lies, below the source's name: two of one name could mean different pictures.
_NAMED_BY_PLACE = ("folder", "table", "caption_list", "img2dataset", "hf_parquet")


class ImageChoices(BaseModel):
    """Which images there are. ``root``: stands for ``${root}`` everywhere in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str | None = Field(None, min_length=1)
    images: tuple[AnySource, ...] = ()
    seed: int = 0
    captions: CaptionRules = CaptionRules()
    guard: tuple[AnyGuard, ...] = ()
    duplicates: Duplicates = Duplicates()

    @model_validator(mode="after")
    def _names_apart(self) -> ImageChoices:
        names = [(source.source, source.name) for source in self.images if source.source in _NAMED_BY_PLACE]
        for kind, name in names:
            if names.count((kind, name)) > 1:
                what = "folders" if kind == "folder" else f"sources `{kind}`"
                raise ValueError(
                    f"images: two {what} of one name ({name}); give each its own `name`, which keeps their image ids apart"
                )
        return self


class SourcesFile(ImageChoices):
    """What `manifest build` reads; a whole job file will do as well."""

    images: tuple[AnySource, ...] = Field(min_length=1)


def models_of_images() -> list[type[BaseModel]]:
    """All models whose keys may stand in this part of a file."""
    unions = [get_args(AnySource)[0], get_args(AnyGuard)[0]]
    return [ImageChoices, CaptionRules, Duplicates, *(model for union in unions for model in get_args(union))]


def load_sources(path: str) -> SourcesFile:
    """The images of the file at ``path``, which may be a job file. Raises JobError: one line, with file and place."""
    found = read_yaml(path)
    if "experts" in found:
        found = {key: value for key, value in found.items() if key in ImageChoices.model_fields}
    return validated(SourcesFile, path, found, known=models_of_images())
