"""What a configuration says, without detectron2 and without running it: a driver needs it for the card.

    name of the model zoo -> the table in zoo.txt
    path to a YAML        -> the file and its chain of _BASE_, merged
    path to a LazyConfig  -> a Python program: its text, and that of the files it imports relatively; what it says is known only
                             to who runs it, so the rules of the input are assumed and compared by the worker that does

A configuration is code: detectron2 runs a LazyConfig, and evaluates Python tags in a YAML. Name only those that you trust.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from expert_zoo.detection.detectron.zoo import INSTALL, Channels, zoo_models

#: What detectron2 takes where a configuration does not say.
SHORT, LONG, CHANNELS = 800, 1333, "BGR"
SHORT_KEY, LONG_KEY, CHANNELS_KEY = "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "INPUT.FORMAT"
INPUT_KEYS = (SHORT_KEY, LONG_KEY, CHANNELS_KEY)
DIGEST_DIGITS = 16
LONGEST_CHAIN = 16

Overrides = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A configuration as far as it is known without detectron2.

    name         of the model zoo, or the path as given
    path         of the file; None: it lies in detectron2's model zoo
    digest       of its contents
    overrides    keys and values put into it, as detectron2's own command line does
    short, long  the short side of the input in pixels, and the most that the long side may have
    channels     of the input
    weights      where it says that its weights are; "" where it does not
    coco         whether it says that its classes are the 80 of COCO
    parameters   of the network; 0 where unknown
    """

    name: str
    path: Path | None
    digest: str
    overrides: Overrides = field(default_factory=dict)
    short: int
    long: int
    channels: Channels
    weights: str = ""
    coco: bool = False
    parameters: int = 0

    @property
    def is_lazy(self) -> bool:
        return self.name.endswith(".py")


def read_configuration(name: str, overrides: Overrides | None = None) -> Configuration:
    """The configuration ``name``: of detectron2's model zoo, unless a file lies at that path.

    ``overrides``: values by dotted key, among them the INPUT_KEYS, which for a LazyConfig mean what they mean in a YAML.
    Raises ValueError: neither a file nor in the zoo, unreadable, or saying something impossible of its input.
    """
    overrides = dict(overrides or {})
    path = Path(name).expanduser()
    if path.suffix not in (".yaml", ".yml", ".py"):
        raise ValueError(f"configuration {name!r}: expected a .yaml, .yml or .py")
    if not path.is_file():
        return _of_the_zoo(name, overrides)
    path = path.absolute()
    if path.suffix == ".py":
        rules, said = Rules(overrides, {}), {}
        digest = lazy_digest(path)
    else:
        said = merged_yaml(path)
        rules = Rules(overrides, said)
        digest = yaml_digest(said)
    return Configuration(
        name=name,
        path=path,
        digest=digest,
        overrides=overrides,
        short=rules.pixels(SHORT_KEY, SHORT, name),
        long=rules.pixels(LONG_KEY, LONG, name),
        channels=rules.channels(CHANNELS, name),
        weights=str(rules.value("MODEL.WEIGHTS", "") or ""),
        coco=_is_coco(rules.value("DATASETS.TEST", ())),
    )


def _of_the_zoo(name: str, overrides: Overrides) -> Configuration:
    model = zoo_models().get(name)
    if model is None:
        close = difflib.get_close_matches(name, zoo_models(), n=1)
        hint = f"; did you mean {close[0]}?" if close else ", such as COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml"
        raise ValueError(f"configuration {name!r} is neither a file nor one of detectron2's model zoo with boxes{hint}")
    rules = Rules(overrides, {})
    return Configuration(
        name=name,
        path=None,
        digest=model.digest,
        overrides=overrides,
        short=rules.pixels(SHORT_KEY, model.short, name),
        long=rules.pixels(LONG_KEY, model.long, name),
        channels=rules.channels(model.channels, name),
        weights=model.url,
        coco=model.classes == 80,
        parameters=model.parameters,
    )


class Rules:
    """Values by dotted key: of the overrides, else of the configuration ``said``."""

    def __init__(self, overrides: Overrides, said: Mapping[str, Any]) -> None:
        self._overrides = overrides
        self._said = said

    def value(self, key: str, default: Any) -> Any:
        """The value at ``key``; a text that is a Python literal counts as that, as it does in detectron2."""
        found: Any = self._overrides.get(key)
        if found is None:
            found = self._said
            for part in key.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
        if isinstance(found, str):
            try:
                return ast.literal_eval(found)
            except (ValueError, SyntaxError):
                return found
        return default if found is None else found

    def pixels(self, key: str, default: int, name: str) -> int:
        found = self.value(key, default)
        if type(found) is not int or found < 1:
            raise ValueError(f"configuration {name} has {key}: {found!r}; expected pixels, set it under `overrides:`")
        return found

    def channels(self, default: str, name: str) -> Channels:
        found = self.value(CHANNELS_KEY, default)
        if found not in ("RGB", "BGR"):
            raise ValueError(f"configuration {name} has {CHANNELS_KEY}: {found!r}; expected RGB or BGR")
        return cast(Channels, found)


def merged_yaml(path: Path, depth: int = 0) -> dict[str, Any]:
    """The YAML at ``path`` over the one that its _BASE_ names, and so on. Nothing in it is run. Raises ValueError."""
    try:
        said = yaml.load(path.read_bytes(), Loader=_Reader)  # noqa: S506 - a SafeLoader
    except (OSError, yaml.YAMLError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error).replace("\n", " ")
        raise ValueError(f"configuration {path} cannot be read: {why}") from error
    if not isinstance(said, dict):
        raise ValueError(f"configuration {path} is no mapping; expected a YAML of detectron2")
    base = said.pop("_BASE_", None)
    if base is None:
        return said
    if not isinstance(base, str) or "://" in base or depth == LONGEST_CHAIN:
        raise ValueError(
            f"configuration {path} has _BASE_: {base!r}; expected a path, {LONGEST_CHAIN} in a row at most"
        )
    return _over(said, merged_yaml(path.parent / Path(base).expanduser(), depth + 1))


def yaml_digest(said: Mapping[str, Any]) -> str:
    """Digest of what a YAML says but for where the weights lie, which decides no label."""
    model = said.get("MODEL")
    if isinstance(model, Mapping):
        said = {**said, "MODEL": {key: value for key, value in model.items() if key != "WEIGHTS"}}
    return _digest(json.dumps(said, sort_keys=True, default=str).encode())


def lazy_digest(path: Path) -> str:
    """Digest of a LazyConfig and of the files that it imports relatively, each found by its place as detectron2 does.

    Raises ValueError where one of them cannot be read.
    """
    contents: dict[Path, bytes] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in contents:
            continue
        try:
            contents[file] = file.read_bytes()
            tree = ast.parse(contents[file])
        except (OSError, SyntaxError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise ValueError(f"configuration {file} cannot be read: {why}") from error
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                waiting.append(file.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py"))
    return _digest(*contents.values())


def check_zoo_file(name: str, path: Path) -> None:
    """Raises ValueError where the installed detectron2 has at ``path`` another configuration ``name`` than the table knows."""
    found = lazy_digest(path) if path.suffix == ".py" else yaml_digest(merged_yaml(path))
    if found != zoo_models()[name].digest:
        raise ValueError(f"the installed detectron2 has another {name} than the card states; {INSTALL}")


class _Reader(yaml.SafeLoader):
    """Knows no tags: `!!python/object/apply:eval ["..."]` is read as the list it stands before, with its tag."""


def _with_its_tag(loader: _Reader, tag: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.SequenceNode):
        return {tag: loader.construct_sequence(node, deep=True)}
    if isinstance(node, yaml.MappingNode):
        return {tag: loader.construct_mapping(node, deep=True)}
    return {tag: loader.construct_scalar(cast(yaml.ScalarNode, node))}


_Reader.add_multi_constructor("", _with_its_tag)


def _over(upper: dict[str, Any], lower: dict[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        both = isinstance(value, dict) and isinstance(lower.get(key), dict)
        merged[key] = _over(value, lower[key]) if both else value
    return merged


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"\0".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()[
        :DIGEST_DIGITS
    ]


def _is_coco(data_sets: Any) -> bool:
    named = [data_sets] if isinstance(data_sets, str) else list(data_sets)
    return bool(named) and all(str(name).startswith(("coco_2014_", "coco_2017_")) for name in named)
