"""The command that forecasts: hours, money and bytes, from a calibration here or from a store's receipts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.terminal import AsJson, Columns, say, show
from pipeline.errors import JobError

JOB_FILES = (".yaml", ".yml")


def forecast(
    target: Annotated[
        str,
        typer.Argument(
            metavar="JOB.yaml|STORE",
            help="A job file: its experts are measured on a few of its photos on this machine. A store: its receipts tell.",
        ),
    ],
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="For so many images. Default: for those that are missing.")
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", min=0.0, help="Of one GPU for an hour (of a worker, where it has none).")
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option("--gpus", min=0.0, help="GPUs of one worker of the store; 0.5 where two share one. Default: 1."),
    ] = None,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """What labelling costs: hours, money and bytes, per expert and in all."""
    if Path(target).suffix in JOB_FILES:
        from jobs.forecast import forecast as calibrate
        from jobs.job import load_job

        if columns is not None or gpus is not None:
            raise JobError(
                "--column and --gpus are for a store; a job file says itself which experts and GPUs there are"
            )
        found = calibrate(load_job(target), say).of(images=images, price=price)
    else:
        from jobs.costing import costs_of_store
        from pipeline.store import LabelStore

        found = costs_of_store(
            LabelStore.open(target), images=images, price=price, gpus=1.0 if gpus is None else gpus, columns=columns
        )
    show(found.lines(), found.to_json(), as_json)
