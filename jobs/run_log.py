"""A run told to machines while it runs: a line of JSON for every cell in a file, and the driver's numbers through Ray's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from jobs.summary import Summary
from pipeline.errors import in_one_line
from pipeline.events import EventLog
from pipeline.filling import CellResult
from pipeline.plan import shard_name
from pipeline.telemetry import Telemetry


class RunLog:
    """Tells of the run called ``run`` on the store at ``store_url``; ``summary`` is its state. Use as a context manager.

    ``path``: a file to append to, which several runs may share, or None. Raises OSError where it cannot be opened.
    """

    def __init__(self, path: str | None, store_url: str, run: str, summary: Summary) -> None:
        self._out = Path(path).open("a", encoding="utf-8") if path else None  # noqa: SIM115  (closed by __exit__)
        self._events = EventLog(self._out, store=store_url, run=run)
        self._telemetry = Telemetry(store_url)
        self._summary = summary

    def add(self, results: Sequence[CellResult]) -> None:
        """What came back from one unit, when the summary has it already."""
        for result in results:
            self._events.cell(result, shard_name(result.shard))
            column = self._summary.columns[result.column]
            done = column.committed + column.left + len(column.refused)
            self._telemetry.cells(result.column, asked=column.asked, done=done)

    def __enter__(self) -> RunLog:
        self._events.tell("run begun", cells={name: column.asked for name, column in self._summary.columns.items()})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        summary = self._summary
        self._events.tell(
            "run ended",
            complete=error is None and summary.complete,
            interrupted=summary.interrupted or isinstance(error, KeyboardInterrupt),
            **({"why": in_one_line(error)} if error is not None else {}),
        )
        if self._out is not None:
            self._out.close()
