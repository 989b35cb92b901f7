"""The command `grow`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.terminal import AsJson, JobPath, say, show


def grow(
    job_file: JobPath,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is new, gone or changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take over images that came, went or moved since the store was made. No label that is there is touched.

    New images become new shards, which `label` fills; those that are gone are left out by all who read, and keep their labels
    in case they come back.
    """
    from jobs.growing import grow as run
    from jobs.job import load_choices

    done = run(load_choices(job_file), say, dry_run=dry_run)
    for rejection in done.rejections:
        examples = ", ".join(rejection.examples[:2])
        say(f"left out: {rejection.count} x {rejection.reason} ({rejection.source}; {examples})")
    show(done.lines(), done.to_json(), as_json)
