"""A job on somebody else's cluster: submitted, followed, and submitted again when it dies.

Ray runs a job once, and a job dies with its driver or its cluster. So each attempt is a job of its own, all of one *run*; what
one attempt committed the next finds in the store and leaves alone.
"""

from __future__ import annotations

import shlex
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from jobs.job import load_choices
from jobs.job_server import JobServer, NoAnswer, NoSuchJob
from jobs.parcel import Parcel, packed
from pipeline.errors import JobError
from pipeline.redaction import redacted

Say = Callable[[str], None]
Ending = Literal["done", "incomplete", "wrong", "stopped", "crashed", "running"]

#: Keys of a job's metadata, which is how our jobs are known among others.
RUN, ATTEMPT, STORE, JOB = (f"expert_labels_{key}" for key in ("run", "attempt", "store", "job"))
#: Seconds before the second attempt; doubled for each further one.
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
#: Seconds that a cluster may be gone, while its head is replaced, before it counts as lost.
PATIENCE = 600.0
#: Exit codes that another attempt would not change: of `expert-labels label` (jobs/cli.py), and of a shell without a `python`.
_FINAL: dict[int, Ending] = {0: "done", 1: "incomplete", 2: "wrong", 126: "wrong", 127: "wrong"}
#: Exit codes of `expert-labels submit`.
EXIT_CODES: dict[Ending, int] = {"done": 0, "incomplete": 1, "wrong": 2, "crashed": 3, "stopped": 130, "running": 0}


@dataclass(kw_only=True)
class Submitted:
    """What became of a run. ``attempts``: submission ids, in order; ``exit_code``: the last driver's, where it left one."""

    run: str
    address: str
    store: str
    attempts: list[str] = field(default_factory=list)
    ending: Ending = "running"
    exit_code: int | None = None

    def lines(self) -> list[str]:
        times = f" after {len(self.attempts)} attempts" if len(self.attempts) > 1 else ""
        return [f"{self.run}: {self.ending}{times}; {self.store}"]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def submit(
    path: str, *, address: str | None, retries: int, detach: bool, code: bool, say: Say, show: Callable[[str], None]
) -> Submitted:
    """Runs the job at ``path`` on the cluster at ``address``. ``retries``: attempts after the first, of a job that dies.

    say: for our own lines; show: for what the job writes. Raises JobError: before anything is submitted for a job that cannot
    be, later when the cluster is gone for longer than PATIENCE.
    """
    job = load_choices(path)
    with packed(path, job, code=code) as parcel:
        server = JobServer(address)
        _check_alone(server, parcel)
        run = f"label-{uuid.uuid4().hex[:10]}"
        found = Submitted(run=run, address=server.address, store=redacted(job.store))
        say(f"{run}: {parcel.job_file} to {server.address}, {parcel.bytes / 1e6:.1f} MB with the code")
        for attempt in range(1, retries + 2):
            _submit_attempt(server, parcel, found, attempt, say)
            if detach:
                say(
                    f"{run}: `expert-labels jobs logs {run} --follow` shows it, `expert-labels jobs stop {run}` ends it"
                )
                break
            found.ending, found.exit_code = follow(server, found.attempts[-1], say=say, show=show)
            if found.ending != "crashed":
                break
            why = f"exit code {found.exit_code}" if found.exit_code is not None else "no exit code: its machine is gone"
            if attempt > retries:
                say(
                    f"{run}: attempt {attempt} died ({why}), the last one; what is committed stays, submit the job again"
                )
                break
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))
            say(
                f"{run}: attempt {attempt} died ({why}); what is committed stays, attempt {attempt + 1} in {pause:.0f} s"
            )
            time.sleep(pause)
    return found


def _check_alone(server: JobServer, parcel: Parcel) -> None:
    """Two jobs of one file are no mistake for the store, but one of them is wasted."""
    for job in server.jobs():
        if (job.metadata or {}).get(JOB) == parcel.digest and not job.status.is_terminal():
            raise JobError(
                f"{server.address} is at work on {parcel.job_file} already; follow it with `expert-labels jobs logs "
                f"{job.submission_id} --follow`, or end it with `expert-labels jobs stop {job.submission_id}`"
            )


def _submit_attempt(server: JobServer, parcel: Parcel, found: Submitted, attempt: int, say: Say) -> None:
    # Where the driver runs is the cluster: whatever `ray:` says in the job file is about other places.
    entrypoint = shlex.join(["python", "-m", "jobs.cli", "label", parcel.job_file, "--address", "auto"])
    metadata = {
        "job_name": f"expert-labels {parcel.job_file}",
        RUN: found.run,
        ATTEMPT: str(attempt),
        STORE: found.store,
        JOB: parcel.digest,
    }
    name = f"{found.run}-{attempt}"
    since = time.monotonic()
    while True:
        try:
            server.submit(name, entrypoint, folder=parcel.folder, metadata=metadata)
            break
        except NoAnswer:
            if attempt == 1 or time.monotonic() - since > PATIENCE:
                raise
            time.sleep(FIRST_PAUSE)
        except JobError:
            if not _is_there(server, name):  # a request whose answer was lost was heard all the same
                raise
            break
    found.attempts.append(name)
    say(f"{name}: submitted")


def _is_there(server: JobServer, name: str) -> bool:
    try:
        server.job(name)
    except JobError:
        return False
    return True


def follow(
    server: JobServer, name: str, *, say: Say, show: Callable[[str], None], patience: float = PATIENCE
) -> tuple[Ending, int | None]:
    """Shows what the job called ``name`` writes until it ends; how it ended, and its driver's exit code.

    A cluster that does not answer is asked again for ``patience`` seconds; one that has forgotten the job was restarted.
    """
    seen = 0
    lost: float | None = None
    while True:
        try:
            seen = server.follow(name, seen, show)
            job = server.job(name)
            if job.status.is_terminal():
                _show_rest(server, name, seen, show)
                ending = ending_of(job)
                if ending == "incomplete" and not _has_spoken(server, name):
                    ending = "crashed"
                return ending, job.driver_exit_code
            lost = None
        except NoSuchJob:
            if seen == 0 and lost is None:
                raise
            return "crashed", None
        except NoAnswer as error:
            if lost is None:
                lost = time.monotonic()
                say(f"{error}; asking again for {patience:.0f} s")
            elif time.monotonic() - lost > patience:
                raise
        time.sleep(1.0)


def ending_of(job: Any) -> Ending:
    """How a job of Ray's ended. A driver without an exit code, or with one that a crash or a SIGTERM leaves, has crashed."""
    if not job.status.is_terminal():
        return "running"
    if job.status.value == "STOPPED":
        return "stopped"
    if job.status.value == "SUCCEEDED":
        return "done"
    return _FINAL.get(job.driver_exit_code, "crashed") if job.driver_exit_code is not None else "crashed"


def _has_spoken(server: JobServer, name: str) -> bool:
    """Whether a driver that left exit code 1 did so itself: Ray's core ends one that lost its node so, without a word."""
    try:
        text = server.log(name)
    except JobError:
        return False
    return "\nexpert " in text or "Traceback (most recent call last)" in text


def _show_rest(server: JobServer, name: str, seen: int, show: Callable[[str], None]) -> None:
    try:
        rest = server.log(name)[seen:]
    except JobError:  # the machine that held the log is gone
        return
    if rest:
        show(rest)
