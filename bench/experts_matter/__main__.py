"""The whole experiment by one command; killed and run again, it goes on where it was.

python -m bench.experts_matter                     everything, then docs/results.md from what is done
python -m bench.experts_matter --only z,six        some arms
python -m bench.experts_matter --report            the document only
python -m bench.experts_matter --run six --seed 0  one run in this process

Runs are done seed by seed, so that whatever is done by now compares all arms; as many at once as there are cores, with one thread
each, or one at a time on a GPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.experts_matter.arms import ARMS, LONGER, Arm, Scale
from bench.report import cores

FOLDER = Path("out/experts_matter")
DOCUMENT = Path("docs/results.md")


def main() -> int:
    """Exit code: 0 if every run that was asked for is done."""
    parser = argparse.ArgumentParser(description="Do experts help? A tiny PrismerZ against tiny Prismers on scenes.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where store and runs are kept")
    parser.add_argument("--only", help="names of arms, with commas between them")
    parser.add_argument("--seeds", type=int, default=Scale().seeds)
    parser.add_argument("--jobs", type=int, help="runs at once")
    parser.add_argument("--report", action="store_true", help="run nothing, write the document")
    parser.add_argument("--run", help="one arm, in this process")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    by_name = {arm.name: arm for arm in (*ARMS, *LONGER)}
    names = chosen.only.split(",") if chosen.only else list(by_name)
    unknown = sorted({*names, *([chosen.run] if chosen.run else [])} - set(by_name))
    if unknown:
        parser.error(f"no arm {unknown[0]}; expected some of {', '.join(by_name)}")
    scale = Scale()
    if chosen.run:
        return _one(by_name[chosen.run], chosen.seed, scale, chosen.folder)
    done = True
    if not chosen.report:
        from bench.experts_matter.store import prepare

        prepare(scale, chosen.folder)
        wanted = [(seed, name) for seed in range(chosen.seeds) for name in names if seed == 0 or by_name[name] in ARMS]
        with ThreadPoolExecutor(chosen.jobs or _at_once()) as pool:
            done = all(list(pool.map(lambda one: _in_a_process(one[0], one[1], chosen.folder), wanted)))
    from bench.experts_matter.report import write

    write(chosen.folder, DOCUMENT)
    return 0 if done else 1


def _one(arm: Arm, seed: int, scale: Scale, folder: Path) -> int:
    import cv2
    import torch

    from bench.experts_matter.learning import learn

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
    learn(arm, seed, scale, folder)
    return 0


def _in_a_process(seed: int, name: str, folder: Path) -> bool:
    """Whether the run is done. What it says is kept beside it."""
    run = folder / "runs" / f"{name}-{seed}"
    if (run / "result.json").exists():
        return True
    run.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "bench.experts_matter",
        "--run",
        name,
        "--seed",
        str(seed),
        "--folder",
        str(folder),
    ]
    with (run / "output.txt").open("a") as output:
        code = subprocess.call(command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"})
    print(f"{name}, seed {seed}: {'done' if code == 0 else f'exit code {code}, see {run}/output.txt'}", flush=True)
    return code == 0


def _at_once() -> int:
    import torch

    return 1 if torch.cuda.is_available() else cores()


if __name__ == "__main__":
    sys.exit(main())
