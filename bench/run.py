"""All parts of the benchmark, one after the other: `make bench`.

python -m bench.run            as the record in docs/benchmarks.md, about fifteen minutes on two cores
python -m bench.run --quick    small numbers, to see that everything runs; its figures mean little
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench import growing, loader, manifest_size, occlusion, plan, png, scan, scenes, size, throughput
from bench.report import Part, measured, show

QUICK = {
    "images": 32,
    "shard_size": 8,
    "turns": 1,
    "cells": 600,
    "records": 20_000,
    "manifest_scales": [0.001],
    "grown": 50_000,
    "scenes": 40,
    "png_scenes": 4,
    "expert_photos": 8,
    "occlusion_cases": 1,
    "loader_photos": 16,
    "loader_shard_size": 8,
    "loader_turns": 1,
    "loader_seconds": 1.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure throughput, scanning, planning, manifests, growing, size, scenes, PNG encoding and the loader."
    )
    parts = (throughput, scan, plan, manifest_size, growing, scenes, png, occlusion, loader)
    for part in parts:
        part.add_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that everything runs")
    parser.add_argument("--json", action="store_true", help="JSON instead of Markdown")
    arguments = parser.parse_args()
    if arguments.quick:
        vars(arguments).update(QUICK)
    found: list[Part] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        print("throughput ...", file=sys.stderr, flush=True)
        found.append(measured(lambda chosen: throughput.measure_in(Path(folder), chosen), arguments))
        arguments.store = str(Path(folder) / "store")
        found.append(measured(size.measure, arguments))
    for part in parts[1:]:
        print(f"{part.__name__.split('.')[-1]} ...", file=sys.stderr, flush=True)
        found.append(measured(part.measure, arguments))
    show(found, as_json=arguments.json)
    missed = [f"{part.title}: {figure.name}" for part in found for figure in part.figures if figure.met is False]
    if missed:
        print(f"goals missed: {'; '.join(missed)}", file=sys.stderr)


if __name__ == "__main__":
    main()
