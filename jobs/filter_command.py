"""`expert-labels manifest filter`: the texts that a rule keeps of a store's images, as a list in BLIP's format."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.terminal import AsJson, StorePath, aligned, say, show
from pipeline.errors import JobError

if TYPE_CHECKING:
    from manifests.record import ImageRecord
    from pipeline.kept_texts import TextRules

#: What is counted for each source, in the order of the table.
COUNTS = ("images", "images kept", "own texts", "own kept", "generated kept", "below", "unscored")


def filter_texts(
    store_url: StorePath,
    rules_file: Annotated[
        str,
        typer.Option(
            "--rules", metavar="RULES.yaml", help="A file with a section `select:`, or a recipe that has one."
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Where to write the list (JSON).")],
    root: Annotated[
        str | None,
        typer.Option("--root", metavar="DIR", help="Write paths of photos below this folder relative to it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Keep the better of a web caption and a generated one, drop what does not fit its photo; write what is left as BLIP's lists are.

    An item for each text: {"image" or "url", "caption", "image_id"}. Images without a text that is kept are in no item. The list
    can be trained from elsewhere, or be read again as a source (`caption_list`).
    """
    from manifests.location import replacing
    from pipeline.kept_texts import kept_texts
    from pipeline.store import LabelStore

    rules = read_rules(rules_file)
    _check_replaceable(out)
    counts: dict[str, Counter[str]] = {}
    items = 0
    with replacing(out) as file:
        file.write(b"[")
        for _, images in kept_texts(LabelStore.open(store_url), rules):
            for record, kept in images:
                counted = counts.setdefault(record.source, Counter())
                counted.update(
                    {
                        "images": 1,
                        "images kept": int(bool(kept.texts)),
                        "own texts": len(record.captions),
                        "own kept": sum(not text.generated for text in kept.texts),
                        "generated kept": sum(text.generated for text in kept.texts),
                        "below": kept.below,
                        "unscored": kept.unscored,
                    }
                )
                place = place_of(record, root)
                for text in kept.texts:
                    item = place | {"caption": text.text, "image_id": record.image_id}
                    file.write((b",\n" if items else b"\n") + json.dumps(item, ensure_ascii=False).encode())
                    items += 1
        file.write(b"\n]\n")
    table = [["source", *COUNTS]]
    table += [[source, *(str(counted[name]) for name in COUNTS)] for source, counted in sorted(counts.items())]
    lines = [f"{out}: {items} texts", *aligned(table)]
    if not items:
        say("no text is kept: look at the scores (`expert-labels preview`) and at `at_least`")
    show(lines, {"list": out, "texts": items, "sources": {name: dict(c) for name, c in counts.items()}}, as_json)


def _check_replaceable(out: str) -> None:
    from manifests.location import local_path

    there = local_path(out)
    if there is None or not there.is_file():
        return
    with there.open("rb") as file:
        if file.read(1) not in (b"", b"["):
            raise JobError(f"{out} is there and is no list; name another file, or remove it first")


def read_rules(path: str) -> TextRules:
    """The section `select` of a YAML file, or of the section `data` of a recipe. Raises JobError: one line."""
    import yaml
    from pydantic import ValidationError

    from pipeline.kept_texts import TextRules

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JobError(f"no file {path}; docs/filtering.md has one to copy") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise JobError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    data: Any = found.get("data") if isinstance(found, dict) and isinstance(found.get("data"), dict) else found
    if not isinstance(data, dict) or data.get("select") is None:
        raise JobError(f"{path} has no section `select`; docs/filtering.md has one to copy")
    try:
        return TextRules.model_validate(data["select"])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, ("select", *first["loc"])))
        raise JobError(f"{path}: `{place}`: {first['msg'].removeprefix('Value error, ')}") from error


def place_of(record: ImageRecord, root: str | None) -> dict[str, str]:
    """Where an image is, as an entry of a list: a URL, a path, or the address of a part of a file."""
    from manifests.location import local_path, split_part

    if record.uri.startswith(("http://", "https://")):
        return {"url": record.uri}
    uri, part = split_part(record.uri)
    path = local_path(uri) if part is None and uri.startswith("file://") else None
    if path is None:
        return {"image": record.uri}
    above = Path(root).absolute() if root is not None else None
    return {"image": str(path.relative_to(above) if above is not None and path.is_relative_to(above) else path)}
