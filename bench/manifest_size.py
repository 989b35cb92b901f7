"""A manifest of eleven million images from the five datasets' original forms: built, planned, measured at three sizes.

    python -m bench.manifest_size --manifest-scales 0.01 0.1 1

The lists are made by `bench.original_files`. Each step runs in processes of its own; peak memory is that of all of them
together, looked at four times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench.original_files import write_all
from bench.report import Figure, Part, Table, run_alone
from jobs.building import build_manifest
from jobs.sources_file import load_sources
from manifests.manifest import Manifest
from pipeline.plan import SHARD_SIZE
from pipeline.store import LabelStore

GOAL_BUILD_SECONDS, GOAL_GB, GOAL_PLAN_SECONDS = 600.0, 2.0, 60.0
_LOOK = 0.25


def build(sources: str, out: str, workers: str) -> dict[str, Any]:
    """Seconds of each step, and what came out."""
    start = time.perf_counter()
    begun: dict[str, float] = {}

    def told(what: str, done: int, total: int | None) -> None:
        begun.setdefault(what, time.perf_counter() - start)

    report = build_manifest(load_sources(sources), out, workers=int(workers), progress=told)
    end = time.perf_counter() - start
    steps = list(begun.items())
    seconds = {what: after - at for (what, at), (_, after) in zip(steps, [*steps[1:], ("", end)], strict=True)}
    return {"seconds": end, "steps": seconds, **report.as_json(), "bytes": Path(out).stat().st_size}


def plan(manifest: str, store: str) -> dict[str, Any]:
    start = time.perf_counter()
    made = LabelStore.create(store, Manifest.open(manifest), shard_size=SHARD_SIZE)
    return {"seconds": time.perf_counter() - start, "shards": len(made.plan)}


def alone(step: str, *arguments: str) -> dict[str, Any]:
    """A step in a process of its own, with the peak of the memory that it and its workers had, in bytes."""
    code = f"import json, sys, bench.manifest_size as m; print(json.dumps(m.{step}(*sys.argv[1:])))"
    guarded = f"if __name__ == '__main__':\n    {code.replace('; ', chr(10) + '    ')}\n"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        script = Path(folder) / "step.py"
        script.write_text(guarded)
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        process = subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.PIPE, env=environment)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(_LOOK)
        assert process.stdout is not None
        text = process.stdout.read()
    if process.returncode:
        raise SystemExit(process.returncode)
    return {**json.loads(text), "peak": peak}


def _memory(pid: int) -> int:
    """Bytes of a process and all below it, as they are resident; pages that two of them map count twice."""
    total = 0
    try:
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def measure(arguments: argparse.Namespace) -> Part:
    rows = [
        [
            "images",
            "captions",
            "read",
            "find what is one",
            "write",
            "build",
            "peak memory",
            "plan",
            "shards",
            "manifest",
        ]
    ]
    figures: list[Figure] = []
    for scale in arguments.manifest_scales:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.manifest_folder) as name:
            folder = Path(name)
            lists = (
                arguments.manifest_lists
                if arguments.manifest_lists and scale == arguments.manifest_scales[-1]
                else folder / "lists"
            )
            if lists == folder / "lists":
                write_all(lists, scale=scale)
            out = str(folder / "manifest.parquet")
            built = alone("build", str(lists / "sources.yaml"), out, str(arguments.manifest_workers))
            planned = alone("plan", out, str(folder / "store"))
        images, seconds, peak = built["images"], built["seconds"], built["peak"] / 1e9
        steps = built["steps"]
        rows.append(
            [
                f"{images:,}",
                f"{built['captions']:,}",
                *(f"{steps[what]:.1f} s" for what in ("reading", "finding what is one picture", "writing")),
                f"{seconds:.1f} s",
                f"{peak:.2f} GB",
                f"{planned['seconds']:.1f} s",
                f"{planned['shards']:,}",
                f"{built['bytes'] / 1e6:,.0f} MB",
            ]
        )
        full = scale >= 1
        figures = [
            Figure(
                name="build",
                value=seconds,
                unit="s",
                goal="below 600",
                met=seconds < GOAL_BUILD_SECONDS if full else None,
            ),
            Figure(
                name="peak memory of the build",
                value=peak,
                unit="GB",
                goal="below 2",
                met=peak < GOAL_GB if full else None,
            ),
            Figure(
                name="plan",
                value=planned["seconds"],
                unit="s",
                goal="below 60",
                met=planned["seconds"] < GOAL_PLAN_SECONDS if full else None,
            ),
            Figure(name="peak memory of planning", value=planned["peak"] / 1e9, unit="GB"),
        ]
    how = (
        f"Lists in the original forms of COCO (Karpathy), Visual Genome, CC3M, SBU and CC12M, three guards, {arguments.manifest_workers} "
        f"workers; then `LabelStore.create` with shards of {SHARD_SIZE}. The figures are of the largest size. Making the lists "
        "is not counted."
    )
    return Part(title="Manifests", how=how, figures=figures, tables=[Table(title="By size:", rows=rows)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manifest-scales", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument("--manifest-workers", type=int, default=2)
    parser.add_argument("--manifest-folder", type=Path, default=None, help="for lists and manifests; at scale 1, 10 GB")
    parser.add_argument(
        "--manifest-lists", type=Path, default=None, help="lists that are there, for the last of the scales"
    )


if __name__ == "__main__":
    run_alone(measure, add_arguments, __doc__ or "")
