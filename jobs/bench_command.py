"""`expert-labels bench-expert`: the table of what experts cost on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated, Any, Literal

import typer

from jobs.terminal import AsJson, aligned, say, show, size
from pipeline.errors import JobError


def bench_expert(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Experts of the catalog, or `all` that label photos.")
    ],
    seeded: Annotated[
        Literal["full", "small"] | None,
        typer.Option(
            help="Random weights in place of real ones: full size is as fast as these; small only shows that it runs."
        ),
    ] = None,
    side: Annotated[
        int | None, typer.Option(help="Pixels of the network's input, for experts with such an option.")
    ] = None,
    photos: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many are measured; as many again warm up. Default: 16 on a CPU, 8 batches on a GPU."
        ),
    ] = None,
    turns: Annotated[int, typer.Option(min=1, help="How often; the median counts.")] = 3,
    batch_size: Annotated[int | None, typer.Option(min=1, help="In place of the expert's own.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="That read, and as many that encode.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda:0. Default: the GPU if there is one.")] = None,
    weights: Annotated[str | None, typer.Option(metavar="DIR", help="The weights folder.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the expert, as YAML.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure experts on rendered photos: the bare network, the expert, and the whole actor from JPEG to committed cell.

    actor/network is the share of the bare network's speed that reaches the store. Every expert runs in its own process, so
    that peaks of memory are its own.
    """
    from expert_zoo.catalog import EXPERTS, accepts
    from jobs.bench_expert import bench_expert as measure

    if names == ["all"]:  # the truth is known of scenes alone
        names = [name for name in EXPERTS if not name.startswith("truth_")]
    if len(names) > 1:
        flags = {
            "seeded": seeded, "side": side, "photos": photos, "turns": turns, "batch-size": batch_size, "threads": threads,
            "device": device, "weights": weights,
        }  # fmt: skip
        given = [f"--{flag}={value}" for flag, value in flags.items() if value is not None]
        given += [f"--option={pair}" for pair in option or []]
        found = [speed for name in names for speed in _in_a_process_of_its_own(name, given)]
        show(_lines(found), found, as_json)
        raise typer.Exit(0 if len(found) == len(names) else 1)
    (name,) = names
    try:
        wished = {"side": side, "weights_folder": weights}
        options = {key: value for key, value in wished.items() if value is not None and accepts(name, key)}
    except ValueError as error:
        raise JobError(str(error)) from error
    speed = measure(
        name,
        options=options | _options(option or []),
        device=device,
        photos=photos,
        turns=turns,
        batch_size=batch_size,
        seeded=seeded,
        threads=threads,
    ).to_json()
    show(_lines([speed]), [speed], as_json)


def _options(pairs: list[str]) -> dict[str, Any]:
    import yaml

    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise JobError(f"--option {pair}: expected KEY=VALUE, e.g. --option size=small")
        options[key] = yaml.safe_load(value)
    return options


def _in_a_process_of_its_own(name: str, flags: list[str]) -> list[dict[str, Any]]:
    """[what is measured of one expert], or [] where it cannot be: its process then said why."""
    say(f"{name} ...")
    command = [sys.executable, "-m", "jobs.cli", "bench-expert", name, *flags, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return list(json.loads(done.stdout)) if done.returncode == 0 else []


def _lines(found: list[dict[str, Any]]) -> list[str]:
    table = [
        [
            "expert",
            "input",
            "photos",
            "batch",
            "parameters",
            "network/s",
            "expert/s",
            "actor/s",
            "actor/network",
            "peak memory",
        ]
    ]
    for speed in found:
        sides = f"{speed['input'][1]}x{speed['input'][0]}" if speed["input"] else "-"
        network = f"{speed['network']:.2f}" if speed["network"] else "-"
        kept = f"{speed['actor_over_network']:.2f}" if speed["actor_over_network"] else "-"
        table.append(
            [
                speed["expert"],
                sides,
                str(speed["photos"]),
                str(speed["batch_size"]),
                "small" if speed["parameters"] is None else f"{speed['parameters'] / 1e6:.1f} M",
                network,
                f"{speed['expert_rate']:.2f}",
                f"{speed['actor']:.2f}",
                kept,
                size(speed["peak_bytes"]),
            ]
        )
    if not found:
        return ["nothing was measured"]
    weights = ", random weights" if found[0]["seeded"] else ""
    return [f"images a second on {found[0]['device']}{weights}", *aligned(table)]
