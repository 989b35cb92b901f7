"""Sources: each is both a validated section of a job file and the reader of one dataset's own files."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from manifests.sources.caption_list import CaptionList
from manifests.sources.coco import Coco
from manifests.sources.conceptual_captions import Cc3m, Cc12m
from manifests.sources.folder import Folder
from manifests.sources.hf_parquet import HfParquet
from manifests.sources.img2dataset import Img2dataset
from manifests.sources.nocaps import Nocaps
from manifests.sources.sbu import Sbu
from manifests.sources.scenes import Scenes
from manifests.sources.table import Table
from manifests.sources.visual_genome import VisualGenome

#: The table of sources: ``source:`` in a job file chooses among them.
AnySource = Annotated[
    Folder | Coco | VisualGenome | Nocaps | Cc3m | Cc12m | Sbu | CaptionList | Table | Img2dataset | HfParquet | Scenes,
    Field(discriminator="source"),
]

__all__ = [
    "AnySource",
    "CaptionList",
    "Cc12m",
    "Cc3m",
    "Coco",
    "Folder",
    "HfParquet",
    "Img2dataset",
    "Nocaps",
    "Sbu",
    "Scenes",
    "Table",
    "VisualGenome",
]
