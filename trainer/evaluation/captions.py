"""The captioning measures of COCO's server: CIDEr-D, BLEU, ROUGE-L, METEOR and SPICE, all by the package pycocoevalcap.

CIDEr-D   arXiv:1411.5726: agreement with the references in runs of 1 to 4 words, rare ones count more; rarity is told by the
          references themselves, so that a score depends on which images are scored together
METEOR    needs Java, and a minute for 5,000 images
SPICE     needs Java and Stanford's models, which the package downloads when it is told to and never by itself here

Scores are in percent, as in the papers.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from trainer.evaluation.words_of_text import Tokenizer, best_tokenizer, java, package_folder, tokenized

Measure = Literal["CIDEr", "BLEU", "ROUGE", "METEOR", "SPICE"]
#: What is quick and needs no Java.
QUICK: tuple[Measure, ...] = ("CIDEr", "BLEU", "ROUGE")
ALL: tuple[Measure, ...] = get_args(Measure)
_SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


@dataclass(frozen=True, kw_only=True)
class CaptionScores:
    """overall: percent by measure, BLEU as BLEU@1 to BLEU@4. per_image: likewise, by image id. tokenizer: what cut the captions
    into words. left_out: measures that were asked for and why there is no score; the others are not lessened by it."""

    images: int
    overall: dict[str, float]
    per_image: dict[str, dict[str, float]]
    tokenizer: Tokenizer
    left_out: dict[str, str]


def score_captions(
    said: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    measures: Sequence[Measure] = QUICK,
    tokenizer: Tokenizer | None = None,
) -> CaptionScores:
    """How near captions are to those that people wrote.

    said, references: by image id, for the same images; a caption may be empty. tokenizer: None is the best that there is.
    Raises ValueError: no images, an image without a caption or without references, or the package is missing.
    """
    images = sorted(said)
    _check(said, references)
    used = tokenizer or best_tokenizer()
    lines = [said[image] for image in images] + [text for image in images for text in references[image]]
    cut = iter(tokenized(lines, used))
    results = {image: [next(cut).replace("|||", "")] for image in images}
    truths = {image: [next(cut).replace("|||", "") for _ in references[image]] for image in images}
    overall: dict[str, float] = {}
    per_image: dict[str, dict[str, float]] = {image: {} for image in images}
    left_out: dict[str, str] = {}
    for measure in measures:
        try:
            found = _scores(measure, truths, results)
        except _LeftOut as error:
            left_out[measure] = str(error)
            continue
        for name, (total, each) in found.items():
            overall[name] = 100 * float(total)
            for image, score in zip(images, each, strict=True):
                per_image[image][name] = 100 * float(score)
    return CaptionScores(images=len(images), overall=overall, per_image=per_image, tokenizer=used, left_out=left_out)


class _LeftOut(Exception):
    """There can be no such score here."""


_Words = dict[str, list[str]]


def _scores(measure: Measure, truths: _Words, results: _Words) -> dict[str, tuple[float, Sequence[float]]]:
    """By name, the score of all images and that of each, in the order of ``results``; 0 to 1, CIDEr to 10."""
    package_folder()
    match measure:
        case "CIDEr":
            from pycocoevalcap.cider.cider import Cider

            return {"CIDEr": Cider().compute_score(truths, results)}
        case "BLEU":
            from pycocoevalcap.bleu.bleu import Bleu

            with contextlib.redirect_stdout(io.StringIO()):  # it prints its lengths
                totals, each = Bleu(4).compute_score(truths, results)
            return {f"BLEU@{n}": (totals[n - 1], each[n - 1]) for n in range(1, 5)}
        case "ROUGE":
            from pycocoevalcap.rouge.rouge import Rouge

            return {"ROUGE": Rouge().compute_score(truths, results)}
        case "METEOR":
            return {"METEOR": _meteor(truths, results)}
        case "SPICE":
            return {"SPICE": _spice(truths, results)}


def _meteor(truths: _Words, results: _Words) -> tuple[float, Sequence[float]]:
    """METEOR 1.5 in the package's own manner of speaking with it, but for its wrapper, which waits for ever when Java breaks off."""
    path = java()
    if path is None:
        raise _LeftOut("METEOR needs Java, and none runs here")
    command = [path, "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    try:
        with subprocess.Popen(
            command,
            cwd=package_folder() / "meteor",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        ) as meteor:
            try:
                scores = _spoken(meteor, truths, results)
            finally:
                meteor.kill()
    except (OSError, ValueError) as error:  # perhaps for want of its 2 GB
        raise _LeftOut(f"METEOR's Java program broke off ({error}); it needs 2 GB") from error
    return scores[-1], scores[:-1]


def _spoken(meteor: subprocess.Popen[str], truths: _Words, results: _Words) -> list[float]:
    """The score of each image, then that of all."""
    assert meteor.stdin is not None and meteor.stdout is not None

    def asked(*parts: str) -> str:
        assert meteor.stdin is not None and meteor.stdout is not None
        meteor.stdin.write(" ||| ".join(parts) + "\n")
        meteor.stdin.flush()
        return meteor.stdout.readline().strip()

    counts = [asked("SCORE", *truths[image], text) for image, (text,) in results.items()]
    first = asked("EVAL", *counts)
    return [float(line) for line in (first, *(meteor.stdout.readline() for _ in results))]


def _spice(truths: _Words, results: _Words) -> tuple[float, Sequence[float]]:
    if java() is None:
        raise _LeftOut("SPICE needs Java, and none runs here")
    missing = [name for name in _SPICE_MODELS if not (package_folder() / "spice/lib" / name).is_file()]
    if missing:
        raise _LeftOut(
            f"SPICE needs {' and '.join(missing)} in the package's folder spice/lib; `python -m "
            "pycocoevalcap.spice.get_stanford_models` downloads them"
        )
    from pycocoevalcap.spice.spice import Spice

    try:
        total, parts = Spice().compute_score(truths, results)
    except Exception as error:  # Java, its memory, its version, or a package folder that may not be written
        raise _LeftOut(f"SPICE's Java program broke off: {error}") from error
    # It gives its scores by sorted image id, which is the order of ``results``.
    return total, [_f_score(part) for part in parts]


def _f_score(part: Mapping[str, Any]) -> float:
    return float(np.nan_to_num(part["All"]["f"]))


def _check(said: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not said:
        raise ValueError("there is no caption to score; expected one for each image")
    without = [image for image in sorted(said) if not any(text.strip() for text in references.get(image, ()))]
    if without:
        raise ValueError(
            f"{len(without)} of {len(said)} images have no reference captions, the first is {without[0]}; expected one or more: score "
            "images whose records have captions"
        )
    silent = sorted(set(references) - set(said))
    if silent:
        raise ValueError(
            f"{len(silent)} of {len(references)} images have no caption to score, the first is {silent[0]}; expected one for each: "
            "a score of some is no score of all"
        )
