"""detectron2's model zoo as a table, so that a machine without detectron2 knows what a configuration wants.

zoo.txt, one configuration a line, columns apart by blanks:

    name         in detectron2's model zoo
    weights      below WEIGHTS/<name without its ending>/
    parameters   of the whole network, as built
    short, long  sides in pixels to which the configuration resizes a photo for testing, and its order of channels
    classes      number of classes
    digest       of the configuration's contents (configuration.py)

It was written from detectron2 itself, at the commit in COMMIT; tests/test_detectron2.py compares every line with it where it is
installed. Networks that make no boxes of classes by themselves (proposals alone, Fast R-CNN) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, cast

Channels = Literal["RGB", "BGR"]

VERSION = "0.6"
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"
INSTALL = f"pip install --no-build-isolation 'detectron2 @ git+https://github.com/facebookresearch/detectron2@{COMMIT}'"
WEIGHTS = "https://dl.fbaipublicfiles.com/detectron2/"
LICENCE = "CC-BY-SA-3.0"
PAGE = "https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooModel:
    """One line of the table."""

    name: str
    weights: str
    parameters: int
    short: int
    long: int
    channels: Channels
    classes: int
    digest: str

    @property
    def url(self) -> str:
        return f"{WEIGHTS}{self.name.rpartition('.')[0]}/{self.weights}"


@cache
def zoo_models() -> dict[str, ZooModel]:
    """The table by name."""
    models = {}
    for line in (Path(__file__).parent / "zoo.txt").read_text(encoding="utf-8").splitlines():
        name, weights, parameters, short, long, channels, classes, digest = line.split()
        models[name] = ZooModel(
            name=name,
            weights=weights,
            parameters=int(parameters),
            short=int(short),
            long=int(long),
            channels=cast(Channels, channels),
            classes=int(classes),
            digest=digest,
        )
    return models
