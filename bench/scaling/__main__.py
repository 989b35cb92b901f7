"""`python -m bench.scaling actors`, `units` or `shards`."""

from __future__ import annotations

import argparse

from bench.report import measured, show
from bench.scaling import actors, shards, units

PARTS = {"actors": actors, "units": units, "shards": shards}


def main() -> None:
    parser = argparse.ArgumentParser(description="How far one driver goes, without the hardware (docs/scaling.md).")
    commands = parser.add_subparsers(dest="part", required=True)
    for name, part in PARTS.items():
        own = commands.add_parser(name, help=(part.__doc__ or "").splitlines()[0])
        part.add_arguments(own)
        own.add_argument("--json", action="store_true", help="JSON instead of Markdown")
    arguments = parser.parse_args()
    show([measured(PARTS[arguments.part].measure, arguments)], as_json=arguments.json)


if __name__ == "__main__":
    main()
