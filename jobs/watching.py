"""`status --watch`: a table that is refreshed in place on a terminal; elsewhere a line of JSON for every look."""

from __future__ import annotations

import shutil
import sys
import time
from typing import IO

from jobs.terminal import aligned, duration, short_names
from pipeline.pace import Pace, Watch

#: A store that gets no cell for so long, though some are missing, is said to stand still.
STANDS_STILL = 600.0


def watch(looks: Watch, *, every: float, as_json: bool, out: IO[str] | None = None) -> Pace:
    """Looks every ``every`` seconds until the store is complete; the last look is returned.

    Raises StoreError where there is no store.
    """
    out = out or sys.stdout
    in_place = out.isatty() and not as_json
    drawn = 0
    while True:
        pace = looks.look()
        if in_place:
            width, height = shutil.get_terminal_size()
            # A line that wraps, or a table higher than the screen, could not be drawn over.
            lines = [line[: width - 1] for line in lines_of(pace)][: height - 1]
            out.write((f"\x1b[{drawn}A\x1b[J" if drawn else "") + "\n".join(lines) + "\n")
            drawn = len(lines)
        else:
            out.write(pace.model_dump_json() + "\n")
        out.flush()
        if pace.complete:
            return pace
        time.sleep(every)


def lines_of(pace: Pace) -> list[str]:
    """One look as a table, a column per expert and one line on all of them."""
    names = short_names([column.column for column in pace.columns])
    table = [["expert", "cells", "images", "failed", "images/s", "time left", "waiting", "last commit"]]
    for column in pace.columns:
        table.append(
            [
                names[column.column],
                f"{column.done}/{column.shards}",
                str(column.images),
                str(column.failed),
                f"{column.rate:.1f}" if column.rate else "-",
                _left(column.seconds_left),
                _share(column.wait_share),
                "-" if column.last_commit is None else f"{duration(column.last_commit)} ago",
            ]
        )
    lines = [f"{pace.url} at {pace.at}", *aligned(table)]
    if pace.complete:
        return [*lines, "complete"]
    lines.append(
        f"in all {pace.rate:.1f} labels/s, {_left(pace.seconds_left)} left, models waiting for photos {_share(pace.wait_share)}"
    )
    damaged = sum(column.damaged for column in pace.columns)
    if damaged:
        lines.append(f"{damaged} cell(s) with a receipt that cannot be read: `expert-labels audit {pace.url}`")
    stands = [c for c in pace.columns if c.left and c.last_commit is not None and c.last_commit > STANDS_STILL]
    lines += [f"{names[c.column]}: no cell for {duration(c.last_commit or 0)}; does its job still run?" for c in stands]
    return lines


def _left(seconds: float | None) -> str:
    return "unknown" if seconds is None else "-" if seconds == 0 else duration(seconds)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}%"
