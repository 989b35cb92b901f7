"""What can go wrong for a user, as one family; everything else is a bug and keeps its traceback.

ExpertLabelsError              one line: fact, expectation, way out; the command line prints it and ends with exit code 2
 |- StoreError                 the store is not there, not ours, or of another plan or version
 |   |- DamagedCell            a receipt promises what its files do not hold; `audit --repair` takes it back
 |   `- UnknownFormat          another version of this package wrote it: nothing here may judge, replace or remove it
 |- Unreachable                the place of a store does not answer, or lets nobody in: says nothing about what is in it
 |- WorkerError                a labelling worker cannot go on: an expert that does not load, a full disk, no cluster
 |   `- ClusterFailure         machines, workers, a disk or a store failed under a job that is well: it goes on when run again
`- JobError                   a job file or an argument asks for something that cannot be
"""

from __future__ import annotations

import traceback

from pipeline.redaction import redacted


class ExpertLabelsError(Exception):
    """Ancestor of all errors that are for the user."""


class StoreError(ExpertLabelsError):
    """The store is not there, not ours, or belongs to another plan."""


class DamagedCell(StoreError):
    """A committed cell whose files disagree with its receipt."""


class UnknownFormat(StoreError):
    """Written by another version of this package, in a format that this one does not know."""


class Unreachable(ExpertLabelsError):
    """The place where a store lies does not answer, or does not let us in. Whoever judges files must not take it for damage."""


class WorkerError(ExpertLabelsError):
    """A labelling worker cannot go on."""


class ClusterFailure(WorkerError):
    """Machines, workers, a disk or a store failed in the middle of a job. Nothing is wrong with the job; it goes on when run again."""


class JobError(ExpertLabelsError):
    """A job file or an argument asks for something that cannot be."""


def in_one_line(error: BaseException, *, most: int = 400) -> str:
    """What went wrong, in one line of at most ``most`` characters: the kind of error and what it says, without secrets.

    One of ours says enough without its kind.
    """
    text = redacted(" ".join(str(error).encode(errors="replace").decode().split()))
    kind = "" if isinstance(error, ExpertLabelsError) else f"{type(error).__name__}: "
    return f"{kind}{text}".rstrip(": ")[:most]


def in_full(error: BaseException) -> str:
    """The traceback, without secrets: for logs."""
    return redacted("".join(traceback.format_exception(error)))
