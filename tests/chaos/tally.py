"""What was injected and what became of it, as text and as Markdown."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.faults import FAULTS

#: What the loopback server did to calls, in words.
CALLS = {
    "500": "answered with 500, nothing done",
    "503": "answered with 503, nothing done",
    "SlowDown": "answered with 503 SlowDown, nothing done",
    "lost": "done, and answered with 500",
    "reset": "connection reset before or after it was done",
    "cut": "done; half of the answer comes, then the connection breaks",
    "silent": "done; no answer, the client has to time out",
}
BEGIN, END = "<!-- written by tests.chaos -->", "<!-- until here -->"


@dataclass
class Kind:
    """``seconds``: the longest that the fault's own measure took."""

    injected: int = 0
    calls: int = 0
    rounds: set[int] = field(default_factory=set)
    recovery: float = 0.0
    seconds: float = 0.0


@dataclass
class Tally:
    """``missed``: faults that were tried and found nothing to hit; these count nowhere."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    missed: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    exits: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    cells: int = 0
    drivers: int = 0
    swept: int = 0
    s3_calls: int = 0

    def of(self, kind: str) -> Kind:
        return self.kinds.setdefault(kind, Kind())

    @property
    def injected(self) -> int:
        return sum(kind.injected for kind in self.kinds.values())

    @property
    def kills(self) -> int:
        return sum(
            kind.injected for name, kind in self.kinds.items() if name.endswith(("killed", "lost")) and name in FAULTS
        )

    def rows(self) -> list[tuple[str, ...]]:
        heads = ("fault", "injected", "rounds", "lost", "longest until the next cell, s", "longest, s")
        rows: list[tuple[str, ...]] = [heads]
        for name in [*FAULTS, *(f"S3 call: {kind}" for kind in CALLS)]:
            if name in self.kinds:
                kind = self.kinds[name]
                calls = f" ({kind.calls} calls)" if kind.calls else ""
                recovery = f"{kind.recovery:.1f}" if not name.startswith("S3 call") else ""
                own = f"{kind.seconds:.1f}" if kind.seconds else ""
                lost = str(sum(self.lost[str(number)] for number in kind.rounds))
                rows.append((name, f"{kind.injected}{calls}", str(len(kind.rounds)), lost, recovery, own))
        rows.append(("in all", str(self.injected), str(self.rounds), str(self.lost.total()), "", ""))
        return rows

    def summary(self) -> str:
        calls = sum(kind.injected for name, kind in self.kinds.items() if name.startswith("S3 call"))
        exits = ", ".join(f"{times} x {code}" for code, times in sorted(self.exits.items()))
        return (
            f"{self.injected - calls} faults, of them {self.kills} kills of processes and nodes, and {calls} of {self.s3_calls} calls to S3, "
            f"in {self.rounds} stores of {self.cells} cells in all. Lost: {self.lost.total()}. {self.drivers} drivers were started; their exit "
            f"codes: {exits}. {self.swept} files of interrupted attempts were swept. {self.missed.total()} more faults were tried and found nothing "
            "to hit."
        )

    def text(self) -> str:
        rows = self.rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.ljust(width) if not column else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([*lines, "", self.summary(), *(f"FOUND: {finding}" for finding in self.findings)])

    def markdown(self, about: str) -> str:
        head, *rows = self.rows()
        lines = ["| " + " | ".join(head) + " |", "|---|--:|--:|--:|--:|--:|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([about, "", *lines, "", self.summary()])


def write_into(document: Path, markdown: str) -> None:
    """Replaces what an earlier run wrote there."""
    text = document.read_text("utf-8")
    found = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    assert found.search(text), f"{document} has no place between {BEGIN} and {END}"
    document.write_text(found.sub(lambda _: f"{BEGIN}\n{markdown}\n{END}", text), "utf-8")
