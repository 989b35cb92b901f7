"""What a driver needs for so many units, up to a million: CPU seconds, memory, and the time before the first worker begins.

    python -m bench.scaling units --units 1000 10000 100000 1000000

A store whose cells are all committed (empty files in place of receipts, which nobody reads), and `label_on_ray` that is told to fill them
nevertheless: workers look, find each cell there and say so. All that is left is the driver's loop, Ray, and one worker that is never busy with images.
It runs for so many seconds at most, since a million units through one worker on one core are hours; memory is at its largest before the first unit begins.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.report import Figure, Part, Table, peak_memory
from bench.scaling.actors import SLOW_START, simulated_ray
from bench.scaling.simulated import Simulated
from jobs.planning import shared_out
from jobs.progress import Progress
from jobs.summary import ColumnSummary, Summary
from pipeline.choices import ExpertChoice, Pack
from pipeline.lacking import missing_cells
from pipeline.plan import SHARD_SIZE, ShardPlan, shard_name
from pipeline.storage import open_storage
from pipeline.store import PLAN, LabelStore

OPTIONS: dict[str, object] = {"seconds": 0.0, "workers": 1}
OTHER = "other"


def make_store(folder: Path, units: int) -> None:
    """A plan of ``units`` shards and no image; `Simulated` has a file in place of every receipt."""
    plan = ShardPlan(manifest="0" * 64, images=units * SHARD_SIZE, shard_size=SHARD_SIZE, seed=0)
    open_storage(str(folder)).publish(PLAN, plan.model_dump_json().encode())
    store = LabelStore.open(str(folder))
    card = _expert(folder).card
    store.add_column(card)
    column = folder / store.folder(card.column)
    for index in range(units):
        (column / f"{shard_name(index)}.json").touch()


def drive(folder: str, limit: float) -> dict[str, float]:
    """Seconds and memory of each step of a driver, in this process."""
    import ray

    from pipeline.cluster import label_on_ray

    me, found = psutil.Process(), dict[str, float]()

    def step(name: str, begin: float, cpu: float) -> None:
        found[f"{name}_seconds"], found[f"{name}_cpu"] = time.perf_counter() - begin, _cpu(me) - cpu
        found[f"{name}_memory"] = float(me.memory_info().rss)

    found["imports"] = float(me.memory_info().rss)
    begin, cpu = time.perf_counter(), _cpu(me)
    store = LabelStore.open(folder)
    expert = _expert(Path(folder))
    committed = store.committed(expert.card.column)
    step("listing", begin, cpu)
    assert len(committed) == len(store.plan), f"{len(committed)} of {len(store.plan)} found"
    del committed
    begin, cpu = time.perf_counter(), _cpu(me)
    choice = ExpertChoice(name="simulated", use="bench.scaling.simulated:Simulated", options=_options(Path(folder)))
    pack = Pack(name="pack0", experts=(choice,), cpus=1)
    # As in a job: a column that nobody has filled. The workers will be asked for the one that is there.
    cells = [(shard, [expert.card.column]) for shard, _ in missing_cells(store, [f"{OTHER}@0123456789"])]
    work = shared_out(cells, [pack], [expert])
    summary = Summary({expert.card.column: ColumnSummary(asked=len(cells))})
    progress = Progress(work)
    step("planning", begin, cpu)
    with simulated_ray(cpus=1) as address:
        ray.init(address=address, log_to_driver=False)
        raylet = next(child for child in me.children(recursive=True) if child.name() == "raylet")
        found["raylet_before"] = float(raylet.memory_info().rss)
        begin, cpu = time.perf_counter(), _cpu(me)
        answers = 0
        for results in label_on_ray(folder, work, run="bench"):
            if answers == 0:
                step("first", begin, cpu)
                found["raylet_memory"] = float(raylet.memory_info().rss)
                begin, cpu = time.perf_counter(), _cpu(me)
            answers += 1
            for result in results:
                summary.add(result)
            progress.add(results)
            if time.perf_counter() - begin > limit:
                break
        step("answers", begin, cpu)
        ray.shutdown()
    return found | {"answers": answers, "peak": peak_memory()}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _options(folder: Path) -> dict[str, object]:
    diary = folder / "diary"
    diary.mkdir(exist_ok=True)
    return OPTIONS | {"diary": str(diary)}


def _expert(folder: Path) -> Simulated:
    return Simulated(**_options(folder))  # type: ignore[arg-type]


def measure(arguments: argparse.Namespace) -> Part:
    """One driver for each number of units, in a process of its own."""
    found = {units: _in_its_own_process(units, arguments.limit) for units in arguments.units}
    most, one = max(found.items())
    how = (
        f"Units of one expert; a driver that asks for all of them, and one worker that finds them committed. For at most {arguments.limit:.0f} s "
        "after the first answer."
    )
    figures = [
        Figure(name=f"{most:,} units: until the first answer", value=one["first_seconds"], unit="s"),
        Figure(name=f"{most:,} units: driver, peak memory", value=one["peak"] / 1e9, unit="GB"),
        Figure(name=f"{most:,} units: driver, CPU for each answer", value=_each(one), unit="ms"),
    ]
    return Part(title="Units", how=how, figures=figures, tables=[_table(found)])


def _each(one: dict[str, float]) -> float:
    return 1000 * one["answers_cpu"] / max(1, one["answers"] - 1)


def _table(found: dict[int, dict[str, float]]) -> Table:
    rows: list[Sequence[str]] = [["", *(f"{units:,}" for units in found)]]
    every = list(found.values())
    rows.append(["listing a column of so many receipts, s", *(f"{one['listing_seconds']:.2f}" for one in every)])
    rows.append(["missing cells, units, progress, s", *(f"{one['planning_seconds']:.2f}" for one in every)])
    rows.append(["memory after that, MB", *(f"{one['planning_memory'] / 1e6:.0f}" for one in every)])
    rows.append(["`label_on_ray` until the first answer, s", *(f"{one['first_seconds']:.1f}" for one in every)])
    rows.append(["of it CPU of the driver, s", *(f"{one['first_cpu']:.1f}" for one in every)])
    rows.append(["driver, memory then, MB", *(f"{one['first_memory'] / 1e6:.0f}" for one in every)])
    rows.append(
        [
            "raylet, memory grown by, MB",
            *(f"{(one['raylet_memory'] - one['raylet_before']) / 1e6:.0f}" for one in every),
        ]
    )
    rows.append(["answers looked at", *(f"{one['answers']:,.0f}" for one in every)])
    rows.append(["driver, CPU for each answer, ms", *(f"{_each(one):.2f}" for one in every)])
    rows.append(["driver, peak memory, MB", *(f"{one['peak'] / 1e6:.0f}" for one in every)])
    rows.append(["of which the imports, MB", *(f"{one['imports'] / 1e6:.0f}" for one in every)])
    return Table(title="By number of units:", rows=rows)


def _in_its_own_process(units: int, limit: float) -> dict[str, float]:
    print(f"{units} units ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        make_store(Path(folder), units)
        code = f"import json, bench.scaling.units as u; print('found', json.dumps(u.drive({folder!r}, {limit})))"
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=os.environ | SLOW_START
        )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("found "))
    print(line, file=sys.stderr, flush=True)
    return dict(json.loads(line.removeprefix("found ")))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--units", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--limit", type=float, default=60.0, help="seconds after the first answer")
