"""The one table of expert names, and the way from a name in a job file to an Expert."""

from __future__ import annotations

import difflib
import importlib
import inspect
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expert_zoo.expert import Expert

EXPERTS: dict[str, str] = {
    "image": "expert_zoo.image:Image",
    "ocr": "expert_zoo.ocr.rapid:Ocr",
    "ocr_easyocr": "expert_zoo.ocr.easy:EasyOcr",
    "edge": "expert_zoo.edge.expert:Edge",
    "normal": "expert_zoo.normal.expert:Normal",
    "depth": "expert_zoo.depth.dpt:Depth",
    "depth_anything": "expert_zoo.depth.depth_anything:DepthAnything",
    "seg_coco": "expert_zoo.segmentation:SegCoco",
    "seg_ade": "expert_zoo.segmentation:SegAde",
    "detection": "expert_zoo.detection.detectron.expert:Detection",
    "detection_rtdetr": "expert_zoo.detection.rtdetr:DetectionRtDetr",
    "detection_open": "expert_zoo.detection.open_vocabulary:DetectionOpen",
    "caption": "expert_zoo.language.caption:Caption",
    "match": "expert_zoo.language.match:Match",
    "pocket_depth": "expert_zoo.pocket.experts:PocketDepth",
    "pocket_normal": "expert_zoo.pocket.experts:PocketNormal",
    "pocket_edge": "expert_zoo.pocket.experts:PocketEdge",
    "pocket_seg": "expert_zoo.pocket.experts:PocketSegmentation",
    "pocket_detection": "expert_zoo.pocket.experts:PocketDetection",
    "truth_depth": "expert_zoo.truth:TruthDepth",
    "truth_normal": "expert_zoo.truth:TruthNormal",
    "truth_edge": "expert_zoo.truth:TruthEdge",
    "truth_seg": "expert_zoo.truth:TruthSegmentation",
    "truth_detection": "expert_zoo.truth:TruthDetection",
    "truth_ocr": "expert_zoo.truth:TruthOcr",
}


def create(name: str, *, use: str | None = None, options: Mapping[str, Any] | None = None) -> Expert:
    """The expert called ``name`` in a job file; ``use`` ("module:Class") names one that is not in the table.

    Raises ValueError (unknown name, module or class, option, or a card that calls itself something else).
    """
    expert_class = _find_class(name, use or _where(name))
    options = dict(options or {})
    signature = inspect.signature(expert_class)
    accepted = ", ".join(signature.parameters) or "none"
    for option in options:
        if option not in signature.parameters:
            raise ValueError(f"expert {name!r} has no option {option!r}; it takes {accepted}")
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ValueError(f"expert {name!r}: {error} in its options; it takes {accepted}") from error
    try:
        expert = expert_class(**options)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(f"{name}:") else f"{name}: {text}") from error
    if expert.card.name != name:
        raise ValueError(
            f"the job calls it {name!r}, its card {expert.card.name!r}; use the card's name in the job file"
        )
    return expert


def accepts(name: str, option: str, *, use: str | None = None) -> bool:
    """Whether the expert called ``name`` takes ``option``. Raises ValueError as `create` does for an unknown one."""
    return option in inspect.signature(_find_class(name, use or _where(name))).parameters


def _where(name: str) -> str:
    if name in EXPERTS:
        return EXPERTS[name]
    close = difflib.get_close_matches(name, EXPERTS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(
        f"unknown expert {name!r}; {hint}known are {', '.join(EXPERTS)}; your own need `use: module:Class`"
    )


def _find_class(name: str, where: str) -> type[Expert]:
    module_name, _, class_name = where.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        ours = (__file__, importlib.__file__)
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if f.filename not in ours and "<" not in f.filename
        ]
        line = f", {Path(frames[0].filename).name}:{frames[0].lineno}" if frames else ""  # the module's own
        raise ValueError(
            f"expert {name!r}: cannot import {where!r} ({error}{line}); expected `module:Class` on the path"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Expert)) or inspect.isabstract(found):
        raise ValueError(
            f"expert {name!r}: {where!r} is not a subclass of expert_zoo.expert.Expert with a label method"
        )
    return found
