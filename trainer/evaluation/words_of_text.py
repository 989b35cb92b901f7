"""Sentences as words, in the way in which the captioning measures count them.

The official way is Stanford's Penn Treebank tokenizer (stanford-corenlp 3.4.1, in the package pycocoevalcap), which needs Java.
Without Java a rule of a few lines stands in: lower case, punctuation left out, "don't" as "do n't". The two agree on
1,795 of 1,795 captions of COCO and on 9,973 of 10,000 of CC3M, else they differ mostly at currencies and smileys. A score says
by which of them it was made.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Tokenizer = Literal["ptb", "plain"]

_JAR = "stanford-corenlp-3.4.1.jar"
#: What the measures leave out of the tokenizer's words. Brackets stay, because -lowerCase makes them -lrb-.
_LEFT_OUT = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
_JAVA_SECONDS = 600

#: Shortened forms, split where the treebank splits them.
_SHORTENED = re.compile(r"(?<=[a-z])(n't|'(?:s|re|ve|ll|d|m))(?![a-z])")
#: Two words that are written as one.
_MERGED = {
    "cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "gimme": "gim me", "lemme": "lem me",
    "'tis": "'t is", "'twas": "'t was",
}  # fmt: skip
#: One word each: numbers as 3:30, 1,000 or 2.5, then letters and digits with hyphens, apostrophes, ampersands or dots inside, then
#: any other character by itself.
_WORD = re.compile(
    r"\d+(?:[.,:/]\d+)+|\b(?:etc|vs|mr|mrs|ms|dr)\.|n't|'(?:s|re|ve|ll|d|m)(?!\w)|(?:[a-z]\.){2,}|[^\W_]+(?:[-'&.](?=[^\W_])[^\W_]+)*|\S"
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_ALSO_LEFT_OUT = set('"“”‘’…–—_')


def tokenized(texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Each text's words, with blanks between them. Raises ValueError where ``ptb`` is asked for and Java fails."""
    lines = [" ".join(text.split()) for text in texts]
    return _by_java(lines) if tokenizer == "ptb" else [_plain(line) for line in lines]


def best_tokenizer() -> Tokenizer:
    """``ptb`` where there are Java and pycocoevalcap, else ``plain``."""
    return "ptb" if java() and find_spec("pycocoevalcap") else "plain"


@cache
def java() -> str | None:
    """The path of a Java that runs, or None."""
    path = shutil.which("java")
    if path is None:
        return None
    try:
        subprocess.run([path, "-version"], capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return path


def package_folder() -> Path:
    """Where pycocoevalcap is installed. Raises ValueError."""
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("captions cannot be scored: the package pycocoevalcap is missing; pip install pycocoevalcap")
    return Path(spec.submodule_search_locations[0])


def _by_java(lines: list[str]) -> list[str]:
    # Its own wrapper lets a line of text that holds another line break move all that follow to the wrong image, and writes into
    # the package's folder.
    command = [java() or "java", "-cp", str(package_folder() / "tokenizer" / _JAR)]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    try:
        done = subprocess.run(
            command,
            input="\n".join(lines) + "\n",
            capture_output=True,
            encoding="utf-8",
            timeout=_JAVA_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(
            f"the tokenizer cannot run: {error}; expected a Java of version 8 or newer, or score without"
        ) from error
    found = done.stdout.removesuffix("\n").split("\n") if lines else []
    if len(found) != len(lines):
        raise ValueError(f"the tokenizer made {len(found)} lines of {len(lines)}; expected one of each")
    return [" ".join(word for word in line.split() if word not in _LEFT_OUT) for line in found]


def _plain(line: str) -> str:
    text = line.lower().replace("’", "'").replace("`", "'")
    for one, two in _MERGED.items():
        text = re.sub(rf"\b{one}\b", two, text)
    words = _WORD.findall(_SHORTENED.sub(r" \1", text))
    return " ".join(_BRACKETS.get(word, word) for word in words if word not in _LEFT_OUT and word not in _ALSO_LEFT_OUT)
