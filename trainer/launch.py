"""Where a training begins: the same function in one process, under torchrun, and under Ray Train.

    python -m trainer.launch RECIPE.yaml --out FOLDER --set optimizer.clip=1.0
    torchrun --nproc-per-node 8 -m trainer.launch RECIPE.yaml --out FOLDER

Exit codes: 0 finished; 2 the recipe cannot be trained as it stands, or the loss is no number any more, and one line says why; 143 or
130 asked to stop, by SIGTERM or Ctrl-C: a checkpoint is written, and the same command goes on from it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.errors import ExpertLabelsError
from trainer.errors import RecipeError, TrainingError
from trainer.recipe import Recipe, change_of, load_recipe

if TYPE_CHECKING:
    from filelock import FileLock

    from trainer.loop import Outcome

LOCK = "lock"
#: What Ray's workers could not do, in one line.
PROBLEM = "problem.txt"


def train(recipe: Recipe, folder: Path, *, only_begin: bool = False) -> Outcome:
    """Trains as one of the ranks that there are, and keeps everything in ``folder``; goes on where a run there was interrupted.

    only_begin: keeps what it would begin with, released weights for instance, as a checkpoint of step 0 and ends. Raises ExpertLabelsError on every rank where the first one finds something wrong.
    """
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    import torch
    from filelock import FileLock

    from trainer import generators
    from trainer.data.loader import Loader
    from trainer.evaluation.during import during_training
    from trainer.fingerprint import StoreFingerprint
    from trainer.loop import Loop, Outcome
    from trainer.networks import check_at_hand
    from trainer.outline import outline
    from trainer.prismer.method import prepared
    from trainer.ranks import joined
    from trainer.trained import write_experts
    from trainer.training import Split

    torch.use_deterministic_algorithms(recipe.deterministic)
    with joined(recipe.device) as ranks:
        split = Split.of(recipe.batch, ranks=ranks.count)
        lock = FileLock(folder / LOCK)
        ranks.by_first(lambda: _claimed(lock, folder))
        try:
            # All ranks build the same model; the loop then gives each random numbers of its own.
            generators.seed_all(recipe.seed)
            ranks.by_first(lambda: check_at_hand(recipe))
            made = prepared(recipe.method, recipe.data, seed=recipe.seed, folder=folder, ranks=ranks)
            method, dataset = made.method, made.dataset
            examples = len(dataset.selection)
            if examples < recipe.batch.size:
                raise RecipeError(
                    f"`batch.size`: {recipe.batch.size}, and an epoch has {examples} examples; expected a batch of them at least"
                )
            loader = Loader(
                dataset,
                batch_size=recipe.batch.size,
                rank=ranks.rank,
                ranks=ranks.count,
                workers=recipe.data.workers,
                pin=ranks.device.type == "cuda",
                accumulated=split.accumulated,
            )
            store = StoreFingerprint.of(
                dataset.cards,
                examples=dataset.selection.fingerprint,
                images=dataset.reader.plan.images,
                embeddings=made.embeddings,
            )
            during = during_training(recipe, made, ranks)
            if ranks.first:
                for line in [*outline(method, dataset), *([str(during)] if during else [])]:
                    print(line, file=sys.stderr, flush=True)
            loop = Loop(
                method=method,
                feed=loader,
                recipe=recipe,
                ranks=ranks,
                folder=folder,
                store=store,
                evaluate=during.numbers if during else None,
            )
            if ranks.first and not loop.checkpoints.steps():
                # Of a run that goes on, they stay what it was begun with.
                told = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
                (folder / "recipe.yaml").write_text(told, encoding="utf-8")
                write_experts(dataset.cards, folder)
            try:
                if only_begin:
                    loop.only_begin()
                    return Outcome(steps=0, finished=True, signal=None)
                return loop.run()
            finally:
                loader.close()
        finally:
            lock.release()


def _claimed(lock: FileLock, folder: Path) -> None:
    from filelock import Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrainingError(f"{folder}: another process trains there; expected a folder of its own (--out)") from None


def train_on_ray(
    recipe: Recipe, folder: Path, *, workers: int, gpus: bool, cpus_per_worker: int = 1, address: str | None = None
) -> None:
    """Trains with ``workers`` processes that Ray places; ``folder`` is one that all of them see. Raises ExpertLabelsError.

    address: of a cluster; None starts Ray on this machine.
    """
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    problem = folder.absolute() / "ray" / PROBLEM
    problem.unlink(missing_ok=True)
    ray.init(address=address, log_to_driver=True, include_dashboard=False)
    try:
        TorchTrainer(
            _train_in_worker,
            train_loop_config={
                "recipe": recipe.model_dump(mode="json"),
                "folder": str(folder.absolute()),
                "begun_in": str(Path.cwd()),
                "problem": str(problem),
            },
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpus,
                resources_per_worker={"CPU": cpus_per_worker, **({"GPU": 1} if gpus else {})},
            ),
            run_config=RunConfig(name="ray", storage_path=str(folder.absolute())),
        ).fit()
    finally:
        ray.shutdown()
    if problem.exists():
        raise TrainingError(problem.read_text(encoding="utf-8"))


def _train_in_worker(config: dict[str, Any]) -> None:
    """What each of Ray's workers does. A problem for the user is written down: raised, it would come with pages of traceback."""
    # Ray begins workers in a folder of its own; the recipe's paths may be seen from where the command was given.
    if Path(config["begun_in"]).is_dir():
        os.chdir(config["begun_in"])
    try:
        train(Recipe.model_validate(config["recipe"]), Path(config["folder"]))
    except ExpertLabelsError as error:
        beside = Path(config["problem"]).with_name(f"tmp-{os.getpid()}")
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(str(error), encoding="utf-8")
        beside.replace(config["problem"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer.launch", description="Train a recipe, or go on with it.")
    parser.add_argument("recipe", help="a YAML file, or the name of one that comes with the package")
    parser.add_argument("--out", help="folder of the run (default: out/runs/<name of the recipe>)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="in place of the recipe's value"
    )
    chosen = parser.parse_args(arguments)
    try:
        recipe = load_recipe(chosen.recipe, dict(change_of(text) for text in chosen.set))
        folder = Path(chosen.out or Path("out", "runs", Path(chosen.recipe).stem))
        outcome = train(recipe, folder)
    except ExpertLabelsError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0 if outcome.signal is None else 128 + outcome.signal


if __name__ == "__main__":
    sys.exit(main())
