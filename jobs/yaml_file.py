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


def read_yaml(path: str) -> dict[str, Any]:
    """The file at ``path``, with its `root` in place of every ``${root}``. Raises JobError."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JobError(f"no file {path}; `jobs/photos.yaml` in the repository is a job to copy") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise JobError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
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
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return (f"`{place}`: {message}" if place else message) + more
