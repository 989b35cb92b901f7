"""`expert-labels`: the commands, each a thin layer over one function below it.

Exit codes: 0 done; 1 done, but something is not as it should be (refused cells, findings of an audit); 2 the request cannot
be carried out as it stands (one line says why); 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pipeline.errors import ExpertLabelsError

app = typer.Typer(
    help="Label images with frozen experts into a store that can be resumed, audited and trained from.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)

JobPath = Annotated[
    str, typer.Argument(metavar="JOB.yaml", help="The job file: store, images, experts (docs/job-file.md).")
]
StorePath = Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL of a label store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def say(line: str) -> None:
    """A line to the person at the terminal; standard output stays free for results."""
    print(line, file=sys.stderr, flush=True)


@app.command()
def label(job_file: JobPath, as_json: AsJson = False) -> None:
    """Label what is missing. Run it again after any crash: it finishes, and touches nothing that is done."""
    from jobs.job import load_job
    from jobs.labelling import label as run

    _end_of_run(run(load_job(job_file), say), as_json)


@app.command()
def retry(job_file: JobPath, as_json: AsJson = False) -> None:
    """Ask again for failed rows only; each cell is replaced whole, or stays as it was."""
    from jobs.job import load_job
    from jobs.labelling import retry as run

    _end_of_run(run(load_job(job_file), say), as_json)


def _end_of_run(summary: Any, as_json: bool) -> NoReturn:
    if as_json:
        print(json.dumps(summary.to_json(), indent=1))
    else:
        print("\n".join(summary.lines()))
    if summary.interrupted:
        say("interrupted: what is committed stays; run the same command again to finish")
        raise typer.Exit(130)
    raise typer.Exit(0 if summary.complete else 1)


def main() -> None:
    """Entry point: user errors are one line and exit code 2, Ctrl-C is exit code 130, bugs keep their traceback."""
    sys.path.insert(0, str(Path.cwd()))  # so that `use: my_experts:Canny` in a job file finds ./my_experts.py
    try:
        app(standalone_mode=True)
    except ExpertLabelsError as error:
        say(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
