"""Speaker: what an evaluation asks of a model. A method has one; how it searches and what it makes of a prompt is its own affair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Speaker(Protocol):
    """A model in eval. What it says of a photo does not depend on the others that it looks at beside it.

    ``photos``: rows of the batch that was looked at, any of them any number of times.
    """

    def look(self, batch: Any) -> Any:
        """The photos and labels of a batch, computed once, for all that is asked of them afterwards."""
        ...

    def caption(self, seen: Any, photos: Sequence[int]) -> list[str]:
        """A description of each photo, without a capital letter at the beginning and a full stop at the end."""
        ...

    def answer(self, seen: Any, photos: Sequence[int], questions: Sequence[str]) -> list[str]:
        """An answer to each question about its photo, in the model's own words."""
        ...

    def choose(self, seen: Any, photos: Sequence[int], questions: Sequence[str], answers: Sequence[str]) -> list[int]:
        """The place in ``answers`` of the likeliest answer to each question about its photo."""
        ...

    def classify(self, seen: Any, photos: Sequence[int], names: Sequence[str]) -> list[int]:
        """The place in ``names`` of what each photo most likely shows."""
        ...
