"""`expert-labels`: the commands, each a thin layer over one function below it.

Exit codes: 0 done; 1 done, but something is not as it should be (refused cells, findings of an audit); 2 the request cannot
be carried out as it stands, and one line says why; 3 the cluster or the place of the store failed, and the same command would
go on; 130 interrupted.
"""

from __future__ import annotations

import errno
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs import (
    bench_command,
    expert_commands,
    export_command,
    forecast_command,
    grow_command,
    manifest_commands,
    store_commands,
    submit_command,
    train_commands,
    weights_commands,
)
from jobs.summary import Summary
from jobs.terminal import AsJson, JobPath, LogPath, say, show
from pipeline.errors import ClusterFailure, ExpertLabelsError, Unreachable

#: What a place says that may be well again for the same command: full, over a quota, a disk or a file server in trouble.
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}

app = typer.Typer(
    help="Label images with frozen experts into a store that can be resumed, audited and trained from.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(manifest_commands.app, name="manifest")
app.add_typer(weights_commands.app, name="weights")
app.add_typer(submit_command.jobs, name="jobs")

Cluster = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="A Ray cluster in place of the job file's `ray`; auto: the one on this machine.",
    ),
]


@app.command()
def label(
    job_file: JobPath,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Label nothing: count what is missing and forecast time and bytes.")
    ] = False,
    log: LogPath = None,
    address: Cluster = None,
    as_json: AsJson = False,
) -> None:
    """Label what is missing. Run it again after any crash: it finishes, and touches nothing that is done.

    Exit code 1 if a cell was refused because its expert failed on too many photos.
    """
    from jobs.job import load_job

    job = load_job(job_file).at(address)
    if dry_run:
        from jobs.forecast import forecast

        found = forecast(job, say)
        show(found.lines(), found.to_json(), as_json)
    else:
        from jobs.labelling import label as run

        _end_of_run(run(job, say, log=log), as_json)


@app.command()
def retry(job_file: JobPath, address: Cluster = None, log: LogPath = None, as_json: AsJson = False) -> None:
    """Ask again for failed rows only. Each cell is replaced whole, or stays as it was."""
    from jobs.job import load_job
    from jobs.labelling import retry as run

    _end_of_run(run(load_job(job_file).at(address), say, log=log), as_json)


app.command()(grow_command.grow)
app.command()(submit_command.submit)
app.command()(forecast_command.forecast)
app.command()(store_commands.status)
app.command()(store_commands.failures)
app.command()(store_commands.audit)
app.command()(store_commands.preview)
app.command()(export_command.export)
app.command()(expert_commands.experts)
app.command()(bench_command.bench_expert)
app.command()(train_commands.embed)
app.command()(train_commands.train)
app.command()(train_commands.evaluate)
app.command()(train_commands.caption)
app.command()(manifest_commands.version)


def _end_of_run(summary: Summary, as_json: bool) -> None:
    show(summary.lines(), summary.to_json(), as_json)
    if summary.interrupted:
        say("interrupted: what is committed stays; run the same command again to finish")
        raise typer.Exit(130)
    raise typer.Exit(0 if summary.complete else 1)


def main() -> None:
    """Entry point: user errors are one line and exit code 2, bugs keep their traceback; typer makes Ctrl-C exit code 130."""
    logging.getLogger("pipeline").addHandler(logging.NullHandler())  # tracebacks of experts are for workers' logs
    sys.path.insert(0, str(Path.cwd()))  # so that `use: my_experts:Canny` in a job file finds ./my_experts.py
    try:
        app()
    except ExpertLabelsError as error:
        say(f"error: {error}")
        sys.exit(3 if isinstance(error, ClusterFailure | Unreachable) else 2)
    except OSError as error:  # a place that cannot be written or read: a full disk, no permission, a file for a folder
        say(f"error: {error.strerror or error}: {error.filename or 'no file named'}; expected a place that can be used")
        sys.exit(3 if error.errno in PASSING else 2)


if __name__ == "__main__":
    main()
