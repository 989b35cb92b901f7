"""Every expert of the catalog, ready to run without a download: small checkpoints of seeded random weights, small inputs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from expert_zoo.catalog import accepts, create
from expert_zoo.expert import Expert
from expert_zoo.labels import ClassMap, DenseMap, Instances, Label, Scores, Text, Words
from tests.conftest import comparable

#: Pixels of the networks' inputs.
SIDE = 96
#: What an expert cannot do without, or what keeps it quick.
OPTIONS: dict[str, dict[str, Any]] = {"detection_open": {"classes": ["ball", "box", "traffic light"]}}

WITHOUT_DETECTRON2 = importlib.util.find_spec("detectron2") is None
REASON = "detectron2 is in no package index; docs/experts.md has the command that brings it from its repository"


def runs_here(name: str) -> bool:
    return name != "detection" or not WITHOUT_DETECTRON2


def options_of(name: str) -> dict[str, Any]:
    return OPTIONS.get(name, {}) | ({"side": SIDE} if accepts(name, "side") else {})


def create_small(name: str, weights: Path) -> Expert:
    where = {"weights_folder": str(weights)} if accepts(name, "weights_folder") else {}
    return create(name, options=options_of(name) | where)


def difference(one: Label, other: Label) -> float:
    """How far two labels are apart, where 1 is the whole range of the label; infinite where they differ in kind or number."""
    if (one.status, one.reason, type(one.value)) != (other.status, other.reason, type(other.value)):
        return np.inf
    match one.value, other.value:
        case (DenseMap(a), DenseMap(b)) if a.shape == b.shape:
            return float(np.abs(a - b).max() / max(float(np.ptp(a)), 1e-6))
        case (ClassMap(a), ClassMap(b)) if a.shape == b.shape:
            return float((a != b).mean())
        case (Instances(), Instances()) if len(one.value.boxes_N4) == len(other.value.boxes_N4):
            if not np.array_equal(one.value.class_ids_N, other.value.class_ids_N):
                return np.inf
            size = float(one.value.boxes_N4.max())
            moved = float(np.abs(one.value.boxes_N4 - other.value.boxes_N4).max() / size)
            return max(moved, float(np.abs(one.value.scores_N - other.value.scores_N).max()))
        case (Words(a, texts_a, _), Words(b, texts_b, _)) if texts_a == texts_b and a.shape == b.shape:
            return float(np.abs(a - b).max() / max(float(a.max()), 1.0))
        case (Text(a, p), Text(b, q)) if a == b:
            return abs(p - q) / max(1.0, abs(p))
        case (Scores(a), Scores(b)) if a.shape == b.shape:
            return float(np.abs(a - b).max())
    return 0.0 if comparable(one) == comparable(other) else np.inf
