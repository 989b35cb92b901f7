"""YAML files of users: read, `${root}` filled in, validated; every mistake is one line with file and place."""

from __future__ import annotations

import difflib
import re
from inspect import get_annotations
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import JobError

Model = TypeVar("Model", bound=BaseModel)

_NAMED = re.compile(r"\$\{([^}]*)\}")
_ROOT_IN_BRACES = re.compile(r"flow mapping.*\$\{", re.DOTALL)


class _EachKeyOnce(yaml.SafeLoader):
    """YAML as ever, but a key that a mapping has twice is a mistake: the first one would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key `{key.value}` stands twice in one mapping", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str) -> dict[str, Any]:
    """The file at ``path``, with its `root` in place of every ``${root}``. Raises JobError."""
    try:
        found = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_EachKeyOnce)  # noqa: S506 (it is a SafeLoader)
    except FileNotFoundError:
        raise JobError(
            f"no file {path}; to copy, the repository has `jobs/photos.yaml`, a job, and sources of images in `manifests/`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        rooted = "; inside of { } a text with ${root} needs quotes" if _ROOT_IN_BRACES.search(str(error)) else ""
        raise JobError(f"{path} is not YAML: {' '.join(str(error).split())}{rooted}") from error
    if not isinstance(found, dict):
        raise JobError(f"{path}: expected `key: value` lines (docs/job-file.md), found {type(found).__name__}")
    root = found.get("root")
    try:
        return {key: value if key == "root" else _rooted(value, root, str(key)) for key, value in found.items()}
    except ValueError as error:
        raise JobError(f"{path}: {error}") from error


def _rooted(value: Any, root: object, place: str) -> Any:
    if isinstance(value, dict):
        return {key: _rooted(item, root, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_rooted(item, root, f"{place}.{number}") for number, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        if match[1] != "root":
            raise ValueError(f"`{place}`: {match[0]} is not known; expected ${{root}}")
        if not isinstance(root, str) or not root:
            raise ValueError(f"`{place}`: ${{root}} stands here and `root:`, the folder that is meant, does not")
        return root.rstrip("/") or "/"

    return _NAMED.sub(fill, value)


def validated(model: type[Model], path: str, found: dict[str, Any], *, known: list[type[BaseModel]]) -> Model:
    """What was read from ``path``, as a model. Raises JobError; ``known``: whose keys may have been meant."""
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise JobError(f"{path}: {_first_problem(error, known)}") from error


def _first_problem(error: ValidationError, known: list[type[BaseModel]]) -> str:
    """One line for the first of pydantic's findings: where, what, and the name that was probably meant."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-"))
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        # A source's own keys come first: `caption` is a key of one source and a mistake in another.
        tag = first["loc"][-2] if len(first["loc"]) > 1 else None
        own = (
            [model for model in known if tag in [field.default for field in model.model_fields.values()]] if tag else []
        )
        keys = [key for model in own or known for key in get_annotations(model)]
        close = difflib.get_close_matches(key, keys, n=1)
        return f"unknown key `{place}`" + (
            f"; did you mean `{close[0]}`?" if close else "; docs/job-file.md lists all keys"
        )
    if first["type"] == "union_tag_invalid":
        given, key = str(first["ctx"]["tag"]), str(first["ctx"]["discriminator"]).strip("'")
        tags = re.findall(r"'([^']+)'", str(first["ctx"]["expected_tags"]))
        close = difflib.get_close_matches(given, tags, n=1)
        meant = f"did you mean `{close[0]}`? known are" if close else "known are"
        return f"`{place}`: unknown {key} `{given}`; {meant} {', '.join(tags)}"
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return (f"`{place}`: {message}" if place else message) + more
