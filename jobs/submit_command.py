"""`expert-labels submit` and `expert-labels jobs`: labelling on a cluster, seen from outside it (docs/cluster.md)."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from jobs.terminal import AsJson, JobPath, aligned, duration, say, show
from pipeline.errors import JobError

Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Dashboard of the cluster's head. Default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or http://127.0.0.1:8265.",
    ),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="A run (its last attempt is meant), or one attempt of it.")]

jobs = typer.Typer(help="Jobs that were submitted to a cluster: list, logs, stop.", no_args_is_help=True)


def submit(
    job_file: JobPath,
    address: Address = None,
    retries: Annotated[
        int | None,
        typer.Option(
            min=0, help="Further attempts when the job dies; each goes on where the last one was. Default: 3."
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not wait: nobody is there then to submit it again when it dies.")
    ] = False,
    installed: Annotated[
        bool, typer.Option("--installed", help="Do not send the code: the cluster's own installation labels.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Label on a Ray cluster: send the job there, show what it says, and send it again when it dies.

    Exit codes: 0 done; 1 a cell was refused, or a bug; 2 the job cannot be carried out, which is not tried again; 3 it died at
    every attempt; 130 it was stopped. Ctrl-C leaves the job running.
    """
    from jobs.submitting import EXIT_CODES
    from jobs.submitting import submit as run

    if detach and retries:
        raise JobError(
            "--retries wants somebody who waits for the job, and --detach says that nobody does; leave one out"
        )
    try:
        found = run(
            job_file,
            address=address,
            retries=3 if retries is None else retries,
            detach=detach,
            code=not installed,
            say=say,
            show=_log,
        )
    except KeyboardInterrupt:
        say("the job goes on without us: `expert-labels jobs list` shows it, `expert-labels jobs stop` ends it")
        raise typer.Exit(130) from None
    show(found.lines(), found.to_json(), as_json)
    raise typer.Exit(EXIT_CODES[found.ending])


@jobs.command("list")
def list_(address: Address = None, as_json: AsJson = False) -> None:
    """The jobs of expert-labels that the cluster remembers, oldest first."""
    from jobs.job_server import JobServer

    rows = [_row(job) for job in _ours(JobServer(address))]
    table = [["attempt", "ended", "exit", "begun", "took", "store"]]
    for row in rows:
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["started"])) if row["started"] else "-"
        took = duration((row["ended"] or time.time()) - row["started"]) if row["started"] else "-"
        code = "-" if row["exit_code"] is None else str(row["exit_code"])
        table.append([row["attempt"], row["ending"], code, begun, took, row["store"]])
    show(aligned(table, left=(0, 1, 3, 5)) if rows else ["no jobs of expert-labels there"], rows, as_json)


@jobs.command()
def logs(
    name: Id,
    address: Address = None,
    following: Annotated[
        bool, typer.Option("--follow", help="Go on until the job ends; its exit code is ours.")
    ] = False,
) -> None:
    """What a job has written so far."""
    from jobs.job_server import JobServer
    from jobs.submitting import EXIT_CODES, follow

    server = JobServer(address)
    attempt = _found(server, name).submission_id
    if not following:
        print(server.log(attempt), end="", flush=True)
        return
    try:
        ending, _ = follow(server, attempt, say=say, show=_log)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    say(f"{attempt}: {ending}")
    raise typer.Exit(EXIT_CODES[ending])


@jobs.command()
def stop(
    name: Id,
    address: Address = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 60.0,
) -> None:
    """End a job. What it committed stays; submitted again, it goes on there.

    Exit code 1 if it is still running when we stop waiting.
    """
    from jobs.job_server import JobServer

    server = JobServer(address)
    attempt = _found(server, name).submission_id
    asked = server.stop(attempt)
    since = time.monotonic()
    while not server.job(attempt).status.is_terminal():
        if time.monotonic() - since > wait:
            say(f"{attempt}: was asked to stop and is still at it after {wait:.0f} s")
            raise typer.Exit(1)
        time.sleep(0.5)
    say(f"{attempt}: {'stopped' if asked else 'had ended already'}")


def _ours(server: Any) -> list[Any]:
    from jobs.submitting import RUN

    return [job for job in server.jobs() if RUN in (job.metadata or {})]


def _found(server: Any, name: str) -> Any:
    from jobs.submitting import RUN

    ours = _ours(server)
    named = [job for job in ours if name in (job.submission_id, job.metadata[RUN])]
    if not named:
        known = ", ".join(job.submission_id for job in ours[-3:]) or "none"
        raise JobError(f"no job {name} at {server.address}; the last ones there: {known}")
    return named[-1]


def _row(job: Any) -> dict[str, Any]:
    from jobs.submitting import RUN, STORE, ending_of

    return {
        "run": job.metadata[RUN],
        "attempt": job.submission_id,
        "ending": "waiting" if job.status.value == "PENDING" else ending_of(job),
        "exit_code": job.driver_exit_code,
        "started": job.start_time / 1000 if job.start_time else None,
        "ended": job.end_time / 1000 if job.end_time else None,
        "store": job.metadata.get(STORE, "-"),
    }


def _log(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
