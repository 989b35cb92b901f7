"""`expert-labels experts`: what a job file can name, as one table, or one expert in full."""

from __future__ import annotations

import re
import textwrap
from typing import Annotated, Any

import typer

from expert_zoo.card import ExpertCard
from expert_zoo.expert import Expert
from expert_zoo.weights.needed import NeedsCheckpoint
from jobs.terminal import AsJson, aligned, shortened, show, size
from pipeline.errors import JobError

#: Characters of a line of `experts NAME`.
_WIDTH = 118


def experts(
    name: Annotated[str | None, typer.Argument(help="Show this expert in full.")] = None,
    use: Annotated[
        str | None, typer.Option("--use", metavar="module:Class", help="Your own class, as in a job file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The experts that a job file can name: what they are fed, what they cost, what their licences allow.

    All with their default options. Weights are "in package", "at hand" (in the weights folder), "random" (likewise, written by
    `weights seed`: labels are noise), "missing" (`expert-labels weights fetch` brings them), "damaged", "not locked" (`weights
    list` says why), or "-" where nothing is learned.
    """
    from expert_zoo.catalog import EXPERTS, create

    if use and not name:
        raise JobError(f"--use {use} is the class of one expert; name it: `expert-labels experts NAME --use {use}`")
    found: list[Expert] = []
    problems: dict[str, str] = {}
    for known in [name] if name else EXPERTS:
        try:
            found.append(create(known, use=use))
        except ValueError as error:
            problems[known] = str(error)
    if name:
        if problems:
            raise JobError(problems[name])
        show(_in_full(found[0]), _as_json(found[0]), as_json)
    else:  # an expert that cannot be without an option is a line of its own, and does not hide the others
        lines = [shortened(f"{known}: {problem}", _WIDTH) for known, problem in problems.items()]
        rows = [_as_json(expert) for expert in found]
        rows += [{"name": known, "problem": problem} for known, problem in problems.items()]
        show(_table(found) + lines, rows, as_json)


def _table(experts: list[Expert]) -> list[str]:
    table = [["expert", "label", "parameters", "input", "device", "weights", "commerce", "licence", "arXiv"]]
    for expert in experts:
        card = expert.card
        table.append(
            [
                card.name,
                card.spec.kind,
                _parameters(card) or "-",
                input_of(card) or "-",
                f"{expert.needs.device_memory_gib:g} GiB" if expert.needs.gpu else "CPU",
                weights_state(expert),
                "yes" if card.commercial_use else "no",
                shortened(card.licence, 14),
                ", ".join(re.findall(r"arXiv:([\d.]+\d)", card.paper)[:1]) or "-",
            ]
        )
    return aligned(table, left=(0, 1, 3, 5, 6, 7, 8))


def _in_full(expert: Expert) -> list[str]:
    card, spec = expert.card, expert.card.spec
    lines = [card.name, *_told("what", card.summary), *_told("network", card.network)]
    lines += _told("parameters", _parameters(card) or "none")
    lines += _told("version", _version(card) or "unknown until the weights are at hand")
    lines += _told("label", f"{spec.kind} of {spec.quantity}{f' in {spec.units}' if spec.units else ''}")
    lines += _told("convention", spec.convention)
    if spec.class_names:
        lines += _told("classes", f"{len(spec.class_names)}: {', '.join(spec.class_names)}")
    for title, rules in (("input", card.preprocessing), ("output", card.processing)):
        lines += _told(title, "; ".join(f"{key} {value}" for key, value in rules.items()))
    needs = expert.needs
    device = f"a GPU, about {needs.device_memory_gib:g} GiB" if needs.gpu else "a CPU will do"
    lines += _told("device", f"{device}; {needs.batch_size} photos a call")
    lines += _told("weights", weights_state(expert))
    for weights in card.weights:
        known = f"{size(weights.bytes)}, SHA-256 {weights.sha256}" if weights.sha256 else "digest unknown"
        lines += _told("", f"{weights.file}: {known}, from {weights.where}")
    allowed = "commercial use allowed" if card.commercial_use else "no commercial use"
    return lines + _told("licence", f"{card.licence}; {allowed}") + _told("paper", card.paper)


def _as_json(expert: Expert) -> dict[str, Any]:
    """The card as a store keeps it, and what depends on this machine and these options besides."""
    needs = expert.needs
    return expert.card.model_dump(mode="json") | {
        "version": _version(expert.card),
        "input": input_of(expert.card),
        "needs": {"batch_size": needs.batch_size, "device_memory_gib": needs.device_memory_gib, "gpu": needs.gpu},
        "weights_state": weights_state(expert),
    }


def weights_state(expert: Expert) -> str:
    """Where the expert's weights are, in a word or two."""
    if isinstance(expert, NeedsCheckpoint):
        return expert.folder.look(expert.checkpoint)[0]
    return "in package" if expert.card.weights else "-"


def input_of(card: ExpertCard) -> str:
    """The size of the network's input as the card's preprocessing says it, in a few words; "" where it says none."""
    rules = card.preprocessing
    if rules.get("fit") == "squash":
        return f"{rules['side']}x{rules['side']}"
    if "fit" in rules:
        return f"{str(rules['fit']).replace('_', ' ')} {rules['side']}"
    sides = [f"{key.replace('_', ' ')} {value}" for key, value in rules.items() if key.endswith("_side") and value]
    return sides[0] if sides else ""


def _version(card: ExpertCard) -> str | None:
    return card.version if all(weights.sha256 for weights in card.weights) else None


def _parameters(card: ExpertCard) -> str:
    return f"{card.parameters / 1e6:.2f} M" if card.parameters else ""


def _told(title: str, text: str) -> list[str]:
    """``title`` and ``text`` in two columns; nothing where there is no text."""
    lines = textwrap.wrap(text, _WIDTH - 14, break_long_words=False, break_on_hyphens=False)
    return [f"  {title if number == 0 else '':<12}{line}" for number, line in enumerate(lines)]
