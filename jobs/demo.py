"""`make demo`: the whole product in one go on rendered scenes, where every label can be held against exact truth.

Nothing here that a user could not type; the commands are printed as they are run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.job import Job, load_job
from jobs.labelling import label
from jobs.preview import write_preview
from jobs.terminal import aligned, decimals, say, short_names
from pipeline.audit import agreement, audit
from pipeline.errors import ExpertLabelsError
from pipeline.reader import LabelReader
from pipeline.status import status
from pipeline.store import LabelStore

JOB = Path(__file__).with_name("demo.yaml")
TRUTH = "truth"
SHOWN = 24
RECIPE = "scenes_captions"
STEPS = 120
#: Two scenes that were trained on, and two of a seed that nothing has seen.
CAPTIONED = ("scenes://7/0", "scenes://7/1", "scenes://8/0", "scenes://8/1")


def main() -> int:
    """Exit code: 0 if every cell is committed and the audit finds nothing."""
    job = load_job(str(JOB))
    _step(f"expert-labels label {JOB.parent.name}/{JOB.name}")
    summary = label(job, say)
    print("\n".join(summary.lines()))
    if not summary.complete or summary.interrupted:
        return 1

    store = LabelStore.open(job.store)
    _step(f"expert-labels audit {job.store} --deep")
    report = audit(store, deep=True)
    print(f"{report.cells} cells, {report.rows} rows, every byte read: {len(report.findings)} findings")
    for finding in report.findings:
        print(f"{finding.severity}: {finding.column} {finding.what}")

    _step(f"expert-labels audit {job.store} --against {TRUTH}")
    print("\n".join(accuracy_and_speed(store)))

    out = Path(job.store).parent
    _step(f"expert-labels preview {job.store} --out {out} --limit {SHOWN}")
    print("\n".join(_preview(job, store, out)))
    if report.errors:
        return 1
    return _train_and_caption(job, store, out)


def accuracy_and_speed(store: LabelStore) -> list[str]:
    """One line an expert: its headline metric against the truth, and images a second inside the expert, on one worker."""
    rates = {}
    for column in status(store, failures=True).columns:
        if column.seconds is not None and column.seconds.compute > 0:
            rates[column.column] = column.images / column.seconds.compute
    rows = agreement(store, TRUTH)
    names = short_names([row.column for row in rows])
    table = [["expert", "metric", "value", "images/s"]]
    for row in rows:
        rate = f"{rates[row.column]:.1f}" if row.column in rates else "-"
        table.append([names[row.column], row.headline, decimals(row.metrics[row.headline], 3), rate])
    return aligned(table, left=(0, 1))


def _preview(job: Job, store: LabelStore, out: Path) -> list[str]:
    names = [choice.name for choice in job.experts if not choice.name.startswith(f"{TRUTH}_")]
    reader = LabelReader(store, names)
    done = write_preview(reader.samples(), reader.cards, out, title="Expert Labels demo", limit=SHOWN)
    return [f"open {done.page}", f"or look at {done.sheet}"]


def _train_and_caption(job: Job, store: LabelStore, out: Path) -> int:
    """A short training on the labels, and what it says of photos that are labelled on the fly. Returns an exit code."""
    from jobs.captioning import caption
    from trainer.embeddings.writing import Means, embed
    from trainer.launch import train
    from trainer.recipe import load_recipe

    embeddings, run, picture = out / "embeddings", out / "run", out / "captions.png"
    _step(f"expert-labels embed {job.store} --out {embeddings} --method random")
    embed(store, str(embeddings), means=Means(method="random"), say=say)
    _step(f"expert-labels train {RECIPE} --out {run} --set steps={STEPS}")
    changes = {"steps": STEPS, "data.store": job.store, "method.embeddings": str(embeddings)}
    outcome = train(load_recipe(RECIPE, changes), run)
    if not outcome.finished:
        return 130
    _step(f"expert-labels caption {' '.join(CAPTIONED)} --checkpoint {run} --out {picture}")
    for one in caption(CAPTIONED, str(run), str(picture), say=say):
        print(f"{one.photo}: {one.caption}")
    print(f"look at {picture}: so few steps teach how scenes are described, and hardly anything of looking at them")
    return 0


def _step(command: str) -> None:
    print(f"\n$ {command}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ExpertLabelsError as error:
        say(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("interrupted: run `make demo` again to finish")
        sys.exit(130)
