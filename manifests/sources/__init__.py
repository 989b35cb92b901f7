"""Sources: each is both a validated section of a job file and the reader of one dataset's own files."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from manifests.sources.coco import Coco
from manifests.sources.folder import Folder
from manifests.sources.scenes import Scenes

#: The table of sources: ``source:`` in a job file chooses among them.
AnySource = Annotated[Folder | Coco | Scenes, Field(discriminator="source")]

__all__ = ["AnySource", "Coco", "Folder", "Scenes"]
