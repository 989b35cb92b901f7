"""How well the pocket experts (and, with --words, ocr) label held-out scenes: the table of docs/pocket.md.

    python -m bench.pocket_accuracy --scenes 500 --words

The numbers are those of `expert-labels audit --against truth`, from the labels as the experts say them, before they are stored.
"""

from __future__ import annotations

import argparse
import time

from expert_zoo.catalog import create
from expert_zoo.expert import Photo
from manifests.scenes import render_uri, scene_uri
from pipeline.agreement import compare

HELD_OUT_SEED = 2000
"""Training uses another seed (expert_zoo/pocket/train.py), so none of these scenes was ever trained on."""

PAIRS = {
    "pocket_depth": "truth_depth",
    "pocket_normal": "truth_normal",
    "pocket_edge": "truth_edge",
    "pocket_seg": "truth_seg",
    "pocket_detection": "truth_detection",
    "ocr": "truth_ocr",
}

TARGETS = {
    "pocket_depth": ("delta1", ">=", 0.90),
    "pocket_normal": ("mean_angle", "<=", 15.0),
    "pocket_edge": ("f1", ">=", 0.80),
    "pocket_seg": ("mean_iou", ">=", 0.75),
    "pocket_detection": ("ap50", ">=", 0.70),
    "ocr": ("recall", ">=", 0.85),
}


def measure(names: list[str], scenes: int) -> bool:
    """Print a Markdown table, one row per expert; whether every target was met."""
    mine, true = {name: create(name) for name in names}, {name: create(PAIRS[name]) for name in names}
    agreements = {name: compare(mine[name].card.spec, true[name].card.spec) for name in names}
    seconds = dict.fromkeys(names, 0.0)
    for expert in mine.values():
        expert.load("cpu")
    for index in range(scenes):
        uri = scene_uri(HELD_OUT_SEED, index)
        photo = Photo(image_id=f"scene_{index}", uri=uri, pixels_HW3=render_uri(uri).photo_HW3)
        for name in names:
            started = time.process_time()
            (label,) = mine[name].label([photo])
            seconds[name] += time.process_time() - started
            agreements[name].add(label, true[name].label([photo])[0], photo.height, photo.width)
    print("| expert | measure | target | measured | CPU ms a photo | also |")
    print("|---|---|--:|--:|--:|---|")
    all_met = True
    for name in names:
        metric, sense, target = TARGETS[name]
        result = agreements[name].result()
        value = result.pop(metric)
        all_met &= value >= target if sense == ">=" else value <= target
        rest = ", ".join(f"{key} {other:.3f}" for key, other in result.items() if not other.is_integer())
        print(
            f"| {name} | {metric} | {sense} {target:g} | {value:.3f} | {1000 * seconds[name] / scenes:.0f} | {rest} |"
        )
    return all_met


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of the pocket experts on held-out scenes.")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--words", action="store_true", help="read the signs with ocr as well (about 0.3 s a scene)")
    arguments = parser.parse_args()
    names = [name for name in PAIRS if name != "ocr" or arguments.words]
    started = time.perf_counter()
    met = measure(names, arguments.scenes)
    print(f"\n{arguments.scenes} scenes of seed {HELD_OUT_SEED} in {time.perf_counter() - started:.0f} s")
    raise SystemExit(0 if met else "a target was missed")


if __name__ == "__main__":
    main()
