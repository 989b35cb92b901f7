"""Which weights a configuration of detectron2 goes with, and what their folder is called."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

from expert_zoo.detection.detectron.configuration import Configuration
from expert_zoo.detection.detectron.weight_file import ENDINGS
from expert_zoo.detection.detectron.zoo import LICENCE, PAGE, WEIGHTS
from expert_zoo.weights.checkpoint import Checkpoint, CheckpointFile

UNKNOWN_LICENCE = "not known: the job file named the weights"
#: Weights to begin training with.
BACKBONES = "ImageNetPretrained"
LONGEST_NAME, DIGITS = 100, 8


def checkpoint_of(configuration: Configuration, given: str | None) -> Checkpoint:
    """The checkpoint at ``given``, a URL or a path; None: at what ``configuration`` names.

    Its folder is called after the last two parts of either: "detectron2-137849458-model_final_280758"; those of no model zoo also
    have digits of the whole, because detectron2 calls what it trains output/model_final.pth every time. A file at a path is put
    into that folder by hand: the error that says so names both. Raises ValueError where nothing is named, or no checkpoint.
    """
    where = given or configuration.weights
    if not where or (given is None and BACKBONES in where):
        raise ValueError(
            f"detection: {configuration.name} names no weights of a whole network ({where or 'none'}); name them by `checkpoint:`"
        )
    if where.startswith("detectron2://"):
        where = WEIGHTS + where.removeprefix("detectron2://")
    url = where if where.startswith(("http://", "https://")) else ""
    place = urlsplit(url).path if url else where
    file = Path(place).name
    if not file.endswith(ENDINGS) or (not url and "://" in where):
        raise ValueError(f"detection: checkpoint {where!r}: expected a URL or a path that ends in {', '.join(ENDINGS)}")
    of_the_zoo = url.startswith(WEIGHTS)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"detectron2-{Path(place).parent.name}-{Path(place).stem}")[:LONGEST_NAME]
    # Of the text as it was given, which is the same on every machine, and not of the path that it means there.
    digits = hashlib.sha256(where.encode()).hexdigest()[:DIGITS]
    return Checkpoint(
        name=name if of_the_zoo else f"{name}-{digits}",
        files=(CheckpointFile(path=file, url=url),),
        licence=LICENCE if of_the_zoo else UNKNOWN_LICENCE,
        commercial_use=of_the_zoo,
        page=PAGE if of_the_zoo else url or str(Path(where).expanduser().absolute()),
    )
