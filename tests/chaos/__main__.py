"""`python -m tests.chaos --minutes 15 --seed 1`: tries for so long to lose a label, and prints what was tried. Exit code 1 if anything was found."""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.campaign import Campaign
from tests.chaos.faults import MIX
from tests.chaos.nodes import nodes
from tests.chaos.places import may_mount, s3_server
from tests.chaos.tally import write_into
from tests.jobs_at_work import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15, help="no round begins after that")
    parser.add_argument("--seed", type=int, default=1, help="decides the faults, their order and their targets")
    parser.add_argument("--only", choices=sorted(MIX), help="only rounds in this place")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/survival.md")
    choice = parser.parse_args()
    mix = {place: kinds for place, kinds in MIX.items() if choice.only in (None, place)}
    if "small disk" in mix and not may_mount():
        say("no disk gets full here: mounting a small one needs root")
        del mix["small disk"]
    begun = time.monotonic()
    for ending in (signal.SIGINT, signal.SIGTERM):  # a shell lets what it starts in the background ignore Ctrl-C
        signal.signal(ending, signal.default_int_handler)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-rounds")))
        server = stack.enter_context(s3_server())
        cluster = stack.enter_context(nodes(environment=server.environment()))
        campaign = Campaign(folder=folder, nodes=cluster, seed=choice.seed, server=server, say=say)
        try:
            campaign.run(minutes=choice.minutes, mix=mix)
        except KeyboardInterrupt:
            say("interrupted; this is what was tried until then")
        cluster.stop()
        left = cluster.left_over()
    tally = campaign.tally
    tally.findings += [f"left behind: {line[:200]}" for line in left]
    say(f"\n{tally.text()}")
    if choice.docs:
        about = (
            f"`python -m tests.chaos --minutes {choice.minutes:g} --seed {choice.seed}`, {datetime.date.today()}, {os.cpu_count()} cores, "
            f"{(time.monotonic() - begun) / 60:.0f} minutes:"
        )
        write_into(ROOT / "docs/survival.md", tally.markdown(about))
    return 1 if tally.findings or tally.lost.total() else 0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
