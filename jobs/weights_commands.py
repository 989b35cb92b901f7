"""Commands for weights that do not come inside a package: fetch them, verify them, list them, or seed random ones."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer
from tqdm import tqdm

from jobs.progress import LOG_EVERY
from jobs.terminal import AsJson, aligned, say, shortened, show, size
from jobs.weights_asked import all_needed, choices_of, needed_by_experts, seeded_bytes, state_of
from pipeline.errors import JobError

app = typer.Typer(
    help="Fetch, verify and list weights: the experts', and those that training begins with. Beside these, only photos are downloaded, and only where a source of images says `fetch: true`.",
    no_args_is_help=True,
)

Names = Annotated[
    str | None, typer.Option("--experts", metavar="A,B", help="Names of experts, with commas between them.")
]
JobFile = Annotated[
    str | None,
    typer.Option("--job", metavar="JOB.yaml", help="The experts of this job file; their options choose the weights."),
]
RecipeFile = Annotated[
    str | None,
    typer.Option("--recipe", metavar="RECIPE.yaml", help="The networks that this recipe of training begins with."),
]
Networks = Annotated[
    str | None, typer.Option("--networks", metavar="A,B", help="Names of networks that training begins with.")
]
Folder = Annotated[
    str | None,
    typer.Option(
        "--weights", metavar="DIR", help="The weights folder. Default: the job's, $EXPERT_LABELS_WEIGHTS, a cache."
    ),
]


@app.command()
def fetch(
    experts: Names = None,
    job: JobFile = None,
    recipe: RecipeFile = None,
    networks: Networks = None,
    weights: Folder = None,
    at_hand: Annotated[
        bool, typer.Option("--at-hand", help="Download nothing: record files that were put into the folder by hand.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Download weights and check their digests. Interrupt it at will: the next run goes on where this one stopped."""
    from expert_zoo.weights.fetch import fetch as bring
    from expert_zoo.weights.fetch import record_at_hand

    if experts is None and job is None and recipe is None and networks is None:
        raise JobError(
            "fetch what? name experts with --experts, a job file with --job, or a recipe of training with --recipe; "
            "`expert-labels weights list` lists them"
        )
    done, failures = [], []
    for needed in all_needed(experts, job, recipe, networks, weights):
        checkpoint = needed.checkpoint
        if not checkpoint.commercial_use:
            say(f"licence: {checkpoint.name} is for non-commercial use ({checkpoint.licence}; {checkpoint.page})")
        try:
            if at_hand:
                record_at_hand(needed.folder, checkpoint)
                what = "recorded"
            else:
                with _Bars() as bars:
                    what = "fetched" if bring(needed.folder, checkpoint, say=say, progress=bars) else "at hand"
        except ValueError as error:
            failures.append(str(error))
            continue
        except KeyboardInterrupt:
            say("interrupted: what arrived is kept; run the same command again and it goes on")
            raise typer.Exit(130) from None
        done.append(needed.to_json(did=what))
    table = [
        [row["checkpoint"], row["did"], size(row["bytes"]), row["revision"][:12] or "-", row["folder"]] for row in done
    ]
    show(aligned(table, left=(0, 1, 3, 4)) if table else [], done, as_json)
    for failure in failures:
        say(f"error: {failure}")
    if failures:
        raise typer.Exit(2)


@app.command()
def verify(
    experts: Names = None,
    job: JobFile = None,
    recipe: RecipeFile = None,
    networks: Networks = None,
    weights: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte of the weights at hand and compare their digests. Default: all that are known.

    Exit code 1 if something is damaged or not locked, or if something was named and its weights are missing.
    """
    asked = all_needed(experts, job, recipe, networks, weights)
    rows, troubles = [], []
    for needed in asked:
        state, why = state_of(needed)
        rows.append(needed.to_json(state=state, why=why))
        if state in ("damaged", "not locked") or (state == "missing" and (experts or job or recipe or networks)):
            troubles.append(why)
    show(_table(rows) + troubles, rows, as_json)
    raise typer.Exit(1 if troubles else 0)


@app.command("list")
def list_(
    experts: Names = None,
    job: JobFile = None,
    recipe: RecipeFile = None,
    networks: Networks = None,
    weights: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Which weights there are, whether they are at hand, and what their licences allow. Default: all that are known.

    "random": `weights seed` wrote them, and labels are noise. "not locked": files lie there, and weights.lock does not say which.
    """
    rows, faults = [], []
    for needed in all_needed(experts, job, recipe, networks, weights):
        state, why = needed.folder.look(needed.checkpoint)
        rows.append(needed.to_json(state=state, why=why))
        if state in ("not locked", "damaged"):
            faults.append(f"{needed.checkpoint.name}: {why}")
    show(_table(rows) + faults, rows, as_json)


@app.command()
def seed(
    weights: Annotated[
        str, typer.Option("--weights", metavar="DIR", help="The folder for them; not one with real weights.")
    ],
    experts: Names = None,
    job: JobFile = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Those of every expert: gigabytes, unless --small.")
    ] = False,
    small: Annotated[bool, typer.Option("--small", help="The same architecture with few and narrow layers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write random weights in the real formats, to try or to time experts whose real ones are not at hand.

    Their labels are noise. They have digests of their own and so never share a column with real ones.
    """
    from expert_zoo.networks.seeding import seed as write

    asked = needed_by_experts(experts, job, weights)
    choices = [choice for choice in choices_of(experts, job) if any(choice.name in needed.experts for needed in asked)]
    full = f"{len(asked)} checkpoint(s), about {size(seeded_bytes(choices))}"
    if experts is None and job is None and not everything:
        raise JobError(
            f"seed what? name experts with --experts or a job file with --job; --all writes {full}, with --small far less"
        )
    if not small:
        say(f"writing random weights to {weights}: {full}")
    own = [choice.name for choice in choices if choice.use]
    if own:
        raise JobError(f"{', '.join(own)}: only experts of the table can be seeded; leave out those with `use`")
    for choice in choices:
        try:
            write([choice.name], root=weights, small=small, options={choice.name: choice.options})
        except ValueError as error:
            if not everything:
                raise JobError(str(error)) from error
            say(f"left out: {choice.name}: {error}")
    rows = [needed.to_json() for needed in asked if needed.folder.at_hand(needed.checkpoint)]
    show([f"{row['checkpoint']}  {size(row['bytes'])}  {row['folder']}" for row in rows], rows, as_json)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["nothing here needs weights of its own"]
    table = [["checkpoint", "experts", "state", "size", "revision", "commerce", "licence"]]
    for row in rows:
        known = size(row["bytes"]) if row["bytes"] else "-"
        allowed = "yes" if row["commercial_use"] else "no"
        revision = row["revision"][:8] or "-"
        table.append(
            [
                shortened(row["checkpoint"], 38),
                shortened(" ".join(row["experts"]), 20),
                row["state"],
                known,
                revision,
                allowed,
                shortened(row["licence"], 20),
            ]
        )
    return aligned(table, left=(0, 1, 2, 4, 5, 6))


class _Bars:
    """Progress of downloads: a bar for each file on a terminal, a line now and then in a log."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._what = ""
        self._said = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if sys.stderr.isatty():
            if self._bar is None or self._what != what:
                self.__exit__()
                self._bar = tqdm(
                    desc=what, unit="B", unit_scale=True, total=total or None, initial=done, dynamic_ncols=True
                )
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._said > LOG_EVERY:
            self._said = time.monotonic()
            say(f"{what}: {size(done)} of {size(total) if total else 'unknown size'}")
        self._what = what

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
