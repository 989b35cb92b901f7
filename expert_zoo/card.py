"""ExpertCard: what an expert is. The hash of its identity is the expert's version, and so the name of its column."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from expert_zoo.spec import LabelSpec
from expert_zoo.weights.lock import SEEDED

#: Names become folder names in the store: nothing that could climb out of it.
NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,47}")
VERSION_DIGITS = 10


class Weights(BaseModel):
    """One file of frozen weights. ``where``: URL, Hub repository, package that carries it, or `lock.SEEDED`.

    ``sha256`` is "" where the file was never fetched and nobody publishes a digest: the card can be shown, but has no version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    where: str
    sha256: str
    bytes: int = 0


class ExpertCard(BaseModel):
    """What the expert is, and what its labels mean.

    name           as in a job file
    summary        one sentence for `expert-labels experts`
    network        architecture and size, exactly enough to rebuild it
    weights        every file of weights with its sha256; empty where nothing is learned
    preprocessing  rules from the upright RGB photo to the network's input, as key: value
    processing     rules from the network's output to the label, as key: value
    spec           the meaning of the label
    revision       raise it when the code changes what is labelled and no other field tells
    parameters     number of the network's parameters
    licence, commercial_use, paper   of the weights

    `version` hashes network, weights' digests, preprocessing, processing, spec and revision: what decides a label. Prose
    (summary, paper, licence, where the weights lie) may be corrected without relabelling anything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)  # JSON has none

    name: str
    summary: str
    network: str
    weights: tuple[Weights, ...] = ()
    preprocessing: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    processing: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    spec: LabelSpec
    revision: int = 1
    parameters: int = 0
    licence: str
    commercial_use: bool
    paper: str = ""
    #: Fields of the spec that a newer version of this package wrote: unknown here, yet part of what decides a label.
    _unknown: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def read(cls, text: bytes) -> ExpertCard:
        """The card in a store's JSON. Fields that it does not know are ignored, which the constructor never does.

        Raises pydantic's ValidationError.
        """
        card = cls.model_validate_json(text, extra="ignore")
        spec = json.loads(text)["spec"]
        card._unknown = {name: spec[name] for name in spec if name not in LabelSpec.model_fields}
        return card

    @field_validator("name")
    @classmethod
    def _is_path_safe(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(
                f"expert name {name!r}: expected lower case letters, digits and _, at most 48, a letter first"
            )
        return name

    @property
    def version(self) -> str:
        """The first ten hexadecimal digits of the SHA-256 of all that decides a label.

        Raises ValueError while the digest of a weight is unknown.
        """
        unknown = [weights.file for weights in self.weights if not weights.sha256]
        if unknown:
            raise ValueError(
                f"expert {self.name!r} has no version: the digest of {', '.join(unknown)} is unknown; expected weights at hand: "
                f"run `expert-labels weights fetch --experts {self.name}`, or name a folder that has them by `weights:` in the "
                "job file or EXPERT_LABELS_WEIGHTS"
            )
        identity = {
            "network": self.network,
            "weights": [weights.sha256 for weights in self.weights],
            "preprocessing": self.preprocessing,
            "processing": self.processing,
            "spec": self.spec.model_dump(mode="json") | self._unknown,
            "revision": self.revision,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:VERSION_DIGITS]

    @property
    def random_weights(self) -> bool:
        """Whether `expert-labels weights seed` wrote the weights: nobody trained them, and the labels are noise."""
        return any(weights.where == SEEDED for weights in self.weights)

    @property
    def column(self) -> str:
        """Name of the expert's column in a store: ``name@version``."""
        return f"{self.name}@{self.version}"
