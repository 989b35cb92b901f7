"""A folder with the files of another published size is refused: it would load, and be labelled under the wrong card and licence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from expert_zoo.catalog import create
from expert_zoo.depth.depth_anything import SIZES, DepthAnything
from expert_zoo.detection import open_vocabulary, rtdetr


def depth_anything(size: str) -> Any:
    return DepthAnything(size=size).untrained(small=False)  # type: ignore[arg-type]


def detection_rtdetr(size: str) -> Any:
    from transformers import RTDetrV2ForObjectDetection

    return RTDetrV2ForObjectDetection(rtdetr.configuration(size, small=False))


def detection_open(size: str) -> Any:
    from transformers import GroundingDinoForObjectDetection

    return GroundingDinoForObjectDetection(open_vocabulary.configuration(size, small=False, tokens=0))


CASES = [
    ("depth_anything", "expert_zoo.depth.depth_anything", depth_anything, list(SIZES)),
    ("detection_rtdetr", "expert_zoo.detection.rtdetr", detection_rtdetr, list(rtdetr.PARAMETERS)),
    ("detection_open", "expert_zoo.detection.open_vocabulary", detection_open, list(open_vocabulary.PARAMETERS)),
]


@pytest.mark.parametrize(
    ("name", "module", "network", "size", "other"),
    [(*case, size, other) for *case, sizes in CASES for size in sizes for other in sizes if size != other],
)
def test_a_folder_with_another_size_is_refused(
    name: str, module: str, network: Any, size: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a copy into the wrong folder, which `weights fetch --at-hand` then recorded. Built without memory: no values."""
    with torch.device("meta"):
        monkeypatch.setattr(f"{module}.load_pretrained", lambda *_: network(other))
        expert: Any = create(name, options={"size": size})
        with pytest.raises(ValueError, match=rf"^weights here holds the network of size {other}, expected {size}; "):
            expert._build(Path("weights here"))
