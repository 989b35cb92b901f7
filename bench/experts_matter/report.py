"""Runs as a document: a table of all arms and a plot of two curves."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from bench.experts_matter.arms import ARMS, LONGER, SHARES, TIMES, Arm, Scale, longer
from bench.experts_matter.learning import results
from bench.experts_matter.questions import KINDS
from bench.report import markdown
from pipeline.lettering import INK, RGB, font

BEGIN, END = "<!-- written by bench.experts_matter -->\n", "<!-- end of what is written by bench.experts_matter -->\n"
COLOURS: Mapping[str, RGB] = {
    "all": (25, 25, 25), "word": (150, 150, 150), "count": (40, 110, 200), "sign": (120, 85, 190), "shape": (20, 140, 110),
    "place": (215, 140, 20), "colour": (196, 62, 40), "floor": (200, 100, 170),
}  # fmt: skip
#: Of curves of longer runs, whose points are hollow.
LONGER_SUFFIX = f", {TIMES} x"
WIDTH, HEIGHT, MARGIN = 520, 380, 56

Run = Mapping[str, Any]
#: A curve: name, and for each place on the axis mean and deviation in percent, None where nothing is done yet.
Curve = tuple[str, Sequence[tuple[float, float] | None]]


def write(folder: Path, document: Path) -> None:
    """The document's own part is replaced, what people wrote around it stays; the plot lies beside it."""
    runs = results(folder)
    text = document.read_text(encoding="utf-8") if document.exists() else f"# Results\n\n{BEGIN}{END}"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    plot = document.with_suffix(".png")
    plot.write_bytes(_plot(runs))
    document.write_text(f"{before}{BEGIN}{_told(runs, plot.name)}{END}{after}", encoding="utf-8")


def _told(runs: Sequence[Run], plot: str) -> str:
    scale = next((Scale(**run["scale"]) for run in runs if run["arm"] in {arm.name for arm in ARMS}), Scale())
    lines = [
        f"{scale.train:,} scenes of {scale.size} pixels to learn from, {scale.val} others to ask about; {scale.steps:,} steps of "
        f"{scale.batch} photos with one caption and {scale.questions} questions each. Mean of the seeds and, from two seeds on, their "
        "standard deviation, in percent of the questions of each kind; CIDEr of captions.",
        "",
        *markdown(table(runs, ARMS)),
        "",
        f"![accuracy by number of experts, and by share of corrupted depth labels]({plot})",
        "",
        f"Some of them with {scale.steps * TIMES:,} steps (*{TIMES} x* in the plot, hollow points):",
        "",
        *markdown(table(runs, LONGER)),
        "",
    ]
    return "\n".join(lines)


def table(runs: Sequence[Run], arms: Sequence[Arm]) -> list[list[str]]:
    """One row an arm, after a row for who always gives the most frequent answer of each kind. Arms without a run have dashes."""
    rows = [["", "all questions", *KINDS, "CIDEr", "seeds"]]
    if runs:
        kinds = runs[0]["kinds"]
        asked = {kind: kinds[kind]["asked"] for kind in KINDS}
        blind = sum(kinds[kind]["blind"] * asked[kind] for kind in KINDS) / sum(asked.values())
        each = [f"{kinds[kind]['blind']:.1f}" for kind in KINDS]
        rows.append(["always the most frequent answer", f"{blind:.1f}", *each, "", ""])
    for arm in arms:
        mine = [run for run in runs if run["arm"] == arm.name]
        cells = [_cell(mine, _accuracy)]
        cells += [_cell(mine, _of_kind(kind)) for kind in KINDS]
        rows.append([arm.title, *cells, _cell(mine, lambda run: float(run["captions"]["CIDEr"])), str(len(mine))])
    return rows


def _accuracy(run: Run) -> float:
    return float(run["accuracy"])


def _of_kind(kind: str) -> Callable[[Run], float]:
    return lambda run: float(run["kinds"][kind]["percent"])


def _cell(runs: Sequence[Run], number: Callable[[Run], float]) -> str:
    found = _mean(runs, number)
    if found is None:
        return "-"
    return f"{found[0]:.1f}" + (f" ± {found[1]:.1f}" if len(runs) > 1 else "")


def _mean(runs: Sequence[Run], number: Callable[[Run], float]) -> tuple[float, float] | None:
    values = [number(run) for run in runs]
    return (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0) if values else None


def _plot(runs: Sequence[Run]) -> bytes:
    def curve(name: str, arms: Sequence[str], more: bool = False) -> Curve:
        number = _accuracy if name == "all" else _of_kind(name)
        names = [longer(arm) if more else arm for arm in arms]
        means = [_mean([run for run in runs if run["arm"] == each], number) for each in names]
        return f"{name}{LONGER_SUFFIX if more else ''}", means

    counts = ["z", "one", "two", "four", "six", "noise"]
    shares = ["one", *(f"depth_{share}" for share in SHARES), "z"]
    left = _panel(
        "number of experts",
        ["0", "1", "2", "4", "6", "6 + noise"],
        [*(curve(name, counts) for name in COLOURS), curve("all", counts, more=True)],
    )
    right = _panel(
        "depth labels that are noise (depth alone)",
        ["0 %", *(f"{share} %" for share in SHARES), "no expert"],
        [
            *(curve(name, shares) for name in ("all", "sign", "shape", "place")),
            *(curve(name, shares, more=True) for name in ("all", "sign")),
        ],
    )
    both = Image.new("RGB", (left.width + right.width, HEIGHT), (255, 255, 255))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    buffer = io.BytesIO()
    both.save(buffer, "PNG")
    return buffer.getvalue()


def _panel(title: str, places: Sequence[str], curves: Sequence[Curve]) -> Image.Image:
    """Percent right, from 0 to 100, over ``places``."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    right, bottom = WIDTH - 96, HEIGHT - MARGIN

    def x(place: int) -> float:
        return MARGIN + (right - MARGIN) * (place + 0.5) / len(places)

    def y(percent: float) -> float:
        return bottom - (bottom - 24) * percent / 100

    for percent in range(0, 101, 20):
        draw.line((MARGIN, y(percent), right, y(percent)), fill=(225, 225, 225))
        draw.text((MARGIN - 8, y(percent)), f"{percent}", fill=INK, font=font(12), anchor="rm")
    for number, place in enumerate(places):
        draw.text((x(number), bottom + 10), place, fill=INK, font=font(12), anchor="mt")
    draw.text(((MARGIN + right) / 2, HEIGHT - 8), title, fill=INK, font=font(13), anchor="mb")
    draw.text((MARGIN, 6), "right, %", fill=INK, font=font(12))
    ends: list[tuple[float, str, RGB]] = []
    for name, means in curves:
        there = [(x(place), *found) for place, found in enumerate(means) if found is not None]
        colour = COLOURS[name.removesuffix(LONGER_SUFFIX)]
        more = name.endswith(LONGER_SUFFIX)
        draw.line([(at, y(mean)) for at, mean, _ in there], fill=colour, width=3 if name == "all" else 1 if more else 2)
        for at, mean, deviation in there:
            draw.line((at, y(mean - deviation), at, y(mean + deviation)), fill=colour, width=1)
            inside = (255, 255, 255) if more else colour
            draw.ellipse((at - 3, y(mean) - 3, at + 3, y(mean) + 3), fill=inside, outline=colour)
        if there:
            ends.append((y(there[-1][1]), name, colour))
    below = 0.0
    for height, name, colour in sorted(ends):
        below = max(height, below + 14)  # names do not lie on one another
        draw.text((right + 6, below), name, fill=colour, font=font(12), anchor="lm")
    return image
