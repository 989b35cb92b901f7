"""What a part of the benchmark found, as Markdown for people and JSON for scripts; and on which machine."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number. ``goal`` as the issue states it ("at least 0.9"); ``met`` only where there is one."""

    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None

    def row(self) -> list[str]:
        verdict = {True: "yes", False: "**no**", None: ""}[self.met]
        return [self.name, short(self.value), self.unit, self.goal, verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table beside the figures; its first row is the head."""

    title: str
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part: its figures, its tables, and how it was measured (``how``)."""

    title: str
    how: str
    figures: Sequence[Figure]
    tables: Sequence[Table] = ()
    load: tuple[float, float] = field(default=(0.0, 0.0))

    def lines(self) -> list[str]:
        """The part as Markdown."""
        lines = [f"## {self.title}", "", self.how, ""]
        if self.figures:
            head = ["measure", "value", "unit", "goal", "met"]
            lines += [*markdown([head, *(figure.row() for figure in self.figures)]), ""]
        for table in self.tables:
            lines += [table.title, "", *markdown(table.rows), ""]
        return [*lines, f"1-minute load of the machine: {self.load[0]:.1f} before, {self.load[1]:.1f} after.", ""]


def measured(part: Callable[[argparse.Namespace], Part], arguments: argparse.Namespace) -> Part:
    """Runs a part and notes the machine's load around it: what other processes took cannot be seen in the figures."""
    before = os.getloadavg()[0]
    found = part(arguments)
    return Part(
        title=found.title,
        how=found.how,
        figures=found.figures,
        tables=found.tables,
        load=(before, os.getloadavg()[0]),
    )


def run_alone(
    part: Callable[[argparse.Namespace], Part], add_arguments: Callable[[argparse.ArgumentParser], None], about: str
) -> None:
    """The command line of one part."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="JSON instead of Markdown")
    arguments = parser.parse_args()
    show([measured(part, arguments)], as_json=arguments.json)


def show(parts: Sequence[Part], *, as_json: bool) -> None:
    """Writes all parts to stdout."""
    if as_json:
        print(json.dumps({"machine": machine(), "parts": [asdict(part) for part in parts]}, indent=1))
        return
    about = machine()
    print(
        f"{about['date']}: {about['cores']} cores of {about['cpu']}, {about['memory_gib']} GiB, Python {about['python']}\n"
    )
    print("\n".join(line for part in parts for line in part.lines()))


def machine() -> dict[str, Any]:
    """What the figures depend on and do not tell."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": model,
        "cores": cores(),
        "memory_gib": round(memory),
        "python": platform.python_version(),
    }


def peak_memory() -> float:
    """The most memory that this process has had, in bytes; what a parent had before it started this one does not count."""
    told = Path("/proc/self/status")
    if told.exists():
        (line,) = (line for line in told.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024.0 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows (the first is the head) as a Markdown table, its first column to the left and the others to the right."""
    head, *body = rows
    rule = ["---", *("--:" for _ in head[1:])]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]


def short(value: float) -> str:
    """Three significant digits, whole numbers from a thousand on."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
