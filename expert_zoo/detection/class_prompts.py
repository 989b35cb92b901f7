"""A list of classes as prompts for a grounded detector, and which tokens of a prompt are which class.

    ["cat", "traffic light"]  ->  [CLS] cat . traffic light . [SEP]  with cat = tokens 1 to 2, traffic light = tokens 3 to 5

Every class is tokenised by itself and the prompt is put together from the tokens, so the spans are exact whatever a class is
called; the tokens are those of the whole text, because BERT's tokenizer splits at "." and at blanks anyway. A prompt ends where
the network's longest text ends; the classes that are left begin another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_CLASSES = 1000
#: Ids that Grounding DINO has in its code: text between two of them attends to nothing beyond them.
DELIMITERS = {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}


@dataclass(frozen=True, kw_only=True)
class ClassPrompt:
    """token_ids: [CLS], then each class and a ".", then [SEP]. spans: (class id, its first token, the one after its last)."""

    token_ids: tuple[int, ...]
    spans: tuple[tuple[int, int, int], ...]

    def shares_CT(self) -> NDArray[np.float32]:
        """classes of this prompt x its tokens: what each token counts for each class; every row sums to 1."""
        shares_CT = np.zeros((len(self.spans), len(self.token_ids)), np.float32)
        for row, (_, begin, end) in enumerate(self.spans):
            shares_CT[row, begin:end] = 1 / (end - begin)
        return shares_CT


def checked_classes(expert: str, classes: object) -> tuple[str, ...]:
    """The class names without blanks around them. Raises ValueError unless they are 1 to 1000 different texts."""
    if not isinstance(classes, list | tuple) or not 1 <= len(classes) <= MOST_CLASSES:
        count = f" of {len(classes)}" if isinstance(classes, list | tuple) else ""
        raise ValueError(
            f"{expert}: classes is a {type(classes).__name__}{count}; expected a list of 1 to {MOST_CLASSES} names"
        )
    names: dict[str, str] = {}
    for name in classes:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(
                f"{expert}: class {name!r} is no name; expected text (in YAML, put yes, no and 1 in quotes)"
            )
        text = prompt_text(name)
        if text in names:
            raise ValueError(f"{expert}: classes {names[text]!r} and {name!r} are one; expected different names")
        names[text] = name
    return tuple(name.strip() for name in names.values())


def prompt_text(name: str) -> str:
    """What stands in the prompt for the class ``name``: lower case, "." and "?" as blanks because they part the classes."""
    return " ".join(name.lower().replace(".", " ").replace("?", " ").split())


def class_prompts(expert: str, classes: Sequence[str], tokenizer: Tokenizer, *, longest: int) -> list[ClassPrompt]:
    """As few prompts of at most ``longest`` tokens as hold ``classes`` in their order.

    Raises ValueError: the tokenizer is another one, or a class has no tokens, unknown ones, too many, or those of another.
    """
    for token, place in DELIMITERS.items():
        if tokenizer.token_to_id(token) != place:
            raise ValueError(
                f"{expert}: the tokenizer has {token!r} as {tokenizer.token_to_id(token)}, expected {place}"
            )
    known: dict[tuple[int, ...], str] = {}
    prompts: list[ClassPrompt] = []
    ids: list[int] = [DELIMITERS["[CLS]"]]
    spans: list[tuple[int, int, int]] = []
    for class_id, name in enumerate(classes):
        tokens = _tokens(expert, name, tokenizer, longest)
        if tokens in known:
            raise ValueError(
                f"{expert}: the network reads classes {known[tokens]!r} and {name!r} as one; keep one of them"
            )
        known[tokens] = name
        if len(ids) + len(tokens) + 2 > longest:
            prompts.append(ClassPrompt(token_ids=(*ids, DELIMITERS["[SEP]"]), spans=tuple(spans)))
            ids, spans = [DELIMITERS["[CLS]"]], []
        spans.append((class_id, len(ids), len(ids) + len(tokens)))
        ids += [*tokens, DELIMITERS["."]]
    return [*prompts, ClassPrompt(token_ids=(*ids, DELIMITERS["[SEP]"]), spans=tuple(spans))]


def _tokens(expert: str, name: str, tokenizer: Tokenizer, longest: int) -> tuple[int, ...]:
    encoded = tokenizer.encode(prompt_text(name), add_special_tokens=False)
    if not encoded.ids or "[UNK]" in encoded.tokens:
        raise ValueError(f"{expert}: the network has no word for class {name!r}; expected English")
    if len(encoded.ids) + 3 > longest:
        raise ValueError(
            f"{expert}: class {name[:40]!r}... has {len(encoded.ids)} tokens; expected at most {longest - 3}"
        )
    return tuple(encoded.ids)
