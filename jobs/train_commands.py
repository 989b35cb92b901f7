"""Commands about training: make vectors of names, train a recipe, evaluate what came out, caption photos with it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.terminal import AsJson, StorePath, say, show
from pipeline.errors import JobError

CheckpointPath = Annotated[
    str,
    typer.Argument(metavar="CHECKPOINT", help="Folder of a run, whose latest checkpoint counts, or of one checkpoint."),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto: a GPU where there is one.")
]
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", metavar="DIR", help="Folder of weights: of the experts, and of CLIP for new words."),
]


def embed(
    store: StorePath,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder or URL of the embeddings; what it has is kept.")],
    method: Annotated[
        Literal["clip", "random", "released"],
        typer.Option(help="CLIP's text encoder; a seeded random projection, for demos; Prismer's released tables."),
    ] = "clip",
    prompt: Annotated[str, typer.Option(help="What is encoded for a class, {} being its name.")] = "{}",
    seed: Annotated[int, typer.Option(help="Of the random projection.")] = 0,
    released: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder `dataset` of NVlabs/prismer, for --method released.")
    ] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Make the vectors that stand for class names and words on signs, once for a store; training shows them to the model.

    One table for every list of classes in the store, and one of all words that were read. Run it again after labelling more:
    only what is new is added.
    """
    from pipeline.store import LabelStore
    from trainer.embeddings.writing import Means
    from trainer.embeddings.writing import embed as make

    means = Means(method=method, prompt=prompt, seed=seed, released=released, weights_folder=weights, device=device)
    try:
        done = make(LabelStore.open(store), out, means=means, say=say)
    except ValueError as error:
        raise JobError(str(error)) from error
    say(
        f"{out}: {done.lists} list(s) of classes and {done.words} words added, {done.known} words were there; "
        f"{done.origin.method}, licence {done.origin.licence}"
    )


def train(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE.yaml", help="A recipe file, or the name of one that comes with the package."),
    ],
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Folder of the run. Default: out/runs/<name of the recipe>.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="In place of the recipe's value; may be repeated."),
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option("--ray-workers", min=1, help="Train with so many processes that Ray places.")
    ] = None,
    only_begin: Annotated[
        bool,
        typer.Option("--only-begin", help="Keep what it would begin with, released weights for instance, and end."),
    ] = False,
) -> None:
    """Train what a recipe says. Run it again after any crash: it goes on from the last checkpoint, as if nothing had happened.

    Says first what it will do: parameters, trained share, examples, labels masked. In the run's folder are then checkpoints,
    log.jsonl with a line of JSON for every few steps, and TensorBoard's files. Several processes: torchrun -m trainer.launch.
    """
    from trainer.launch import train as run
    from trainer.launch import train_on_ray
    from trainer.recipe import change_of, load_recipe

    chosen = load_recipe(recipe, dict(change_of(text) for text in changes or []))
    folder = Path(out or Path("out", "runs", Path(recipe).stem))
    if ray_workers and only_begin:
        raise JobError("--only-begin trains nothing, so there is nothing for --ray-workers to do; give one of them")
    if ray_workers:
        import torch

        train_on_ray(chosen, folder, workers=ray_workers, gpus=torch.cuda.is_available())
        return
    outcome = run(chosen, folder, only_begin=only_begin)
    if outcome.signal is not None:
        say(f"stopped after step {outcome.steps}: a checkpoint is kept; run the same command again to go on")
        raise typer.Exit(128 + outcome.signal)
    say(f"{folder}: done, {outcome.steps} steps")


def evaluate(
    checkpoint: CheckpointPath,
    task: Annotated[
        Literal["captions", "answers", "classes"], typer.Option("--task", help="What is asked about each photo.")
    ],
    store: Annotated[
        str | None, typer.Option("--store", help="Labels of the photos to ask about. Default: the recipe's.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option("--split", help="Of the images; may be repeated. Default: all of them.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Ask about the first so many photos.")] = None,
    questions: Annotated[
        str | None,
        typer.Option(
            help="`scenes`, VQAv2's v2_OpenEnded_mscoco_*_questions.json, Visual Genome's question_answers.json, a list of "
            "Prismer's, or JSON lines. Default: those of the training."
        ),
    ] = None,
    annotations: Annotated[str | None, typer.Option(help="The answers to them: v2_mscoco_*_annotations.json.")] = None,
    choices: Annotated[
        str | None,
        typer.Option(
            help="File of answers to choose from, one a line, or a JSON list; or `frequent`: those of the training's questions. "
            "Default: the model's own words."
        ),
    ] = None,
    nocaps: Annotated[
        str | None, typer.Option(help="A file of NoCaps: scores by its domains, results with its numbers.")
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option("--measure", help="CIDEr, BLEU, ROUGE, METEOR, SPICE; may be repeated. Default: the first three."),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="File for all replies, as JSON lines.")] = None,
    results: Annotated[str | None, typer.Option(help="File of results in the form of the evaluation servers.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Photos at a time; answers do not depend on it.")] = 32,
    device: DeviceOption = "auto",
    weights: WeightsOption = None,
    as_json: AsJson = False,
) -> None:
    """Ask a trained model about the photos of a store, and score what it says: captions, answers to questions, classes.

    Captions are written by beam search and scored by pycocoevalcap. Answers are scored by VQA's accuracy, or on rendered scenes
    by whether they are right; beside each kind stands what always giving the most frequent answer would score. On several GPUs:
    torchrun --nproc-per-node 8 -m jobs.cli evaluate ...
    """
    from pydantic import ValidationError

    from jobs.evaluating import evaluate as run
    from trainer.evaluation.captions import ALL, QUICK
    from trainer.evaluation.choice import EvaluationChoice

    measures = [one for one in ALL if one in (measure or QUICK)] + sorted(set(measure or ()) - set(ALL))
    try:
        choice = EvaluationChoice(
            task=task, store=store, splits=split or (), limit=limit, questions=questions, annotations=annotations,
            choices=choices, nocaps=nocaps, measures=measures, batch=batch,
        )  # fmt: skip
    except ValidationError as error:
        problem = error.errors()[0]
        raise JobError(f"--{problem['loc'][0]} {problem['input']}: {problem['msg']}") from error
    found = run(checkpoint, choice, say=say, out=out, results=results, device=device, weights=weights)
    if found.first:
        show(found.lines(), found.to_json(), as_json)


def caption(
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="Image files.")],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", "-c", metavar="DIR", help="Folder of a run, or of one checkpoint.")
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", help="Picture of the photos, their labels and captions.")
    ] = "captions.png",
    job: Annotated[
        str | None, typer.Option("--job", metavar="JOB.yaml", help="The job file that has the experts' options.")
    ] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Label photos with the experts that a model was trained on, and let it describe them. Writes a picture of all that.

    The experts run with their default options unless --job names the job file that made the training's labels. An expert that
    fails on a photo is left out there, as in training.
    """
    from jobs.captioning import caption as run

    found = run(photos, checkpoint, out, say=say, job=job, weights=weights, device=device)
    show([f"{one.photo}: {one.caption}" for one in found], [asdict(one) for one in found], as_json)
    say(f"{out}: photos, labels and captions")
