"""Class names of data sets: one text file each, one name a line, the name of class i on line i + 1.

coco            80 things, in the order of their ids without the gaps
coco_panoptic   the 80 things of `coco`, then the 53 classes of stuff of COCO panoptic
ade20k          the 150 classes of the ADE20K scene parsing benchmark
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path


@cache
def class_names(name: str) -> tuple[str, ...]:
    """The names of the data set ``name``; the tuple's index is the class id."""
    return tuple((Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8").splitlines())


def check_class_names(name: str, found: Mapping[int, str], *, where: str) -> None:
    """Raises ValueError unless ``found`` ({class id: name}, as a checkpoint states it) is the data set ``name``.

    where: of the checkpoint, for the message. Blanks around a name are overlooked: published files have "bed ".
    """
    expected = dict(enumerate(class_names(name)))
    stated = {index: text.strip() for index, text in found.items()}
    for index in sorted(expected.keys() | stated.keys()):
        if expected.get(index) != stated.get(index):
            raise ValueError(
                f"{where}: class {index} is {stated.get(index)!r}, {name} has {expected.get(index)!r} "
                f"({len(stated)} classes, expected {len(expected)}); fetch the checkpoint that the expert's card names"
            )
