"""Events: what happens to units and cells, as lines of JSON that name them. The driver's go where the user says, a worker's to
its standard error, which Ray keeps in a file of that worker's own.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
from typing import IO

from pipeline.filling import CellResult
from pipeline.redaction import redacted


class EventLog:
    """Lines of JSON, one an event, each with the time (UTC), host and process; secrets are hidden. ``out``: None writes nowhere."""

    def __init__(self, out: IO[str] | None, **always: object) -> None:
        self._out = out
        self._always = {"host": socket.gethostname(), "pid": os.getpid()} | always

    def tell(self, event: str, **facts: object) -> None:
        """Whoever cannot be written to (a full disk) is done without: a log must not end a job."""
        if self._out is None:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        told = {"time": now, "event": event} | self._always | facts
        told = {name: redacted(value) if isinstance(value, str) else value for name, value in told.items()}
        line = json.dumps(told, ensure_ascii=False, default=str)
        try:
            # One write a line: two drivers may append to one file.
            self._out.write(line + "\n")
            self._out.flush()
        except OSError:
            self._out = None

    def cell(self, result: CellResult, shard_name: str) -> None:
        """What became of one cell, by its name in the store."""
        self.tell(
            "cell",
            cell=f"{result.column}/{shard_name}",
            outcome=result.outcome,
            images=result.images,
            asked=result.labelled,
            failures=result.failures,
            seconds={phase: round(seconds, 3) for phase, seconds in result.seconds.model_dump().items()},
            **({"why": result.refused} if result.refused else {}),
            **({"worker": result.receipt.host, "bytes": result.receipt.stored} if result.receipt else {}),
        )
