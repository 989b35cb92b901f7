"""How commands speak: people read standard error, results and JSON go to standard output."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from pipeline.redaction import redacted

JobPath = Annotated[
    str, typer.Argument(metavar="JOB.yaml", help="The job file: store, images, experts (docs/job-file.md).")
]
StorePath = Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL of a label store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
LogPath = Annotated[
    str | None,
    typer.Option(
        "--log", metavar="FILE", envvar="EXPERT_LABELS_LOG", help="Append a line of JSON for every cell, by its name."
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", "-c", help="Expert, or expert@version; may be repeated. Default: all columns."),
]

#: Of C0, DEL and C1 all but tab and newline, which our own lines are made of.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def say(line: str) -> None:
    """A line to the person at the terminal, and to whatever collects it: without secrets."""
    print(harmless(redacted(line)), file=sys.stderr, flush=True)


def show(lines: Sequence[str], value: Any, as_json: bool) -> None:
    """The result of a command: as lines, or ``value`` as JSON (numbers that are none become null)."""
    print(
        json.dumps(_plain(value), indent=1, ensure_ascii=False) if as_json else harmless("\n".join(lines)), flush=True
    )


def harmless(text: str) -> str:
    """``text`` with control characters spelled out: a caption or URL from the web must not steer the terminal."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def decimals(value: float, digits: int) -> str:
    """``value`` with so many digits after the point; "-" for NaN, which says that there was nothing to measure."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def aligned(table: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> list[str]:
    """Rows of cells as lines: the columns named by ``left`` to the left, the others (numbers) to the right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def shortened(text: str, width: int) -> str:
    """``text``, or as much of it as fits ``width`` with three dots to say so."""
    return text if len(text) <= width else f"{text[: width - 3].rstrip()}..."


def short_names(columns: Sequence[str]) -> dict[str, str]:
    """``expert@version`` -> ``expert``, but the whole where two versions of one expert would look alike."""
    experts = [column.split("@")[0] for column in set(columns)]
    return {column: column.split("@")[0] if experts.count(column.split("@")[0]) == 1 else column for column in columns}


def size(count: float) -> str:
    """Bytes as a person says them: 12 kB, 3.4 MB."""
    for unit_size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit_size:
            return f"{count / unit_size:.1f} {unit}"
    return f"{count / 1000:.0f} kB"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3.5 min, 7.2 h, 12.0 days."""
    for unit_seconds, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_seconds:
            return f"{seconds / unit_seconds:.1f} {unit}"
    return f"{seconds:.0f} s"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
